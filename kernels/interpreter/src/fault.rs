//! What a launch or a copy can do wrong.

use std::fmt;

use thiserror::Error;

/// Something that must not happen on a device, and where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{kind}", Place::prefix(.place))]
pub struct Fault {
    pub kind: FaultKind,
    /// The thread at fault; `None` where the host is.
    pub place: Option<Box<Place>>,
}

impl Fault {
    pub(crate) fn on_host(kind: FaultKind) -> Fault {
        Fault { kind, place: None }
    }
}

/// A thread at an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub kernel: String,
    /// The line of the PTX text, counted from one.
    pub line: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
}

impl Place {
    fn prefix(place: &Option<Box<Place>>) -> String {
        place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel `{}`, PTX line {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})",
            self.kernel, self.line
        )
    }
}

/// The memory that an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySpace {
    Global,
    Shared,
    Local,
    Param,
}

impl fmt::Display for MemorySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemorySpace::Global => "global",
            MemorySpace::Shared => "shared",
            MemorySpace::Local => "local",
            MemorySpace::Param => "parameter",
        })
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    Read,
    Write,
    Atomic,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Atomic => "atomic access",
        })
    }
}

/// The classes of faults.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FaultKind {
    #[error(
        "a {access} of {bytes} bytes at {address:#x} is outside every {space} variable{}",
        nearest_text(.address, .nearest)
    )]
    OutOfBounds {
        space: MemorySpace,
        access: AccessKind,
        address: u64,
        bytes: u64,
        /// The start and length of the nearest allocation before the address.
        nearest: Option<(u64, u64)>,
    },
    #[error("a {access} of {bytes} bytes at {address:#x} needs an address that is a multiple of {bytes}")]
    Misaligned { access: AccessKind, address: u64, bytes: u64 },
    #[error("a {access} of {bytes} bytes at {address:#x} touches the allocation at {start:#x}, which was freed")]
    UseAfterFree { access: AccessKind, address: u64, bytes: u64, start: u64 },
    #[error("no live allocation begins at {address:#x}, so it cannot be freed")]
    BadFree { address: u64 },
    #[error("the {bytes} bytes of {space} memory at {address:#x} were never written, not all of them, and are read")]
    Uninitialised { space: MemorySpace, address: u64, bytes: u64 },
    #[error(
        "a {access} of {space} memory at {address:#x} races with a {earlier} by thread {thread} of block {block}: \
         nothing orders the two"
    )]
    Race {
        space: MemorySpace,
        access: AccessKind,
        address: u64,
        earlier: AccessKind,
        /// The other thread, as a number within its block, and its block, as a number within the grid.
        thread: u32,
        block: u64,
    },
    #[error("a load through the read-only cache at {address:#x} finds bytes that this launch has written")]
    StaleRead { address: u64 },
    #[error(
        "{waiting} of {live} threads wait at the barrier, and the others never reach it{}",
        other_text(.other_line)
    )]
    DivergentBarrier {
        waiting: u32,
        live: u32,
        /// The line where another thread of the block waits.
        other_line: Option<u32>,
    },
    #[error("the instruction waits for the lanes {missing:#010x} of its mask {mask:#010x}, which never reach it")]
    DivergentWarp { mask: u32, missing: u32 },
    #[error("the thread is not in the mask {mask:#010x} that it passes")]
    NotInMask { mask: u32 },
    #[error("{number} is no barrier of a block with {threads} threads")]
    BadBarrier { number: u64, threads: u64 },
    #[error("nothing has changed for {steps} steps of a warp: the threads wait for something that never comes")]
    Livelock { steps: u64 },
    #[error("the launch has not ended after {steps} steps of a warp")]
    Budget { steps: u64 },
    #[error("the index {index} is beyond the {targets} targets of the branch")]
    BadBranch { index: u64, targets: usize },
    #[error("the kernel gave up with a trap")]
    Trap,
    #[error("the module has no kernel `{name}`")]
    UnknownKernel { name: String },
    #[error("the kernel takes {wanted} parameters, and {given} were given")]
    ArgumentCount { wanted: usize, given: usize },
    #[error("parameter {index} takes {wanted} bytes, and {given} were given")]
    ArgumentSize { index: usize, wanted: usize, given: usize },
    #[error("a block of {threads} threads is more than the {limit} that the kernel or the device takes")]
    TooManyThreads { threads: u64, limit: u64 },
    #[error("the grid or the block is empty")]
    Empty,
    #[error("{bytes} bytes of shared memory are more than the {limit} of a block")]
    TooMuchShared { bytes: u64, limit: u64 },
}

fn nearest_text(address: &u64, nearest: &Option<(u64, u64)>) -> String {
    match nearest {
        None => String::new(),
        Some((start, bytes)) => {
            let offset = address.wrapping_sub(*start);
            format!("; it is {offset} bytes into the one at {start:#x}, which has {bytes} bytes")
        }
    }
}

fn other_text(line: &Option<u32>) -> String {
    line.map(|line| format!("; some wait at line {line} instead")).unwrap_or_default()
}
