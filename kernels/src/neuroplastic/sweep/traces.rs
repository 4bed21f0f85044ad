//! First sweep: the traces, the memory signal's raw value, a hybrid base's moments, and the sums the means need.

use super::base::{BaseConstants, BaseSplat};
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

/// What becomes of |m| / (√v + ε).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Memory {
    Unused,
    Kept,
    /// Written past the caches, where the tensor is too large for it to be there still in the next sweep.
    Streamed,
}

const UNUSED: u8 = Memory::Unused as u8;
const KEPT: u8 = Memory::Kept as u8;
const STREAMED: u8 = Memory::Streamed as u8;
const CLASSIC: u8 = Base::Classic as u8;
const ADAMW: u8 = Base::AdamW as u8;
const SGD: u8 = Base::SgdMomentum as u8;

pub(in super::super) struct TraceConstants {
    pub eps: f32,
    pub base: BaseConstants,
}

/// One block; the slices of a state that is not updated here are empty.
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

/// `norm`: whether Σbase² is needed, which comes with a hybrid base anyway.
pub(in super::super) fn traces(memory: Memory, base: Base, norm: bool, portable: bool) -> Traces {
    match memory {
        Memory::Unused => with_memory::<UNUSED>(base, norm, portable),
        Memory::Kept => with_memory::<KEPT>(base, norm, portable),
        Memory::Streamed => with_memory::<STREAMED>(base, norm, portable),
    }
}

fn with_memory<const MEMORY: u8>(base: Base, norm: bool, portable: bool) -> Traces {
    match base {
        Base::Classic if norm => pick::<MEMORY, CLASSIC, true>(portable),
        Base::Classic => pick::<MEMORY, CLASSIC, false>(portable),
        Base::AdamW => pick::<MEMORY, ADAMW, true>(portable),
        Base::SgdMomentum => pick::<MEMORY, SGD, true>(portable),
    }
}

