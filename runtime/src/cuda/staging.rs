//! Copies to the GPU that run beside its work: through pinned memory, on a stream of their own.
//!
//! A copy goes from the caller's memory to a pinned slot (by the host), from there to a device slot (on the copy stream), and
//! from there to where it belongs (on the work stream, in order with the steps). While the GPU works on one step the host
//! fills the slots of the next.

use cudarc::driver::{DriverError, result as driver, sys};
use std::collections::HashMap;

/// Slots of one size; a slot is waited for when all others were filled since.
const SLOTS: usize = 4;
/// Smaller copies are quicker made directly; larger ones would pin too much memory.
pub const SIZES: std::ops::RangeInclusive<usize> = (64 << 10)..=(64 << 20);

struct Slot {
    host: *mut u8,
    device: sys::CUdeviceptr,
    /// The copy stream has filled the device slot.
    filled: sys::CUevent,
    /// The work stream has emptied it.
    emptied: sys::CUevent,
}

/// The slots and their stream. Whoever drops it calls [`Staging::free`] before.
pub struct Staging {
    stream: sys::CUstream,
    /// By size: the slots and the one to be filled next.
    slots: HashMap<usize, (Vec<Slot>, usize)>,
}

impl Staging {
    /// Makes the stream.
    pub fn new() -> Result<Self, DriverError> {
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)?;
        Ok(Staging { stream, slots: HashMap::new() })
    }

    fn slot(bytes: usize) -> Result<Slot, DriverError> {
        let event = || driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        // SAFETY: plain allocations, freed once in `free`.
        unsafe {
            let host = driver::malloc_host(bytes, 0)?.cast::<u8>();
            Ok(Slot { host, device: driver::malloc_sync(bytes)?, filled: event()?, emptied: event()? })
        }
    }

    /// Copies `bytes` to `to`, in order with the work on `work`; returns when `bytes` may change.
    pub fn copy(&mut self, to: sys::CUdeviceptr, bytes: &[u8], work: sys::CUstream) -> Result<(), DriverError> {
        let size = bytes.len().next_power_of_two();
        let (slots, next) = self.slots.entry(size).or_insert_with(|| (Vec::new(), 0));
        if slots.len() < SLOTS {
            slots.push(Self::slot(size)?);
            *next = slots.len() - 1;
        }
        let slot = &slots[*next];
        *next = (*next + 1) % SLOTS;
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the slot holds `size` bytes on either side; an event that was never recorded counts as reached, and the one
        // waited for here comes after every use of the slot.
        unsafe {
            driver::event::synchronize(slot.emptied)?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot.host, bytes.len());
            let pinned = std::slice::from_raw_parts(slot.host, bytes.len());
            driver::memcpy_htod_async(slot.device, pinned, self.stream)?;
            driver::event::record(slot.filled, self.stream)?;
            driver::stream::wait_event(work, slot.filled, wait)?;
            driver::memcpy_dtod_async(to, slot.device, bytes.len(), work)?;
            driver::event::record(slot.emptied, work)
        }
    }

    /// Frees everything; the context is current.
    pub fn free(&mut self) {
        for slot in self.slots.drain().flat_map(|(_, (slots, _))| slots) {
            // SAFETY: each was made in `slot` and is destroyed once; the wait ends their last use.
            unsafe {
                let _ = driver::event::synchronize(slot.emptied);
                let _ = driver::event::destroy(slot.filled);
                let _ = driver::event::destroy(slot.emptied);
                let _ = driver::free_sync(slot.device);
                let _ = driver::free_host(slot.host.cast());
            }
        }
        // SAFETY: as above.
        let _ = unsafe { driver::stream::destroy(self.stream) };
    }
}
