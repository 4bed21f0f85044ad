//! Every kernel beside its twin on the CPU or the definition in float64, whose gradients are checked by differences.

use super::*;
use crate::cpu::batch_norm::{Affine, BatchNorm};
use crate::cpu::testing::{assert_close, differences, noise, wide};
use crate::cuda::testing::Device;
use npc_ptx_interpreter::Schedule;

const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(11)];
const NULL: DevicePointer = DevicePointer::NULL;

/// Memory for so many results.
fn room(device: &mut Device, len: usize) -> DevicePointer {
    device.put(&vec![f32::NAN; len])
}

fn softmax64(columns: usize, x: &[f64], log: bool) -> Vec<f64> {
    let row = |row: &[f64]| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        row.iter().map(|x| if log { x - largest - sum.ln() } else { (x - largest).exp() / sum }).collect::<Vec<_>>()
    };
    x.chunks(columns.max(1)).flat_map(row).collect()
}

#[test]
fn softmaxes_follow_the_definition_at_every_length() {
    let shapes = [(0, 5), (3, 1), (19, 10), (9, 33), (2, 512), (3, 513), (2, 4096), (2, 4097), (1, 9001)];
    for ((rows, columns), schedule) in shapes.into_iter().zip(SCHEDULES.into_iter().cycle()) {
        let x: Vec<f32> = noise(rows * columns, 1).iter().map(|x| x * 30.0 + 100.0).collect();
        let dy = noise(x.len(), 2);
        for log in [false, true] {
            let want = softmax64(columns, &wide(&x), log);
            let mut device = Device::narrow(schedule);
            let (from, y, pdy, dx) =
                (device.put(&x), room(&mut device, x.len()), device.put(&dy), room(&mut device, x.len()));
            device.run(&softmax(rows as u64, columns as u64, from, y, log));
            assert_close("y", &device.get::<f32>(y, x.len()), &want, 2e-6);
            device.run(&softmax_gradient(rows as u64, columns as u64, y, pdy, dx, log));
            let rows = want.chunks(columns).zip(dy.chunks(columns));
            let gradient: Vec<f64> = rows
                .flat_map(|(y, dy)| {
                    let dy = wide(dy);
                    let sum: f64 = y.iter().zip(&dy).map(|(y, dy)| if log { *dy } else { y * dy }).sum();
                    let one = move |(y, dy): (&f64, f64)| if log { dy - y.exp() * sum } else { y * (dy - sum) };
                    y.iter().zip(dy).map(one).collect::<Vec<_>>()
                })
                .collect();
            if x.len() < 200 {
                let found = differences(|x| softmax64(columns, x, log), &wide(&x), &wide(&dy));
                found.iter().zip(&gradient).for_each(|(a, b)| assert!((a - b).abs() < 1e-7, "{a} {b}"));
            }
            assert_close("dx", &device.get::<f32>(dx, x.len()), &gradient, 1e-5);
        }
    }
}

#[test]
fn softmaxes_of_masked_and_broken_rows() {
    for columns in [40usize, 700, 5000] {
        let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
        let mut x = vec![0.0f32; 4 * columns];
        // Masked but for two equal ones at the end; masked wholly; a NaN; +∞.
        x[..columns].fill(low);
        x[columns - 2..columns].fill(7.0);
        x[columns..2 * columns].fill(low);
        x[2 * columns + columns / 2] = f32::NAN;
        x[3 * columns + columns / 2] = high;
        let mut device = Device::new(Schedule::Random(1));
        let (from, y) = (device.put(&x), room(&mut device, x.len()));
        device.run(&softmax(4, columns as u64, from, y, false));
        let found = device.get::<f32>(y, x.len());
        assert!(found[..columns - 2].iter().all(|y| *y == 0.0));
        assert_eq!(found[columns - 2..columns], [0.5, 0.5]);
        assert!(found[columns..].iter().all(|y| y.is_nan()));
    }
}

