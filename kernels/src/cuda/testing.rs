//! Launches carried out by the PTX interpreter.

use std::collections::HashMap;

use npc_ptx_interpreter::{self as ptx, Fault, Memory, Module, Options, Schedule, Statistics};

use super::{Argument, DevicePointer, Launch, Source};

/// The stand-in for a GPU.
pub struct Device {
    pub memory: Memory,
    modules: HashMap<Source, Module>,
    schedule: Schedule,
    most_blocks: u32,
    pub statistics: Vec<Statistics>,
}

impl Device {
    pub fn new(schedule: Schedule) -> Self {
        let most_blocks = u32::MAX;
        Device { memory: Memory::new(), modules: HashMap::new(), schedule, most_blocks, statistics: Vec::new() }
    }

    /// A device that, under a random schedule, runs no more than two blocks along x: each has several items then, as it has where
    /// a tensor is large. For kernels whose blocks take items in turns.
    pub fn narrow(schedule: Schedule) -> Self {
        let most_blocks = if matches!(schedule, Schedule::Random(_)) { 2 } else { u32::MAX };
        Device { most_blocks, ..Device::new(schedule) }
    }

    pub fn put<T: ptx::Pod>(&mut self, data: &[T]) -> DevicePointer {
        DevicePointer(self.memory.alloc_from(data))
    }

    pub fn get<T: ptx::Pod>(&self, at: DevicePointer, count: usize) -> Vec<T> {
        self.memory.read(at.0, count).unwrap()
    }

    /// Runs other PTX than what is checked in: with something planted.
    pub fn replace(&mut self, source: Source, ptx: &str) {
        self.modules.insert(source, Module::parse(ptx).unwrap());
    }

    pub fn run(&mut self, launch: &Launch) {
        let statistics = self.attempt(launch);
        self.statistics.push(statistics.unwrap_or_else(|fault| panic!("{}: {fault}", launch.kernel)));
    }

    /// A launch that may be faulty.
    pub fn attempt(&mut self, launch: &Launch) -> Result<Statistics, Fault> {
        let module = self.modules.entry(launch.source).or_insert_with(|| Module::parse(launch.source.ptx()).unwrap());
        let arguments: Vec<ptx::Argument> = (launch.arguments.iter())
            .map(|argument| match argument {
                Argument::U32(x) => ptx::Argument::U32(*x),
                Argument::U64(x) => ptx::Argument::U64(*x),
                Argument::F32(x) => ptx::Argument::F32(*x),
                Argument::Pointer(p) => ptx::Argument::U64(p.0),
                Argument::Bytes(bytes) => ptx::Argument::Bytes(bytes.clone()),
            })
            .collect();
        let described = ptx::Launch {
            kernel: launch.kernel,
            grid: [launch.grid[0].min(self.most_blocks), launch.grid[1], launch.grid[2]],
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            arguments: &arguments,
        };
        let options = Options { schedule: self.schedule, ..Options::default() };
        ptx::launch_with(module, &mut self.memory, &described, &options)
    }
}
