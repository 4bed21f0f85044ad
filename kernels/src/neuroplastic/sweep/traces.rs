//! First sweep: the traces, the memory signal's raw value, a hybrid base's moments, and the sums the means need.

use super::{Lanes, Row, Sums, dispatch, padded, put_tail, rows, rows_mut, total};

pub(in super::super) const DELTA: f64 = 0.95;
pub(in super::super) const BETA1: f64 = 0.9;
pub(in super::super) const BETA2: f64 = 0.99;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Base {
    Classic,
    AdamW,
    SgdMomentum,
}

const CLASSIC: u8 = Base::Classic as u8;
const ADAMW: u8 = Base::AdamW as u8;
const SGD: u8 = Base::SgdMomentum as u8;

pub(in super::super) struct TraceConstants {
    pub eps: f32,
    pub base_momentum: f32,
    /// Weight of g in M: 1 − b₁ for AdamW, 1 for SGD with momentum.
    pub base_momentum_gain: f32,
    pub base_beta2: f32,
    pub base_beta2_rest: f32,
    /// 1 / (1 − b₁ᵗ).
    pub momentum_correction: f32,
    /// 1 / (1 − b₂ᵗ).
    pub variance_correction: f32,
    pub base_eps: f32,
    /// λ inside M, for SGD with momentum.
    pub weight_decay: f32,
}

/// One block; the slices of a state that the base does not keep are empty.
pub(in super::super) struct TraceBlock<'a> {
    pub gradient: &'a [f32],
    /// θ, only for SGD with momentum.
    pub parameter: &'a [f32],
    pub activity_trace: &'a mut [f32],
    pub momentum: &'a mut [f32],
    pub variance: &'a mut [f32],
    pub base_momentum: &'a mut [f32],
    pub base_variance: &'a mut [f32],
    /// Receives |m| / (√v + ε).
    pub memory: &'a mut [f32],
    /// Receives AdamW's base update.
    pub base: &'a mut [f32],
}

