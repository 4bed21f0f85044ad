//! `f16`, `bf16` and their pairs. One rounding of a result held in double precision: sums and products of such numbers
//! fit there exactly, and so do fused results but for a rest far below the last place.

use half::{bf16, f16};

use super::Function;
use super::float::{maximum_single, minimum_single};
use crate::types::Type;

/// A sixteen-bit float.
pub(super) trait Half: Copy {
    fn wide(bits: u64) -> f64;
    /// Rounds to nearest even; NaN is the hardware's one.
    fn narrow(value: f64) -> u64;
}

impl Half for f16 {
    fn wide(bits: u64) -> f64 {
        f16::from_bits(bits as u16).to_f64()
    }

    fn narrow(value: f64) -> u64 {
        if value.is_nan() { 0x7fff } else { u64::from(f16::from_f32(to_odd(value)).to_bits()) }
    }
}

impl Half for bf16 {
    fn wide(bits: u64) -> f64 {
        bf16::from_bits(bits as u16).to_f64()
    }

    fn narrow(value: f64) -> u64 {
        if value.is_nan() { 0x7fff } else { u64::from(bf16::from_f32(to_odd(value)).to_bits()) }
    }
}

/// `a * b + c` held to odd: the sum in double precision, its last bit set where something was lost, so that rounding it
/// again is as rounding once.
fn fused(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let sum = product + c;
    let part = sum - product;
    let rest = (product - (sum - part)) + (c - part);
    if rest == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if (rest > 0.0) == (sum > 0.0) { f64::from_bits(sum.to_bits() | 1) } else { f64::from_bits(sum.to_bits() - 1) }
}

/// Single precision with its last bit set where something was lost: rounding it once more is as rounding once.
pub(super) fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let difference = value - f64::from(nearest);
    if difference == 0.0 || nearest.is_infinite() && value.is_infinite() {
        return nearest;
    }
    let away = (difference > 0.0) != (value > 0.0);
    let towards_zero = if away { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(towards_zero | 1)
}

/// Negative numbers become zero; NaN stays.
pub(super) fn relu_of(value: f64) -> f64 {
    if value < 0.0 { 0.0 } else { value }
}

fn lesser(a: f64, b: f64) -> f64 {
    f64::from(minimum_single(a as f32, b as f32))
}

fn greater(a: f64, b: f64) -> f64 {
    f64::from(maximum_single(a as f32, b as f32))
}

fn nan_or(a: f64, b: f64, otherwise: fn(f64, f64) -> f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { otherwise(a, b) }
}

fn one<H: Half>(a: u64, operation: fn(f64) -> f64) -> u64 {
    H::narrow(operation(H::wide(a)))
}

fn two<H: Half>(a: u64, b: u64, operation: fn(f64, f64) -> f64) -> u64 {
    H::narrow(operation(H::wide(a), H::wide(b)))
}

fn three<H: Half>(a: u64, b: u64, c: u64, operation: fn(f64, f64, f64) -> f64) -> u64 {
    H::narrow(operation(H::wide(a), H::wide(b), H::wide(c)))
}

fn scalar<H: Half>(name: &str, nan: bool, relu: bool) -> Option<Function> {
    Some(match (name, nan, relu) {
        ("add", false, false) => Function::Two(|a, b| two::<H>(a, b, |a, b| a + b)),
        ("sub", false, false) => Function::Two(|a, b| two::<H>(a, b, |a, b| a - b)),
        ("mul", false, false) => Function::Two(|a, b| two::<H>(a, b, |a, b| a * b)),
        ("fma", false, false) => Function::Three(|a, b, c| three::<H>(a, b, c, fused)),
        ("fma", false, true) => Function::Three(|a, b, c| three::<H>(a, b, c, |a, b, c| relu_of(fused(a, b, c)))),
        ("min", false, false) => Function::Two(|a, b| two::<H>(a, b, lesser)),
        ("max", false, false) => Function::Two(|a, b| two::<H>(a, b, greater)),
        ("min", true, false) => Function::Two(|a, b| two::<H>(a, b, |a, b| nan_or(a, b, lesser))),
        ("max", true, false) => Function::Two(|a, b| two::<H>(a, b, |a, b| nan_or(a, b, greater))),
        ("abs", false, false) => Function::One(|a| a & 0x7fff),
        ("neg", false, false) => Function::One(|a| a & 0xffff ^ 0x8000),
        ("ex2", false, false) => Function::One(|a| one::<H>(a, f64::exp2)),
        ("tanh", false, false) => Function::One(|a| one::<H>(a, f64::tanh)),
        _ => return None,
    })
}

fn pair<H: Half>(name: &str, nan: bool, relu: bool) -> Option<Function> {
    fn both1<H: Half>(a: u64, operation: fn(f64) -> f64) -> u64 {
        one::<H>(a, operation) | one::<H>(a >> 16, operation) << 16
    }
    fn both2<H: Half>(a: u64, b: u64, operation: fn(f64, f64) -> f64) -> u64 {
        two::<H>(a, b, operation) | two::<H>(a >> 16, b >> 16, operation) << 16
    }
    fn both3<H: Half>(a: u64, b: u64, c: u64, operation: fn(f64, f64, f64) -> f64) -> u64 {
        three::<H>(a, b, c, operation) | three::<H>(a >> 16, b >> 16, c >> 16, operation) << 16
    }
    Some(match (name, nan, relu) {
        ("add", false, false) => Function::Two(|a, b| both2::<H>(a, b, |a, b| a + b)),
        ("sub", false, false) => Function::Two(|a, b| both2::<H>(a, b, |a, b| a - b)),
        ("mul", false, false) => Function::Two(|a, b| both2::<H>(a, b, |a, b| a * b)),
        ("fma", false, false) => Function::Three(|a, b, c| both3::<H>(a, b, c, fused)),
        ("fma", false, true) => Function::Three(|a, b, c| both3::<H>(a, b, c, |a, b, c| relu_of(fused(a, b, c)))),
        ("min", false, false) => Function::Two(|a, b| both2::<H>(a, b, lesser)),
        ("max", false, false) => Function::Two(|a, b| both2::<H>(a, b, greater)),
        ("min", true, false) => Function::Two(|a, b| both2::<H>(a, b, |a, b| nan_or(a, b, lesser))),
        ("max", true, false) => Function::Two(|a, b| both2::<H>(a, b, |a, b| nan_or(a, b, greater))),
        ("abs", false, false) => Function::One(|a| a & 0x7fff_7fff),
        ("neg", false, false) => Function::One(|a| a & 0xffff_ffff ^ 0x8000_8000),
        ("ex2", false, false) => Function::One(|a| both1::<H>(a, f64::exp2)),
        ("tanh", false, false) => Function::One(|a| both1::<H>(a, f64::tanh)),
        _ => return None,
    })
}

/// The function of an operation on a sixteen-bit type.
pub(super) fn function(name: &str, ty: Type, nan: bool, relu: bool) -> Option<Function> {
    match ty {
        Type::F16 => scalar::<f16>(name, nan, relu),
        Type::BF16 => scalar::<bf16>(name, nan, relu),
        Type::F16x2 => pair::<f16>(name, nan, relu),
        Type::BF16x2 => pair::<bf16>(name, nan, relu),
        _ => None,
    }
}
