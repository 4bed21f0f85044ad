//! One instruction of one group of threads.

use super::block::Block;
use super::compute::{self, Compare};
use super::warp::{Wait, Warp};
use super::{LANES, LaneFault, Machine, lanes};
use crate::fault::FaultKind;
use crate::program::{Barrier, BarrierAction, Call, Copy, Operation};

/// What becomes of a group after an instruction.
pub(super) enum Flow {
    Next,
    /// As `Next`, and the turn is over.
    Yield,
    /// The lanes of the mask go to the target, the others to the next instruction.
    Jump { mask: u32, target: u32 },
    /// Each mask goes to its own target.
    Scatter(Vec<(u32, u32)>),
    /// The lanes of the mask have ended.
    End(u32),
    /// The lanes of the mask wait where they are.
    Wait { mask: u32, wait: Wait },
}

impl Machine<'_> {
    /// Carries out the instruction at `pc` for the lanes of `group`.
    pub(super) fn step(&mut self, block: &mut Block, warp: &mut Warp, pc: u32, group: u32) -> Result<Flow, LaneFault> {
        let kernel = self.kernel;
        let instruction = &kernel.code[pc as usize];
        let mask = match instruction.guard {
            None => group,
            Some(guard) => group & warp.predicate(guard.register, guard.negated),
        };
        self.statistics.steps += 1;
        self.statistics.instructions += u64::from(mask.count_ones());
        if mask == 0 {
            return Ok(Flow::Next);
        }
        match &instruction.operation {
            Operation::Compute(operation) => compute::compute(&mut warp.registers, operation, mask),
            &Operation::Compare { function, flush, sources, combine, destination, complement } => {
                let operation = Compare { function, flush, sources, combine, destination, complement };
                compute::compare(&mut warp.registers, &operation, mask);
            }
            Operation::Carry { carrying, sources, destination, carry } => {
                compute::carry(&mut warp.registers, carrying, *sources, *destination, *carry, mask);
            }
            Operation::Pack { destination, parts, bits } => {
                compute::pack(&mut warp.registers, *destination, parts, *bits, mask);
            }
            Operation::Unpack { destinations, source, bits } => {
                compute::unpack(&mut warp.registers, destinations, *source, *bits, mask);
            }
            Operation::Load { access, destinations } => self.load(block, warp, access, destinations, mask)?,
            Operation::Store { access, sources } => self.store(block, warp, access, sources, mask)?,
            Operation::Atomic(atomic) => self.atomic(block, warp, atomic, mask)?,
            Operation::CopyAsync { shared, global, bytes, source_bytes } => {
                self.copy_async(block, warp, [shared, global], *bytes, *source_bytes, mask)?;
            }
            Operation::Fence { scope } => self.fence(warp, *scope, mask),
            &Operation::Branch { target } => return Ok(Flow::Jump { mask, target }),
            Operation::BranchTable { index, targets } => {
                return branch_table(&warp.registers[*index as usize], targets, group, mask, pc);
            }
            Operation::Call(call) => {
                enter(warp, call, pc, mask);
                return Ok(Flow::Jump { mask, target: call.target });
            }
            Operation::Return => return Ok(self.leave(warp, group, mask, pc)),
            Operation::Exit => return Ok(Flow::End(mask)),
            Operation::Trap => return Err(first(mask, FaultKind::Trap)),
            Operation::Barrier(barrier) => return self.arrive(block, warp, barrier, mask),
            Operation::WarpBarrier { .. }
            | Operation::Shuffle { .. }
            | Operation::Vote { .. }
            | Operation::Match { .. }
            | Operation::Reduce { .. } => return self.collective(warp, &instruction.operation, mask),
            &Operation::ActiveMask { destination } => {
                for lane in lanes(mask) {
                    warp.registers[destination as usize][lane] = u64::from(mask);
                }
            }
            &Operation::Clock { destination } => {
                for lane in lanes(mask) {
                    warp.registers[destination as usize][lane] = self.statistics.steps;
                }
            }
            Operation::Sleep => return Ok(Flow::Yield),
            Operation::Nothing => {}
        }
        // A thread that looks at the same word again and again waits for another one.
        if self.polls > 4 { Ok(Flow::Yield) } else { Ok(Flow::Next) }
    }

    /// A barrier of the block: the lanes wait, or only leave word that they were there.
    fn arrive(&mut self, block: &mut Block, warp: &mut Warp, barrier: &Barrier, mask: u32) -> Result<Flow, LaneFault> {
        let read = |register: u32, lane: usize| warp.registers[register as usize][lane];
        let lane = mask.trailing_zeros() as usize;
        let number = read(barrier.number, lane) & 0xffff_ffff;
        let threads = barrier.threads.map(|register| read(register, lane) & 0xffff_ffff);
        let bad = number > 15 || threads.is_some_and(|threads| threads == 0 || threads % LANES as u64 != 0);
        if bad {
            let threads = threads.unwrap_or(u64::from(self.threads));
            return Err(LaneFault { lane, kind: FaultKind::BadBarrier { number, threads } });
        }
        if let BarrierAction::Arrive = barrier.action {
            self.arrive_without_waiting(block, warp, number as usize, mask);
            return Ok(Flow::Next);
        }
        let threads = threads.map(|threads| threads as u32);
        Ok(Flow::Wait { mask, wait: Wait::Barrier { number: number as u8, threads } })
    }

    /// A return: each lane goes on behind its call, or ends where it was not called.
    fn leave(&self, warp: &mut Warp, group: u32, mask: u32, pc: u32) -> Flow {
        if warp.stacks.is_empty() {
            return Flow::End(mask);
        }
        let mut targets: Vec<(u32, u32)> = Vec::new();
        let mut add = |target: u32, lanes: u32| match targets.iter_mut().find(|entry| entry.0 == target) {
            Some(entry) => entry.1 |= lanes,
            None => targets.push((target, lanes)),
        };
        let mut ended = 0;
        for lane in lanes(mask) {
            let Some(caller) = warp.stacks[lane].pop() else {
                ended |= 1 << lane;
                continue;
            };
            if let Operation::Call(call) = &self.kernel.code[caller as usize].operation {
                copy(warp, lane, &call.results);
            }
            add(caller + 1, 1 << lane);
        }
        if ended != 0 {
            // Lanes of the kernel itself and of a function are never in one group.
            return Flow::End(ended);
        }
        if group != mask {
            add(pc + 1, group & !mask);
        }
        Flow::Scatter(targets)
    }
}

