//! Kernels as they are written in earnest, compiled by NVRTC, against scalar Rust.

mod support;

use half::{bf16, f16};
use npc_ptx_interpreter::{Argument, Launch, Memory, Module, Options, Schedule, launch_with};
use support::{ELEMENTS, ROWS, SCHEDULES, SUMS, close, line, noise, run};

#[test]
fn layer_normalisation() {
    let module = Module::parse(ROWS).unwrap();
    let (rows, width) = (5, 300);
    let (x, scale, bias) = (noise(rows * width), noise(width), noise(width));
    for schedule in SCHEDULES {
        for threads in [32, 64, 256] {
            let mut memory = Memory::new();
            let inputs = [&x, &scale, &bias].map(|data| Argument::U64(memory.alloc_from(data)));
            let y = memory.alloc(4 * rows * width);
            let [mean, deviation] = [(); 2].map(|()| memory.alloc(4 * rows));
            let mut arguments = inputs.to_vec();
            arguments.extend([y, mean, deviation].map(Argument::U64));
            arguments.extend([Argument::I32(width as i32), Argument::F32(1e-5)]);
            run(&module, &mut memory, "layer_norm", line(rows as u32, threads), 0, &arguments, schedule).unwrap();
            let mut expected = Vec::new();
            for row in x.chunks(width) {
                let centre = row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|&v| (f64::from(v) - centre).powi(2)).sum::<f64>() / width as f64;
                let inverse = 1.0 / (variance + 1e-5).sqrt();
                expected.extend(row.iter().zip(scale.iter().zip(&bias)).map(|(&v, (&s, &b))| {
                    ((f64::from(v) - centre) * inverse * f64::from(s) + f64::from(b)) as f32
                }));
            }
            close(&memory.read(y, rows * width).unwrap(), &expected, 1e-5);
        }
    }
}

#[test]
fn softmax_cross_entropy() {
    let module = Module::parse(ROWS).unwrap();
    let (rows, classes) = (7, 100);
    let x: Vec<f32> = noise(rows * classes).iter().map(|v| v * 5.0).collect();
    let labels: Vec<i64> = (0..rows as i64).map(|row| row * 13 % classes as i64).collect();
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (logits, label) = (memory.alloc_from(&x), memory.alloc_from(&labels));
        let (loss, gradient) = (memory.alloc(4 * rows), memory.alloc(4 * rows * classes));
        let mut arguments = [logits, label, loss, gradient].map(Argument::U64).to_vec();
        arguments.extend([Argument::I32(classes as i32), Argument::F32(0.5)]);
        run(&module, &mut memory, "softmax_cross_entropy", line(rows as u32, 64), 0, &arguments, schedule).unwrap();
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (row, &label) in x.chunks(classes).zip(&labels) {
            let highest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&v| f64::from(v - highest).exp()).sum();
            losses.push((sum.ln() - f64::from(row[label as usize] - highest)) as f32);
            gradients.extend(row.iter().enumerate().map(|(index, &v)| {
                let hit = f64::from(u8::from(index as i64 == label));
                ((f64::from(v - highest).exp() / sum - hit) * 0.5) as f32
            }));
        }
        close(&memory.read(loss, rows).unwrap(), &losses, 1e-5);
        close(&memory.read(gradient, rows * classes).unwrap(), &gradients, 1e-5);
    }
}

#[test]
fn transposition() {
    let module = Module::parse(ROWS).unwrap();
    let (rows, columns) = (70, 45);
    let x: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (from, to) = (memory.alloc_from(&x), memory.alloc(4 * x.len()));
        let arguments = [Argument::U64(from), Argument::U64(to), Argument::I32(rows as i32), Argument::I32(columns as i32)];
        run(&module, &mut memory, "transpose", ([2, 3, 1], [32, 8, 1]), 0, &arguments, schedule).unwrap();
        let y: Vec<f32> = memory.read(to, x.len()).unwrap();
        let right = (0..x.len()).all(|index| y[index % columns * rows + index / columns] == x[index]);
        assert!(right);
    }
}

#[test]
fn the_last_block_adds_the_sums() {
    let module = Module::parse(SUMS).unwrap();
    let x: Vec<f32> = (0..4000).map(|v| (v % 17) as f32).collect();
    let expected: f32 = x.iter().sum();
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let blocks = 7;
        let (data, partial) = (memory.alloc_from(&x), memory.alloc(4 * blocks));
        let (arrived, total) = (memory.alloc_from(&[0_u32]), memory.alloc(4));
        let mut arguments = [data, partial, arrived, total].map(Argument::U64).to_vec();
        arguments.push(Argument::U64(1000));
        for _ in 0..2 {
            let grid = line(blocks as u32, 128);
            run(&module, &mut memory, "last_block_sum", grid, 512, &arguments, schedule).unwrap();
            assert_eq!(memory.read::<f32>(total, 1).unwrap(), [expected]);
            assert_eq!(memory.read::<u32>(arrived, 1).unwrap(), [0]);
        }
    }
}

