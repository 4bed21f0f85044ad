//! Integer addition, multiplication, division, extremes, shifts, and bitwise logic.

use super::{Form, Function, Opcode};
use crate::types::Type;

/// The integer type that an operation on bits works with.
fn as_integer(ty: Type) -> Type {
    match ty {
        Type::B8 => Type::U8,
        Type::B16 => Type::U16,
        Type::B32 => Type::U32,
        Type::B64 => Type::U64,
        other => other,
    }
}

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    let ty = opcode.ty().filter(|ty| !ty.is_float())?;
    let half = opcode.choice(&["lo", "hi", "wide"]);
    if opcode.flag("sat") {
        return saturating(opcode.name, half, ty);
    }
    let shift = matches!(opcode.name, "shl" | "shr");
    let function = match as_integer(ty) {
        Type::Pred => predicate(opcode.name)?,
        Type::U8 => of_u8(opcode.name, half)?,
        Type::S8 => of_i8(opcode.name, half)?,
        Type::U16 => of_u16(opcode.name, half)?,
        Type::S16 => of_i16(opcode.name, half)?,
        Type::U32 => of_u32(opcode.name, half)?,
        Type::S32 => of_i32(opcode.name, half)?,
        Type::U64 => of_u64(opcode.name, half)?,
        Type::S64 => of_i64(opcode.name, half)?,
        _ => return None,
    };
    let form = Form::new(function, ty);
    Some(if shift { form.with_sources([ty, Type::U32, ty, ty]) } else { form })
}

macro_rules! family {
    ($name:ident, $int:ty, $unsigned:ty, $wide:ty) => {
        fn $name(name: &str, half: Option<&str>) -> Option<Function> {
            const BITS: u32 = <$int>::BITS;
            fn wide(value: u64) -> $wide {
                <$wide>::from(value as $int)
            }
            Some(match (name, half) {
                ("add", None) => Function::Two(|a, b| (a as $int).wrapping_add(b as $int) as u64),
                ("sub", None) => Function::Two(|a, b| (a as $int).wrapping_sub(b as $int) as u64),
                ("mul", Some("lo")) => Function::Two(|a, b| (a as $int).wrapping_mul(b as $int) as u64),
                ("mul", Some("hi")) => Function::Two(|a, b| (wide(a).wrapping_mul(wide(b)) >> BITS) as u64),
                ("mul", Some("wide")) if BITS < 64 => Function::Two(|a, b| wide(a).wrapping_mul(wide(b)) as u64),
                ("mad", Some("lo")) => {
                    Function::Three(|a, b, c| (a as $int).wrapping_mul(b as $int).wrapping_add(c as $int) as u64)
                }
                ("mad", Some("hi")) => Function::Three(|a, b, c| {
                    ((wide(a).wrapping_mul(wide(b)) >> BITS) as u64).wrapping_add(c)
                }),
                ("mad", Some("wide")) if BITS < 64 => {
                    Function::Three(|a, b, c| (wide(a).wrapping_mul(wide(b)) as u64).wrapping_add(c))
                }
                // The hardware's division sequences end with all ones where the divisor is zero.
                ("div", None) => Function::Two(|a, b| match b as $int {
                    0 => u64::MAX,
                    b => (a as $int).wrapping_div(b) as u64,
                }),
                ("rem", None) => Function::Two(|a, b| match b as $int {
                    0 => u64::MAX,
                    b => (a as $int).wrapping_rem(b) as u64,
                }),
                ("min", None) => Function::Two(|a, b| (a as $int).min(b as $int) as u64),
                ("max", None) => Function::Two(|a, b| (a as $int).max(b as $int) as u64),
                ("sad", None) => Function::Three(|a, b, c| {
                    (c as $int).wrapping_add((a as $int).abs_diff(b as $int) as $int) as u64
                }),
                ("abs", None) if <$int>::MIN != 0 => {
                    Function::One(|a| if (a as $int) < 0 as $int { (a as $int).wrapping_neg() as u64 } else { a })
                }
                ("neg", None) => Function::One(|a| (a as $int).wrapping_neg() as u64),
                ("and", None) => Function::Two(|a, b| a & b),
                ("or", None) => Function::Two(|a, b| a | b),
                ("xor", None) => Function::Two(|a, b| a ^ b),
                ("not", None) => Function::One(|a| !a),
                ("cnot", None) => Function::One(|a| u64::from(a as $int == 0)),
                ("shl", None) => Function::Two(|a, b| match b as u32 {
                    b if b >= BITS => 0,
                    b => ((a as $unsigned) << b) as u64,
                }),
                ("shr", None) => Function::Two(|a, b| match b as u32 {
                    // One place at a time at the end, so that an unsigned number runs out to zero.
                    b if b >= BITS => ((a as $int) >> (BITS - 1) >> 1) as u64,
                    b => ((a as $int) >> b) as u64,
                }),
                _ => return None,
            })
        }
    };
}

family!(of_u8, u8, u8, u16);
family!(of_i8, i8, u8, i16);
family!(of_u16, u16, u16, u32);
family!(of_i16, i16, u16, i32);
family!(of_u32, u32, u32, u64);
family!(of_i32, i32, u32, i64);
family!(of_u64, u64, u64, u128);
family!(of_i64, i64, u64, i128);

fn predicate(name: &str) -> Option<Function> {
    Some(match name {
        "and" => Function::Two(|a, b| a & b & 1),
        "or" => Function::Two(|a, b| (a | b) & 1),
        "xor" => Function::Two(|a, b| (a ^ b) & 1),
        "not" => Function::One(|a| !a & 1),
        _ => return None,
    })
}

fn saturating(name: &str, half: Option<&str>, ty: Type) -> Option<Form> {
    let function = match (name, half, ty) {
        ("add", None, Type::S32) => Function::Two(|a, b| (a as i32).saturating_add(b as i32) as u64),
        ("sub", None, Type::S32) => Function::Two(|a, b| (a as i32).saturating_sub(b as i32) as u64),
        ("mad", Some("hi"), Type::S32) => Function::Three(|a, b, c| {
            let high = i64::from(a as i32) * i64::from(b as i32) >> 32;
            (high as i32).saturating_add(c as i32) as u64
        }),
        _ => return None,
    };
    Some(Form::new(function, ty))
}
