//! cuDNN 9: what npc calls of it.
//!
//! Convolutions as NVIDIA's documentation of the legacy interface (`cudnnConvolutionForward` and its neighbours) describes
//! them: of float32 tensors whose elements lie anywhere apart, a dense filter `[filters, channels / groups, kernel]`, two or
//! three axes, cross-correlation. Each is offered by several algorithms, of which some do not give the same bits every time,
//! need more memory than anyone has, round factors further than was asked, or do not work; npc has to choose.

mod algorithms;
mod calls;
mod convolution;
mod description;
mod objects;
mod shape;

pub use algorithms::*;
pub use calls::*;
pub use convolution::Convolution;
pub use description::{Filter, Tensor, Window};
pub use objects::*;

use crate::driver::Handle;
use crate::objects::left;
use std::collections::BTreeMap;

/// The library's objects. A descriptor holds nothing before it is set.
#[derive(Default)]
pub struct Tables {
    /// The library's handles, with their streams.
    pub handles: BTreeMap<Handle, Handle>,
    pub tensors: BTreeMap<Handle, Option<Tensor>>,
    pub filters: BTreeMap<Handle, Option<Filter>>,
    pub windows: BTreeMap<Handle, Option<Window>>,
}

impl Tables {
    /// What was not destroyed.
    pub fn leaks(&self) -> Vec<String> {
        left(&[
            ("cuDNN handles", self.handles.len()),
            ("tensor descriptors", self.tensors.len()),
            ("filter descriptors", self.filters.len()),
            ("convolution descriptors", self.windows.len()),
        ])
    }
}
