//! Structure to programs: each kernel, with the functions it calls, becomes one list of decoded instructions.

mod atomic;
mod body;
mod builder;
mod call;
mod compute;
mod control;
mod memory;
mod operands;
mod scope;
mod warp;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::parse::ParseError;
use crate::parse::syntax::{Initial, Source, Space};
use crate::program::Kernel;
use builder::Builder;

/// What a module holds once linked.
#[derive(Debug)]
pub(crate) struct Linked {
    pub kernels: BTreeMap<String, Kernel>,
    pub variables: Vec<ModuleVariable>,
}

/// A `.global` or `.const` variable of the module.
#[derive(Debug)]
pub(crate) struct ModuleVariable {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Where in the bytes the addresses of other variables go.
    pub addresses: Vec<(usize, usize)>,
}

/// Links every kernel of a module, and checks the functions that no kernel calls.
///
/// # Errors
/// See [`ParseError`].
pub(crate) fn link(source: &Source<'_>) -> Result<Linked, ParseError> {
    let variables = variables(source)?;
    let mut kernels = BTreeMap::new();
    let mut reached = Vec::new();
    for function in source.functions.iter().filter(|function| function.entry && function.body.is_some()) {
        let mut builder = Builder::new(source)?;
        let kernel = builder.kernel(function)?;
        reached.extend(builder.called());
        if kernels.insert(function.name.to_owned(), kernel).is_some() {
            return Err(ParseError::Duplicate { line: function.line, name: function.name.to_owned() });
        }
    }
    for function in source.functions.iter().filter(|function| !function.entry && function.body.is_some()) {
        if !reached.contains(&function.name) {
            Builder::new(source)?.check(function)?;
        }
    }
    Ok(Linked { kernels, variables })
}

fn variables(source: &Source<'_>) -> Result<Vec<ModuleVariable>, ParseError> {
    let global = |space: Space| matches!(space, Space::Global | Space::Const);
    let numbers: FxHashMap<&str, usize> = source
        .variables
        .iter()
        .filter(|variable| global(variable.space))
        .enumerate()
        .map(|(number, variable)| (variable.name, number))
        .collect();
    let mut linked = Vec::new();
    for variable in source.variables.iter().filter(|variable| global(variable.space)) {
        let line = variable.line;
        let Some(length) = variable.bytes else {
            return Err(ParseError::syntax(line, format!("`{}` has no length", variable.name)));
        };
        let mut bytes = vec![0; length as usize];
        let mut addresses = Vec::new();
        let size = variable.element.bytes() as usize;
        if variable.initialiser.len() * size > bytes.len() {
            return Err(ParseError::syntax(line, format!("`{}` has more initial values than elements", variable.name)));
        }
        for (index, (slot, initial)) in bytes.chunks_exact_mut(size).zip(&variable.initialiser).enumerate() {
            match initial {
                Initial::Bits(bits) => slot.copy_from_slice(&bits.to_le_bytes()[..size]),
                Initial::Address(name) => {
                    let number = numbers
                        .get(name)
                        .filter(|_| size == 8)
                        .ok_or_else(|| ParseError::UnknownName { line, name: (*name).to_owned() })?;
                    addresses.push((index * size, *number));
                }
            }
        }
        linked.push(ModuleVariable { name: variable.name.to_owned(), bytes, addresses });
    }
    Ok(linked)
}
