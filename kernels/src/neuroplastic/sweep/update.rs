//! Second sweep: the plasticity coefficients and the update u before any clip by a norm of it.

use super::base::{BaseConstants, BaseSplat};
use super::{Lanes, Row, Sums, dispatch, padded, put_tail, rows, rows_mut, total};

/// How α follows from the signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Alpha {
    /// α = α_f (the blend's weight is 1).
    Full,
    /// α = α_g + weight · (α_f − α_g).
    Blend,
    /// α = α_g.
    Gradient,
    /// One α for the whole tensor.
    Uniform,
}

/// What is built from α.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Form {
    /// u = α g.
    Classic,
    /// p = (α − α_g) g, to be made orthogonal to g afterwards. With [`Alpha::Uniform`] the constant stands for α − α_g.
    Projection,
    /// u = base + strength · (α − 1) · reference.
    Hybrid,
    /// [`Form::Hybrid`] with AdamW's update as base and reference, which is computed here, without extras.
    AdamW,
    /// The same with the momentum of SGD.
    SgdMomentum,
}

const FULL: u8 = Alpha::Full as u8;
const BLEND: u8 = Alpha::Blend as u8;
const GRADIENT: u8 = Alpha::Gradient as u8;
const UNIFORM: u8 = Alpha::Uniform as u8;
const CLASSIC: u8 = Form::Classic as u8;
const PROJECTION: u8 = Form::Projection as u8;
const HYBRID: u8 = Form::Hybrid as u8;
const ADAMW: u8 = Form::AdamW as u8;
const SGD: u8 = Form::SgdMomentum as u8;

pub(in super::super) struct UpdateConstants {
    /// w_a / (mean(a) + ε).
    pub activity: f32,
    /// w_g / (mean|g| + ε).
    pub gradient: f32,
    /// w_m / (mean(|m|/(√v+ε)) + ε).
    pub memory: f32,
    /// 1 / (mean|g| + ε).
    pub gradient_alone: f32,
    pub min_alpha: f32,
    pub max_alpha: f32,
    /// q · plasticity_scale.
    pub blend: f32,
    pub uniform: f32,
    pub strength: f32,
    /// Coupled λ, added to u.
    pub weight_decay: f32,
    /// For forms that compute the base.
    pub base: BaseConstants,
}

pub(in super::super) struct UpdateBlock<'a> {
    pub gradient: &'a [f32],
    pub activity_trace: &'a [f32],
    /// θ, only for variants with extras and for SGD with momentum.
    pub parameter: &'a [f32],
    /// [`Form::Hybrid`] only.
    pub base: &'a [f32],
    /// [`Form::Hybrid`] only: what the modulation multiplies.
    pub reference: &'a [f32],
    /// Forms that compute the base only, as the next one.
    pub base_momentum: &'a mut [f32],
    pub base_variance: &'a mut [f32],
    /// Holds |m| / (√v + ε), receives u (or p).
    pub scratch: &'a mut [f32],
}

