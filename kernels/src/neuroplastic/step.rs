use std::ops::Range;

use rayon::prelude::*;

use super::diagnostics::{self, Facts};
use super::plan::Plan;
use super::sweep::{
    self, ApplyConstants, Base, CombineBlock, CombineConstants, Form, Memory, Sums, TraceBlock, TraceConstants,
    UpdateBlock,
};
use super::tensors::BLOCK;
use super::view::{Order, View, part, part_mut};
use super::workspace::Buffers;
use super::{AnyTensors, Config, Diagnostics, Element, Inputs, ModulationTarget, StepError, Tensors, Workspace};

/// Below this many elements one thread is faster than several.
pub(super) const PARALLEL_ELEMENTS: usize = 8 * BLOCK;
/// The same for one tensor of many, while the others keep the threads busy.
const PARALLEL_IN_GROUP: usize = 32 * BLOCK;
const LEAF_BLOCKS: usize = 4;
const STREAM_ELEMENTS: usize = 1 << 22;

/// One tensor's update in a group.
pub struct Job<'a> {
    pub config: &'a Config,
    pub inputs: Inputs,
    pub tensors: AnyTensors<'a>,
    pub diagnostics: Option<&'a mut Diagnostics>,
}

/// One step of one tensor, in place: steps 1 to 9 of the method, on the threads of the current rayon pool.
///
/// Element maths is float32, sums over the tensor are taken in a fixed order, so that the result is bitwise the same for any
/// number of threads. A tensor without elements is left as it is. With `diagnostics` the step's values are added to them, at the
/// price of further passes.
///
/// # Errors
/// When lengths differ, a state is missing or not wanted, or a setting or input is out of range; nothing is written then.
pub fn step<T: Element>(
    config: &Config,
    inputs: &Inputs,
    mut tensors: Tensors<'_, T>,
    workspace: &Workspace,
    diagnostics: Option<&mut Diagnostics>,
) -> Result<(), StepError> {
    config.validate()?;
    inputs.validate()?;
    tensors.check(config)?;
    let leaf = leaf(tensors.parameter.len(), PARALLEL_ELEMENTS);
    workspace.with(|buffers| run(config, inputs, &mut tensors, buffers, diagnostics, leaf, false));
    Ok(())
}

/// One step of many tensors, in place, in parallel across and within them; each as [`step`] would do it alone, bit for bit.
///
/// # Errors
/// As [`step`]; nothing is written for any tensor then.
pub fn step_many(jobs: &mut [Job<'_>], workspace: &Workspace) -> Result<(), StepError> {
    for job in jobs.iter() {
        job.config.validate()?;
        job.inputs.validate()?;
        match &job.tensors {
            AnyTensors::F32(tensors) => tensors.check(job.config)?,
            AnyTensors::F16(tensors) => tensors.check(job.config)?,
            AnyTensors::BF16(tensors) => tensors.check(job.config)?,
        }
    }
    let run_job = |job: &mut Job<'_>| {
        workspace.with(|buffers| {
            let diagnostics = job.diagnostics.as_deref_mut();
            let leaf = leaf(job.tensors.len(), PARALLEL_IN_GROUP);
            match &mut job.tensors {
                AnyTensors::F32(tensors) => run(job.config, &job.inputs, tensors, buffers, diagnostics, leaf, false),
                AnyTensors::F16(tensors) => run(job.config, &job.inputs, tensors, buffers, diagnostics, leaf, false),
                AnyTensors::BF16(tensors) => run(job.config, &job.inputs, tensors, buffers, diagnostics, leaf, false),
            }
        });
    };
    let elements: usize = jobs.iter().map(|job| job.tensors.len()).sum();
    if elements < PARALLEL_ELEMENTS || rayon::current_num_threads() == 1 {
        jobs.iter_mut().for_each(run_job);
    } else {
        jobs.par_iter_mut().with_max_len(1).for_each(run_job);
    }
    Ok(())
}

