//! Events.

use super::give;
use crate::driver::{Needs, call};
use crate::refusal::{misuse, refuse};
use crate::stream::{Entry, Event};
use cudarc::driver::sys::{CUevent, CUresult, CUstream};
use std::ffi::c_uint;

/// `CU_EVENT_DISABLE_TIMING`: there is no time here.
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> CUresult {
    call("cuEventCreate", Needs::Context, |driver| {
        if flags != DISABLE_TIMING {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: flags {flags:#x}"));
        }
        let handle = driver.handle();
        driver.events.insert(handle, Event::default());
        // SAFETY: the caller's.
        unsafe { give(event, handle as CUevent) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    call("cuEventDestroy_v2", Needs::Context, |driver| {
        driver.event(event as u64)?;
        driver.events.remove(&(event as u64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    call("cuEventRecord", Needs::Context, |driver| {
        driver.event(event as u64)?;
        let ticket = driver.handle();
        driver.push_order(stream as u64, Entry::Record(ticket))?;
        driver.event(event as u64)?.recorded = Some(ticket);
        Ok(())
    })
}

/// Waits for the record that is the last one now; for none, where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> CUresult {
    call("cuStreamWaitEvent", Needs::Context, |driver| {
        if flags != 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: flags {flags:#x}"));
        }
        let recorded = driver.event(event as u64)?.recorded;
        driver.stream(stream as u64)?;
        recorded.map_or(Ok(()), |ticket| driver.push_order(stream as u64, Entry::Wait(ticket)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    call("cuEventSynchronize", Needs::Context, |driver| {
        let recorded = driver.event(event as u64)?.recorded;
        let pending = recorded.and_then(|ticket| driver.pending.get(&ticket).map(|stream| (*stream, ticket)));
        if let Some((stream, ticket)) = pending {
            driver.drain(stream, Some(ticket), usize::MAX);
        }
        driver.works()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    call("cuEventQuery", Needs::Context, |driver| {
        let recorded = driver.event(event as u64)?.recorded;
        match recorded.is_some_and(|ticket| driver.pending.contains_key(&ticket)) {
            true => refuse(CUresult::CUDA_ERROR_NOT_READY, "the device is not there yet"),
            false => Ok(()),
        }
    })
}
