//! Planted bugs: each must be found under every schedule, and its twin without the bug must pass.

mod support;

use npc_ptx_interpreter::{
    AccessKind, Argument, Fault, FaultKind, Launch, Memory, MemorySpace, Module, Options, Schedule, launch_with,
};
use support::{SCHEDULES, SUMS};

const FAULTS: &str = include_str!("ptx/faults.ptx");
const THREADS: u32 = 64;
const N: usize = 4 * THREADS as usize;

fn run(module: &Module, kernel: &str, blocks: u32, schedule: Schedule) -> Result<(), Fault> {
    let mut memory = Memory::new();
    let x: Vec<i32> = (0..N as i32).map(|i| i * 37 % 101 * 600).collect();
    let (x, y, words) = (memory.alloc_from(&x), memory.alloc(4 * N), memory.alloc_from(&[0_u32; N]));
    let arguments = [Argument::U64(x), Argument::U64(y), Argument::U64(words), Argument::U32(N as u32)];
    let (grid, block) = ([blocks, 1, 1], [THREADS, 1, 1]);
    let launch = Launch { kernel, grid, block, dynamic_shared: 0, arguments: &arguments };
    let options = Options { schedule, patience: 20_000, ..Options::default() };
    launch_with(module, &mut memory, &launch, &options).map(|_| ())
}

/// Checks a pair of kernels under all schedules.
#[track_caller]
fn pair(name: &str, blocks: u32, class: impl Fn(&FaultKind) -> bool) {
    let module = Module::parse(FAULTS).unwrap();
    for schedule in SCHEDULES {
        if let Err(fault) = run(&module, &format!("{name}_right"), blocks, schedule) {
            panic!("{schedule:?}: {fault}");
        }
        let fault = run(&module, &format!("{name}_wrong"), blocks, schedule).expect_err("the bug was not found");
        assert!(class(&fault.kind), "{schedule:?}: another fault was found: {fault}");
        let place = fault.place.expect("a thread is at fault");
        assert_eq!(place.kernel, format!("{name}_wrong"));
    }
}

fn is_race(space: MemorySpace) -> impl Fn(&FaultKind) -> bool {
    move |kind| matches!(kind, FaultKind::Race { space: found, .. } if *found == space)
}

fn is_outside(space: MemorySpace) -> impl Fn(&FaultKind) -> bool {
    move |kind| matches!(kind, FaultKind::OutOfBounds { space: found, .. } if *found == space)
}

macro_rules! pairs {
    ($($name:ident, $blocks:expr => $class:expr;)*) => {$(
        #[test]
        fn $name() {
            pair(stringify!($name), $blocks, $class);
        }
    )*};
}

pairs! {
    past_the_end, 5 => is_outside(MemorySpace::Global);
    before_the_start, 4 => is_outside(MemorySpace::Global);
    past_shared, 1 => is_outside(MemorySpace::Shared);
    past_local, 1 => is_outside(MemorySpace::Local);
    odd_vector, 1 => |kind| matches!(kind, FaultKind::Misaligned { bytes: 16, .. });
    unwritten_shared, 1 => |kind| matches!(kind, FaultKind::Uninitialised { space: MemorySpace::Shared, .. });
    no_barrier, 1 => |kind| {
        is_race(MemorySpace::Shared)(kind)
            || matches!(kind, FaultKind::Uninitialised { space: MemorySpace::Shared, .. })
    };
    no_second_barrier, 1 => is_race(MemorySpace::Shared);
    no_warp_barrier, 1 => is_race(MemorySpace::Shared);
    counter, 2 => is_race(MemorySpace::Global);
    shared_counter, 1 => is_race(MemorySpace::Shared);
    early_count, 1 => is_race(MemorySpace::Shared);
    narrow_atomic, 3 => is_race(MemorySpace::Global);
    last_block_writes, 5 => is_race(MemorySpace::Global);
    last_block_reads, 5 => is_race(MemorySpace::Global);
    last_block_volatile, 5 => is_race(MemorySpace::Global);
    flag_writer, 2 => is_race(MemorySpace::Global);
    flag_reader, 2 => is_race(MemorySpace::Global);
    neighbour_block, 4 => |kind| {
        is_race(MemorySpace::Global)(kind)
            || matches!(kind, FaultKind::Uninitialised { space: MemorySpace::Global, .. })
    };
    divergent_barrier, 1 => |kind| matches!(kind, FaultKind::DivergentBarrier { live: 64, other_line: Some(_), .. });
    divergent_shuffle, 1 => |kind| matches!(kind, FaultKind::DivergentWarp { mask: u32::MAX, .. });
    not_in_mask, 1 => |kind| matches!(kind, FaultKind::NotInMask { mask: 0xffff });
    waits_for_nothing, 2 => |kind| matches!(kind, FaultKind::Livelock { .. });
    stale_read, 1 => |kind| matches!(kind, FaultKind::StaleRead { .. });
    trap, 1 => |kind| matches!(kind, FaultKind::Trap);
}

