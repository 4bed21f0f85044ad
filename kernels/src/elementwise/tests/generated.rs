//! Kernels for chosen shapes: large grids, every way to reduce, nothing to do.

use super::random::check;
use super::{interpret, values};
use crate::elementwise::ptx::{Argument, Kernel, generate, module};
use crate::elementwise::{DType, Expression, Operation, Reduce};
use npc_ptx_interpreter::{Argument as Passed, Launch, Memory, Module, Options, Schedule, launch_with};

/// The product of a tensor and one that is repeated along `repeated`, and its reduction over `axes`.
fn product(shape: &[usize], repeated: &[usize], axes: &[usize], reduce: Reduce, dtype: DType) -> Expression {
    let mut builder = Expression::builder(shape);
    let x = builder.input(dtype, shape).unwrap();
    let part: Vec<usize> = shape.iter().enumerate().map(|(i, n)| if repeated.contains(&i) { 1 } else { *n }).collect();
    let y = builder.input(dtype, &part).unwrap();
    let z = builder.apply(Operation::Multiply, &[x, y]).unwrap();
    builder.output(z).unwrap();
    builder.reduce(reduce, z, axes).unwrap();
    builder.finish().unwrap()
}

/// Starts a kernel over its own grid.
fn start(kernel: &Kernel, memory: &mut Memory, arguments: &[Passed], options: &Options) {
    let (grid, block) = ([kernel.grid, 1, 1], [kernel.block, 1, 1]);
    let how = Launch { kernel: &kernel.name, grid, block, dynamic_shared: 0, arguments };
    launch_with(&Module::parse(&module([kernel])).unwrap(), memory, &how, options).unwrap();
}

fn tensors(expression: &Expression) -> Vec<Vec<u8>> {
    // The same seed as nothing else, and no special values: sums of them are compared.
    let inputs = expression.inputs().iter().enumerate();
    inputs.map(|(i, input)| values(input.dtype, input.shape.iter().product(), 77 + i as u64)).collect()
}

#[test]
fn every_way_to_reduce() {
    let cases: [(&[usize], &[usize], &[usize]); 12] = [
        (&[8, 16, 100], &[1], &[2]),
        (&[3, 5000], &[0], &[1]),
        (&[40_000], &[], &[0]),
        (&[40_001], &[], &[0]),
        (&[1000, 40], &[0], &[0]),
        (&[1000, 41], &[1], &[0]),
        (&[7, 3, 20, 12], &[2], &[0, 2, 3]),
        (&[7, 3, 20, 12], &[0, 3], &[1, 2]),
        (&[70, 3, 24], &[0], &[0, 1]),
        (&[5, 6, 7], &[], &[]),
        (&[300, 1, 4], &[], &[0, 1]),
        (&[600, 128], &[1], &[1]),
    ];
    for (shape, repeated, axes) in cases {
        for dtype in [DType::F32, DType::F16, DType::I64] {
            for (at, reduce) in [Reduce::Sum, Reduce::Mean, Reduce::Maximum, Reduce::Minimum].into_iter().enumerate() {
                let expression = product(shape, repeated, axes, reduce, dtype);
                let schedule = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(at as u64)][at % 3];
                for aligned in [true, false] {
                    check(&expression, &tensors(&expression), aligned, schedule)
                        .unwrap_or_else(|e| panic!("{shape:?} {repeated:?} {axes:?} {dtype:?} {reduce:?}: {e}"));
                }
            }
        }
    }
}

