//! Last sweep: θ ← keep·θ − rate·u.

use super::{Lanes, Row, dispatch, padded, put_tail, rows, rows_mut};

pub(in super::super) struct ApplyConstants {
    /// 1 − η'λ with decoupled decay, else 1.
    pub keep: f32,
    /// η' times every factor the stabilisation puts on u.
    pub rate: f32,
}

pub(in super::super) type Apply = unsafe fn(&ApplyConstants, &mut [f32], &[f32]);

pub(in super::super) fn apply(portable: bool) -> Apply {
    pick(portable)
}

dispatch!(pick, body, body_avx2, <>, (constants: &ApplyConstants, parameter: &mut [f32], update: &[f32]) -> ());

#[inline(always)]
fn body<L: Lanes>(constants: &ApplyConstants, parameter: &mut [f32], update: &[f32]) {
    let keep = L::splat(constants.keep);
    let rate = L::splat(-constants.rate);
    let count = update.len() / super::LANES;
    for (parameter, update) in rows_mut(parameter, count).iter_mut().zip(rows(update, count)) {
        row(keep, rate, parameter, update);
    }
    if count * super::LANES < update.len() {
        let mut last = padded(parameter, count);
        row(keep, rate, &mut last, &padded(update, count));
        put_tail(parameter, count, &last);
    }
}

#[inline(always)]
fn row<L: Lanes>(keep: L, rate: L, parameter: &mut Row, update: &Row) {
    L::load(update).mul_add(rate, keep.mul(L::load(parameter))).store(parameter);
}
