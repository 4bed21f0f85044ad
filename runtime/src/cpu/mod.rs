//! The CPU engine: tract, with operators of our own where tract lacks one or is slow.

mod bfloat16;
mod neuroplastic;
mod prepare;
mod ops;
mod program;

pub use program::{Program, ProgramOptions};
