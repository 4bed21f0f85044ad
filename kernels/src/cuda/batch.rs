//! Around a step: the samples of the next batch, and how well a batch was classified.

use super::{Argument, DevicePointer, Launch, Source, THREADS};

/// Sums over batches, as the device keeps them: [`Totals::BYTES`] bytes, all zero to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sum of the batches' mean losses.
    pub loss: f64,
    /// Batches so far.
    pub batches: u64,
    /// Number (from 1) of the first batch whose loss was no number, 0 for none.
    pub not_finite: u64,
    /// Rows whose highest logit is the label's.
    pub right: u64,
    /// Rows with a label that is a class.
    pub judged: u64,
}

impl Totals {
    /// Size on the device.
    pub const BYTES: usize = 40;

    /// What the device's bytes say.
    pub fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |i: usize| std::array::from_fn(|k| bytes[8 * i + k]);
        let count = |i: usize| u64::from_le_bytes(word(i));
        Totals {
            loss: f64::from_le_bytes(word(0)),
            batches: count(1),
            not_finite: count(2),
            right: count(3),
            judged: count(4),
        }
    }
}

/// Copies int64 `order[*cursor..][..batch]` to `indices` and moves the uint64 at `cursor` on by `batch`.
pub fn take_batch(order: DevicePointer, cursor: DevicePointer, indices: DevicePointer, batch: u64) -> Launch {
    let mut arguments: Vec<Argument> = [order, cursor, indices].map(Argument::Pointer).into();
    arguments.push(Argument::U64(batch));
    let block = [THREADS as u32, 1, 1];
    Launch { source: Source::Batch, kernel: "take_batch", grid: [1; 3], block, dynamic_shared: 0, arguments }
}

/// Adds to [`Totals`]: the float32 scalar `loss`, and how many of float32 `logits[rows, classes]` are highest at int64
/// `labels[rows]`; labels that are no class do not count.
pub fn score(
    loss: DevicePointer,
    logits: DevicePointer,
    labels: DevicePointer,
    (rows, classes): (u64, u64),
    totals: DevicePointer,
) -> Launch {
    let mut arguments: Vec<Argument> = [loss, logits, labels].map(Argument::Pointer).into();
    arguments.extend([Argument::U64(rows), Argument::U64(classes), Argument::Pointer(totals)]);
    Launch::threads(Source::Batch, "score", rows * 32, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::Device;
    use npc_ptx_interpreter::Schedule;

    const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(7)];

    #[test]
    fn batches_follow_the_order() {
        for schedule in SCHEDULES {
            let mut device = Device::new(schedule);
            let order: Vec<i64> = (0..900).map(|i| (i * 7) % 900).collect();
            let (at, cursor, indices) = (device.put(&order), device.put(&[0u64]), device.put(&[0i64; 300]));
            for step in 0..3 {
                device.run(&take_batch(at, cursor, indices, 300));
                assert_eq!(device.get::<i64>(indices, 300), order[step * 300..(step + 1) * 300]);
            }
            assert_eq!(device.get::<u64>(cursor, 1), [900]);
        }
    }

    fn totals(device: &Device, at: DevicePointer) -> Totals {
        Totals::read(&device.get::<u8>(at, Totals::BYTES).try_into().unwrap())
    }

    #[test]
    fn hits_and_losses_add_up() {
        for schedule in SCHEDULES {
            for classes in [1usize, 3, 32, 77] {
                let rows = 61;
                let logits: Vec<f32> = (0..rows * classes).map(|i| ((i * 37 + i / 7) % 11) as f32).collect();
                // One label in ten is no class.
                let label = |row: usize| if row % 10 == 9 { -100 } else { ((row * 5) % classes) as i64 };
                let labels: Vec<i64> = (0..rows).map(label).collect();
                let mut device = Device::new(schedule);
                let (x, y, loss) = (device.put(&logits), device.put(&labels), device.put(&[0.25f32]));
                let at = device.put(&[0u8; Totals::BYTES]);
                (0..2).for_each(|_| device.run(&score(loss, x, y, (rows as u64, classes as u64), at)));
                let mut want = Totals { loss: 0.5, batches: 2, ..Totals::default() };
                for (row, label) in logits.chunks(classes).zip(&labels).filter(|(_, label)| **label >= 0) {
                    let best = row.iter().enumerate().fold(0, |best, (j, x)| if *x > row[best] { j } else { best });
                    want.judged += 2;
                    want.right += 2 * u64::from(best as i64 == *label);
                }
                assert_eq!(totals(&device, at), want);
            }
        }
    }

    #[test]
    fn the_first_loss_that_is_no_number_is_remembered() {
        let mut device = Device::new(Schedule::InOrder);
        let (x, y, at) = (device.put(&[0f32]), device.put(&[0i64]), device.put(&[0u8; Totals::BYTES]));
        for loss in [1.0, f32::INFINITY, f32::NAN, 1.0] {
            let loss = device.put(&[loss]);
            device.run(&score(loss, x, y, (1, 1), at));
        }
        let found = totals(&device, at);
        assert_eq!((found.not_finite, found.batches, found.right), (2, 4, 4));
    }
}