/// Blocks per task: all of them where one thread is to do the tensor, which is below `parallel` elements.
pub(super) fn leaf(n: usize, parallel: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads == 1 || n < parallel { usize::MAX } else { n.div_ceil(BLOCK).div_ceil(4 * threads).max(LEAF_BLOCKS) }
}

/// `portable` keeps to the build without processor-specific instructions.
pub(super) fn run<T: Element>(
    config: &Config,
    inputs: &Inputs,
    tensors: &mut Tensors<'_, T>,
    buffers: &mut Buffers,
    diagnostics: Option<&mut Diagnostics>,
    leaf: usize,
    portable: bool,
) {
    let n = tensors.parameter.len();
    if n == 0 {
        return;
    }
    let plan = Plan::new(config, inputs, diagnostics.is_some());
    let mut view = View::new(tensors, buffers, plan.form == Form::Hybrid);

    let sums = trace(&plan, &mut view, leaf, portable);
    let means = plan.means(&sums, n);
    let base_norm = sums[3].sqrt();
    let parameter_norm = match config.modulation_target {
        ModulationTarget::TrustRatio if plan.form == Form::Hybrid => {
            view.sweep(leaf, Order::Backward, |view, range| [squares(&view.parameter[range]), 0.0, 0.0, 0.0])[0].sqrt()
        }
        _ => 0.0,
    };
    let strength = plan.modulation(base_norm, parameter_norm);
    let Sweep { sums, extras } = update(&plan, &mut view, leaf, portable, &means, strength);
    let (update_squares, factor) = match plan.form {
        Form::Projection => project(&plan, &mut view, leaf, portable, base_norm, &sums),
        _ => {
            let factor = match plan.form {
                Form::Hybrid if extras => Plan::limit(sums[1].sqrt(), config.modulation_max_ratio, base_norm, 1e-12),
                Form::Classic if config.bounded_residual => {
                    Plan::limit(sums[1].sqrt(), config.residual_max_ratio, base_norm, 1e-12)
                }
                _ => 1.0,
            };
            if factor < 1.0 {
                // u = b + Δ + λθ becomes b + factor·Δ + λθ.
                let rest = 1.0 - factor;
                let squares =
                    combine(&plan, &mut view, leaf, portable, (factor, rest, rest * plan.coupled_decay), false);
                (squares, factor)
            } else {
                (sums[0], 1.0)
            }
        }
    };
    let scale = plan.stabilisation(update_squares, n);
    if let Some(diagnostics) = diagnostics {
        let facts = Facts { means, strength, factor, update_squares, scale, multiplier: f64::from(inputs.multiplier) };
        diagnostics::observe(&plan, &view, &facts, diagnostics);
    }
    let constants =
        ApplyConstants { keep: (1.0 - plan.rate * plan.decoupled_decay) as f32, rate: (plan.rate * scale) as f32 };
    let apply = sweep::apply(portable);
    view.sweep(leaf, Order::Forward, |view, range| {
        let scratch = &view.scratch[range.clone()];
        // SAFETY: `sweep::apply` chose a build this processor can run.
        T::change(&mut view.parameter[range], |parameter| unsafe { apply(&constants, parameter, scratch) });
        [0.0; 4]
    });
}

