//! Beside the CPU's kernels, and beside plain loops where it has none.

use super::*;
use crate::cpu::pool;
use crate::cpu::testing::noise;
use crate::cuda::testing::Device;
use npc_ptx_interpreter::Schedule;

const SCHEDULES: [Schedule; 2] = [Schedule::Reversed, Schedule::Random(9)];

/// One, two and three axes; strides, dilations, pads that cut and pads that add.
fn geometries() -> Vec<Geometry> {
    vec![
        Geometry::new(&[9], &[9], &[3], &[1], &[1], &[1]).unwrap(),
        Geometry::new(&[7, 6], &[4, 3], &[3, 2], &[2, 2], &[1, 1], &[1, 0]).unwrap(),
        Geometry::new(&[8, 9], &[4, 5], &[3, 3], &[1, 1], &[2, 2], &[0, 0]).unwrap(),
        Geometry::new(&[4, 5, 3], &[2, 3, 3], &[2, 3, 1], &[2, 2, 1], &[1, 1, 2], &[0, 1, 0]).unwrap(),
        Geometry::new(&[5, 5], &[2, 2], &[2, 2], &[2, 2], &[1, 1], &[-1, -1]).unwrap(),
        Geometry::new(&[12, 11], &[6, 6], &[3, 3], &[2, 2], &[1, 1], &[1, 1]).unwrap(),
        Geometry::new(&[9, 14], &[5, 8], &[5, 7], &[1, 1], &[1, 1], &[0, 0]).unwrap(),
    ]
}

/// Every (position, tap, element) that reads inside.
fn reads(g: &Geometry) -> Vec<(usize, usize, usize)> {
    let mut all = Vec::new();
    for position in 0..g.output_len() {
        let [_, h, w] = g.output;
        let p = [position / (h * w), position / w % h, position % w];
        for tap in 0..g.taps() {
            let t = g.tap(tap);
            let at: Option<Vec<usize>> = (0..3).map(|axis| g.inside(axis, p[axis], t[axis])).collect();
            if let Some(at) = at {
                all.push((position, tap, (at[0] * g.input[1] + at[1]) * g.input[2] + at[2]));
            }
        }
    }
    all
}

#[test]
fn columns_hold_what_taps_read_and_their_adjoint_puts_it_back() {
    let (batch, channels) = (3, 2);
    for g in geometries() {
        let (inputs, positions, taps) = (g.input_len(), g.output_len(), g.taps());
        let x = noise(batch * channels * inputs, 1);
        let place = |c: usize, tap: usize, n: usize, o: usize| ((c * taps + tap) * batch + n) * positions + o;
        for schedule in SCHEDULES {
            for is_turned in [false, true] {
                let mut device = Device::new(schedule);
                let (at, out) = (device.put(&x), device.put(&vec![9f32; channels * taps * batch * positions]));
                let planes = if is_turned {
                    Planes { batch: 3, channels: 2, sample: inputs as u64, channel: 3 * inputs as u64 }
                } else {
                    Planes::dense(3, 2, inputs as u64)
                };
                device.run(&columns(&g, planes, at, out));
                let mut want = vec![0f32; channels * taps * batch * positions];
                for (o, tap, i) in reads(&g) {
                    for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
                        want[place(c, tap, n, o)] = x[n * planes.sample as usize + c * planes.channel as usize + i];
                    }
                }
                assert_eq!(device.get::<f32>(out, want.len()), want);
            }
            let mut device = Device::new(schedule);
            let columns = noise(channels * taps * batch * positions, 2);
            let bias = [0.5f32, -2.0];
            let (from, bias_at) = (device.put(&columns), device.put(&bias));
            for bias_at in [bias_at, DevicePointer::NULL] {
                let to = device.put(&vec![9f32; x.len()]);
                device.run(&data_from_columns(&g, (3, 2), from, bias_at, to));
                let mut want = vec![0f64; x.len()];
                for (o, tap, i) in reads(&g) {
                    for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
                        want[(n * channels + c) * inputs + i] += f64::from(columns[place(c, tap, n, o)]);
                    }
                }
                for (i, (got, want)) in device.get::<f32>(to, want.len()).iter().zip(&want).enumerate() {
                    let start =
                        if bias_at == DevicePointer::NULL { 0.0 } else { f64::from(bias[i / inputs % channels]) };
                    assert!((f64::from(*got) - want - start).abs() <= 1e-5, "{g:?} {i}");
                }
            }
        }
    }
}

