//! Instructions that compute: everything that [`crate::semantics`] knows, packing, and comparisons.

use super::body::Body;
use crate::parse::ParseError;
use crate::parse::syntax::Operand;
use crate::program::{Compute, Operation, Register};
use crate::semantics::{Opcode, carrying, comparison, form};
use crate::types::Type;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    match (opcode.name, operands) {
        ("mov", [Operand::Vector(parts), source]) => unpack(body, opcode, parts, source).map(Some),
        ("mov", [destination, Operand::Vector(parts)]) => pack(body, opcode, destination, parts).map(Some),
        ("mov", [destination, Operand::Name("%clock" | "%clock64" | "%globaltimer" | "%clock_hi" | "%globaltimer_lo")]) => {
            opcode.ty();
            Ok(Some(Operation::Clock { destination: body.destination(destination, opcode)? }))
        }
        ("setp", _) => compare(body, opcode, operands).map(Some),
        _ => match carrying(opcode) {
            Some(carrying) => {
                let [destination, sources @ ..] = operands else { return Err(count(opcode, carrying.arity + 1)) };
                if sources.len() != carrying.arity {
                    return Err(count(opcode, carrying.arity + 1));
                }
                let mut registers = [0; 3];
                for (register, operand) in registers.iter_mut().zip(sources) {
                    *register = body.source(operand, carrying.ty, opcode)?;
                }
                let carry = match body.carry {
                    Some(register) => register,
                    None => *body.carry.insert(body.builder.new_registers(1, opcode.line)?),
                };
                let destination = body.destination(destination, opcode)?;
                Ok(Some(Operation::Carry { carrying, sources: registers, destination, carry }))
            }
            None => compute(body, opcode, operands),
        },
    }
}

fn count(opcode: &Opcode<'_>, wanted: usize) -> ParseError {
    opcode.bad_operand(format!("{wanted} operands are wanted"))
}

fn compute<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    let Some(form) = form(opcode)? else { return Ok(None) };
    let [destination, sources @ ..] = operands else { return Err(count(opcode, form.function.arity() + 1)) };
    if sources.len() != form.function.arity() {
        return Err(count(opcode, form.function.arity() + 1));
    }
    let mut registers = [0; 4];
    let mut flush_sources = 0;
    for (index, (register, operand)) in registers.iter_mut().zip(sources).enumerate() {
        let ty = form.sources[index];
        *register = body.source(operand, ty, opcode)?;
        flush_sources |= u8::from(form.flush && ty == Type::F32) << index;
    }
    Ok(Some(Operation::Compute(Compute {
        function: form.function,
        destination: body.destination(destination, opcode)?,
        sources: registers,
        flush_sources,
        flush_result: form.flush && form.result == Type::F32,
        saturate: form.saturate,
    })))
}

fn compare<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Operation, ParseError> {
    let comparison = comparison(opcode).ok_or_else(|| opcode.unknown())?;
    let (destination, a, b, third) = match (operands, comparison.combine) {
        ([destination, a, b], None) => (destination, a, b, None),
        ([destination, a, b, third], Some(combine)) => (destination, a, b, Some((combine, third))),
        (_, combine) => return Err(count(opcode, 3 + usize::from(combine.is_some()))),
    };
    let ty = comparison.form.sources[0];
    let sources = [body.source(a, ty, opcode)?, body.source(b, ty, opcode)?];
    let combine = match third {
        None => None,
        Some((combine, operand)) => Some((combine, body.predicate(operand, opcode)?)),
    };
    let [destination, complement] = body.destinations(destination, opcode)?;
    let (function, flush) = (comparison.form.function, comparison.form.flush);
    Ok(Operation::Compare { function, flush, sources, combine, destination, complement })
}

fn part_bits(opcode: &mut Opcode<'_>, parts: usize) -> Result<u32, ParseError> {
    let ty = opcode.ty().ok_or_else(|| opcode.unknown())?;
    let bits = ty.bits();
    if !matches!(parts, 2 | 4) || bits / (parts as u32) < 8 {
        return Err(opcode.bad_operand(format!("{bits} bits do not divide into {parts} registers")));
    }
    Ok(bits / parts as u32)
}

fn pack<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    destination: &Operand<'a>,
    parts: &[Operand<'a>],
) -> Result<Operation, ParseError> {
    let bits = part_bits(opcode, parts.len())?;
    let parts: Result<Box<[Register]>, _> = parts.iter().map(|part| body.source(part, Type::B64, opcode)).collect();
    Ok(Operation::Pack { destination: body.destination(destination, opcode)?, parts: parts?, bits })
}

fn unpack<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    parts: &[Operand<'a>],
    source: &Operand<'a>,
) -> Result<Operation, ParseError> {
    let bits = part_bits(opcode, parts.len())?;
    let source = body.source(source, Type::B64, opcode)?;
    let destinations: Result<Box<[Register]>, _> = parts.iter().map(|part| body.destination(part, opcode)).collect();
    Ok(Operation::Unpack { destinations: destinations?, source, bits })
}
