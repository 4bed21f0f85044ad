//! Atomic operations: `atom` and `red`.

use super::body::Body;
use super::builder::Builder;
use super::memory::scope;
use crate::parse::ParseError;
use crate::parse::syntax::{Operand, Space};
use crate::program::{Access, Atomic, Operation, Order, Scope};
use crate::semantics::{Function, Opcode, double, from_double, from_single, single};
use crate::types::Type;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    let returns = match opcode.name {
        "atom" => true,
        "red" => false,
        _ => return Ok(None),
    };
    let order = opcode.choice(&["relaxed", "acquire", "release", "acq_rel"]).unwrap_or("relaxed");
    let strong = Some(scope(opcode).unwrap_or(Scope::Device));
    let order = Order {
        strong,
        acquire: matches!(order, "acquire" | "acq_rel"),
        release: matches!(order, "release" | "acq_rel"),
    };
    let space = opcode.choice(&["global", "shared", "shared::cta"]).and_then(Space::named).unwrap_or(Space::Generic);
    let names = ["add", "min", "max", "exch", "cas", "inc", "dec", "and", "or", "xor"];
    let name = opcode.choice(&names).ok_or_else(|| opcode.unknown())?;
    opcode.flag("noftz");
    let element = opcode.ty().ok_or_else(|| opcode.unknown())?;
    let function = function(name, element).ok_or_else(|| opcode.unknown())?;
    let (destination, rest) = match (returns, operands) {
        (true, [destination, rest @ ..]) => (body.destination(destination, opcode)?, rest),
        (_, rest) => (Builder::SINK, rest),
    };
    let [address, values @ ..] = rest else { return Err(opcode.bad_operand("an address is wanted")) };
    if values.len() + 1 != function.arity() {
        return Err(opcode.bad_operand(format!("{} values are wanted", function.arity() - 1)));
    }
    let mut sources = [0; 2];
    for (source, value) in sources.iter_mut().zip(values) {
        *source = body.source(value, element, opcode)?;
    }
    let address = body.address(address, space, opcode)?;
    let access = Access { address, element, count: 1, order, non_coherent: false };
    Ok(Some(Operation::Atomic(Atomic { access, function, destination, sources })))
}

/// From the old value and the operands to the new value.
fn function(name: &str, ty: Type) -> Option<Function> {
    use Type::{B32, B64, F16, F16x2, BF16, BF16x2, F32, F64, S32, S64, U32, U64};
    Some(match (name, ty) {
        ("add", U32 | S32 | U64 | S64) => Function::Two(|old, value| old.wrapping_add(value)),
        // The hardware's f32 atomic on global memory flushes; on results of ordinary size both are the same.
        ("add", F32) => Function::Two(|old, value| from_single(single(old) + single(value))),
        ("add", F64) => Function::Two(|old, value| from_double(double(old) + double(value))),
        ("add", F16 | F16x2 | BF16 | BF16x2) => crate::semantics::half_addition(ty)?,
        ("min", U32) => Function::Two(|old, value| u64::from((old as u32).min(value as u32))),
        ("max", U32) => Function::Two(|old, value| u64::from((old as u32).max(value as u32))),
        ("min", S32) => Function::Two(|old, value| (old as i32).min(value as i32) as u64),
        ("max", S32) => Function::Two(|old, value| (old as i32).max(value as i32) as u64),
        ("min", U64) => Function::Two(u64::min),
        ("max", U64) => Function::Two(u64::max),
        ("min", S64) => Function::Two(|old, value| (old as i64).min(value as i64) as u64),
        ("max", S64) => Function::Two(|old, value| (old as i64).max(value as i64) as u64),
        ("and", B32 | B64) => Function::Two(|old, value| old & value),
        ("or", B32 | B64) => Function::Two(|old, value| old | value),
        ("xor", B32 | B64) => Function::Two(|old, value| old ^ value),
        ("exch", B32 | B64) => Function::Two(|_, value| value),
        ("inc", U32) => {
            Function::Two(|old, limit| if old as u32 >= limit as u32 { 0 } else { u64::from(old as u32 + 1) })
        }
        ("dec", U32) => Function::Two(|old, limit| match old as u32 {
            old if old == 0 || old > limit as u32 => limit,
            old => u64::from(old - 1),
        }),
        ("cas", Type::B16) => Function::Three(|old, compare, value| if old as u16 == compare as u16 { value } else { old }),
        ("cas", B32) => Function::Three(|old, compare, value| if old as u32 == compare as u32 { value } else { old }),
        ("cas", B64) => Function::Three(|old, compare, value| if old == compare { value } else { old }),
        _ => return None,
    })
}
