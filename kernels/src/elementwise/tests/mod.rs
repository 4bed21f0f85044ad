//! Tests of the expression and everything that runs it.

mod assemble;
mod blocks;
mod functions;
mod generated;
mod random;
mod types;

use super::ptx::{Argument, generate, module};
use super::{DType, Expression};
use npc_ptx_interpreter::{Argument as Passed, Launch, Memory, Module, Schedule, launch};

/// The outputs' bytes as the interpreter computes them.
fn interpret(expression: &Expression, inputs: &[Vec<u8>], aligned: bool, schedule: Schedule) -> Vec<Vec<u8>> {
    let generated = generate(expression, aligned).unwrap();
    let parsed = Module::parse(&module(&generated.kernels)).unwrap();
    let mut memory = Memory::new();
    let inputs: Vec<u64> = inputs.iter().map(|bytes| memory.alloc_from(bytes)).collect();
    let sizes: Vec<usize> = expression.outputs().iter().map(|(t, n)| t.bytes() * n.iter().product::<usize>()).collect();
    let outputs: Vec<u64> = sizes.iter().map(|bytes| memory.alloc(*bytes)).collect();
    let scratch = memory.alloc(generated.scratch);
    for kernel in &generated.kernels {
        let address = |argument: &Argument| match *argument {
            Argument::Input(i) => inputs[i],
            Argument::Output(i) => outputs[i],
            Argument::Scratch => scratch,
        };
        let arguments: Vec<Passed> = kernel.arguments.iter().map(|a| Passed::U64(address(a))).collect();
        let how = Launch {
            kernel: &kernel.name,
            grid: [kernel.grid, 1, 1],
            block: [kernel.block, 1, 1],
            dynamic_shared: kernel.shared,
            arguments: &arguments,
        };
        launch(&parsed, &mut memory, &how, schedule).unwrap_or_else(|fault| panic!("{fault}\n{}", kernel.entry));
    }
    outputs.iter().zip(sizes).map(|(at, bytes)| memory.read::<u8>(*at, bytes).unwrap()).collect()
}

/// Repeatable values for a tensor of `dtype`: mostly small, some of them special.
fn values(dtype: DType, count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::new();
    for _ in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (pick, raw) = (state >> 33 & 31, (state >> 38) as u32);
        let small = raw as f32 / (1 << 24) as f32 - 2.0;
        let float = match pick {
            0 => [0.0, -0.0, 1.0, -1.0, 2.5, 1e30, -1e-40, 100.0][raw as usize % 8],
            1 => f32::from_bits(raw << 7),
            _ => small,
        };
        let integer = match pick {
            0 => [0, 1, -1, i64::MIN, i64::MAX, i64::from(i32::MIN), 1 << 40, 7][raw as usize % 8],
            _ => i64::from(raw % 41) - 20,
        };
        match dtype {
            DType::F32 => bytes.extend(float.to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(float).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(float).to_le_bytes()),
            DType::I32 => bytes.extend((integer as i32).to_le_bytes()),
            DType::I64 => bytes.extend(integer.to_le_bytes()),
            DType::Bool => bytes.push((raw & 1) as u8),
        }
    }
    bytes
}
