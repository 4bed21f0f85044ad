//! The three convolutions: the library's C functions, under the names of NVIDIA's headers.
//!
//! # Safety
//! As the real ones: pointers that are read or written are valid. Everything else is checked.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

use super::objects::call;
use super::shape::Shape;
use super::{Convolution, Pass, offers};
use crate::driver::Driver;
use crate::ranges::overlap;
use crate::refusal::{Answer, misuse};
use crate::work::Work;
use cudarc::cudnn::sys::{
    cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, cudnnHandle_t, cudnnStatus_t as Status,
    cudnnTensorDescriptor_t,
};
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// What a convolution is called with.
struct Asked {
    pass: Pass,
    /// α and β.
    factors: [*const c_void; 2],
    /// x, w, y.
    addresses: [u64; 3],
    algorithm: u32,
    workspace: (u64, usize),
}

impl Driver {
    /// Puts a convolution on the handle's stream.
    fn start(&mut self, handle: cudnnHandle_t, shape: Shape, asked: &Asked) -> Answer<(), Status> {
        let wrong = |why: String| misuse(Status::CUDNN_STATUS_BAD_PARAM, why);
        let (math, pass, algorithm) = (shape.window.math, asked.pass, asked.algorithm);
        let offers = offers(pass, &shape);
        let offer = match offers.iter().find(|offer| offer.algorithm == algorithm && offer.math as u32 == math) {
            Some(offer) if offer.works => *offer,
            _ => return wrong(format!("algorithm {algorithm} with math type {math} does not work for this {pass:?}")),
        };
        if !offer.is_repeatable {
            return wrong(format!("npc: the results of algorithm {algorithm} are not the same every time"));
        }
        if asked.factors.iter().any(|factor| factor.is_null()) {
            return wrong("alpha or beta is null".into());
        }
        // SAFETY: not null; factors of a float convolution are floats on the host.
        let [alpha, beta] = asked.factors.map(|factor| unsafe { *factor.cast::<f32>() });
        let (workspace, bytes) = asked.workspace;
        if bytes < offer.memory {
            return wrong(format!("the algorithm needs {} bytes to work in, not {bytes}", offer.memory));
        }
        let is_there = workspace.is_multiple_of(256) && self.holds(workspace, bytes as u64);
        if bytes > 0 && !is_there {
            return wrong(format!("the workspace at {workspace:#x} is not there, or no multiple of 256"));
        }
        let elements = [shape.x.span(), shape.w.extents.iter().product(), shape.y.span()];
        let ranges = [0, 1, 2].map(|i| (asked.addresses[i], 4 * elements[i] as u64));
        for (name, (at, bytes)) in ["x", "w", "y"].iter().zip(ranges) {
            if !at.is_multiple_of(4) || !self.holds(at, bytes) {
                return wrong(format!("{name}, {bytes} bytes at {at:#x}, does not lie in one live allocation"));
            }
        }
        let result = pass.result();
        let read = (0..3).filter(|i| *i != result).map(|i| ranges[i]).collect();
        if let Some(at) = overlap(vec![ranges[result], (workspace, bytes as u64)], read) {
            return wrong(format!("the {pass:?} convolution writes at {at:#x} what it also reads, or writes twice"));
        }
        let stream = self.dnn_stream(handle)?;
        let (addresses, workspace) = (asked.addresses, (workspace, offer.memory));
        let convolution = Convolution { pass, shape, math: offer.math, addresses, workspace, alpha, beta };
        let pushed = self.push(stream, Work::Convolution(Arc::new(convolution)));
        pushed.map_err(|r| r.with(Status::CUDNN_STATUS_EXECUTION_FAILED))
    }

    fn may_start(&self, handle: cudnnHandle_t) -> Answer<(), Status> {
        self.has_context().map_err(|r| r.with(Status::CUDNN_STATUS_EXECUTION_FAILED))?;
        self.dnn_stream(handle).map(|_| ())
    }
}

impl Pass {
    /// Which of x, w and y it computes.
    pub fn result(self) -> usize {
        match self {
            Pass::Forward => 2,
            Pass::Data => 0,
            Pass::Filter => 1,
        }
    }
}

/// Starts a convolution of these tensors: x, w, the window and y, whichever of them is the result.
fn convolve(
    name: &str,
    handle: cudnnHandle_t,
    (x, w, window, y): (
        cudnnTensorDescriptor_t,
        cudnnFilterDescriptor_t,
        cudnnConvolutionDescriptor_t,
        cudnnTensorDescriptor_t,
    ),
    asked: &Asked,
) -> Status {
    call(name, |driver| {
        driver.may_start(handle)?;
        let shape = driver.convolution_described(x, w, window, y)?;
        driver.start(handle, shape, asked)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnConvolutionForward(
    handle: cudnnHandle_t,
    alpha: *const c_void,
    x_description: cudnnTensorDescriptor_t,
    x: *const c_void,
    w_description: cudnnFilterDescriptor_t,
    w: *const c_void,
    window: cudnnConvolutionDescriptor_t,
    algorithm: c_uint,
    workspace: *mut c_void,
    bytes: usize,
    beta: *const c_void,
    y_description: cudnnTensorDescriptor_t,
    y: *mut c_void,
) -> Status {
    let (addresses, workspace) = ([x as u64, w as u64, y as u64], (workspace as u64, bytes));
    let asked = Asked { pass: Pass::Forward, factors: [alpha, beta], addresses, algorithm, workspace };
    convolve("cudnnConvolutionForward", handle, (x_description, w_description, window, y_description), &asked)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnConvolutionBackwardData(
    handle: cudnnHandle_t,
    alpha: *const c_void,
    w_description: cudnnFilterDescriptor_t,
    w: *const c_void,
    dy_description: cudnnTensorDescriptor_t,
    dy: *const c_void,
    window: cudnnConvolutionDescriptor_t,
    algorithm: c_uint,
    workspace: *mut c_void,
    bytes: usize,
    beta: *const c_void,
    dx_description: cudnnTensorDescriptor_t,
    dx: *mut c_void,
) -> Status {
    let (addresses, workspace) = ([dx as u64, w as u64, dy as u64], (workspace as u64, bytes));
    let asked = Asked { pass: Pass::Data, factors: [alpha, beta], addresses, algorithm, workspace };
    convolve("cudnnConvolutionBackwardData", handle, (dx_description, w_description, window, dy_description), &asked)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnConvolutionBackwardFilter(
    handle: cudnnHandle_t,
    alpha: *const c_void,
    x_description: cudnnTensorDescriptor_t,
    x: *const c_void,
    dy_description: cudnnTensorDescriptor_t,
    dy: *const c_void,
    window: cudnnConvolutionDescriptor_t,
    algorithm: c_uint,
    workspace: *mut c_void,
    bytes: usize,
    beta: *const c_void,
    dw_description: cudnnFilterDescriptor_t,
    dw: *mut c_void,
) -> Status {
    let (addresses, workspace) = ([x as u64, dw as u64, dy as u64], (workspace as u64, bytes));
    let asked = Asked { pass: Pass::Filter, factors: [alpha, beta], addresses, algorithm, workspace };
    convolve("cudnnConvolutionBackwardFilter", handle, (x_description, dw_description, window, dy_description), &asked)
}
