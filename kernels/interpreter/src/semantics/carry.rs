//! Extended precision: additions and subtractions that write or read the carry.

use super::Opcode;
use crate::types::Type;

/// An operation with a carry: `(a, b, c, carry in)` to the result and the carry out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carrying {
    pub function: fn(u64, u64, u64, u64) -> (u64, u64),
    pub arity: usize,
    pub writes: bool,
    pub ty: Type,
}

/// The carrying operation of an opcode, or `None` where it is an ordinary one.
pub(crate) fn carrying(opcode: &mut Opcode<'_>) -> Option<Carrying> {
    let mut attempt = opcode.clone();
    let writes = attempt.flag("cc");
    let half = attempt.choice(&["lo", "hi"]);
    let ty = attempt.ty()?;
    if !writes && !matches!(attempt.name, "addc" | "subc" | "madc") {
        return None;
    }
    type Operation = fn(u64, u64, u64, u64) -> (u64, u64);
    let (arity, function): (usize, Operation) = match (attempt.name, half, ty) {
        ("add", None, Type::U32 | Type::S32) => (2, |a, b, _, _| add_32(a, b, 0)),
        ("addc", None, Type::U32 | Type::S32) => (2, |a, b, _, carry| add_32(a, b, carry)),
        ("sub", None, Type::U32 | Type::S32) => (2, |a, b, _, _| subtract_32(a, b, 0)),
        ("subc", None, Type::U32 | Type::S32) => (2, |a, b, _, carry| subtract_32(a, b, carry)),
        ("add", None, Type::U64 | Type::S64) => (2, |a, b, _, _| add_64(a, b, 0)),
        ("addc", None, Type::U64 | Type::S64) => (2, |a, b, _, carry| add_64(a, b, carry)),
        ("sub", None, Type::U64 | Type::S64) => (2, |a, b, _, _| subtract_64(a, b, 0)),
        ("subc", None, Type::U64 | Type::S64) => (2, |a, b, _, carry| subtract_64(a, b, carry)),
        ("mad", Some("lo"), Type::U32 | Type::S32) => (3, |a, b, c, _| add_32((a & LOW) * (b & LOW), c, 0)),
        ("madc", Some("lo"), Type::U32 | Type::S32) => (3, |a, b, c, carry| add_32((a & LOW) * (b & LOW), c, carry)),
        ("mad", Some("hi"), Type::U32) => (3, |a, b, c, _| add_32((a & LOW) * (b & LOW) >> 32, c, 0)),
        ("madc", Some("hi"), Type::U32) => (3, |a, b, c, carry| add_32((a & LOW) * (b & LOW) >> 32, c, carry)),
        ("mad", Some("lo"), Type::U64 | Type::S64) => (3, |a, b, c, _| add_64(a.wrapping_mul(b), c, 0)),
        ("madc", Some("lo"), Type::U64 | Type::S64) => (3, |a, b, c, carry| add_64(a.wrapping_mul(b), c, carry)),
        ("mad", Some("hi"), Type::U64) => (3, |a, b, c, _| add_64(high_64(a, b), c, 0)),
        ("madc", Some("hi"), Type::U64) => (3, |a, b, c, carry| add_64(high_64(a, b), c, carry)),
        _ => return None,
    };
    *opcode = attempt;
    Some(Carrying { function, arity, writes, ty })
}

const LOW: u64 = 0xffff_ffff;

fn add_32(a: u64, b: u64, carry: u64) -> (u64, u64) {
    let sum = (a & LOW) + (b & LOW) + carry;
    (sum & LOW, sum >> 32)
}

fn subtract_32(a: u64, b: u64, borrow: u64) -> (u64, u64) {
    let difference = (a & LOW).wrapping_sub(b & LOW).wrapping_sub(borrow);
    (difference & LOW, difference >> 63)
}

fn add_64(a: u64, b: u64, carry: u64) -> (u64, u64) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    (sum as u64, (sum >> 64) as u64)
}

fn subtract_64(a: u64, b: u64, borrow: u64) -> (u64, u64) {
    let difference = u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(u128::from(borrow));
    (difference as u64, (difference >> 127) as u64)
}

fn high_64(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) >> 64) as u64
}
