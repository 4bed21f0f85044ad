//! What the race detector is told: accesses, fences and barriers.

use super::access::Target;
use super::block::{Block, Shared};
use super::warp::{Wait, Warp};
use super::{LANES, Machine, lanes};
use crate::fault::{AccessKind, FaultKind, MemorySpace};
use crate::memory::page::PAGE;
use crate::program::Scope;
use crate::race::{Entry, Join, Shadow, View};

impl Machine<'_> {
    /// An access that is in bounds and about to be carried out. `same` says whether a store leaves the bytes as they
    /// are.
    pub(super) fn watch(
        &mut self,
        block: &mut Block,
        warp: &mut Warp,
        lane: usize,
        target: Target,
        same: impl FnOnce(&mut Self, &Block) -> bool,
    ) -> Result<(), FaultKind> {
        if !self.options.races {
            return Ok(());
        }
        let Target { space, address, bytes, kind, order } = target;
        let (write, atomic) = (kind != AccessKind::Read, kind == AccessKind::Atomic);
        let view = &mut warp.views[lane];
        if let Some(scope) = order.strong {
            self.speak(block, view, target, scope);
        }
        let entry = Entry { event: view.event(), write, atomic, strong: order.strong };
        let conflict = match space {
            MemorySpace::Shared => block.shared.shadow.enter(address as usize, bytes, &entry, view),
            _ => {
                let (page, offset) = self.memory.touch(address, bytes, kind)?;
                let shadow = page.shadow.get_or_insert_with(|| Box::new(Shadow::new(PAGE)));
                shadow.enter(offset, bytes, &entry, view)
            }
        };
        let Some(earlier) = conflict else { return Ok(()) };
        let ordinary = |entry: &Entry| entry.write && entry.strong.is_none();
        if ordinary(&earlier) && ordinary(&entry) && same(self, block) {
            return Ok(());
        }
        let event = earlier.event;
        let own = if event.block == block.serial && u32::from(event.warp) == warp.number { 1 << lane } else { 0 };
        let lane = (event.mask & !own).trailing_zeros();
        Err(FaultKind::Race {
            space,
            access: kind,
            address: if space == MemorySpace::Shared { Shared::generic(address) } else { address },
            earlier: match (earlier.atomic, earlier.write) {
                (true, _) => AccessKind::Atomic,
                (_, true) => AccessKind::Write,
                _ => AccessKind::Read,
            },
            thread: u32::from(event.warp) * LANES as u32 + lane,
            block: self.started.get(event.block as usize).copied().unwrap_or_default(),
        })
    }

    /// A strong access speaks and listens through its word.
    fn speak(&mut self, block: &mut Block, view: &mut View, target: Target, scope: Scope) {
        let Target { space, address, kind, order, .. } = target;
        let words = if space == MemorySpace::Shared { &mut block.shared.words } else { &mut self.words };
        if kind != AccessKind::Write {
            if let Some(word) = words.get(&address) {
                view.read(word);
            }
            if order.acquire {
                view.absorb();
            }
        }
        if kind != AccessKind::Read {
            if order.release {
                view.publish(scope);
            }
            view.write(words.entry(address).or_default(), scope, kind == AccessKind::Atomic);
        }
    }

    pub(super) fn fence(&mut self, warp: &mut Warp, scope: Scope, mask: u32) {
        if self.options.races {
            for lane in lanes(mask) {
                warp.views[lane].absorb();
                warp.views[lane].publish(scope);
            }
        }
    }

    /// Threads of a warp that leave word at a barrier and go on.
    pub(super) fn arrive_without_waiting(&mut self, block: &mut Block, warp: &mut Warp, number: usize, mask: u32) {
        block.arrived[number] += mask.count_ones();
        if self.options.races {
            for lane in lanes(mask) {
                block.joins[number].arrive(&warp.views[lane]);
                Join::pass(&mut warp.views[lane]);
            }
        }
    }

    /// A barrier of the warp orders the lanes of a mask.
    pub(super) fn order_warp(&self, warp: &mut Warp, mask: u32) {
        if !self.options.races {
            return;
        }
        let mut join = Join::default();
        for lane in lanes(mask) {
            join.arrive(&warp.views[lane]);
        }
        join.close(false);
        for lane in lanes(mask) {
            join.leave(&mut warp.views[lane]);
        }
    }

    /// A barrier of the block orders those who wait at it and those who left word.
    pub(super) fn order_block(&self, block: &mut Block, wanted: u8) {
        if !self.options.races {
            return;
        }
        let mut join = std::mem::take(&mut block.joins[usize::from(wanted)]);
        let at_barrier = |wait: Wait| matches!(wait, Wait::Barrier { number, .. } if number == wanted);
        let mut waiting = 0;
        for warp in &block.warps {
            for group in warp.groups.iter().filter(|group| at_barrier(group.wait)) {
                waiting += group.mask.count_ones();
                lanes(group.mask).for_each(|lane| join.arrive(&warp.views[lane]));
            }
        }
        join.close(waiting == block.live());
        for warp in &mut block.warps {
            for group in warp.groups.iter().filter(|group| at_barrier(group.wait)) {
                lanes(group.mask).for_each(|lane| join.leave(&mut warp.views[lane]));
            }
        }
    }
}
