use rayon::prelude::*;

use super::plan::{Means, Plan};
use super::step::{PARALLEL_ELEMENTS, leaf};
use super::sweep::{BETA1, BETA2, DELTA};
use super::tensors::BLOCK;
use super::{Config, Element, Gates, Inputs, Mode, StepError};

/// A gradient and the traces as they enter a step, all of one length; nothing is written.
#[derive(Clone, Copy)]
pub struct Traces<'a, T> {
    /// g.
    pub gradient: &'a [T],
    /// a.
    pub activity_trace: &'a [f32],
    /// m.
    pub momentum: &'a [f32],
    /// v.
    pub variance: &'a [f32],
}

/// The controller's signal s of one tensor: mean(log(max(α, ε) / max(α_g, ε))) with the α of the coming step, elements that
/// are not finite counted as 0. 0 in the ablation and for a tensor without elements.
///
/// Runs on the current rayon pool; bitwise the same for any number of threads.
///
/// # Errors
/// When lengths differ or a setting or gate is out of range.
pub fn plasticity_signal<T: Element>(config: &Config, gates: &Gates, traces: Traces<'_, T>) -> Result<f32, StepError> {
    config.validate()?;
    let inputs = Inputs { gates: *gates, ..Inputs::new(0.0, 0) };
    inputs.validate()?;
    let n = traces.gradient.len();
    let lengths = [
        ("activity_trace", traces.activity_trace.len()),
        ("momentum", traces.momentum.len()),
        ("variance", traces.variance.len()),
    ];
    for (name, found) in lengths {
        if found != n {
            return Err(StepError::Length { name, found, expected: n });
        }
    }
    let plan = Plan::new(config, &inputs, false);
    if n == 0 || plan.blend == 0.0 || config.mode == Mode::AblationGradOnly {
        return Ok(0.0);
    }
    let sums = over_blocks(n, |range| {
        let mut sums = [0.0; 4];
        for i in range {
            let (gradient, activity, memory) = traces.advanced(config, i);
            sums[0] += gradient;
            sums[1] += activity;
            sums[2] += memory;
        }
        sums
    });
    let means = plan.means(&sums, n);
    let sums = over_blocks(n, |range| [block_signal(&plan, &means, &traces, range), 0.0, 0.0, 0.0]);
    Ok((sums[0] / n as f64) as f32)
}

impl<T: Element> Traces<'_, T> {
    /// |g|, a and |m|/(√v+ε) after the traces' update.
    #[inline(always)]
    fn advanced(&self, config: &Config, i: usize) -> (f64, f64, f64) {
        let g = self.gradient[i].to_f64();
        let a = DELTA * f64::from(self.activity_trace[i]) + (1.0 - DELTA) * g.abs();
        let m = BETA1 * f64::from(self.momentum[i]) + (1.0 - BETA1) * g;
        let v = BETA2 * f64::from(self.variance[i]) + (1.0 - BETA2) * g * g;
        (g.abs(), a, m.abs() / (v.sqrt() + config.eps))
    }
}

fn block_signal<T: Element>(
    plan: &Plan<'_>,
    means: &Means,
    traces: &Traces<'_, T>,
    range: std::ops::Range<usize>,
) -> f64 {
    let eps = plan.config.eps;
    let mut sum = 0.0;
    // The logarithm of a product of ratios is their sum of logarithms; the product stays within f64 for four of them.
    let mut product = 1.0;
    for (taken, i) in range.enumerate() {
        let (gradient, activity, memory) = traces.advanced(plan.config, i);
        let (alone, alpha) = plan.alphas(means, gradient, activity, memory);
        let ratio = alpha.max(eps) / alone.max(eps);
        if ratio > 1e-75 && ratio < 1e75 {
            product *= ratio;
        } else if ratio.ln().is_finite() {
            sum += ratio.ln();
        }
        if taken % 4 == 3 {
            sum += product.ln();
            product = 1.0;
        }
    }
    sum + product.ln()
}

/// Adds what `f` returns for each block, in the blocks' order.
fn over_blocks(n: usize, f: impl Fn(std::ops::Range<usize>) -> [f64; 4] + Sync) -> [f64; 4] {
    let block = |i: usize| f(i * BLOCK..n.min((i + 1) * BLOCK));
    let blocks = n.div_ceil(BLOCK);
    let leaf = leaf(n, PARALLEL_ELEMENTS);
    let sums: Vec<[f64; 4]> = if blocks > leaf {
        (0..blocks).into_par_iter().with_min_len(leaf).map(block).collect()
    } else {
        (0..blocks).map(block).collect()
    };
    let mut total = [0.0; 4];
    for sums in &sums {
        for (total, value) in total.iter_mut().zip(sums) {
            *total += value;
        }
    }
    total
}