#[test]
fn a_chain_of_tickets() {
    let module = Module::parse(SUMS).unwrap();
    let (slices, width) = (20_usize, 96_usize);
    let x: Vec<f32> = (0..slices * width).map(|v| (v % 5) as f32 - 1.0).collect();
    let sums: Vec<f32> = x.chunks(width).map(|slice| slice.iter().sum()).collect();
    let expected: Vec<f32> = (0..slices * width)
        .map(|index| x[index] * index.checked_sub(width).map_or(1.0, |before| sums[before / width]))
        .collect();
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (data, y, written) = (memory.alloc_from(&x), memory.alloc(4 * x.len()), memory.alloc(4 * slices));
        let (flags, next) = (memory.alloc_from(&vec![0_u32; slices]), memory.alloc_from(&[0_u32]));
        let mut arguments = [data, written, flags, next, y].map(Argument::U64).to_vec();
        arguments.extend([Argument::U32(slices as u32), Argument::U32(width as u32)]);
        run(&module, &mut memory, "ticket_chain", line(6, 64), 256, &arguments, schedule).unwrap();
        assert_eq!(memory.read::<f32>(y, x.len()).unwrap(), expected);
    }
}

#[test]
fn a_barrier_over_the_grid() {
    let module = Module::parse(SUMS).unwrap();
    let (n, rounds) = (500_usize, 4);
    let x = noise(n);
    let mut expected = x.clone();
    for _ in 0..rounds {
        let from = expected.clone();
        for i in 0..n {
            expected[i] = 0.5_f32.mul_add(from[i], 0.25 * (from[(i + n - 1) % n] + from[(i + 1) % n]));
        }
    }
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (a, b) = (memory.alloc_from(&x), memory.alloc(4 * n));
        let barrier = memory.alloc_from(&[0_u32, 0]);
        let mut arguments = [a, b, barrier].map(Argument::U64).to_vec();
        arguments.extend([Argument::I32(n as i32), Argument::I32(rounds)]);
        run(&module, &mut memory, "neighbours", line(8, 64), 0, &arguments, schedule).unwrap();
        close(&memory.read(a, n).unwrap(), &expected, 1e-6);
    }
}

#[test]
fn atomic_counters() {
    let module = Module::parse(SUMS).unwrap();
    let x: Vec<u8> = (0..3000_u32).map(|v| (v * v % 241) as u8).collect();
    let mut expected = [0_u32; 257];
    x.iter().for_each(|&v| expected[usize::from(v)] += 1);
    expected[256] = u32::from(*x.iter().max().unwrap());
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (data, counts) = (memory.alloc_from(&x), memory.alloc_from(&[0_u32; 257]));
        let (weights, energy) = (memory.alloc_from(&[0_f32; 256]), memory.alloc_from(&[1_f64]));
        let mut arguments = [data, counts, weights, energy].map(Argument::U64).to_vec();
        arguments.push(Argument::U64(x.len() as u64));
        run(&module, &mut memory, "histogram", line(5, 96), 0, &arguments, schedule).unwrap();
        assert_eq!(memory.read::<u32>(counts, 257).unwrap(), expected);
        assert_eq!(memory.read::<f64>(energy, 1).unwrap(), [1.0 + 0.25 * x.len() as f64]);
        let halves: Vec<f32> = expected[..256].iter().map(|&count| count as f32 * 0.5).collect();
        assert_eq!(memory.read::<f32>(weights, 256).unwrap(), halves);
    }
}

