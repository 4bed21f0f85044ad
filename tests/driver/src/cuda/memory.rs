//! Device memory and pinned host memory.

use super::give;
use crate::driver::{Driver, Needs, Pinned, call};
use crate::refusal::{Answer, misuse, refuse};
use crate::work::Work;
use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};
use std::ffi::{c_uint, c_void};

impl Driver {
    fn free_bytes(&self) -> u64 {
        self.settings().memory - self.live.values().chain(self.dying.values()).sum::<u64>()
    }

    /// Takes memory.
    fn take(&mut self, bytes: usize) -> Answer<u64> {
        if bytes == 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "0 bytes");
        }
        if bytes as u64 > self.free_bytes() {
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, format!("{bytes} bytes"));
        }
        let at = self.memory.alloc(bytes);
        self.live.insert(at, bytes as u64);
        Ok(at)
    }

    /// Whether the stream that a range was taken on has come to it.
    pub fn is_taken(&self, address: u64) -> bool {
        let found = self.live.range(..=address).next_back();
        found.is_none_or(|(start, _)| !self.unborn.contains(start))
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
        let at = driver.take(bytes)?;
        // SAFETY: the caller's.
        unsafe { give(pointer, at) }
    })
}

/// From the device's pool, in order with a stream's work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(pointer: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    call("cuMemAllocAsync", Needs::Context, |driver| {
        driver.outside_captures("taking memory")?;
        driver.stream(stream as u64)?;
        let at = driver.take(bytes)?;
        driver.pooled.insert(at);
        driver.unborn.insert(at);
        driver.push(stream as u64, Work::Take(at))?;
        // SAFETY: the caller's.
        unsafe { give(pointer, at) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(pointer: CUdeviceptr, stream: CUstream) -> CUresult {
    call("cuMemFreeAsync", Needs::Context, |driver| {
        driver.outside_captures("freeing memory")?;
        driver.stream(stream as u64)?;
        if !driver.pooled.remove(&pointer) {
            let why = format!("no memory of the pool begins at {pointer:#x}");
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        if let Some(bytes) = driver.live.remove(&pointer) {
            driver.dying.insert(pointer, bytes);
        }
        driver.push(stream as u64, Work::Free(pointer))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(pointer: CUdeviceptr) -> CUresult {
    call("cuMemFree_v2", Needs::Context, |driver| {
        driver.outside_captures("freeing memory")?;
        if pointer == 0 {
            return Ok(());
        }
        if driver.pooled.contains(&pointer) {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "not built: memory of the pool");
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
