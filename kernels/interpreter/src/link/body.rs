//! One function's statements into instructions.

use super::builder::Builder;
use super::scope::{Entity, Scopes};
use super::{atomic, call, compute, control, memory, warp};
use crate::parse::ParseError;
use crate::parse::syntax::{self, Function, Space, Statement};
use crate::program::{Guard, Instruction, Operation};
use crate::semantics::Opcode;

/// A function being decoded.
pub(super) struct Body<'b, 'a> {
    pub builder: &'b mut Builder<'a>,
    pub scopes: Scopes<'a>,
    /// The number of the function's instance; `None` for the kernel itself.
    pub instance: Option<usize>,
    /// The register that holds the carry of extended-precision arithmetic.
    pub carry: Option<u32>,
    jumps: Vec<Jump<'a>>,
}

/// A branch whose labels are looked up when all are known.
struct Jump<'a> {
    at: usize,
    scope: usize,
    labels: Vec<&'a str>,
    line: u32,
}

impl<'b, 'a> Body<'b, 'a> {
    /// Decodes a function onto the end of the program. `parameters` are its own names.
    pub fn build(
        builder: &'b mut Builder<'a>,
        function: &'a Function<'a>,
        parameters: &[(&'a str, Entity)],
        instance: Option<usize>,
    ) -> Result<(), ParseError> {
        let mut body = Body { builder, scopes: Scopes::new(), instance, carry: None, jumps: Vec::new() };
        for &(name, entity) in parameters {
            body.declare(name, entity, function.line)?;
        }
        let statements = function.body.as_deref().unwrap_or_default();
        for statement in statements {
            body.statement(statement)?;
        }
        // A body may end without saying so.
        body.builder.code.push(Instruction { operation: Operation::Return, guard: None, line: function.line });
        body.resolve_jumps()
    }

    fn declare(&mut self, name: &'a str, entity: Entity, line: u32) -> Result<(), ParseError> {
        if self.scopes.declare(name, entity) {
            return Ok(());
        }
        Err(ParseError::Duplicate { line, name: name.to_owned() })
    }

    fn statement(&mut self, statement: &'a Statement<'a>) -> Result<(), ParseError> {
        match statement {
            Statement::Open => self.scopes.open(),
            Statement::Close => self.scopes.close(),
            Statement::Label(name) => {
                let target = self.builder.code.len() as u32;
                if !self.scopes.declare_label(name, target) {
                    return Err(ParseError::Duplicate { line: 0, name: (*name).to_owned() });
                }
            }
            Statement::Targets { label, targets } => {
                if !self.scopes.declare_table(label, targets) {
                    return Err(ParseError::Duplicate { line: 0, name: (*label).to_owned() });
                }
            }
            Statement::Registers { name, count } => {
                let first = self.builder.new_registers(count.unwrap_or(1), 0)?;
                match count {
                    Some(count) => self.scopes.declare_range(name, first, *count),
                    None => self.declare(name, Entity::Register(first), 0)?,
                }
            }
            Statement::Variable(variable) => {
                let entity = match variable.space {
                    Space::Shared => self.builder.shared_variable(variable)?,
                    Space::Local | Space::Param => {
                        let (offset, bytes) = self.builder.local_variable(variable)?;
                        Entity::Local { offset, bytes }
                    }
                    _ => {
                        return Err(ParseError::syntax(
                            variable.line,
                            format!("`{}` must be declared outside functions", variable.name),
                        ));
                    }
                };
                self.declare(variable.name, entity, variable.line)?;
            }
            Statement::Instruction(instruction) => self.instruction(instruction)?,
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &'a syntax::Instruction<'a>) -> Result<(), ParseError> {
        let line = instruction.line;
        let mut opcode = Opcode::new(line, instruction.opcode, &instruction.modifiers);
        let guard = match instruction.guard {
            None => None,
            Some((name, negated)) => Some(Guard { register: self.register(name, &opcode)?, negated }),
        };
        let operands = &instruction.operands;
        let families = [control::decode, call::decode, memory::decode, atomic::decode, warp::decode, compute::decode];
        for family in families {
            let decoded = family(self, &mut opcode, operands)?;
            if let Some(operation) = decoded {
                opcode.finish()?;
                self.builder.code.push(Instruction { operation, guard, line });
                return Ok(());
            }
        }
        Err(opcode.unknown())
    }

    /// Remembers that the instruction about to be added jumps to these labels.
    pub fn jump(&mut self, labels: Vec<&'a str>, line: u32) {
        self.jumps.push(Jump { at: self.builder.code.len(), scope: self.scopes.current(), labels, line });
    }

    fn resolve_jumps(&mut self) -> Result<(), ParseError> {
        for jump in &self.jumps {
            let mut found = Vec::with_capacity(jump.labels.len());
            for label in &jump.labels {
                let unknown = || ParseError::UnknownName { line: jump.line, name: (*label).to_owned() };
                found.push(self.scopes.label(jump.scope, label).ok_or_else(unknown)?);
            }
            match &mut self.builder.code[jump.at].operation {
                Operation::Branch { target } => *target = found[0],
                Operation::BranchTable { targets, .. } => *targets = found.into(),
                _ => {}
            }
        }
        Ok(())
    }
}
