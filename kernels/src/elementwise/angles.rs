//! Sine and cosine of every float, however large: the argument is reduced with as many bits of 1/2π as its size asks for
//! (Payne and Hanek, "Radian reduction for trigonometric functions", SIGNUM Newsletter 18, 1983).

use super::machine::Machine;

/// The first 224 bits of 1/2π.
const TURNS: [u32; 7] = [0x28be_60db, 0x9391_054a, 0x7f09_d5f4, 0x7d4d_3770, 0x36d8_a566, 0x4f10_e410, 0x7f94_58ea];

/// 2.5 ulp. NaN for infinities.
#[inline(always)]
pub(super) fn sine<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let magnitude = m.abs(x);
    let (quadrant, r) = reduced(m, magnitude);
    let value = at(m, quadrant, r);
    let value = m.signed_like(value, x);
    // Below this size sin x rounds to x; a zero keeps its sign.
    let least = m.float(1e-4);
    let tiny = m.less(magnitude, least);
    m.select(tiny, x, value)
}

/// 2.5 ulp. NaN for infinities.
#[inline(always)]
pub(super) fn cosine<M: Machine>(m: &mut M, x: M::Float) -> M::Float {
    let magnitude = m.abs(x);
    let (quadrant, r) = reduced(m, magnitude);
    let one = m.int(1);
    let quadrant = m.int_add(quadrant, one);
    at(m, quadrant, r)
}

/// sin(quadrant · π/2 + r) for |r| ≤ π/4.
#[inline(always)]
fn at<M: Machine>(m: &mut M, quadrant: M::Int, r: M::Float) -> M::Float {
    let square = m.mul(r, r);
    let p = m.polynomial(square, &[-0.166_666_67, 0.008_333_329, -0.000_198_393_1, 2.718_106_5e-6]);
    let cube = m.mul(square, r);
    let odd = m.fma(cube, p, r);
    let p = m.polynomial(square, &[0.041_666_668, -0.001_388_888_3, 2.479_945_8e-5, -2.720_561e-7]);
    let (one, half) = (m.float(1.0), m.float(-0.5));
    let fourth = m.mul(square, square);
    let near = m.fma(square, half, one);
    // What 1 − r²/2 lost by its rounding.
    let taken = m.sub(one, near);
    let lost = m.neg(taken);
    let positive_half = m.float(0.5);
    let lost = m.fma(square, positive_half, lost);
    let lost = m.neg(lost);
    let tail = m.fma(fourth, p, lost);
    let even = m.add(near, tail);
    let (one, two) = (m.int(1), m.int(2));
    let [is_even, is_negative] = [one, two].map(|bit| {
        let bit = m.int_and(quadrant, bit);
        let bit = m.to_float(bit);
        let zero = m.float(0.0);
        m.less(zero, bit)
    });
    let value = m.select(is_even, even, odd);
    let negated = m.neg(value);
    m.select(is_negative, negated, value)
}

/// x = quadrant · π/2 + r with |r| ≤ π/4, for x ≥ 0; quadrants are counted to 4 and on. NaN where x is not finite.
#[inline(always)]
fn reduced<M: Machine>(m: &mut M, x: M::Float) -> (M::Int, M::Float) {
    let bits = m.bits(x);
    // x = mantissa · 2^(exponent − 32), the mantissa's highest bit set.
    let biased = m.shift_right(bits, 23);
    let bias = m.int(126);
    let exponent = m.int_sub(biased, bias);
    let fraction = m.shift_left(bits, 8);
    let (mask, leading) = (m.int(i32::MAX), m.int(i32::MIN));
    let fraction = m.int_and(fraction, mask);
    let mantissa = m.int_add(fraction, leading);
    let [high, middle, low] = window(m, exponent);
    // The part of the turn, 64 bits of it: the upper two count quadrants.
    let carried = m.int_mul_high(mantissa, low);
    let product = m.int_mul(mantissa, middle);
    let below = m.int_add(product, carried);
    let has_carry = m.int_below(below, product);
    let [zero, one] = [0, 1].map(|n| m.int(n));
    let carry = m.int_select(has_carry, one, zero);
    let above = m.int_mul_high(mantissa, middle);
    let above = m.int_add(above, carry);
    let product = m.int_mul(mantissa, high);
    let above = m.int_add(above, product);
    // To the nearest quadrant.
    let eighth = m.int(1 << 29);
    let turned = m.int_add(above, eighth);
    let thirty = m.int(30);
    let quadrant = m.shift_right_by(turned, thirty);
    let mask = m.int((1 << 30) - 1);
    let rest = m.int_and(turned, mask);
    let rest = m.int_sub(rest, eighth);
    let r = radians(m, rest, below);
    let (quarter, infinity) = (m.float(std::f32::consts::FRAC_PI_4), m.float(f32::INFINITY));
    let is_near = m.less_or_equal(x, quarter);
    let r = m.select(is_near, x, r);
    let quadrant = m.int_select(is_near, zero, quadrant);
    let (is_finite, nan) = (m.less(x, infinity), m.float(f32::NAN));
    (quadrant, m.select(is_finite, r, nan))
}

