//! A block: its warps and its shared memory.

use rustc_hash::FxHashMap;

use super::warp::Warp;
use crate::fault::{AccessKind, FaultKind, MemorySpace};
use crate::memory::page::{read_bytes, write_bytes};
use crate::program::Kernel;
use crate::race::{Join, Shadow, Word};
use crate::semantics::SHARED_WINDOW;

/// A resident block.
pub(super) struct Block {
    pub index: [u32; 3],
    /// The number in the order of starting.
    pub serial: u32,
    pub warps: Vec<Warp>,
    pub shared: Shared,
    /// Threads that have arrived at a barrier without waiting (`bar.arrive`), by its number.
    pub arrived: [u32; 16],
    /// What those threads knew.
    pub joins: [Join; 16],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Unwritten,
    Written,
}

/// A block's shared memory.
pub(super) struct Shared {
    bytes: Vec<u8>,
    states: Vec<State>,
    pub shadow: Shadow,
    /// The words through which the block's threads speak.
    pub words: FxHashMap<u64, Word>,
}

impl Shared {
    pub fn new(kernel: &Kernel, dynamic: u32) -> Self {
        let size = if dynamic > 0 { kernel.dynamic_shared + dynamic } else { kernel.shared.size } as usize;
        let mut states = vec![State::Outside; size];
        let dynamic = kernel.dynamic_shared..kernel.dynamic_shared + dynamic;
        for range in kernel.shared.ranges.iter().chain(std::iter::once(&dynamic)) {
            if let Some(states) = states.get_mut(range.start as usize..range.end as usize) {
                states.fill(State::Unwritten);
            }
        }
        Shared { bytes: vec![0; size], states, shadow: Shadow::new(size), words: FxHashMap::default() }
    }

    pub fn bounds(&self, address: u64, bytes: usize, access: AccessKind) -> Result<usize, FaultKind> {
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let states = self.states.get(start..start.saturating_add(bytes)).unwrap_or(&[State::Outside]);
        if states.contains(&State::Outside) {
            let (space, bytes) = (MemorySpace::Shared, bytes as u64);
            return Err(FaultKind::OutOfBounds { space, access, address, bytes, nearest: None });
        }
        Ok(start)
    }

    /// Reads 1 to 16 bytes.
    pub fn load(&self, address: u64, bytes: usize, access: AccessKind, check: bool) -> Result<u128, FaultKind> {
        let start = self.bounds(address, bytes, access)?;
        if check && self.states[start..start + bytes].contains(&State::Unwritten) {
            return Err(FaultKind::Uninitialised { space: MemorySpace::Shared, address, bytes: bytes as u64 });
        }
        Ok(read_bytes(&self.bytes, start, bytes))
    }

    /// Writes 1 to 16 bytes; whether they changed.
    pub fn store(&mut self, address: u64, bytes: usize, value: u128, access: AccessKind) -> Result<bool, FaultKind> {
        let start = self.bounds(address, bytes, access)?;
        let states = &mut self.states[start..start + bytes];
        let changed = states.contains(&State::Unwritten) || read_bytes(&self.bytes, start, bytes) != value;
        states.fill(State::Written);
        write_bytes(&mut self.bytes, start, bytes, value);
        Ok(changed)
    }

    /// The generic address of an offset, for messages.
    pub fn generic(address: u64) -> u64 {
        SHARED_WINDOW.wrapping_add(address)
    }
}

impl Block {
    /// Threads that have not ended.
    pub fn live(&self) -> u32 {
        self.warps.iter().map(|warp| warp.live.count_ones()).sum()
    }
}
