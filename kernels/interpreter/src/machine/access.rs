//! Loads, stores and atomic operations, lane by lane.

use super::block::{Block, Shared};
use super::warp::Warp;
use super::{LaneFault, Machine, lanes};
use crate::fault::{AccessKind, FaultKind, MemorySpace};
use crate::memory::page::{read_bytes, write_bytes};
use crate::parse::syntax::Space;
use crate::program::{Access, Address, Atomic, Order, Register};
use crate::semantics::{Function, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::types::Type;

/// Where an address leads: the memory, and the address within it.
fn resolve(space: Space, address: u64) -> (MemorySpace, u64) {
    let offset = address & (SHARED_WINDOW - 1);
    match space {
        Space::Global | Space::Const => (MemorySpace::Global, address),
        // Addresses of shared and local memory are 32 bits wide or are zero above.
        Space::Shared => (MemorySpace::Shared, address),
        Space::Local => (MemorySpace::Local, address),
        Space::Param => (MemorySpace::Param, address),
        Space::Generic => match address & !(SHARED_WINDOW - 1) {
            SHARED_WINDOW => (MemorySpace::Shared, offset),
            LOCAL_WINDOW => (MemorySpace::Local, offset),
            PARAM_WINDOW => (MemorySpace::Param, offset),
            _ => (MemorySpace::Global, address),
        },
    }
}

/// One lane's access once its address is known.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub space: MemorySpace,
    pub address: u64,
    pub bytes: usize,
    pub kind: AccessKind,
    pub order: Order,
}

fn target(warp: &Warp, lane: usize, address: &Address, bytes: usize, kind: AccessKind, order: Order) -> Result<Target, LaneFault> {
    let address_value = warp.registers[address.base as usize][lane].wrapping_add(address.offset as u64);
    // Registers of 32 bits may carry noise above them, and hold no other kind of shared or local address.
    let address_value = match address.space {
        Space::Shared | Space::Local | Space::Param => address_value & 0xffff_ffff,
        _ => address_value,
    };
    let (space, address) = resolve(address.space, address_value);
    if address % bytes as u64 != 0 {
        return Err(LaneFault { lane, kind: FaultKind::Misaligned { access: kind, address, bytes: bytes as u64 } });
    }
    Ok(Target { space, address, bytes, kind, order })
}

