//! `cvt`: every pair of numeric types, through a value that holds any of them exactly.

use half::{bf16, f16};

use super::float::saturate_double;
use super::half_precision::{Half, relu_of};
use super::rounding::{Direction, direct_double, direct_single};
use super::{Form, Function, Opcode};
use crate::types::Type;

/// A conversion that has no function of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    source: Type,
    target: Type,
    direction: Direction,
    /// Round to an integer, the target being a float.
    integral: bool,
    saturate: bool,
    relu: bool,
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    if opcode.name != "cvt" {
        return None;
    }
    let rounding = opcode.choice(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]);
    let (flush, saturate, relu) = (opcode.flag("ftz"), opcode.flag("sat"), opcode.flag("relu"));
    let (target, source) = (opcode.ty()?, opcode.ty()?);
    if let Some(function) = packed(target, source, rounding, relu) {
        return Some(Form { flush, ..Form::new(function, source).with_result(target) });
    }
    if target == Type::Pred || source == Type::Pred {
        return None;
    }
    let direction = rounding.map_or(Some(Direction::Nearest), Direction::named)?;
    let integral = rounding.is_some_and(|name| name.ends_with('i'));
    let to_integer = source.is_float() && !target.is_float();
    // A rounding to integers belongs to integers, and to a float's own type.
    if to_integer != integral && !(integral && target == source) || relu && !target.is_float() {
        return None;
    }
    let conversion = Conversion { source, target, direction, integral, saturate, relu };
    let function = conversion.common().unwrap_or(Function::Convert(conversion));
    Some(Form { flush, ..Form::new(function, source).with_result(target) })
}

fn packed(target: Type, source: Type, rounding: Option<&str>, relu: bool) -> Option<Function> {
    fn pack<H: Half>(high: u64, low: u64, direction: Direction, relu: bool) -> u64 {
        let one = |bits: u64| {
            let value = f64::from(f32::from_bits(bits as u32));
            narrow_half::<H>(if relu { relu_of(value) } else { value }, direction)
        };
        one(high) << 16 | one(low)
    }
    use Direction::{Nearest, Zero};
    Some(match (target, source, rounding?, relu) {
        (Type::F16x2, Type::F32, "rn", false) => Function::Two(|a, b| pack::<f16>(a, b, Nearest, false)),
        (Type::F16x2, Type::F32, "rn", true) => Function::Two(|a, b| pack::<f16>(a, b, Nearest, true)),
        (Type::F16x2, Type::F32, "rz", false) => Function::Two(|a, b| pack::<f16>(a, b, Zero, false)),
        (Type::BF16x2, Type::F32, "rn", false) => Function::Two(|a, b| pack::<bf16>(a, b, Nearest, false)),
        (Type::BF16x2, Type::F32, "rn", true) => Function::Two(|a, b| pack::<bf16>(a, b, Nearest, true)),
        (Type::BF16x2, Type::F32, "rz", false) => Function::Two(|a, b| pack::<bf16>(a, b, Zero, false)),
        _ => return None,
    })
}

impl Conversion {
    /// The conversions that address arithmetic and element types make in great number.
    fn common(self) -> Option<Function> {
        if self.saturate || self.relu || self.integral || self.direction != Direction::Nearest {
            return None;
        }
        Some(match (self.target, self.source) {
            (Type::U64 | Type::S64 | Type::U32 | Type::S32, Type::U32) => Function::One(|a| a & 0xffff_ffff),
            (Type::U64 | Type::S64 | Type::U32 | Type::S32, Type::S32) => Function::One(|a| a as i32 as u64),
            (Type::U32 | Type::S32 | Type::U16 | Type::S16, Type::U64 | Type::S64) => Function::One(|a| a),
            (Type::U16 | Type::S16, Type::U32 | Type::S32) => Function::One(|a| a),
            (Type::U64 | Type::S64 | Type::U32 | Type::S32, Type::U16) => Function::One(|a| a & 0xffff),
            (Type::U64 | Type::S64 | Type::U32 | Type::S32, Type::S16) => Function::One(|a| a as i16 as u64),
            (Type::F32, Type::S32) => Function::One(|a| u64::from((a as i32 as f32).to_bits())),
            (Type::F32, Type::U32) => Function::One(|a| u64::from((a as u32 as f32).to_bits())),
            _ => return None,
        })
    }

    pub fn apply(self, bits: u64) -> u64 {
        let number = read(bits, self.source);
        if !self.target.is_float() {
            return self.to_integer(number);
        }
        let number = match number {
            Number::Float(value) if self.integral => Number::Float(round(value, self.direction)),
            Number::Float(value) if self.relu => Number::Float(relu_of(value)),
            other => other,
        };
        let number = match number {
            Number::Float(value) if self.saturate => Number::Float(f64::from_bits(saturate_double(value.to_bits()))),
            Number::Integer(value) if self.saturate => Number::Integer(value.clamp(0, 1)),
            other => other,
        };
        self.to_float(number)
    }

