//! Comparisons: `setp` and `set`.

use half::{bf16, f16};

use super::{Form, Function, Opcode};
use crate::types::Type;

/// How a comparison's outcome meets a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    And,
    Or,
    Xor,
}

/// A `setp`: a function of two operands to 0 or 1, and how it meets a third.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison {
    pub form: Form,
    pub combine: Option<Combine>,
}

impl Combine {
    pub fn apply(self, a: u64, b: u64) -> u64 {
        match self {
            Combine::And => a & b,
            Combine::Or => a | b,
            Combine::Xor => a ^ b,
        }
    }
}

const RELATIONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// The comparison of a `setp`, or `None` where its modifiers do not make one.
pub(crate) fn comparison(opcode: &mut Opcode<'_>) -> Option<Comparison> {
    let relation = opcode.choice(&RELATIONS)?;
    let combine = match opcode.choice(&["and", "or", "xor"]) {
        None => None,
        Some("and") => Some(Combine::And),
        Some("or") => Some(Combine::Or),
        Some(_) => Some(Combine::Xor),
    };
    let ty = opcode.ty()?;
    let flush = ty == Type::F32 && opcode.flag("ftz");
    let form = Form { flush, ..Form::new(function(relation, ty)?, ty).with_result(Type::Pred) };
    Some(Comparison { form, combine })
}

/// `set`, which writes a number: all ones or zero, or 1.0 or 0.0.
pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    if opcode.name != "set" {
        return None;
    }
    let relation = opcode.choice(&RELATIONS)?;
    let (result, ty) = (opcode.ty()?, opcode.ty()?);
    let flush = ty == Type::F32 && opcode.flag("ftz");
    let function = set_function(relation, ty, result == Type::F32)?;
    matches!(result, Type::F32 | Type::U32 | Type::S32)
        .then_some(Form { flush, ..Form::new(function, ty).with_result(Type::U32) })
}

macro_rules! relations {
    ($relation:expr, $value:ident, $outcome:ident) => {
        match $relation {
            "eq" => Function::Two(|a, b| $outcome($value(a) == $value(b))),
            "ne" => Function::Two(|a, b| $outcome($value(a) != $value(b))),
            "lt" | "lo" => Function::Two(|a, b| $outcome($value(a) < $value(b))),
            "le" | "ls" => Function::Two(|a, b| $outcome($value(a) <= $value(b))),
            "gt" | "hi" => Function::Two(|a, b| $outcome($value(a) > $value(b))),
            "ge" | "hs" => Function::Two(|a, b| $outcome($value(a) >= $value(b))),
            _ => return None,
        }
    };
}

macro_rules! float_relations {
    ($relation:expr, $value:ident, $outcome:ident) => {{
        fn unordered(a: u64, b: u64) -> bool {
            $value(a).is_nan() || $value(b).is_nan()
        }
        match $relation {
            // An ordered inequality is false where either side is NaN, unlike Rust's.
            "ne" => Function::Two(|a, b| $outcome($value(a) != $value(b) && !unordered(a, b))),
            "equ" => Function::Two(|a, b| $outcome($value(a) == $value(b) || unordered(a, b))),
            "neu" => Function::Two(|a, b| $outcome($value(a) != $value(b))),
            "ltu" => Function::Two(|a, b| $outcome($value(a) < $value(b) || unordered(a, b))),
            "leu" => Function::Two(|a, b| $outcome($value(a) <= $value(b) || unordered(a, b))),
            "gtu" => Function::Two(|a, b| $outcome($value(a) > $value(b) || unordered(a, b))),
            "geu" => Function::Two(|a, b| $outcome($value(a) >= $value(b) || unordered(a, b))),
            "num" => Function::Two(|a, b| $outcome(!unordered(a, b))),
            "nan" => Function::Two(|a, b| $outcome(unordered(a, b))),
            "lo" | "ls" | "hi" | "hs" => return None,
            relation => relations!(relation, $value, $outcome),
        }
    }};
}

macro_rules! typed {
    ($relation:expr, $ty:expr, $outcome:ident) => {
        match $ty {
            Type::U16 | Type::B16 => relations!($relation, as_u16, $outcome),
            Type::U32 | Type::B32 => relations!($relation, as_u32, $outcome),
            Type::U64 | Type::B64 => relations!($relation, as_u64, $outcome),
            Type::S16 => relations!($relation, as_i16, $outcome),
            Type::S32 => relations!($relation, as_i32, $outcome),
            Type::S64 => relations!($relation, as_i64, $outcome),
            Type::F32 => float_relations!($relation, as_f32, $outcome),
            Type::F64 => float_relations!($relation, as_f64, $outcome),
            Type::F16 => float_relations!($relation, as_f16, $outcome),
            Type::BF16 => float_relations!($relation, as_bf16, $outcome),
            _ => return None,
        }
    };
}

fn function(relation: &str, ty: Type) -> Option<Function> {
    Some(typed!(relation, ty, bit))
}

fn set_function(relation: &str, ty: Type, float: bool) -> Option<Function> {
    Some(if float { typed!(relation, ty, one) } else { typed!(relation, ty, ones) })
}

fn bit(outcome: bool) -> u64 {
    u64::from(outcome)
}

fn ones(outcome: bool) -> u64 {
    if outcome { 0xffff_ffff } else { 0 }
}

fn one(outcome: bool) -> u64 {
    if outcome { 0x3f80_0000 } else { 0 }
}

macro_rules! readings {
    ($($name:ident: $ty:ty = |$bits:ident| $value:expr;)*) => {
        $(fn $name($bits: u64) -> $ty { $value })*
    };
}

readings! {
    as_u16: u16 = |bits| bits as u16;
    as_u32: u32 = |bits| bits as u32;
    as_u64: u64 = |bits| bits;
    as_i16: i16 = |bits| bits as i16;
    as_i32: i32 = |bits| bits as i32;
    as_i64: i64 = |bits| bits as i64;
    as_f32: f32 = |bits| f32::from_bits(bits as u32);
    as_f64: f64 = |bits| f64::from_bits(bits);
    as_f16: f32 = |bits| f16::from_bits(bits as u16).to_f32();
    as_bf16: f32 = |bits| bf16::from_bits(bits as u16).to_f32();
}
