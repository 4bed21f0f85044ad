//! `BatchNormalization` of ONNX, in training (batch statistics) and in inference (given statistics).

use rayon::prelude::*;

use super::KernelError;
use super::error::expect_len;
use super::sum::{sum, sum_of};

/// Samples, channels, and the positions of one channel: `x` has shape (N, C, D…).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    pub batch: usize,
    pub channels: usize,
    pub positions: usize,
    /// Added to the variance under the root.
    pub epsilon: f32,
}

/// Factor and shift of every channel, each of C elements.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    pub scale: &'a [f32],
    pub bias: &'a [f32],
}

/// Mean and variance of every channel, each of C elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl BatchNorm {
    fn check(&self, x: &[f32], affine: Affine, y: &[f32]) -> Result<(), KernelError> {
        let len = self.batch.saturating_mul(self.channels).saturating_mul(self.positions);
        expect_len("the normalisation's input", x, len)?;
        expect_len("the normalisation's output", y, len)?;
        expect_len("the normalisation's scale", affine.scale, self.channels)?;
        expect_len("the normalisation's bias", affine.bias, self.channels)
    }

    /// Mean and population variance (divided by N·D, as ONNX and PyTorch normalise with) of every channel. NaN when
    /// there is no element.
    fn statistics(&self, x: &[f32]) -> Statistics {
        let count = (self.batch * self.positions) as f64;
        let plane =
            |sample: usize, channel: usize| &x[(sample * self.channels + channel) * self.positions..][..self.positions];
        let both: Vec<(f32, f32)> = (0..self.channels)
            .into_par_iter()
            .map(|channel| {
                let mean = (0..self.batch).map(|n| sum(plane(n, channel))).sum::<f64>() / count;
                let centre = mean as f32;
                let (mut first, mut second) = (0.0, 0.0);
                for n in 0..self.batch {
                    first += sum_of(plane(n, channel), |x| x - centre);
                    second += sum_of(plane(n, channel), |x| (x - centre) * (x - centre));
                }
                // What rounding the mean to float32 left over is taken out again.
                let rest = first / count;
                ((f64::from(centre) + rest) as f32, (second / count - rest * rest).max(0.0) as f32)
            })
            .collect();
        let (mean, variance) = both.into_iter().unzip();
        Statistics { mean, variance }
    }

    /// Writes `y = (x − mean) / √(variance + ε) · scale + bias` with the batch's own statistics, and returns them.
    ///
    /// `x`, `y` (N, C, D…) float32. ONNX's running statistics follow with [`running`].
    ///
    /// # Errors
    /// When a slice does not have its shape's length.
    pub fn train(&self, x: &[f32], affine: Affine, y: &mut [f32]) -> Result<Statistics, KernelError> {
        self.check(x, affine, y)?;
        let statistics = self.statistics(x);
        self.normalise(x, affine, &statistics.mean, &statistics.variance, y);
        Ok(statistics)
    }

    /// Writes the same with given statistics of C elements each.
    ///
    /// # Errors
    /// When a slice does not have its shape's length.
    pub fn infer(
        &self,
        x: &[f32],
        affine: Affine,
        mean: &[f32],
        variance: &[f32],
        y: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check(x, affine, y)?;
        expect_len("the normalisation's mean", mean, self.channels)?;
        expect_len("the normalisation's variance", variance, self.channels)?;
        self.normalise(x, affine, mean, variance, y);
        Ok(())
    }

    fn normalise(&self, x: &[f32], affine: Affine, mean: &[f32], variance: &[f32], y: &mut [f32]) {
        let factors: Vec<f32> =
            variance.iter().zip(affine.scale).map(|(v, scale)| scale / (v + self.epsilon).sqrt()).collect();
        let positions = self.positions.max(1);
        let planes = y.par_chunks_mut(positions).zip(x.par_chunks(positions)).enumerate();
        planes.with_min_len((1 << 14) / positions + 1).for_each(|(plane, (y, x))| {
            let channel = plane % self.channels;
            let (mean, factor, bias) = (mean[channel], factors[channel], affine.bias[channel]);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * factor + bias);
        });
    }
}

