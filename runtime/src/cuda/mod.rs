//! NVIDIA GPUs through cudarc: what is there ([`probe`]), and a [`Device`](crate::plan::device::Device) that runs a planned
//! step as one CUDA graph.
//!
//! A machine needs the driver; matrix products need cuBLAS. Both are looked for at run time, cuBLAS also in the folders where
//! Python wheels put it.

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