    fn to_integer(self, number: Number) -> u64 {
        let bits = self.target.bits();
        let (least, most) = if self.target.is_signed() {
            (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
        } else {
            (0, (1_i128 << bits) - 1)
        };
        let value = match number {
            Number::Integer(value) if self.saturate => value.clamp(least, most),
            Number::Integer(value) => value,
            Number::Float(value) if value.is_nan() => {
                if self.source == Type::F64 || bits == 64 { 1 << (bits - 1) } else { 0 }
            }
            Number::Float(value) => (round(value, self.direction) as i128).clamp(least, most),
        };
        // A narrow result widens into its register by its own type's sign.
        match self.target {
            Type::U8 | Type::B8 => u64::from(value as u8),
            Type::S8 => value as i8 as u64,
            Type::U16 | Type::B16 => u64::from(value as u16),
            Type::S16 => value as i16 as u64,
            Type::U32 | Type::B32 => u64::from(value as u32),
            Type::S32 => value as i32 as u64,
            _ => value as u64,
        }
    }

    fn to_float(self, number: Number) -> u64 {
        let (value, rest) = match number {
            Number::Float(value) => (value, 0.0),
            Number::Integer(value) => {
                let nearest = value as f64;
                (nearest, (value - nearest as i128) as f64)
            }
        };
        if self.target == Type::F64 {
            return direct_double(value, rest, self.direction).to_bits();
        }
        let value = odd(value, rest);
        match self.target {
            Type::F32 if value.is_nan() => 0x7fff_ffff,
            Type::F32 => {
                let nearest = value as f32;
                let residual = if nearest.is_infinite() && value.is_infinite() { 0.0 } else { value - f64::from(nearest) };
                u64::from(direct_single(nearest, residual, self.direction).to_bits())
            }
            Type::BF16 => narrow_half::<bf16>(value, self.direction),
            _ => narrow_half::<f16>(value, self.direction),
        }
    }
}

/// `value + rest`, its last bit set where the rest is not zero.
fn odd(value: f64, rest: f64) -> f64 {
    if rest == 0.0 || value.to_bits() & 1 == 1 {
        value
    } else if (rest > 0.0) == (value > 0.0) {
        f64::from_bits(value.to_bits() | 1)
    } else {
        f64::from_bits(value.to_bits() - 1)
    }
}

/// A sixteen-bit float, rounded in any direction: the bits count up with the magnitude.
fn narrow_half<H: Half>(value: f64, direction: Direction) -> u64 {
    let nearest = H::narrow(value);
    let back = H::wide(nearest);
    let down = match direction {
        Direction::Nearest => return nearest,
        Direction::Zero => value > 0.0,
        Direction::Down => true,
        Direction::Up => false,
    };
    if value.is_nan() || if down { back <= value } else { back >= value } {
        return nearest;
    }
    let negative = nearest & 0x8000 != 0;
    if nearest & 0x7fff == 0 {
        // From zero the magnitude grows either way.
        return if down { 0x8001 } else { 0x0001 };
    }
    if down == negative { nearest + 1 } else { nearest - 1 }
}

fn round(value: f64, direction: Direction) -> f64 {
    match direction {
        Direction::Nearest => value.round_ties_even(),
        Direction::Zero => value.trunc(),
        Direction::Down => value.floor(),
        Direction::Up => value.ceil(),
    }
}

fn read(bits: u64, ty: Type) -> Number {
    match ty {
        Type::U8 | Type::B8 | Type::Pred => Number::Integer(i128::from(bits as u8)),
        Type::U16 | Type::B16 => Number::Integer(i128::from(bits as u16)),
        Type::U32 | Type::B32 => Number::Integer(i128::from(bits as u32)),
        Type::U64 | Type::B64 => Number::Integer(i128::from(bits)),
        Type::S8 => Number::Integer(i128::from(bits as i8)),
        Type::S16 => Number::Integer(i128::from(bits as i16)),
        Type::S32 => Number::Integer(i128::from(bits as i32)),
        Type::S64 => Number::Integer(i128::from(bits as i64)),
        Type::F32 => Number::Float(f64::from(f32::from_bits(bits as u32))),
        Type::F64 => Number::Float(f64::from_bits(bits)),
        Type::F16 | Type::F16x2 => Number::Float(f16::wide(bits)),
        Type::BF16 | Type::BF16x2 => Number::Float(bf16::wide(bits)),
    }
}
