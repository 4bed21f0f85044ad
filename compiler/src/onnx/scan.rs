//! One walk over the wire format before any parser sees it.
//!
//! The walk refuses what would hurt a parser (groups, deep nesting, lengths beyond the file) and lifts tensor payloads out:
//! what remains is kilobytes, in which a [`TOKEN`]-sized `raw_data` stands for the payload's place in the file.

use super::LoadError;
use std::ops::Range;

/// Every `raw_data` of at least this many bytes is lifted, so that one of exactly this many bytes is always a token.
pub const TOKEN: usize = 15;
const DEPTH: u32 = 64;

/// A message type the walk looks into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Training,
    Function,
    ValueInfo,
    Type,
    Element,
    Map,
}

impl Message {
    /// Type of a length-delimited field, when it holds a message worth looking into.
    fn field(self, number: u64) -> Option<Message> {
        use Message::*;
        Some(match (self, number) {
            (Model, 7) => Graph,
            (Model, 20) => Training,
            (Model, 25) => Function,
            (Graph, 1) | (Function, 7) => Node,
            (Graph, 5) => Tensor,
            (Graph, 15) => Sparse,
            (Graph, 11 | 12 | 13) | (Function, 12) => ValueInfo,
            (Node, 5) | (Function, 11) => Attribute,
            (Attribute, 5 | 10) => Tensor,
            (Attribute, 6 | 11) => Graph,
            (Attribute, 14 | 15) => Type,
            (Attribute, 22 | 23) => Sparse,
            (Sparse, 1 | 2) => Tensor,
            (Training, 1 | 2) => Graph,
            (ValueInfo, 2) => Type,
            (Type, 4 | 9) => Element,
            (Type, 5) => Map,
            (Element, 1) | (Map, 2) => Type,
            _ => return None,
        })
    }
}

/// What is left for the parser, and where the lifted payloads are.
pub struct Scanned {
    /// The model without its payloads.
    pub rest: Vec<u8>,
    /// Payloads in the order of their tokens, as ranges of the scanned bytes.
    pub payloads: Vec<Range<usize>>,
}

/// Walks over a serialised `ModelProto`.
///
/// # Errors
/// [`LoadError::Wire`] with the byte offset, for anything a well-formed file does not contain.
pub fn scan(bytes: &[u8]) -> Result<Scanned, LoadError> {
    let mut scanner = Scanner { bytes, payloads: Vec::new() };
    let mut rest = Vec::new();
    scanner.message(Message::Model, 0..bytes.len(), 0, &mut rest)?;
    Ok(Scanned { rest, payloads: scanner.payloads })
}

struct Scanner<'a> {
    bytes: &'a [u8],
    payloads: Vec<Range<usize>>,
}

impl Scanner<'_> {
    fn varint(&self, at: &mut usize, end: usize) -> Result<u64, LoadError> {
        let start = *at;
        let mut value = 0u64;
        for shift in 0..10 {
            if *at >= end {
                return Err(LoadError::Wire { at: start, what: "a number runs past the end" });
            }
            let byte = self.bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(LoadError::Wire { at: start, what: "a number longer than ten bytes" })
    }

    fn message(&mut self, kind: Message, range: Range<usize>, depth: u32, out: &mut Vec<u8>) -> Result<(), LoadError> {
        if depth > DEPTH {
            return Err(LoadError::Wire { at: range.start, what: "messages nested more than 64 deep" });
        }
        let mut at = range.start;
        while at < range.end {
            let start = at;
            let tag = self.varint(&mut at, range.end)?;
            let (field, wire) = (tag >> 3, tag & 7);
            if field == 0 || field > 0x1fff_ffff {
                return Err(LoadError::Wire { at: start, what: "a field number outside protobuf's range" });
            }
            let fixed = |at: usize, n: usize| {
                let end = at + n;
                if end > range.end {
                    Err(LoadError::Wire { at: start, what: "a field runs past the end" })
                } else {
                    Ok(end)
                }
            };
            match wire {
                0 => {
                    self.varint(&mut at, range.end)?;
                }
                1 => at = fixed(at, 8)?,
                5 => at = fixed(at, 4)?,
                2 => {
                    let length = self.varint(&mut at, range.end)?;
                    let body = match usize::try_from(length).ok().and_then(|n| at.checked_add(n)) {
                        Some(end) if end <= range.end => at..end,
                        _ => return Err(LoadError::Wire { at: start, what: "a length beyond the end of the file" }),
                    };
                    at = body.end;
                    let lifts = kind == Message::Tensor && field == 9 && body.len() >= TOKEN;
                    if lifts {
                        out.extend(&self.bytes[start..start + 1]);
                        out.push(TOKEN as u8);
                        out.extend(token(self.payloads.len()));
                        self.payloads.push(body);
                        continue;
                    }
                    if let Some(inner) = kind.field(field) {
                        put_varint(out, tag);
                        // The inner length is known only once it is written; five bytes hold any length below 2³⁵.
                        let mark = out.len();
                        out.extend([0u8; 5]);
                        self.message(inner, body, depth + 1, out)?;
                        let length = (out.len() - mark - 5) as u64;
                        for (i, byte) in out[mark..mark + 5].iter_mut().enumerate() {
                            *byte = ((length >> (7 * i)) & 0x7f) as u8 | if i < 4 { 0x80 } else { 0 };
                        }
                        continue;
                    }
                }
                _ => return Err(LoadError::Wire { at: start, what: "a group or an unknown wire type" }),
            }
            out.extend(&self.bytes[start..at]);
        }
        Ok(())
    }
}

fn token(index: usize) -> [u8; TOKEN] {
    let mut token = [0; TOKEN];
    token[..8].copy_from_slice(&(index as u64).to_le_bytes());
    token
}

/// The payload a token stands for.
pub fn payload_of(token: &[u8]) -> Option<usize> {
    let index: [u8; 8] = token.get(..8)?.try_into().ok()?;
    (token.len() == TOKEN).then(|| u64::from_le_bytes(index) as usize)
}

/// Appends a base-128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number << 3 | 2);
        put_varint(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    #[test]
    fn lifts_payloads_and_keeps_the_rest() {
        let tensor = [field(8, b"w"), field(9, &[7; 100])].concat();
        let model = field(7, &field(5, &tensor));
        let scanned = scan(&model).unwrap();
        assert_eq!(scanned.payloads.len(), 1);
        assert_eq!(&model[scanned.payloads[0].clone()], &[7; 100]);
        assert!(scanned.rest.len() < 50);
        let small = field(7, &field(5, &field(9, &[7; TOKEN - 1])));
        assert!(scan(&small).unwrap().payloads.is_empty());
    }

    #[test]
    fn refuses_groups_depth_and_lengths() {
        let wire = |bytes: &[u8]| matches!(scan(bytes), Err(LoadError::Wire { .. }));
        assert!(wire(&[0x0b]), "group");
        assert!(wire(&[0x3a, 0xff, 0x7f]), "length beyond the file");
        assert!(wire(&[0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]), "long varint");
        assert!(wire(&[0x02, 0x00]), "field zero");
        let mut deep = Vec::new();
        for level in 0..200 {
            deep = field([1u64, 5, 6][level % 3], &deep);
        }
        let deep = field(7, &field(1, &field(5, &field(6, &deep))));
        // Whatever nesting the fields spell, the walk ends with a refusal or a result, never a crash.
        let _ = scan(&deep);
        let mut graphs = Vec::new();
        for _ in 0..40 {
            graphs = field(1, &field(5, &field(6, &graphs)));
        }
        assert!(wire(&field(7, &graphs)), "nested sub-graphs");
    }
}
