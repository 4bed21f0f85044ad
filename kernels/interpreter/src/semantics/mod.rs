//! What each computing instruction does to one thread's operands: an opcode with its modifiers becomes a [`Form`].
//!
//! Registers are 64 bits wide. An operand's bits above its type are noise: each function here masks what it reads.

mod approximate;
mod arithmetic;
mod bits;
mod carry;
mod compare;
mod convert;
mod divide;
mod float;
mod half_precision;
mod integer;
mod integer_extra;
mod opcode;
mod rounding;
#[cfg(test)]
mod tests;

pub(crate) use carry::{Carrying, carrying};
pub(crate) use compare::{Combine, comparison};
use convert::Conversion;
pub(crate) use integer_extra::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
pub(crate) use opcode::Opcode;
pub(crate) use float::{double, from_double, from_single, saturate_single, single};

use crate::parse::ParseError;
use crate::types::Type;

/// A pure function of an instruction's operands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    One(fn(u64) -> u64),
    Two(fn(u64, u64) -> u64),
    Three(fn(u64, u64, u64) -> u64),
    Four(fn(u64, u64, u64, u64) -> u64),
    Convert(Conversion),
}

impl Function {
    pub fn arity(self) -> usize {
        match self {
            Function::One(_) | Function::Convert(_) => 1,
            Function::Two(_) => 2,
            Function::Three(_) => 3,
            Function::Four(_) => 4,
        }
    }
}

/// What a computing instruction does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub function: Function,
    /// The operands' types, for literals and for flushing.
    pub sources: [Type; 4],
    pub result: Type,
    /// Single-precision subnormals count as zero, in operands and result (`.ftz`).
    pub flush: bool,
    /// The floating-point result is clamped to [0, 1] (`.sat`).
    pub saturate: bool,
}

impl Form {
    fn new(function: Function, ty: Type) -> Form {
        Form { function, sources: [ty; 4], result: ty, flush: false, saturate: false }
    }

    fn with_sources(self, sources: [Type; 4]) -> Form {
        Form { sources, ..self }
    }

    fn with_result(self, result: Type) -> Form {
        Form { result, ..self }
    }
}

/// The form of a computing instruction, or `None` where the opcode is of another kind.
///
/// # Errors
/// [`ParseError::UnknownModifier`] where a modifier is left over, [`ParseError::UnknownOpcode`] where the opcode exists
/// but not with these types.
pub(crate) fn form(opcode: &mut Opcode<'_>) -> Result<Option<Form>, ParseError> {
    let families = [
        arithmetic::form,
        integer::form,
        integer_extra::form,
        bits::form,
        divide::form,
        approximate::form,
        compare::form,
        convert::form,
    ];
    for family in families {
        let mut attempt = opcode.clone();
        if let Some(form) = family(&mut attempt) {
            *opcode = attempt;
            opcode.finish()?;
            return Ok(Some(form));
        }
    }
    Ok(None)
}

/// The addition of a sixteen-bit float type.
pub(crate) fn half_addition(ty: Type) -> Option<Function> {
    half_precision::function("add", ty, false, false)
}

/// Flushes a single-precision subnormal to zero with its sign.
pub(crate) fn flush_single(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}