/// Factors so near to 1 that a product of all of them stays in range.
#[test]
fn products_multiply_every_element_once() {
    for (shape, axes) in [(&[2, 30_000][..], &[1][..]), (&[3000, 36], &[0]), (&[7, 3, 20, 12], &[0, 2, 3])] {
        let mut b = Expression::builder(shape);
        let x = b.input(DType::F32, shape).unwrap();
        let small = b.apply(Operation::Multiply, &[x, 1e-4.into()]).unwrap();
        let factor = b.apply(Operation::Add, &[small, 1.0.into()]).unwrap();
        b.reduce(Reduce::Product, factor, axes).unwrap();
        let expression = b.finish().unwrap();
        let count: usize = shape.iter().product();
        let inputs =
            vec![(0..count).flat_map(|i| ((i * 37 % 101) as f32 * 0.02 - 1.0).to_le_bytes()).collect::<Vec<u8>>()];
        let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let wanted = expression.evaluate(&slices).unwrap();
        let numbers = |bytes: &[u8]| {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>()
        };
        assert!(numbers(&wanted[0]).iter().all(|x| (0.1..10.0).contains(x) && *x != 1.0));
        check(&expression, &inputs, true, Schedule::Random(3)).unwrap();
    }
}

#[test]
fn sums_have_the_same_bits_under_every_schedule() {
    for (shape, axes) in [(&[2, 30_000][..], &[1][..]), (&[3000, 36], &[0])] {
        let expression = product(shape, &[], axes, Reduce::Sum, DType::F32);
        assert_eq!(generate(&expression, true).unwrap().kernels.len(), 2, "{shape:?} is not cut into slices");
        let run = |schedule| interpret(&expression, &tensors(&expression), true, schedule);
        let first = run(Schedule::InOrder);
        assert!([Schedule::Reversed, Schedule::Random(5)].into_iter().all(|schedule| run(schedule) == first));
    }
}

#[test]
fn nothing_is_launched_for_empty_outputs_and_nothing_reduces_to_the_identity() {
    let empty = product(&[0, 4], &[], &[1], Reduce::Sum, DType::F32);
    assert!(generate(&empty, true).unwrap().kernels.is_empty());
    for reduce in [Reduce::Sum, Reduce::Mean, Reduce::Product, Reduce::Maximum, Reduce::Minimum] {
        for shape in [[4, 0], [0, 4]] {
            let axis = usize::from(shape[1] == 0);
            let expression = product(&shape, &[], &[axis], reduce, DType::F32);
            check(&expression, &tensors(&expression), true, Schedule::InOrder).unwrap();
        }
    }
}

#[test]
fn kernels_are_named_by_their_text_and_enter_a_module_once() {
    let (a, b) =
        (product(&[4, 8], &[0], &[1], Reduce::Sum, DType::F32), product(&[4, 9], &[0], &[1], Reduce::Sum, DType::F32));
    let (a, again, b) = (generate(&a, true).unwrap(), generate(&a, true).unwrap(), generate(&b, true).unwrap());
    assert_eq!(a, again);
    assert_ne!(a.kernels[0].name, b.kernels[0].name);
    assert_eq!(
        a.kernels[0].arguments,
        [Argument::Input(0), Argument::Input(1), Argument::Output(0), Argument::Output(1)]
    );
    let text = module(a.kernels.iter().chain(&again.kernels).chain(&b.kernels));
    assert_eq!(text.matches(".entry").count(), 2);
}

