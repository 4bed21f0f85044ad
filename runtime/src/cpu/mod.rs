//! The CPU engine: tract, with operators of our own where tract lacks one or is slow.

mod bfloat16;
mod crop;
pub(crate) mod neuroplastic;
pub(crate) mod ops;
mod prepare;
mod program;

pub use program::{DeviceGraph, Program, ProgramOptions};
