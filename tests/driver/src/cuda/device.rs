//! The device and its context.

use super::{MULTIPROCESSORS, give};
use crate::driver::{CONTEXT, Driver, Needs, call, current, make_current};
use crate::refusal::{Answer, misuse};
use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult};
use std::ffi::{c_char, c_int, c_uint};

const NAME: &[u8] = b"npc test driver\0";

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> CUresult {
    call("cuInit", Needs::Nothing, |driver| {
        if flags != 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "flags have to be 0");
        }
        driver.is_initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    call("cuDriverGetVersion", Needs::Nothing, |_| unsafe { give(version, 12080) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    call("cuDeviceGetCount", Needs::Init, |_| unsafe { give(count, 1) })
}

fn is_there(device: CUdevice) -> Answer {
    match device {
        0 => Ok(()),
        other => misuse(CUresult::CUDA_ERROR_INVALID_DEVICE, format!("there is no device {other}")),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    call("cuDeviceGet", Needs::Init, |_| {
        is_there(ordinal)?;
        // SAFETY: the caller's.
        unsafe { give(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    call("cuDeviceGetName", Needs::Init, |_| {
        is_there(device)?;
        if name.is_null() || length < NAME.len() as c_int {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "there is no room for the name");
        }
        // SAFETY: the caller's memory has `length` bytes.
        unsafe { std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, NAME.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    call("cuDeviceTotalMem_v2", Needs::Init, |driver| {
        is_there(device)?;
        // SAFETY: the caller's.
        unsafe { give(bytes, driver.settings().memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice) -> CUresult {
    call("cuDeviceGetAttribute", Needs::Init, |driver| {
        is_there(device)?;
        let has_pools = !driver.settings().refuses("pools");
        let known = [
            (Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, MULTIPROCESSORS),
            (Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 2 << 20),
            (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 8),
            (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0),
            (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, i32::from(has_pools)),
        ];
        match known.into_iter().find(|(which, _)| *which as c_uint == attribute) {
            // SAFETY: the caller's.
            Some((_, found)) => unsafe { give(value, found) },
            None => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: attribute {attribute}")),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxRetain", Needs::Init, |driver| {
        is_there(device)?;
        driver.works()?;
        driver.retained += 1;
        // SAFETY: the caller's.
        unsafe { give(context, CONTEXT as CUcontext) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxRelease_v2", Needs::Init, |driver| {
        is_there(device)?;
        if driver.retained == 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, "the context was released more often than retained");
        }
        driver.retained -= 1;
        if driver.retained == 0 {
            driver.end_context();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    call("cuCtxSetCurrent", Needs::Init, |driver| {
        let context = context as u64;
        if context != 0 && (context != CONTEXT || driver.retained == 0) {
            return misuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, format!("there is no context {context:#x}"));
        }
        make_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut CUcontext) -> CUresult {
    // SAFETY: the caller's.
    call("cuCtxGetCurrent", Needs::Init, |_| unsafe { give(context, current() as CUcontext) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CUresult {
    call("cuCtxSynchronize", Needs::Context, |driver| {
        driver.outside_captures("waiting for the context")?;
        driver.finish()
    })
}

impl Driver {
    /// Carries out everything.
    pub fn finish(&mut self) -> Answer {
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        streams.into_iter().for_each(|handle| self.drain(handle, None, usize::MAX));
        self.works()
    }
}
