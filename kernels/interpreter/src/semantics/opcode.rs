//! An opcode whose modifiers are taken one by one, so that none is ever ignored.

use crate::parse::ParseError;
use crate::types::Type;

/// An opcode and the modifiers not yet understood.
#[derive(Clone, Debug)]
pub(crate) struct Opcode<'a> {
    pub line: u32,
    pub name: &'a str,
    modifiers: &'a [&'a str],
    taken: u32,
}

impl<'a> Opcode<'a> {
    pub fn new(line: u32, name: &'a str, modifiers: &'a [&'a str]) -> Self {
        Opcode { line, name, modifiers, taken: 0 }
    }

    fn take(&mut self, wanted: impl Fn(&str) -> bool) -> Option<&'a str> {
        let free = |index: usize| index < 32 && self.taken & 1 << index == 0;
        let index = (0..self.modifiers.len()).find(|&index| free(index) && wanted(self.modifiers[index]))?;
        self.taken |= 1 << index;
        Some(self.modifiers[index])
    }

    /// Takes the modifier if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        self.take(|modifier| modifier == name).is_some()
    }

    /// Takes the first modifier that is among `names`.
    pub fn choice(&mut self, names: &[&str]) -> Option<&'a str> {
        self.take(|modifier| names.contains(&modifier))
    }

    /// Takes the first modifier that begins so.
    pub fn prefixed(&mut self, prefix: &str) -> Option<&'a str> {
        self.take(|modifier| modifier.starts_with(prefix))
    }

    /// Takes the first modifier that is a type.
    pub fn ty(&mut self) -> Option<Type> {
        self.take(|modifier| Type::named(modifier).is_some()).and_then(Type::named)
    }

    /// All modifiers have been understood.
    pub fn finish(&mut self) -> Result<(), ParseError> {
        match self.take(|_| true) {
            None if self.modifiers.len() > 32 => Err(self.unknown()),
            None => Ok(()),
            Some(modifier) => Err(ParseError::UnknownModifier {
                line: self.line,
                opcode: self.name.to_owned(),
                modifier: modifier.to_owned(),
            }),
        }
    }

    /// The opcode as it was written.
    pub fn spelling(&self) -> String {
        std::iter::once(&self.name).chain(self.modifiers).copied().collect::<Vec<_>>().join(".")
    }

    pub fn unknown(&self) -> ParseError {
        ParseError::UnknownOpcode { line: self.line, opcode: self.spelling() }
    }

    pub fn bad_operand(&self, message: impl Into<String>) -> ParseError {
        ParseError::Operand { line: self.line, opcode: self.spelling(), message: message.into() }
    }
}
