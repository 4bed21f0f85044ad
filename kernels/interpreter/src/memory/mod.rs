//! Global memory of the reference device.
//!
//! Addresses are never used twice, and every allocation lies between guard zones, so that an access before, behind or
//! after its time is found. Which bytes were written is known byte by byte.

pub(crate) mod page;
mod pod;
mod variables;

pub use pod::Pod;

use rustc_hash::FxHashMap;

use crate::fault::{AccessKind, Fault, FaultKind, MemorySpace};
use page::{PAGE, Page};

/// Where the first allocation lies.
const FIRST: u64 = 0x7000_0000_0000;
/// Allocations begin at multiples of this; the zone between two is at least as long.
const STEP: u64 = 0x1_0000;

/// Global memory: allocations, their bytes, and the variables of the modules that were launched.
#[derive(Default)]
pub struct Memory {
    allocations: Vec<Allocation>,
    /// The allocation that was found last.
    recent: usize,
    pub(crate) launch: u32,
    /// Where each module's variables lie.
    variables: FxHashMap<u64, Vec<u64>>,
}

struct Allocation {
    start: u64,
    bytes: u64,
    freed: bool,
    /// Untouched pages hold zeros that count as written.
    zeroed: bool,
    pages: Vec<Option<Box<Page>>>,
}

impl Allocation {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    fn page(&mut self, number: usize) -> &mut Page {
        let zeroed = self.zeroed;
        self.pages[number].get_or_insert_with(|| Page::new(zeroed))
    }
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Self {
        Memory::default()
    }

    /// Allocates `bytes` at a multiple of 256. Their contents are uninitialised: reading a byte that was never
    /// written is a fault.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.allocate(bytes as u64, false)
    }

    /// Allocates any number of bytes, which take no room until they are touched. They read as zero.
    pub fn alloc_sparse(&mut self, bytes: u64) -> u64 {
        self.allocate(bytes, true)
    }

    /// Allocates room for `data` and copies it there.
    pub fn alloc_from<T: Pod>(&mut self, data: &[T]) -> u64 {
        let address = self.alloc(size_of_val(data));
        // A fresh allocation of the right size: nothing can be out of bounds.
        let _ = self.write(address, data);
        address
    }

    fn allocate(&mut self, bytes: u64, zeroed: bool) -> u64 {
        let behind = self.allocations.last().map_or(FIRST, |last| last.end().next_multiple_of(STEP) + STEP);
        let pages = usize::try_from(bytes.div_ceil(PAGE as u64)).unwrap_or(usize::MAX);
        let pages = std::iter::repeat_with(|| None).take(pages).collect();
        self.allocations.push(Allocation { start: behind, bytes, freed: false, zeroed, pages });
        behind
    }

    /// Frees an allocation. Its addresses are not used again.
    ///
    /// # Errors
    /// [`FaultKind::BadFree`] where no live allocation begins at `address`.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        match self.find(address).map(|index| &mut self.allocations[index]) {
            Some(allocation) if allocation.start == address && !allocation.freed => {
                allocation.freed = true;
                allocation.pages = Vec::new();
                Ok(())
            }
            _ => Err(Fault::on_host(FaultKind::BadFree { address })),
        }
    }

    /// Copies `data` to the device.
    ///
    /// # Errors
    /// [`FaultKind::OutOfBounds`] and [`FaultKind::UseAfterFree`].
    pub fn write<T: Pod>(&mut self, address: u64, data: &[T]) -> Result<(), Fault> {
        let mut bytes = vec![0; size_of_val(data)];
        for (slot, value) in bytes.chunks_exact_mut(T::BYTES).zip(data) {
            value.write_to(slot);
        }
        let (index, start) = self.bounds(address, bytes.len() as u64, AccessKind::Write).map_err(Fault::on_host)?;
        for (number, offset, range) in pieces(start, bytes.len()) {
            self.allocations[index].page(number).copy_in(offset, &bytes[range]);
        }
        Ok(())
    }

    /// Copies `count` numbers from the device.
    ///
    /// # Errors
    /// [`FaultKind::OutOfBounds`], [`FaultKind::UseAfterFree`], and [`FaultKind::Uninitialised`] where a byte was never
    /// written.
    pub fn read<T: Pod>(&self, address: u64, count: usize) -> Result<Vec<T>, Fault> {
        let length = count.saturating_mul(T::BYTES);
        let (index, start) = self.bounds(address, length as u64, AccessKind::Read).map_err(Fault::on_host)?;
        let allocation = &self.allocations[index];
        let mut bytes = vec![0; length];
        for (number, offset, range) in pieces(start, length) {
            let written = match &allocation.pages[number] {
                Some(page) => page.copy_out(offset, &mut bytes[range.clone()]),
                None => allocation.zeroed.then_some(()),
            };
            written.ok_or_else(|| {
                let (address, bytes) = (address + range.start as u64, range.len() as u64);
                Fault::on_host(FaultKind::Uninitialised { space: MemorySpace::Global, address, bytes })
            })?;
        }
        Ok(bytes.chunks_exact(T::BYTES).map(T::read_from).collect())
    }

    /// The allocation at or before an address.
    fn find(&self, address: u64) -> Option<usize> {
        if self.allocations.get(self.recent).is_some_and(|recent| (recent.start..recent.end()).contains(&address)) {
            return Some(self.recent);
        }
        self.allocations.partition_point(|allocation| allocation.start <= address).checked_sub(1)
    }

    /// The allocation that holds a range, and where in it the range begins.
    fn bounds(&self, address: u64, bytes: u64, access: AccessKind) -> Result<(usize, u64), FaultKind> {
        let found = self.find(address).map(|index| (index, &self.allocations[index]));
        match found {
            Some((index, allocation)) if address - allocation.start <= allocation.bytes.saturating_sub(bytes) => {
                if allocation.freed {
                    return Err(FaultKind::UseAfterFree { access, address, bytes, start: allocation.start });
                }
                if bytes <= allocation.bytes {
                    return Ok((index, address - allocation.start));
                }
            }
            _ => {}
        }
        let nearest = found.map(|(_, allocation)| (allocation.start, allocation.bytes));
        Err(FaultKind::OutOfBounds { space: MemorySpace::Global, access, address, bytes, nearest })
    }

    /// The page of a device's access of 1 to 16 aligned bytes, and the offset in it.
    pub(crate) fn touch(
        &mut self,
        address: u64,
        bytes: usize,
        access: AccessKind,
    ) -> Result<(&mut Page, usize), FaultKind> {
        let (index, offset) = self.bounds(address, bytes as u64, access)?;
        self.recent = index;
        let launch = self.launch;
        let page = self.allocations[index].page(offset as usize / PAGE);
        page.enter(launch);
        Ok((page, offset as usize % PAGE))
    }
}

/// A range of an allocation page by page: the page, the offset in it, and which of the range's bytes.
fn pieces(start: u64, length: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = start as usize + done;
        let taken = (PAGE - at % PAGE).min(length - done);
        let range = done..done + taken;
        done += taken;
        (taken > 0).then_some((at / PAGE, at % PAGE, range))
    })
}