#[test]
fn functions_of_libdevice() {
    let module = Module::parse(ELEMENTS).unwrap();
    let mut x: Vec<f32> = noise(200).iter().map(|v| v * 3.0).collect();
    x.extend([1e-6, -1e-6, 20.0, -20.0, 2000.0, 0.5, 1.0, 123_456.0]);
    let mut memory = Memory::new();
    let (data, y) = (memory.alloc_from(&x), memory.alloc(64 * x.len()));
    let arguments = [Argument::U64(data), Argument::U64(y), Argument::I32(x.len() as i32)];
    run(&module, &mut memory, "functions", line(4, 64), 0, &arguments, Schedule::InOrder).unwrap();
    let found: Vec<f32> = memory.read(y, 16 * x.len()).unwrap();
    for (&v, found) in x.iter().zip(found.chunks(16)) {
        let w = f64::from(v);
        let magnitude = f64::from(v.abs());
        let expected = [
            (1, w.tanh()),
            (2, w.exp()),
            (3, f64::from(v.abs() + 1e-3).ln()),
            (4, magnitude.powf(f64::from(1.7_f32))),
            (5, w.sin()),
            (6, f64::from(v * 100.0).cos()),
            (7, magnitude.sqrt()),
            (8, 1.0 / (1.0 + (-w).exp())),
            (9, 1.0 / (magnitude + 1.0).sqrt()),
            (10, magnitude.ln_1p()),
            (11, w % f64::from(0.3_f32)),
            (12, f64::from(v * 10.0).round_ties_even()),
            (13, w.floor() + w.ceil() * 2.0 + w.trunc() * 4.0 + w.round() * 8.0),
            (14, magnitude.powf(2.5) + w.exp() + (magnitude + 1.0).ln()),
            (15, f64::from(3.0_f32.copysign(v) / v)),
        ];
        for (index, expected) in expected {
            let (found, expected) = (found[index], expected as f32);
            let near = (found - expected).abs() <= 2e-6 * expected.abs().max(1.0) || found == expected;
            assert!(near, "function {index} of {v}: {found} instead of {expected}");
        }
    }
    // erf at one half and at one.
    close(&[found[16 * 205], found[16 * 206]], &[0.520_499_9, 0.842_700_8], 1e-6);
}

#[test]
fn sixteen_bit_floats() {
    let module = Module::parse(ELEMENTS).unwrap();
    let x: Vec<f32> = noise(256).iter().map(|v| v * 50.0).collect();
    let mut memory = Memory::new();
    let (data, b) = (memory.alloc_from(&x), memory.alloc(512));
    let (h, back) = (memory.alloc(512), memory.alloc(1024));
    let mut arguments = [data, b, h, back].map(Argument::U64).to_vec();
    arguments.push(Argument::I32(256));
    run(&module, &mut memory, "narrow", line(2, 64), 0, &arguments, Schedule::Random(3)).unwrap();
    let brain: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
    let halves: Vec<f16> = x.iter().map(|&v| f16::from_f64(f16::from_f32(v).to_f64() * 2.0 + 0.5)).collect();
    let sums: Vec<f32> = brain.iter().zip(&halves).map(|(b, h)| b.to_f32() + h.to_f32()).collect();
    assert_eq!(memory.read::<bf16>(b, 256).unwrap(), brain);
    assert_eq!(memory.read::<f16>(h, 256).unwrap(), halves);
    assert_eq!(memory.read::<f32>(back, 256).unwrap(), sums);
}

