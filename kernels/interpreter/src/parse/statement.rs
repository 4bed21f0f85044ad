//! Function bodies: declarations, labels, instructions and their operands.

use super::ParseError;
use super::Parser;
use super::lexer::Token;
use super::syntax::{Instruction, Operand, Space, Statement};

impl<'a> Parser<'_, 'a> {
    /// A body with its braces.
    pub(super) fn body(&mut self) -> Result<Vec<Statement<'a>>, ParseError> {
        self.expect('{')?;
        let mut depth = 1;
        let mut statements = Vec::new();
        while depth > 0 {
            match self.peek() {
                Some(Token::Mark('{')) => {
                    self.at += 1;
                    depth += 1;
                    statements.push(Statement::Open);
                }
                Some(Token::Mark('}')) => {
                    self.at += 1;
                    depth -= 1;
                    statements.push(Statement::Close);
                }
                Some(Token::Mark(';')) => self.at += 1,
                Some(Token::Directive(name)) => self.body_directive(name, &mut statements)?,
                Some(Token::Word(name)) if self.peek_ahead(1) == Some(Token::Mark(':')) => {
                    self.at += 2;
                    statements.push(self.labelled(name)?);
                }
                Some(Token::Word(_) | Token::Mark('@')) => statements.push(Statement::Instruction(self.instruction()?)),
                _ => return Err(self.unexpected("a statement")),
            }
        }
        // The last brace closes the body itself.
        statements.pop();
        Ok(statements)
    }

    fn labelled(&mut self, label: &'a str) -> Result<Statement<'a>, ParseError> {
        if self.peek() != Some(Token::Directive("branchtargets")) {
            return Ok(Statement::Label(label));
        }
        self.at += 1;
        let mut targets = vec![self.word()?];
        while self.eat(',') {
            targets.push(self.word()?);
        }
        self.expect(';')?;
        Ok(Statement::Targets { label, targets })
    }

    fn body_directive(&mut self, name: &'a str, statements: &mut Vec<Statement<'a>>) -> Result<(), ParseError> {
        let line = self.line();
        self.at += 1;
        match name {
            "reg" => {
                while matches!(self.peek(), Some(Token::Directive(_))) {
                    if matches!(self.peek(), Some(Token::Directive("v2" | "v4"))) {
                        return Err(ParseError::syntax(line, "vector registers are not supported"));
                    }
                    self.at += 1;
                }
                loop {
                    let name = self.word()?;
                    let mut count = None;
                    if self.eat('<') {
                        count = Some(self.integer()?);
                        self.expect('>')?;
                    }
                    statements.push(Statement::Registers { name, count });
                    if !self.eat(',') {
                        break;
                    }
                }
                self.expect(';')
            }
            "pragma" => {
                self.skip_statement();
                Ok(())
            }
            "loc" => {
                self.at -= 1;
                self.skip_location();
                Ok(())
            }
            _ => match Space::named(name) {
                Some(space) => {
                    statements.push(Statement::Variable(self.variable(space)?));
                    self.expect(';')
                }
                None => Err(ParseError::Directive { line, name: name.to_owned() }),
            },
        }
    }

    fn instruction(&mut self) -> Result<Instruction<'a>, ParseError> {
        let line = self.line();
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word()?, negated));
        }
        let opcode = self.word()?;
        let mut modifiers = Vec::new();
        while let Some(Token::Directive(name)) = self.peek() {
            self.at += 1;
            modifiers.push(name);
        }
        let mut operands = Vec::new();
        if !self.eat(';') {
            loop {
                operands.push(self.operand()?);
                if self.eat(';') {
                    break;
                }
                self.expect(',')?;
            }
        }
        Ok(Instruction { line, guard, opcode, modifiers, operands })
    }

    fn operand(&mut self) -> Result<Operand<'a>, ParseError> {
        let first = match self.peek() {
            Some(Token::Mark('[')) => return self.address(),
            Some(Token::Mark('{')) => return Ok(Operand::Vector(self.operands('{', '}')?)),
            Some(Token::Mark('(')) => return Ok(Operand::List(self.operands('(', ')')?)),
            Some(Token::Mark('!')) => {
                self.at += 1;
                return Ok(Operand::Not(self.word()?));
            }
            _ => self.plain()?,
        };
        if self.eat('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.plain()?)));
        }
        Ok(first)
    }

    fn operands(&mut self, open: char, close: char) -> Result<Vec<Operand<'a>>, ParseError> {
        self.expect(open)?;
        let mut operands = Vec::new();
        if self.eat(close) {
            return Ok(operands);
        }
        loop {
            operands.push(self.plain()?);
            if self.eat(close) {
                return Ok(operands);
            }
            self.expect(',')?;
        }
    }

    /// A name or a number.
    fn plain(&mut self) -> Result<Operand<'a>, ParseError> {
        let negative = self.eat('-');
        let operand = match self.peek() {
            Some(Token::Integer(value)) => Operand::Integer(if negative { value.wrapping_neg() } else { value }),
            Some(Token::Single(bits)) => Operand::Single(if negative { bits ^ 1 << 31 } else { bits }),
            Some(Token::Double(bits)) => Operand::Double(if negative { bits ^ 1 << 63 } else { bits }),
            Some(Token::Word(name)) if !negative => match (self.peek_ahead(1), self.peek_ahead(2)) {
                (Some(Token::Directive(component)), _) => {
                    self.at += 1;
                    Operand::Component(name, component)
                }
                (Some(Token::Mark('+')), Some(Token::Integer(offset))) => {
                    self.at += 2;
                    Operand::Sum(name, offset as i64)
                }
                _ => Operand::Name(name),
            },
            _ => return Err(self.unexpected("an operand")),
        };
        self.at += 1;
        Ok(operand)
    }

    fn address(&mut self) -> Result<Operand<'a>, ParseError> {
        self.expect('[')?;
        let (base, mut offset) = match self.plain()? {
            Operand::Sum(name, offset) => (Operand::Name(name), offset),
            base => (base, 0),
        };
        if self.eat('+') {
            let negative = self.eat('-');
            let more = self.integer()? as i64;
            offset = offset.wrapping_add(if negative { more.wrapping_neg() } else { more });
        } else if self.eat('-') {
            offset = offset.wrapping_sub(self.integer()? as i64);
        }
        self.expect(']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }
}