#[test]
fn pools_are_the_cpus() {
    let planes = 5;
    for g in geometries() {
        let (inputs, outputs) = (g.input_len(), planes * g.output_len());
        let mut x = noise(planes * inputs, 4);
        (x[1], x[inputs + 2]) = (f32::NAN, x[inputs + 1]);
        for schedule in SCHEDULES {
            let mut device = Device::new(schedule);
            let (at, y, indices) = (device.put(&x), device.put(&vec![9f32; outputs]), device.put(&vec![9i64; outputs]));
            let (mut want, mut within) = (vec![0f32; outputs], vec![0u32; outputs]);
            pool::max_pool(&g, planes, &x, &mut want, Some(&mut within)).unwrap();
            for column_major in [false, true] {
                device.run(&max_pool(&g, planes as u64, at, y, indices, column_major));
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&device.get::<f32>(y, outputs)), bits(&want));
                let whole = |(i, from): (usize, &u32)| {
                    let ([d, h, w], from) = (g.input, *from as usize);
                    let turned = (from % w * h + from / w % h) * d + from / w / h;
                    (i / g.output_len() * inputs + if column_major { turned } else { from }) as i64
                };
                let all: Vec<i64> = within.iter().enumerate().map(whole).collect();
                assert_eq!(device.get::<i64>(indices, outputs), all);
            }
            for divisor in [Divisor::Inside, Divisor::WithPads { after: [0, 0, 1] }] {
                device.run(&average_pool(&g, planes as u64, divisor, at, y));
                pool::average_pool(&g, planes, divisor, &x, &mut want).unwrap();
                for (got, want) in device.get::<f32>(y, outputs).iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-6 || (got.is_nan() && want.is_nan()), "{got} for {want}: {g:?}");
                }
            }
        }
    }
}

#[test]
fn unpooling_puts_elements_back_and_counts_bad_indices() {
    let mut device = Device::new(Schedule::Random(2));
    let (x, indices) = (device.put(&[1f32, 2.0, 3.0, 4.0]), device.put(&[5i64, 0, -1, 6]));
    let (y, bad) = (device.put(&[9f32; 6]), device.put(&[0u32]));
    unpool(x, indices, y, bad, (4, 6)).iter().for_each(|l| device.run(l));
    assert_eq!(device.get::<f32>(y, 6), [2.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(device.get::<u32>(bad, 1), [2]);
}

/// What a launch of more elements than 32 bits count picks.
#[test]
fn many_elements_are_counted_in_64_bits() {
    let g = Geometry::new(&[1 << 16, 1 << 10], &[1 << 16, 1 << 10], &[1, 1], &[1, 1], &[1, 1], &[0, 0]).unwrap();
    let of = |planes| max_pool(&g, planes, DevicePointer(8), DevicePointer(16), DevicePointer::NULL, false).kernel;
    assert_eq!((of(1), of(31), of(32)), ("max_pool_u32", "max_pool_u32", "max_pool_u64"));
}

/// The same launch, counted in 64 bits.
fn widened(g: &Geometry, kernel: &'static str, channels: u64, mut launch: Launch) -> Launch {
    let wide = |argument: &Argument| match argument {
        Argument::Bytes(bytes) if *argument == window(g, false) => {
            assert_eq!(bytes.len(), 3 * (3 * 8 + 4 * 24 + 2 * 8));
            window(g, true)
        }
        Argument::Bytes(bytes) if bytes[..] == divisor(channels, false) => {
            Argument::Bytes(divisor(channels, true).into())
        }
        other => other.clone(),
    };
    launch.arguments = launch.arguments.iter().map(wide).collect();
    Launch { kernel, ..launch }
}

#[test]
fn both_widths_give_the_same() {
    let (batch, channels) = (2u64, 3u64);
    for g in geometries() {
        let planes = batch * channels;
        let (inputs, outputs) = (planes as usize * g.input_len(), planes as usize * g.output_len());
        let (x, columned) = (noise(inputs, 8), noise(outputs * g.taps(), 9));
        let run = |wide: bool| {
            let mut device = Device::new(Schedule::InOrder);
            let (at, from) = (device.put(&x), device.put(&columned));
            let sizes = [outputs * g.taps(), inputs, outputs, outputs, outputs];
            let [out, back, most, mean, sums] = sizes.map(|count| device.put(&vec![0f32; count]));
            let indices = device.put(&vec![0i64; outputs]);
            let dense = Planes::dense(batch, channels, g.input_len() as u64);
            let launches = [
                ("columns_u64", columns(&g, dense, at, out)),
                ("data_from_columns_u64", data_from_columns(&g, (batch, channels), from, DevicePointer::NULL, back)),
                ("max_pool_u64", max_pool(&g, planes, at, most, indices, true)),
                ("average_pool_u64", average_pool(&g, planes, Divisor::Inside, at, mean)),
                ("average_pool_u64", average_pool(&g, planes, Divisor::WithPads { after: [0, 1, 0] }, at, sums)),
            ];
            for (kernel, launch) in launches {
                assert_eq!(launch.kernel.replace("_u32", "_u64"), kernel);
                device.run(&if wide { widened(&g, kernel, channels, launch) } else { launch });
            }
            let floats = [out, back, most, mean, sums].into_iter().zip(sizes);
            let bits = floats.flat_map(|(at, count)| device.get::<u32>(at, count)).collect::<Vec<_>>();
            (bits, device.get::<i64>(indices, outputs))
        };
        assert!(run(false) == run(true), "{g:?}");
    }
}
