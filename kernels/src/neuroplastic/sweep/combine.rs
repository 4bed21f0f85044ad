//! The sweep that only clips by a norm, and the orthogonal residual, need: u as a combination of what is already there.

use super::{Lanes, Row, Sums, dispatch, padded, put_tail, rows, rows_mut, total};

pub(in super::super) struct CombineConstants {
    pub scratch: f32,
    pub base: f32,
    pub parameter: f32,
}

pub(in super::super) struct CombineBlock<'a> {
    /// The gradient, or a hybrid base's update.
    pub base: &'a [f32],
    /// θ; empty when its factor is zero.
    pub parameter: &'a [f32],
    pub scratch: &'a mut [f32],
}

/// scratch ← scratch·factor + base·factor + θ·factor; returns the sum of the results' squares.
pub(in super::super) type Combine = unsafe fn(&CombineConstants, CombineBlock<'_>) -> Sums;

/// `parameter`: whether θ takes part; `sanitise`: whether results that are not finite become 0.
pub(in super::super) fn combine(parameter: bool, sanitise: bool, portable: bool) -> Combine {
    match (parameter, sanitise) {
        (false, false) => pick::<false, false>(portable),
        (false, true) => pick::<false, true>(portable),
        (true, false) => pick::<true, false>(portable),
        (true, true) => pick::<true, true>(portable),
    }
}

dispatch!(pick, body, body_avx2, <PARAMETER: bool, SANITISE: bool>, (constants: &CombineConstants, block: CombineBlock<'_>) -> Sums);

#[inline(always)]
fn body<L: Lanes, const PARAMETER: bool, const SANITISE: bool>(
    constants: &CombineConstants,
    block: CombineBlock<'_>,
) -> Sums {
    let mut squares = L::splat(0.0);
    let count = block.base.len() / super::LANES;
    {
        let base = rows(block.base, count);
        let parameter = rows(block.parameter, if PARAMETER { count } else { 0 });
        let scratch = rows_mut(block.scratch, count);
        for i in 0..count {
            let parameter = if PARAMETER { Some(&parameter[i]) } else { None };
            row::<L, SANITISE>(constants, &mut squares, &base[i], parameter, &mut scratch[i]);
        }
    }
    if count * super::LANES < block.base.len() {
        let parameter = PARAMETER.then(|| padded(block.parameter, count));
        let mut scratch = padded(block.scratch, count);
        row::<L, SANITISE>(constants, &mut squares, &padded(block.base, count), parameter.as_ref(), &mut scratch);
        put_tail(block.scratch, count, &scratch);
    }
    [total(squares), 0.0, 0.0, 0.0]
}

#[inline(always)]
fn row<L: Lanes, const SANITISE: bool>(
    constants: &CombineConstants,
    squares: &mut L,
    base: &Row,
    parameter: Option<&Row>,
    scratch: &mut Row,
) {
    let mut value = L::load(scratch).mul_add(L::splat(constants.scratch), L::splat(constants.base).mul(L::load(base)));
    if let Some(parameter) = parameter {
        value = L::load(parameter).mul_add(L::splat(constants.parameter), value);
    }
    if SANITISE {
        value = value.finite_or_zero();
    }
    value.store(scratch);
    *squares = value.mul_add(value, *squares);
}
