//! NVIDIA GPUs through cudarc: what is there ([`probe`]), and a [`Device`](crate::plan::device::Device) that runs a planned
//! step as one CUDA graph.
//!
//! A machine needs the driver; matrix products need cuBLASLt, and convolutions take cuDNN where it is installed. All are looked
//! for at run time, the libraries also in the folders where Python wheels put them.

mod blas;
mod device;
mod dnn;
#[cfg(test)]
mod driver_tests;
mod libraries;
mod lt;
mod probe;
mod staging;

pub use device::Gpu;
pub use probe::{Found, GpuInfo, Library, probe};
