//! What a device does: kernels, copies, products, convolutions, graphs of them.

use crate::dnn::Convolution;
use crate::driver::{Driver, Loaded};
use crate::lt::Product;
use cudarc::driver::sys::CUresult;
use npc_ptx_interpreter as ptx;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone)]
pub enum Work {
    Kernel(Arc<Kernel>),
    /// From memory that was staged when the copy was asked for.
    FromStaged {
        to: u64,
        bytes: Arc<Vec<u8>>,
    },
    /// From pinned memory, as it is when the copy is carried out.
    FromPinned {
        to: u64,
        from: usize,
        bytes: usize,
        block: u64,
    },
    /// To pinned memory.
    ToPinned {
        to: usize,
        from: u64,
        bytes: usize,
        block: u64,
    },
    Within {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Memory of the pool is there from now on.
    Take(u64),
    /// It is there no more.
    Free(u64),
    Product(Arc<Product>),
    Convolution(Arc<Convolution>),
    Graph(Arc<Vec<Work>>),
}

pub struct Kernel {
    pub module: Arc<Loaded>,
    pub name: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub arguments: Vec<ptx::Argument>,
}

/// What went wrong, and the error that everything answers from then on.
pub type Failure = (CUresult, String);

/// Blocks that run at once: two on each of the device's multiprocessors.
const RESIDENT: usize = 2 * crate::cuda::MULTIPROCESSORS as usize;

/// The error for a fault that the interpreter found.
pub fn failure(place: &str, fault: &ptx::Fault) -> Failure {
    use ptx::FaultKind as Kind;
    let code = match fault.kind {
        Kind::OutOfBounds { .. } | Kind::UseAfterFree { .. } => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        Kind::Misaligned { .. } => CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        Kind::Livelock { .. } | Kind::Budget { .. } => CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
        _ => CUresult::CUDA_ERROR_LAUNCH_FAILED,
    };
    (code, format!("{place}: {fault}"))
}

impl Driver {
    pub fn execute(&mut self, work: &Work) -> Result<(), Failure> {
        match work {
            Work::FromStaged { to, .. } | Work::FromPinned { to, .. } => self.has_come_to(*to)?,
            Work::ToPinned { from, .. } => self.has_come_to(*from)?,
            Work::Within { to, from, .. } => self.has_come_to(*from).and_then(|()| self.has_come_to(*to))?,
            _ => {}
        }
        match work {
            Work::Take(at) => {
                self.unborn.remove(at);
                Ok(())
            }
            Work::Free(at) => {
                self.dying.remove(at);
                self.memory.free(*at).map_err(|fault| failure("freeing memory", &fault))
            }
            Work::Kernel(kernel) => self.run(kernel),
            Work::FromStaged { to, bytes } => {
                self.report.copies += 1;
                self.memory.write(*to, bytes).map_err(|fault| failure("a copy from the host", &fault))
            }
            Work::FromPinned { to, from, bytes, block } => {
                self.report.copies += 1;
                let (block, offset) = self.pinned_block(*from, *block)?;
                let data = self.pinned[&block].data[offset..offset + bytes].to_vec();
                self.memory.write(*to, &data).map_err(|fault| failure("a copy from pinned memory", &fault))
            }
            Work::ToPinned { to, from, bytes, block } => {
                self.report.copies += 1;
                let data = self.read_bytes(*from, *bytes)?;
                let (block, offset) = self.pinned_block(*to, *block)?;
                if let Some(pinned) = self.pinned.get_mut(&block) {
                    pinned.data[offset..offset + bytes].copy_from_slice(&data);
                }
                Ok(())
            }
            Work::Within { to, from, bytes } => {
                self.report.copies += 1;
                let data = self.read_bytes(*from, *bytes)?;
                self.memory.write(*to, &data).map_err(|fault| failure("a copy on the device", &fault))
            }
            Work::Product(product) => self.multiply(product),
            Work::Convolution(convolution) => self.convolve(convolution),
            Work::Graph(nodes) => {
                self.report.graphs += 1;
                nodes.iter().try_for_each(|node| self.execute(node))
            }
        }
    }

    /// Refuses memory that another stream is to take first.
    fn has_come_to(&self, address: u64) -> Result<(), Failure> {
        if self.is_taken(address) {
            return Ok(());
        }
        let what = format!("a copy finds that the memory at {address:#x} is not taken yet: nothing orders the streams");
        Err((CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, what))
    }

    /// Bytes of the device.
    pub fn read_bytes(&self, from: u64, bytes: usize) -> Result<Vec<u8>, Failure> {
        self.memory.read::<u8>(from, bytes).map_err(|fault| failure("a copy from the device", &fault))
    }

    /// The block of pinned memory that a copy was made for.
    fn pinned_block(&self, address: usize, number: u64) -> Result<(usize, usize), Failure> {
        let found = self.pinned.range(..=address).next_back();
        match found.filter(|(_, pinned)| pinned.number == number) {
            Some((start, _)) => Ok((*start, address - start)),
            None => {
                let what = format!("a copy finds that its pinned memory at {address:#x} was freed");
                Err((CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, what))
            }
        }
    }

    fn run(&mut self, kernel: &Kernel) -> Result<(), Failure> {
        self.report.kernels += 1;
        if kernel.module.unloaded.load(Ordering::Relaxed) {
            let what = format!("kernel `{}` runs after its module was unloaded", kernel.name);
            return Err((CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, what));
        }
        let before = self.runs.entry(kernel.name.clone()).or_default();
        let count = *before;
        *before += 1;
        if self.settings().faults(&kernel.name, count) {
            return Err((CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, format!("kernel `{}`, as was asked for", kernel.name)));
        }
        let launch = ptx::Launch {
            kernel: &kernel.name,
            grid: kernel.grid,
            block: kernel.block,
            dynamic_shared: kernel.shared,
            arguments: &kernel.arguments,
        };
        // Races within a launch are looked for where kernels themselves are tested.
        let schedule = ptx::Schedule::Random(self.report.kernels);
        let options = ptx::Options { schedule, races: false, resident_blocks: RESIDENT, ..ptx::Options::default() };
        match ptx::launch_with(&kernel.module.module, &mut self.memory, &launch, &options) {
            Ok(_) => Ok(()),
            Err(fault) => Err(failure("a launch", &fault)),
        }
    }
}
