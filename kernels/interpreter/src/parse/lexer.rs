//! Splits PTX text into tokens, each with its line.

use super::ParseError;

/// One token. Words and directives borrow from the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name: an opcode, a register with its `%`, a label with its `$`.
    Word(&'a str),
    /// A name after a dot, without the dot: `.global` is `Directive("global")`.
    Directive(&'a str),
    Integer(u64),
    /// The bits of a `0f…` literal.
    Single(u32),
    /// The bits of a `0d…` literal, or of a decimal one.
    Double(u64),
    Text(&'a str),
    Mark(char),
}

/// A token and the line it begins on, counted from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%')
}

/// Splits `text` into tokens; comments and white space are dropped.
///
/// # Errors
/// [`ParseError::Syntax`] for a byte that begins no token, an unclosed comment or text, or a malformed number.
pub(crate) fn tokens(text: &str) -> Result<Vec<Lexeme<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut lexemes = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1_u32);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if text[at..].starts_with("//") => {
                at = text[at..].find('\n').map_or(bytes.len(), |length| at + length);
                continue;
            }
            b'/' if text[at..].starts_with("/*") => {
                let length = text[at..].find("*/").ok_or_else(|| ParseError::syntax(line, "a comment is not closed"))?;
                line += text[at..at + length].matches('\n').count() as u32;
                at += length + 2;
                continue;
            }
            b'"' => {
                let length =
                    text[at + 1..].find('"').ok_or_else(|| ParseError::syntax(line, "a quoted text is not closed"))?;
                at += length + 2;
                Token::Text(&text[start + 1..at - 1])
            }
            b'0'..=b'9' => {
                at = number_end(bytes, at);
                number(&text[start..at])
                    .ok_or_else(|| ParseError::syntax(line, format!("`{}` is no number", &text[start..at])))?
            }
            b'.' if bytes.get(at + 1).copied().is_some_and(is_word) => {
                at = directive_end(bytes, at + 1);
                Token::Directive(&text[start + 1..at])
            }
            _ if is_word(byte) => {
                at = word_end(bytes, at);
                Token::Word(&text[start..at])
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b',' | b';' | b':' | b'@' | b'!' | b'|' | b'+' | b'-' | b'<'
            | b'>' | b'=' => {
                at += 1;
                Token::Mark(char::from(byte))
            }
            _ => {
                let found = text[at..].chars().next().unwrap_or('?');
                return Err(ParseError::syntax(line, format!("`{found}` begins no token")));
            }
        };
        lexemes.push(Lexeme { token, line });
    }
    Ok(lexemes)
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|&byte| !is_word(byte)).map_or(bytes.len(), |length| start + length)
}

/// Like a word, and `::` may join two, as in `.shared::cta`.
fn directive_end(bytes: &[u8], start: usize) -> usize {
    let mut end = word_end(bytes, start);
    while bytes[end..].starts_with(b"::") {
        end = word_end(bytes, end + 2);
    }
    end
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let mut end = word_end(bytes, start);
    let hexadecimal = bytes[start] == b'0' && matches!(bytes.get(start + 1), Some(b'x' | b'X' | b'f' | b'F' | b'd' | b'D'));
    if hexadecimal {
        return end;
    }
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = word_end(bytes, end + 1);
    }
    if matches!(bytes[end - 1], b'e' | b'E') && matches!(bytes.get(end), Some(b'+' | b'-')) {
        end = word_end(bytes, end + 1);
    }
    end
}

fn number(text: &str) -> Option<Token<'_>> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok().map(Token::Single))?;
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok().map(Token::Double))?;
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let integer = if let Some(digits) = digits.strip_prefix("0x") {
        u64::from_str_radix(digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0b") {
        u64::from_str_radix(digits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') && !digits.contains(['.', 'e']) {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    match integer {
        Ok(value) => Some(Token::Integer(value)),
        Err(_) => lower.parse::<f64>().ok().map(|value| Token::Double(value.to_bits())),
    }
}
