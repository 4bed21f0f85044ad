//! Layouts, descriptions of products, preferences, and their attributes.

use crate::refusal::{Answer, misuse};
use cudarc::cublaslt::sys::{
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasStatus_t as Status,
};

/// A matrix, or a batch of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    pub dtype: u32,
    pub rows: u64,
    pub columns: u64,
    /// Elements between columns.
    pub leading: i64,
    pub batch: i32,
    /// Elements between the matrices of a batch.
    pub stride: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Description {
    pub compute: u32,
    pub scale: u32,
    /// 0: as it is stored; 1: transposed.
    pub transposes: [i32; 2],
    pub epilogue: u32,
    pub bias: u64,
    pub aux: u64,
    /// Distance between columns of what is kept, in bits for ReLU and in elements for GELU.
    pub aux_leading: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct Preference {
    pub workspace: u64,
    /// What the addresses of A, B, C and D are multiples of.
    pub alignment: [u32; 4],
    /// `cublasLtReductionScheme_t`, as a mask.
    pub reductions: u32,
}

impl Default for Preference {
    /// The library's own: no workspace, addresses at multiples of 256, any reduction.
    fn default() -> Self {
        Preference { workspace: 0, alignment: [256; 4], reductions: 7 }
    }
}

/// A value of an attribute.
struct Value<'a>(&'a [u8]);

impl Value<'_> {
    fn bytes<const N: usize>(&self) -> Answer<[u8; N], Status> {
        match self.0.try_into() {
            Ok(bytes) => Ok(bytes),
            Err(_) => {
                let why = format!("the attribute has {N} bytes, {} were given", self.0.len());
                misuse(Status::CUBLAS_STATUS_INVALID_VALUE, why)
            }
        }
    }

    fn i32(&self) -> Answer<i32, Status> {
        self.bytes().map(i32::from_ne_bytes)
    }

    fn u32(&self) -> Answer<u32, Status> {
        self.bytes().map(u32::from_ne_bytes)
    }

    fn i64(&self) -> Answer<i64, Status> {
        self.bytes().map(i64::from_ne_bytes)
    }

    fn u64(&self) -> Answer<u64, Status> {
        self.bytes().map(u64::from_ne_bytes)
    }
}

fn unknown(attribute: u32) -> Answer<(), Status> {
    misuse(Status::CUBLAS_STATUS_INVALID_VALUE, format!("not built: attribute {attribute}"))
}

impl Layout {
    pub fn set(&mut self, attribute: u32, value: &[u8]) -> Answer<(), Status> {
        let value = Value(value);
        match attribute {
            a if a == LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as u32 => self.batch = value.i32()?,
            a if a == LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as u32 => {
                self.stride = value.i64()?
            }
            other => return unknown(other),
        }
        Ok(())
    }

    /// First element and count of every column, of every matrix, as it lies in memory.
    pub fn columns(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let column = |b: i64, j: i64| (b * self.stride + j * self.leading) as usize;
        (0..i64::from(self.batch))
            .flat_map(move |b| (0..self.columns as i64).map(move |j| (column(b, j), self.rows as usize)))
    }
}

impl Description {
    pub fn set(&mut self, attribute: u32, value: &[u8]) -> Answer<(), Status> {
        let value = Value(value);
        match attribute {
            a if a == Attribute::CUBLASLT_MATMUL_DESC_TRANSA as u32 => self.transposes[0] = value.i32()?,
            a if a == Attribute::CUBLASLT_MATMUL_DESC_TRANSB as u32 => self.transposes[1] = value.i32()?,
            a if a == Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE as u32 => self.epilogue = value.u32()?,
            a if a == Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER as u32 => self.bias = value.u64()?,
            a if a == Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER as u32 => self.aux = value.u64()?,
            a if a == Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD as u32 => self.aux_leading = value.i64()?,
            other => return unknown(other),
        }
        Ok(())
    }
}

impl Preference {
    pub fn set(&mut self, attribute: u32, value: &[u8]) -> Answer<(), Status> {
        use PreferenceAttribute as P;
        let value = Value(value);
        match attribute {
            a if a == P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32 => self.workspace = value.u64()?,
            a if a == P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as u32 => self.reductions = value.u32()?,
            a if a == P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES as u32 => self.alignment[0] = value.u32()?,
            a if a == P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES as u32 => self.alignment[1] = value.u32()?,
            a if a == P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES as u32 => self.alignment[2] = value.u32()?,
            a if a == P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES as u32 => self.alignment[3] = value.u32()?,
            other => return unknown(other),
        }
        Ok(())
    }
}
