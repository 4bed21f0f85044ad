//! Operations on single bits, bit fields and bytes.

use super::{Form, Function, Opcode};
use crate::types::Type;

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    match opcode.name {
        "popc" | "clz" | "brev" => {
            let ty = opcode.ty()?;
            let function = match (opcode.name, ty) {
                ("popc", Type::B32) => Function::One(|a| u64::from((a as u32).count_ones())),
                ("popc", Type::B64) => Function::One(|a| u64::from(a.count_ones())),
                ("clz", Type::B32) => Function::One(|a| u64::from((a as u32).leading_zeros())),
                ("clz", Type::B64) => Function::One(|a| u64::from(a.leading_zeros())),
                ("brev", Type::B32) => Function::One(|a| u64::from((a as u32).reverse_bits())),
                ("brev", Type::B64) => Function::One(u64::reverse_bits),
                _ => return None,
            };
            Some(Form::new(function, ty))
        }
        "bfe" => {
            let ty = opcode.ty()?;
            let function = match ty {
                Type::U32 => Function::Three(|a, b, c| extract(a & 0xffff_ffff, b, c, 32, false)),
                Type::S32 => Function::Three(|a, b, c| extract(a & 0xffff_ffff, b, c, 32, true)),
                Type::U64 => Function::Three(|a, b, c| extract(a, b, c, 64, false)),
                Type::S64 => Function::Three(|a, b, c| extract(a, b, c, 64, true)),
                _ => return None,
            };
            Some(Form::new(function, ty).with_sources([ty, Type::U32, Type::U32, ty]))
        }
        "bfi" => {
            let ty = opcode.ty()?;
            let function = match ty {
                Type::B32 => Function::Four(|a, b, c, d| insert(a, b, c, d, 32)),
                Type::B64 => Function::Four(|a, b, c, d| insert(a, b, c, d, 64)),
                _ => return None,
            };
            Some(Form::new(function, ty).with_sources([ty, ty, Type::U32, Type::U32]))
        }
        "bfind" => find(opcode),
        "lop3" => {
            let ty = opcode.ty().filter(|&ty| ty == Type::B32)?;
            Some(Form::new(Function::Four(logic), ty))
        }
        "prmt" => {
            let ty = opcode.ty().filter(|&ty| ty == Type::B32)?;
            let function = match opcode.choice(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
                None => Function::Three(permute),
                Some("f4e") => Function::Three(|a, b, c| permute(a, b, [0x3210, 0x4321, 0x5432, 0x6543][c as usize & 3])),
                Some("b4e") => Function::Three(|a, b, c| permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][c as usize & 3])),
                Some("rc8") => Function::Three(|a, b, c| permute(a, b, [0x0000, 0x1111, 0x2222, 0x3333][c as usize & 3])),
                Some("ecl") => Function::Three(|a, b, c| permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][c as usize & 3])),
                Some("ecr") => Function::Three(|a, b, c| permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][c as usize & 3])),
                Some(_) => Function::Three(|a, b, c| permute(a, b, [0x1010, 0x3232, 0x1010, 0x3232][c as usize & 3])),
            };
            Some(Form::new(function, ty))
        }
        "shf" => {
            let function = match (opcode.choice(&["l", "r"])?, opcode.choice(&["clamp", "wrap"])?) {
                ("l", "wrap") => Function::Three(|a, b, c| pair(a, b) << (c & 31) >> 32),
                ("l", _) => Function::Three(|a, b, c| pair(a, b) << (c as u32).min(32) >> 32),
                (_, "wrap") => Function::Three(|a, b, c| pair(a, b) >> (c & 31)),
                _ => Function::Three(|a, b, c| pair(a, b) >> (c as u32).min(32)),
            };
            let ty = opcode.ty().filter(|&ty| ty == Type::B32)?;
            Some(Form::new(function, ty))
        }
        _ => None,
    }
}

fn extract(a: u64, position: u64, length: u64, bits: u64, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let sign_at = (position + length - 1).min(bits - 1);
    let sign = signed && a >> sign_at & 1 == 1;
    let field = if position >= 64 { 0 } else { a >> position };
    let kept = length.min(bits.saturating_sub(position));
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    if sign { field & mask | !mask } else { field & mask }
}

fn insert(a: u64, b: u64, position: u64, length: u64, bits: u64) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 || position >= bits {
        return b;
    }
    let length = length.min(bits - position);
    let mask = (if length >= 64 { u64::MAX } else { (1 << length) - 1 }) << position;
    b & !mask | a << position & mask
}

fn logic(a: u64, b: u64, c: u64, table: u64) -> u64 {
    (0..8).filter(|row| table >> row & 1 == 1).fold(0, |result, row| {
        let pick = |value: u64, bit: u64| if row & bit != 0 { value } else { !value };
        result | pick(a, 4) & pick(b, 2) & pick(c, 1)
    })
}

fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = pair(a, b);
    (0..4).fold(0, |result, place| {
        let choice = selector >> (4 * place) & 0xf;
        let byte = bytes >> (8 * (choice & 7)) & 0xff;
        let byte = if choice & 8 == 0 { byte } else { (byte >> 7) * 0xff };
        result | byte << (8 * place)
    })
}

/// `a` below `b`.
fn pair(a: u64, b: u64) -> u64 {
    a & 0xffff_ffff | b << 32
}

fn find(opcode: &mut Opcode<'_>) -> Option<Form> {
    fn highest(a: u64, bits: u32) -> u64 {
        if a == 0 { 0xffff_ffff } else { u64::from(bits - 1 - (a << (64 - bits)).leading_zeros()) }
    }
    fn shift(a: u64, bits: u32) -> u64 {
        if a == 0 { 0xffff_ffff } else { u64::from((a << (64 - bits)).leading_zeros()) }
    }
    fn signless(a: i64) -> u64 {
        (if a < 0 { !a } else { a }) as u64
    }
    let amount = opcode.flag("shiftamt");
    let ty = opcode.ty()?;
    let function = match (ty, amount) {
        (Type::U32, false) => Function::One(|a| highest(a & 0xffff_ffff, 32)),
        (Type::U32, true) => Function::One(|a| shift(a & 0xffff_ffff, 32)),
        (Type::S32, false) => Function::One(|a| highest(signless(i64::from(a as i32)), 32)),
        (Type::S32, true) => Function::One(|a| shift(signless(i64::from(a as i32)), 32)),
        (Type::U64, false) => Function::One(|a| highest(a, 64)),
        (Type::U64, true) => Function::One(|a| shift(a, 64)),
        (Type::S64, false) => Function::One(|a| highest(signless(a as i64), 64)),
        (Type::S64, true) => Function::One(|a| shift(signless(a as i64), 64)),
        _ => return None,
    };
    Some(Form::new(function, ty).with_result(Type::U32))
}
