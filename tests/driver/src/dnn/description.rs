//! What descriptors hold.

use crate::refusal::{Answer, misuse, refuse};
use cudarc::cudnn::sys::cudnnStatus_t as Status;

/// A tensor `[samples, channels, axes…]` in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub extents: Vec<usize>,
    /// Elements between neighbours along each axis.
    pub strides: Vec<usize>,
}

/// A dense filter `[filters, channels of a group, kernel…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub extents: Vec<usize>,
}

/// How a kernel slides, along each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub pads: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub groups: usize,
    /// `cudnnMathType_t`.
    pub math: u32,
}

/// Elements that a tensor may span, gaps included.
const LARGEST: usize = (1 << 31) - 1;

/// Numbers that are not less than `least`.
pub fn numbers(what: &str, values: &[i32], least: i32) -> Answer<Vec<usize>, Status> {
    if values.iter().any(|x| *x < least) {
        return misuse(Status::CUDNN_STATUS_BAD_PARAM, format!("{what} {values:?}"));
    }
    Ok(values.iter().map(|x| *x as usize).collect())
}

impl Tensor {
    /// # Errors
    /// Elements share memory, or there are more than the library takes.
    pub fn new(extents: &[i32], strides: &[i32]) -> Answer<Self, Status> {
        let tensor =
            Tensor { extents: numbers("extents", extents, 1)?, strides: numbers("distances of elements", strides, 1)? };
        let mut axes: Vec<(usize, usize)> =
            tensor.strides.iter().copied().zip(tensor.extents.iter().copied()).collect();
        axes.retain(|(_, extent)| *extent > 1);
        axes.sort_unstable();
        let mut span = 1;
        for (stride, extent) in axes {
            if stride < span {
                return misuse(Status::CUDNN_STATUS_BAD_PARAM, format!("npc: elements of {tensor:?} share memory"));
            }
            span += (extent - 1) * stride;
        }
        if span > LARGEST {
            return refuse(Status::CUDNN_STATUS_NOT_SUPPORTED, format!("{span} elements"));
        }
        Ok(tensor)
    }

    /// Elements from the first to the last.
    pub fn span(&self) -> usize {
        1 + self.extents.iter().zip(&self.strides).map(|(extent, stride)| (extent - 1) * stride).sum::<usize>()
    }
}

impl Filter {
    pub fn new(extents: &[i32]) -> Answer<Self, Status> {
        let filter = Filter { extents: numbers("extents", extents, 1)? };
        match filter.extents.iter().product::<usize>() {
            0..=LARGEST => Ok(filter),
            elements => refuse(Status::CUDNN_STATUS_NOT_SUPPORTED, format!("{elements} elements")),
        }
    }
}
