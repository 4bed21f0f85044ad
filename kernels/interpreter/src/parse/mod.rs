//! PTX text to structure, by hand: tokens, then one function for each grammar rule.

pub(crate) mod error;
pub(crate) mod lexer;
mod module;
mod statement;
pub(crate) mod syntax;
mod variable;

pub use error::ParseError;

use lexer::{Lexeme, Token, tokens};
use syntax::Source;

/// Parses a whole PTX text.
///
/// # Errors
/// [`ParseError::Syntax`] and [`ParseError::Directive`], with the line.
pub(crate) fn parse(text: &str) -> Result<Source<'_>, ParseError> {
    let lexemes = tokens(text)?;
    Parser { lexemes: &lexemes, at: 0 }.module()
}

/// A position in the tokens.
pub(crate) struct Parser<'t, 'a> {
    lexemes: &'t [Lexeme<'a>],
    at: usize,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.peek_ahead(0)
    }

    fn peek_ahead(&self, count: usize) -> Option<Token<'a>> {
        self.lexemes.get(self.at + count).map(|lexeme| lexeme.token)
    }

    /// The line of the next token, or of the last one at the end.
    fn line(&self) -> u32 {
        self.lexemes.get(self.at).or(self.lexemes.last()).map_or(1, |lexeme| lexeme.line)
    }

    fn advance(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// Takes the mark if it is next.
    fn eat(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), ParseError> {
        if self.eat(mark) { Ok(()) } else { Err(self.unexpected(&format!("`{mark}`"))) }
    }

    fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn integer(&mut self) -> Result<u64, ParseError> {
        match self.peek() {
            Some(Token::Integer(value)) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.unexpected("an integer")),
        }
    }

    /// Skips to after the next `;`.
    fn skip_statement(&mut self) {
        while let Some(token) = self.advance() {
            if token == Token::Mark(';') {
                return;
            }
        }
    }

    fn unexpected(&self, expected: &str) -> ParseError {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Token::Word(word)) => format!("`{word}`"),
            Some(Token::Directive(name)) => format!("`.{name}`"),
            Some(Token::Integer(value)) => format!("`{value}`"),
            Some(Token::Single(_) | Token::Double(_)) => "a floating-point number".to_owned(),
            Some(Token::Text(text)) => format!("\"{text}\""),
            Some(Token::Mark(mark)) => format!("`{mark}`"),
        };
        ParseError::syntax(self.line(), format!("expected {expected}, found {found}"))
    }
}