/// What is written to 16 bits is what is written to float32, rounded; alone it is the same.
#[test]
fn results_of_16_bits_are_the_float32_ones_rounded() {
    let lengths = [(7, 10), (3, 512), (3, 700), (2, 4100)];
    for ((rows, columns), schedule) in lengths.into_iter().zip(SCHEDULES.into_iter().cycle()) {
        let mut x: Vec<f32> = noise(rows * columns, 1).iter().map(|x| x * 30.0).collect();
        x[columns / 2] = f32::NEG_INFINITY;
        let (dy, scale) = (noise(x.len(), 2), noise(columns, 3));
        let normal: Vec<f32> = noise(x.len(), 4);
        let (r, c) = (rows as u64, columns as u64);
        let mut device = Device::narrow(schedule);
        let [px, pdy, ps, pn] = [&x, &dy, &scale, &normal].map(|data| device.put(data));
        let [mean, inverse, y] = [rows, rows, x.len()].map(|len| room(&mut device, len));
        let [dscale, dbias] = [columns; 2].map(|len| room(&mut device, len));
        let partial = room(&mut device, layer_norm_partial_bytes(r, c) as usize / 4);
        device.run(&softmax(r, c, px, y, false));
        device.run(&layer_norm(r, c, 1e-2, pn, ps, NULL, NULL, mean, inverse));
        let launches: [&dyn Fn(Output) -> Vec<Launch>; 5] = [
            &|out| vec![softmax(r, c, px, out, false)],
            &|out| vec![softmax(r, c, pdy, out, true)],
            &|out| vec![softmax_gradient(r, c, y, pdy, out, false)],
            &|out| vec![layer_norm(r, c, 1e-2, pn, ps, NULL, out, NULL, NULL)],
            &|out| layer_norm_gradient(r, c, pdy, pn, ps, mean, inverse, out, dscale, dbias, partial),
        ];
        for (launch, is_bfloat) in launches.iter().flat_map(|launch| [(launch, false), (launch, true)]) {
            let wide = room(&mut device, x.len());
            let [beside, alone] = [0xdeadu16; 2].map(|bits| device.put(&vec![bits; x.len()]));
            let both = Output { wide, narrow: beside, is_bfloat };
            launch(both).iter().for_each(|l| device.run(l));
            launch(Output { wide: NULL, narrow: alone, is_bfloat }).iter().for_each(|l| device.run(l));
            let rounded = |x: f32| match is_bfloat {
                true => half::bf16::from_f32(x).to_bits(),
                false => half::f16::from_f32(x).to_bits(),
            };
            let want: Vec<u16> = device.get::<f32>(wide, x.len()).into_iter().map(rounded).collect();
            assert!(device.get::<u16>(beside, x.len()) == want && device.get::<u16>(alone, x.len()) == want);
            // Without the 16 bits the same float32 values come out.
            let plain = room(&mut device, x.len());
            launch(plain.into()).iter().for_each(|l| device.run(l));
            let [plain, wide] = [plain, wide].map(|at| device.get::<u32>(at, x.len()));
            assert!(plain == wide);
        }
    }
}

/// A normalisation of rows whose element j is multiplied and shifted by number `at(row, j)` of the factors.
struct Rows<'a> {
    columns: usize,
    epsilon: f64,
    at: &'a dyn Fn(usize, usize) -> usize,
}