fn trace<T: Element>(plan: &Plan<'_>, view: &mut View<'_, T>, leaf: usize, portable: bool) -> Sums {
    let constants = plan.trace_constants();
    let memory = match view.gradient.len() {
        _ if !plan.needs_memory() => Memory::Unused,
        n if n >= STREAM_ELEMENTS => Memory::Streamed,
        _ => Memory::Kept,
    };
    let base = plan.early_base();
    let traces = sweep::traces(memory, base, plan.needs_base_norm(), portable);
    let sgd = base == Base::SgdMomentum;
    view.sweep(leaf, Order::Forward, |view, range| {
        let (mut gradient, mut parameter) = (T::Buffer::default(), T::Buffer::default());
        let gradient = T::read(&view.gradient[range.clone()], &mut gradient);
        let parameter = if sgd { T::read(&view.parameter[range.clone()], &mut parameter) } else { &[] };
        let block = TraceBlock {
            gradient,
            parameter,
            activity_trace: &mut view.activity_trace[range.clone()],
            momentum: &mut view.momentum[range.clone()],
            variance: &mut view.variance[range.clone()],
            base_momentum: part_mut(view.base_momentum, range.clone()),
            base_variance: part_mut(view.base_variance, range.clone()),
            memory: &mut view.scratch[range.clone()],
            base: part_mut(view.base, range.clone()),
        };
        // SAFETY: `sweep::traces` chose a build this processor can run.
        let sums = unsafe { traces(&constants, block) };
        if sums.iter().all(|sum| sum.is_finite()) {
            return sums;
        }
        if plan.needs_memory() {
            quotients(view, &constants, range.clone());
        }
        let base = match base {
            Base::Classic => squares(gradient),
            Base::AdamW => squares(&view.base[range.clone()]),
            Base::SgdMomentum => squares(&view.base_momentum[range.clone()]),
        };
        let memory = if plan.needs_memory() { absolutes(&view.scratch[range.clone()]) } else { 0.0 };
        [absolutes(gradient), absolutes(&view.activity_trace[range]), memory, base]
    })
}

/// |m| / (√v + ε) where v has overflowed or the fast quotient has failed.
#[cold]
fn quotients<T>(view: &mut View<'_, T>, constants: &TraceConstants, range: Range<usize>) {
    for i in range {
        view.scratch[i] = view.momentum[i].abs() / (view.variance[i].sqrt() + constants.eps);
    }
}

struct Sweep {
    sums: Sums,
    extras: bool,
}

fn update<T: Element>(
    plan: &Plan<'_>,
    view: &mut View<'_, T>,
    leaf: usize,
    portable: bool,
    means: &super::plan::Means,
    strength: f64,
) -> Sweep {
    let config = plan.config;
    let momentum = config.modulation_target == ModulationTarget::Momentum && plan.base == Base::AdamW;
    let scaled = if momentum { strength * plan.corrections.0 } else { strength };
    let constants = plan.update_constants(means, scaled);
    let extras = match plan.form {
        Form::Projection => true,
        Form::Classic => config.bounded_residual || plan.coupled_decay > 0.0,
        Form::Hybrid => plan.modulation_may_be_clipped(strength),
        Form::AdamW | Form::SgdMomentum => false,
    };
    let update = sweep::update(plan.alpha, plan.form, extras, portable);
    let wants_parameter = (extras && plan.form != Form::Projection) || plan.form == Form::SgdMomentum;
    let sums = view.sweep(leaf, Order::Backward, |view, range| {
        let (mut gradient, mut parameter) = (T::Buffer::default(), T::Buffer::default());
        let gradient = T::read(&view.gradient[range.clone()], &mut gradient);
        let parameter = if wants_parameter { T::read(&view.parameter[range.clone()], &mut parameter) } else { &[] };
        let (mut base, mut reference): (&[f32], &[f32]) = (&[], &[]);
        let (mut base_momentum, mut base_variance): (&mut [f32], &mut [f32]) = (&mut [], &mut []);
        match plan.form {
            Form::Hybrid => {
                base = base_part(plan, view.base_momentum, view.base, range.clone());
                reference = if momentum { &view.base_momentum[range.clone()] } else { base };
            }
            Form::AdamW | Form::SgdMomentum => {
                base_momentum = part_mut(view.base_momentum, range.clone());
                base_variance = part_mut(view.base_variance, range.clone());
            }
            Form::Classic | Form::Projection => {}
        }
        let block = UpdateBlock {
            gradient,
            activity_trace: &view.activity_trace[range.clone()],
            parameter,
            base,
            reference,
            base_momentum,
            base_variance,
            scratch: &mut view.scratch[range.clone()],
        };
        // SAFETY: `sweep::update` chose a build this processor can run.
        let mut sums = unsafe { update(&constants, block) };
        if !sums[0].is_finite() {
            sums[0] = squares(&view.scratch[range.clone()]);
        }
        if !(sums[1].is_finite() && sums[2].is_finite()) {
            let base = base_part(plan, view.base_momentum, view.base, range.clone());
            let base = if plan.form == Form::Hybrid { base } else { gradient };
            let decay = f64::from(constants.weight_decay);
            (sums[1], sums[2]) = (0.0, 0.0);
            for (i, (&update, &base)) in view.scratch[range].iter().zip(base).enumerate() {
                let base = f64::from(base);
                let delta = match plan.form {
                    Form::Projection => f64::from(update),
                    _ => f64::from(update) - base - decay * f64::from(parameter[i]),
                };
                sums[1] += delta * delta;
                sums[2] += delta * base;
            }
        }
        sums
    });
    Sweep { sums, extras }
}

