//! Streams, their capture, and graphs.

use super::give;
use crate::driver::{Needs, call};
use crate::graph::{Capture, Graph};
use crate::refusal::misuse;
use crate::stream::Stream;
use crate::work::Work;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode as Mode};
use std::ffi::{c_int, c_uint, c_ulonglong};
use std::sync::Arc;

/// `CU_STREAM_NON_BLOCKING`: without it a stream waits for the default stream, which is not built.
const NON_BLOCKING: c_uint = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) -> CUresult {
    call("cuStreamCreate", Needs::Context, |driver| {
        if flags != NON_BLOCKING {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: flags {flags:#x}"));
        }
        let handle = driver.handle();
        driver.streams.insert(handle, Stream::default());
        // SAFETY: the caller's.
        unsafe { give(stream, handle as CUstream) }
    })
}

/// What is queued is carried out all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    call("cuStreamDestroy_v2", Needs::Context, |driver| {
        driver.not_captured(stream as u64)?;
        driver.drain(stream as u64, None, usize::MAX);
        driver.streams.remove(&(stream as u64));
        driver.works()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    call("cuStreamSynchronize", Needs::Context, |driver| {
        driver.not_captured(stream as u64)?;
        driver.drain(stream as u64, None, usize::MAX);
        driver.works()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: Mode) -> CUresult {
    call("cuStreamBeginCapture_v2", Needs::Context, |driver| {
        let capture = &mut driver.stream(stream as u64)?.capture;
        if capture.is_some() {
            return misuse(CUresult::CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already");
        }
        let thread = std::thread::current().id();
        *capture = Some(Capture { thread, mode, work: Vec::new(), is_valid: true });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    call("cuStreamEndCapture", Needs::Context, |driver| {
        // SAFETY: the caller's.
        unsafe { give(graph, std::ptr::null_mut()) }?;
        let here = std::thread::current().id();
        let capture = &mut driver.stream(stream as u64)?.capture;
        match capture {
            None => return misuse(CUresult::CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured"),
            Some(c) if c.thread != here && c.mode != Mode::CU_STREAM_CAPTURE_MODE_RELAXED => {
                c.is_valid = false;
                let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
                return misuse(code, "another thread began the capture");
            }
            Some(_) => {}
        }
        let Some(Capture { work, is_valid: true, .. }) = capture.take() else {
            return misuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture has failed before");
        };
        let handle = driver.handle();
        driver.graphs.insert(handle, Graph { work });
        // SAFETY: as above.
        unsafe { give(graph, handle as CUgraph) }
    })
}

/// 0: not captured, 1: captured, 2: the capture has failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: *mut c_int) -> CUresult {
    call("cuStreamIsCapturing", Needs::Context, |driver| {
        let found = match &driver.stream(stream as u64)?.capture {
            None => 0,
            Some(capture) => 2 - c_int::from(capture.is_valid),
        };
        // SAFETY: the caller's.
        unsafe { give(status, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    flags: c_ulonglong,
) -> CUresult {
    call("cuGraphInstantiateWithFlags", Needs::Context, |driver| {
        if flags != 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: flags {flags:#x}"));
        }
        let Some(graph) = driver.graphs.get(&(graph as u64)) else {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("there is no graph {graph:p}"));
        };
        let work = Arc::new(graph.work.clone());
        let handle = driver.handle();
        driver.executables.insert(handle, work);
        // SAFETY: the caller's.
        unsafe { give(executable, handle as CUgraphExec) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    call("cuGraphLaunch", Needs::Context, |driver| {
        let Some(work) = driver.executables.get(&(executable as u64)).cloned() else {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("there is no executable graph {executable:p}"));
        };
        driver.push(stream as u64, Work::Graph(work))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    call("cuGraphDestroy", Needs::Context, |driver| match driver.graphs.remove(&(graph as u64)) {
        Some(_) => Ok(()),
        None => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("there is no graph {graph:p}")),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    call("cuGraphExecDestroy", Needs::Context, |driver| match driver.executables.remove(&(executable as u64)) {
        Some(_) => Ok(()),
        None => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("there is no executable graph {executable:p}")),
    })
}
