//! The algorithms that are offered, and the functions that list them.
//!
//! # Safety
//! As the real ones: pointers that are read or written are valid. Everything else is checked.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

use super::objects::{call, held};
use super::shape::Shape;
use crate::driver::{Driver, Handle};
use crate::refusal::{Answer, misuse, refuse};
use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t as DataAlgorithm, cudnnConvolutionBwdDataAlgoPerf_t,
    cudnnConvolutionBwdFilterAlgo_t as FilterAlgorithm, cudnnConvolutionBwdFilterAlgoPerf_t,
    cudnnConvolutionDescriptor_t, cudnnConvolutionFwdAlgo_t as ForwardAlgorithm, cudnnConvolutionFwdAlgoPerf_t,
    cudnnDeterminism_t as Determinism, cudnnFilterDescriptor_t, cudnnHandle_t, cudnnMathType_t as Math,
    cudnnStatus_t as Status, cudnnTensorDescriptor_t,
};
use std::ffi::c_int;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Data,
    Filter,
}

/// One algorithm as it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The number of the pass's algorithm.
    pub algorithm: u32,
    pub math: Math,
    pub is_repeatable: bool,
    /// Whether it computes this convolution at all.
    pub works: bool,
    /// Bytes that it works in.
    pub memory: usize,
}

/// More than any device has.
const TOO_MUCH: usize = 1 << 40;

/// The fastest first, as a heuristic of the library may have it. What works is nowhere in particular.
pub fn offers(pass: Pass, shape: &Shape) -> Vec<Offer> {
    use DataAlgorithm as D;
    use FilterAlgorithm as W;
    use ForwardAlgorithm as F;
    let [broken, half, unordered, large, good] = match pass {
        Pass::Forward => [
            F::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
            F::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
            F::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
            F::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
            F::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        ]
        .map(|algorithm| algorithm as u32),
        Pass::Data => [
            D::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
            D::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
            D::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
            D::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
            D::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        ]
        .map(|algorithm| algorithm as u32),
        Pass::Filter => [
            W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
            W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
            W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
            W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
            W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        ]
        .map(|algorithm| algorithm as u32),
    };
    // What columns of one sample take; kernels of one element need none.
    let elements = shape.taps() * shape.x.extents[1..].iter().product::<usize>();
    let columns = if shape.taps() == 1 { 0 } else { (4 * elements).next_multiple_of(256) };
    let offer =
        |algorithm: u32, math: Math, memory: usize| Offer { algorithm, math, is_repeatable: true, works: true, memory };
    let (exact, tf32, f16) =
        (Math::CUDNN_FMA_MATH, Math::CUDNN_DEFAULT_MATH, Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION);
    vec![
        Offer { works: false, ..offer(broken, exact, 0) },
        offer(half, f16, columns / 2),
        Offer { is_repeatable: false, ..offer(unordered, exact, 0) },
        Offer { is_repeatable: false, ..offer(unordered, tf32, 0) },
        offer(large, exact, TOO_MUCH),
        offer(large, tf32, TOO_MUCH),
        // The same algorithm needs more to work in where it converts what it reads.
        offer(good, tf32, 2 * columns + 256),
        offer(good, exact, columns),
    ]
}

impl Driver {
    /// What the descriptors say.
    pub fn convolution_described(
        &self,
        x: cudnnTensorDescriptor_t,
        w: cudnnFilterDescriptor_t,
        window: cudnnConvolutionDescriptor_t,
        y: cudnnTensorDescriptor_t,
    ) -> Answer<Shape, Status> {
        let x = held(&self.dnn.tensors, x as Handle, "tensor descriptor")?;
        let w = held(&self.dnn.filters, w as Handle, "filter descriptor")?;
        let window = held(&self.dnn.windows, window as Handle, "convolution descriptor")?;
        Shape::new(x, w, window, held(&self.dnn.tensors, y as Handle, "tensor descriptor")?)
    }
}

/// Lists the algorithms of a pass, as many as are asked for.
macro_rules! list {
    ($name:expr, $pass:expr, $handle:expr, [$x:expr, $w:expr, $window:expr, $y:expr], $most:expr, $count:expr, $results:expr) => {
        call($name, |driver| {
            driver.dnn_stream($handle)?;
            let shape = driver.convolution_described($x, $w, $window, $y)?;
            if $most < 1 || $count.is_null() || $results.is_null() {
                return misuse(Status::CUDNN_STATUS_BAD_PARAM, "no results are wanted");
            }
            if driver.settings().refuses("cudnn") {
                return refuse(Status::CUDNN_STATUS_NOT_SUPPORTED, "as was asked for");
            }
            let offers = offers($pass, &shape);
            // SAFETY: the caller has room for `most` results; each is written whole, its number one of the enumeration's.
            unsafe {
                for (i, offer) in offers.iter().take($most as usize).enumerate() {
                    let place = &mut *$results.add(i);
                    (&raw mut place.algo).cast::<u32>().write(offer.algorithm);
                    place.status = match offer.works {
                        true => Status::CUDNN_STATUS_SUCCESS,
                        false => Status::CUDNN_STATUS_NOT_SUPPORTED,
                    };
                    place.time = -1.0;
                    place.memory = offer.memory;
                    place.determinism = match offer.is_repeatable {
                        true => Determinism::CUDNN_DETERMINISTIC,
                        false => Determinism::CUDNN_NON_DETERMINISTIC,
                    };
                    place.mathType = offer.math;
                    place.reserved = [0; 3];
                }
                $count.write(offers.len().min($most as usize) as c_int);
            }
            Ok(())
        })
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetConvolutionForwardAlgorithm_v7(
    handle: cudnnHandle_t,
    x: cudnnTensorDescriptor_t,
    w: cudnnFilterDescriptor_t,
    window: cudnnConvolutionDescriptor_t,
    y: cudnnTensorDescriptor_t,
    most: c_int,
    count: *mut c_int,
    results: *mut cudnnConvolutionFwdAlgoPerf_t,
) -> Status {
    let name = "cudnnGetConvolutionForwardAlgorithm_v7";
    list!(name, Pass::Forward, handle, [x, w, window, y], most, count, results)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetConvolutionBackwardDataAlgorithm_v7(
    handle: cudnnHandle_t,
    w: cudnnFilterDescriptor_t,
    dy: cudnnTensorDescriptor_t,
    window: cudnnConvolutionDescriptor_t,
    dx: cudnnTensorDescriptor_t,
    most: c_int,
    count: *mut c_int,
    results: *mut cudnnConvolutionBwdDataAlgoPerf_t,
) -> Status {
    let name = "cudnnGetConvolutionBackwardDataAlgorithm_v7";
    list!(name, Pass::Data, handle, [dx, w, window, dy], most, count, results)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    handle: cudnnHandle_t,
    x: cudnnTensorDescriptor_t,
    dy: cudnnTensorDescriptor_t,
    window: cudnnConvolutionDescriptor_t,
    dw: cudnnFilterDescriptor_t,
    most: c_int,
    count: *mut c_int,
    results: *mut cudnnConvolutionBwdFilterAlgoPerf_t,
) -> Status {
    let name = "cudnnGetConvolutionBackwardFilterAlgorithm_v7";
    list!(name, Pass::Filter, handle, [x, dw, window, dy], most, count, results)
}
