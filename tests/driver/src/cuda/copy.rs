//! Copies on a stream.

use crate::driver::{Driver, Needs, call};
use crate::refusal::{Answer, misuse};
use crate::work::Work;
use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};
use std::ffi::{c_uchar, c_void};
use std::sync::Arc;

impl Driver {
    /// The number of the block of pinned memory that a host address lies in, if it does.
    fn pinned_at(&self, address: usize, bytes: usize) -> Answer<Option<u64>> {
        let found = self.pinned.range(..=address).next_back();
        let Some((start, pinned)) = found.filter(|(start, p)| address - **start < p.data.len()) else {
            return Ok(None);
        };
        if bytes > pinned.data.len() - (address - start) {
            let why = format!("{bytes} bytes at {address:#x} are more than the rest of their pinned memory");
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        Ok(Some(pinned.number))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyHtoDAsync_v2", Needs::Context, |driver| {
        driver.in_bounds(to, bytes as u64)?;
        let work = match driver.pinned_at(from as usize, bytes)? {
            Some(block) => Work::FromPinned { to, from: from as usize, bytes, block },
            None => {
                // SAFETY: the caller's memory has so many bytes.
                let staged = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
                Work::FromStaged { to, bytes: Arc::new(staged) }
            }
        };
        driver.push(stream as u64, work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(at: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream) -> CUresult {
    call("cuMemsetD8Async", Needs::Context, |driver| {
        driver.in_bounds(at, bytes as u64)?;
        driver.push(stream as u64, Work::FromStaged { to: at, bytes: Arc::new(vec![value; bytes]) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoHAsync_v2", Needs::Context, |driver| {
        driver.in_bounds(from, bytes as u64)?;
        if let Some(block) = driver.pinned_at(to as usize, bytes)? {
            return driver.push(stream as u64, Work::ToPinned { to: to as usize, from, bytes, block });
        }
        // To memory that is not pinned the copy is over when the call returns.
        driver.not_captured(stream as u64)?;
        driver.drain(stream as u64, None, usize::MAX);
        driver.works()?;
        driver.report.copies += 1;
        match driver.read_bytes(from, bytes) {
            Ok(data) => {
                // SAFETY: the caller's memory has so many bytes.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.cast(), bytes) };
                Ok(())
            }
            Err((code, what)) => {
                driver.failed = Some(code);
                driver.report.line(format!("fault: {what}"));
                driver.works()
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoDAsync_v2", Needs::Context, |driver| {
        driver.in_bounds(to, bytes as u64)?;
        driver.in_bounds(from, bytes as u64)?;
        if bytes > 0 && to < from + bytes as u64 && from < to + bytes as u64 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{from:#x} and {to:#x} overlap"));
        }
        driver.push(stream as u64, Work::Within { to, from, bytes })
    })
}