/// Indices of 64 bits: the last block of a tensor of more than 2³¹ elements is beyond what 32 bits reach.
#[test]
fn large_tensors_are_indexed_with_64_bits() {
    let expression = product(&[3, 1 << 30], &[1], &[], Reduce::Sum, DType::F16);
    let generated = generate(&expression, true).unwrap();
    assert!(generated.kernels[0].entry.contains("div.u64") || generated.kernels[0].entry.contains("shr.u64"));
    // Rows that are a multiple of a thread's lanes, a whole that is one, neither.
    for (shape, per_block) in [([3u64, 1 << 30], 1024), ([4, 715_827_883], 1024), ([3, 1_073_741_825], 1024)] {
        let extents = shape.map(|n| n as usize);
        let count = shape[0] * shape[1];
        let mut builder = Expression::builder(&extents);
        let x = builder.input(DType::Bool, &extents).unwrap();
        let row = builder.input(DType::Bool, &[extents[0], 1]).unwrap();
        let y = builder.apply(Operation::Or, &[x, row]).unwrap();
        builder.output(y).unwrap();
        let generated = generate(&builder.finish().unwrap(), true).unwrap();
        let kernel = &generated.kernels[0];
        assert_eq!(u64::from(kernel.grid), count.div_ceil(per_block));
        assert!(kernel.entry.contains("mad.lo.u64") && !kernel.entry.contains("mad.lo.u32"));
        let rows: Vec<u8> = (0..shape[0]).map(|row| u8::from(row % 3 == 1)).collect();
        let last = (count - 1) / per_block * per_block;
        let ends: Vec<u8> = (last..count).map(|i| u8::from(i % 4 == 1 || i % 4 == 2)).collect();
        let wanted: Vec<u8> =
            ends.iter().zip(last..).map(|(x, i)| x | rows[usize::try_from(i / shape[1]).unwrap()]).collect();
        let mut memory = Memory::new();
        let (x, y) = (memory.alloc_sparse(count), memory.alloc_sparse(count));
        let row = memory.alloc_from(&rows);
        memory.write(x + last, &ends).unwrap();
        let arguments = [x, row, y].map(Passed::U64);
        let block = u64::from(kernel.grid) - 1;
        let options = Options { blocks: Some(block..block + 1), ..Options::default() };
        start(kernel, &mut memory, &arguments, &options);
        assert_eq!(memory.read::<u8>(y + last, ends.len()).unwrap(), wanted, "{shape:?}");
    }
}

/// Sums of a tensor, a part of it that is repeated, and one value.
fn sum(shape: &[usize], part: &[usize], dtype: DType) -> Expression {
    let mut b = Expression::builder(shape);
    let x = b.input(dtype, shape).unwrap();
    let (part, one) = (b.input(dtype, part).unwrap(), b.input(dtype, &[1]).unwrap());
    let y = b.apply(Operation::Add, &[x, part]).unwrap();
    let z = b.apply(Operation::Add, &[y, one]).unwrap();
    b.output(z).unwrap();
    b.output(y).unwrap();
    b.finish().unwrap()
}

#[test]
fn maps_of_rows_of_any_length() {
    let cases: [(&[usize], &[usize]); 12] = [
        (&[64, 33], &[64, 1]),
        (&[64, 33], &[33]),
        (&[2, 6, 7, 7], &[6, 1, 1]),
        (&[3, 5, 7, 7], &[5, 1, 1]),
        (&[3, 5, 7, 7], &[3, 1, 7, 1]),
        (&[1023], &[1]),
        (&[4, 255], &[4, 1]),
        (&[1025, 1], &[1025, 1]),
        (&[5, 1], &[1]),
        (&[40, 12], &[40, 1]),
        (&[20, 104], &[104]),
        (&[2048, 3], &[3]),
    ];
    for (shape, part) in cases {
        for (at, dtype) in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64].into_iter().enumerate() {
            for aligned in [true, false] {
                let expression = sum(shape, part, dtype);
                let schedule = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(9)][at % 3];
                check(&expression, &tensors(&expression), aligned, schedule)
                    .unwrap_or_else(|e| panic!("{shape:?} {part:?} {dtype:?} {aligned}: {e}"));
            }
        }
    }
}

