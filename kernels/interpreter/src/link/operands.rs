//! Operands to registers: names looked up, literals turned into what their instruction's type says.

use super::body::Body;
use super::builder::Builder;
use super::scope::Entity;
use crate::parse::ParseError;
use crate::parse::syntax::{Operand, Space};
use crate::program::{Address, Fill, Predicate, Register, Special};
use crate::semantics::Opcode;
use crate::types::Type;

impl<'a> Body<'_, 'a> {
    /// What a name stands for, here or in the module.
    pub fn entity(&mut self, name: &str) -> Result<Option<Entity>, ParseError> {
        match self.scopes.find(name) {
            Some(entity) => Ok(Some(entity)),
            None => self.builder.symbol(name),
        }
    }

    /// A declared register.
    pub fn register(&mut self, name: &str, opcode: &Opcode<'_>) -> Result<Register, ParseError> {
        match self.scopes.find(name) {
            Some(Entity::Register(register)) => Ok(register),
            _ => Err(ParseError::UnknownName { line: opcode.line, name: name.to_owned() }),
        }
    }

    /// A register that is written; `_` drops the result.
    pub fn destination(&mut self, operand: &Operand<'_>, opcode: &Opcode<'_>) -> Result<Register, ParseError> {
        match operand {
            Operand::Name("_") => Ok(Builder::SINK),
            Operand::Name(name) => self.register(name, opcode),
            _ => Err(opcode.bad_operand("a register is wanted where the result goes")),
        }
    }

    /// `%r1|%p1`, the second part being optional.
    pub fn destinations(&mut self, operand: &Operand<'_>, opcode: &Opcode<'_>) -> Result<[Register; 2], ParseError> {
        match operand {
            Operand::Pair(first, second) => Ok([self.destination(first, opcode)?, self.destination(second, opcode)?]),
            single => Ok([self.destination(single, opcode)?, Builder::SINK]),
        }
    }

    /// A register that is read, or a literal or address put into one.
    pub fn source(&mut self, operand: &Operand<'_>, ty: Type, opcode: &Opcode<'_>) -> Result<Register, ParseError> {
        let line = opcode.line;
        let fill = match *operand {
            Operand::Name("WARP_SZ") => Fill::Constant(32),
            Operand::Name(name) => match self.entity(name)? {
                Some(Entity::Register(register)) => return Ok(register),
                Some(entity) => address_of(entity, 0),
                None => {
                    let special = special(name, None);
                    special.ok_or_else(|| ParseError::UnknownName { line, name: name.to_owned() })?
                }
            },
            Operand::Component(name, component) => special(name, Some(component))
                .ok_or_else(|| ParseError::UnknownName { line, name: format!("{name}.{component}") })?,
            Operand::Sum(name, offset) => match self.entity(name)? {
                None | Some(Entity::Register(_)) => {
                    return Err(ParseError::UnknownName { line, name: name.to_owned() });
                }
                Some(entity) => address_of(entity, offset),
            },
            Operand::Integer(value) if matches!(ty, Type::F32 | Type::F64) => {
                Fill::Constant(float_literal(value as i64 as f64, ty))
            }
            Operand::Integer(value) => Fill::Constant(value),
            Operand::Single(bits) if ty == Type::F64 => Fill::Constant(f64::from(f32::from_bits(bits)).to_bits()),
            Operand::Single(bits) => Fill::Constant(u64::from(bits)),
            Operand::Double(bits) => Fill::Constant(float_literal(f64::from_bits(bits), ty)),
            _ => return Err(opcode.bad_operand("a register or a number is wanted")),
        };
        self.builder.filled(fill, line)
    }

    /// A predicate, perhaps negated.
    pub fn predicate(&mut self, operand: &Operand<'_>, opcode: &Opcode<'_>) -> Result<Predicate, ParseError> {
        match operand {
            Operand::Not(name) => Ok(Predicate { register: self.register(name, opcode)?, negated: true }),
            plain => Ok(Predicate { register: self.source(plain, Type::Pred, opcode)?, negated: false }),
        }
    }

    /// `[base+offset]` in a space. In a function, parameters lie in local memory.
    pub fn address(
        &mut self,
        operand: &Operand<'_>,
        space: Space,
        opcode: &Opcode<'_>,
    ) -> Result<Address, ParseError> {
        let Operand::Address(base, offset) = operand else {
            return Err(opcode.bad_operand("an address in brackets is wanted"));
        };
        let mut space = space;
        if space == Space::Param {
            let local = match **base {
                Operand::Name(name) => match self.entity(name)? {
                    Some(Entity::Register(_)) => self.instance.is_some(),
                    Some(Entity::Local { .. }) => true,
                    _ => false,
                },
                _ => false,
            };
            space = if local { Space::Local } else { Space::Param };
        }
        let base = self.source(base, Type::U64, opcode)?;
        Ok(Address { space, base, offset: *offset })
    }
}

fn address_of(entity: Entity, offset: i64) -> Fill {
    match entity {
        Entity::Variable(number) => Fill::Variable(number, offset),
        Entity::DynamicShared => Fill::DynamicShared(offset),
        Entity::Shared(start) | Entity::Parameter(start) | Entity::Local { offset: start, .. } => {
            Fill::Constant(u64::from(start).wrapping_add(offset as u64))
        }
        Entity::Register(_) => Fill::Constant(0),
    }
}

/// A decimal or double-precision literal in an instruction's own type.
fn float_literal(value: f64, ty: Type) -> u64 {
    match ty {
        Type::F64 | Type::B64 => value.to_bits(),
        _ => u64::from((value as f32).to_bits()),
    }
}

fn special(name: &str, component: Option<&str>) -> Option<Fill> {
    let axis = match component {
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        Some(_) => return None,
        None => None,
    };
    let special = match (name, axis) {
        ("%tid", Some(axis)) => Special::Thread(axis),
        ("%ctaid", Some(axis)) => Special::Block(axis),
        ("%ntid", Some(axis)) => Special::Threads(axis),
        ("%nctaid", Some(axis)) => Special::Blocks(axis),
        ("%laneid", None) => Special::Lane,
        ("%warpid", None) => Special::Warp,
        ("%nwarpid", None) => Special::Warps,
        ("%lanemask_eq", None) => Special::LanesEqual,
        ("%lanemask_lt", None) => Special::LanesBelow,
        ("%lanemask_le", None) => Special::LanesUpTo,
        ("%lanemask_gt", None) => Special::LanesAbove,
        ("%lanemask_ge", None) => Special::LanesFrom,
        ("%smid", None) => Special::Multiprocessor,
        ("%nsmid", None) => Special::Multiprocessors,
        ("%gridid", None) => Special::Grid,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        _ => return None,
    };
    Some(Fill::Special(special))
}
