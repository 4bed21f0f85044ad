use rayon::prelude::*;

use super::plan::{Means, Plan};
use super::sweep::{Base, Form};
use super::tensors::BLOCK;
use super::view::View;
use super::{Element, ModulationTarget};

pub const HISTOGRAM_BINS: usize = 64;
/// Fixed, so that the order of summation does not depend on the number of threads.
const CHUNK: usize = 64 * BLOCK;

/// Minimum, maximum and mean of a stream of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        Summary { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Summary {
    pub fn record(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    pub fn merge(&mut self, other: &Summary) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// `None` before the first number.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What an epoch's steps looked like; accumulates over steps and tensors. Norms are kept as sums of squares.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostics {
    /// α over all elements.
    pub alpha: Summary,
    alpha_squares: f64,
    near_min: u64,
    near_max: u64,
    histogram: [u64; HISTOGRAM_BINS],
    bounds: Option<(f64, f64)>,
    gradient_squares: f64,
    parameter_squares: f64,
    raw_update_squares: f64,
    effective_update_squares: f64,
    plasticity_delta_squares: f64,
    /// S of the controller, recorded by whoever runs the controller.
    pub controller_signal: Summary,
    /// κ, once per step and tensor.
    pub controller_multiplier: Summary,
}

impl Default for Diagnostics {
    fn default() -> Self {
        Diagnostics {
            alpha: Summary::default(),
            alpha_squares: 0.0,
            near_min: 0,
            near_max: 0,
            histogram: [0; HISTOGRAM_BINS],
            bounds: None,
            gradient_squares: 0.0,
            parameter_squares: 0.0,
            raw_update_squares: 0.0,
            effective_update_squares: 0.0,
            plasticity_delta_squares: 0.0,
            controller_signal: Summary::default(),
            controller_multiplier: Summary::default(),
        }
    }
}

impl Diagnostics {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn merge(&mut self, other: &Diagnostics) {
        self.alpha.merge(&other.alpha);
        self.alpha_squares += other.alpha_squares;
        self.near_min += other.near_min;
        self.near_max += other.near_max;
        for (bin, count) in self.histogram.iter_mut().zip(other.histogram) {
            *bin += count;
        }
        self.bounds = self.bounds.or(other.bounds);
        self.gradient_squares += other.gradient_squares;
        self.parameter_squares += other.parameter_squares;
        self.raw_update_squares += other.raw_update_squares;
        self.effective_update_squares += other.effective_update_squares;
        self.plasticity_delta_squares += other.plasticity_delta_squares;
        self.controller_signal.merge(&other.controller_signal);
        self.controller_multiplier.merge(&other.controller_multiplier);
    }

    /// Population standard deviation of α; `None` before the first element.
    pub fn alpha_std(&self) -> Option<f64> {
        let mean = self.alpha.mean()?;
        Some((self.alpha_squares / self.alpha.count as f64 - mean * mean).max(0.0).sqrt())
    }

    /// Centre of the bin of [`Self::alpha_histogram`] that holds the middle element; `None` before the first element.
    pub fn alpha_median(&self) -> Option<f64> {
        let (low, high) = self.bounds?;
        let middle = self.alpha.count.div_ceil(2);
        let mut seen = 0;
        let bin = self.histogram.iter().position(|&count| {
            seen += count;
            seen >= middle
        })?;
        Some(low + (high - low) * (bin as f64 + 0.5) / HISTOGRAM_BINS as f64)
    }

    /// Counts of α in equal bins over [α_min, α_max]; values outside are counted in the first and last.
    pub fn alpha_histogram(&self) -> &[u64; HISTOGRAM_BINS] {
        &self.histogram
    }

    fn fraction(&self, count: u64) -> Option<f64> {
        (self.alpha.count > 0).then(|| count as f64 / self.alpha.count as f64)
    }

    /// Fraction of elements with α within 5 % of the range [α_min, α_max] of α_min, or below.
    pub fn alpha_fraction_near_min(&self) -> Option<f64> {
        self.fraction(self.near_min)
    }

    /// Fraction of elements with α within 5 % of the range [α_min, α_max] of α_max, or above.
    pub fn alpha_fraction_near_max(&self) -> Option<f64> {
        self.fraction(self.near_max)
    }

    pub fn gradient_norm(&self) -> f64 {
        self.gradient_squares.sqrt()
    }

