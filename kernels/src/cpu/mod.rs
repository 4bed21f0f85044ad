//! Operators that tract lacks or runs slowly, as plain functions from slices to slices.
//!
//! Everything here is float32 in ONNX's layout (batch, channel, then the spatial axes, row-major) and runs on the
//! current rayon pool. How work is cut depends on shapes only and every sum has one fixed order, so results are
//! bitwise the same for any number of threads.

pub mod batch_norm;
pub mod contraction;
pub mod conv;
pub mod dropout;
mod error;
mod geometry;
mod im2col;
pub mod layer_norm;
pub mod loss;
mod matmul;
pub mod pool;
pub mod scatter;
mod sum;
#[cfg(test)]
pub(crate) mod testing;

pub use error::KernelError;
pub(crate) use error::expect_len;
pub use geometry::{Geometry, output_size};
