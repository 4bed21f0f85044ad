//! `SoftmaxCrossEntropyLoss` and `NegativeLogLikelihoodLoss` of ONNX (opset 13).

use rayon::prelude::*;

use super::KernelError;
use super::error::expect_len;

/// Samples, classes, and the positions of one sample: scores have shape (N, C, D…), labels (N, D…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossShape {
    pub batch: usize,
    pub classes: usize,
    pub positions: usize,
}

/// What the losses of all samples become: themselves, their sum, or their mean weighted by the labels' class weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    None,
    Sum,
    Mean,
}

/// What both losses take besides the scores.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a, L> {
    /// Class ids, (N, D…).
    pub ids: &'a [L],
    /// One factor a class, (C); 1 when absent.
    pub weights: Option<&'a [f32]>,
    /// A label of this value adds neither loss nor weight. It need not be a class.
    pub ignore_index: Option<i64>,
    pub reduction: Reduction,
}

/// Below this many scores the threads cost more than they give.
const SERIAL: usize = 1 << 13;

impl<L: Copy + Into<i64> + Sync> Labels<'_, L> {
    fn check(&self, shape: LossShape, scores: &[f32], loss: &[f32]) -> Result<(), KernelError> {
        let labels = shape.batch.saturating_mul(shape.positions);
        expect_len("the loss's input", scores, labels.saturating_mul(shape.classes))?;
        expect_len("the loss's label tensor", self.ids, labels)?;
        if let Some(weights) = self.weights {
            expect_len("the loss's class weight", weights, shape.classes)?;
        }
        expect_len("the loss", loss, if self.reduction == Reduction::None { labels } else { 1 })?;
        for (position, id) in self.ids.iter().enumerate() {
            let label = (*id).into();
            if !(0..shape.classes as i64).contains(&label) && Some(label) != self.ignore_index {
                return Err(KernelError::Label { label, position, classes: shape.classes });
            }
        }
        Ok(())
    }

    /// The class at a position and its weight; `None` where the label is ignored.
    fn class(&self, position: usize) -> Option<(usize, f32)> {
        let label = self.ids[position].into();
        if Some(label) == self.ignore_index {
            return None;
        }
        Some((label as usize, self.weights.map_or(1.0, |weights| weights[label as usize])))
    }

    /// `loss_at(score index)` is the unweighted loss of the label whose score has that index. Sums run in float64 in the
    /// order of the labels.
    fn reduce(&self, shape: LossShape, loss: &mut [f32], loss_at: impl Fn(usize, usize) -> f32) {
        let (mut sum, mut weight) = (0.0f64, 0.0f64);
        // `loss` has one element a label only without a reduction.
        #[allow(clippy::needless_range_loop)]
        for position in 0..self.ids.len() {
            let (n, d) = (position / shape.positions, position % shape.positions);
            let (term, w) = match self.class(position) {
                Some((class, w)) => (w * loss_at(position, (n * shape.classes + class) * shape.positions + d), w),
                None => (0.0, 0.0),
            };
            match self.reduction {
                Reduction::None => loss[position] = term,
                _ => (sum, weight) = (sum + f64::from(term), weight + f64::from(w)),
            }
        }
        match self.reduction {
            Reduction::None => {}
            Reduction::Sum => loss[0] = sum as f32,
            Reduction::Mean => loss[0] = (sum / weight) as f32,
        }
    }
}

/// Writes `−w[label]·log_prob[label]` of every label, reduced.
///
/// `log_prob` (N, C, D…) float32; `loss` (N, D…) without a reduction, else one element. A mean over no weight at all
/// (every label ignored, an empty batch) is 0/0 = NaN, as the formula says.
///
/// # Errors
/// A label that is neither in `0..C` nor `ignore_index`; a slice that does not fit its shape.
pub fn negative_log_likelihood<L: Copy + Into<i64> + Sync>(
    shape: LossShape,
    log_prob: &[f32],
    labels: &Labels<L>,
    loss: &mut [f32],
) -> Result<(), KernelError> {
    labels.check(shape, log_prob, loss)?;
    labels.reduce(shape, loss, |_, at| -log_prob[at]);
    Ok(())
}

