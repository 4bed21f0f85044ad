//! `Dropout` of ONNX (opset 12) in training, from a counter-based generator.

use rayon::prelude::*;

use super::KernelError;
use super::error::expect_len;

/// Philox4x32-10 (J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): four
/// random words of a counter and a key, without any state.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(INCREMENTS[0]), key[1].wrapping_add(INCREMENTS[1])];
        }
        let [a, b] = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// Which random numbers a call draws: the same seed and step give the same mask on any machine, thread count and shape
/// of parallelism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    pub seed: u64,
    pub step: u64,
}

/// Elements of one task, a multiple of the generator's four words.
const CHUNK: usize = 1 << 14;

/// Drops each element with probability `ratio` and multiplies the others by `1 / (1 − ratio)`; `mask` says which were
/// kept.
///
/// `x`, `y`, `mask` of one length; float32. Element `i` is kept when word `i mod 4` of Philox at counter
/// (⌊i/4⌋, step), key `seed`, is at least `ratio · 2³²`.
///
/// # Errors
/// When the lengths differ or `ratio` is not in `0 ≤ ratio < 1`.
pub fn dropout(x: &[f32], ratio: f32, draw: Draw, y: &mut [f32], mask: &mut [bool]) -> Result<(), KernelError> {
    expect_len("the dropout's output", y, x.len())?;
    expect_len("the dropout's mask", mask, x.len())?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(KernelError::Range {
            name: "the dropout ratio",
            value: ratio.to_string(),
            range: "0 <= ratio < 1",
        });
    }
    let threshold = (f64::from(ratio) * f64::from(u32::MAX) + f64::from(ratio)) as u32;
    let scale = 1.0 / (1.0 - ratio);
    let low_high = |word: u64| [word as u32, (word >> 32) as u32];
    let ([s0, s1], key) = (low_high(draw.step), low_high(draw.seed));
    let chunks = y.par_chunks_mut(CHUNK).zip(mask.par_chunks_mut(CHUNK)).zip(x.par_chunks(CHUNK)).enumerate();
    chunks.for_each(|(chunk, ((y, mask), x))| {
        let fours = y.chunks_mut(4).zip(mask.chunks_mut(4)).zip(x.chunks(4)).enumerate();
        for (four, ((y, mask), x)) in fours {
            let [c0, c1] = low_high((chunk * CHUNK / 4 + four) as u64);
            let words = philox([c0, c1, s0, s1], key);
            for (((y, mask), x), word) in y.iter_mut().zip(mask).zip(x).zip(words) {
                *mask = word >= threshold;
                *y = if *mask { x * scale } else { 0.0 };
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{noise, with_threads};

    /// The known answers of Random123's own test file (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn keeps_the_right_share_and_scales_it() {
        let x = vec![1.0; 200_001];
        let (mut y, mut mask) = (vec![9.0; x.len()], vec![false; x.len()]);
        for ratio in [0.0, 0.1, 0.5, 0.9] {
            dropout(&x, ratio, Draw { seed: 3, step: 0 }, &mut y, &mut mask).unwrap();
            let kept = mask.iter().filter(|kept| **kept).count() as f64;
            // Five standard deviations of a binomial count.
            let (n, p) = (x.len() as f64, 1.0 - f64::from(ratio));
            assert!((kept - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{ratio}: {kept}");
            let scale = 1.0 / (1.0 - ratio);
            assert!(y.iter().zip(&mask).all(|(y, kept)| *y == if *kept { scale } else { 0.0 }));
        }
    }

    #[test]
    fn masks_depend_on_seed_and_step_and_on_nothing_else() {
        let x = noise(100_003, 1);
        let draw = |seed, step, threads| {
            with_threads(threads, || {
                let (mut y, mut mask) = (vec![0.0; x.len()], vec![false; x.len()]);
                dropout(&x, 0.3, Draw { seed, step }, &mut y, &mut mask).unwrap();
                mask
            })
        };
        assert_eq!(draw(1, 1, 1), draw(1, 1, 3));
        for other in [draw(2, 1, 1), draw(1, 2, 1), draw(1 << 32, 1, 1), draw(1, 1 << 32, 1)] {
            let same = other.iter().zip(draw(1, 1, 1)).filter(|(a, b)| **a == *b).count() as f64 / x.len() as f64;
            // Independent masks agree where both keep or both drop: 0.7² + 0.3².
            assert!((same - 0.58).abs() < 0.01, "{same}");
        }
    }

    #[test]
    fn a_ratio_outside_its_range_is_an_error() {
        for ratio in [-0.1, 1.0, f32::NAN] {
            let error = dropout(&[1.0], ratio, Draw { seed: 0, step: 0 }, &mut [0.0], &mut [false]);
            assert!(matches!(error, Err(KernelError::Range { .. })), "{ratio}");
        }
    }
}
