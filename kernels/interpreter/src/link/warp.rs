//! Instructions by which the threads of a warp talk to each other.

use super::body::Body;
use crate::parse::ParseError;
use crate::parse::syntax::Operand;
use crate::program::{Operation, ShuffleMode, VoteMode};
use crate::semantics::{Function, Opcode};
use crate::types::Type;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    let operation = match (opcode.name, operands) {
        ("activemask", [destination]) => {
            opcode.ty();
            return Ok(Some(Operation::ActiveMask { destination: body.destination(destination, opcode)? }));
        }
        ("shfl", [destination, source, lane, clamp, mask]) => {
            let mode = match opcode.choice(&["up", "down", "bfly", "idx"]) {
                Some("up") => ShuffleMode::Up,
                Some("down") => ShuffleMode::Down,
                Some("bfly") => ShuffleMode::Butterfly,
                Some(_) => ShuffleMode::Index,
                None => return Err(opcode.unknown()),
            };
            opcode.ty().filter(|&ty| ty == Type::B32).ok_or_else(|| opcode.unknown())?;
            let [destination, valid] = body.destinations(destination, opcode)?;
            Operation::Shuffle {
                mode,
                destination,
                valid,
                source: body.source(source, Type::B32, opcode)?,
                lane: body.source(lane, Type::B32, opcode)?,
                clamp: body.source(clamp, Type::B32, opcode)?,
                mask: body.source(mask, Type::B32, opcode)?,
            }
        }
        ("vote", [destination, source, mask]) => {
            let mode = match opcode.choice(&["all", "any", "uni", "ballot"]) {
                Some("all") => VoteMode::All,
                Some("any") => VoteMode::Any,
                Some("uni") => VoteMode::Uniform,
                Some(_) => VoteMode::Ballot,
                None => return Err(opcode.unknown()),
            };
            opcode.ty();
            Operation::Vote {
                mode,
                destination: body.destination(destination, opcode)?,
                source: body.predicate(source, opcode)?,
                mask: body.source(mask, Type::B32, opcode)?,
            }
        }
        ("match", [destination, source, mask]) => {
            let all = opcode.choice(&["all", "any"]).ok_or_else(|| opcode.unknown())? == "all";
            let ty = opcode.ty().filter(|&ty| matches!(ty, Type::B32 | Type::B64)).ok_or_else(|| opcode.unknown())?;
            let [destination, uniform] = body.destinations(destination, opcode)?;
            Operation::Match {
                all,
                bits: ty.bits(),
                destination,
                uniform,
                source: body.source(source, ty, opcode)?,
                mask: body.source(mask, Type::B32, opcode)?,
            }
        }
        ("redux", [destination, source, mask]) => {
            let name = opcode.choice(&["add", "min", "max", "and", "or", "xor"]).ok_or_else(|| opcode.unknown())?;
            let ty = opcode.ty().ok_or_else(|| opcode.unknown())?;
            let function = reduction(name, ty).ok_or_else(|| opcode.unknown())?;
            Operation::Reduce {
                function,
                destination: body.destination(destination, opcode)?,
                source: body.source(source, ty, opcode)?,
                mask: body.source(mask, Type::B32, opcode)?,
            }
        }
        _ => return Ok(None),
    };
    // The forms without `.sync` are gone since Volta.
    if opcode.flag("sync") { Ok(Some(operation)) } else { Err(opcode.unknown()) }
}

fn reduction(name: &str, ty: Type) -> Option<Function> {
    Some(match (name, ty) {
        ("add", Type::U32 | Type::S32) => Function::Two(|a, b| a.wrapping_add(b)),
        ("min", Type::U32) => Function::Two(|a, b| u64::from((a as u32).min(b as u32))),
        ("max", Type::U32) => Function::Two(|a, b| u64::from((a as u32).max(b as u32))),
        ("min", Type::S32) => Function::Two(|a, b| (a as i32).min(b as i32) as u64),
        ("max", Type::S32) => Function::Two(|a, b| (a as i32).max(b as i32) as u64),
        ("and", Type::B32) => Function::Two(|a, b| a & b),
        ("or", Type::B32) => Function::Two(|a, b| a | b),
        ("xor", Type::B32) => Function::Two(|a, b| a ^ b),
        _ => return None,
    })
}
