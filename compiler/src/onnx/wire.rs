//! Protobuf's wire format: the fields of one message, in place.

use super::LoadError;
use std::ops::Range;

type Result<T> = std::result::Result<T, LoadError>;

/// What a field holds; length-delimited contents are ranges of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little-endian.
    Fixed64([u8; 8]),
    /// Wire type 5, little-endian.
    Fixed32([u8; 4]),
    /// Wire type 2: text, bytes, a message or packed numbers.
    Bytes(Range<usize>),
}

/// One field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Field number.
    pub number: u32,
    /// Content.
    pub content: Content,
    /// The whole field, tag included.
    pub span: Range<usize>,
}

/// The fields of one message, in file order.
#[derive(Clone)]
pub struct Fields<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// Fields of the message that occupies `range` of `file` (clipped to the file).
    pub fn new(file: &'a [u8], range: Range<usize>) -> Self {
        Fields { file, at: range.start, end: range.end.min(file.len()) }
    }

    /// The next field; `None` at the message's end.
    ///
    /// # Errors
    /// Groups, unknown wire types, numbers and lengths that run past the message.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Field>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| (1..=0x1fff_ffff).contains(n))
            .ok_or_else(|| wire(start, "a field number outside protobuf's range"))?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(self.fixed(start)?),
            5 => Content::Fixed32(self.fixed(start)?),
            2 => {
                let length = self.varint()?;
                match usize::try_from(length).ok().and_then(|n| self.at.checked_add(n)) {
                    Some(end) if end <= self.end => Content::Bytes(std::mem::replace(&mut self.at, end)..end),
                    _ => return Err(wire(start, "a length beyond the end of its message")),
                }
            }
            3 | 4 => return Err(wire(start, "a group, which ONNX does not use,")),
            _ => return Err(wire(start, "an unknown wire type")),
        };
        Ok(Some(Field { number, content, span: start..self.at }))
    }

    fn fixed<const N: usize>(&mut self, start: usize) -> Result<[u8; N]> {
        let rest = &self.file[self.at..self.end];
        let value = rest.first_chunk::<N>();
        let value = value.ok_or_else(|| wire(start, "a field that runs past the end of its message"))?;
        self.at += N;
        Ok(*value)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        let (value, length) = varint(&self.file[self.at..self.end]).ok_or_else(|| bad_varint(self.at))?;
        self.at += length;
        Ok(value)
    }
}

/// The first base-128 varint of `bytes` and its length; `None` when it is cut off or longer than ten bytes.
#[inline]
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Packed varints of a range.
///
/// # Errors
/// A number that is cut off or too long.
pub fn packed(file: &[u8], range: Range<usize>, mut each: impl FnMut(u64)) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let (value, length) = varint(&file[at..range.end]).ok_or_else(|| bad_varint(at))?;
        each(value);
        at += length;
    }
    Ok(())
}

/// Appends a base-128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bad_varint(at: usize) -> LoadError {
    wire(at, "a number that is cut off or longer than ten bytes")
}

/// A wire-format error at a byte of the file.
pub fn wire(at: usize, what: &'static str) -> LoadError {
    LoadError::Wire { at, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<Field>> {
        let mut fields = Fields::new(bytes, 0..bytes.len());
        std::iter::from_fn(|| fields.next().transpose()).collect()
    }

    #[test]
    fn reads_every_wire_type() {
        let bytes = [0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1a, 2, 9, 9, 0x25, 1, 2, 3, 4];
        let contents: Vec<(u32, Content)> =
            fields(&bytes).unwrap().into_iter().map(|f| (f.number, f.content)).collect();
        assert_eq!(
            contents,
            [
                (1, Content::Varint(150)),
                (2, Content::Fixed64([1, 2, 3, 4, 5, 6, 7, 8])),
                (3, Content::Bytes(14..16)),
                (4, Content::Fixed32([1, 2, 3, 4])),
            ]
        );
    }

    #[test]
    fn refuses_what_runs_past_the_end() {
        for (bytes, word) in [
            (&[0x0b][..], "group"),
            (&[0x0c], "group"),
            (&[0x0e], "unknown wire type"),
            (&[0x00], "field number"),
            (&[0x08], "cut off"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "longer than ten"),
            (&[0x0a, 2, 0], "length beyond"),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "length beyond"),
            (&[0x09, 0, 0], "runs past"),
            (&[0x0d, 0], "runs past"),
        ] {
            assert!(fields(bytes).unwrap_err().to_string().contains(word), "{bytes:?} {word}");
        }
    }

    #[test]
    fn varints_survive() {
        for value in [0, 1, 127, 128, 1 << 31, (1 << 31) + 1, 1 << 32, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(varint(&bytes), Some((value, bytes.len())));
        }
    }
}
