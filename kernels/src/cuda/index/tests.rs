//! Every kernel beside a plain loop.

use super::*;
use crate::cuda::testing::Device;
use half::{bf16, f16};
use npc_ptx_interpreter::Schedule;

const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(5)];

#[test]
fn strided_copies_transpose_repeat_and_run_backwards() {
    let data: Vec<u32> = (0..3 * 5 * 7).collect();
    // Shape, strides, first element.
    let cases: [(&[u64], &[i64], usize); 5] = [
        (&[7, 3, 5], &[1, 35, 7], 0),
        (&[2, 3, 5, 7], &[0, 35, 7, 1], 0),
        (&[3, 5], &[35, -7], 28),
        (&[2, 2], &[70, 3], 1),
        (&[], &[], 4),
    ];
    for schedule in SCHEDULES {
        for (shape, strides, start) in cases {
            let mut device = Device::new(schedule);
            let count: u64 = shape.iter().product();
            let at = |mut i: u64| {
                let mut offset = start as i64;
                for (n, s) in shape.iter().zip(strides).rev() {
                    offset += (i % n) as i64 * s;
                    i /= n;
                }
                offset as usize
            };
            let (x, y) = (device.put(&data), device.put(&vec![0u32; count as usize]));
            device.run(&copy(Bits::B32, x.offset(4 * start as u64), y, shape, strides).unwrap());
            let want: Vec<u32> = (0..count).map(|i| data[at(i)]).collect();
            assert_eq!(device.get::<u32>(y, count as usize), want);
            if !strides.contains(&0) {
                let back = device.put(&vec![u32::MAX; data.len()]);
                device.run(&scatter_copy(Bits::B32, y, back.offset(4 * start as u64), shape, strides).unwrap());
                let found = device.get::<u32>(back, data.len());
                assert!((0..count).all(|i| found[at(i)] == data[at(i)]));
                assert_eq!(found.iter().filter(|x| **x != u32::MAX).count(), count as usize);
            }
        }
    }
    assert!(copy(Bits::B8, DevicePointer::NULL, DevicePointer::NULL, &[1; 9], &[1; 9]).is_none());
}

/// Copies as a plain loop does them, byte by byte.
fn by_hand(bytes: usize, shape: &[u64], strides: &[i64], mut each: impl FnMut(usize, usize)) {
    for i in 0..shape.iter().product::<u64>() {
        let (mut rest, mut offset) = (i, 0i64);
        for (n, s) in shape.iter().zip(strides).rev() {
            offset += (rest % n) as i64 * s;
            rest /= n;
        }
        (0..bytes).for_each(|b| each(i as usize * bytes + b, offset as usize * bytes + b));
    }
}

const EVERY: [Bits; 4] = [Bits::B8, Bits::B16, Bits::B32, Bits::B64];

/// Every way to copy at every width of elements: joined axes, neighbours that move together as far as extents, strides and
/// addresses allow, tiles with ragged ends, single elements. The second number is where the strided memory begins.
#[test]
fn copies_of_every_kind_are_those_of_a_plain_loop() {
    let cases: [(&[u64], &[i64], &str); 14] = [
        (&[6, 5, 32], &[160, 32, 1], "b128"),
        (&[3, 4, 32], &[256, 64, 1], "b128"),
        (&[4, 3, 32], &[64, 256, 1], "b128"),
        (&[5, 33], &[40, 1], ""),
        (&[3, 34], &[34, 1], ""),
        (&[40, 35], &[1, 40], "transpose"),
        (&[2, 37, 16], &[600, 1, 37], "transpose"),
        (&[2, 3, 20, 33], &[1980, 660, 1, 20], "transpose"),
        (&[33, 2, 3, 20], &[1, 1980, 660, 33], "transpose"),
        (&[16, 7], &[1, 16], "copy"),
        (&[40, 35], &[0, 40], "copy"),
        (&[3, 2, 5, 2, 2, 3, 2, 2], &[1, 3, 6, 30, 60, 120, 360, 720], "copy"),
        (&[0, 5], &[5, 1], "copy"),
        (&[1, 1], &[1, 1], "copy"),
    ];
    for (shape, strides, kind) in cases {
        let (count, spans) = (shape.iter().product::<u64>() as usize, shape.iter().zip(strides));
        let reach = 1 + spans.map(|(n, s)| n.saturating_sub(1) as i64 * s).sum::<i64>() as usize;
        for (bits, (start, schedule)) in EVERY.into_iter().flat_map(|b| {
            [0, 1, 2, 4]
                .into_iter()
                .zip([Schedule::InOrder, Schedule::Random(7), Schedule::Reversed, Schedule::Random(8)])
                .map(move |s| (b, s))
        }) {
            let bytes = 1usize << bits as usize;
            let data: Vec<u8> = (0..(start + reach) * bytes).map(|i| (i * 37 % 251) as u8).collect();
            let mut device = Device::narrow(schedule);
            let (x, y) = (device.put(&data), device.put(&vec![0u8; count * bytes]));
            let launch = copy(bits, x.offset((start * bytes) as u64), y, shape, strides).unwrap();
            assert!(start != 0 || launch.kernel.contains(kind), "{} for {kind}: {shape:?}", launch.kernel);
            device.run(&launch);
            let mut want = vec![0u8; count * bytes];
            by_hand(bytes, shape, strides, |dense, strided| want[dense] = data[start * bytes + strided]);
            assert!(device.get::<u8>(y, want.len()) == want, "{bits:?} {shape:?} {strides:?} {start}");
            if strides.contains(&0) {
                continue;
            }
            let back = device.put(&vec![255u8; data.len()]);
            let launch = scatter_copy(bits, y, back.offset((start * bytes) as u64), shape, strides).unwrap();
            assert!(start != 0 || launch.kernel.contains(kind), "{} for {kind}: {shape:?}", launch.kernel);
            device.run(&launch);
            let mut all = vec![255u8; data.len()];
            by_hand(bytes, shape, strides, |dense, strided| all[start * bytes + strided] = want[dense]);
            assert!(device.get::<u8>(back, all.len()) == all, "{bits:?} {shape:?} {strides:?} {start}");
        }
    }
}