/// 96 bits of 2^exponent/2π, without what whole turns are.
#[inline(always)]
fn window<M: Machine>(m: &mut M, exponent: M::Int) -> [M::Int; 3] {
    let word = m.shift_right(exponent, 5);
    let at = m.to_float(word);
    // The word before the first is zero; for x below ½, whose reduction nobody asks for, any will do.
    let mut words = [0, 1, 2, 3].map(|k| m.int(if k == 0 { 0 } else { TURNS[k - 1] as i32 }));
    for shift in 1..=4 {
        let number = m.float(shift as f32);
        let is_this = m.equal(at, number);
        for (k, word) in words.iter_mut().enumerate() {
            let other = m.int(TURNS.get(shift + k - 1).map_or(0, |w| *w as i32));
            *word = m.int_select(is_this, other, *word);
        }
    }
    let (mask, width) = (m.int(31), m.int(32));
    let by = m.int_and(exponent, mask);
    let back = m.int_sub(width, by);
    [0, 1, 2].map(|k| {
        let left = m.shift_left_by(words[k], by);
        let right = m.shift_right_by(words[k + 1], back);
        m.int_add(left, right)
    })
}

/// (above · 2³² + below) · 2⁻⁶² quarter turns in radians; `below` is unsigned.
#[inline(always)]
fn radians<M: Machine>(m: &mut M, above: M::Int, below: M::Int) -> M::Float {
    // Size and sign apart, so that nothing cancels.
    let (zero, one) = (m.int(0), m.int(1));
    let (signed, nothing) = (m.to_float(above), m.float(0.0));
    let is_negative = m.less(signed, nothing);
    let has_below = m.int_below(zero, below);
    let borrowed = m.int_select(has_below, one, zero);
    let opposite = m.int_sub(zero, above);
    let opposite = m.int_sub(opposite, borrowed);
    let opposite_below = m.int_sub(zero, below);
    let above = m.int_select(is_negative, opposite, above);
    let below = m.int_select(is_negative, opposite_below, below);
    // Four parts that floats hold exactly.
    let (half_mask, sixteen) = (m.int(0xffff), m.int(16));
    let first = m.shift_right(above, 15);
    let mask = m.int(0x7fff);
    let second = m.int_and(above, mask);
    let third = m.shift_right_by(below, sixteen);
    let fourth = m.int_and(below, half_mask);
    let [first, second, third, fourth] = [first, second, third, fourth].map(|part| m.to_float(part));
    let unit = |power: i32| f32::powi(2.0, power);
    let [u1, u2, u3, u4] = [unit(-15), unit(-30), unit(-46), unit(-62)].map(|u| m.float(u));
    let sum = m.mul(fourth, u4);
    let sum = m.fma(third, u3, sum);
    let sum = m.fma(second, u2, sum);
    let total = m.fma(first, u1, sum);
    // What the last sum lost: the first part's product is exact.
    let largest = m.mul(first, u1);
    let kept = m.sub(total, largest);
    let lost = m.sub(sum, kept);
    let (high, low) = (m.float(1.570_796_4), m.float(-4.371_139e-8));
    let correction = m.mul(lost, high);
    let correction = m.fma(total, low, correction);
    let size = m.fma(total, high, correction);
    let negated = m.neg(size);
    m.select(is_negative, negated, size)
}
