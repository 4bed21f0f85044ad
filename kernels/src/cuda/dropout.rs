//! Dropout in training, the same bits as [`crate::cpu::dropout`].

use super::{Argument, DevicePointer, Launch, Source};

/// Drops each of float32 `x[elements]` with probability `ratio` (0 ≤ ratio < 1) and multiplies the others by 1 / (1 − ratio);
/// one byte of `mask` (unless null) says of each whether it was kept. The uint64 at `step` is the generator's step.
pub fn dropout(
    elements: u64,
    ratio: f32,
    seed: u64,
    step: DevicePointer,
    x: DevicePointer,
    y: DevicePointer,
    mask: DevicePointer,
) -> Launch {
    let threshold = (f64::from(ratio) * f64::from(u32::MAX) + f64::from(ratio)) as u32;
    let mut arguments: Vec<Argument> = [x, y, mask, step].map(Argument::Pointer).into();
    let scale = 1.0 / (1.0 - ratio);
    arguments.extend([Argument::U64(seed), Argument::U32(threshold), Argument::F32(scale), Argument::U64(elements)]);
    Launch::threads(Source::Dropout, "dropout", elements.div_ceil(4), arguments)
}

/// Adds 1 to the uint64 at `step`.
pub fn count_step(step: DevicePointer) -> Launch {
    let arguments = vec![Argument::Pointer(step)];
    Launch {
        source: Source::Dropout,
        kernel: "count_step",
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_shared: 0,
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::{Draw, dropout as on_the_cpu};
    use crate::cpu::testing::noise;
    use crate::cuda::testing::Device;
    use npc_ptx_interpreter::Schedule;

    #[test]
    fn the_same_bits_as_on_the_cpu_step_after_step() {
        for (elements, ratio, seed) in [
            (1usize, 0.5, 1u64),
            (1027, 0.1, 7),
            (1027, 0.1, 8),
            (5000, 0.75, 6),
            (4096, 0.3, u64::MAX - 3),
            (0, 0.5, 2),
        ] {
            let x = noise(elements, 3);
            let mut device = Device::narrow(Schedule::Random(3));
            // An odd seed puts x off the multiples of 16 bytes, 5000 elements put the mask off those of 4.
            let (mut led, apart) = (vec![7f32; 1 + elements], seed as usize % 2);
            led[apart..apart + elements].copy_from_slice(&x);
            let at = device.put(&led).offset(4 * apart as u64);
            let y = device.put(&vec![9f32; elements]);
            let mask = device.put(&vec![9u8; elements + 1]).offset(u64::from(elements == 5000));
            let step = device.put(&[u64::from(u32::MAX)]);
            for draw in 0..3 {
                device.run(&dropout(elements as u64, ratio, seed, step, at, y, mask));
                device.run(&count_step(step));
                let (mut want, mut kept) = (vec![0f32; elements], vec![false; elements]);
                on_the_cpu(&x, ratio, Draw { seed, step: u64::from(u32::MAX) + draw }, &mut want, &mut kept).unwrap();
                assert_eq!(device.get::<f32>(y, elements), want);
                assert_eq!(device.get::<u8>(mask, elements), kept.iter().map(|k| u8::from(*k)).collect::<Vec<_>>());
            }
        }
    }
}
