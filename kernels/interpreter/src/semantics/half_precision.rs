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

/// Clamps to [0, 1]; NaN becomes 0.
fn saturated(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
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

fn one<H: Half, const PAIR: bool>(a: u64, operation: fn(f64) -> f64) -> u64 {
    let at = |shift: u32| H::narrow(operation(H::wide(a >> shift))) << shift;
    if PAIR { at(0) | at(16) } else { at(0) }
}

fn two<H: Half, const PAIR: bool>(a: u64, b: u64, operation: fn(f64, f64) -> f64) -> u64 {
    let at = |shift: u32| H::narrow(operation(H::wide(a >> shift), H::wide(b >> shift))) << shift;
    if PAIR { at(0) | at(16) } else { at(0) }
}

fn three<H: Half, const PAIR: bool>(a: u64, b: u64, c: u64, operation: fn(f64, f64, f64) -> f64) -> u64 {
    let at = |shift: u32| H::narrow(operation(H::wide(a >> shift), H::wide(b >> shift), H::wide(c >> shift))) << shift;
    if PAIR { at(0) | at(16) } else { at(0) }
}

/// What is done beside the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Plain,
    /// A NaN among the operands is the result (`.NaN`).
    Nan,
    Relu,
    Saturate,
}

fn of<H: Half, const PAIR: bool>(name: &str, manner: Manner) -> Option<Function> {
    use Function::{One, Three, Two};
    use Manner::{Nan, Plain, Relu, Saturate};
    Some(match (name, manner) {
        ("add", Plain) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| a + b)),
        ("sub", Plain) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| a - b)),
        ("mul", Plain) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| a * b)),
        ("add", Saturate) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| saturated(a + b))),
        ("sub", Saturate) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| saturated(a - b))),
        ("mul", Saturate) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| saturated(a * b))),
        ("fma", Plain) => Three(|a, b, c| three::<H, PAIR>(a, b, c, fused)),
        ("fma", Relu) => Three(|a, b, c| three::<H, PAIR>(a, b, c, |a, b, c| relu_of(fused(a, b, c)))),
        ("fma", Saturate) => Three(|a, b, c| three::<H, PAIR>(a, b, c, |a, b, c| saturated(fused(a, b, c)))),
        ("min", Plain) => Two(|a, b| two::<H, PAIR>(a, b, lesser)),
        ("max", Plain) => Two(|a, b| two::<H, PAIR>(a, b, greater)),
        ("min", Nan) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| nan_or(a, b, lesser))),
        ("max", Nan) => Two(|a, b| two::<H, PAIR>(a, b, |a, b| nan_or(a, b, greater))),
        ("abs", Plain) => One(|a| a & 0x7fff_7fff),
        ("neg", Plain) => One(|a| a ^ 0x8000_8000),
        ("ex2", Plain) => One(|a| one::<H, PAIR>(a, f64::exp2)),
        ("tanh", Plain) => One(|a| one::<H, PAIR>(a, f64::tanh)),
        _ => return None,
    })
}

/// The function of an operation on a sixteen-bit type.
pub(super) fn function(name: &str, ty: Type, manner: Manner) -> Option<Function> {
    match ty {
        Type::F16 => of::<f16, false>(name, manner),
        Type::BF16 => of::<bf16, false>(name, manner),
        Type::F16x2 => of::<f16, true>(name, manner),
        Type::BF16x2 => of::<bf16, true>(name, manner),
        _ => None,
    }
}
