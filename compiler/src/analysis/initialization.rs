use crate::graph::{Graph, Node, ValueId};
use serde::{Deserialize, Serialize};

/// How a parameter starts when the model holds no value for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Init {
    /// The model's own initializer.
    Initializer,
    /// All ones (the scale of a normalisation).
    Ones,
    /// All zeros (the shift of a normalisation).
    Zeros,
    /// Uniform in [−bound, bound].
    Uniform {
        /// Half width.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
}

/// Standard deviation for embeddings and other learned tables, as GPT-2 starts them.
const TABLE_STD: f64 = 0.02;

/// How `parameter` should start, judged by what reads it: PyTorch's defaults for linear and convolution layers
/// (U(±1/√fan_in) for weight and bias alike), ones and zeros for normalisations, N(0, 0.02) for tables.
pub fn initialization(graph: &Graph, parameter: ValueId) -> Init {
    if graph.value(parameter).initializer.is_some() {
        return Init::Initializer;
    }
    let dims = graph.value(parameter).dims().unwrap_or_default();
    // The forward pass comes first in creation order, so the first reader that says anything decides.
    let mut readers: Vec<(ValueId, bool)> = vec![(parameter, false)];
    let mut at = 0;
    while at < readers.len() && at < 16 {
        let (value, transposed) = readers[at];
        at += 1;
        let mut consumers = graph.value(value).consumers.clone();
        consumers.sort_unstable();
        for id in consumers {
            let node = graph.node(id);
            let flips = node.op_type == "Transpose";
            if matches!(
                node.op_type.as_str(),
                "Transpose" | "Reshape" | "Expand" | "Cast" | "Identity" | "Unsqueeze" | "Squeeze"
            ) {
                readers.extend(node.output(0).map(|v| (v, transposed ^ flips)));
            } else if let Some(init) = judge(graph, node, value, transposed, &dims) {
                return init;
            }
        }
    }
    match dims.len() {
        0 | 1 => Init::Zeros,
        _ => Init::Normal { std: TABLE_STD },
    }
}

fn judge(graph: &Graph, node: &Node, value: ValueId, transposed: bool, dims: &[usize]) -> Option<Init> {
    let slot = node.inputs.iter().position(|v| *v == Some(value))?;
    let uniform = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in.max(1) as f64).sqrt() };
    // Rows of the second factor: what one output sums over.
    let fan_in = |factor: ValueId, flip: bool| {
        let dims = graph.value(factor).dims().or_else(|| {
            let (_, node) = graph.producer(factor)?;
            let mut dims = graph.value(node.input(0)?).dims()?;
            if node.op_type == "Transpose" {
                dims.reverse();
            }
            Some(dims)
        })?;
        (dims.len() == 2).then(|| dims[usize::from(flip)])
    };
    match (node.op_type.as_str(), slot) {
        ("Gemm", 2) => Some(uniform(fan_in(node.input(1)?, node.int("transB") == Some(1))?)),
        ("Gemm" | "MatMul", _) if dims.len() == 2 => {
            let flip = transposed ^ (slot == 1 && node.int("transB") == Some(1)) ^ (slot == 0);
            Some(uniform(dims[usize::from(flip)]))
        }
        ("Conv", 1) => Some(uniform(dims.get(1..)?.iter().product())),
        ("Conv", 2) => {
            let weight = graph.value(node.input(1)?).dims()?;
            Some(uniform(weight.get(1..)?.iter().product()))
        }
        (
            "LayerNormalization"
            | "BatchNormalization"
            | "GroupNormalization"
            | "InstanceNormalization"
            | "RMSNormalization",
            1,
        ) => Some(Init::Ones),
        ("LayerNormalization" | "BatchNormalization" | "GroupNormalization" | "InstanceNormalization", 2) => {
            Some(Init::Zeros)
        }
        ("BatchNormalization", 3) => Some(Init::Zeros),
        ("BatchNormalization", 4) => Some(Init::Ones),
        ("Gather", 0) => Some(Init::Normal { std: TABLE_STD }),
        ("Add", _) if dims.len() == 1 => {
            let other = node.input(1 - slot.min(1))?;
            let (_, product) = graph.producer(other)?;
            let weight = matches!(product.op_type.as_str(), "MatMul" | "Gemm").then(|| product.input(1)).flatten()?;
            Some(uniform(fan_in(weight, product.int("transB") == Some(1))?))
        }
        _ => None,
    }
}
