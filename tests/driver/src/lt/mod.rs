//! cuBLASLt: what npc calls of it.
//!
//! Matrices are stored by columns: element (i, j) of a layout lies at `i + j·ld`, of batch b at `b·stride` behind. What is
//! computed is `D = epilogue(α·op(A)·op(B) + β·C)`, op(A) m×k, op(B) k×n, C and D m×n, as NVIDIA's documentation of
//! `cublasLtMatmul` and `cublasLtEpilogue_t` says. Factors are float32, bfloat16 or float16, a result the same or float32.

mod calls;
mod check;
mod description;
mod epilogue;
mod product;

pub use calls::*;
pub use description::{Description, Layout, Preference};
pub use product::{Product, rounded};

use crate::driver::Handle;
use crate::objects::left;
use std::collections::{BTreeMap, BTreeSet};

/// The library's objects.
#[derive(Default)]
pub struct Tables {
    pub handles: BTreeSet<Handle>,
    pub descriptions: BTreeMap<Handle, Description>,
    pub layouts: BTreeMap<Handle, Layout>,
    pub preferences: BTreeMap<Handle, Preference>,
}

impl Tables {
    /// What was not destroyed.
    pub fn leaks(&self) -> Vec<String> {
        left(&[
            ("cuBLASLt handles", self.handles.len()),
            ("matrix product descriptions", self.descriptions.len()),
            ("matrix layouts", self.layouts.len()),
            ("matrix product preferences", self.preferences.len()),
        ])
    }
}
