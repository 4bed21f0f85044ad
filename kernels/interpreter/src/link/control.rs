//! Branches, exits and the barriers of a block.

use super::body::Body;
use crate::parse::ParseError;
use crate::parse::syntax::Operand;
use crate::program::{Barrier, BarrierAction, Operation};
use crate::semantics::Opcode;
use crate::types::Type;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    Ok(Some(match (opcode.name, operands) {
        ("bra", [Operand::Name(label)]) => {
            opcode.flag("uni");
            body.jump(vec![label], opcode.line);
            Operation::Branch { target: 0 }
        }
        ("brx", [index, Operand::Name(table)]) if opcode.flag("idx") => {
            opcode.flag("uni");
            let scope = body.scopes.current();
            let unknown = || ParseError::UnknownName { line: opcode.line, name: (*table).to_owned() };
            let labels = body.scopes.table(scope, table).ok_or_else(unknown)?;
            let index = body.source(index, Type::U32, opcode)?;
            body.jump(labels.to_vec(), opcode.line);
            Operation::BranchTable { index, targets: Box::default() }
        }
        ("ret", []) => {
            opcode.flag("uni");
            Operation::Return
        }
        ("exit", []) => Operation::Exit,
        ("trap" | "brkpt", []) => Operation::Trap,
        ("nanosleep", [_]) => {
            opcode.ty();
            Operation::Sleep
        }
        ("bar" | "barrier", _) => return barrier(body, opcode, operands),
        _ => return Ok(None),
    }))
}

fn barrier<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    if opcode.flag("warp") {
        let [mask] = operands else { return Err(opcode.bad_operand("a mask is wanted")) };
        let mask = body.source(mask, Type::B32, opcode)?;
        return Ok(opcode.flag("sync").then_some(Operation::WarpBarrier { mask }));
    }
    opcode.flag("cta");
    let aligned = opcode.flag("aligned");
    let action = opcode.choice(&["sync", "arrive", "red"]).ok_or_else(|| opcode.unknown())?;
    let _ = aligned;
    let (number, threads, action) = match (action, operands) {
        ("red", [destination, rest @ .., source]) => {
            let kind = opcode.choice(&["popc", "and", "or"]).ok_or_else(|| opcode.unknown())?;
            opcode.ty();
            let destination = body.destination(destination, opcode)?;
            let source = body.predicate(source, opcode)?;
            let action = match kind {
                "popc" => BarrierAction::Count { destination, source },
                "and" => BarrierAction::All { destination, source },
                _ => BarrierAction::Any { destination, source },
            };
            match rest {
                [number] => (number, None, action),
                [number, threads] => (number, Some(threads), action),
                _ => return Err(opcode.bad_operand("3 or 4 operands are wanted")),
            }
        }
        ("sync", [number]) => (number, None, BarrierAction::Wait),
        ("sync", [number, threads]) => (number, Some(threads), BarrierAction::Wait),
        ("arrive", [number, threads]) => (number, Some(threads), BarrierAction::Arrive),
        _ => return Err(opcode.bad_operand("1 or 2 operands are wanted")),
    };
    let number = body.source(number, Type::U32, opcode)?;
    let threads = match threads {
        None => None,
        Some(threads) => Some(body.source(threads, Type::U32, opcode)?),
    };
    Ok(Some(Operation::Barrier(Barrier { number, threads, action })))
}
