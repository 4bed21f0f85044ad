//! The hot loops of npc: plain functions over slices, parallel on the current rayon pool.

pub mod cpu;
pub mod elementwise;
pub mod neuroplastic;
