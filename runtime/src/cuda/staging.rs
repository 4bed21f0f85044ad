//! Copies to the GPU that run beside its work: through pinned memory, on a stream of their own.
//!
//! A copy goes from the caller's memory to a pinned slot (by the host), from there to a device slot (on the copy stream), and
//! from there to where it belongs (on the work stream, in order with the steps). While the GPU works on one step the host
//! fills the slots of the next.

use cudarc::driver::{DriverError, result as driver, sys};
use std::collections::HashMap;

/// Slots of one size; a slot is waited for when all others were filled since.
const SLOTS: usize = 4;
/// The most bytes of a copy; more would pin too much memory.
pub const LARGEST: usize = 16 << 20;
/// The least bytes of a slot.
const SMALLEST: usize = 4 << 10;

struct Slot {
    host: *mut u8,
    device: sys::CUdeviceptr,
    /// The copy stream has filled the device slot.
    filled: sys::CUevent,
    /// The work stream has emptied it.
    emptied: sys::CUevent,
}

impl Slot {
    /// Frees what there is of it; nothing uses it any more.
    fn free(&self) {
        // SAFETY: each was made in `Staging::slot` and is destroyed once.
        unsafe {
            for event in [self.filled, self.emptied].into_iter().filter(|event| !event.is_null()) {
                let _ = driver::event::destroy(event);
            }
            if self.device != 0 {
                let _ = driver::free_sync(self.device);
            }
            if !self.host.is_null() {
                let _ = driver::free_host(self.host.cast());
            }
        }
    }
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
        let none = std::ptr::null_mut();
        let mut slot = Slot { host: std::ptr::null_mut(), device: 0, filled: none, emptied: none };
        let mut fill = || -> Result<(), DriverError> {
            // SAFETY: plain allocations, freed once, here or in `free`.
            unsafe {
                slot.device = driver::malloc_sync(bytes)?;
                slot.host = driver::malloc_host(bytes, 0)?.cast::<u8>();
            }
            slot.filled = event()?;
            slot.emptied = event()?;
            Ok(())
        };
        match fill() {
            Ok(()) => Ok(slot),
            Err(error) => {
                slot.free();
                Err(error)
            }
        }
    }

    /// Copies `bytes`, at most [`LARGEST`], to `to`, in order with the work on `work`; returns when `bytes` may change.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` when there is none for a slot; nothing was copied then.
    pub fn copy(&mut self, to: sys::CUdeviceptr, bytes: &[u8], work: sys::CUstream) -> Result<(), DriverError> {
        let size = bytes.len().next_power_of_two().max(SMALLEST);
        let (slots, next) = self.slots.entry(size).or_insert_with(|| (Vec::new(), 0));
        if slots.len() < SLOTS {
            match Self::slot(size) {
                Ok(slot) => {
                    slots.push(slot);
                    *next = slots.len() - 1;
                }
                // Fewer slots let less happen at the same time.
                Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) if !slots.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        let slot = &slots[*next];
        *next = (*next + 1) % slots.len();
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

    /// Frees everything; the context is current, and the work stream idle.
    pub fn free(&mut self) {
        // SAFETY: the stream was made in `new` and is destroyed once; after the wait nothing uses the slots.
        unsafe {
            let _ = driver::stream::synchronize(self.stream);
            self.slots.drain().flat_map(|(_, (slots, _))| slots).for_each(|slot| slot.free());
            let _ = driver::stream::destroy(self.stream);
        }
    }
}
