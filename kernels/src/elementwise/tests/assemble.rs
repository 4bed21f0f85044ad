//! Generated kernels through NVIDIA's assembler, where it is at hand.

use crate::elementwise::ptx::{generate, module};
use crate::elementwise::{DType, Expression, Operand, Operation, Reduce, Scalar};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `NPC_PTXAS`, or the one of the CUDA compiler's Python wheel below `target/nvrtc`.
fn ptxas() -> Option<PathBuf> {
    let wheel = "../target/nvrtc/nvidia/cuda_nvcc/bin/ptxas";
    let wheel = || Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(wheel)).filter(|path| path.is_file());
    std::env::var_os("NPC_PTXAS").map(PathBuf::from).or_else(wheel)
}

/// Every operation that takes operands of `dtype`, one after the other, with constants and with a repeated input.
fn everything(shape: &[usize], dtype: DType, reduce: Option<(Reduce, &[usize])>) -> Expression {
    use Operation::*;
    let mut b = Expression::builder(shape);
    let x = b.input(dtype, shape).unwrap();
    let row = b.input(dtype, &shape[shape.len() - 1..]).unwrap();
    let flag = b.input(DType::Bool, shape).unwrap();
    let constant = Operand::Constant(
        dtype,
        match dtype {
            DType::I32 => Scalar::I32(-7),
            DType::I64 => Scalar::I64(i64::MIN),
            DType::Bool => Scalar::Bool(true),
            _ => Scalar::Float(0.1),
        },
    );
    let mut last = x;
    for operation in [
        Add,
        Subtract,
        Multiply,
        Divide,
        Maximum,
        Minimum,
        Power,
        And,
        Or,
        Not,
        Negate,
        Absolute,
        Square,
        Sign,
        Relu,
        SquareRoot,
        ReciprocalSquareRoot,
        Reciprocal,
        Exp,
        Log,
        Tanh,
        Sigmoid,
        Erf,
        Sine,
        Cosine,
        Floor,
        Ceil,
        Round,
    ] {
        let operands = if operation.arity() == 1 { vec![last] } else { vec![last, row] };
        last = b.apply(operation, &operands).unwrap_or(last);
        let operands = if operation.arity() == 1 { vec![constant] } else { vec![constant, last] };
        last = b.apply(operation, &operands).and_then(|y| b.apply(Select, &[flag, y, last])).unwrap_or(last);
    }
    for comparison in [Less, LessOrEqual, Equal] {
        if let Ok(flag) = b.apply(comparison, &[last, constant]) {
            last = b.apply(Select, &[flag, constant, last]).unwrap();
        }
    }
    for to in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64, DType::Bool] {
        let cast = b.apply(Cast(to), &[last]).unwrap();
        b.output(cast).unwrap();
        let constant = b.apply(Cast(to), &[constant]).unwrap();
        b.output(constant).unwrap();
    }
    if let Some((reduce, axes)) = reduce.filter(|_| dtype != DType::Bool) {
        b.reduce(reduce, last, axes).unwrap();
    }
    b.finish().unwrap()
}

/// Tensors of 16 bits only, of which a thread takes eight elements.
fn halves(shape: &[usize], dtype: DType) -> Expression {
    let mut b = Expression::builder(shape);
    let mut last = b.input(dtype, shape).unwrap();
    let row = b.input(dtype, &[shape[0], 1]).unwrap();
    for _ in 0..6 {
        let x = b.input(dtype, shape).unwrap();
        let scaled = b.apply(Operation::Multiply, &[x, row]).unwrap();
        last = b.apply(Operation::Add, &[last, scaled]).and_then(|sum| b.apply(Operation::Erf, &[sum])).unwrap();
        b.output(last).unwrap();
    }
    b.finish().unwrap()
}

#[test]
fn the_assembler_takes_every_kernel_for_every_gpu_without_spills() {
    let Some(ptxas) = ptxas() else {
        println!("skipped: no ptxas (NPC_PTXAS, or nvidia-cuda-nvcc-cu12 below target/nvrtc)");
        return;
    };
    let mut kernels = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64, DType::Bool] {
        for reduce in [None, Some((Reduce::Mean, &[1usize][..])), Some((Reduce::Maximum, &[0]))] {
            kernels.extend(generate(&everything(&[300, 140], dtype, reduce), true).unwrap().kernels);
        }
        kernels.extend(generate(&everything(&[1 << 16, 1 << 15], dtype, None), true).unwrap().kernels);
        kernels.extend(generate(&everything(&[77, 141], dtype, None), false).unwrap().kernels);
    }
    for dtype in [DType::F32, DType::I64] {
        kernels.extend(generate(&everything(&[76, 141], dtype, None), true).unwrap().kernels);
    }
    kernels.extend(generate(&everything(&[3, (1 << 30) + 1], DType::Bool, None), true).unwrap().kernels);
    for dtype in [DType::F16, DType::BF16] {
        for shape in [[64, 128], [64, 129]] {
            kernels.extend(generate(&halves(&shape, dtype), true).unwrap().kernels);
        }
    }
    let folder = std::env::temp_dir().join(format!("npc-elementwise-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("module.ptx");
    std::fs::write(&source, module(&kernels)).unwrap();
    for architecture in [70, 75, 80, 86, 89, 90, 100, 120] {
        let output = Command::new(&ptxas)
            .args(["-v", &format!("-arch=sm_{architecture}"), "-o"])
            .args([&folder.join("module.cubin"), &source])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sm_{architecture}: {report}");
        assert!(report.contains("registers"), "sm_{architecture}: {report}");
        let spilled =
            report.lines().find(|l| l.contains("spill") && !l.contains("0 bytes spill stores, 0 bytes spill loads"));
        assert_eq!(spilled, None, "sm_{architecture}: {report}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
