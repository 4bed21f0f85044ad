//! Element types and single values.

use half::{bf16, f16};

/// Type of a tensor's elements. Tensors are stored densely in little-endian order, a `Bool` as one byte, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F16,
    BF16,
    I32,
    I64,
    Bool,
}

impl DType {
    /// Size of one element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            DType::Bool => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }

    /// Whether values are computed in float32.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// The type that values of this type are added up in.
    pub(super) fn accumulator(self) -> DType {
        if self.is_float() { DType::F32 } else { self }
    }
}

/// One value as it is computed with: every float type is held in float32.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Scalar {
    Float(f32),
    I32(i32),
    I64(i64),
    Bool(bool),
}

impl Scalar {
    /// Whether a value of type `dtype` is held in this form.
    pub(super) fn holds(self, dtype: DType) -> bool {
        match self {
            Scalar::Float(_) => dtype.is_float(),
            Scalar::I32(_) => dtype == DType::I32,
            Scalar::I64(_) => dtype == DType::I64,
            Scalar::Bool(_) => dtype == DType::Bool,
        }
    }

    /// Reads element `index` of a tensor of type `dtype`; `None` beyond its end.
    pub(super) fn load(dtype: DType, tensor: &[u8], index: usize) -> Option<Scalar> {
        let width = dtype.bytes();
        let bytes = tensor.get(index.checked_mul(width)?..)?.get(..width)?;
        Some(match dtype {
            DType::F32 => Scalar::Float(f32::from_le_bytes(bytes.try_into().ok()?)),
            DType::F16 => Scalar::Float(f16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
            DType::BF16 => Scalar::Float(bf16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
            DType::I32 => Scalar::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            DType::I64 => Scalar::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            DType::Bool => Scalar::Bool(bytes != [0]),
        })
    }

    /// Appends the value as an element of type `dtype`, rounded to it.
    pub(super) fn store(self, dtype: DType, tensor: &mut Vec<u8>) {
        match self {
            Scalar::Float(x) if dtype == DType::F16 => tensor.extend(f16::from_f32(x).to_le_bytes()),
            Scalar::Float(x) if dtype == DType::BF16 => tensor.extend(bf16::from_f32(x).to_le_bytes()),
            Scalar::Float(x) => tensor.extend(x.to_le_bytes()),
            Scalar::I32(x) => tensor.extend(x.to_le_bytes()),
            Scalar::I64(x) => tensor.extend(x.to_le_bytes()),
            Scalar::Bool(x) => tensor.push(u8::from(x)),
        }
    }

    /// Converts as ONNX's `Cast` does: to integers by truncation, clamped, NaN to 0; from `I64` to `I32` by dropping the
    /// upper bits; to `Bool` by comparing with 0; to `F16` and `BF16` by rounding to nearest even.
    pub(super) fn cast(self, to: DType) -> Scalar {
        let float = |x: f32| match to {
            DType::F16 => f16::from_f32(x).to_f32(),
            DType::BF16 => bf16::from_f32(x).to_f32(),
            _ => x,
        };
        match (self, to) {
            (Scalar::Float(x), DType::I32) => Scalar::I32(x as i32),
            (Scalar::Float(x), DType::I64) => Scalar::I64(x as i64),
            (Scalar::Float(x), DType::Bool) => Scalar::Bool(x != 0.0),
            (Scalar::Float(x), _) => Scalar::Float(float(x)),
            (Scalar::I32(x), DType::I32) => Scalar::I32(x),
            (Scalar::I32(x), DType::I64) => Scalar::I64(i64::from(x)),
            (Scalar::I32(x), DType::Bool) => Scalar::Bool(x != 0),
            (Scalar::I32(x), _) => Scalar::Float(float(x as f32)),
            (Scalar::I64(x), DType::I32) => Scalar::I32(x as i32),
            (Scalar::I64(x), DType::I64) => Scalar::I64(x),
            (Scalar::I64(x), DType::Bool) => Scalar::Bool(x != 0),
            (Scalar::I64(x), _) => Scalar::Float(float(x as f32)),
            (Scalar::Bool(x), DType::I32) => Scalar::I32(i32::from(x)),
            (Scalar::Bool(x), DType::I64) => Scalar::I64(i64::from(x)),
            (Scalar::Bool(x), DType::Bool) => Scalar::Bool(x),
            (Scalar::Bool(x), _) => Scalar::Float(f32::from(u8::from(x))),
        }
    }
}
