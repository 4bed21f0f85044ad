//! The float32 functions, written once for every machine that runs them.
//!
//! They are made of operations that IEEE 754 rounds exactly (no hardware approximations), so that the scalar evaluator and
//! a GPU give the same bits. Polynomials are minimax fits on the reduced range; the comment beside each function states
//! the error that its test allows, against float64.

use super::machine::Machine;
use super::operation::Operation;

const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;

/// Applies a float operation other than a comparison; `None` for any other operation.
#[inline(always)]
pub(super) fn apply<M: Machine>(m: &mut M, operation: Operation, operands: &[M::Float]) -> Option<M::Float> {
    use Operation::*;
    Some(match (operation, operands) {
        (Add, &[a, b]) => m.add(a, b),
        (Subtract, &[a, b]) => m.sub(a, b),
        (Multiply, &[a, b]) => m.mul(a, b),
        (Divide, &[a, b]) => m.div(a, b),
        (Maximum, &[a, b]) => extremum(m, a, b, true),
        (Minimum, &[a, b]) => extremum(m, a, b, false),
        (Power, &[a, b]) => super::power::power(m, a, b),
        (Negate, &[a]) => m.neg(a),
        (Absolute, &[a]) => m.abs(a),
        (Square, &[a]) => m.mul(a, a),
        (Sign, &[a]) => sign(m, a),
        (Relu, &[a]) => {
            let zero = m.float(0.0);
            extremum(m, a, zero, true)
        }
        (SquareRoot, &[a]) => m.sqrt(a),
        (ReciprocalSquareRoot, &[a]) => {
            let root = m.sqrt(a);
            reciprocal(m, root)
        }
        (Reciprocal, &[a]) => reciprocal(m, a),
        (Exp, &[a]) => exp(m, a),
        (Log, &[a]) => log(m, a),
        (Tanh, &[a]) => tanh(m, a),
        (Sigmoid, &[a]) => sigmoid(m, a),
        (Erf, &[a]) => erf(m, a),
        (Sine, &[a]) => super::angles::sine(m, a),
        (Cosine, &[a]) => super::angles::cosine(m, a),
        (Floor, &[a]) => m.floor(a),
        (Ceil, &[a]) => m.ceil(a),
        (Round, &[a]) => m.round(a),
        _ => return None,
    })
}

/// Compares floats; `None` for an operation that is no comparison.
#[inline(always)]
pub(super) fn compare<M: Machine>(m: &mut M, operation: Operation, operands: &[M::Float]) -> Option<M::Flag> {
    Some(match (operation, operands) {
        (Operation::Less, &[a, b]) => m.less(a, b),
        (Operation::LessOrEqual, &[a, b]) => m.less_or_equal(a, b),
        (Operation::Equal, &[a, b]) => m.equal(a, b),
        _ => return None,
    })
}

/// `a` where it is beyond `b` or NaN, else `b`.
#[inline(always)]
fn extremum<M: Machine>(m: &mut M, a: M::Float, b: M::Float, greatest: bool) -> M::Float {
    let beyond = if greatest { m.less(b, a) } else { m.less(a, b) };
    let nan = m.is_nan(a);
    let first = m.or(beyond, nan);
    m.select(first, a, b)
}

#[inline(always)]
fn sign<M: Machine>(m: &mut M, a: M::Float) -> M::Float {
    let (zero, one, minus_one) = (m.float(0.0), m.float(1.0), m.float(-1.0));
    let (negative, positive) = (m.less(a, zero), m.less(zero, a));
    let rest = m.select(negative, minus_one, a);
    m.select(positive, one, rest)
}

#[inline(always)]
fn reciprocal<M: Machine>(m: &mut M, a: M::Float) -> M::Float {
    let one = m.float(1.0);
    m.div(one, a)
}

/// value · 2ⁿ for n in −252..=254, rounded once also where the result is subnormal.
#[inline(always)]
pub(super) fn scale<M: Machine>(m: &mut M, value: M::Float, n: M::Int) -> M::Float {
    let half = m.shift_right(n, 1);
    let rest = m.int_sub(n, half);
    let bias = m.int(127);
    [half, rest].into_iter().fold(value, |value, exponent| {
        let biased = m.int_add(exponent, bias);
        let bits = m.shift_left(biased, 23);
        let factor = m.with_bits(bits);
        m.mul(value, factor)
    })
}

/// Clamped to `low..=high`; NaN stays.
#[inline(always)]
pub(super) fn clamp<M: Machine>(m: &mut M, x: M::Float, low: f32, high: f32) -> M::Float {
    let (low, high) = (m.float(low), m.float(high));
    let (below, above) = (m.less(x, low), m.less(high, x));
    let clamped = m.select(below, low, x);
    m.select(above, high, clamped)
}

