//! The hot loops of npc: plain functions over slices, parallel on the current rayon pool, and kernels for GPUs.

pub mod cpu;
pub mod cuda;
pub mod elementwise;
pub mod neuroplastic;