/// Returns Σ|g|, Σa, Σ|m|/(√v+ε) and Σbase² (Σg² for the classic base), of which variants leave out what they do not need.
pub(in super::super) type Traces = unsafe fn(&TraceConstants, TraceBlock<'_>) -> Sums;

/// `memory`: whether the memory signal is needed; `norm`: whether Σbase² is.
pub(in super::super) fn traces(memory: bool, base: Base, norm: bool, portable: bool) -> Traces {
    match (memory, base, norm) {
        (true, Base::Classic, false) => pick::<true, CLASSIC, false>(portable),
        (true, Base::Classic, true) => pick::<true, CLASSIC, true>(portable),
        (false, Base::Classic, false) => pick::<false, CLASSIC, false>(portable),
        (false, Base::Classic, true) => pick::<false, CLASSIC, true>(portable),
        (true, Base::AdamW, _) => pick::<true, ADAMW, true>(portable),
        (false, Base::AdamW, _) => pick::<false, ADAMW, true>(portable),
        (true, Base::SgdMomentum, _) => pick::<true, SGD, true>(portable),
        (false, Base::SgdMomentum, _) => pick::<false, SGD, true>(portable),
    }
}

dispatch!(pick, body, body_avx2, <MEMORY: bool, BASE: u8, NORM: bool>, (constants: &TraceConstants, block: TraceBlock<'_>) -> Sums);

struct Splat<L> {
    delta: L,
    delta_rest: L,
    beta1: L,
    beta1_rest: L,
    beta2: L,
    beta2_rest: L,
    eps: L,
    base_momentum: L,
    base_momentum_gain: L,
    base_beta2: L,
    base_beta2_rest: L,
    momentum_correction: L,
    variance_correction: L,
    base_eps: L,
    weight_decay: L,
}

struct Accumulators<L> {
    gradient: L,
    activity: L,
    memory: L,
    base: L,
}

#[inline(always)]
fn body<L: Lanes, const MEMORY: bool, const BASE: u8, const NORM: bool>(
    constants: &TraceConstants,
    block: TraceBlock<'_>,
) -> Sums {
    let c = Splat {
        delta: L::splat(DELTA as f32),
        delta_rest: L::splat((1.0 - DELTA) as f32),
        beta1: L::splat(BETA1 as f32),
        beta1_rest: L::splat((1.0 - BETA1) as f32),
        beta2: L::splat(BETA2 as f32),
        beta2_rest: L::splat((1.0 - BETA2) as f32),
        eps: L::splat(constants.eps),
        base_momentum: L::splat(constants.base_momentum),
        base_momentum_gain: L::splat(constants.base_momentum_gain),
        base_beta2: L::splat(constants.base_beta2),
        base_beta2_rest: L::splat(constants.base_beta2_rest),
        momentum_correction: L::splat(constants.momentum_correction),
        variance_correction: L::splat(constants.variance_correction),
        base_eps: L::splat(constants.base_eps),
        weight_decay: L::splat(constants.weight_decay),
    };
    let zero = L::splat(0.0);
    let mut sums = Accumulators { gradient: zero, activity: zero, memory: zero, base: zero };
    let count = block.gradient.len() / super::LANES;
    let keeps_momentum = BASE != CLASSIC;
    let adamw = BASE == ADAMW;
    {
        let gradient = rows(block.gradient, count);
        let parameter = rows(block.parameter, if BASE == SGD { count } else { 0 });
        let activity = rows_mut(block.activity_trace, count);
        let momentum = rows_mut(block.momentum, count);
        let variance = rows_mut(block.variance, count);
        let memory = rows_mut(block.memory, if MEMORY { count } else { 0 });
        let base_momentum = rows_mut(block.base_momentum, if keeps_momentum { count } else { 0 });
        let base_variance = rows_mut(block.base_variance, if adamw { count } else { 0 });
        let base = rows_mut(block.base, if adamw { count } else { 0 });
        for i in 0..count {
            let g = L::load(&gradient[i]);
            let magnitude = traces_row(&c, &mut sums, g, &mut activity[i], &mut momentum[i], &mut variance[i]);
            if MEMORY {
                memory_row(&c, &mut sums, &momentum[i], &variance[i], &mut memory[i]);
            }
            match BASE {
                ADAMW => {
                    adamw_row(&c, &mut sums, g, &mut base_momentum[i], &mut base_variance[i], &mut base[i]);
                }
                SGD => sgd_row(&c, &mut sums, g, &parameter[i], &mut base_momentum[i]),
                _ if NORM => sums.base = sums.base.add(magnitude.mul(magnitude)),
                _ => {}
            }
        }
    }
    if count * super::LANES < block.gradient.len() {
        let g = L::load(&padded(block.gradient, count));
        let mut activity = padded(block.activity_trace, count);
        let mut momentum = padded(block.momentum, count);
        let mut variance = padded(block.variance, count);
        let magnitude = traces_row(&c, &mut sums, g, &mut activity, &mut momentum, &mut variance);
        put_tail(block.activity_trace, count, &activity);
        if MEMORY {
            let mut memory = [0.0; super::LANES];
            memory_row(&c, &mut sums, &momentum, &variance, &mut memory);
            put_tail(block.memory, count, &memory);
        }
        put_tail(block.momentum, count, &momentum);
        put_tail(block.variance, count, &variance);
        if keeps_momentum {
            let mut base_momentum = padded(block.base_momentum, count);
            if adamw {
                let mut base_variance = padded(block.base_variance, count);
                let mut base = [0.0; super::LANES];
                adamw_row(&c, &mut sums, g, &mut base_momentum, &mut base_variance, &mut base);
                put_tail(block.base_variance, count, &base_variance);
                put_tail(block.base, count, &base);
            } else {
                sgd_row(&c, &mut sums, g, &padded(block.parameter, count), &mut base_momentum);
            }
            put_tail(block.base_momentum, count, &base_momentum);
        } else if NORM {
            sums.base = sums.base.add(magnitude.mul(magnitude));
        }
    }
    [total(sums.gradient), total(sums.activity), total(sums.memory), total(sums.base)]
}

#[inline(always)]
fn traces_row<L: Lanes>(
    c: &Splat<L>,
    sums: &mut Accumulators<L>,
    g: L,
    activity: &mut Row,
    momentum: &mut Row,
    variance: &mut Row,
) -> L {
    let magnitude = g.abs();
    let a = c.delta.mul(L::load(activity)).add(c.delta_rest.mul(magnitude));
    let m = c.beta1.mul(L::load(momentum)).add(c.beta1_rest.mul(g));
    let v = c.beta2.mul(L::load(variance)).add(c.beta2_rest.mul(g).mul(g));
    a.store(activity);
    m.store(momentum);
    v.store(variance);
    sums.gradient = sums.gradient.add(magnitude);
    sums.activity = sums.activity.add(a);
    magnitude
}

#[inline(always)]
fn memory_row<L: Lanes>(c: &Splat<L>, sums: &mut Accumulators<L>, momentum: &Row, variance: &Row, memory: &mut Row) {
    let h = L::load(momentum).abs().div(L::load(variance).sqrt().add(c.eps));
    h.store(memory);
    sums.memory = sums.memory.add(h);
}

#[inline(always)]
fn adamw_row<L: Lanes>(
    c: &Splat<L>,
    sums: &mut Accumulators<L>,
    g: L,
    base_momentum: &mut Row,
    base_variance: &mut Row,
    base: &mut Row,
) {
    let m = c.base_momentum.mul(L::load(base_momentum)).add(c.base_momentum_gain.mul(g));
    let v = c.base_beta2.mul(L::load(base_variance)).add(c.base_beta2_rest.mul(g).mul(g));
    let b = m.mul(c.momentum_correction).div(v.mul(c.variance_correction).sqrt().add(c.base_eps));
    m.store(base_momentum);
    v.store(base_variance);
    b.store(base);
    sums.base = sums.base.add(b.mul(b));
}

#[inline(always)]
fn sgd_row<L: Lanes>(c: &Splat<L>, sums: &mut Accumulators<L>, g: L, parameter: &Row, base_momentum: &mut Row) {
    let decayed = g.add(c.weight_decay.mul(L::load(parameter)));
    let m = c.base_momentum.mul(L::load(base_momentum)).add(decayed);
    m.store(base_momentum);
    sums.base = sums.base.add(m.mul(m));
}