/// Returns Σu²; with extras also ΣΔ² and ΣΔ·b, where Δ is the modulation (or p) and b the gradient or base it is added to.
pub(in super::super) type Update = unsafe fn(&UpdateConstants, UpdateBlock<'_>) -> Sums;

/// `extras`: whether λθ is added to u and the sums of Δ are wanted; a projection always has them and never adds λθ.
pub(in super::super) fn update(alpha: Alpha, form: Form, extras: bool, portable: bool) -> Update {
    match (alpha, form, extras) {
        (Alpha::Full, Form::Classic, false) => pick::<FULL, CLASSIC, false>(portable),
        (Alpha::Full, Form::Classic, true) => pick::<FULL, CLASSIC, true>(portable),
        (Alpha::Full, Form::Hybrid, false) => pick::<FULL, HYBRID, false>(portable),
        (Alpha::Full, Form::Hybrid, true) => pick::<FULL, HYBRID, true>(portable),
        (Alpha::Full, Form::AdamW, _) => pick::<FULL, ADAMW, false>(portable),
        (Alpha::Full, Form::SgdMomentum, _) => pick::<FULL, SGD, false>(portable),
        (Alpha::Blend, Form::Classic, false) => pick::<BLEND, CLASSIC, false>(portable),
        (Alpha::Blend, Form::Classic, true) => pick::<BLEND, CLASSIC, true>(portable),
        (Alpha::Blend, Form::Hybrid, false) => pick::<BLEND, HYBRID, false>(portable),
        (Alpha::Blend, Form::Hybrid, true) => pick::<BLEND, HYBRID, true>(portable),
        (Alpha::Blend, Form::AdamW, _) => pick::<BLEND, ADAMW, false>(portable),
        (Alpha::Blend, Form::SgdMomentum, _) => pick::<BLEND, SGD, false>(portable),
        (Alpha::Gradient, Form::Classic, false) => pick::<GRADIENT, CLASSIC, false>(portable),
        (Alpha::Gradient, Form::Classic, true) => pick::<GRADIENT, CLASSIC, true>(portable),
        (Alpha::Gradient, Form::Hybrid, false) => pick::<GRADIENT, HYBRID, false>(portable),
        (Alpha::Gradient, Form::Hybrid, true) => pick::<GRADIENT, HYBRID, true>(portable),
        (Alpha::Gradient, Form::AdamW, _) => pick::<GRADIENT, ADAMW, false>(portable),
        (Alpha::Gradient, Form::SgdMomentum, _) => pick::<GRADIENT, SGD, false>(portable),
        (Alpha::Uniform, Form::Classic, false) => pick::<UNIFORM, CLASSIC, false>(portable),
        (Alpha::Uniform, Form::Classic, true) => pick::<UNIFORM, CLASSIC, true>(portable),
        (Alpha::Uniform, Form::Hybrid, false) => pick::<UNIFORM, HYBRID, false>(portable),
        (Alpha::Uniform, Form::Hybrid, true) => pick::<UNIFORM, HYBRID, true>(portable),
        (Alpha::Uniform, Form::AdamW, _) => pick::<UNIFORM, ADAMW, false>(portable),
        (Alpha::Uniform, Form::SgdMomentum, _) => pick::<UNIFORM, SGD, false>(portable),
        (Alpha::Uniform, Form::Projection, _) => pick::<UNIFORM, PROJECTION, true>(portable),
        (_, Form::Projection, _) => pick::<BLEND, PROJECTION, true>(portable),
    }
}

dispatch!(pick, body, body_avx2, <ALPHA: u8, FORM: u8, EXTRAS: bool>, (constants: &UpdateConstants, block: UpdateBlock<'_>) -> Sums);

struct Splat<L> {
    activity: L,
    gradient: L,
    memory: L,
    gradient_alone: L,
    min_alpha: L,
    max_alpha: L,
    blend: L,
    uniform: L,
    strength: L,
    weight_decay: L,
    one: L,
    base: BaseSplat<L>,
}

#[derive(Clone, Copy)]
struct Accumulators<L> {
    update: L,
    delta: L,
    inner: L,
}

struct Inputs<'a> {
    gradient: &'a Row,
    activity: Option<&'a Row>,
    parameter: Option<&'a Row>,
    base: Option<(&'a Row, &'a Row)>,
    base_momentum: Option<&'a mut Row>,
    base_variance: Option<&'a mut Row>,
}

#[inline(always)]
fn body<L: Lanes, const ALPHA: u8, const FORM: u8, const EXTRAS: bool>(
    constants: &UpdateConstants,
    block: UpdateBlock<'_>,
) -> Sums {
    let c = Splat {
        activity: L::splat(constants.activity),
        gradient: L::splat(constants.gradient),
        memory: L::splat(constants.memory),
        gradient_alone: L::splat(constants.gradient_alone),
        min_alpha: L::splat(constants.min_alpha),
        max_alpha: L::splat(constants.max_alpha),
        blend: L::splat(constants.blend),
        uniform: L::splat(constants.uniform),
        strength: L::splat(constants.strength),
        weight_decay: L::splat(constants.weight_decay),
        one: L::splat(1.0),
        base: BaseSplat::new(&constants.base),
    };
    let zero = L::splat(0.0);
    // Two, taken in turn: one addition takes longer than a row.
    let mut sums = [Accumulators { update: zero, delta: zero, inner: zero }; 2];
    let count = block.gradient.len() / super::LANES;
    let signals = ALPHA == FULL || ALPHA == BLEND;
    let decay = EXTRAS && FORM != PROJECTION;
    let hybrid = FORM == HYBRID;
    let (moves, varies) = (FORM == ADAMW || FORM == SGD, FORM == ADAMW);
    {
        let gradient = rows(block.gradient, count);
        let activity = rows(block.activity_trace, if signals { count } else { 0 });
        let parameter = rows(block.parameter, if decay || FORM == SGD { count } else { 0 });
        let base = rows(block.base, if hybrid { count } else { 0 });
        let reference = rows(block.reference, if hybrid { count } else { 0 });
        let base_momentum = rows_mut(block.base_momentum, if moves { count } else { 0 });
        let base_variance = rows_mut(block.base_variance, if varies { count } else { 0 });
        let scratch = rows_mut(block.scratch, count);
        macro_rules! at {
            ($i:expr, $sums:expr) => {{
                let i = $i;
                let inputs = Inputs {
                    gradient: &gradient[i],
                    activity: if signals { Some(&activity[i]) } else { None },
                    parameter: if decay || FORM == SGD { Some(&parameter[i]) } else { None },
                    base: if hybrid { Some((&base[i], &reference[i])) } else { None },
                    base_momentum: if moves { Some(&mut base_momentum[i]) } else { None },
                    base_variance: if varies { Some(&mut base_variance[i]) } else { None },
                };
                row::<L, ALPHA, FORM, EXTRAS>(&c, $sums, inputs, &mut scratch[i]);
            }};
        }
        for pair in 0..count / 2 {
            at!(2 * pair, &mut sums[0]);
            at!(2 * pair + 1, &mut sums[1]);
        }
        if count % 2 == 1 {
            at!(count - 1, &mut sums[0]);
        }
    }
    if count * super::LANES < block.gradient.len() {
        let activity = signals.then(|| padded(block.activity_trace, count));
        let parameter = (decay || FORM == SGD).then(|| padded(block.parameter, count));
        let base = hybrid.then(|| (padded(block.base, count), padded(block.reference, count)));
        let mut base_momentum = moves.then(|| padded(block.base_momentum, count));
        let mut base_variance = varies.then(|| padded(block.base_variance, count));
        let inputs = Inputs {
            gradient: &padded(block.gradient, count),
            activity: activity.as_ref(),
            parameter: parameter.as_ref(),
            base: base.as_ref().map(|(base, reference)| (base, reference)),
            base_momentum: base_momentum.as_mut(),
            base_variance: base_variance.as_mut(),
        };
        let mut scratch = padded(block.scratch, count);
        row::<L, ALPHA, FORM, EXTRAS>(&c, &mut sums[1], inputs, &mut scratch);
        if let Some(momentum) = base_momentum {
            put_tail(block.base_momentum, count, &momentum);
        }
        if let Some(variance) = base_variance {
            put_tail(block.base_variance, count, &variance);
        }
        put_tail(block.scratch, count, &scratch);
    }
    let [even, odd] = sums;
    [total(even.update.add(odd.update)), total(even.delta.add(odd.delta)), total(even.inner.add(odd.inner)), 0.0]
}

#[inline(always)]
fn row<L: Lanes, const ALPHA: u8, const FORM: u8, const EXTRAS: bool>(
    c: &Splat<L>,
    sums: &mut Accumulators<L>,
    inputs: Inputs<'_>,
    scratch: &mut Row,
) {
    let g = L::load(inputs.gradient);
    let magnitude = g.abs();
    let alpha = match (ALPHA, inputs.activity) {
        (FULL | BLEND, Some(activity)) => {
            let signal = L::load(activity).mul_add(c.activity, c.gradient.mul(magnitude));
            let full = L::load(scratch).mul_add(c.memory, signal).clamp(c.min_alpha, c.max_alpha);
            if ALPHA == FULL {
                full
            } else {
                let alone = magnitude.mul(c.gradient_alone).clamp(c.min_alpha, c.max_alpha);
                let difference = full.sub(alone);
                if FORM == PROJECTION { c.blend.mul(difference) } else { difference.mul_add(c.blend, alone) }
            }
        }
        (GRADIENT, _) => magnitude.mul(c.gradient_alone).clamp(c.min_alpha, c.max_alpha),
        _ => c.uniform,
    };
    let computed = match (FORM, inputs.base_momentum, inputs.base_variance, inputs.parameter) {
        (ADAMW, Some(momentum), Some(variance), _) => c.base.adamw(g, momentum, variance),
        (SGD, Some(momentum), _, Some(parameter)) => c.base.sgd(g, parameter, momentum),
        _ => g,
    };
    let (update, delta, base) = match (FORM, inputs.base) {
        (ADAMW | SGD, _) => {
            let delta = c.strength.mul(alpha.sub(c.one)).mul(computed);
            (computed.add(delta), delta, computed)
        }
        (HYBRID, Some((base, reference))) => {
            let base = L::load(base);
            let delta = c.strength.mul(alpha.sub(c.one)).mul(L::load(reference));
            (base.add(delta), delta, base)
        }
        (PROJECTION, _) => {
            let projection = alpha.mul(g).finite_or_zero();
            (projection, projection, g)
        }
        _ if EXTRAS => (alpha.mul(g), alpha.sub(c.one).mul(g), g),
        _ => (alpha.mul(g), g, g),
    };
    let update = match inputs.parameter {
        Some(parameter) if EXTRAS => L::load(parameter).mul_add(c.weight_decay, update),
        _ => update,
    };
    update.store(scratch);
    sums.update = update.mul_add(update, sums.update);
    if EXTRAS {
        sums.delta = delta.mul_add(delta, sums.delta);
        sums.inner = delta.mul_add(base, sums.inner);
    }
}
