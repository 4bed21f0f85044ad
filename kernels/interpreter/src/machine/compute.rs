//! Pure computations on a warp's registers.

use super::{LANES, lanes};
use crate::program::{Compute, Predicate, Register};
use crate::semantics::{Carrying, Combine, Function, flush_single, saturate_single};

type Lanes = [u64; LANES];

/// Applies a function to the lanes of a mask.
#[inline]
fn apply(function: Function, mask: u32, sources: [&Lanes; 4], result: &mut Lanes) {
    let [a, b, c, d] = sources;
    macro_rules! each {
        (|$lane:ident| $value:expr) => {
            if mask == u32::MAX {
                for $lane in 0..LANES {
                    result[$lane] = $value;
                }
            } else {
                for $lane in lanes(mask) {
                    result[$lane] = $value;
                }
            }
        };
    }
    match function {
        Function::One(f) => each!(|lane| f(a[lane])),
        Function::Two(f) => each!(|lane| f(a[lane], b[lane])),
        Function::Three(f) => each!(|lane| f(a[lane], b[lane], c[lane])),
        Function::Four(f) => each!(|lane| f(a[lane], b[lane], c[lane], d[lane])),
        Function::Convert(conversion) => each!(|lane| conversion.apply(a[lane])),
    }
}

const UNUSED: Lanes = [0; LANES];

pub(super) fn compute(registers: &mut [Lanes], operation: &Compute, mask: u32) {
    let arity = operation.function.arity();
    let take = |index: usize, registers: &[Lanes]| {
        if index < arity { registers[operation.sources[index] as usize] } else { UNUSED }
    };
    let mut a = take(0, registers);
    let mut b = if arity > 1 { take(1, registers) } else { UNUSED };
    let mut c = if arity > 2 { take(2, registers) } else { UNUSED };
    let d = if arity > 3 { take(3, registers) } else { UNUSED };
    if operation.flush_sources != 0 {
        for (index, source) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
            if operation.flush_sources >> index & 1 == 1 {
                source.iter_mut().for_each(|bits| *bits = flush_single(*bits));
            }
        }
    }
    let result = &mut registers[operation.destination as usize];
    apply(operation.function, mask, [&a, &b, &c, &d], result);
    if operation.flush_result || operation.saturate {
        for lane in lanes(mask) {
            if operation.saturate {
                result[lane] = saturate_single(result[lane]);
            }
            if operation.flush_result {
                result[lane] = flush_single(result[lane]);
            }
        }
    }
}

/// A comparison's operands and results.
pub(super) struct Compare {
    pub function: Function,
    pub flush: bool,
    pub sources: [Register; 2],
    pub combine: Option<(Combine, Predicate)>,
    pub destination: Register,
    pub complement: Register,
}

pub(super) fn compare(registers: &mut [Lanes], operation: &Compare, mask: u32) {
    let [mut a, mut b] = operation.sources.map(|source| registers[source as usize]);
    if operation.flush {
        a.iter_mut().chain(&mut b).for_each(|bits| *bits = flush_single(*bits));
    }
    let mut result = UNUSED;
    apply(operation.function, mask, [&a, &b, &UNUSED, &UNUSED], &mut result);
    let third = operation.combine.map(|(combine, predicate)| {
        (combine, registers[predicate.register as usize], u64::from(predicate.negated))
    });
    for lane in lanes(mask) {
        let (holds, fails) = (result[lane], result[lane] ^ 1);
        let (holds, fails) = match &third {
            None => (holds, fails),
            Some((combine, third, negated)) => {
                let third = (third[lane] & 1) ^ negated;
                (combine.apply(holds, third), combine.apply(fails, third))
            }
        };
        // Where both results go to one place the first is the one that stays.
        registers[operation.complement as usize][lane] = fails;
        registers[operation.destination as usize][lane] = holds;
    }
}

pub(super) fn carry(
    registers: &mut [Lanes],
    carrying: &Carrying,
    sources: [Register; 3],
    destination: Register,
    carry: Register,
    mask: u32,
) {
    for lane in lanes(mask) {
        let [a, b, c] = sources.map(|source| registers[source as usize][lane]);
        let (result, out) = (carrying.function)(a, b, c, registers[carry as usize][lane]);
        registers[destination as usize][lane] = result;
        if carrying.writes {
            registers[carry as usize][lane] = out;
        }
    }
}

pub(super) fn pack(registers: &mut [Lanes], destination: Register, parts: &[Register], bits: u32, mask: u32) {
    let low = (1_u64 << bits) - 1;
    for lane in lanes(mask) {
        let packed = parts.iter().rev().fold(0, |packed, &part| packed << bits | registers[part as usize][lane] & low);
        registers[destination as usize][lane] = packed;
    }
}

pub(super) fn unpack(registers: &mut [Lanes], destinations: &[Register], source: Register, bits: u32, mask: u32) {
    let low = (1_u64 << bits) - 1;
    for lane in lanes(mask) {
        let packed = registers[source as usize][lane];
        for (index, &destination) in destinations.iter().enumerate() {
            registers[destination as usize][lane] = packed >> (bits * index as u32) & low;
        }
    }
}
