//! `set` on sixteen-bit floats and their pairs: 1.0 in their own type where the relation holds.

use half::{bf16, f16};

use super::half_precision::Half;
use super::{Form, Function, Opcode};
use crate::types::Type;

const RELATIONS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    if opcode.name != "set" {
        return None;
    }
    let relation = opcode.choice(&RELATIONS)?;
    let relation = RELATIONS.iter().position(|name| *name == relation)?;
    let (result, ty) = (opcode.ty()?, opcode.ty()?);
    if result != ty {
        return None;
    }
    let function = match ty {
        Type::F16 => single::<f16>(relation)?,
        Type::BF16 => single::<bf16>(relation)?,
        Type::F16x2 => pair::<f16>(relation)?,
        Type::BF16x2 => pair::<bf16>(relation)?,
        _ => return None,
    };
    Some(Form::new(function, ty))
}

/// Whether a relation, by its place in [`RELATIONS`], holds.
fn holds<const RELATION: usize>(a: f64, b: f64) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match RELATION {
        0 => a == b,
        1 => a != b && !unordered,
        2 => a < b,
        3 => a <= b,
        4 => a > b,
        5 => a >= b,
        6 => a == b || unordered,
        7 => a != b,
        8 => a < b || unordered,
        9 => a <= b || unordered,
        10 => a > b || unordered,
        11 => a >= b || unordered,
        12 => !unordered,
        _ => unordered,
    }
}

fn set<H: Half, const RELATION: usize>(a: u64, b: u64) -> u64 {
    H::narrow(f64::from(u8::from(holds::<RELATION>(H::wide(a), H::wide(b)))))
}

fn set_both<H: Half, const RELATION: usize>(a: u64, b: u64) -> u64 {
    set::<H, RELATION>(a, b) | set::<H, RELATION>(a >> 16, b >> 16) << 16
}

macro_rules! by_relation {
    ($name:ident, $function:ident, $($relation:literal)*) => {
        fn $name<H: Half>(relation: usize) -> Option<Function> {
            match relation {
                $($relation => Some(Function::Two($function::<H, $relation>)),)*
                _ => None,
            }
        }
    };
}

by_relation!(single, set, 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
by_relation!(pair, set_both, 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