/// 1.1 ulp.
#[inline(always)]
fn exp<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    // Beyond these bounds the result is 0 or infinite.
    let x = clamp(m, x, -104.0, 89.0);
    let log2_e = m.float(std::f32::consts::LOG2_E);
    let quotient = m.mul(x, log2_e);
    let n = m.nearest(quotient);
    let whole = m.to_float(n);
    let (high, low) = (m.float(-LN2_HIGH), m.float(-LN2_LOW));
    let r = m.fma(whole, high, x);
    let r = m.fma(whole, low, r);
    let p = m.polynomial(r, &[0.499_999_94, 0.166_665_15, 0.041_668_456, 0.008_369_419, 0.001_381_314_5]);
    let square = m.mul(r, r);
    let tail = m.fma(p, square, r);
    let one = m.float(1.0);
    let value = m.add(one, tail);
    scale(m, value, n)
}

/// A positive number as m·2ᵉ with m in √½..√2: (m, e as a float).
#[inline(always)]
pub(super) fn split<M: Machine>(m: &mut M, x: M::Float) -> (M::Float, M::Float) {
    let (least, shift) = (m.float(f32::MIN_POSITIVE), m.float(8_388_608.0));
    let subnormal = m.less(x, least);
    let shifted = m.mul(x, shift);
    let x = m.select(subnormal, shifted, x);
    let bits = m.bits(x);
    let root_half = m.int(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
    let distance = m.int_sub(bits, root_half);
    let exponent = m.shift_right(distance, 23);
    let mask = m.int(0x007f_ffff);
    let fraction = m.int_and(distance, mask);
    let bits = m.int_add(fraction, root_half);
    let mantissa = m.with_bits(bits);
    let exponent = m.to_float(exponent);
    let (zero, lowered) = (m.float(0.0), m.float(-23.0));
    let correction = m.select(subnormal, lowered, zero);
    (mantissa, m.add(exponent, correction))
}

/// 1.1 ulp.
#[inline(always)]
fn log<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let (mantissa, exponent) = split(m, x);
    let one = m.float(1.0);
    let f = m.sub(mantissa, one);
    let p = m.polynomial(
        f,
        &[
            0.333_333_13,
            -0.250_000_1,
            0.200_021_2,
            -0.166_679_97,
            0.142_195_52,
            -0.124_055_89,
            0.118_881_62,
            -0.116_756_52,
            0.067_466_41,
        ],
    );
    let square = m.mul(f, f);
    let cube = m.mul(square, f);
    let low = m.float(LN2_LOW);
    let tail = m.mul(exponent, low);
    let tail = m.fma(cube, p, tail);
    let half = m.float(-0.5);
    let tail = m.fma(square, half, tail);
    let near = m.add(f, tail);
    let high = m.float(LN2_HIGH);
    let value = m.fma(exponent, high, near);
    let (zero, infinity) = (m.float(0.0), m.float(f32::INFINITY));
    let (lowest, nan) = (m.float(f32::NEG_INFINITY), m.float(f32::NAN));
    let (positive, finite, is_zero, is_infinite) =
        (m.less(zero, x), m.less(x, infinity), m.equal(x, zero), m.equal(x, infinity));
    let usual = m.and(positive, finite);
    let special = m.select(is_infinite, infinity, nan);
    let special = m.select(is_zero, lowest, special);
    m.select(usual, value, special)
}

/// 2 ulp.
#[inline(always)]
fn tanh<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let magnitude = m.abs(x);
    let square = m.mul(x, x);
    let p = m.polynomial(square, &[-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_088, -0.005_704_987]);
    let cube = m.mul(square, x);
    let small = m.fma(cube, p, x);
    let double = m.add(magnitude, magnitude);
    let e = exp(m, double);
    let (one, two) = (m.float(1.0), m.float(2.0));
    let denominator = m.add(e, one);
    let rest = m.div(two, denominator);
    let large = m.sub(one, rest);
    let large = m.signed_like(large, x);
    let bound = m.float(0.625);
    let near = m.less(magnitude, bound);
    m.select(near, small, large)
}

/// 3 ulp above −87; 0 below −88.8.
#[inline(always)]
fn sigmoid<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let negated = m.neg(x);
    let e = exp(m, negated);
    let one = m.float(1.0);
    let denominator = m.add(one, e);
    m.div(one, denominator)
}

/// 2 ulp.
#[inline(always)]
fn erf<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let magnitude = m.abs(x);
    let square = m.mul(x, x);
    let p = m.polynomial(
        square,
        &[0.128_379_17, -0.376_126_26, 0.112_835_854, -0.026_853_811, 0.005_188_327_7, -0.000_801_019_4, 7.853_861e-5],
    );
    let small = m.fma(x, p, x);
    // ln erfc on 1..4; beyond 4 erf rounds to 1.
    let t = clamp(m, magnitude, 0.0, 4.0);
    let p = m.polynomial(
        t,
        &[
            0.000_188_468_5,
            -1.129_580_3,
            -0.633_216_4,
            -0.108_422_1,
            0.025_210_341,
            -0.004_205_285_6,
            0.000_441_472_8,
            -2.169_762_6e-5,
        ],
    );
    let complement = exp(m, p);
    let one = m.float(1.0);
    let large = m.sub(one, complement);
    let large = m.signed_like(large, x);
    let near = m.less(magnitude, one);
    m.select(near, small, large)
}
