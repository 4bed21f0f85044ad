//! Thread-instructions a second on one core, with and without the checks. Prints; asserts nothing.

use std::time::Instant;

use npc_ptx_interpreter::{Argument, Launch, Memory, Module, Options, launch_with};

fn main() {
    let rows = Module::parse(include_str!("../tests/ptx/rows.ptx")).expect("the module is well-formed");
    let elements = Module::parse(include_str!("../tests/ptx/elements.ptx")).expect("the module is well-formed");
    let sums = Module::parse(include_str!("../tests/ptx/sums.ptx")).expect("the module is well-formed");
    let data: Vec<f32> = (0..1 << 20).map(|i| (i % 1013) as f32 * 1e-3 - 0.5).collect();
    let wide = [Argument::I32(4096), Argument::F32(1e-5)];
    report("layer_norm", &rows, &data, ([256, 1, 1], [256, 1, 1]), 0, |memory, x| {
        let (scale, bias) = (memory.alloc_from(&data[..4096]), memory.alloc_from(&data[..4096]));
        let (y, mean, deviation) = (memory.alloc(4 << 20), memory.alloc(1024), memory.alloc(1024));
        [[x, scale, bias, y, mean, deviation].map(Argument::U64).as_slice(), &wide].concat()
    });
    report("functions", &elements, &data, ([512, 1, 1], [128, 1, 1]), 0, |memory, x| {
        let y = memory.alloc(64 << 16);
        vec![Argument::U64(x), Argument::U64(y), Argument::I32(1 << 16)]
    });
    report("dropout", &elements, &data, ([1024, 1, 1], [256, 1, 1]), 0, |memory, x| {
        let (y, bits) = (memory.alloc(4 << 20), memory.alloc(4 << 20));
        let tail = [Argument::U64(7), Argument::U64(9), Argument::F32(0.9), Argument::U32(1 << 18)];
        [[x, y, bits].map(Argument::U64).as_slice(), &tail].concat()
    });
    report("last_block_sum", &sums, &data, ([128, 1, 1], [256, 1, 1]), 1024, |memory, x| {
        let (partial, arrived, total) = (memory.alloc(512), memory.alloc_from(&[0_u32]), memory.alloc(4));
        [x, partial, arrived, total, 1 << 18].map(Argument::U64).to_vec()
    });
}

fn report(
    kernel: &str,
    module: &Module,
    data: &[f32],
    (grid, block): ([u32; 3], [u32; 3]),
    dynamic_shared: u32,
    arguments: impl Fn(&mut Memory, u64) -> Vec<Argument>,
) {
    for checks in [false, true] {
        let options = Options { races: checks, uninitialised: checks, ..Options::default() };
        let mut memory = Memory::new();
        let x = memory.alloc_from(data);
        let arguments = arguments(&mut memory, x);
        let launch = Launch { kernel, grid, block, dynamic_shared, arguments: &arguments };
        let start = Instant::now();
        let statistics = launch_with(module, &mut memory, &launch, &options).expect("the kernel is right");
        let seconds = start.elapsed().as_secs_f64();
        let millions = statistics.instructions as f64 / seconds / 1e6;
        let checks = if checks { "with checks" } else { "without checks" };
        println!("{kernel:>16} {checks:>14}: {millions:7.1} M thread-instructions/s, {seconds:.3} s");
    }
}