/// ONNX's running statistics: `previous · momentum + current · (1 − momentum)`, element by element.
///
/// # Errors
/// When the slices differ in length.
pub fn running(previous: &[f32], current: &[f32], momentum: f32, next: &mut [f32]) -> Result<(), KernelError> {
    expect_len("the running statistics", previous, current.len())?;
    expect_len("the next running statistics", next, current.len())?;
    let pairs = next.iter_mut().zip(previous.iter().zip(current));
    pairs.for_each(|(next, (p, c))| *next = p * momentum + c * (1.0 - momentum));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::testing::{assert_close, noise, with_threads};

    proptest! {
        #[test]
        fn training_follows_the_definition(
            batch in 1usize..6, channels in 1usize..5, positions in 1usize..40, shift in -100i32..100,
        ) {
            let norm = BatchNorm { batch, channels, positions, epsilon: 1e-3 };
            let x: Vec<f32> = noise(batch * channels * positions, 1).iter().map(|x| x + shift as f32).collect();
            let (scale, bias) = (noise(channels, 2), noise(channels, 3));
            let of = |c: usize| (0..x.len()).filter(move |i| i / positions % channels == c);
            let count = (batch * positions) as f64;
            let mean: Vec<f64> =
                (0..channels).map(|c| of(c).map(|i| f64::from(x[i])).sum::<f64>() / count).collect();
            let square = |c: usize| move |x: f32, mean: &[f64]| (f64::from(x) - mean[c]).powi(2);
            let variance: Vec<f64> =
                (0..channels).map(|c| of(c).map(|i| square(c)(x[i], &mean)).sum::<f64>() / count).collect();
            let expected: Vec<f64> = (0..x.len()).map(|i| {
                let c = i / positions % channels;
                let scaled = (f64::from(x[i]) - mean[c]) / (variance[c] + f64::from(norm.epsilon)).sqrt();
                scaled * f64::from(scale[c]) + f64::from(bias[c])
            }).collect();
            let mut y = vec![f32::NAN; x.len()];
            let affine = Affine { scale: &scale, bias: &bias };
            let found = norm.train(&x, affine, &mut y).unwrap();
            assert_close("mean", &found.mean, &mean, 1e-7);
            assert_close("variance", &found.variance, &variance, 1e-6);
            // The mean is float32: its rounding moves y by about shift·2⁻²⁴ over the deviation.
            assert_close("y", &y, &expected, 5e-5);
            let mut again = vec![f32::NAN; x.len()];
            norm.infer(&x, affine, &found.mean, &found.variance, &mut again).unwrap();
            prop_assert_eq!(y, again);
        }
    }

    #[test]
    fn running_statistics_keep_the_momentum_of_the_past() {
        let mut next = [0.0; 2];
        running(&[1.0, 2.0], &[3.0, 0.0], 0.75, &mut next).unwrap();
        assert_eq!(next, [1.5, 1.5]);
        assert!(running(&[1.0], &[3.0, 0.0], 0.75, &mut next).is_err());
    }

    #[test]
    fn odd_sizes() {
        let norm = BatchNorm { batch: 0, channels: 2, positions: 3, epsilon: 1e-5 };
        let affine = Affine { scale: &[1.0; 2], bias: &[0.0; 2] };
        assert!(norm.train(&[], affine, &mut []).unwrap().mean[0].is_nan());
        assert!(norm.train(&[1.0], affine, &mut [0.0]).is_err());
        let one = BatchNorm { batch: 1, channels: 2, positions: 1, epsilon: 1e-5 };
        let mut y = [9.0; 2];
        assert_eq!(one.train(&[3.0, -4.0], affine, &mut y).unwrap().variance, [0.0, 0.0]);
        assert_eq!(y, [0.0, 0.0]);
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let norm = BatchNorm { batch: 9, channels: 7, positions: 1500, epsilon: 1e-5 };
        let (x, scale) = (noise(9 * 7 * 1500, 1), noise(7, 2));
        let run = || {
            let mut y = vec![0.0; x.len()];
            let statistics = norm.train(&x, Affine { scale: &scale, bias: &scale }, &mut y).unwrap();
            (y, statistics)
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }
}