dispatch!(pick, body, body_avx2, <MEMORY: u8, BASE: u8, NORM: bool>, (constants: &TraceConstants, block: TraceBlock<'_>) -> Sums);

struct Splat<L> {
    delta_rest: L,
    beta1: L,
    beta1_rest: L,
    beta2: L,
    eps: L,
}

/// A row's m and v after their update.
#[derive(Clone, Copy)]
struct Moments<L> {
    momentum: L,
    variance: L,
}

struct Accumulators<L> {
    gradient: L,
    activity: L,
    memory: L,
    base: L,
}

#[inline(always)]
fn body<L: Lanes, const MEMORY: u8, const BASE: u8, const NORM: bool>(
    constants: &TraceConstants,
    block: TraceBlock<'_>,
) -> Sums {
    let decays = [(1.0 - DELTA) as f32, BETA1 as f32, (1.0 - BETA1) as f32, BETA2 as f32];
    let c = Splat {
        delta_rest: L::splat(decays[0]),
        beta1: L::splat(decays[1]),
        beta1_rest: L::splat(decays[2]),
        beta2: L::splat(decays[3]),
        eps: L::splat(constants.eps),
    };
    let base_constants = BaseSplat::<L>::new(&constants.base);
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
        let memory = rows_mut(block.memory, if MEMORY != UNUSED { count } else { 0 });
        let base_momentum = rows_mut(block.base_momentum, if keeps_momentum { count } else { 0 });
        let base_variance = rows_mut(block.base_variance, if adamw { count } else { 0 });
        let base = rows_mut(block.base, if adamw { count } else { 0 });
        let mut previous = None;
        // The memory signal runs one row behind, so that its root never waits for v. Its quotients alternate between the exact
        // instruction, which shares one slow unit with the root, and the fast form, which takes more of everything else.
        macro_rules! at {
            ($i:expr, $fast:expr) => {{
                let i = $i;
                let g = L::load(&gradient[i]);
                let moments = traces_row(&c, &mut sums, g, &mut activity[i], &mut momentum[i], &mut variance[i]);
                if let (Some(moments), true) = (previous, MEMORY != UNUSED) {
                    memory_row::<L, MEMORY>(&c, &mut sums, moments, &mut memory[i - 1], $fast);
                }
                previous = Some(moments);
                match BASE {
                    ADAMW => {
                        let b = base_constants.adamw(g, &mut base_momentum[i], &mut base_variance[i]);
                        b.store(&mut base[i]);
                        sums.base = b.mul_add(b, sums.base);
                    }
                    SGD => {
                        let b = base_constants.sgd(g, &parameter[i], &mut base_momentum[i]);
                        sums.base = b.mul_add(b, sums.base);
                    }
                    _ if NORM => sums.base = g.mul_add(g, sums.base),
                    _ => {}
                }
            }};
        }
        for pair in 0..count / 2 {
            at!(2 * pair, true);
            at!(2 * pair + 1, false);
        }
        if count % 2 == 1 {
            at!(count - 1, true);
        }
        if let (Some(moments), true) = (previous, MEMORY != UNUSED) {
            memory_row::<L, MEMORY>(&c, &mut sums, moments, &mut memory[count - 1], false);
        }
        if MEMORY == STREAMED {
            L::fence();
        }
    }
    if count * super::LANES < block.gradient.len() {
        let g = L::load(&padded(block.gradient, count));
        let mut activity = padded(block.activity_trace, count);
        let mut momentum = padded(block.momentum, count);
        let mut variance = padded(block.variance, count);
        let moments = traces_row(&c, &mut sums, g, &mut activity, &mut momentum, &mut variance);
        put_tail(block.activity_trace, count, &activity);
        if MEMORY != UNUSED {
            let mut memory = [0.0; super::LANES];
            memory_row::<L, KEPT>(&c, &mut sums, moments, &mut memory, false);
            put_tail(block.memory, count, &memory);
        }
        put_tail(block.momentum, count, &momentum);
        put_tail(block.variance, count, &variance);
        if keeps_momentum {
            let mut base_momentum = padded(block.base_momentum, count);
            if adamw {
                let mut base_variance = padded(block.base_variance, count);
                let mut base = [0.0; super::LANES];
                let b = base_constants.adamw(g, &mut base_momentum, &mut base_variance);
                b.store(&mut base);
                sums.base = b.mul_add(b, sums.base);
                put_tail(block.base_variance, count, &base_variance);
                put_tail(block.base, count, &base);
            } else {
                let b = base_constants.sgd(g, &padded(block.parameter, count), &mut base_momentum);
                sums.base = b.mul_add(b, sums.base);
            }
            put_tail(block.base_momentum, count, &base_momentum);
        } else if NORM {
            sums.base = g.mul_add(g, sums.base);
        }
    }
    [total(sums.gradient), total(sums.activity), total(sums.memory), total(sums.base)]
}

/// Uses that 1 − β₂ = (1 − β₁)².
#[inline(always)]
fn traces_row<L: Lanes>(
    c: &Splat<L>,
    sums: &mut Accumulators<L>,
    g: L,
    activity: &mut Row,
    momentum: &mut Row,
    variance: &mut Row,
) -> Moments<L> {
    let magnitude = g.abs();
    let (a, m, v) = (L::load(activity), L::load(momentum), L::load(variance));
    let a = magnitude.sub(a).mul_add(c.delta_rest, a);
    let part = c.beta1_rest.mul(g);
    let m = m.mul_add(c.beta1, part);
    let v = part.mul_add(part, c.beta2.mul(v));
    a.store(activity);
    m.store(momentum);
    v.store(variance);
    sums.gradient = sums.gradient.add(magnitude);
    sums.activity = sums.activity.add(a);
    Moments { momentum: m, variance: v }
}

#[inline(always)]
fn memory_row<L: Lanes, const MEMORY: u8>(
    c: &Splat<L>,
    sums: &mut Accumulators<L>,
    moments: Moments<L>,
    memory: &mut Row,
    fast: bool,
) {
    let Moments { momentum, variance } = moments;
    let divisor = variance.sqrt().add(c.eps);
    let h = if fast { momentum.abs().fast_div(divisor) } else { momentum.abs().div(divisor) };
    if MEMORY == STREAMED {
        h.stream(memory)
    } else {
        h.store(memory)
    }
    sums.memory = sums.memory.add(h);
}
