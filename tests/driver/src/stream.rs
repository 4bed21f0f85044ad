//! Streams, events, and how far the device has got with each.

use crate::driver::{Driver, Handle};
use crate::graph::Capture;
use crate::refusal::{Answer, misuse};
use crate::settings::Order;
use crate::work::Work;
use cudarc::driver::sys::CUresult;
use std::collections::VecDeque;

/// One record of an event.
pub type Ticket = u64;

pub enum Entry {
    Work(Work),
    Record(Ticket),
    /// Goes on when the record was reached.
    Wait(Ticket),
}

#[derive(Default)]
pub struct Stream {
    pub queue: VecDeque<Entry>,
    pub capture: Option<Capture>,
}

#[derive(Default)]
pub struct Event {
    /// The last record.
    pub recorded: Option<Ticket>,
}

impl Driver {
    pub fn stream(&mut self, handle: Handle) -> Answer<&mut Stream> {
        if handle <= 2 {
            return misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, "not built: the default streams");
        }
        match self.streams.get_mut(&handle) {
            Some(stream) => Ok(stream),
            None => misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no stream {handle:#x}")),
        }
    }

    pub fn event(&mut self, handle: Handle) -> Answer<&mut Event> {
        match self.events.get_mut(&handle) {
            Some(event) => Ok(event),
            None => misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no event {handle:#x}")),
        }
    }

    /// Puts work on a stream, or into the graph that is captured from it.
    pub fn push(&mut self, handle: Handle, work: Work) -> Answer {
        let stream = self.stream(handle)?;
        match &mut stream.capture {
            Some(capture) => capture.push(work),
            None => {
                stream.queue.push_back(Entry::Work(work));
                self.progress();
                Ok(())
            }
        }
    }

    /// Puts a record of an event or a wait for one on a stream.
    pub fn push_order(&mut self, handle: Handle, entry: Entry) -> Answer {
        let stream = self.stream(handle)?;
        if let Some(capture) = &mut stream.capture {
            // A wait for what is not part of the capture is illegal on a device, too; records would have to become nodes.
            capture.is_valid = false;
            let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
            return misuse(code, "not built: events while a stream is captured");
        }
        if let Entry::Record(ticket) = entry {
            self.pending.insert(ticket, handle);
        }
        self.stream(handle)?.queue.push_back(entry);
        self.progress();
        Ok(())
    }

    /// What the device does by itself.
    fn progress(&mut self) {
        match self.settings().order {
            Order::Lazy => {}
            Order::Oldest => {
                let first = self.streams.keys().next().copied();
                first.into_iter().for_each(|handle| self.drain(handle, None, usize::MAX));
            }
            Order::Newest => {
                let last = self.streams.keys().next_back().copied();
                last.into_iter().for_each(|handle| self.drain(handle, None, usize::MAX));
            }
            Order::Random(seed) => {
                let drawn = mixed(seed);
                if let Some(settings) = &mut self.settings {
                    settings.order = Order::Random(drawn);
                }
                let at = (drawn >> 8) as usize % self.streams.len().max(1);
                let any = self.streams.keys().nth(at).copied();
                any.into_iter().for_each(|handle| self.drain(handle, None, drawn as usize % 4));
            }
        }
    }

    /// Carries out what a stream holds: all of it, up to a record, or so many entries. What an entry waits for comes before.
    pub fn drain(&mut self, handle: Handle, until: Option<Ticket>, most: usize) {
        for _ in 0..most {
            if self.failed.is_some() || until.is_some_and(|ticket| !self.pending.contains_key(&ticket)) {
                return;
            }
            let Some(entry) = self.streams.get_mut(&handle).and_then(|stream| stream.queue.pop_front()) else { return };
            match entry {
                Entry::Record(ticket) => {
                    self.pending.remove(&ticket);
                }
                Entry::Wait(ticket) => {
                    if let Some(other) = self.pending.get(&ticket).copied() {
                        self.drain(other, Some(ticket), usize::MAX);
                    }
                }
                Entry::Work(work) => {
                    if let Err((code, what)) = self.execute(&work) {
                        self.report.line(format!("fault: {what}"));
                        self.failed = Some(code);
                        self.streams.values_mut().for_each(|stream| stream.queue.clear());
                        self.pending.clear();
                    }
                }
            }
        }
    }
}

/// A step of the splitmix64 generator (Steele, Lea and Flood, 2014).
fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
