//! A program under construction: registers, constants, memory layouts, and the functions still to be added.

use rustc_hash::FxHashMap;

use super::body::Body;
use super::scope::Entity;
use crate::parse::ParseError;
use crate::parse::syntax::{Function, Source, Space, Variable};
use crate::program::{Fill, Instruction, Kernel, Layout, Operation, Register};

/// Bytes left between two variables, so that running over the end of one does not reach the next.
const GUARD: u32 = 64;
const LIMIT: u32 = 1 << 28;

/// A function placed into the program.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    pub function: &'a Function<'a>,
    /// The first instruction, once it is there.
    pub entry: u32,
    pub returns: Vec<(u32, u32)>,
    pub parameters: Vec<(u32, u32)>,
    pub calls: Vec<usize>,
}

pub(super) struct Builder<'a> {
    source: &'a Source<'a>,
    pub(super) code: Vec<Instruction>,
    registers: u32,
    fills: FxHashMap<Fill, Register>,
    shared: Layout,
    local: Layout,
    parameters: Layout,
    symbols: FxHashMap<&'a str, Symbol<'a>>,
    pub(super) instances: Vec<Instance<'a>>,
    by_name: FxHashMap<&'a str, usize>,
}

#[derive(Clone, Copy)]
enum Symbol<'a> {
    Variable(usize),
    /// A shared variable of the module, given its place when first used.
    Shared(&'a Variable<'a>),
    Placed(Entity),
}

impl<'a> Builder<'a> {
    pub fn new(source: &'a Source<'a>) -> Result<Self, ParseError> {
        let mut symbols = FxHashMap::default();
        let mut number = 0;
        for variable in &source.variables {
            let symbol = match variable.space {
                Space::Global | Space::Const => {
                    number += 1;
                    Symbol::Variable(number - 1)
                }
                _ => Symbol::Shared(variable),
            };
            if symbols.insert(variable.name, symbol).is_some() {
                return Err(ParseError::Duplicate { line: variable.line, name: variable.name.to_owned() });
            }
        }
        Ok(Builder {
            source,
            code: Vec::new(),
            // Register 0 takes what nobody reads.
            registers: 1,
            fills: FxHashMap::default(),
            shared: Layout::default(),
            local: Layout::default(),
            parameters: Layout::default(),
            symbols,
            instances: Vec::new(),
            by_name: FxHashMap::default(),
        })
    }

    /// The register for results that are dropped.
    pub const SINK: Register = 0;

    /// Builds a whole kernel.
    pub fn kernel(&mut self, function: &'a Function<'a>) -> Result<Kernel, ParseError> {
        let mut parameters = Vec::new();
        for parameter in &function.parameters {
            let start = place(&mut self.parameters, parameter, 0)?;
            parameters.push((parameter.name, Entity::Parameter(start)));
        }
        Body::build(self, function, &parameters, None)?;
        self.called_functions()?;
        let dynamic_shared = align(self.shared.size, 16).ok_or(too_large(function.line))?;
        Ok(Kernel {
            name: function.name.to_owned(),
            code: std::mem::take(&mut self.code),
            registers: self.registers,
            fills: self.fills.drain().collect(),
            parameters: std::mem::take(&mut self.parameters.ranges),
            shared: std::mem::take(&mut self.shared),
            dynamic_shared,
            local: std::mem::take(&mut self.local),
            max_threads: function.max_threads,
        })
    }

    /// Decodes a function that no kernel calls.
    pub fn check(&mut self, function: &'a Function<'a>) -> Result<(), ParseError> {
        self.instance(function)?;
        self.called_functions()
    }

