//! What the tests share: schedules, launches, comparisons.
#![allow(dead_code)]

use npc_ptx_interpreter::{Argument, Fault, Launch, Memory, Module, Schedule, Statistics, launch};

pub const SCHEDULES: [Schedule; 4] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(1), Schedule::Random(77)];

pub const ROWS: &str = include_str!("../ptx/rows.ptx");
pub const SUMS: &str = include_str!("../ptx/sums.ptx");
pub const ELEMENTS: &str = include_str!("../ptx/elements.ptx");

/// A grid and a block along x.
pub fn line(grid: u32, block: u32) -> ([u32; 3], [u32; 3]) {
    ([grid, 1, 1], [block, 1, 1])
}

pub fn run(
    module: &Module,
    memory: &mut Memory,
    kernel: &str,
    (grid, block): ([u32; 3], [u32; 3]),
    dynamic_shared: u32,
    arguments: &[Argument],
    schedule: Schedule,
) -> Result<Statistics, Fault> {
    launch(module, memory, &Launch { kernel, grid, block, dynamic_shared, arguments }, schedule)
}

/// Numbers in -1..1 that look random.
pub fn noise(count: usize) -> Vec<f32> {
    let mut state = 12345_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[track_caller]
pub fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        assert!((found - expected).abs() <= allowed, "element {index}: {found} instead of {expected}");
    }
}
