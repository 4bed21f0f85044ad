//! Which ONNX operators the tape's interpreter knows.

use super::super::tape::Op;
use crate::graph::{DType, Node, Payload, Tensor};

pub(super) fn to_float(node: &Node) -> bool {
    node.int("to").is_none_or(|t| DType(t as i32).is_float() || t == i64::from(DType::BOOL.0))
}

/// Operators whose further inputs say a shape or a type, not a value.
pub(super) fn is_view(node: &Node) -> bool {
    matches!(node.op_type.as_str(), "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" | "CastLike" | "Cast" | "Identity")
}

/// The interpreter's operator for a node, if it has one.
pub(super) fn operator(node: &Node) -> Option<Op> {
    if !node.domain.is_empty() {
        return None;
    }
    Some(match node.op_type.as_str() {
        "Add" | "Sum" => Op::Add,
        "Sub" => Op::Sub,
        "Mul" => Op::Mul,
        "Div" => Op::Div,
        "Neg" => Op::Neg,
        "Sqrt" => Op::Sqrt,
        "Pow" => Op::Pow,
        "Abs" => Op::Abs,
        "Sign" => Op::Sign,
        "Max" => Op::Max,
        "Min" => Op::Min,
        "Mean" => Op::Mean,
        "Clip" => Op::Clip,
        "Where" => Op::Where,
        "Exp" => Op::Exp,
        "Log" => Op::Log,
        "Reciprocal" => Op::Reciprocal,
        "Floor" => Op::Floor,
        "Ceil" => Op::Ceil,
        "Relu" => Op::Relu,
        "Tanh" => Op::Tanh,
        "Equal" => Op::Equal,
        "Less" => Op::Less,
        "LessOrEqual" => Op::LessOrEqual,
        "Greater" => Op::Greater,
        "GreaterOrEqual" => Op::GreaterOrEqual,
        "Not" => Op::Not,
        "And" => Op::And,
        "Or" => Op::Or,
        "IsNaN" => Op::IsNan,
        "IsInf" => Op::IsInf,
        "ReduceSum" => Op::ReduceSum,
        "ReduceSumSquare" => Op::ReduceSumSquare,
        "ReduceL2" => Op::ReduceL2,
        "ReduceL1" => Op::ReduceL1,
        "ReduceMean" => Op::ReduceMean,
        "ReduceMax" => Op::ReduceMax,
        "ReduceMin" => Op::ReduceMin,
        "Identity" | "Cast" | "CastLike" | "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" => Op::Identity,
        _ => return None,
    })
}

/// The number every element of a tensor equals.
pub(super) fn uniform(tensor: &Tensor) -> Option<f64> {
    let Payload::Raw(bytes) = &tensor.payload else { return None };
    let size = tensor.dtype.bits()? / 8;
    if size == 0 || bytes.is_empty() || bytes.chunks_exact(size).any(|c| c != &bytes[..size]) {
        return None;
    }
    Tensor::raw(tensor.dtype, [], bytes[..size].to_vec()).scalar_f64()
}