impl Rows<'_> {
    fn forward(&self, x: &[f64], scale: &[f64], bias: &[f64]) -> Vec<f64> {
        let normal = self.normal(x);
        let at = |i: usize| (self.at)(i / self.columns, i % self.columns);
        normal.iter().enumerate().map(|(i, n)| n * scale[at(i)] + bias[at(i)]).collect()
    }

    fn statistics(&self, row: &[f64]) -> (f64, f64) {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    fn normal(&self, x: &[f64]) -> Vec<f64> {
        let row = |row: &[f64]| {
            let (mean, inverse) = self.statistics(row);
            row.iter().map(|x| (x - mean) * inverse).collect::<Vec<_>>()
        };
        x.chunks(self.columns).flat_map(row).collect()
    }

    /// dx, dscale, dbias.
    fn gradient(&self, x: &[f64], scale: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
        let (normal, mut dx) = (self.normal(x), vec![]);
        let (mut dscale, mut dbias) = (vec![0.0; scale.len()], vec![0.0; scale.len()]);
        for (row, x) in x.chunks(self.columns).enumerate() {
            let range = row * self.columns..(row + 1) * self.columns;
            let (normal, dy) = (&normal[range.clone()], &dy[range]);
            let inverse = self.statistics(x).1;
            let g: Vec<f64> = dy.iter().enumerate().map(|(j, dy)| dy * scale[(self.at)(row, j)]).collect();
            let along = g.iter().sum::<f64>() / g.len() as f64;
            let across = g.iter().zip(normal).map(|(g, n)| g * n).sum::<f64>() / g.len() as f64;
            dx.extend(g.iter().zip(normal).map(|(g, n)| inverse * (g - along - n * across)));
            for (j, (dy, n)) in dy.iter().zip(normal).enumerate() {
                dscale[(self.at)(row, j)] += dy * n;
                dbias[(self.at)(row, j)] += dy;
            }
        }
        [dx, dscale, dbias]
    }

    /// Checks [`Rows::gradient`] itself.
    fn check(&self, x: &[f64], scale: &[f64], dy: &[f64]) {
        let (zeros, [dx, dscale, dbias]) = (vec![0.0; scale.len()], self.gradient(x, scale, dy));
        let found = [
            (differences(|x| self.forward(x, scale, &zeros), x, dy), dx),
            (differences(|scale| self.forward(x, scale, &zeros), scale, dy), dscale),
            (differences(|bias| self.forward(x, scale, bias), &zeros, dy), dbias),
        ];
        for (found, given) in found {
            found.iter().zip(given).for_each(|(a, b)| assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{a} {b}"));
        }
    }
}

#[test]
fn layer_norms_and_gradients_follow_the_definition_at_every_length() {
    let shapes = [(0, 6), (5, 7), (150, 3), (3, 40), (2, 512), (5, 700), (70, 33), (2, 4100)];
    for ((rows, columns), schedule) in shapes.into_iter().zip(SCHEDULES.into_iter().cycle()) {
        let x: Vec<f32> = noise(rows * columns, 1).iter().map(|x| x * 4.0 + 10.0).collect();
        let (scale, bias, dy) = (noise(columns, 2), noise(columns, 3), noise(x.len(), 4));
        let epsilon = 1e-2f32;
        let twin = Rows { columns, epsilon: f64::from(epsilon), at: &|_, j| j };
        let (x64, scale64, dy64) = (wide(&x), wide(&scale), wide(&dy));
        if x.len() < 150 {
            twin.check(&x64, &scale64, &dy64);
        }
        let mut device = Device::narrow(schedule);
        let [px, ps, pb, pdy] = [&x, &scale, &bias, &dy].map(|data| device.put(data));
        let [y, mean, inverse, dx, dscale, dbias] =
            [x.len(), rows, rows, x.len(), columns, columns].map(|len| room(&mut device, len));
        let (r, c) = (rows as u64, columns as u64);
        let partial = room(&mut device, layer_norm_partial_bytes(r, c) as usize / 4);
        device.run(&layer_norm(r, c, epsilon, px, ps, NULL, y, NULL, NULL));
        assert_close("y", &device.get::<f32>(y, x.len()), &twin.forward(&x64, &scale64, &vec![0.0; columns]), 2e-5);
        device.run(&layer_norm(r, c, epsilon, px, ps, pb, y, mean, inverse));
        assert_close("y", &device.get::<f32>(y, x.len()), &twin.forward(&x64, &scale64, &wide(&bias)), 2e-5);
        let (means, inverses): (Vec<f64>, Vec<f64>) = x64.chunks(columns).map(|row| twin.statistics(row)).unzip();
        assert_close("mean", &device.get::<f32>(mean, rows), &means, 1e-6);
        assert_close("inverse deviation", &device.get::<f32>(inverse, rows), &inverses, 1e-5);
        let launches = layer_norm_gradient(r, c, pdy, px, ps, mean, inverse, dx, dscale, dbias, partial);
        launches.iter().for_each(|launch| device.run(launch));
        let wanted = twin.gradient(&x64, &scale64, &dy64);
        let found = [(dx, x.len()), (dscale, columns), (dbias, columns)].map(|(at, len)| device.get::<f32>(at, len));
        found.iter().zip(&wanted).for_each(|(found, wanted)| assert_close("gradient", found, wanted, 2e-5));
        let launches = layer_norm_gradient(r, c, pdy, px, ps, mean, inverse, dx, dscale, NULL, partial);
        launches.iter().for_each(|launch| device.run(launch));
        assert_eq!(device.get::<f32>(dscale, columns), found[1]);
    }
}

#[test]
fn group_norms_and_gradients_follow_the_definition() {
    // Batch, groups, channels of a group, positions.
    let shapes =
        [(2, 3, 2, 5), (3, 1, 4, 1), (1, 4, 1, 9), (2, 2, 3, 300), (1, 2, 5, 900), (0, 2, 2, 2), (40, 1, 3, 31)];
    for ((batch, groups, own, positions), schedule) in shapes.into_iter().zip(SCHEDULES.into_iter().cycle()) {
        let (channels, columns) = (groups * own, own * positions);
        let x: Vec<f32> = noise(batch * channels * positions, 1).iter().map(|x| x * 3.0 - 2.0).collect();
        let (scale, bias, dy) = (noise(channels, 2), noise(channels, 3), noise(x.len(), 4));
        let at = |row: usize, j: usize| row % groups * own + j / positions;
        let epsilon = 1e-3f32;
        let twin = Rows { columns, epsilon: f64::from(epsilon), at: &at };
        let (x64, scale64, dy64) = (wide(&x), wide(&scale), wide(&dy));
        if x.len() < 100 {
            twin.check(&x64, &scale64, &dy64);
        }
        let mut device = Device::narrow(schedule);
        let [px, ps, pb, pdy] = [&x, &scale, &bias, &dy].map(|data| device.put(data));
        let rows = batch * groups;
        let [y, mean, inverse, dx, dscale, dbias] =
            [x.len(), rows, rows, x.len(), channels, channels].map(|len| room(&mut device, len));
        let shape = Channels { batch: batch as u64, channels: channels as u64, positions: positions as u64 };
        let g = groups as u64;
        device.run(&group_norm(shape, g, epsilon, px, ps, pb, y, mean, inverse));
        assert_close("y", &device.get::<f32>(y, x.len()), &twin.forward(&x64, &scale64, &wide(&bias)), 1e-5);
        let (means, inverses): (Vec<f64>, Vec<f64>) = x64.chunks(columns).map(|row| twin.statistics(row)).unzip();
        assert_close("mean", &device.get::<f32>(mean, rows), &means, 1e-6);
        assert_close("inverse deviation", &device.get::<f32>(inverse, rows), &inverses, 1e-5);
        let launches = group_norm_gradient(shape, g, pdy, px, ps, mean, inverse, dx, dscale, dbias);
        launches.iter().for_each(|launch| device.run(launch));
        let wanted = twin.gradient(&x64, &scale64, &dy64);
        let found = [(dx, x.len()), (dscale, channels), (dbias, channels)].map(|(at, len)| device.get::<f32>(at, len));
        found.iter().zip(&wanted).for_each(|(found, wanted)| assert_close("gradient", found, wanted, 3e-5));
    }
}

#[test]
fn batch_norms_follow_the_cpu_and_gradients_the_definition() {
    let shapes = [(3, 2, 5), (4, 5, 1), (1, 3, 40), (2, 3, 1100), (1500, 2, 1), (37, 1, 61)];
    for ((batch, channels, positions), schedule) in shapes.into_iter().zip(SCHEDULES.into_iter().cycle()) {
        let x: Vec<f32> = noise(batch * channels * positions, 1).iter().map(|x| x * 3.0 + 5.0).collect();
        let (scale, bias, dy) = (noise(channels, 2), noise(channels, 3), noise(x.len(), 4));
        let norm = BatchNorm { batch, channels, positions, epsilon: 1e-3 };
        let mut want = vec![0.0; x.len()];
        let statistics = norm.train(&x, Affine { scale: &scale, bias: &bias }, &mut want).unwrap();
        let mut device = Device::narrow(schedule);
        let [px, ps, pb, pdy] = [&x, &scale, &bias, &dy].map(|data| device.put(data));
        let [y, mean, variance, dx, dscale, dbias] =
            [x.len(), channels, channels, x.len(), channels, channels].map(|len| room(&mut device, len));
        let shape = Channels { batch: batch as u64, channels: channels as u64, positions: positions as u64 };
        let launches = batch_norm_train(shape, norm.epsilon, px, ps, pb, y, mean, variance);
        launches.iter().for_each(|launch| device.run(launch));
        assert_close("y", &device.get::<f32>(y, x.len()), &wide(&want), 1e-5);
        assert_close("mean", &device.get::<f32>(mean, channels), &wide(&statistics.mean), 1e-6);
        assert_close("variance", &device.get::<f32>(variance, channels), &wide(&statistics.variance), 1e-6);
        // A row of the definition is a channel: its elements are brought together and taken back.
        let columns = batch * positions;
        let from = |i: usize| {
            let (c, n, d) = (i / columns, i % columns / positions, i % positions);
            (n * channels + c) * positions + d
        };
        let turned = |data: &[f32]| (0..x.len()).map(|i| f64::from(data[from(i)])).collect::<Vec<_>>();
        let twin = Rows { columns, epsilon: f64::from(norm.epsilon), at: &|row, _| row };
        if x.len() < 150 {
            twin.check(&turned(&x), &wide(&scale), &turned(&dy));
        }
        let launches = batch_norm_gradient(shape, norm.epsilon, pdy, px, ps, mean, variance, dx, dscale, dbias);
        launches.iter().for_each(|launch| device.run(launch));
        let [want_dx, want_dscale, want_dbias] = twin.gradient(&turned(&x), &wide(&scale), &turned(&dy));
        let found = device.get::<f32>(dx, x.len());
        let found: Vec<f32> = (0..x.len()).map(|i| found[from(i)]).collect();
        assert_close("dx", &found, &want_dx, 2e-5);
        assert_close("dscale", &device.get::<f32>(dscale, channels), &want_dscale, 2e-5);
        assert_close("dbias", &device.get::<f32>(dbias, channels), &want_dbias, 2e-5);
        // The running statistics in place of the batch's.
        let (given_mean, given_variance) = (noise(channels, 5), vec![2.0; channels]);
        let (pm, pv) = (device.put(&given_mean), device.put(&given_variance));
        norm.infer(&x, Affine { scale: &scale, bias: &bias }, &given_mean, &given_variance, &mut want).unwrap();
        device.run(&batch_norm_infer(shape, norm.epsilon, px, ps, pb, pm, pv, y));
        assert_close("inferred", &device.get::<f32>(y, x.len()), &wide(&want), 1e-6);
    }
}

#[test]
fn channels_without_elements_have_no_mean() {
    let shape = Channels { batch: 0, channels: 2, positions: 3 };
    let mut device = Device::new(Schedule::InOrder);
    let [empty, scale, mean, variance, dscale, dbias] = [0, 2, 2, 2, 2, 2].map(|len| device.put(&vec![1f32; len]));
    let launches = batch_norm_train(shape, 1e-5, empty, scale, scale, empty, mean, variance);
    launches.iter().for_each(|launch| device.run(launch));
    assert!(device.get::<f32>(mean, 2).iter().all(|mean| mean.is_nan()));
    let launches = batch_norm_gradient(shape, 1e-5, empty, empty, scale, mean, variance, empty, dscale, dbias);
    launches.iter().for_each(|launch| device.run(launch));
    assert_eq!(device.get::<f32>(dscale, 2), [0.0; 2]);
}