/// A fault of a mask's first lane.
pub(super) fn first(mask: u32, kind: FaultKind) -> LaneFault {
    LaneFault { lane: mask.trailing_zeros() as usize, kind }
}

fn branch_table(
    index: &[u64; LANES],
    targets: &[u32],
    group: u32,
    mask: u32,
    pc: u32,
) -> Result<Flow, LaneFault> {
    let mut reached: Vec<(u32, u32)> = if group == mask { Vec::new() } else { vec![(pc + 1, group & !mask)] };
    for lane in lanes(mask) {
        let index = index[lane] & 0xffff_ffff;
        let Some(&target) = targets.get(index as usize) else {
            return Err(LaneFault { lane, kind: FaultKind::BadBranch { index, targets: targets.len() } });
        };
        match reached.iter_mut().find(|entry| entry.0 == target) {
            Some(entry) => entry.1 |= 1 << lane,
            None => reached.push((target, 1 << lane)),
        }
    }
    Ok(Flow::Scatter(reached))
}

fn enter(warp: &mut Warp, call: &Call, pc: u32, mask: u32) {
    if warp.stacks.is_empty() {
        warp.stacks = vec![Vec::new(); LANES];
    }
    for lane in lanes(mask) {
        warp.stacks[lane].push(pc);
        copy(warp, lane, &call.arguments);
    }
}

/// Copies parameters within a lane's local memory.
fn copy(warp: &mut Warp, lane: usize, copies: &[Copy]) {
    let start = lane * warp.local_size;
    for copy in copies {
        let from = start + copy.from as usize;
        warp.local.copy_within(from..from + copy.bytes as usize, start + copy.to as usize);
    }
}
