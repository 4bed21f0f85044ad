//! Module level: directives, variables, functions.

use super::ParseError;
use super::Parser;
use super::lexer::Token;
use super::syntax::{Function, Source, Space, Variable};

impl<'a> Parser<'_, 'a> {
    /// The whole text.
    pub fn module(mut self) -> Result<Source<'a>, ParseError> {
        let mut source = Source::default();
        while let Some(token) = self.peek() {
            match token {
                Token::Mark(';') => self.at += 1,
                Token::Directive(name) => self.item(name, &mut source)?,
                _ => return Err(self.unexpected("a directive")),
            }
        }
        Ok(source)
    }

    fn item(&mut self, name: &'a str, source: &mut Source<'a>) -> Result<(), ParseError> {
        let line = self.line();
        match name {
            "version" | "address_size" => self.at += 2,
            "target" => {
                self.at += 2;
                while self.eat(',') {
                    self.at += 1;
                }
            }
            "file" => {
                self.at += 3;
                while self.eat(',') {
                    self.at += 1;
                }
            }
            "visible" | "extern" | "weak" | "common" => self.at += 1,
            "pragma" => self.skip_statement(),
            "alias" => return Err(ParseError::Directive { line, name: name.to_owned() }),
            "entry" | "func" => {
                self.at += 1;
                source.functions.push(self.function(name == "entry", line)?);
            }
            _ if Space::named(name).is_some() => {
                self.at += 1;
                let space = Space::named(name).unwrap_or(Space::Global);
                source.variables.push(self.variable(space)?);
                while self.eat(',') {
                    return Err(self.unexpected("one variable a declaration"));
                }
                self.expect(';')?;
            }
            "section" => {
                self.at += 2;
                self.skip_braces()?;
            }
            "loc" => self.skip_location(),
            _ => return Err(ParseError::Directive { line, name: name.to_owned() }),
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<(), ParseError> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.advance() {
                Some(Token::Mark('{')) => depth += 1,
                Some(Token::Mark('}')) => depth -= 1,
                Some(_) => {}
                None => return Err(self.unexpected("`}`")),
            }
        }
        Ok(())
    }

    /// `.loc file line column` and its attributes end with their line of text.
    pub(super) fn skip_location(&mut self) {
        let line = self.line();
        while self.peek().is_some() && self.line() == line {
            self.at += 1;
        }
    }

    fn function(&mut self, entry: bool, line: u32) -> Result<Function<'a>, ParseError> {
        if self.peek() == Some(Token::Directive("attribute")) {
            self.at += 1;
            self.parameters()?;
        }
        let returns = self.parameters()?;
        let name = self.word()?;
        let parameters = self.parameters()?;
        let mut max_threads = None;
        loop {
            match self.peek() {
                Some(Token::Directive("maxntid" | "reqntid")) => {
                    self.at += 1;
                    let mut threads = self.integer()?;
                    while self.eat(',') {
                        threads = threads.saturating_mul(self.integer()?);
                    }
                    max_threads = Some(threads);
                }
                Some(Token::Directive("minnctapersm" | "maxnreg" | "maxnctapersm")) => self.at += 2,
                Some(Token::Directive("noreturn")) => self.at += 1,
                Some(Token::Directive("pragma")) => self.skip_statement(),
                Some(Token::Mark(';')) => {
                    self.at += 1;
                    return Ok(Function { name, entry, returns, parameters, max_threads, body: None, line });
                }
                Some(Token::Mark('{')) => {
                    let body = Some(self.body()?);
                    return Ok(Function { name, entry, returns, parameters, max_threads, body, line });
                }
                Some(Token::Directive(other)) => {
                    return Err(ParseError::Directive { line: self.line(), name: other.to_owned() });
                }
                _ => return Err(self.unexpected("`{` or `;`")),
            }
        }
    }

    /// `(.param …, .param …)`, or nothing.
    fn parameters(&mut self) -> Result<Vec<Variable<'a>>, ParseError> {
        let mut parameters = Vec::new();
        if !self.eat('(') || self.eat(')') {
            return Ok(parameters);
        }
        loop {
            if self.peek() != Some(Token::Directive("param")) {
                return Err(self.unexpected("`.param`"));
            }
            self.at += 1;
            parameters.push(self.variable(Space::Param)?);
            if self.eat(')') {
                return Ok(parameters);
            }
            self.expect(',')?;
        }
    }
}
