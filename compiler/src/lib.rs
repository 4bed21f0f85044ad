//! ONNX in, rewritten ONNX out. Knows no device and no training loop.
//!
//! Data flows one way: [`onnx::load`] → [`graph`] → [`passes`] → [`emit`] → [`onnx::save`]. [`compile`] is that line.

pub mod analysis;
pub mod bindings;
mod compile;
pub mod emit;
pub mod files;
pub mod graph;
pub mod neuroplastic;
pub mod onnx;
pub mod optimizers;
pub mod passes;
pub mod report;

pub use compile::{Base, CompileError, CompileOptions, Compiled, Emit, Optimizer, Preset, compile};