/// Strides beyond 32 bits, in memory that takes no room until it is touched.
#[test]
fn far_elements_are_reached_with_64_bits() {
    let far = (1i64 << 31) + 3;
    let mut device = Device::new(Schedule::Random(4));
    let x = DevicePointer(device.memory.alloc_sparse(2 * (far as u64 + 64)));
    let data: Vec<u16> = (1..=96).collect();
    device.memory.write(x.0, &data[..48]).unwrap();
    device.memory.write(x.0 + 2 * far as u64, &data[48..]).unwrap();
    // Rows far apart; columns far apart; both in single elements.
    for (shape, strides) in [([2u64, 48, 1], [far, 1, 1]), ([48, 2, 1], [1, far, 1]), ([16, 3, 2], [3, 1, far])] {
        let y = device.put(&[0u16; 96]);
        let launch = copy(Bits::B16, x, y, &shape, &strides).unwrap();
        assert!(launch.kernel.ends_with("_u64"), "{}", launch.kernel);
        device.run(&launch);
        let (half, turned) = (shape[0] == 2, |i: usize| data[i / 2 + i % 2 * 48]);
        let want: Vec<u16> = (0..96).map(|i| if half { data[i] } else { turned(i) }).collect();
        assert_eq!(device.get::<u16>(y, 96), want, "{shape:?}");
    }
}

/// Rows of every length from any address, and indices counted in either width.
#[test]
fn rows_of_any_length_are_gathered() {
    for (inner, outer) in [(64u64, 1u64), (48, 3), (6, 2), (5, 2), (1, 4)] {
        for (bits, start) in EVERY.into_iter().flat_map(|bits| [0usize, 1, 2].map(|start| (bits, start))) {
            let p = Picks { outer, extent: 9, inner, picks: 7 };
            let bytes = 1usize << bits as usize;
            let row = inner as usize * bytes;
            let data: Vec<u8> = (0..start * bytes + outer as usize * 9 * row).map(|i| (i * 41 % 253) as u8).collect();
            let picks = [8i64, 0, -1, 3, 20, 5, -9];
            let mut device = Device::narrow(Schedule::Random(6));
            let (x, indices) = (device.put(&data).offset((start * bytes) as u64), device.put(&picks));
            let mut want = Vec::new();
            for o in 0..outer as usize {
                for pick in picks {
                    let at = start * bytes + (o * 9 + pick.rem_euclid(9) as usize) * row;
                    want.extend(if pick < 9 { data[at..at + row].to_vec() } else { vec![0; row] });
                }
            }
            let plain =
                |wide| move |x, indices, y, bad| gathered(&GATHER, bits as usize, [x, indices, y, bad], p, wide);
            let (narrow, wide) = (plain(false), plain(true));
            let chosen = move |x, indices, y, bad| gather(bits, x, indices, y, bad, p);
            let each: [&dyn Fn(_, _, _, _) -> Launch; 3] = [&chosen, &narrow, &wide];
            for launch in each {
                let (y, bad) = (device.put(&vec![9u8; want.len()]), device.put(&[0u32]));
                device.run(&launch(x, indices, y, bad));
                assert!(device.get::<u8>(y, want.len()) == want, "{bits:?} {p:?} {start}");
                assert_eq!(device.get::<u32>(bad, 1), [1]);
            }
        }
    }
    let p = Picks { outer: 1, extent: 50_257, inner: 768, picks: 8192 };
    let at =
        |address| gather(Bits::B32, DevicePointer(address), DevicePointer(0), DevicePointer(0), DevicePointer(0), p);
    assert_eq!(
        [256, 264, 260].map(|address| at(address).kernel),
        ["gather_b128_u32", "gather_b64_u32", "gather_b32_u32"]
    );
    assert_eq!(at(256).grid[0], 8192 * 768 / 4 / 1024);
}

