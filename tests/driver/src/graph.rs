//! Graphs that are captured from a stream.

use crate::driver::{Driver, Handle};
use crate::refusal::{Answer, misuse};
use crate::work::Work;
use cudarc::driver::sys::{CUresult, CUstreamCaptureMode as Mode};
use std::thread::ThreadId;

/// What was captured.
pub struct Graph {
    pub work: Vec<Work>,
}

/// A capture that goes on.
pub struct Capture {
    pub thread: ThreadId,
    pub mode: Mode,
    pub work: Vec<Work>,
    /// Whether nothing illegal has happened since it began.
    pub is_valid: bool,
}

impl Capture {
    pub fn push(&mut self, work: Work) -> Answer {
        if !self.is_valid {
            return misuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture has failed before");
        }
        // What is copied from there when the graph is launched is what lies there then, and nobody says so.
        if matches!(work, Work::FromStaged { .. }) {
            self.is_valid = false;
            let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
            return misuse(code, "a copy from memory that is not pinned while a stream is captured");
        }
        self.work.push(work);
        Ok(())
    }
}

impl Driver {
    /// Refuses what waits, allocates or frees while this thread captures a stream, and ends that capture.
    pub fn outside_captures(&mut self, what: &str) -> Answer {
        let here = std::thread::current().id();
        let is_hit = |c: &Capture| match c.mode {
            Mode::CU_STREAM_CAPTURE_MODE_GLOBAL => true,
            Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => c.thread == here,
            _ => false,
        };
        let captures = self.streams.values_mut().filter_map(|stream| stream.capture.as_mut());
        let hit: Vec<&mut Capture> = captures.filter(|capture| is_hit(capture)).collect();
        if hit.is_empty() {
            return Ok(());
        }
        hit.into_iter().for_each(|capture| capture.is_valid = false);
        misuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, format!("{what} while a stream is captured"))
    }

    /// Refuses to wait for a stream that is captured.
    pub fn not_captured(&mut self, handle: Handle) -> Answer {
        match &mut self.stream(handle)?.capture {
            Some(capture) => {
                capture.is_valid = false;
                misuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "waiting for a stream that is captured")
            }
            None => Ok(()),
        }
    }
}
