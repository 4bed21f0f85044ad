//! The message under construction.

use crate::graph::Bytes;
use crate::onnx::wire::put_varint;
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// Payloads below this many bytes are copied into the message; larger ones stay where they are until they are written.
pub const INLINE: usize = 1024;
/// Payloads of at least this many bytes go from file to file; for smaller ones the extra system calls do not pay.
const COPY: usize = 1 << 18;

/// Where a message is written to.
pub trait Output: Write {
    /// Writes a payload.
    fn payload(&mut self, bytes: &Bytes) -> io::Result<()> {
        self.write_all(bytes)
    }
}

impl Output for Vec<u8> {}

impl Output for BufWriter<&File> {
    fn payload(&mut self, bytes: &Bytes) -> io::Result<()> {
        match bytes {
            Bytes::Mapped(file, range) if bytes.len() >= COPY => {
                self.flush()?;
                file.copy_to(range.clone(), self.get_ref())
            }
            _ => self.write_all(bytes),
        }
    }
}

/// A serialised message, its large payloads still elsewhere.
#[derive(Default)]
pub struct Message {
    buffer: Vec<u8>,
    /// Payloads and where in `buffer` they belong, in order.
    payloads: Vec<(usize, Bytes)>,
    payload_len: u64,
}

impl Message {
    /// Serialised size in bytes.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.payload_len
    }

    /// Writes the message out.
    pub fn write_to(&self, out: &mut impl Output) -> io::Result<()> {
        let mut at = 0;
        for (position, payload) in &self.payloads {
            out.write_all(&self.buffer[at..*position])?;
            out.payload(payload)?;
            at = *position;
        }
        out.write_all(&self.buffer[at..])
    }

    fn tag(&mut self, field: u32, wire: u64) {
        put_varint(&mut self.buffer, u64::from(field) << 3 | wire);
    }

    pub fn int(&mut self, field: u32, value: i64) {
        self.tag(field, 0);
        put_varint(&mut self.buffer, value as u64);
    }

    /// An integer, unless it is 0.
    pub fn int_if(&mut self, field: u32, value: i64) {
        if value != 0 {
            self.int(field, value);
        }
    }

    pub fn float(&mut self, field: u32, value: f32) {
        self.tag(field, 5);
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        put_varint(&mut self.buffer, bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
    }

    /// Text, unless it is empty.
    pub fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    /// Serialised fields as they are.
    pub fn verbatim(&mut self, fields: &[u8]) {
        self.buffer.extend_from_slice(fields);
    }

    /// A sub-message, or packed numbers, filled in by `fill`.
    pub fn nested<E>(&mut self, field: u32, fill: impl FnOnce(&mut Message) -> Result<(), E>) -> Result<(), E> {
        self.tag(field, 2);
        let (start, first, payload_len) = (self.buffer.len(), self.payloads.len(), self.payload_len);
        // Most messages are shorter than 128 bytes; the length of a longer one makes room for itself.
        self.buffer.push(0);
        fill(self)?;
        let length = (self.buffer.len() - start - 1) as u64 + (self.payload_len - payload_len);
        if length < 0x80 {
            self.buffer[start] = length as u8;
            return Ok(());
        }
        let mut prefix = Vec::with_capacity(10);
        put_varint(&mut prefix, length);
        self.buffer.splice(start..start + 1, prefix.iter().copied());
        for (at, _) in &mut self.payloads[first..] {
            *at += prefix.len() - 1;
        }
        Ok(())
    }

    /// [`Message::nested`] for contents that cannot fail.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Message)) {
        let _: Result<(), std::convert::Infallible> = self.nested(field, |m| {
            fill(m);
            Ok(())
        });
    }

    /// Packed varints.
    pub fn packed(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        self.message(field, |m| values.for_each(|x| put_varint(&mut m.buffer, x)));
    }

    /// Packed float32.
    pub fn packed_floats(&mut self, field: u32, values: &[f32]) {
        self.message(field, |m| values.iter().for_each(|x| m.buffer.extend_from_slice(&x.to_le_bytes())));
    }

    /// A payload, referred to unless it is small.
    pub fn payload(&mut self, field: u32, bytes: &Bytes) {
        if bytes.len() < INLINE {
            self.bytes(field, bytes);
            return;
        }
        self.tag(field, 2);
        put_varint(&mut self.buffer, bytes.len() as u64);
        self.payload_len += bytes.len() as u64;
        self.payloads.push((self.buffer.len(), bytes.clone()));
    }

    /// `StringStringEntryProto`s.
    pub fn entries(&mut self, field: u32, entries: &[(String, String)]) {
        for (key, value) in entries {
            self.message(field, |m| {
                m.text(1, key);
                m.text(2, value);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::{Content, Fields};

    #[test]
    fn lengths_make_room_for_themselves() {
        for size in [0usize, 1, 126, 127, 128, 16_383, 16_384, 70_000] {
            let mut message = Message::default();
            message.message(1, |m| m.message(2, |m| m.verbatim(&vec![8; size])));
            let bytes = message.buffer;
            let field = Fields::new(&bytes, 0..bytes.len()).next().unwrap().unwrap();
            let Content::Bytes(outer) = field.content else { panic!() };
            assert_eq!(outer.end, bytes.len());
            let field = Fields::new(&bytes, outer).next().unwrap().unwrap();
            assert_eq!(field.content, Content::Bytes(bytes.len() - size..bytes.len()));
        }
    }

    #[test]
    fn payloads_are_spliced_in_at_every_level() {
        let payload = Bytes::from(vec![7u8; 5000]);
        let mut message = Message::default();
        message.message(7, |m| {
            m.text(2, &"n".repeat(200));
            for _ in 0..3 {
                m.message(5, |m| {
                    m.payload(9, &payload);
                    m.text(8, "w");
                });
            }
        });
        let mut out = Vec::new();
        message.write_to(&mut out).unwrap();
        assert_eq!(out.len() as u64, message.len());
        let mut plain = Message::default();
        plain.message(7, |m| {
            m.text(2, &"n".repeat(200));
            for _ in 0..3 {
                m.message(5, |m| {
                    m.bytes(9, &payload);
                    m.text(8, "w");
                });
            }
        });
        assert_eq!(out, plain.buffer);
    }

    #[test]
    fn lengths_beyond_31_bits_are_right() {
        // Sparse and never touched, so this takes neither disk nor memory.
        let file = tempfile::tempfile().unwrap();
        file.set_len((1 << 32) + 5).unwrap();
        let payload = Bytes::from(crate::graph::MappedFile::new(file).unwrap());
        let mut message = Message::default();
        message.message(7, |m| m.message(5, |m| m.payload(9, &payload)));
        // Payload, its tag and length; the tensor's tag and length; the graph's tag and length.
        assert_eq!(message.len(), (1 << 32) + 5 + 6 + 6 + 6);
        assert_eq!(crate::onnx::wire::varint(&message.buffer[1..]), Some(((1 << 32) + 5 + 12, 5)));
    }
}