#[test]
fn philox() {
    let module = Module::parse(ELEMENTS).unwrap();
    let x = vec![1.0_f32; 400];
    let mut memory = Memory::new();
    let (data, y, bits) = (memory.alloc_from(&x), memory.alloc(1600), memory.alloc(1600));
    let mut arguments = [data, y, bits].map(Argument::U64).to_vec();
    arguments.extend([Argument::U64(0), Argument::U64(0), Argument::F32(0.75), Argument::U32(100)]);
    run(&module, &mut memory, "dropout", line(1, 128), 0, &arguments, Schedule::InOrder).unwrap();
    let random: Vec<u32> = memory.read(bits, 400).unwrap();
    // The first of the published known answers: counter and key zero.
    assert_eq!(random[..4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let y: Vec<f32> = memory.read(y, 400).unwrap();
    for (&random, &y) in random.iter().zip(&y) {
        assert_eq!(y, if random as f32 * 2.328_306_4e-10 < 0.75 { 1.0 / 0.75 } else { 0.0 });
    }
}

#[test]
fn a_switch_calls_and_local_arrays() {
    let module = Module::parse(ELEMENTS).unwrap();
    let n = 700_usize;
    let x: Vec<u32> = (0..n as u32).map(|v| v.wrapping_mul(2_654_435_761) >> (v % 20)).collect();
    let (kind, axes) = (3_u32, [7_i16, -8, 9, 300]);
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let (data, y, out) = (memory.alloc_from(&x), memory.alloc(4 * n), memory.alloc(4 * n));
        let mut shape = (n as i64).to_le_bytes().to_vec();
        shape.extend(kind.to_le_bytes());
        shape.extend([0; 4]);
        shape.extend(out.to_le_bytes());
        axes.iter().for_each(|axis| shape.extend(axis.to_le_bytes()));
        let arguments = [Argument::U64(data), Argument::U64(y), Argument::Bytes(shape)];
        run(&module, &mut memory, "mixed", line(3, 96), 0, &arguments, schedule).unwrap();
        let (mut expected, mut expected_out) = (Vec::new(), Vec::new());
        for (i, &v) in x.iter().enumerate() {
            let mut trace = [0.0_f32, 1.0, 2.0];
            let result = match v.wrapping_add(kind) % 11 {
                0 => {
                    let (mut value, mut steps) = (v.wrapping_add(1), 0);
                    while value != 1 {
                        value = if value & 1 == 1 { value.wrapping_mul(3).wrapping_add(1) } else { value / 2 };
                        steps += 1;
                    }
                    trace[(v % 3) as usize] = steps as f32;
                    (steps as f32).sqrt()
                }
                1 => v.count_ones() as f32,
                2 => v.leading_zeros() as f32,
                3 => (v / 7 + v % 13) as f32,
                4 => (v as i32 / -7 + v as i32 % 13) as f32,
                5 => [1.5, -2.5, 3.5, 4.5][(v & 3) as usize],
                6 => v.reverse_bits() as f32,
                7 => (i as i64 * 1_000_003 / (i64::from(v.wrapping_add(1)))) as f32,
                8 => {
                    let bytes = [v.to_le_bytes(), (!v).to_le_bytes()].concat();
                    u32::from_le_bytes([bytes[5], bytes[7], bytes[1], bytes[3]]) as f32
                }
                9 => {
                    let wide = u64::from(v.wrapping_mul(77)) << 32 | u64::from(v);
                    (wide << (v & 31) >> 32) as u32 as f32
                }
                _ => f32::from(axes[(v & 3) as usize]),
            };
            expected.push(result + trace[0] + trace[(v % 3) as usize]);
            expected_out.push(trace[2]);
        }
        assert_eq!(memory.read::<f32>(y, n).unwrap(), expected);
        assert_eq!(memory.read::<f32>(out, n).unwrap(), expected_out);
        let visits = memory.symbol(&module, "visits").unwrap();
        assert_eq!(memory.read::<u64>(visits, 1).unwrap(), [5 + n as u64]);
    }
}

#[test]
fn indices_beyond_31_bits() {
    let module = Module::parse(ELEMENTS).unwrap();
    let n = (1_u64 << 32) + 77;
    let mut memory = Memory::new();
    let x = memory.alloc_sparse(n);
    let first = n - 1000;
    let arguments = [Argument::U64(x), Argument::I64(first as i64), Argument::I64(n as i64)];
    run(&module, &mut memory, "far_loop", line(2, 128), 0, &arguments, Schedule::InOrder).unwrap();
    let expected: Vec<u8> = (first..n).map(|i| (i % 251) as u8).collect();
    assert_eq!(memory.read::<u8>(x + first, 1000).unwrap(), expected);

    // The last blocks of a grid that would take hours.
    let blocks = n.div_ceil(128);
    let arguments = [Argument::U64(x), Argument::I64(0), Argument::I64(n as i64)];
    let grid = [blocks as u32, 1, 1];
    let launch = Launch { kernel: "far_loop", grid, block: [128, 1, 1], dynamic_shared: 0, arguments: &arguments };
    let options = Options { blocks: Some(blocks - 2..blocks), ..Options::default() };
    let statistics = launch_with(&module, &mut memory, &launch, &options).unwrap();
    assert_eq!(statistics.distinct_stored_bytes, 128 + 77);
}

#[test]
fn votes() {
    let module = Module::parse(ELEMENTS).unwrap();
    let x: Vec<i32> = (0..50).map(|v| v * 7 % 31).collect();
    let mut memory = Memory::new();
    let (data, ballots, firsts) = (memory.alloc_from(&x), memory.alloc(200), memory.alloc(200));
    let mut arguments = [data, ballots, firsts].map(Argument::U64).to_vec();
    arguments.push(Argument::I32(50));
    run(&module, &mut memory, "votes", line(1, 64), 0, &arguments, Schedule::InOrder).unwrap();
    let (ballots, firsts): (Vec<u32>, Vec<i32>) = (memory.read(ballots, 50).unwrap(), memory.read(firsts, 50).unwrap());
    for (index, &v) in x.iter().enumerate() {
        let warp = &x[index / 32 * 32..50.min(index / 32 * 32 + 32)];
        let mask = |test: &dyn Fn(i32) -> bool| {
            warp.iter().enumerate().fold(0_u32, |mask, (lane, &v)| mask | u32::from(test(v)) << lane)
        };
        let odd = mask(&|v| v & 1 == 1);
        assert_eq!(ballots[index], odd);
        let before = (odd & ((1 << (index % 32)) - 1)).count_ones() as i32;
        let same = mask(&|w| w % 3 == v % 3) >> 28;
        assert_eq!(firsts[index], before + 10_000 + 100_000 * same as i32);
    }
}
