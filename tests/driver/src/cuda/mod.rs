//! The driver's C functions, under the names of NVIDIA's headers.
//!
//! # Safety
//! As the real ones: pointers that are read or written are valid. Everything else is checked.

#![allow(non_snake_case, clippy::missing_safety_doc)]

mod copy;
mod device;
mod error;
mod event;
mod launch;
mod memory;
mod stream;

pub use copy::*;
pub use device::*;
pub use error::*;
pub use event::*;
pub use launch::*;
pub use memory::*;
pub use stream::*;

/// Multiprocessors of the device.
pub const MULTIPROCESSORS: i32 = 4;

use crate::refusal::{Answer, misuse};
use cudarc::driver::sys::CUresult;

/// Writes a result where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "there is no room for the result");
    }
    // SAFETY: the caller's, and not null.
    unsafe { to.write(value) };
    Ok(())
}