impl Machine<'_> {
    pub(super) fn load(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        access: &Access,
        destinations: &[Register; 4],
        mask: u32,
    ) -> Result<(), LaneFault> {
        self.polls += u32::from(access.order.strong.is_some());
        let size = access.element.bytes() as usize;
        let count = usize::from(access.count);
        for lane in lanes(mask) {
            let target = target(warp, lane, &access.address, size * count, AccessKind::Read, access.order)?;
            let at = |kind| LaneFault { lane, kind };
            let mut value = self.read(block, warp, lane, target, access.non_coherent).map_err(at)?;
            for &destination in &destinations[..count] {
                warp.registers[destination as usize][lane] = extend(value as u64, access.element);
                value >>= 8 * size;
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        access: &Access,
        sources: &[Register; 4],
        mask: u32,
    ) -> Result<(), LaneFault> {
        let size = access.element.bytes() as usize;
        let count = usize::from(access.count);
        let low = u64::MAX >> (64 - 8 * size);
        for lane in lanes(mask) {
            let target = target(warp, lane, &access.address, size * count, AccessKind::Write, access.order)?;
            let value = sources[..count].iter().rev().fold(0_u128, |value, &source| {
                value << (8 * size) | u128::from(warp.registers[source as usize][lane] & low)
            });
            self.write(block, warp, lane, target, value).map_err(|kind| LaneFault { lane, kind })?;
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        atomic: &Atomic,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let access = &atomic.access;
        let bytes = access.element.bytes() as usize;
        let low = u64::MAX >> (64 - 8 * bytes);
        self.statistics.atomics += u64::from(mask.count_ones());
        self.polls += 1;
        for lane in lanes(mask) {
            let target = target(warp, lane, &access.address, bytes, AccessKind::Atomic, access.order)?;
            let at = |kind| LaneFault { lane, kind };
            let old = self.read(block, warp, lane, target, false).map_err(at)? as u64;
            let [a, b] = atomic.sources.map(|source| warp.registers[source as usize][lane]);
            let new = match atomic.function {
                Function::Two(f) => f(old, a),
                Function::Three(f) => f(old, a, b),
                _ => old,
            };
            self.write(block, warp, lane, target, u128::from(new & low)).map_err(at)?;
            warp.registers[atomic.destination as usize][lane] = old;
        }
        Ok(())
    }

    /// `cp.async`: `source_bytes` are copied and zeros fill the rest.
    pub(super) fn copy_async(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        [shared, global]: [&Address; 2],
        bytes: u32,
        source_bytes: Register,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let bytes = bytes as usize;
        for lane in lanes(mask) {
            let at = |kind| LaneFault { lane, kind };
            let to = target(warp, lane, shared, bytes, AccessKind::Write, Order::WEAK)?;
            let from = target(warp, lane, global, bytes, AccessKind::Read, Order::WEAK)?;
            let wanted = (warp.registers[source_bytes as usize][lane] as u32 as usize).min(bytes);
            let mut value = 0;
            for byte in 0..wanted {
                let from = Target { address: from.address + byte as u64, bytes: 1, ..from };
                value |= self.read(block, warp, lane, from, false).map_err(at)? << (8 * byte);
            }
            self.write(block, warp, lane, to, value).map_err(at)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        lane: usize,
        target: Target,
        non_coherent: bool,
    ) -> Result<u128, FaultKind> {
        let Target { space, address, bytes, kind, .. } = target;
        let check = self.options.uninitialised;
        match space {
            MemorySpace::Global => {
                self.watch(block, warp, lane, target, |_, _| false)?;
                let (page, offset) = self.memory.touch(address, bytes, kind)?;
                if check && !page.is_initialised(offset, bytes) {
                    return Err(FaultKind::Uninitialised { space, address, bytes: bytes as u64 });
                }
                if non_coherent && page.was_stored(offset, bytes) {
                    return Err(FaultKind::StaleRead { address });
                }
                self.statistics.distinct_loaded_bytes += u64::from(page.mark_loaded(offset, bytes));
                self.statistics.global_loaded_bytes += bytes as u64;
                Ok(page.load(offset, bytes))
            }
            MemorySpace::Shared => {
                let value = block.shared.load(address, bytes, kind, check)?;
                self.watch(block, warp, lane, target, |_, _| false)?;
                self.statistics.shared_loaded_bytes += bytes as u64;
                Ok(value)
            }
            MemorySpace::Local => {
                let start = self.local(warp, lane, target)?;
                Ok(read_bytes(&warp.local, start, bytes))
            }
            MemorySpace::Param => {
                let start = usize::try_from(address).unwrap_or(usize::MAX);
                if start.saturating_add(bytes) > self.parameters.len() {
                    return Err(out_of_bounds(target));
                }
                Ok(read_bytes(&self.parameters, start, bytes))
            }
        }
    }

    fn write(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        lane: usize,
        target: Target,
        value: u128,
    ) -> Result<(), FaultKind> {
        let Target { space, address, bytes, kind, .. } = target;
        let changed = match space {
            MemorySpace::Global => {
                // An atomic access was entered when it was read.
                if kind == AccessKind::Write {
                    self.watch(block, warp, lane, target, |machine, _| machine.holds(target, value))?;
                }
                let (page, offset) = self.memory.touch(address, bytes, kind)?;
                let changed = !page.is_initialised(offset, bytes) || page.load(offset, bytes) != value;
                page.store(offset, bytes, value);
                self.statistics.distinct_stored_bytes += u64::from(page.mark_stored(offset, bytes));
                self.statistics.global_stored_bytes += bytes as u64;
                changed
            }
            MemorySpace::Shared => {
                block.shared.bounds(address, bytes, kind)?;
                if kind == AccessKind::Write {
                    let same = |_: &mut Self, block: &Block| {
                        block.shared.load(address, bytes, kind, true).is_ok_and(|found| found == value)
                    };
                    self.watch(block, warp, lane, target, same)?;
                }
                self.statistics.shared_stored_bytes += bytes as u64;
                block.shared.store(address, bytes, value, kind)?
            }
            MemorySpace::Local => {
                let start = self.local(warp, lane, target)?;
                write_bytes(&mut warp.local, start, bytes, value);
                false
            }
            MemorySpace::Param => return Err(out_of_bounds(target)),
        };
        if changed {
            self.note_progress();
        }
        Ok(())
    }

    /// Whether global memory holds a value already.
    fn holds(&mut self, target: Target, value: u128) -> bool {
        let page = self.memory.touch(target.address, target.bytes, target.kind);
        page.is_ok_and(|(page, offset)| {
            page.is_initialised(offset, target.bytes) && page.load(offset, target.bytes) == value
        })
    }

    /// Where in a warp's local memory a lane's address lies.
    fn local(&self, warp: &Warp, lane: usize, target: Target) -> Result<usize, FaultKind> {
        let (start, end) = (target.address, target.address.saturating_add(target.bytes as u64));
        let inside = |range: &std::ops::Range<u32>| u64::from(range.start) <= start && end <= u64::from(range.end);
        if !self.kernel.local.ranges.iter().any(inside) {
            return Err(out_of_bounds(target));
        }
        Ok(lane * warp.local_size + start as usize)
    }
}

fn out_of_bounds(target: Target) -> FaultKind {
    let Target { space, address, bytes, kind: access, .. } = target;
    let address = if space == MemorySpace::Shared { Shared::generic(address) } else { address };
    FaultKind::OutOfBounds { space, access, address, bytes: bytes as u64, nearest: None }
}

/// A loaded value as its register holds it.
fn extend(value: u64, element: Type) -> u64 {
    match element {
        Type::S8 => value as i8 as u64,
        Type::S16 => value as i16 as u64,
        Type::S32 => value as i32 as u64,
        _ => match element.bytes() {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        },
    }
}
