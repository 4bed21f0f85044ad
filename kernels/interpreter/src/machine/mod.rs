//! The reference device: blocks of warps of 32 threads, taking turns on one core.

mod access;
mod barrier;
mod block;
mod collective;
mod compute;
mod order;
mod random;
mod schedule;
mod step;
mod warp;

use rustc_hash::FxHashMap;

use crate::fault::{Fault, FaultKind, Place};
use crate::launch::{Launch, Options, Statistics};
use crate::memory::Memory;
use crate::race::{View, Word};
use crate::program::{Fill, Kernel, Register, Special};
use block::Block;
use random::Random;
use warp::Warp;

/// Threads of a warp.
pub(crate) const LANES: usize = 32;

/// A fault of one thread of a warp.
#[derive(Debug)]
struct LaneFault {
    lane: usize,
    kind: FaultKind,
}

/// Lanes of a mask, lowest first.
fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// A launch in progress.
pub(crate) struct Machine<'a> {
    kernel: &'a Kernel,
    memory: &'a mut Memory,
    options: &'a Options,
    grid: [u32; 3],
    block: [u32; 3],
    threads: u32,
    dynamic_shared: u32,
    parameters: Vec<u8>,
    constants: Vec<(Register, u64)>,
    specials: Vec<(Register, Special)>,
    statistics: Statistics,
    random: Random,
    /// The step at which something last changed.
    progress: u64,
    /// Registers of warps that have ended: their constants stay good.
    spare_registers: Vec<Vec<[u64; LANES]>>,
    /// Strong loads since the turn began: a thread that waits for another is not worth a long turn.
    polls: u32,
    /// The number within the grid of each block, in the order of starting.
    started: Vec<u64>,
    /// The words of global memory through which threads speak.
    words: FxHashMap<u64, Word>,
}

impl<'a> Machine<'a> {
    pub fn new(
        kernel: &'a Kernel,
        memory: &'a mut Memory,
        launch: &Launch<'_>,
        options: &'a Options,
        parameters: Vec<u8>,
        variables: &[u64],
    ) -> Self {
        memory.launch += 1;
        let mut constants = Vec::new();
        let mut specials = Vec::new();
        for &(fill, register) in &kernel.fills {
            match fill {
                Fill::Constant(value) => constants.push((register, value)),
                Fill::Special(special) => specials.push((register, special)),
                Fill::DynamicShared(offset) => {
                    constants.push((register, u64::from(kernel.dynamic_shared).wrapping_add(offset as u64)));
                }
                Fill::Variable(number, offset) => {
                    constants.push((register, variables[number].wrapping_add(offset as u64)));
                }
            }
        }
        Machine {
            kernel,
            memory,
            options,
            grid: launch.grid,
            block: launch.block,
            threads: launch.block.iter().product(),
            dynamic_shared: launch.dynamic_shared,
            parameters,
            constants,
            specials,
            statistics: Statistics::default(),
            random: Random::new(options.schedule),
            progress: 0,
            spare_registers: Vec::new(),
            polls: 0,
            started: Vec::new(),
            words: FxHashMap::default(),
        }
    }

    /// Adds the place to a lane's fault.
    fn fault(&self, block: &Block, warp: u32, pc: u32, fault: LaneFault) -> Fault {
        let thread = warp * LANES as u32 + fault.lane as u32;
        let line = self.kernel.code.get(pc as usize).map_or(0, |instruction| instruction.line);
        let place = Place {
            kernel: self.kernel.name.clone(),
            line,
            block: block.index,
            thread: coordinates(u64::from(thread), self.block),
        };
        Fault { kind: fault.kind, place: Some(Box::new(place)) }
    }

    /// Something changed: the launch is not stuck.
    fn note_progress(&mut self) {
        self.progress = self.statistics.steps;
    }

    fn check_budget(&self) -> Result<(), FaultKind> {
        let steps = self.statistics.steps;
        if steps - self.progress > self.options.patience {
            return Err(FaultKind::Livelock { steps: steps - self.progress });
        }
        if steps > self.options.budget {
            return Err(FaultKind::Budget { steps });
        }
        Ok(())
    }

    fn new_warp(&mut self, block: &Block, number: u32) -> Warp {
        let registers = self.spare_registers.pop().unwrap_or_else(|| {
            let mut registers = vec![[0; LANES]; self.kernel.registers as usize];
            for &(register, value) in &self.constants {
                registers[register as usize] = [value; LANES];
            }
            registers
        });
        let threads = (self.threads - number * LANES as u32).min(LANES as u32);
        let mask = u32::MAX >> (LANES as u32 - threads);
        let mut warp = Warp::new(number, registers, mask, self.kernel.local.size as usize);
        if self.options.races {
            warp.views = (0..LANES as u8).map(|lane| View::new(block.serial, number as u16, lane)).collect();
        }
        for &(register, special) in &self.specials {
            warp.registers[register as usize] = std::array::from_fn(|lane| self.special(special, block, number, lane));
        }
        warp
    }

    fn special(&self, special: Special, block: &Block, warp: u32, lane: usize) -> u64 {
        let thread = coordinates(u64::from(warp) * LANES as u64 + lane as u64, self.block);
        let own = 1_u32 << lane;
        let value = match special {
            Special::Thread(axis) => thread[axis],
            Special::Block(axis) => block.index[axis],
            Special::Threads(axis) => self.block[axis],
            Special::Blocks(axis) => self.grid[axis],
            Special::Lane => lane as u32,
            Special::Warp => warp,
            Special::Warps => self.threads.div_ceil(LANES as u32),
            Special::LanesEqual => own,
            Special::LanesBelow => own - 1,
            Special::LanesUpTo => own | (own - 1),
            Special::LanesAbove => !(own | (own - 1)),
            Special::LanesFrom => !(own - 1),
            Special::Multiprocessor => block.serial % 4,
            Special::Multiprocessors => 4,
            Special::Grid => self.memory.launch,
            Special::DynamicShared => self.dynamic_shared,
            Special::TotalShared => self.kernel.shared_bytes() + self.dynamic_shared,
        };
        u64::from(value)
    }
}

/// The place along x, y, z of a number that counts x first.
fn coordinates(number: u64, sizes: [u32; 3]) -> [u32; 3] {
    let [width, height] = [u64::from(sizes[0]), u64::from(sizes[1])];
    [(number % width) as u32, (number / width % height) as u32, (number / width / height) as u32]
}
