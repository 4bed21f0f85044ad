//! Types of values.

use super::{Content, Reader, Result};
use crate::graph::{DType, Dim, ValueType};
use std::ops::Range;

impl Reader<'_> {
    /// A plain tensor type in its own form, every other type verbatim.
    pub(super) fn value_type(&self, range: &Range<usize>) -> Result<ValueType> {
        let verbatim = || ValueType::Other(self.bytes[range.clone()].to_vec());
        let mut fields = self.fields(range.clone());
        match (fields.next()?.map(|f| (f.number, f.content)), fields.next()?) {
            (Some((1, Content::Bytes(tensor))), None) => Ok(self.tensor_type(&tensor)?.unwrap_or_else(verbatim)),
            _ => Ok(verbatim()),
        }
    }

    /// `None` for a type with denotations or unknown fields.
    fn tensor_type(&self, range: &Range<usize>) -> Result<Option<ValueType>> {
        let (mut dtype, mut shape) = (DType::UNDEFINED, None);
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Varint(x)) => dtype = DType(*x as i32),
                (2, Content::Bytes(r)) if shape.is_none() => match self.shape(r)? {
                    Some(dims) => shape = Some(dims),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        Ok(Some(ValueType::Tensor { dtype, shape }))
    }

    fn shape(&self, range: &Range<usize>) -> Result<Option<Vec<Dim>>> {
        let mut shape = Vec::new();
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            let (1, Content::Bytes(r)) = (field.number, &field.content) else { return Ok(None) };
            let mut dim = Dim::Unknown;
            let mut inner = self.fields(r.clone());
            while let Some(field) = inner.next()? {
                dim = match (field.number, &field.content) {
                    // Exporters write -1 for an extent they do not know.
                    (1, Content::Varint(x)) => usize::try_from(*x as i64).map_or(Dim::Unknown, Dim::Known),
                    (2, Content::Bytes(r)) if r.is_empty() => Dim::Unknown,
                    (2, Content::Bytes(r)) => Dim::Symbol(self.text(r)?),
                    _ => return Ok(None),
                };
            }
            shape.push(dim);
        }
        Ok(Some(shape))
    }
}