fn base_part<'a>(plan: &Plan<'_>, base_momentum: &'a [f32], base: &'a [f32], range: Range<usize>) -> &'a [f32] {
    part(if plan.base == Base::SgdMomentum { base_momentum } else { base }, range)
}

/// Turns p into u of the orthogonal residual; returns Σu² and ‖Δ‖.
fn project<T: Element>(
    plan: &Plan<'_>,
    view: &mut View<'_, T>,
    leaf: usize,
    portable: bool,
    gradient_norm: f64,
    sums: &Sums,
) -> (f64, f64) {
    let config = plan.config;
    let gradient_squares = gradient_norm * gradient_norm;
    if gradient_squares <= config.eps {
        return (combine(plan, view, leaf, portable, (0.0, 1.0, plan.coupled_decay), false), 0.0);
    }
    let along = sums[2] / (gradient_squares + config.eps);
    let norm = combine(plan, view, leaf, portable, (1.0, -along, 0.0), true).sqrt();
    let mut scale = 1.0;
    if config.orthogonal_normalization == super::OrthogonalNormalization::MatchGradNorm && norm > config.eps {
        scale = gradient_norm / (norm + config.eps);
    }
    scale *= config.orthogonal_lambda * plan.orthogonal_gate;
    scale *= Plan::limit(scale * norm, config.orthogonal_max_ratio, gradient_norm, config.eps);
    (combine(plan, view, leaf, portable, (scale, 1.0, plan.coupled_decay), false), scale * norm)
}

/// scratch ← factors.0·scratch + factors.1·(gradient or base) + factors.2·θ; returns the sum of the results' squares.
fn combine<T: Element>(
    plan: &Plan<'_>,
    view: &mut View<'_, T>,
    leaf: usize,
    portable: bool,
    factors: (f64, f64, f64),
    sanitise: bool,
) -> f64 {
    let constants = CombineConstants { scratch: factors.0 as f32, base: factors.1 as f32, parameter: factors.2 as f32 };
    let decay = factors.2 != 0.0;
    let combine = sweep::combine(decay, sanitise, portable);
    view.sweep(leaf, Order::Forward, |view, range| {
        let (mut gradient, mut parameter) = (T::Buffer::default(), T::Buffer::default());
        let base = match plan.form {
            Form::Hybrid => base_part(plan, view.base_momentum, view.base, range.clone()),
            _ => T::read(&view.gradient[range.clone()], &mut gradient),
        };
        let parameter = if decay { T::read(&view.parameter[range.clone()], &mut parameter) } else { &[] };
        let scratch = &mut view.scratch[range.clone()];
        // SAFETY: `sweep::combine` chose a build this processor can run.
        let sums = unsafe { combine(&constants, CombineBlock { base, parameter, scratch }) };
        if sums[0].is_finite() { sums } else { [squares(&view.scratch[range]), 0.0, 0.0, 0.0] }
    })[0]
}

fn squares<T: Element>(values: &[T]) -> f64 {
    values.iter().map(|value| value.to_f64() * value.to_f64()).sum()
}

fn absolutes(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).abs()).sum()
}
