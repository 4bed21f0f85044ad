//! Streams while they are captured, and graphs.

use crate::support::*;
use cudarc::driver::sys::{CUgraph, CUresult, CUstream, CUstreamCaptureMode as Mode};
use npc_test_driver::alone;
use npc_test_driver::cuda::*;
use std::ptr::null_mut;

const THREAD: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn begin(stream: CUstream) {
    // SAFETY: the driver checks the stream.
    is_ok(unsafe { cuStreamBeginCapture_v2(stream, THREAD) });
}

fn end(stream: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = null_mut();
    // SAFETY: the result has room.
    match unsafe { cuStreamEndCapture(stream, &raw mut graph) } {
        OK => Ok(graph),
        error => Err(error),
    }
}

#[test]
fn a_graph_does_nothing_until_it_is_launched() {
    let lines = alone(&[], || {
        open();
        let (module, function) = module();
        let (data, stream) = (allocate(16), stream());
        is_ok(upload(data, &[0; 4], stream));
        // So that it is loaded.
        is_ok(twice(function, data, stream));
        is_ok(upload(data, &[1, 2, 3, 4], stream));
        begin(stream);
        is_ok(twice(function, data, stream));
        is_ok(twice(function, data, stream));
        let graph = end(stream).unwrap();
        assert_eq!(download(data, 4, stream).unwrap(), [1, 2, 3, 4]);
        let executable = instantiate(graph);
        // SAFETY: made above; the executable graph outlives the one it was made of.
        unsafe {
            is_ok(cuGraphDestroy(graph));
            is_ok(cuGraphLaunch(executable, stream));
            is_ok(cuGraphLaunch(executable, stream));
            // Work that is queued is carried out all the same.
            is_ok(cuGraphExecDestroy(executable));
        }
        assert_eq!(download(data, 4, stream).unwrap(), [16, 32, 48, 64]);
        is_ok(free(data));
        // SAFETY: made above.
        unsafe {
            is_ok(cuModuleUnload(module));
            is_ok(cuStreamDestroy_v2(stream));
        }
        close();
    });
    is_clean(&lines);
}

/// What must not be done while a stream is captured: it fails, and so does the capture.
fn spoils(words: &str, act: impl FnOnce(CUstream) -> CUresult) {
    let lines = alone(&[], || {
        open();
        let stream = stream();
        begin(stream);
        assert!((act(stream) as u32) >= CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED as u32, "{words}");
        assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
        // The stream can be used again.
        is_ok(wait(stream));
    });
    assert!(lines[0].starts_with("misuse: ") && lines[0].contains(words), "{words}: {lines:#?}");
}

#[test]
fn what_spoils_a_capture() {
    spoils("taking memory", |_| {
        let mut pointer = 0;
        // SAFETY: the result has room.
        unsafe { cuMemAlloc_v2(&raw mut pointer, 4) }
    });
    spoils("freeing memory", |_| free(256));
    spoils("waiting for a stream that is captured", wait);
    // SAFETY: takes nothing.
    spoils("waiting for the context", |_| unsafe { cuCtxSynchronize() });
    // SAFETY: the driver checks both.
    spoils("events while a stream is captured", |stream| {
        let (event, other) = (event(), crate::support::stream());
        // SAFETY: made above.
        unsafe {
            is_ok(cuEventRecord(event, other));
            cuStreamWaitEvent(stream, event, 0)
        }
    });
}

#[test]
fn a_kernel_that_was_never_started_before() {
    let lines = alone(&[], || {
        open();
        let ((_, function), data, stream) = (module(), allocate(16), stream());
        begin(stream);
        assert_eq!(twice(function, data, stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    });
    assert!(lines[0].contains("`twice` starts for the first time"), "{lines:#?}");
}

#[test]
fn a_copy_from_memory_that_is_not_pinned() {
    let lines = alone(&[], || {
        open();
        let (data, stream) = (allocate(4), stream());
        begin(stream);
        assert_eq!(upload(data, &[1], stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    });
    assert!(lines[0].contains("memory that is not pinned"), "{lines:#?}");
}

#[test]
fn captures_that_do_not_begin_or_end() {
    let lines = alone(&[], || {
        open();
        let stream = stream();
        assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_ILLEGAL_STATE));
        begin(stream);
        // SAFETY: the driver checks the stream.
        assert_eq!(unsafe { cuStreamBeginCapture_v2(stream, THREAD) }, CUresult::CUDA_ERROR_ILLEGAL_STATE);
        let at = stream as usize;
        let other = std::thread::spawn(move || {
            open();
            end(at as CUstream).map(|graph| graph as usize)
        });
        assert_eq!(other.join().unwrap(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("misuse:")).count(), 3, "{lines:#?}");
}

#[test]
fn graphs_that_are_gone() {
    let lines = alone(&[], || {
        open();
        let stream = stream();
        begin(stream);
        let graph = end(stream).unwrap();
        let executable = instantiate(graph);
        // SAFETY: the driver checks both.
        unsafe {
            is_ok(cuGraphExecDestroy(executable));
            assert_eq!(cuGraphLaunch(executable, stream), INVALID);
            assert_eq!(cuGraphExecDestroy(executable), INVALID);
        }
        close();
    });
    let found: Vec<&String> = lines.iter().filter(|line| line.contains("there is no executable graph")).collect();
    assert!(found.len() == 2 && lines.iter().any(|line| line == "leak: 1 graphs"), "{lines:#?}");
}