#[test]
fn memory_that_was_freed() {
    let module = Module::parse(FAULTS).unwrap();
    let mut memory = Memory::new();
    let [x, y, words] = [(); 3].map(|()| memory.alloc_from(&[0_i32; N]));
    let arguments = [Argument::U64(x), Argument::U64(y), Argument::U64(words), Argument::U32(N as u32)];
    let (grid, block) = ([4, 1, 1], [THREADS, 1, 1]);
    let launch = Launch { kernel: "past_the_end_right", grid, block, dynamic_shared: 0, arguments: &arguments };
    launch_with(&module, &mut memory, &launch, &Options::default()).unwrap();
    memory.free(x).unwrap();
    let fault = launch_with(&module, &mut memory, &launch, &Options::default()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::UseAfterFree { access: AccessKind::Read, address: x, bytes: 4, start: x });
    assert!(matches!(memory.free(x).unwrap_err().kind, FaultKind::BadFree { .. }));
    assert!(matches!(memory.read::<i32>(x, 1).unwrap_err().kind, FaultKind::UseAfterFree { .. }));
}

#[test]
fn memory_that_was_never_written() {
    let module = Module::parse(FAULTS).unwrap();
    let mut memory = Memory::new();
    let [x, y, words] = [(); 3].map(|()| memory.alloc(4 * N));
    let arguments = [Argument::U64(x), Argument::U64(y), Argument::U64(words), Argument::U32(N as u32)];
    let (grid, block) = ([4, 1, 1], [THREADS, 1, 1]);
    let launch = Launch { kernel: "past_the_end_right", grid, block, dynamic_shared: 0, arguments: &arguments };
    memory.write(x, &[1_i32; 100]).unwrap();
    let fault = launch_with(&module, &mut memory, &launch, &Options::default()).unwrap_err();
    let space = MemorySpace::Global;
    assert_eq!(fault.kind, FaultKind::Uninitialised { space, address: x + 400, bytes: 4 });
    assert_eq!(
        fault.to_string(),
        format!(
            "kernel `past_the_end_right`, PTX line {}, block (1, 0, 0), thread (36, 0, 0): a read of 4 bytes of \
             global memory at {:#x} finds bytes that were never written",
            fault.place.as_ref().unwrap().line,
            x + 400
        )
    );
    // The host does not read them either.
    assert!(memory.read::<i32>(x, 100).is_ok());
    assert!(matches!(memory.read::<i32>(x, 101).unwrap_err().kind, FaultKind::Uninitialised { .. }));
    assert!(matches!(memory.read::<i32>(x, N + 1).unwrap_err().kind, FaultKind::OutOfBounds { .. }));
    assert!(matches!(memory.write(x - 4, &[0_i32]).unwrap_err().kind, FaultKind::OutOfBounds { .. }));
}

#[test]
fn a_barrier_over_the_grid_needs_the_whole_grid() {
    let module = Module::parse(SUMS).unwrap();
    let mut memory = Memory::new();
    let (a, b, barrier) = (memory.alloc_from(&[1_f32; 256]), memory.alloc(1024), memory.alloc_from(&[0_u32; 2]));
    let mut arguments = [a, b, barrier].map(Argument::U64).to_vec();
    arguments.extend([Argument::I32(256), Argument::I32(2)]);
    let launch =
        Launch { kernel: "neighbours", grid: [4, 1, 1], block: [64, 1, 1], dynamic_shared: 0, arguments: &arguments };
    let options = Options { resident_blocks: 3, patience: 20_000, ..Options::default() };
    let fault = launch_with(&module, &mut memory, &launch, &options).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Livelock { .. }), "{fault}");
}

#[test]
fn launches_that_do_not_fit() {
    let module = Module::parse(support::ROWS).unwrap();
    let mut memory = Memory::new();
    let mut kind = |kernel: &str, grid: u32, threads: u32, arguments: &[Argument]| {
        let (grid, block) = ([grid, 1, 1], [threads, 1, 1]);
        let launch = Launch { kernel, grid, block, dynamic_shared: 0, arguments };
        launch_with(&module, &mut memory, &launch, &Options::default()).unwrap_err().kind
    };
    assert!(matches!(kind("nothing", 1, 32, &[]), FaultKind::UnknownKernel { .. }));
    assert!(matches!(kind("transpose", 1, 32, &[]), FaultKind::ArgumentCount { wanted: 4, given: 0 }));
    assert!(matches!(kind("layer_norm", 1, 288, &[]), FaultKind::TooManyThreads { limit: 256, .. }));
    assert!(matches!(kind("transpose", 0, 32, &[]), FaultKind::Empty));
    assert!(matches!(kind("transpose", 1 << 31, 32, &[]), FaultKind::TooLong { axis: 0, .. }));
    assert!(matches!(kind("transpose", 1, 1025, &[]), FaultKind::TooLong { axis: 0, limit: 1024, .. }));
    let arguments = [Argument::U32(0), Argument::U64(0), Argument::I32(0), Argument::I32(0)];
    let size = FaultKind::ArgumentSize { index: 0, wanted: 8, given: 4 };
    assert_eq!(kind("transpose", 1, 32, &arguments), size);
}
