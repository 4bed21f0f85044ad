//! Runs compiled training steps: tract on the CPU, data, the training loop.

pub mod cpu;
pub mod cuda;
pub mod data;
mod error;
pub mod plan;
mod tensor;
#[cfg(test)]
mod testing;
pub mod train;
pub mod verify;

pub use error::RuntimeError;
pub use tensor::HostTensor;
