//! Declarations of variables, with their initialisers.

use super::ParseError;
use super::Parser;
use super::lexer::Token;
use super::syntax::{Initial, Space, Variable};
use crate::types::Type;

impl<'a> Parser<'_, 'a> {
    /// What follows the state space, up to the `;`, `,` or `)`.
    pub(super) fn variable(&mut self, space: Space) -> Result<Variable<'a>, ParseError> {
        let line = self.line();
        let mut alignment = None;
        let mut lanes = 1;
        let element = loop {
            let Some(Token::Directive(name)) = self.peek() else { return Err(self.unexpected("a type")) };
            self.at += 1;
            match name {
                "align" => alignment = Some(self.integer()?),
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "ptr" | "global" | "shared" | "local" | "const" => {}
                _ => match Type::named(name) {
                    // `.u64 .ptr .global .align 4 name`: the rest speaks of what is pointed to.
                    Some(element) => {
                        self.skip_pointer_attributes()?;
                        break element;
                    }
                    None => return Err(ParseError::Directive { line, name: name.to_owned() }),
                },
            }
        };
        let name = self.word()?;
        let mut count = Some(lanes);
        while self.eat('[') {
            if self.eat(']') {
                count = None;
                continue;
            }
            let length = self.integer()?;
            count = count.and_then(|count: u64| count.checked_mul(length));
            self.expect(']')?;
        }
        let mut initialiser = Vec::new();
        if self.eat('=') {
            self.initialiser(element, &mut initialiser)?;
        }
        if count.is_none() && !initialiser.is_empty() {
            count = Some(initialiser.len() as u64);
        }
        let bytes = match count {
            None => None,
            Some(count) => {
                let bytes = count.checked_mul(element.bytes()).filter(|&bytes| bytes <= 1 << 30);
                Some(bytes.ok_or(ParseError::TooLarge { line, what: "variables" })?)
            }
        };
        let alignment = alignment.unwrap_or(element.bytes() * lanes);
        if !alignment.is_power_of_two() || alignment > 1 << 16 {
            return Err(ParseError::syntax(line, format!("`{name}` cannot be aligned to {alignment} bytes")));
        }
        Ok(Variable { name, space, alignment, bytes, element, initialiser, line })
    }

    fn skip_pointer_attributes(&mut self) -> Result<(), ParseError> {
        if self.peek() != Some(Token::Directive("ptr")) {
            return Ok(());
        }
        self.at += 1;
        while let Some(Token::Directive(name)) = self.peek() {
            self.at += 1;
            if name == "align" {
                self.integer()?;
            }
        }
        Ok(())
    }

    fn initialiser(&mut self, element: Type, values: &mut Vec<Initial<'a>>) -> Result<(), ParseError> {
        if self.eat('{') {
            if self.eat('}') {
                return Ok(());
            }
            loop {
                self.initialiser(element, values)?;
                if self.eat('}') {
                    return Ok(());
                }
                self.expect(',')?;
            }
        }
        let negative = self.eat('-');
        let value = match self.peek() {
            Some(Token::Integer(value)) if element.is_float() => float_bits(value as f64, element),
            Some(Token::Integer(value)) => value,
            Some(Token::Single(bits)) if element == Type::F64 => f64::from(f32::from_bits(bits)).to_bits(),
            Some(Token::Single(bits)) => u64::from(bits),
            Some(Token::Double(bits)) => float_bits(f64::from_bits(bits), element),
            Some(Token::Word("generic")) => {
                self.at += 1;
                self.expect('(')?;
                let name = self.word()?;
                self.expect(')')?;
                values.push(Initial::Address(name));
                return Ok(());
            }
            Some(Token::Word(name)) => {
                self.at += 1;
                values.push(Initial::Address(name));
                return Ok(());
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.at += 1;
        let value = match (negative, element) {
            (false, _) => value,
            (true, Type::F32) => value ^ 1 << 31,
            (true, Type::F64) => value ^ 1 << 63,
            (true, _) => value.wrapping_neg(),
        };
        values.push(Initial::Bits(value));
        Ok(())
    }
}

fn float_bits(value: f64, element: Type) -> u64 {
    if element == Type::F32 { u64::from((value as f32).to_bits()) } else { value.to_bits() }
}
