//! One walk over the wire format before anything is read.
//!
//! The walk looks into every message ONNX knows, also into those the reader keeps verbatim, and refuses what a
//! well-formed file does not contain. It allocates nothing and skips payloads, so that a damaged file of any size is
//! refused before memory is spent on it.

use super::LoadError;
use super::wire::{Content, Fields, wire};
use std::ops::Range;

/// Messages nested deeper than this are refused (the limit of protobuf's own parsers).
pub const DEPTH: u32 = 100;

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
    /// Tensor, sparse tensor, sequence and optional types: element type in 1, shape in 2.
    TensorType,
    SequenceType,
    Map,
    Shape,
    Annotation,
    Device,
    Sharding,
    ShardedDim,
    /// Messages of scalars only.
    Leaf,
}

impl Message {
    /// Type of a length-delimited field, when it holds a message worth looking into.
    fn field(self, number: u32) -> Option<Message> {
        use Message::*;
        Some(match (self, number) {
            (Model, 7) | (Attribute, 6 | 11) | (Training, 1 | 2) => Graph,
            (Model, 20) => Training,
            (Model, 25) => Function,
            (Model, 8 | 14 | 26) | (Function, 9 | 14) | (Training, 3 | 4) => Leaf,
            (Graph, 1) | (Function, 7) => Node,
            (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
            (Graph, 15) | (Attribute, 22 | 23) => Sparse,
            (Graph, 11..=13) | (Function, 12) => ValueInfo,
            (Graph, 14) => Annotation,
            (Graph, 16) | (Annotation, 2) | (Node, 9) | (Tensor, 3 | 13 | 16) | (ValueInfo, 4) => Leaf,
            (Node, 5) | (Function, 11) => Attribute,
            (Node, 10) => Device,
            (Device, 2) => Sharding,
            (Sharding, 4) => ShardedDim,
            (Sharding, 3) | (ShardedDim, 2) => Leaf,
            (Attribute, 14 | 15) | (ValueInfo, 2) | (SequenceType, 1) | (Map, 2) => Type,
            (Type, 1 | 8) => TensorType,
            (Type, 4 | 9) => SequenceType,
            (Type, 5) => Map,
            (Type, 7) => Leaf,
            (TensorType, 2) => Shape,
            (Shape, 1) => Leaf,
            _ => return None,
        })
    }
}

/// Walks over a serialised `ModelProto`.
///
/// # Errors
/// [`LoadError::Wire`] with the byte offset, for anything a well-formed file does not contain.
pub fn scan(file: &[u8]) -> Result<(), LoadError> {
    message(file, Message::Model, 0..file.len(), 0)
}

/// Walks over a serialised `TensorProto`.
///
/// # Errors
/// As [`scan`].
pub fn scan_tensor(file: &[u8]) -> Result<(), LoadError> {
    message(file, Message::Tensor, 0..file.len(), 0)
}

fn message(file: &[u8], kind: Message, range: Range<usize>, depth: u32) -> Result<(), LoadError> {
    if depth > DEPTH {
        return Err(wire(range.start, "a message nested more than 100 deep"));
    }
    let mut fields = Fields::new(file, range);
    while let Some(field) = fields.next()? {
        if let (Some(inner), Content::Bytes(body)) = (kind.field(field.number), field.content) {
            message(file, inner, body, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::wire::put_varint;
    use super::*;

    fn field(number: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number << 3 | 2);
        put_varint(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    #[test]
    fn refuses_groups_wherever_a_message_may_stand() {
        let group = [0x0b, 0x0c];
        for path in [
            &[7, 1, 9][..],
            &[7, 1, 5, 5, 13],
            &[7, 1, 10, 2, 4, 2],
            &[7, 5, 3],
            &[7, 11, 2, 1, 2, 1],
            &[7, 12, 2, 4, 1, 8, 2],
            &[7, 14, 2],
            &[7, 15, 2],
            &[8],
            &[14],
            &[20, 2, 1],
            &[25, 11, 14, 5, 2],
        ] {
            let bytes = path.iter().rev().fold(group.to_vec(), |inner, number| field(*number, &inner));
            assert!(scan(&bytes).unwrap_err().to_string().contains("group"), "{path:?}");
        }
        // Inside plain text the same bytes are just text.
        assert!(scan(&field(7, &field(2, &group))).is_ok());
    }

    #[test]
    fn refuses_deep_nesting_of_graphs_and_types() {
        let nest = |path: &[u64], times: usize| {
            (0..times).fold(Vec::new(), |inner, _| path.iter().rev().fold(inner, |b, n| field(*n, &b)))
        };
        assert!(scan(&field(7, &nest(&[1, 5, 6], 30))).is_ok());
        assert!(scan(&field(7, &nest(&[1, 5, 6], 40))).unwrap_err().to_string().contains("100 deep"));
        let types = field(7, &field(11, &field(2, &nest(&[4, 1], 60))));
        assert!(scan(&types).unwrap_err().to_string().contains("100 deep"));
    }
}
