//! Floating-point division, reciprocals and square roots.

use super::float::{double, from_double, from_single, single};
use super::rounding::{Direction, quotient_double, quotient_single, root_double, root_single};
use super::{Form, Function, Opcode};
use crate::types::Type;

const ONE_SINGLE: u64 = 0x3f80_0000;
const ONE_DOUBLE: u64 = 0x3ff0_0000_0000_0000;

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    if !matches!(opcode.name, "div" | "rcp" | "sqrt" | "rsqrt") {
        return None;
    }
    let manner = opcode.choice(&["rn", "rz", "rm", "rp", "approx", "full"])?;
    let ty = opcode.ty()?;
    let flush = opcode.flag("ftz");
    let function = match Direction::named(manner) {
        Some(direction) => exact(opcode.name, ty, direction)?,
        None => approximate(opcode.name, ty)?,
    };
    Some(Form { flush: flush && ty == Type::F32, ..Form::new(function, ty) })
}

macro_rules! exact {
    ($name:expr, $ty:expr, $direction:expr) => {
        match ($name, $ty) {
            ("div", Type::F32) => Function::Two(|a, b| quotient_single(a, b, $direction)),
            ("div", Type::F64) => Function::Two(|a, b| quotient_double(a, b, $direction)),
            ("rcp", Type::F32) => Function::One(|a| quotient_single(ONE_SINGLE, a, $direction)),
            ("rcp", Type::F64) => Function::One(|a| quotient_double(ONE_DOUBLE, a, $direction)),
            ("sqrt", Type::F32) => Function::One(|a| root_single(a, $direction)),
            ("sqrt", Type::F64) => Function::One(|a| root_double(a, $direction)),
            _ => return None,
        }
    };
}

fn exact(name: &str, ty: Type, direction: Direction) -> Option<Function> {
    Some(match direction {
        Direction::Nearest => exact!(name, ty, Direction::Nearest),
        Direction::Zero => exact!(name, ty, Direction::Zero),
        Direction::Down => exact!(name, ty, Direction::Down),
        Direction::Up => exact!(name, ty, Direction::Up),
    })
}

/// Within an ulp or two of the hardware's own: the exact result, rounded.
fn approximate(name: &str, ty: Type) -> Option<Function> {
    /// What the hardware's double-precision estimates read and write: the upper half.
    fn upper(bits: u64) -> u64 {
        bits & 0xffff_ffff_0000_0000
    }
    Some(match (name, ty) {
        ("div", Type::F32) => Function::Two(|a, b| from_single(single(a) / single(b))),
        ("rcp", Type::F32) => Function::One(|a| from_single(1.0 / single(a))),
        ("sqrt", Type::F32) => Function::One(|a| from_single(single(a).sqrt())),
        ("rsqrt", Type::F32) => Function::One(|a| from_single((1.0 / f64::from(single(a)).sqrt()) as f32)),
        ("rcp", Type::F64) => Function::One(|a| upper(from_double(1.0 / double(upper(a))))),
        ("rsqrt", Type::F64) => Function::One(|a| upper(from_double(1.0 / double(upper(a)).sqrt()))),
        _ => return None,
    })
}