#[test]
fn elements_of_every_width_are_moved() {
    let mut device = Device::new(Schedule::InOrder);
    let (x8, x16, x64) = (device.put(&[1u8, 2, 3, 4]), device.put(&[1u16, 2, 3, 4]), device.put(&[1u64, 2, 3, 4]));
    for (bits, x, bytes) in [(Bits::B8, x8, 1), (Bits::B16, x16, 2), (Bits::B64, x64, 8)] {
        let y = device.put(&vec![0u8; 4 * bytes]);
        device.run(&copy(bits, x, y, &[2, 2], &[1, 2]).unwrap());
        let found = device.get::<u8>(y, 4 * bytes);
        let lowest: Vec<u8> = found.chunks(bytes).map(|c| c[0]).collect();
        assert_eq!(lowest, [1, 3, 2, 4]);
        assert_eq!(Bits::of(bytes), Some(bits));
    }
}

#[test]
fn gathers_take_along_the_axis_and_count_what_is_out_of_range() {
    let p = Picks { outer: 2, extent: 4, inner: 3, picks: 3 };
    let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
    for schedule in SCHEDULES {
        let mut device = Device::new(schedule);
        let (x, indices, y, bad) =
            (device.put(&data), device.put(&[3i64, -4, 9]), device.put(&[0f32; 18]), device.put(&[0u32]));
        device.run(&gather(Bits::B32, x, indices, y, bad, p));
        let found = device.get::<f32>(y, 18);
        for o in 0..2 {
            for i in 0..3 {
                assert_eq!(
                    [0, 1, 2].map(|k| found[(o * 3 + k) * 3 + i]),
                    [data[(o * 4 + 3) * 3 + i], data[o * 12 + i], 0.0]
                );
            }
        }
        // Of three indices one is out of range, whatever it would have picked.
        assert_eq!(device.get::<u32>(bad, 1), [1]);
        let each: Vec<i64> = (0..18).map(|i| i * 5 % 4).collect();
        let indices = device.put(&each);
        device.run(&gather_elements(Bits::B32, x, indices, y, bad, p));
        let found = device.get::<f32>(y, 18);
        for (at, index) in each.iter().enumerate() {
            let (o, i) = (at / 9, at % 3);
            assert_eq!(found[at], data[(o * 4 + *index as usize) * 3 + i]);
        }
    }
}

#[test]
fn scatters_replace_and_add_in_order() {
    let p = Picks { outer: 2, extent: 4, inner: 3, picks: 5 };
    let indices: Vec<i64> = (0..30).map(|i| (i * 7 % 4) - if i % 2 == 0 { 4 } else { 0 }).collect();
    let updates: Vec<f32> = (0..30).map(|i| 1e-3 * (i as f32) + 1.0).collect();
    let line = |at: usize| (at / 15, at % 3, ((indices[at] + 4) % 4) as usize);
    for schedule in SCHEDULES {
        let mut device = Device::new(schedule);
        let (i, u, bad) = (device.put(&indices), device.put(&updates), device.put(&[0u32]));
        let y = device.put(&[-1.0f32; 24]);
        device.run(&scatter_elements(Scatter::Replace(Bits::B32), y, i, u, bad, p));
        let (mut replaced, mut added) = ([-1.0f32; 24], [-1.0f32; 24]);
        for (at, update) in updates.iter().enumerate() {
            let (o, inner, row) = line(at);
            replaced[(o * 4 + row) * 3 + inner] = *update;
            added[(o * 4 + row) * 3 + inner] += update;
        }
        assert_eq!(device.get::<f32>(y, 24), replaced);
        let y = device.put(&[-1.0f32; 24]);
        device.run(&scatter_elements(Scatter::Add(Storage::F32), y, i, u, bad, p));
        assert_eq!(device.get::<f32>(y, 24), added);
        assert_eq!(device.get::<u32>(bad, 1), [0]);
    }
}

