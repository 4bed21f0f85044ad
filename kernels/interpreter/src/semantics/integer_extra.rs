//! Integer operations whose operands differ in type from their result, or that exist for a few types only.

use super::{Form, Function, Opcode};
use crate::types::Type;

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    match opcode.name {
        "mov" => {
            let ty = opcode.ty()?;
            Some(Form::new(Function::One(|a| a), ty))
        }
        "selp" => {
            let ty = opcode.ty()?;
            let function = Function::Three(|a, b, p| if p & 1 == 1 { a } else { b });
            Some(Form::new(function, ty).with_sources([ty, ty, Type::Pred, ty]))
        }
        "slct" => {
            let (ty, selector) = (opcode.ty()?, opcode.ty()?);
            let function = match selector {
                Type::S32 => Function::Three(|a, b, c| if c as i32 >= 0 { a } else { b }),
                Type::F32 => Function::Three(|a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b }),
                _ => return None,
            };
            let flush = opcode.flag("ftz") && selector == Type::F32;
            // Only the selector is flushed, and flushing does not change its sign: there is nothing to do.
            let _ = flush;
            Some(Form::new(function, ty).with_sources([ty, ty, selector, ty]))
        }
        "cvta" => {
            // Addresses of the global, constant and parameter spaces are generic ones already.
            let to = opcode.flag("to");
            let space = opcode.choice(&["global", "const", "shared", "shared::cta", "local", "param", "param::entry"])?;
            let ty = opcode.ty()?;
            Some(Form::new(window(space, to)?, ty))
        }
        "isspacep" => {
            let space = opcode.choice(&["global", "const", "shared", "shared::cta", "local", "param"])?;
            let function = match space {
                "global" => Function::One(|a| u64::from(a >> 48 == 0)),
                "shared" | "shared::cta" => Function::One(|a| u64::from(a >> 48 == SHARED_WINDOW >> 48)),
                "local" => Function::One(|a| u64::from(a >> 48 == LOCAL_WINDOW >> 48)),
                "param" => Function::One(|a| u64::from(a >> 48 == PARAM_WINDOW >> 48)),
                _ => Function::One(|_| 0),
            };
            Some(Form::new(function, Type::B64).with_result(Type::Pred))
        }
        "mul24" | "mad24" => twenty_four(opcode),
        "dp4a" => {
            let function = match (opcode.ty()?, opcode.ty()?) {
                (Type::U32, Type::U32) => Function::Three(|a, b, c| dot(a, b, c, |x| i32::from(x as u8), |x| i32::from(x as u8))),
                (Type::S32, Type::S32) => Function::Three(|a, b, c| dot(a, b, c, |x| i32::from(x as i8), |x| i32::from(x as i8))),
                (Type::U32, Type::S32) => Function::Three(|a, b, c| dot(a, b, c, |x| i32::from(x as u8), |x| i32::from(x as i8))),
                (Type::S32, Type::U32) => Function::Three(|a, b, c| dot(a, b, c, |x| i32::from(x as i8), |x| i32::from(x as u8))),
                _ => return None,
            };
            Some(Form::new(function, Type::B32))
        }
        _ => None,
    }
}

/// Where a block's shared memory begins in the generic address space.
pub(crate) const SHARED_WINDOW: u64 = 1 << 48;
/// Where a thread's local memory begins in the generic address space.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 48;
/// Where the kernel's parameters begin in the generic address space.
pub(crate) const PARAM_WINDOW: u64 = 3 << 48;

fn window(space: &str, to: bool) -> Option<Function> {
    Some(match (space, to) {
        ("global" | "const", _) => Function::One(|a| a),
        ("shared" | "shared::cta", false) => Function::One(|a| a + SHARED_WINDOW),
        ("shared" | "shared::cta", true) => Function::One(|a| a.wrapping_sub(SHARED_WINDOW)),
        ("local", false) => Function::One(|a| a + LOCAL_WINDOW),
        ("local", true) => Function::One(|a| a.wrapping_sub(LOCAL_WINDOW)),
        ("param" | "param::entry", false) => Function::One(|a| a + PARAM_WINDOW),
        ("param" | "param::entry", true) => Function::One(|a| a.wrapping_sub(PARAM_WINDOW)),
        _ => return None,
    })
}

fn twenty_four(opcode: &mut Opcode<'_>) -> Option<Form> {
    fn unsigned(a: u64) -> u64 {
        a & 0xff_ffff
    }
    fn signed(a: u64) -> i64 {
        i64::from((a as i32) << 8 >> 8)
    }
    let ty = opcode.ty()?;
    let function = match (opcode.name, opcode.choice(&["lo", "hi"])?, ty) {
        ("mul24", "lo", Type::U32) => Function::Two(|a, b| unsigned(a) * unsigned(b)),
        ("mul24", "hi", Type::U32) => Function::Two(|a, b| unsigned(a) * unsigned(b) >> 16),
        ("mul24", "lo", Type::S32) => Function::Two(|a, b| (signed(a) * signed(b)) as u64),
        ("mul24", "hi", Type::S32) => Function::Two(|a, b| (signed(a) * signed(b) >> 16) as u64),
        ("mad24", "lo", Type::U32) => Function::Three(|a, b, c| (unsigned(a) * unsigned(b)).wrapping_add(c)),
        ("mad24", "hi", Type::U32) => Function::Three(|a, b, c| (unsigned(a) * unsigned(b) >> 16).wrapping_add(c)),
        ("mad24", "lo", Type::S32) => Function::Three(|a, b, c| ((signed(a) * signed(b)) as u64).wrapping_add(c)),
        ("mad24", "hi", Type::S32) => Function::Three(|a, b, c| ((signed(a) * signed(b) >> 16) as u64).wrapping_add(c)),
        _ => return None,
    };
    Some(Form::new(function, ty))
}

fn dot(a: u64, b: u64, c: u64, left: fn(u64) -> i32, right: fn(u64) -> i32) -> u64 {
    let products = [0, 8, 16, 24].map(|shift| left(a >> shift).wrapping_mul(right(b >> shift)));
    products.into_iter().fold(c as i32, i32::wrapping_add) as u64
}
