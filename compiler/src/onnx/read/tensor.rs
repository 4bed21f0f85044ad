//! Tensors: payloads become windows into the file wherever the file holds them in the IR's layout.

use super::{Content, LoadError, Reader, Result};
use crate::graph::{Bytes, DType, Payload, Tensor};
use crate::onnx::wire::{packed, wire};
use std::ops::Range;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// `TensorProto`'s typed fields, each with its number.
const FLOAT_DATA: u32 = 4;
const INT32_DATA: u32 = 5;
const STRING_DATA: u32 = 6;
const INT64_DATA: u32 = 7;
const DOUBLE_DATA: u32 = 10;
const UINT64_DATA: u32 = 11;

/// Where a tensor says its elements are.
#[derive(Default)]
struct Stored {
    /// `raw_data`.
    raw: Option<Range<usize>>,
    /// Number of the typed field in use.
    typed: Option<u32>,
    /// Entries of `external_data`, when `data_location` says so.
    external: Vec<(String, String)>,
    is_external: bool,
}

impl Reader<'_> {
    /// The tensor in `range`.
    ///
    /// # Errors
    /// Elements that do not fill the shape, or lie where they may not.
    pub fn tensor(&mut self, range: Range<usize>) -> Result<Tensor> {
        let mut tensor = Tensor::raw(DType::UNDEFINED, [], Vec::new());
        let mut stored = Stored::default();
        let mut defect = None;
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Varint(_) | Content::Bytes(_)) => {}
                (2, Content::Varint(x)) => tensor.dtype = DType(*x as i32),
                (3, Content::Bytes(_)) => defect = Some("is split into segments, which no ONNX runtime reads"),
                (FLOAT_DATA..=INT64_DATA | DOUBLE_DATA | UINT64_DATA, _) => {
                    if stored.typed.replace(field.number).is_some_and(|before| before != field.number) {
                        defect = Some("holds its elements in two fields at once");
                    }
                }
                (8, Content::Bytes(r)) => tensor.name = self.text(r)?,
                (9, Content::Bytes(r)) => stored.raw = Some(r.clone()),
                (12, Content::Bytes(r)) => tensor.doc = self.text(r)?,
                (13, Content::Bytes(r)) => stored.external.push(self.entry(r)?),
                (14, Content::Varint(x)) => stored.is_external = *x == EXTERNAL,
                (16, Content::Bytes(r)) => tensor.metadata.push(self.entry(r)?),
                _ => self.keep(&mut tensor.unknown, &field),
            }
        }
        let here = || if tensor.name.is_empty() { "its tensor".into() } else { format!("tensor '{}'", tensor.name) };
        let invalid = |what: String| LoadError::invalid(here(), what);
        if stored.typed.is_some() && (stored.is_external || stored.raw.as_ref().is_some_and(|r| !r.is_empty())) {
            defect = Some("holds its elements in two fields at once");
        }
        if let Some(defect) = defect {
            return Err(invalid(format!("{defect}; export the model again")));
        }
        let extents = self.ints(&range, 1)?;
        let dims = extents.iter().map(|d| usize::try_from(*d)).collect::<std::result::Result<Vec<usize>, _>>();
        let dims = dims.map_err(|_| invalid(format!("has a negative extent in its shape {extents:?}")))?;
        let length = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let length = length.filter(|n| n.checked_mul(16).is_some_and(|b| b <= isize::MAX as usize));
        let length = length.ok_or_else(|| invalid(format!("has a shape {dims:?} beyond any memory")))?;
        let dtype = tensor.dtype;
        let payload = match (stored.typed, stored.raw) {
            (typed, raw) if dtype == DType::STRING => {
                if stored.is_external || raw.is_some() || typed.is_some_and(|f| f != STRING_DATA) {
                    return Err(invalid("holds strings elsewhere than in string_data; export the model again".into()));
                }
                let count = self.each(&range, STRING_DATA).count();
                if count != length {
                    return Err(invalid(format!("has {count} strings for a shape of {length} elements")));
                }
                Payload::Strings(self.strings(&range, STRING_DATA)?)
            }
            (typed, raw) => {
                let wanted = dtype.byte_len(length);
                if dtype.0 <= 0 || (wanted.is_none() && typed.is_some()) {
                    return Err(invalid(format!("has no element type npc knows (code {})", dtype.0)));
                }
                let bytes = if stored.is_external {
                    self.external.bytes(&here(), &stored.external, wanted)?
                } else if let Some(raw) = raw {
                    self.source.slice(raw)
                } else if let Some(field) = typed {
                    if field != typed_field(dtype) {
                        return Err(invalid(format!("keeps {dtype} elements in the field of another type")));
                    }
                    self.typed(&range, dtype, field, wanted)?
                } else {
                    Bytes::from(Vec::new())
                };
                if let Some(wanted) = wanted.filter(|n| *n != bytes.len()) {
                    return Err(invalid(format!(
                        "has {} bytes of data where its shape {dims:?} of {dtype} asks for {wanted}",
                        bytes.len()
                    )));
                }
                Payload::Raw(bytes)
            }
        };
        Ok(Tensor { dims, payload, ..tensor })
    }

    /// A typed field as little-endian bytes. Decodes no more than `wanted` bytes, so that the caller sees a mismatch.
    fn typed(&self, range: &Range<usize>, dtype: DType, field: u32, wanted: Option<usize>) -> Result<Bytes> {
        let fixed = match field {
            FLOAT_DATA => 4,
            DOUBLE_DATA => 8,
            _ => 0,
        };
        // Sub-byte types are packed already: an int32 holds one byte.
        let width = dtype.bits().unwrap_or(8).div_ceil(8);
        let (mut bytes, mut whole, mut chunks) = (Vec::new(), None, 0);
        let mut fields = self.fields(range.clone());
        while let Some(next) = fields.next()? {
            if next.number != field {
                continue;
            }
            chunks += 1;
            match next.content {
                Content::Bytes(r) if fixed > 0 && r.len() % fixed == 0 => {
                    // The first chunk is copied only when it turns out not to be the only one.
                    if chunks == 1 {
                        whole = Some(r);
                        continue;
                    }
                    bytes.extend(whole.take().into_iter().flat_map(|r| &self.bytes[r]));
                    bytes.extend_from_slice(&self.bytes[r]);
                }
                Content::Fixed32(x) if fixed == 4 => {
                    bytes.extend(whole.take().into_iter().flat_map(|r| &self.bytes[r]));
                    bytes.extend(x);
                }
                Content::Fixed64(x) if fixed == 8 => {
                    bytes.extend(whole.take().into_iter().flat_map(|r| &self.bytes[r]));
                    bytes.extend(x);
                }
                Content::Bytes(r) if fixed == 0 => {
                    let count = self.bytes[r.clone()].iter().filter(|b| **b < 0x80).count();
                    let total = bytes.len() + count * width;
                    if wanted.is_some_and(|wanted| total > wanted) {
                        return Err(wire(next.span.start, "more elements than the tensor's shape asks for"));
                    }
                    bytes.reserve(count * width);
                    packed(self.bytes, r, |x| bytes.extend_from_slice(&x.to_le_bytes()[..width]))?;
                }
                Content::Varint(x) if fixed == 0 => bytes.extend_from_slice(&x.to_le_bytes()[..width]),
                _ => return Err(wire(next.span.start, "tensor elements of another wire type")),
            }
        }
        Ok(whole.map_or_else(|| Bytes::from(bytes), |r| self.source.slice(r)))
    }
}

/// The typed field for an element type (onnx.proto).
fn typed_field(dtype: DType) -> u32 {
    match dtype {
        DType::F32 | DType::C64 => FLOAT_DATA,
        DType::F64 | DType::C128 => DOUBLE_DATA,
        DType::I64 => INT64_DATA,
        DType::U32 | DType::U64 => UINT64_DATA,
        _ => INT32_DATA,
    }
}
