//! bfloat16 for an engine without it: every bfloat16 value becomes a float32 one that is rounded to bfloat16 where it is
//! computed. That is how bfloat16 hardware works (float32 inside an operator, one rounding of its result), so the numbers
//! are those of a bfloat16 runtime; the memory is float32's.

use half::bf16;
use npc_compiler::graph::{AttributeValue, DType, Graph, Node, Tensor as Constant, ValueId, ValueType};
use npc_compiler::neuroplastic::DOMAIN;
use std::collections::HashMap;
use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;

/// The operator that rounds.
const ROUND: &str = "RoundToBfloat16";

/// Operators whose results are some of their inputs' elements, and so need no rounding.
const MOVING: &[&str] = &[
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Expand",
    "Slice",
    "Split",
    "Concat",
    "Gather",
    "GatherElements",
    "GatherND",
    "Tile",
    "Relu",
    "Neg",
    "Abs",
    "Max",
    "Min",
    "Where",
    "MaxPool",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    ROUND,
];

element_wise!(round_to_bfloat16, RoundToBfloat16, [f32] => |_, xs| {
    xs.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    Ok(())
});

/// Registers the operator that rounds.
pub fn register(operators: &mut OnnxOpRegister) {
    operators.insert(ROUND, |_, _| Ok((round_to_bfloat16().into_hir(), Vec::new())));
}

/// Makes float32 values of all bfloat16 ones.
pub fn widen(graph: &mut Graph) {
    let types = element_types(graph);
    if !types.values().any(|t| *t == DType::BF16) && !graph.initializers().any(|(_, t)| t.dtype == DType::BF16) {
        return;
    }
    let is_narrow = |v: &ValueId| types.get(v) == Some(&DType::BF16);
    for id in graph.node_ids().collect::<Vec<_>>() {
        let node = graph.node(id);
        if MOVING.contains(&node.op_type.as_str()) || !node.outputs.iter().flatten().any(is_narrow) {
            continue;
        }
        let Some(mut node) = graph.remove_node(id) else { continue };
        let mut rounded = Vec::new();
        for output in node.outputs.iter_mut().flatten().filter(|v| is_narrow(v)) {
            // The name stays with the rounded value, which may be an output of the graph.
            let wide = graph.add_value(&format!("{}.wide", graph.name_of(*output)), None);
            rounded.push((wide, std::mem::replace(output, wide)));
        }
        graph.add_node(node);
        for (wide, value) in rounded {
            graph.add_node(Node { outputs: vec![Some(value)], ..Node::new(ROUND, [wide]) });
        }
    }
    for id in graph.value_ids().collect::<Vec<_>>() {
        let value = graph.value_mut(id);
        if let Some(ValueType::Tensor { dtype, .. }) = &mut value.ty
            && *dtype == DType::BF16
        {
            *dtype = DType::F32;
        }
        if let Some(tensor) = &mut value.initializer {
            widen_tensor(tensor);
        }
    }
    for id in graph.node_ids().collect::<Vec<_>>() {
        for attribute in &mut graph.node_mut(id).attributes {
            match &mut attribute.value {
                AttributeValue::Tensor(tensor) => widen_tensor(tensor),
                AttributeValue::Int(code)
                    if matches!(attribute.name.as_str(), "to" | "dtype") && *code == i64::from(DType::BF16.0) =>
                {
                    *code = i64::from(DType::F32.0);
                }
                _ => {}
            }
        }
    }
}

fn widen_tensor(tensor: &mut Constant) {
    if tensor.dtype == DType::BF16
        && let Some(numbers) = tensor.to_f64()
    {
        let wide = Constant::f32(tensor.dims.clone(), &numbers.iter().map(|x| *x as f32).collect::<Vec<_>>());
        *tensor = Constant { name: std::mem::take(&mut tensor.name), ..wide };
    }
}

/// Element types as far as they are declared or follow from the operators.
fn element_types(graph: &Graph) -> HashMap<ValueId, DType> {
    let mut types: HashMap<ValueId, DType> =
        graph.value_ids().filter_map(|v| Some((v, graph.value(v).dtype()?))).collect();
    types.extend(graph.initializers().map(|(v, t)| (v, t.dtype)));
    for id in graph.order().unwrap_or_default() {
        let node = graph.node(id);
        for (slot, value) in node.outputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))) {
            if !types.contains_key(&value)
                && let Some(dtype) = result_type(node, slot, &types)
            {
                types.insert(value, dtype);
            }
        }
    }
    types
}

fn result_type(node: &Node, slot: usize, types: &HashMap<ValueId, DType>) -> Option<DType> {
    let of = |i: usize| types.get(&node.input(i)?).copied();
    let named = |name: &str| node.int(name).map(|code| DType(code as i32));
    if node.domain == DOMAIN {
        return if node.op_type == "NeuroPlastic" && slot == 0 { of(3) } else { Some(DType::F32) };
    }
    match (node.op_type.as_str(), slot) {
        ("Cast", _) => named("to"),
        ("CastLike", _) | ("Where", _) => of(1),
        ("Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero", _) | ("TopK" | "MaxPool", 1) => Some(DType::I64),
        (
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "And" | "Or" | "Xor" | "IsNaN"
            | "IsInf",
            _,
        )
        | ("Dropout", 1) => Some(DType::BOOL),
        ("OneHot", _) => of(2),
        ("Constant" | "ConstantOfShape", _) => match node.attribute("value") {
            Some(AttributeValue::Tensor(tensor)) => Some(tensor.dtype),
            _ => Some(DType::F32),
        },
        ("RandomNormal" | "RandomUniform", _) => named("dtype").or(Some(DType::F32)),
        ("RandomNormalLike" | "RandomUniformLike" | "EyeLike" | "Bernoulli", _) => named("dtype").or(of(0)),
        _ => of(0),
    }
}
