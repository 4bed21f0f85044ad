//! Whether descriptors fit together.

use super::{Filter, Tensor, Window};
use crate::refusal::{Answer, misuse};
use cudarc::cudnn::sys::cudnnStatus_t as Status;

/// A convolution that can be computed.
#[derive(Clone, Debug)]
pub struct Shape {
    pub x: Tensor,
    pub w: Filter,
    pub y: Tensor,
    pub window: Window,
}

/// The extents of a convolution's result: `1 + (x + 2·pad − ((kernel − 1)·dilation + 1)) / stride` along each axis.
///
/// # Errors
/// `BAD_PARAM` where the descriptors contradict each other.
pub fn result(x: &Tensor, w: &Filter, window: &Window) -> Answer<Vec<usize>, Status> {
    let wrong = |why: String| misuse(Status::CUDNN_STATUS_BAD_PARAM, why);
    let axes = window.pads.len();
    if x.extents.len() != axes + 2 || w.extents.len() != axes + 2 {
        return wrong(format!("{axes} axes of a convolution of {:?} and {:?}", x.extents, w.extents));
    }
    let (channels, filters, groups) = (x.extents[1], w.extents[0], window.groups);
    if w.extents[1] * groups != channels || !filters.is_multiple_of(groups) {
        return wrong(format!("{channels} channels and filters {:?} in {groups} groups", w.extents));
    }
    let mut extents = vec![x.extents[0], filters];
    for axis in 0..axes {
        let reach = (w.extents[axis + 2] - 1) * window.dilations[axis] + 1;
        let whole = x.extents[axis + 2] + 2 * window.pads[axis];
        if reach > whole {
            return wrong(format!("a kernel that reaches over {reach} of {whole} elements"));
        }
        extents.push((whole - reach) / window.strides[axis] + 1);
    }
    Ok(extents)
}

impl Shape {
    /// # Errors
    /// `BAD_PARAM` where the descriptors contradict each other.
    pub fn new(x: Tensor, w: Filter, window: Window, y: Tensor) -> Answer<Self, Status> {
        let extents = result(&x, &w, &window)?;
        if extents != y.extents {
            let why = format!("the convolution's result is {extents:?}, y is described as {:?}", y.extents);
            return misuse(Status::CUDNN_STATUS_BAD_PARAM, why);
        }
        Ok(Shape { x, w, y, window })
    }

    pub fn taps(&self) -> usize {
        self.w.extents[2..].iter().product()
    }
}