    /// The names of the functions that the program holds.
    pub fn called(&self) -> impl Iterator<Item = &'a str> {
        self.instances.iter().map(|instance| instance.function.name)
    }

    fn called_functions(&mut self) -> Result<(), ParseError> {
        let mut next = 0;
        while next < self.instances.len() {
            let function = self.instances[next].function;
            self.instances[next].entry = self.code.len() as u32;
            let formal = function.returns.iter().chain(&function.parameters);
            let places = self.instances[next].returns.iter().chain(&self.instances[next].parameters);
            let names: Vec<_> = formal
                .zip(places)
                .map(|(variable, &(offset, bytes))| (variable.name, Entity::Local { offset, bytes }))
                .collect();
            Body::build(self, function, &names, Some(next))?;
            next += 1;
        }
        self.refuse_recursion()?;
        for instruction in &mut self.code {
            if let Operation::Call(call) = &mut instruction.operation {
                // Until here the target is the function's number.
                call.target = self.instances[call.target as usize].entry;
            }
        }
        Ok(())
    }

    fn refuse_recursion(&self) -> Result<(), ParseError> {
        // Remove functions that call nothing left, again and again; what stays calls itself.
        let mut left: Vec<usize> = (0..self.instances.len()).collect();
        loop {
            let before = left.len();
            let known = left.clone();
            left.retain(|&index| self.instances[index].calls.iter().any(|callee| known.contains(callee)));
            match left.first() {
                None => return Ok(()),
                Some(&index) if left.len() == before => {
                    let function = self.instances[index].function;
                    return Err(ParseError::Recursion { line: function.line, function: function.name.to_owned() });
                }
                Some(_) => {}
            }
        }
    }

    /// The number of a called function, which is added to the program if it is not there.
    pub fn callee(&mut self, name: &str, line: u32) -> Result<usize, ParseError> {
        if let Some(&index) = self.by_name.get(name) {
            return Ok(index);
        }
        let source = self.source;
        let function = source
            .functions
            .iter()
            .find(|function| function.name == name && !function.entry && function.body.is_some())
            .ok_or_else(|| ParseError::UnknownName { line, name: name.to_owned() })?;
        self.instance(function)
    }

    fn instance(&mut self, function: &'a Function<'a>) -> Result<usize, ParseError> {
        let mut places = Vec::new();
        for variable in function.returns.iter().chain(&function.parameters) {
            places.push(self.local_variable(variable)?);
        }
        let parameters = places.split_off(function.returns.len());
        let instance = Instance { function, entry: 0, returns: places, parameters, calls: Vec::new() };
        self.instances.push(instance);
        let index = self.instances.len() - 1;
        self.by_name.insert(function.name, index);
        Ok(index)
    }

    /// New registers, side by side; the first is returned.
    pub fn new_registers(&mut self, count: u64, line: u32) -> Result<Register, ParseError> {
        let first = self.registers;
        let total = u64::from(first) + count;
        // A warp's registers are 256 bytes each.
        self.registers = u32::try_from(total)
            .ok()
            .filter(|&total| total < 1 << 20)
            .ok_or(ParseError::TooLarge { line, what: "registers" })?;
        Ok(first)
    }

    /// The register that always holds a value.
    pub fn filled(&mut self, fill: Fill, line: u32) -> Result<Register, ParseError> {
        if let Some(&register) = self.fills.get(&fill) {
            return Ok(register);
        }
        let register = self.new_registers(1, line)?;
        self.fills.insert(fill, register);
        Ok(register)
    }

    /// Places a variable in each thread's local memory: its offset and length.
    pub fn local_variable(&mut self, variable: &Variable<'_>) -> Result<(u32, u32), ParseError> {
        let start = place(&mut self.local, variable, GUARD)?;
        Ok((start, variable.bytes.unwrap_or(0) as u32))
    }

    /// Places a variable in the block's shared memory.
    pub fn shared_variable(&mut self, variable: &Variable<'_>) -> Result<Entity, ParseError> {
        if variable.bytes.is_none() {
            return Ok(Entity::DynamicShared);
        }
        place(&mut self.shared, variable, GUARD).map(Entity::Shared)
    }

    /// What a name of the module stands for.
    pub fn symbol(&mut self, name: &str) -> Result<Option<Entity>, ParseError> {
        let entity = match self.symbols.get(name) {
            None => return Ok(None),
            Some(&Symbol::Variable(number)) => return Ok(Some(Entity::Variable(number))),
            Some(&Symbol::Placed(entity)) => return Ok(Some(entity)),
            Some(&Symbol::Shared(variable)) if variable.space == Space::Shared => self.shared_variable(variable)?,
            Some(&Symbol::Shared(variable)) => {
                let (offset, bytes) = self.local_variable(variable)?;
                Entity::Local { offset, bytes }
            }
        };
        if let Some(symbol) = self.symbols.get_mut(name) {
            *symbol = Symbol::Placed(entity);
        }
        Ok(Some(entity))
    }
}

fn align(value: u32, alignment: u32) -> Option<u32> {
    value.checked_next_multiple_of(alignment).filter(|&value| value < LIMIT)
}

fn too_large(line: u32) -> ParseError {
    ParseError::TooLarge { line, what: "variables" }
}

fn place(layout: &mut Layout, variable: &Variable<'_>, guard: u32) -> Result<u32, ParseError> {
    let Some(bytes) = variable.bytes else {
        return Err(ParseError::syntax(variable.line, format!("`{}` has no length", variable.name)));
    };
    let start = align(layout.size, variable.alignment as u32).ok_or(too_large(variable.line))?;
    let end = u32::try_from(bytes).ok().and_then(|bytes| start.checked_add(bytes)).ok_or(too_large(variable.line))?;
    layout.ranges.push(start..end);
    layout.size = end.checked_add(guard).filter(|&size| size < LIMIT).ok_or(too_large(variable.line))?;
    Ok(start)
}
