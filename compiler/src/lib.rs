//! ONNX in, rewritten ONNX out. Knows no device and no training loop.
//!
//! Data flows one way: [`onnx::load`] → [`graph`] → [`passes`] → [`emit`] → [`onnx::save`]. [`compile`] is that line.

pub mod graph;
pub mod onnx;
pub mod optimizers;
