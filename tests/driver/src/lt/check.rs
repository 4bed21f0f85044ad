//! Whether a description and its layouts fit together.

use super::epilogue::{Factor, Parts};
use super::{Description, Layout};
use crate::refusal::{Answer, misuse, refuse};
use cudarc::cublaslt::sys::{cublasComputeType_t as Compute, cublasStatus_t as Status};
use std::hash::{DefaultHasher, Hash, Hasher};

/// `CUDA_R_32F`, `CUDA_R_16F`, `CUDA_R_16BF`.
pub const FLOAT: u32 = 0;
pub const HALF: u32 = 2;
pub const BFLOAT: u32 = 14;

/// Bytes of an element.
pub fn size(dtype: u32) -> u64 {
    if dtype == FLOAT { 4 } else { 2 }
}

/// A product that can be computed.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub parts: Parts,
}

/// The shape of a product.
///
/// # Errors
/// `INVALID_VALUE` where it contradicts itself, `NOT_SUPPORTED` where the library has no such product.
pub fn check(d: &Description, layouts: &[Layout; 4]) -> Answer<Shape, Status> {
    let [a, b, c, out] = layouts;
    let wrong = |why: String| misuse(Status::CUBLAS_STATUS_INVALID_VALUE, why);
    let computes = [
        Compute::CUBLAS_COMPUTE_32F,
        Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
        Compute::CUBLAS_COMPUTE_32F_FAST_16BF,
        Compute::CUBLAS_COMPUTE_32F_FAST_16F,
    ];
    let known = [FLOAT, HALF, BFLOAT];
    let is_float = layouts.iter().all(|layout| known.contains(&layout.dtype)) && d.scale == FLOAT;
    if !is_float || !computes.iter().any(|known| *known as u32 == d.compute) {
        let why = format!("not built: {d:?} of {layouts:?}");
        return misuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why);
    }
    let types = layouts.map(|layout| layout.dtype);
    if types[0] != types[1] || types[2] != types[3] || types[3] != FLOAT && types[3] != types[0] {
        return wrong(format!("A, B, C and D are of the types {types:?}"));
    }
    // As the table of `cublasLtMatmul` has it.
    if types[0] != FLOAT && d.compute != Compute::CUBLAS_COMPUTE_32F as u32 {
        return wrong(format!("factors of 16 bits in the compute type {}", d.compute));
    }
    if d.transposes.iter().any(|t| !(0..=1).contains(t)) {
        return wrong(format!("transposes {:?}", d.transposes));
    }
    for layout in layouts {
        if layout.rows == 0 || layout.columns == 0 || layout.leading < layout.rows as i64 {
            return wrong(format!("{layout:?} has columns longer than the distance between them, or nothing"));
        }
        if layout.batch != out.batch || layout.batch < 1 {
            return wrong(format!("batches of {} and {}", layout.batch, out.batch));
        }
    }
    let turned = |layout: &Layout, transposed: i32| match transposed {
        0 => (layout.rows, layout.columns),
        _ => (layout.columns, layout.rows),
    };
    let ((m, k), (inner, n)) = (turned(a, d.transposes[0]), turned(b, d.transposes[1]));
    if inner != k || (out.rows, out.columns) != (m, n) || (c.rows, c.columns) != (m, n) {
        let why = format!("{m}×{k} times {inner}×{n} is not {}×{} or {}×{}", c.rows, c.columns, out.rows, out.columns);
        return wrong(why);
    }
    let span = (out.columns as i64 - 1) * out.leading + out.rows as i64;
    let is_apart =
        out.stride >= span || out.stride >= out.rows as i64 && out.leading >= out.stride * i64::from(out.batch);
    if out.batch > 1 && !is_apart {
        return wrong(format!("the results of a batch overlap: {out:?}"));
    }
    let Some(parts) = Parts::of(d.epilogue) else { return wrong(format!("epilogue {}", d.epilogue)) };
    if out.batch > 1 && (parts.has_bias_pointer() || parts.aux().is_some()) {
        return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, "not built: an epilogue with memory of a batch");
    }
    if out.dtype != FLOAT && (parts.has_bias_pointer() || parts.aux().is_some()) {
        let why = "npc: a bias, its gradient and what an epilogue keeps are of D's type, and npc has them in float32";
        return wrong(why.into());
    }
    if parts.has_bias_pointer() && (d.bias == 0 || !d.bias.is_multiple_of(4)) {
        return wrong(format!("the epilogue needs a bias, which is at {:#x}", d.bias));
    }
    if let Some(activation) = parts.aux() {
        let multiple = activation.aux_multiple();
        if d.aux == 0 || !d.aux.is_multiple_of(16) {
            return wrong(format!("the epilogue needs an auxiliary buffer, which is at {:#x}", d.aux));
        }
        if d.aux_leading < m as i64 || d.aux_leading % multiple != 0 {
            return wrong(format!("columns of {m} are kept {} apart, in multiples of {multiple}", d.aux_leading));
        }
    }
    let [m, n, k] = [m, n, k].map(|x| x as usize);
    Ok(Shape { m, n, k, parts })
}

impl Shape {
    /// Elements of the bias or its gradient.
    pub fn bias(&self) -> usize {
        match self.parts.factor_sums {
            Some(Factor::B) => self.n,
            _ => self.m,
        }
    }
}

/// Two products with the same number can be computed by the same algorithm.
pub fn fingerprint(d: &Description, layouts: &[Layout; 4]) -> u64 {
    // Addresses do not matter, whether there are any does.
    let plain = Description { bias: u64::from(d.bias != 0), aux: u64::from(d.aux != 0), ..*d };
    let mut hasher = DefaultHasher::new();
    (plain, layouts).hash(&mut hasher);
    hasher.finish()
}