/// How many elements a thread moves, and in which accesses.
#[test]
fn maps_move_sixteen_bytes_at_a_time_or_four_elements_at_once() {
    let loads = |shape: &[usize], part: &[usize], dtype, aligned| {
        let kernel = generate(&sum(shape, part, dtype), aligned).unwrap().kernels.remove(0);
        let count = |what: &str| kernel.entry.matches(what).count();
        let elements: usize = shape.iter().product();
        let lanes = elements.div_ceil(kernel.grid as usize * 256);
        (lanes, count("ld.global.v4"), count("ld.global."), count("st.global.v4"))
    };
    // The gradient of GPT-2's logits: neighbours in memory, whatever row they are of; the row's operand is loaded four times.
    assert_eq!(loads(&[8192, 50_257], &[8192, 1], DType::F32, true), (4, 1, 1 + 4 + 1, 2));
    assert_eq!(loads(&[8192, 50_257], &[8192, 1], DType::BF16, true), (8, 1, 1 + 8 + 1, 2));
    assert_eq!(loads(&[32, 64, 7, 7], &[64, 1, 1], DType::F16, true), (8, 1, 1 + 8 + 1, 2));
    assert_eq!(loads(&[32, 64, 56, 56], &[64, 1, 1], DType::F16, true), (8, 1, 1 + 1 + 1, 2));
    assert_eq!(loads(&[32, 64, 6, 6], &[64, 1, 1], DType::F16, true), (4, 1, 1 + 1 + 1, 2));
    // A number of elements that is no multiple of anything: four loads in flight.
    assert_eq!(loads(&[1023, 1025], &[1023, 1], DType::F32, true), (4, 0, 4 + 4 + 1, 0));
    assert_eq!(loads(&[8192, 50_257], &[8192, 1], DType::F32, false), (4, 0, 4 + 4 + 1, 0));
}

/// An output in the place of an input: every element is read before it is written.
#[test]
fn maps_work_in_place() {
    for shape in [[64, 33], [63, 33], [64, 32]] {
        for dtype in [DType::F32, DType::F16] {
            let mut b = Expression::builder(&shape);
            let (x, row) = (b.input(dtype, &shape).unwrap(), b.input(dtype, &[shape[0], 1]).unwrap());
            let y = b.apply(Operation::Subtract, &[row, x]).unwrap();
            b.output(y).unwrap();
            let expression = b.finish().unwrap();
            let inputs = tensors(&expression);
            let wanted = expression.evaluate(&[&inputs[0], &inputs[1]]).unwrap().remove(0);
            let kernel = generate(&expression, true).unwrap().kernels.remove(0);
            let mut memory = Memory::new();
            let (x, row) = (memory.alloc_from(&inputs[0]), memory.alloc_from(&inputs[1]));
            let arguments = [x, row, x].map(Passed::U64);
            let options = Options { schedule: Schedule::Random(4), ..Options::default() };
            start(&kernel, &mut memory, &arguments, &options);
            let found = memory.read::<u8>(x, wanted.len()).unwrap();
            super::random::same(dtype, &found, &wanted).unwrap_or_else(|e| panic!("{shape:?} {dtype:?}: {e}"));
        }
    }
}

/// Halfway cases, overflow, subnormals and NaN, which random values hardly meet.
#[test]
fn casts_round_to_nearest_even() {
    let uppers =
        [0x0000u32, 0x0001, 0x3380, 0x3800, 0x3f80, 0x3f81, 0x477f, 0x4780, 0x4eff, 0x4f00, 0x5eff, 0x7f7f, 0x7f80];
    let lowers = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xe000, 0xefff, 0xf000, 0xffff];
    let signs = [0u32, 1 << 31];
    let bits = uppers.iter().flat_map(|u| lowers.iter().flat_map(move |l| signs.map(|s| s | u << 16 | l)));
    let tensor: Vec<u8> = bits.flat_map(u32::to_le_bytes).collect();
    let shape = [tensor.len() / 4];
    let mut builder = Expression::builder(&shape);
    let x = builder.input(DType::F32, &shape).unwrap();
    for to in [DType::F16, DType::BF16, DType::I32, DType::I64, DType::Bool] {
        let cast = builder.apply(Operation::Cast(to), &[x]).unwrap();
        builder.output(cast).unwrap();
        let back = builder.apply(Operation::Cast(DType::F32), &[cast]).unwrap();
        builder.output(back).unwrap();
    }
    check(&builder.finish().unwrap(), &[tensor], true, Schedule::InOrder).unwrap();
}
