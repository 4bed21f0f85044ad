//! x to the power y.

use super::functions::{clamp, scale, split};
use super::machine::Machine;

/// log₂ of a positive finite number as an unevaluated sum of two floats, to about 2⁻³⁰ of its value.
#[inline(always)]
fn log2<M: Machine>(m: &mut M, x: M::Float) -> (M::Float, M::Float) {
    let (mantissa, exponent) = split(m, x);
    let one = m.float(1.0);
    // With s = (m − 1)/(m + 1), log₂ m = 2/ln 2 · (s + s³/3 + s⁵/5 + …).
    let above = m.sub(mantissa, one);
    let sum = m.add(mantissa, one);
    let lost = m.sub(sum, one);
    let lost = m.sub(mantissa, lost);
    let s = m.div(above, sum);
    let negated = m.neg(s);
    let remainder = m.fma(negated, sum, above);
    let remainder = m.fma(negated, lost, remainder);
    let s_low = m.div(remainder, sum);
    let square = m.mul(s, s);
    let q = m.polynomial(square, &[0.961_796_7, 0.577_083_2, 0.411_685_85, 0.340_627_85]);
    let (factor, factor_low) = (m.float(2.885_39), m.float(3.851_926e-8));
    let product = m.mul(s, factor);
    let opposite = m.neg(product);
    let error = m.fma(s, factor, opposite);
    let error = m.fma(s, factor_low, error);
    let error = m.fma(s_low, factor, error);
    let cube = m.mul(square, s);
    let error = m.fma(cube, q, error);
    let high = m.add(exponent, product);
    let back = m.sub(high, exponent);
    let low = m.sub(product, back);
    let low = m.add(low, error);
    let total = m.add(high, low);
    let kept = m.sub(total, high);
    (total, m.sub(low, kept))
}

/// The special cases are those of C's `pow`; elsewhere 4 ulp.
#[inline(always)]
pub(super) fn power<M: Machine>(m: &mut M, x: M::Float, y: M::Float) -> M::Float {
    let (zero, one) = (m.float(0.0), m.float(1.0));
    let (infinity, lowest) = (m.float(f32::INFINITY), m.float(f32::NEG_INFINITY));
    let magnitude = m.abs(x);
    let (high, low) = log2(m, magnitude);
    let (is_zero, is_infinite) = (m.equal(magnitude, zero), m.equal(magnitude, infinity));
    let high = m.select(is_zero, lowest, high);
    let high = m.select(is_infinite, infinity, high);
    let product = m.mul(y, high);
    let opposite = m.neg(product);
    let error = m.fma(y, high, opposite);
    let error = m.fma(y, low, error);
    let bound = m.float(200.0);
    let size = m.abs(product);
    let moderate = m.less(size, bound);
    let error = m.select(moderate, error, zero);
    let product = clamp(m, product, -200.0, 200.0);
    let n = m.nearest(product);
    let whole = m.to_float(n);
    let fraction = m.sub(product, whole);
    let fraction = m.add(fraction, error);
    let p = m.polynomial(
        fraction,
        &[
            std::f32::consts::LN_2,
            0.240_226_5,
            0.055_504_11,
            0.009_618_032,
            0.001_333_342_5,
            0.000_154_683_9,
            1.531_620_2e-5,
        ],
    );
    let value = m.fma(fraction, p, one);
    let value = scale(m, value, n);
    let unit = m.equal(magnitude, one);
    let value = m.select(unit, one, value);
    special(m, x, y, value)
}

/// Signs and special cases, given |x| to the power y.
#[inline(always)]
fn special<M: Machine>(m: &mut M, x: M::Float, y: M::Float, value: M::Float) -> M::Float {
    let (zero, one, half) = (m.float(0.0), m.float(1.0), m.float(0.5));
    let (lowest, nan) = (m.float(f32::NEG_INFINITY), m.float(f32::NAN));
    let floor = m.floor(y);
    let integer = m.equal(floor, y);
    let halved = m.mul(y, half);
    let floor = m.floor(halved);
    let even = m.equal(floor, halved);
    let uneven = m.not(even);
    let odd = m.and(integer, uneven);
    let (bits, mask, value_bits) = (m.bits(x), m.int(i32::MIN), m.bits(value));
    let sign = m.int_and(bits, mask);
    let signed = m.int_add(value_bits, sign);
    let signed = m.with_bits(signed);
    let value = m.select(odd, signed, value);
    let (negative, finite, broken) = (m.less(x, zero), m.less(lowest, x), m.not(integer));
    let outside = m.and(negative, finite);
    let outside = m.and(outside, broken);
    let (x_nan, y_nan) = (m.is_nan(x), m.is_nan(y));
    let unknown = m.or(x_nan, y_nan);
    let unknown = m.or(unknown, outside);
    let value = m.select(unknown, nan, value);
    let (is_one, no_power) = (m.equal(x, one), m.equal(y, zero));
    let trivial = m.or(is_one, no_power);
    m.select(trivial, one, value)
}
