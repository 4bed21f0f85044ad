//! Why a PTX text cannot be run.

use thiserror::Error;

/// A PTX text that is malformed, or uses something that this interpreter does not know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    #[error("PTX line {line}: {message}")]
    Syntax { line: u32, message: String },
    #[error("PTX line {line}: the directive `.{name}` is not known")]
    Directive { line: u32, name: String },
    #[error("PTX line {line}: the opcode `{opcode}` is not known")]
    UnknownOpcode { line: u32, opcode: String },
    #[error("PTX line {line}: `{opcode}` does not know the modifier `.{modifier}`")]
    UnknownModifier { line: u32, opcode: String, modifier: String },
    #[error("PTX line {line}: `{opcode}` has an operand that does not fit: {message}")]
    Operand { line: u32, opcode: String, message: String },
    #[error("PTX line {line}: the name `{name}` is not declared")]
    UnknownName { line: u32, name: String },
    #[error("PTX line {line}: `{name}` is declared twice")]
    Duplicate { line: u32, name: String },
    #[error("PTX line {line}: the function `{function}` calls itself, which is not supported")]
    Recursion { line: u32, function: String },
    #[error("PTX line {line}: {what} grow beyond what this interpreter holds")]
    TooLarge { line: u32, what: &'static str },
}

impl ParseError {
    pub(crate) fn syntax(line: u32, message: impl Into<String>) -> Self {
        ParseError::Syntax { line, message: message.into() }
    }

    /// The line at fault, counted from one.
    pub fn line(&self) -> u32 {
        match self {
            ParseError::Syntax { line, .. }
            | ParseError::Directive { line, .. }
            | ParseError::UnknownOpcode { line, .. }
            | ParseError::UnknownModifier { line, .. }
            | ParseError::Operand { line, .. }
            | ParseError::UnknownName { line, .. }
            | ParseError::Duplicate { line, .. }
            | ParseError::Recursion { line, .. }
            | ParseError::TooLarge { line, .. } => *line,
        }
    }
}