/// Writes the same loss of `log_softmax(scores)` over the classes, and that logarithm itself if asked for.
///
/// `scores` and `log_prob` (N, C, D…) float32; `loss` as in [`negative_log_likelihood`]. With m the largest score of a
/// position, `log_prob = (score − m) − ln Σ exp(score − m)`.
///
/// # Errors
/// Those of [`negative_log_likelihood`].
pub fn softmax_cross_entropy<L: Copy + Into<i64> + Sync>(
    shape: LossShape,
    scores: &[f32],
    labels: &Labels<L>,
    loss: &mut [f32],
    log_prob: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    labels.check(shape, scores, loss)?;
    if let Some(log_prob) = &log_prob {
        expect_len("the logarithm of the probabilities", log_prob, scores.len())?;
    }
    let (classes, positions) = (shape.classes, shape.positions);
    let sample = (classes * positions).max(1);
    // Per position: the largest score and the logarithm of the sum of exponentials after taking it off.
    let mut norms = vec![(0.0f32, 0.0f32); shape.batch * positions];
    let norm = |(norms, scores): (&mut [(f32, f32)], &[f32])| log_sum_exp(scores, norms);
    let chunk = positions.max(1);
    if scores.len() < SERIAL {
        norms.chunks_mut(chunk).zip(scores.chunks(sample)).for_each(norm);
    } else {
        norms.par_chunks_mut(chunk).zip(scores.par_chunks(sample)).for_each(norm);
    }
    labels.reduce(shape, loss, |position, at| {
        let (largest, log_sum) = norms[position];
        log_sum - (scores[at] - largest)
    });
    if let Some(log_prob) = log_prob.filter(|l| !l.is_empty()) {
        type Sample<'a> = ((&'a mut [f32], &'a [f32]), &'a [(f32, f32)]);
        let write = |((log_prob, scores), norms): Sample<'_>| {
            for (log_prob, scores) in log_prob.chunks_exact_mut(positions).zip(scores.chunks_exact(positions)) {
                for ((l, s), (largest, log_sum)) in log_prob.iter_mut().zip(scores).zip(norms) {
                    *l = (s - largest) - log_sum;
                }
            }
        };
        let pairs = log_prob.par_chunks_mut(sample).with_min_len(SERIAL.div_ceil(sample));
        pairs.zip(scores.par_chunks(sample)).zip(norms.par_chunks(chunk)).for_each(write);
    }
    Ok(())
}

