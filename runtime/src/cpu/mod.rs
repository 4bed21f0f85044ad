//! The CPU engine: tract, with operators of our own where tract lacks one or is slow.

mod bfloat16;
pub(crate) mod neuroplastic;
mod prepare;
pub(crate) mod ops;
mod program;

pub use program::{DeviceGraph, Program, ProgramOptions};
