//! A kernel as it is run: decoded once, every name resolved, every constant in a register of its own.

use std::ops::Range;

use crate::parse::syntax::Space;
use crate::semantics::{Carrying, Combine, Function};
use crate::types::Type;

/// A register's number within its kernel. A register holds 64 bits for each of a warp's 32 threads.
pub(crate) type Register = u32;

/// A kernel ready to be launched.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Instruction>,
    pub(crate) registers: u32,
    /// Registers that hold the same value throughout, filled before a warp starts.
    pub(crate) fills: Vec<(Fill, Register)>,
    pub(crate) parameters: Vec<Range<u32>>,
    pub(crate) shared: Layout,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_shared: u32,
    pub(crate) local: Layout,
    pub(crate) max_threads: Option<u64>,
}

impl Kernel {
    /// The name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size of each parameter in bytes, in order.
    pub fn parameter_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.parameters.iter().map(|range| range.len())
    }

    /// Bytes of static shared memory, without the guard zones.
    pub fn shared_bytes(&self) -> u32 {
        self.shared.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// The most threads that a block may have, where the kernel says (`.maxntid`, `.reqntid`).
    pub fn max_threads(&self) -> Option<u64> {
        self.max_threads
    }
}

/// Where variables lie, with guard zones between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub ranges: Vec<Range<u32>>,
    pub size: u32,
}

/// A value that a register has from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fill {
    Constant(u64),
    Special(Special),
    /// The address of a variable of the module and an offset.
    Variable(usize, i64),
    /// The address of dynamic shared memory and an offset.
    DynamicShared(i64),
}

/// A special register whose value does not change while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(usize),
    Block(usize),
    Threads(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    LanesEqual,
    LanesBelow,
    LanesUpTo,
    LanesAbove,
    LanesFrom,
    Multiprocessor,
    Multiprocessors,
    Grid,
    DynamicShared,
    TotalShared,
}

/// An instruction and the place it came from.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    pub guard: Option<Guard>,
    pub line: u32,
}

/// The instruction is carried out where the predicate is set, or where it is not if negated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub register: Register,
    pub negated: bool,
}

/// A predicate operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predicate {
    pub register: Register,
    pub negated: bool,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Compute(Compute),
    Compare {
        function: Function,
        flush: bool,
        sources: [Register; 2],
        combine: Option<(Combine, Predicate)>,
        destination: Register,
        complement: Register,
    },
    Carry {
        carrying: Carrying,
        sources: [Register; 3],
        destination: Register,
        carry: Register,
    },
    Pack {
        destination: Register,
        parts: Box<[Register]>,
        bits: u32,
    },
    Unpack {
        destinations: Box<[Register]>,
        source: Register,
        bits: u32,
    },
    Load {
        access: Access,
        destinations: [Register; 4],
    },
    Store {
        access: Access,
        sources: [Register; 4],
    },
    Atomic(Atomic),
    CopyAsync {
        shared: Address,
        global: Address,
        bytes: u32,
        source_bytes: Register,
    },
    Branch {
        target: u32,
    },
    BranchTable {
        index: Register,
        targets: Box<[u32]>,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    Barrier(Barrier),
    WarpBarrier {
        mask: Register,
    },
    Shuffle {
        mode: ShuffleMode,
        destination: Register,
        valid: Register,
        source: Register,
        lane: Register,
        clamp: Register,
        mask: Register,
    },
    Vote {
        mode: VoteMode,
        destination: Register,
        source: Predicate,
        mask: Register,
    },
    Match {
        all: bool,
        bits: u32,
        destination: Register,
        uniform: Register,
        source: Register,
        mask: Register,
    },
    Reduce {
        function: Function,
        destination: Register,
        source: Register,
        mask: Register,
    },
    ActiveMask {
        destination: Register,
    },
    Clock {
        destination: Register,
    },
    Fence {
        scope: Scope,
    },
    Sleep,
    /// A hint, as `prefetch`.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Compute {
    pub function: Function,
    pub destination: Register,
    pub sources: [Register; 4],
    /// Which operands have single-precision subnormals flushed, one bit each.
    pub flush_sources: u8,
    pub flush_result: bool,
    pub saturate: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub space: Space,
    pub base: Register,
    pub offset: i64,
}

/// A load's or store's address, width and ordering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub address: Address,
    pub element: Type,
    pub count: u8,
    pub order: Order,
    /// Through the read-only cache, which sees no store of the same launch.
    pub non_coherent: bool,
}

/// How an access orders others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// `None` for an ordinary (weak) access.
    pub strong: Option<Scope>,
    pub acquire: bool,
    pub release: bool,
}

impl Order {
    pub const WEAK: Order = Order { strong: None, acquire: false, release: false };
}

/// Whom a strong access or a fence speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    Block,
    Device,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Atomic {
    pub access: Access,
    /// The new value from the old one and the operands.
    pub function: Function,
    pub destination: Register,
    pub sources: [Register; 2],
}

/// A call of a device function: its arguments lie in the thread's local memory and are copied.
#[derive(Debug)]
pub(crate) struct Call {
    pub target: u32,
    pub arguments: Box<[Copy]>,
    pub results: Box<[Copy]>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub from: u32,
    pub to: u32,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub number: Register,
    pub threads: Option<Register>,
    pub action: BarrierAction,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum BarrierAction {
    Wait,
    Arrive,
    Count { destination: Register, source: Predicate },
    All { destination: Register, source: Predicate },
    Any { destination: Register, source: Predicate },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}
