use std::fmt;

/// Element type of a tensor; the discriminants are those of `TensorProto.DataType` (onnx.proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct DType(pub i32);

macro_rules! dtypes {
    ($($name:ident = $code:literal, $text:literal, $bits:literal;)*) => {
        #[allow(missing_docs)]
        impl DType {
            $(pub const $name: DType = DType($code);)*

            /// Short lower-case name used in text output (`f32`, `i64`, …); `None` for codes newer than this build.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($code => Some($text),)* _ => None }
            }

            /// Bits an element takes in `raw_data`; `None` for strings and unknown codes.
            pub fn bits(self) -> Option<usize> {
                match self.0 { $($code => if $bits == 0 { None } else { Some($bits) },)* _ => None }
            }
        }
    };
}

dtypes! {
    UNDEFINED = 0, "undefined", 0;
    F32 = 1, "f32", 32;
    U8 = 2, "u8", 8;
    I8 = 3, "i8", 8;
    U16 = 4, "u16", 16;
    I16 = 5, "i16", 16;
    I32 = 6, "i32", 32;
    I64 = 7, "i64", 64;
    STRING = 8, "string", 0;
    BOOL = 9, "bool", 8;
    F16 = 10, "f16", 16;
    F64 = 11, "f64", 64;
    U32 = 12, "u32", 32;
    U64 = 13, "u64", 64;
    C64 = 14, "c64", 64;
    C128 = 15, "c128", 128;
    BF16 = 16, "bf16", 16;
    F8E4M3FN = 17, "f8e4m3fn", 8;
    F8E4M3FNUZ = 18, "f8e4m3fnuz", 8;
    F8E5M2 = 19, "f8e5m2", 8;
    F8E5M2FNUZ = 20, "f8e5m2fnuz", 8;
    U4 = 21, "u4", 4;
    I4 = 22, "i4", 4;
    F4E2M1 = 23, "f4e2m1", 4;
    F8E8M0 = 24, "f8e8m0", 8;
    U2 = 25, "u2", 2;
    I2 = 26, "i2", 2;
}

impl DType {
    /// float16, bfloat16, float32 or float64: the types an optimizer step may be written in.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }

    /// Bytes that `elements` elements take in `raw_data` (sub-byte types are packed and rounded up).
    pub fn byte_len(self, elements: usize) -> Option<usize> {
        Some(self.bits()?.checked_mul(elements)?.div_ceil(8))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "dtype{}", self.0),
        }
    }
}
