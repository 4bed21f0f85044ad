//! Fused elementwise operators: one typed expression, three ways to run it.
//!
//! An [`Expression`] is a list of operations on tensors broadcast to one shape, with outputs of that shape and optionally
//! one reduction at the end. It can be
//!
//! * evaluated element by element ([`Expression::evaluate`]), the reference;
//! * run block by block on the CPU when it is all float32 ([`blocks::Blocks`]);
//! * turned into PTX for NVIDIA GPUs ([`ptx::generate`]).
//!
//! ```
//! use npc_kernels::elementwise::{DType, Expression, Operation, Reduce};
//!
//! // y = relu(x + bias), and the sum of y over the rows.
//! let mut builder = Expression::builder(&[64, 128]);
//! let x = builder.input(DType::F32, &[64, 128])?;
//! let bias = builder.input(DType::F32, &[128])?;
//! let sum = builder.apply(Operation::Add, &[x, bias])?;
//! let y = builder.apply(Operation::Relu, &[sum])?;
//! builder.output(y)?;
//! builder.reduce(Reduce::Sum, y, &[0])?;
//! let expression = builder.finish()?;
//! assert_eq!(expression.outputs(), [(DType::F32, vec![64, 128]), (DType::F32, vec![1, 128])]);
//! # Ok::<(), npc_kernels::cpu::KernelError>(())
//! ```

mod angles;
pub mod blocks;
mod dtype;
mod evaluate;
mod expression;
mod functions;
mod lanes;
mod layout;
mod machine;
mod operation;
mod power;
pub mod ptx;
mod scalar;
#[cfg(test)]
mod tests;

pub use dtype::{DType, Scalar};
pub use expression::{Builder, Expression, Input, Instruction};
pub use operation::{Operand, Operation, Reduce};
