//! Floating-point addition, multiplication, fused multiply-add, extremes and signs.

use super::float::{
    double, from_double, from_single, maximum_double, maximum_single, minimum_double, minimum_single, single,
};
use super::rounding::{Direction, fused_double, fused_single};
use super::{Form, Function, Opcode, half_precision};
use crate::types::Type;

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    let ty = opcode.ty().filter(|ty| ty.is_float())?;
    let name = match opcode.name {
        "mad" => "fma",
        name => name,
    };
    if matches!(name, "ex2" | "tanh") && !opcode.flag("approx") {
        return None;
    }
    let rounded = matches!(name, "add" | "sub" | "mul" | "fma");
    let direction = match rounded.then(|| opcode.choice(&["rn", "rz", "rm", "rp"])).flatten() {
        None => Direction::Nearest,
        Some(name) => Direction::named(name)?,
    };
    let nan = matches!(name, "min" | "max") && opcode.flag("NaN");
    let function = match (ty, direction) {
        (Type::F32, _) if nan => nan_extreme(name)?,
        (Type::F32, Direction::Nearest) => nearest_single(name)?,
        (Type::F32, _) => directed_single(name, direction)?,
        (Type::F64, Direction::Nearest) => nearest_double(name)?,
        (Type::F64, _) => directed_double(name, direction)?,
        (_, Direction::Nearest) => half_precision::function(name, ty, nan, opcode.flag("relu"))?,
        _ => return None,
    };
    let single_precision = ty == Type::F32;
    let flush = single_precision && opcode.flag("ftz");
    let saturate = rounded && single_precision && opcode.flag("sat");
    Some(Form { flush, saturate, ..Form::new(function, ty) })
}

fn nearest_single(name: &str) -> Option<Function> {
    Some(match name {
        "add" => Function::Two(|a, b| from_single(single(a) + single(b))),
        "sub" => Function::Two(|a, b| from_single(single(a) - single(b))),
        "mul" => Function::Two(|a, b| from_single(single(a) * single(b))),
        "fma" => Function::Three(|a, b, c| from_single(single(a).mul_add(single(b), single(c)))),
        "min" => Function::Two(|a, b| from_single(minimum_single(single(a), single(b)))),
        "max" => Function::Two(|a, b| from_single(maximum_single(single(a), single(b)))),
        "abs" => Function::One(|a| a & 0x7fff_ffff),
        "neg" => Function::One(|a| a ^ 0x8000_0000),
        "copysign" => Function::Two(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        _ => return None,
    })
}

fn nan_extreme(name: &str) -> Option<Function> {
    fn either_nan(a: u64, b: u64) -> bool {
        single(a).is_nan() || single(b).is_nan()
    }
    Some(match name {
        "min" => Function::Two(|a, b| {
            if either_nan(a, b) { 0x7fff_ffff } else { from_single(minimum_single(single(a), single(b))) }
        }),
        _ => Function::Two(|a, b| {
            if either_nan(a, b) { 0x7fff_ffff } else { from_single(maximum_single(single(a), single(b))) }
        }),
    })
}

fn nearest_double(name: &str) -> Option<Function> {
    Some(match name {
        "add" => Function::Two(|a, b| from_double(double(a) + double(b))),
        "sub" => Function::Two(|a, b| from_double(double(a) - double(b))),
        "mul" => Function::Two(|a, b| from_double(double(a) * double(b))),
        "fma" => Function::Three(|a, b, c| from_double(double(a).mul_add(double(b), double(c)))),
        "min" => Function::Two(|a, b| from_double(minimum_double(double(a), double(b)))),
        "max" => Function::Two(|a, b| from_double(maximum_double(double(a), double(b)))),
        "abs" => Function::One(|a| a & !(1 << 63)),
        "neg" => Function::One(|a| a ^ 1 << 63),
        "copysign" => Function::Two(|a, b| a & 1 << 63 | b & !(1 << 63)),
        _ => return None,
    })
}

const ONE_SINGLE: u64 = 0x3f80_0000;
const ONE_DOUBLE: u64 = 0x3ff0_0000_0000_0000;

/// One function for each operation and direction, all through the fused form: `a + b` is `a * 1 + b`, and adding a
/// zero of the product's own sign leaves the product as it is.
macro_rules! directed {
    ($name:ident, $fused:ident, $one:expr, $sign:expr) => {
        fn $name(name: &str, direction: Direction) -> Option<Function> {
            fn product(a: u64, b: u64, direction: Direction) -> u64 {
                $fused(a, b, (a ^ b) & $sign, direction)
            }
            macro_rules! each {
                ($direction:expr) => {
                    match name {
                        "add" => Function::Two(|a, b| $fused(a, $one, b, $direction)),
                        "sub" => Function::Two(|a, b| $fused(a, $one, b ^ $sign, $direction)),
                        "mul" => Function::Two(|a, b| product(a, b, $direction)),
                        "fma" => Function::Three(|a, b, c| $fused(a, b, c, $direction)),
                        _ => return None,
                    }
                };
            }
            Some(match direction {
                Direction::Nearest => each!(Direction::Nearest),
                Direction::Zero => each!(Direction::Zero),
                Direction::Down => each!(Direction::Down),
                Direction::Up => each!(Direction::Up),
            })
        }
    };
}

directed!(directed_single, fused_single, ONE_SINGLE, 0x8000_0000_u64);
directed!(directed_double, fused_double, ONE_DOUBLE, 1_u64 << 63);
