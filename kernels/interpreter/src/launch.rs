//! Launches: what the host passes, and what it gets back.

use std::ops::Range;

use crate::fault::{Fault, FaultKind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::module::Module;
use crate::program::Kernel;

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    U32(u32),
    /// Pointers, too.
    U64(u64),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    /// A struct passed by value.
    Bytes(Vec<u8>),
}

impl Argument {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Argument::U32(value) => value.to_le_bytes().to_vec(),
            Argument::U64(value) => value.to_le_bytes().to_vec(),
            Argument::I32(value) => value.to_le_bytes().to_vec(),
            Argument::I64(value) => value.to_le_bytes().to_vec(),
            Argument::F32(value) => value.to_le_bytes().to_vec(),
            Argument::F64(value) => value.to_le_bytes().to_vec(),
            Argument::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// A kernel, its grid and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'a str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond what the kernel declares.
    pub dynamic_shared: u32,
    pub arguments: &'a [Argument],
}

/// In which order blocks, warps and diverged threads get their turns. A kernel must give the same results under all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// The first goes first, for long turns.
    InOrder,
    /// The last goes first, for long turns.
    Reversed,
    /// Anyone goes next, for turns of any length; the seed decides.
    Random(u64),
}

/// How a launch is run and what is watched.
#[derive(Clone, Debug)]
pub struct Options {
    pub schedule: Schedule,
    /// Watch for data races.
    pub races: bool,
    /// Watch for reads of memory that was never written.
    pub uninitialised: bool,
    /// How many blocks run at the same time. A kernel whose blocks wait for later blocks needs its whole grid.
    pub resident_blocks: usize,
    /// Steps (instructions of a warp) after which a launch has livelocked, if in all of them no memory changed, no
    /// barrier was passed and no thread ended.
    pub patience: u64,
    /// The most steps that a launch may take.
    pub budget: u64,
    /// Run only these blocks, numbered x first, of a grid too large to be run whole.
    pub blocks: Option<Range<u64>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            schedule: Schedule::InOrder,
            races: true,
            uninitialised: true,
            resident_blocks: 256,
            patience: 20_000_000,
            budget: u64::MAX,
            blocks: None,
        }
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions, counted once for each thread that carried them out.
    pub instructions: u64,
    /// Instructions, counted once for each group of threads that carried them out together.
    pub steps: u64,
    /// Bytes that loads and atomics asked of global memory.
    pub global_loaded_bytes: u64,
    /// Bytes that stores and atomics gave to global memory.
    pub global_stored_bytes: u64,
    /// Bytes of global memory that were loaded at least once.
    pub distinct_loaded_bytes: u64,
    /// Bytes of global memory that were stored at least once.
    pub distinct_stored_bytes: u64,
    pub shared_loaded_bytes: u64,
    pub shared_stored_bytes: u64,
    /// Atomic operations, counted once for each thread.
    pub atomics: u64,
    /// Barriers that whole blocks passed.
    pub barriers: u64,
}

/// Runs a kernel to its end under a schedule, watching for everything that [`Options`] knows.
///
/// # Errors
/// The first [`Fault`], after which memory holds what was written until then.
pub fn launch(
    module: &Module,
    memory: &mut Memory,
    launch: &Launch<'_>,
    schedule: Schedule,
) -> Result<Statistics, Fault> {
    launch_with(module, memory, launch, &Options { schedule, ..Options::default() })
}

/// Runs a kernel to its end.
///
/// # Errors
/// The first [`Fault`], after which memory holds what was written until then.
pub fn launch_with(
    module: &Module,
    memory: &mut Memory,
    launch: &Launch<'_>,
    options: &Options,
) -> Result<Statistics, Fault> {
    let unknown = || Fault::on_host(FaultKind::UnknownKernel { name: launch.kernel.to_owned() });
    let kernel = module.kernel(launch.kernel).ok_or_else(unknown)?;
    check_geometry(kernel, launch).map_err(Fault::on_host)?;
    let parameters = parameters(kernel, launch.arguments).map_err(Fault::on_host)?;
    let variables = memory.module_variables(module);
    Machine::new(kernel, memory, launch, options, parameters, &variables).run()
}

/// The most shared memory that a block may have on today's devices.
const SHARED_LIMIT: u64 = 227 * 1024;

fn check_geometry(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), FaultKind> {
    let threads = launch.block.iter().map(|&size| u64::from(size)).fold(1, u64::saturating_mul);
    let blocks = launch.grid.iter().map(|&size| u64::from(size)).fold(1, u64::saturating_mul);
    if threads == 0 || blocks == 0 {
        return Err(FaultKind::Empty);
    }
    let limit = kernel.max_threads.unwrap_or(1024).min(1024);
    if threads > limit {
        return Err(FaultKind::TooManyThreads { threads, limit });
    }
    let bytes = u64::from(kernel.shared_bytes()) + u64::from(launch.dynamic_shared);
    if bytes > SHARED_LIMIT {
        return Err(FaultKind::TooMuchShared { bytes, limit: SHARED_LIMIT });
    }
    Ok(())
}

fn parameters(kernel: &Kernel, arguments: &[Argument]) -> Result<Vec<u8>, FaultKind> {
    let ranges = &kernel.parameters;
    if ranges.len() != arguments.len() {
        return Err(FaultKind::ArgumentCount { wanted: ranges.len(), given: arguments.len() });
    }
    let mut buffer = vec![0; ranges.last().map_or(0, |last| last.end as usize)];
    for (index, (range, argument)) in ranges.iter().zip(arguments).enumerate() {
        let bytes = argument.bytes();
        if bytes.len() != range.len() {
            return Err(FaultKind::ArgumentSize { index, wanted: range.len(), given: bytes.len() });
        }
        buffer[range.start as usize..range.end as usize].copy_from_slice(&bytes);
    }
    Ok(buffer)
}
