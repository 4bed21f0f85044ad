//! Who goes next: blocks, warps, and the groups of a diverged warp.

use super::block::{Block, Shared};
use super::step::Flow;
use super::warp::{Group, Wait, Warp};
use super::{LANES, Machine, coordinates};
use crate::fault::Fault;
use crate::launch::{Schedule, Statistics};

/// Steps of a long turn.
const TURN: u64 = 512;
/// How many blocks a random schedule looks ahead for the next one to start.
const WINDOW: usize = 32;

/// The order in which blocks start.
struct Starts {
    next: u64,
    end: u64,
    window: Vec<u64>,
}

impl Starts {
    fn next(&mut self, machine: &mut Machine<'_>) -> Option<u64> {
        match machine.options.schedule {
            Schedule::InOrder | Schedule::Reversed if self.next >= self.end => None,
            Schedule::InOrder => {
                self.next += 1;
                Some(self.next - 1)
            }
            Schedule::Reversed => {
                self.end -= 1;
                Some(self.end)
            }
            Schedule::Random(_) => {
                while self.window.len() < WINDOW && self.next < self.end {
                    self.window.push(self.next);
                    self.next += 1;
                }
                let chosen = machine.random.below(self.window.len());
                (!self.window.is_empty()).then(|| self.window.swap_remove(chosen))
            }
        }
    }
}

impl Machine<'_> {
    /// Runs the whole grid.
    pub fn run(mut self) -> Result<Statistics, Fault> {
        let all = self.grid.iter().map(|&size| u64::from(size)).product();
        let wanted = self.options.blocks.clone().unwrap_or(0..all);
        let mut starts = Starts { next: wanted.start, end: wanted.end.min(all), window: Vec::new() };
        let mut resident: Vec<Block> = Vec::new();
        let mut serial = 0;
        let mut turn = 0_usize;
        loop {
            // A block that is not needed yet is not started: one new block for each round of turns.
            if resident.len() < self.options.resident_blocks.max(1) && (turn >= resident.len() || resident.is_empty()) {
                turn = 0;
                if let Some(linear) = starts.next(&mut self) {
                    resident.push(self.start(linear, serial));
                    serial += 1;
                    turn = resident.len() - 1;
                } else if resident.is_empty() {
                    return Ok(self.statistics);
                }
            }
            let index = match self.options.schedule {
                Schedule::Random(_) => self.random.below(resident.len()),
                _ => turn % resident.len(),
            };
            turn += 1;
            let mut block = resident.swap_remove(index);
            self.block_turn(&mut block)?;
            if block.live() == 0 {
                self.note_progress();
                for warp in block.warps {
                    self.spare_registers.push(warp.registers);
                }
            } else {
                resident.push(block);
                let last = resident.len() - 1;
                resident.swap(index, last);
            }
        }
    }

    fn start(&mut self, linear: u64, serial: u32) -> Block {
        let index = coordinates(linear, self.grid);
        let shared = Shared::new(self.kernel, self.dynamic_shared);
        self.started.push(linear);
        let (arrived, joins) = ([0; 16], Default::default());
        let mut block = Block { index, serial, warps: Vec::new(), shared, arrived, joins };
        for number in 0..self.threads.div_ceil(LANES as u32) {
            let warp = self.new_warp(&block, number);
            block.warps.push(warp);
        }
        block
    }

    /// Gives turns to a block's warps, each once.
    fn block_turn(&mut self, block: &mut Block) -> Result<(), Fault> {
        let count = block.warps.len();
        for turn in 0..count {
            let index = match self.options.schedule {
                Schedule::InOrder => turn,
                Schedule::Reversed => count - 1 - turn,
                Schedule::Random(_) => self.random.below(count),
            };
            if !block.warps[index].can_run() {
                continue;
            }
            let length = match self.options.schedule {
                Schedule::Random(_) => 1 << self.random.below(9),
                _ => TURN,
            };
            let mut warp = std::mem::take(&mut block.warps[index]);
            let outcome = self.warp_turn(block, &mut warp, length);
            block.warps[index] = warp;
            outcome?;
            self.settle(block)?;
        }
        Ok(())
    }

    fn warp_turn(&mut self, block: &mut Block, warp: &mut Warp, length: u64) -> Result<(), Fault> {
        let end = self.statistics.steps + length;
        self.polls = 0;
        warp.turns = warp.turns.wrapping_add(1);
        while self.statistics.steps < end {
            let Some(index) = self.choose(warp) else { return Ok(()) };
            let Group { pc, mask, .. } = warp.groups[index];
            let flow = self.step(block, warp, pc, mask).map_err(|fault| self.fault(block, warp.number, pc, fault))?;
            let yielded = matches!(flow, Flow::Yield);
            self.follow(warp, index, flow);
            if warp.groups.len() > 1 {
                warp.merge();
            }
            if yielded {
                break;
            }
        }
        let place = warp.groups.first().map_or((0, 1), |group| (group.pc, group.mask));
        self.check_budget().map_err(|kind| self.fault(block, warp.number, place.0, super::step::first(place.1, kind)))
    }

    /// The group of a warp that goes next. The one that is furthest behind lets groups meet again soon; every few
    /// turns another one goes, because the one behind may wait for it.
    fn choose(&mut self, warp: &Warp) -> Option<usize> {
        if let [only] = warp.groups.as_slice() {
            return (only.wait == Wait::Nothing).then_some(0);
        }
        let ready = warp.groups.iter().enumerate().filter(|(_, group)| group.wait == Wait::Nothing);
        let forwards = match self.options.schedule {
            Schedule::InOrder => warp.turns % 4 != 0,
            Schedule::Reversed => warp.turns % 4 == 0,
            Schedule::Random(seed) => (u64::from(warp.turns) ^ seed) % 3 != 0,
        };
        let place = |group: &Group| if forwards { group.pc } else { u32::MAX - group.pc };
        ready.min_by_key(|(_, group)| place(group)).map(|(index, _)| index)
    }

    /// Moves a group on.
    fn follow(&mut self, warp: &mut Warp, index: usize, flow: Flow) {
        let group = &mut warp.groups[index];
        let (pc, all) = (group.pc, group.mask);
        match flow {
            Flow::Next | Flow::Yield => group.pc += 1,
            Flow::Jump { mask, target } if mask == all => group.pc = target,
            Flow::Jump { mask, target } => {
                group.mask = all & !mask;
                group.pc += 1;
                warp.groups.push(Group { pc: target, mask, wait: Wait::Nothing });
            }
            Flow::Scatter(targets) => {
                warp.groups.swap_remove(index);
                warp.groups.extend(targets.into_iter().map(|(pc, mask)| Group { pc, mask, wait: Wait::Nothing }));
            }
            Flow::End(mask) => {
                warp.live &= !mask;
                if mask == all {
                    warp.groups.swap_remove(index);
                } else {
                    group.mask = all & !mask;
                    group.pc += 1;
                }
                self.note_progress();
                warp.recheck();
            }
            Flow::Wait { mask, wait } => {
                group.mask = mask;
                group.wait = wait;
                if mask != all {
                    warp.groups.push(Group { pc: pc + 1, mask: all & !mask, wait: Wait::Nothing });
                }
            }
        }
    }
}
