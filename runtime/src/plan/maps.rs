//! Elementwise nodes of a typed graph as operations of expressions.

use super::View;
use npc_kernels::elementwise::{DType, Operation, Reduce, Scalar};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_hir::internal::*;

/// One elementwise operation or reduction.
#[derive(Clone, Debug)]
pub struct Map {
    /// What the operands are broadcast to.
    pub shape: Vec<usize>,
    pub operands: Vec<Operand>,
    pub what: What,
    /// The buffer that holds the result densely.
    pub output: super::BufferId,
}

/// What a map reads.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Something an elementwise kernel can read directly, of the map's shape.
    View(View),
    Constant(DType, Scalar),
}

#[derive(Clone, Debug)]
pub enum What {
    Apply(Operation),
    /// Over these axes of the shape.
    Reduce(Reduce, Vec<usize>),
}

/// The expressions' name for an element type; integers that stand for dimensions are int64.
pub fn dtype(dt: DatumType) -> Option<DType> {
    Some(match dt {
        DatumType::F32 => DType::F32,
        DatumType::F16 => DType::F16,
        DatumType::I32 => DType::I32,
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The operation of a node with two operands, whether they change places, and whether the result is negated.
pub fn binary(op: &TypedBinOp) -> Option<(Operation, bool, bool)> {
    let plain = |operation| Some((operation, false, false));
    match op.0.name() {
        "Add" => plain(Operation::Add),
        "Sub" => plain(Operation::Subtract),
        "SubF" => Some((Operation::Subtract, true, false)),
        "Mul" => plain(Operation::Multiply),
        "Div" => plain(Operation::Divide),
        "DivF" => Some((Operation::Divide, true, false)),
        "Max" => plain(Operation::Maximum),
        "Min" => plain(Operation::Minimum),
        "Pow" => plain(Operation::Power),
        "LT" => plain(Operation::Less),
        "LTE" => plain(Operation::LessOrEqual),
        "GT" => Some((Operation::Less, true, false)),
        "GTE" => Some((Operation::LessOrEqual, true, false)),
        "Eq" => plain(Operation::Equal),
        "NE" => Some((Operation::Equal, false, true)),
        "And" => plain(Operation::And),
        "Or" => plain(Operation::Or),
        _ => None,
    }
}

/// The operation of a node with one operand.
pub fn unary(op: &ElementWiseOp) -> Option<Operation> {
    Some(match op.0.name().as_str() {
        "Neg" => Operation::Negate,
        "Not" => Operation::Not,
        "Square" => Operation::Square,
        "Sqrt" => Operation::SquareRoot,
        "Recip" => Operation::Reciprocal,
        "Rsqrt" => Operation::ReciprocalSquareRoot,
        "Abs" => Operation::Absolute,
        "Sign" => Operation::Sign,
        "Exp" => Operation::Exp,
        "Ln" => Operation::Log,
        "Tanh" => Operation::Tanh,
        "Erf" => Operation::Erf,
        "Sin" => Operation::Sine,
        "Cos" => Operation::Cosine,
        "Sigmoid" => Operation::Sigmoid,
        "Floor" => Operation::Floor,
        "Ceil" => Operation::Ceil,
        "RoundHalfToEven" => Operation::Round,
        _ => return None,
    })
}
