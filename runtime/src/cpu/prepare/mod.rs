//! What is done to a step between tract's clean-up and its code generation, in this order:
//!
//! 1. [`contraction`]: every float32 `EinSum` of two operands (tract's form of MatMul, Gemm and Einsum) becomes one strided
//!    matrix product, which reads transposed and reshaped operands where they lie ([`view`]).
//! 2. [`fusion`]: chains of float32 elementwise operators become one expression, evaluated block by block.

mod contraction;
mod fusion;
mod view;

use tract_onnx::prelude::*;

/// Rewrites a decluttered model of concrete shapes in place.
pub fn run(model: &mut TypedModel) -> TractResult<()> {
    contraction::rewrite(model)?;
    fusion::rewrite(model)
}