/// One sample: its scores (C, D) to (largest, ln Σ exp(score − largest)) of each of D positions.
fn log_sum_exp(scores: &[f32], norms: &mut [(f32, f32)]) {
    if norms.is_empty() {
        return;
    }
    norms.fill((f32::NEG_INFINITY, 0.0));
    for row in scores.chunks_exact(norms.len()) {
        norms.iter_mut().zip(row).for_each(|(n, s)| n.0 = n.0.max(*s));
    }
    let mut sums = vec![0.0f64; norms.len()];
    for row in scores.chunks_exact(norms.len()) {
        for ((sum, (largest, _)), s) in sums.iter_mut().zip(norms.iter()).zip(row) {
            *sum += f64::from((s - largest).exp());
        }
    }
    norms.iter_mut().zip(sums).for_each(|(n, sum)| n.1 = sum.ln() as f32);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::testing::{assert_close, noise, with_threads};

    /// The definition in float64: (losses before reduction, weights, log-probabilities).
    fn naive(
        shape: LossShape,
        scores: &[f32],
        ids: &[i64],
        weights: Option<&[f32]>,
        ignore: Option<i64>,
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let LossShape { batch, classes, positions } = shape;
        let mut log_prob = vec![0.0; scores.len()];
        let (mut losses, mut total) = (vec![], vec![]);
        for n in 0..batch {
            for d in 0..positions {
                let at = |c: usize| (n * classes + c) * positions + d;
                let sum: f64 = (0..classes).map(|c| f64::from(scores[at(c)]).exp()).sum();
                (0..classes).for_each(|c| log_prob[at(c)] = f64::from(scores[at(c)]) - sum.ln());
                let id = ids[n * positions + d];
                let w = if Some(id) == ignore { 0.0 } else { weights.map_or(1.0, |w| f64::from(w[id as usize])) };
                losses.push(if w == 0.0 { 0.0 } else { -w * log_prob[at(id as usize)] });
                total.push(w);
            }
        }
        (losses, total, log_prob)
    }

    proptest! {
        #[test]
        fn losses_follow_the_definition(
            batch in 1usize..6, classes in 1usize..7, positions in 1usize..5, weighted: bool,
            ignore in prop::option::of(prop::sample::select(vec![-100i64, 0, 255])), seed in 0u64..1000,
            reduction in prop::sample::select(vec![Reduction::None, Reduction::Sum, Reduction::Mean]),
        ) {
            let shape = LossShape { batch, classes, positions };
            let scores: Vec<f32> = noise(batch * classes * positions, seed).iter().map(|s| s * 20.0).collect();
            let mut ids: Vec<i64> =
                noise(batch * positions, seed + 1).iter().map(|s| ((s + 0.5) * classes as f32) as i64).collect();
            if let Some(ignore) = ignore {
                ids.iter_mut().skip(1).step_by(3).for_each(|id| *id = ignore);
            }
            let weights: Option<Vec<f32>> = weighted.then(|| noise(classes, seed + 2).iter().map(|w| w + 1.0).collect());
            let labels = Labels { ids: &ids, weights: weights.as_deref(), ignore_index: ignore, reduction };
            let (losses, total, expected_log) = naive(shape, &scores, &ids, weights.as_deref(), ignore);
            let expected = match reduction {
                Reduction::None => losses.clone(),
                Reduction::Sum => vec![losses.iter().sum()],
                Reduction::Mean => vec![losses.iter().sum::<f64>() / total.iter().sum::<f64>()],
            };
            let mut loss = vec![f32::NAN; expected.len()];
            let mut log_prob = vec![f32::NAN; scores.len()];
            softmax_cross_entropy(shape, &scores, &labels, &mut loss, Some(&mut log_prob)).unwrap();
            if expected.iter().any(|e| e.is_nan()) {
                prop_assert!(loss[0].is_nan());
                return Ok(());
            }
            assert_close("log_prob", &log_prob, &expected_log, 2e-6);
            assert_close("loss", &loss, &expected, 4e-6);
            let mut again = vec![f32::NAN; expected.len()];
            negative_log_likelihood(shape, &log_prob, &labels, &mut again).unwrap();
            assert_close("nll", &again, &expected, 4e-6);
        }
    }

    #[test]
    fn scores_far_from_zero_keep_their_digits() {
        let shape = LossShape { batch: 1, classes: 3, positions: 1 };
        let labels = Labels { ids: &[2i32], weights: None, ignore_index: None, reduction: Reduction::Mean };
        let (mut loss, mut log_prob) = ([0.0], [0.0; 3]);
        softmax_cross_entropy(shape, &[1e5, 1e5 + 1.0, 1e5 - 1.0], &labels, &mut loss, Some(&mut log_prob)).unwrap();
        let ln = (1f64.exp() + (-1f64).exp() + 1.0).ln();
        assert_close("log_prob", &log_prob, &[-ln, 1.0 - ln, -1.0 - ln], 1e-7);
        assert_close("loss", &loss, &[ln + 1.0], 1e-7);
    }

    #[test]
    fn odd_labels() {
        let shape = LossShape { batch: 2, classes: 3, positions: 1 };
        let scores = [0.0; 6];
        let labels =
            |ids: &'static [i64], ignore_index| Labels { ids, weights: None, ignore_index, reduction: Reduction::Mean };
        let mut loss = [0.0];
        let mut run = |ids, ignore| {
            softmax_cross_entropy(shape, &scores, &labels(ids, ignore), &mut loss, None).map(|()| loss[0])
        };
        assert_eq!(run(&[0, 3], None), Err(KernelError::Label { label: 3, position: 1, classes: 3 }));
        assert_eq!(run(&[-1, 0], None), Err(KernelError::Label { label: -1, position: 0, classes: 3 }));
        assert!((run(&[-1, 0], Some(-1)).unwrap() - 3f32.ln()).abs() < 1e-6);
        assert!(run(&[5, 5], Some(5)).unwrap().is_nan());
        assert!(run(&[0], None).is_err());
        let empty = LossShape { batch: 0, classes: 3, positions: 4 };
        softmax_cross_entropy(empty, &[], &labels(&[], None), &mut loss, Some(&mut [])).unwrap();
        assert!(loss[0].is_nan());
        let none = LossShape { batch: 1, classes: 0, positions: 1 };
        assert!(matches!(
            negative_log_likelihood(none, &[], &labels(&[0], None), &mut loss),
            Err(KernelError::Label { .. })
        ));
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let shape = LossShape { batch: 300, classes: 11, positions: 9 };
        let scores = noise(300 * 99, 1);
        let ids: Vec<i32> = (0..2700).map(|i| i % 11).collect();
        let labels = Labels { ids: &ids, weights: None, ignore_index: None, reduction: Reduction::Mean };
        let run = || {
            let (mut loss, mut log_prob) = ([0.0], vec![0.0; scores.len()]);
            softmax_cross_entropy(shape, &scores, &labels, &mut loss, Some(&mut log_prob)).unwrap();
            (loss, log_prob)
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }
}
