//! Device memory and pinned host memory.

use super::give;
use crate::driver::{Driver, Needs, Pinned, call};
use crate::refusal::{Answer, misuse, refuse};
use cudarc::driver::sys::{CUdeviceptr, CUresult};
use std::ffi::{c_uint, c_void};

impl Driver {
    fn free_bytes(&self) -> u64 {
        self.settings().memory - self.live.values().sum::<u64>()
    }

    /// Whether a range lies in one live allocation.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        let found = self.live.range(..=address).next_back();
        found.is_some_and(|(start, length)| address - start <= *length && bytes <= length - (address - start))
    }

    /// Refuses a range that does not lie in one live allocation.
    pub fn in_bounds(&self, address: u64, bytes: u64) -> Answer {
        if self.holds(address, bytes) {
            return Ok(());
        }
        let why = format!("{bytes} bytes at {address:#x} do not lie in one live allocation");
        misuse(CUresult::CUDA_ERROR_INVALID_VALUE, why)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut CUdeviceptr, bytes: usize) -> CUresult {
    call("cuMemAlloc_v2", Needs::Context, |driver| {
        driver.outside_captures("taking memory")?;
        if bytes == 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "0 bytes");
        }
        if bytes as u64 > driver.free_bytes() {
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, format!("{bytes} bytes"));
        }
        let at = driver.memory.alloc(bytes);
        driver.live.insert(at, bytes as u64);
        // SAFETY: the caller's.
        unsafe { give(pointer, at) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(pointer: CUdeviceptr) -> CUresult {
    call("cuMemFree_v2", Needs::Context, |driver| {
        driver.outside_captures("freeing memory")?;
        if pointer == 0 {
            return Ok(());
        }
        match driver.memory.free(pointer) {
            Ok(()) => {
                driver.live.remove(&pointer);
                Ok(())
            }
            Err(fault) => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, fault.to_string()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    call("cuMemGetInfo_v2", Needs::Context, |driver| {
        // SAFETY: the caller's.
        unsafe {
            give(free, driver.free_bytes() as usize)?;
            give(total, driver.settings().memory as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> CUresult {
    call("cuMemHostAlloc", Needs::Context, |driver| {
        driver.outside_captures("taking pinned memory")?;
        if bytes == 0 || flags != 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: {bytes} bytes, flags {flags:#x}"));
        }
        // Not zero, so that what was never written is seen.
        let mut data = vec![0xa5_u8; bytes].into_boxed_slice();
        let at = data.as_mut_ptr();
        let number = driver.handle();
        driver.pinned.insert(at as usize, Pinned { data, number });
        // SAFETY: the caller's.
        unsafe { give(pointer, at.cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CUresult {
    call("cuMemFreeHost", Needs::Context, |driver| {
        driver.outside_captures("freeing pinned memory")?;
        match driver.pinned.remove(&(pointer as usize)) {
            Some(_) => Ok(()),
            None => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("no pinned memory begins at {pointer:p}")),
        }
    })
}