    /// Of the parameters as they entered the steps.
    pub fn parameter_norm(&self) -> f64 {
        self.parameter_squares.sqrt()
    }

    /// Of u before the stabilisation, coupled weight decay included.
    pub fn raw_update_norm(&self) -> f64 {
        self.raw_update_squares.sqrt()
    }

    /// Of κ·u after the stabilisation.
    pub fn effective_update_norm(&self) -> f64 {
        self.effective_update_squares.sqrt()
    }

    /// Of what plasticity adds: (α − α_g) g for the plain classic base, else the clipped Δ.
    pub fn plasticity_delta_norm(&self) -> f64 {
        self.plasticity_delta_squares.sqrt()
    }
}

/// Scalars of one tensor's step that the hot path has anyway.
pub(super) struct Facts {
    pub means: Means,
    /// The modulation's factor.
    pub strength: f64,
    /// The clip's factor on Δ; for the orthogonal residual ‖Δ‖ itself.
    pub factor: f64,
    pub update_squares: f64,
    /// The stabilisation's factor on u.
    pub scale: f64,
    pub multiplier: f64,
}

/// Adds one tensor's step, seen after u is known and before θ moves.
pub(super) fn observe<T: Element>(plan: &Plan<'_>, view: &View<'_, T>, facts: &Facts, into: &mut Diagnostics) {
    let n = view.gradient.len();
    let chunks: Vec<Diagnostics> = (0..n.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| elements(plan, view, facts, chunk * CHUNK..n.min((chunk + 1) * CHUNK)))
        .collect();
    for chunk in &chunks {
        into.merge(chunk);
    }
    if plan.form == Form::Projection {
        into.plasticity_delta_squares += facts.factor * facts.factor;
    }
    let scale = facts.scale * facts.multiplier;
    into.raw_update_squares += facts.update_squares;
    into.effective_update_squares += facts.update_squares * scale * scale;
    into.controller_multiplier.record(facts.multiplier);
}

fn elements<T: Element>(
    plan: &Plan<'_>,
    view: &View<'_, T>,
    facts: &Facts,
    range: std::ops::Range<usize>,
) -> Diagnostics {
    let config = plan.config;
    let mut seen = Diagnostics { bounds: Some((config.min_alpha, config.max_alpha)), ..Diagnostics::default() };
    let range_of_alpha = config.max_alpha - config.min_alpha;
    let bins = HISTOGRAM_BINS as f64 / range_of_alpha;
    let near = 0.05 * range_of_alpha;
    for i in range {
        let gradient = view.gradient[i].to_f64();
        let memory = f64::from(view.momentum[i]).abs() / (f64::from(view.variance[i]).sqrt() + config.eps);
        let (alone, alpha) = plan.alphas(&facts.means, gradient.abs(), f64::from(view.activity_trace[i]), memory);
        seen.alpha.record(alpha);
        seen.alpha_squares += alpha * alpha;
        seen.near_min += u64::from(alpha <= config.min_alpha + near);
        seen.near_max += u64::from(alpha >= config.max_alpha - near);
        // A float-to-integer cast saturates, which puts values outside the bounds into the outer bins.
        let bin = ((alpha - config.min_alpha) * bins) as usize;
        seen.histogram[bin.min(HISTOGRAM_BINS - 1)] += 1;
        seen.gradient_squares += gradient * gradient;
        let parameter = view.parameter[i].to_f64();
        seen.parameter_squares += parameter * parameter;
        let delta = match plan.form {
            Form::Projection => 0.0,
            Form::Classic if config.bounded_residual => facts.factor * (alpha - 1.0) * gradient,
            Form::Classic => (alpha - alone) * gradient,
            _ => facts.factor * facts.strength * (alpha - 1.0) * reference(plan, view, i),
        };
        seen.plasticity_delta_squares += delta * delta;
    }
    seen
}

fn reference<T>(plan: &Plan<'_>, view: &View<'_, T>, i: usize) -> f64 {
    match (plan.base, plan.config.modulation_target) {
        (Base::AdamW, ModulationTarget::Momentum) => f64::from(view.base_momentum[i]) * plan.corrections.0,
        (Base::AdamW, _) => f64::from(view.base[i]),
        _ => f64::from(view.base_momentum[i]),
    }
}
