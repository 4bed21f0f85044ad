//! Runs compiled training steps: tract on the CPU, data, the training loop.

pub mod cpu;
mod error;
mod tensor;

pub use error::RuntimeError;
pub use tensor::HostTensor;
