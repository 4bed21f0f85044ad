//! Which of tract's operators expressions know.

use npc_kernels::elementwise::Operation;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_hir::internal::*;

/// What one elementwise node computes.
pub(super) enum Step {
    /// An operation on the node's inputs of these numbers.
    Compute(Operation, TVec<usize>),
    /// The input repeated.
    Repeat,
}

/// A float32 tensor of known shape.
pub(super) fn is_number(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let fact = model.outlet_fact(outlet)?;
    Ok(fact.datum_type == f32::datum_type() && fact.is_plain() && fact.shape.as_concrete().is_some())
}

/// `None` when the node is no operator on float32 numbers and conditions among them.
pub(super) fn step(model: &TypedModel, node: usize) -> TractResult<Option<Step>> {
    let node = model.node(node);
    let rank = node.outputs[0].fact.rank();
    for input in &node.inputs {
        if model.outlet_fact(*input)?.rank() != rank || !(is_number(model, *input)? || is_condition(model, *input)?) {
            return Ok(None);
        }
    }
    if node.op_is::<Iff>() {
        let numbers = is_number(model, node.inputs[1])? && is_number(model, node.inputs[2])?;
        return Ok(numbers.then(|| Step::Compute(Operation::Select, tvec![0, 1, 2])));
    }
    if node.op_is::<MultiBroadcastTo>() {
        return Ok(Some(Step::Repeat));
    }
    if let Some(TypedBinOp(op, None)) = node.op_as::<TypedBinOp>() {
        return Ok(binary(op.name()).map(|(operation, order)| Step::Compute(operation, order)));
    }
    let Some(ElementWiseOp(op, None)) = node.op_as::<ElementWiseOp>() else { return Ok(None) };
    Ok(unary(&op.name()).map(|operation| Step::Compute(operation, tvec![0])))
}

/// A condition that can be computed from numbers.
fn is_condition(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let fact = model.outlet_fact(outlet)?;
    Ok(fact.datum_type == bool::datum_type()
        && fact.shape.as_concrete().is_some()
        && step(model, outlet.node)?.is_some())
}

fn binary(name: &str) -> Option<(Operation, TVec<usize>)> {
    let operation = match name {
        "Add" => Operation::Add,
        "Sub" | "SubF" => Operation::Subtract,
        "Mul" => Operation::Multiply,
        "Div" => Operation::Divide,
        "Max" => Operation::Maximum,
        "Min" => Operation::Minimum,
        "LT" | "GT" => Operation::Less,
        "LTE" | "GTE" => Operation::LessOrEqual,
        "Eq" => Operation::Equal,
        "And" => Operation::And,
        "Or" => Operation::Or,
        _ => return None,
    };
    let swapped = matches!(name, "SubF" | "GT" | "GTE");
    Some((operation, if swapped { tvec![1, 0] } else { tvec![0, 1] }))
}

fn unary(name: &str) -> Option<Operation> {
    Some(match name {
        "Neg" => Operation::Negate,
        "Square" => Operation::Square,
        "Sqrt" => Operation::SquareRoot,
        "Recip" => Operation::Reciprocal,
        "Rsqrt" => Operation::ReciprocalSquareRoot,
        "Abs" => Operation::Absolute,
        "Exp" => Operation::Exp,
        "Ln" => Operation::Log,
        "Tanh" => Operation::Tanh,
        "Erf" => Operation::Erf,
        "Sigmoid" => Operation::Sigmoid,
        "Not" => Operation::Not,
        _ => return None,
    })
}