#[test]
fn rows_are_added_at_tuples_of_indices() {
    // Tuples over the leading axes [3, 4] of a tensor [3, 4, 6]; the last tuple is out of range.
    let tuples = [[0i64, 1], [2, -1], [0, 1], [2, 3], [3, 0]];
    let flat: Vec<i64> = tuples.iter().flatten().copied().collect();
    let updates: Vec<f32> = (0..30).map(|i| i as f32 * 0.25).collect();
    let mut want = vec![0.5f32; 72];
    for (k, tuple) in tuples[..4].iter().enumerate() {
        let row = (tuple[0] * 4 + (tuple[1] + 4) % 4) as usize;
        (0..6).for_each(|i| want[row * 6 + i] += updates[k * 6 + i]);
    }
    let p = Picks { outer: 1, extent: 12, inner: 6, picks: 5 };
    for schedule in SCHEDULES {
        let mut device = Device::new(schedule);
        let (indices, rows, bad) = (device.put(&flat), device.put(&[0i64; 5]), device.put(&[0u32]));
        device.run(&join_indices(indices, rows, &[3, 4], 5).unwrap());
        assert_eq!(device.get::<i64>(rows, 5), [1, 11, 1, 11, 12]);
        let (y, u) = (device.put(&[0.5f32; 72]), device.put(&updates));
        device.run(&scatter_rows(Scatter::Add(Storage::F32), y, rows, u, bad, p));
        assert_eq!(device.get::<f32>(y, 72), want);
        assert_eq!(device.get::<u32>(bad, 1), [1]);
    }
}

/// Many picks of few rows, as the gradient of an embedding has them: more than a block lists at a time, wider than a block.
#[test]
fn an_embeddings_gradient_is_added_in_order() {
    let (extent, inner, picks) = (7usize, 300usize, 700usize);
    let rows: Vec<i64> = (0..picks).map(|k| ((k * k + k / 3) % 8) as i64 - 1).collect();
    let updates: Vec<f32> = (0..picks * inner).map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5).collect();
    let row = |k: usize| if rows[k] < 0 { extent - 1 } else { rows[k] as usize };
    let (mut added, mut replaced) = (vec![0.1f32; extent * inner], vec![0.1f32; extent * inner]);
    for k in 0..picks {
        for i in 0..inner {
            added[row(k) * inner + i] += updates[k * inner + i];
            replaced[row(k) * inner + i] = updates[k * inner + i];
        }
    }
    let p = Picks { outer: 1, extent: extent as u64, inner: inner as u64, picks: picks as u64 };
    for schedule in SCHEDULES {
        let mut device = Device::new(schedule);
        let (at, u, bad) = (device.put(&rows), device.put(&updates), device.put(&[0u32]));
        for (how, want) in [(Scatter::Add(Storage::F32), &added), (Scatter::Replace(Bits::B32), &replaced)] {
            let y = device.put(&vec![0.1f32; extent * inner]);
            device.run(&scatter_rows(how, y, at, u, bad, p));
            assert!(device.get::<f32>(y, extent * inner) == **want);
        }
        assert_eq!(device.get::<u32>(bad, 1), [0]);
    }
}

#[test]
fn sums_of_half_precision_are_rounded_at_every_addition() {
    let p = Picks { outer: 1, extent: 1, inner: 1, picks: 3 };
    let numbers = [0.1f32, 0.22, 0.333];
    let mut device = Device::new(Schedule::InOrder);
    let (indices, bad) = (device.put(&[0i64; 3]), device.put(&[0u32]));
    let halves: Vec<u16> = numbers.iter().map(|x| f16::from_f32(*x).to_bits()).collect();
    let (y, u) = (device.put(&[f16::ONE.to_bits()]), device.put(&halves));
    device.run(&scatter_rows(Scatter::Add(Storage::F16), y, indices, u, bad, p));
    let want = numbers.iter().fold(f16::ONE, |sum, x| f16::from_f32(sum.to_f32() + f16::from_f32(*x).to_f32()));
    assert_eq!(device.get::<u16>(y, 1), [want.to_bits()]);
    let halves: Vec<u16> = numbers.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
    let (y, u) = (device.put(&[bf16::ONE.to_bits()]), device.put(&halves));
    device.run(&scatter_elements(Scatter::Add(Storage::Bf16), y, indices, u, bad, p));
    let want = numbers.iter().fold(bf16::ONE, |sum, x| bf16::from_f32(sum.to_f32() + bf16::from_f32(*x).to_f32()));
    assert_eq!(device.get::<u16>(y, 1), [want.to_bits()]);
}
