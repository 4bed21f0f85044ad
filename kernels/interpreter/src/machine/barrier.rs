//! The barriers of a block: who waits, who may go on, and who waits in vain.

use super::block::Block;
use super::step::first;
use super::warp::{Group, Wait};
use super::{LaneFault, Machine, lanes};
use crate::fault::{Fault, FaultKind};
use crate::program::{BarrierAction, Operation};

impl Machine<'_> {
    /// Lets pass what can pass, and finds barriers that can never be passed.
    pub(super) fn settle(&mut self, block: &mut Block) -> Result<(), Fault> {
        loop {
            let waiting = block.warps.iter().flat_map(|warp| warp.groups.iter().map(move |group| (warp.number, *group)));
            let mut numbers = 0_u16;
            let mut runnable = false;
            let mut first_waiting = None;
            for (warp, group) in waiting {
                match group.wait {
                    Wait::Nothing => runnable = true,
                    Wait::Barrier { number, .. } => {
                        numbers |= 1 << number;
                        first_waiting.get_or_insert((warp, group));
                    }
                    Wait::Lanes { .. } => {}
                }
            }
            let mut passed = false;
            for number in (0..16).filter(|number| numbers >> number & 1 == 1) {
                passed |= self.settle_barrier(block, number)?;
            }
            if passed {
                continue;
            }
            if runnable || block.live() == 0 {
                return Ok(());
            }
            return Err(self.deadlock(block, first_waiting));
        }
    }

    /// Lets the threads at one barrier pass, if all are there.
    fn settle_barrier(&mut self, block: &mut Block, wanted: u8) -> Result<bool, Fault> {
        let mut waiting = 0;
        let mut place: Option<(u32, Group)> = None;
        let mut expected = None;
        for warp in &block.warps {
            for group in &warp.groups {
                let Wait::Barrier { number, threads } = group.wait else { continue };
                if number != wanted {
                    continue;
                }
                waiting += group.mask.count_ones();
                expected = threads;
                match place {
                    // Without a count a barrier speaks to the whole block, at one place of the program.
                    Some((_, other)) if other.pc != group.pc && threads.is_none() => {
                        let (live, other_line) = (block.live(), Some(self.kernel.code[other.pc as usize].line));
                        let kind = FaultKind::DivergentBarrier { waiting: group.mask.count_ones(), live, other_line };
                        return Err(self.fault(block, warp.number, group.pc, first(group.mask, kind)));
                    }
                    Some(_) => {}
                    None => place = Some((warp.number, *group)),
                }
            }
        }
        let arrived = block.arrived[wanted as usize];
        if waiting + arrived < expected.unwrap_or_else(|| block.live()) {
            return Ok(false);
        }
        block.arrived[wanted as usize] = 0;
        self.reduce(block, wanted);
        self.order_block(block, wanted);
        for warp in &mut block.warps {
            for group in &mut warp.groups {
                if matches!(group.wait, Wait::Barrier { number, .. } if number == wanted) {
                    group.pc += 1;
                    group.wait = Wait::Nothing;
                }
            }
            if warp.groups.len() > 1 {
                warp.merge();
            }
        }
        self.statistics.barriers += 1;
        self.note_progress();
        Ok(true)
    }

    /// The results of `bar.red`.
    fn reduce(&mut self, block: &mut Block, wanted: u8) {
        let kernel = self.kernel;
        let at_barrier = |group: &&Group| matches!(group.wait, Wait::Barrier { number, .. } if number == wanted);
        let action = |group: &Group| match &kernel.code[group.pc as usize].operation {
            Operation::Barrier(barrier) => Some(barrier.action),
            _ => None,
        };
        let (mut set, mut all) = (0, 0);
        for warp in &block.warps {
            for group in warp.groups.iter().filter(at_barrier) {
                let source = match action(group) {
                    Some(
                        BarrierAction::Count { source, .. }
                        | BarrierAction::All { source, .. }
                        | BarrierAction::Any { source, .. },
                    ) => source,
                    _ => continue,
                };
                set += (warp.predicate(source.register, source.negated) & group.mask).count_ones();
                all += group.mask.count_ones();
            }
        }
        for warp in &mut block.warps {
            for group in warp.groups.iter().filter(at_barrier) {
                let (destination, value) = match action(group) {
                    Some(BarrierAction::Count { destination, .. }) => (destination, set),
                    Some(BarrierAction::All { destination, .. }) => (destination, u32::from(set == all)),
                    Some(BarrierAction::Any { destination, .. }) => (destination, u32::from(set > 0)),
                    _ => continue,
                };
                for lane in lanes(group.mask) {
                    warp.registers[destination as usize][lane] = u64::from(value);
                }
            }
        }
    }

    /// Nobody in the block can go on.
    fn deadlock(&self, block: &Block, waiting: Option<(u32, Group)>) -> Fault {
        if let Some((warp, group)) = waiting {
            let waiting = block.warps.iter().flat_map(|warp| &warp.groups);
            let waiting = waiting.filter(|other| matches!(other.wait, Wait::Barrier { .. }) && other.pc == group.pc);
            let waiting = waiting.map(|group| group.mask.count_ones()).sum();
            let others = block.warps.iter().flat_map(|warp| &warp.groups).find(|other| other.pc != group.pc);
            let other_line = others.map(|other| self.kernel.code[other.pc as usize].line);
            let kind = FaultKind::DivergentBarrier { waiting, live: block.live(), other_line };
            return self.fault(block, warp, group.pc, first(group.mask, kind));
        }
        for warp in &block.warps {
            for group in &warp.groups {
                if let Wait::Lanes { mask } = group.wait {
                    return self.fault(block, warp.number, group.pc, self.never_come(warp, group.mask, mask));
                }
            }
        }
        self.fault(block, 0, 0, LaneFault { lane: 0, kind: FaultKind::Livelock { steps: 0 } })
    }
}
