//! Calls of device functions.

use super::body::Body;
use super::scope::Entity;
use crate::parse::ParseError;
use crate::parse::syntax::Operand;
use crate::program::{Call, Copy, Operation};
use crate::semantics::Opcode;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    if opcode.name != "call" {
        return Ok(None);
    }
    opcode.flag("uni");
    let (results, name, arguments): (&[Operand<'a>], _, &[Operand<'a>]) = match operands {
        [Operand::Name(name)] => (&[], *name, &[]),
        [Operand::Name(name), Operand::List(arguments)] => (&[], *name, arguments),
        [Operand::List(results), Operand::Name(name)] => (results, *name, &[]),
        [Operand::List(results), Operand::Name(name), Operand::List(arguments)] => (results, *name, arguments),
        _ => return Err(opcode.bad_operand("only calls of a named function are supported")),
    };
    if name == "__assertfail" {
        return Ok(Some(Operation::Trap));
    }
    let callee = body.builder.callee(name, opcode.line)?;
    if let Some(instance) = body.instance {
        body.builder.instances[instance].calls.push(callee);
    }
    let formal_results = body.builder.instances[callee].returns.clone();
    let formal_parameters = body.builder.instances[callee].parameters.clone();
    let arguments = places(body, opcode, arguments, &formal_parameters)?
        .map(|((from, bytes), to)| Copy { from, to, bytes })
        .collect();
    let results =
        places(body, opcode, results, &formal_results)?.map(|((to, bytes), from)| Copy { from, to, bytes }).collect();
    Ok(Some(Operation::Call(Box::new(Call { target: callee as u32, arguments, results }))))
}

/// Each actual parameter's place and length with its formal one's place.
fn places<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'_>,
    actual: &[Operand<'a>],
    formal: &[(u32, u32)],
) -> Result<impl Iterator<Item = ((u32, u32), u32)>, ParseError> {
    if actual.len() != formal.len() {
        return Err(opcode.bad_operand(format!("{} parameters are wanted", formal.len())));
    }
    let mut found = Vec::new();
    for (operand, &(to, length)) in actual.iter().zip(formal) {
        let entity = match operand {
            Operand::Name(name) => body.entity(name)?,
            _ => None,
        };
        match entity {
            Some(Entity::Local { offset, bytes }) if bytes == length => found.push(((offset, bytes), to)),
            Some(Entity::Local { .. }) => return Err(opcode.bad_operand("a parameter differs in size")),
            _ => return Err(opcode.bad_operand("only `.param` variables are passed")),
        }
    }
    Ok(found.into_iter())
}
