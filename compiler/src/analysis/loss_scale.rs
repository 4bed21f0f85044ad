//! Where a training step's loss scale goes.
//!
//! In a flat step the backward pass is written out, so there is no "loss times scale" left to differentiate. What does the
//! same is a value v of the backward pass in which every gradient is homogeneous of degree 1 and on which nothing else
//! depends: gradients of s·v are s times as large, for every s > 0. [`cut`] looks for the earliest v, so that as many products
//! as possible see scaled operands; [`insert`] multiplies it by an input.
//!
//! Degrees go forward from v (degree 1): products add them, quotients subtract them, sums want equal ones, zeros have any.
//! An operator without a rule ends the search at v.

use crate::graph::{AttributeValue, DType, Graph, Model, Node, NodeId, Tensor, ValueId, ValueType};
use crate::neuroplastic::{DOMAIN, OP, SIGNAL};
use crate::onnx::InlineError;
use std::collections::HashSet;

/// Name of the input that [`insert`] adds: a float32 scalar.
pub const INPUT: &str = "npc.loss_scale";

/// Why a step cannot be scaled; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum LossScaleError {
    /// A kept optimizer.
    #[error("no parameter has a NeuroPlastic update, and a kept optimizer cannot skip a step that overflowed")]
    NoUpdate,
    /// No value before all gradients and nothing else.
    #[error(
        "no value of the backward pass leads to the gradients of all parameters and to nothing else (from '{0}' on they have nothing in common)"
    )]
    NoCommon(String),
    /// What follows the values is not linear.
    #[error("the gradients are not linear in '{value}', because {why}")]
    NotLinear {
        /// The last value that was tried.
        value: String,
        /// What breaks it, with node and operator.
        why: String,
    },
    /// A function that cannot be expanded.
    #[error(transparent)]
    Function(#[from] InlineError),
}

/// How a value depends on the cut: multiplied by sᵈ when the cut is multiplied by s > 0. `None`: all zeros, for any d.
type Degree = Option<i32>;

const INDEPENDENT: Degree = Some(0);

/// Multiplies the cut by a new input [`INPUT`], in float32 whatever the cut's type; returns the cut's name.
///
/// # Errors
/// A step without a cut.
pub fn insert(model: &mut Model) -> Result<String, LossScaleError> {
    crate::onnx::inline_functions(model, |node| node.domain == DOMAIN)?;
    let graph = &mut model.graph;
    let value = cut(graph)?;
    let name = graph.name_of(value).to_string();
    let dtype = graph.value(value).dtype().unwrap_or(DType::F32);
    let scale = graph.add_input(INPUT, ValueType::tensor(DType::F32, &[]));
    let ty = graph.value(value).ty.clone();
    let readers: HashSet<NodeId> = graph.value(value).consumers.iter().copied().collect();
    let mut scaled = value;
    if dtype != DType::F32 {
        [scaled] = graph.add(cast(scaled, DType::F32), [format!("{name}.wide").as_str()]);
    }
    [scaled] = graph.add(Node::new("Mul", [scaled, scale]), [format!("{name}.scaled").as_str()]);
    if dtype != DType::F32 {
        [scaled] = graph.add(cast(scaled, dtype), [format!("{name}.narrow").as_str()]);
    }
    graph.value_mut(scaled).ty = ty;
    for id in readers {
        let slots = graph.node(id).inputs.len();
        for slot in (0..slots).filter(|slot| graph.node(id).input(*slot) == Some(value)).collect::<Vec<_>>() {
            graph.set_input(id, slot, scaled);
        }
    }
    Ok(name)
}

fn cast(value: ValueId, to: DType) -> Node {
    Node::new("Cast", [value]).with("to", i64::from(to.0))
}

/// The earliest value whose multiplication by s > 0 multiplies every gradient by s and changes nothing else.
///
/// # Errors
/// When there is none.
pub fn cut(graph: &Graph) -> Result<ValueId, LossScaleError> {
    let order = graph.order().unwrap_or_default();
    let updates: Vec<NodeId> = order.iter().copied().filter(|id| is_own(graph.node(*id), OP)).collect();
    let gradients: Vec<ValueId> = updates.iter().filter_map(|id| graph.node(*id).input(4)).collect();
    let Some(first) = gradients.first() else { return Err(LossScaleError::NoUpdate) };
    let steps: HashSet<NodeId> = updates.iter().copied().collect();
    let results = graph.outputs.iter().copied();
    let others: Vec<ValueId> =
        results.filter(|v| graph.producer(*v).is_none_or(|(id, _)| !steps.contains(&id))).collect();
    let forward = graph.ancestors(&others);
    // Values before every gradient and before nothing else.
    let mut common = backward(graph, *first, &forward);
    for gradient in &gradients {
        let own = backward(graph, *gradient, &forward);
        common.retain(|v| own.contains(v));
        if common.is_empty() {
            return Err(LossScaleError::NoCommon(graph.name_of(*gradient).to_string()));
        }
    }
    let scan = Scan::new(graph, &order, &others);
    // A constant is multiplied only where no computed value will do: that takes a kernel more.
    let computed = order.iter().flat_map(|id| graph.node(*id).outputs.iter().flatten().copied());
    let (computed, constants): (Vec<ValueId>, Vec<ValueId>) = graph
        .initializers()
        .map(|(v, _)| v)
        .chain(computed)
        .filter(|v| common.contains(v) && graph.value(*v).dtype().is_some_and(is_scalable))
        .partition(|v| !scan.is_constant(*v));
    let mut last = None;
    for value in computed.into_iter().chain(constants) {
        match scan.degrees(value) {
            Ok(()) => return Ok(value),
            // What breaks a constant says less than what breaks the backward pass.
            Err(why) if last.is_none() || !scan.is_constant(value) => last = Some((value, why)),
            Err(_) => {}
        }
    }
    Err(match last {
        Some((value, why)) => LossScaleError::NotLinear { value: graph.name_of(value).to_string(), why },
        None => LossScaleError::NoCommon(graph.name_of(*first).to_string()),
    })
}

fn is_own(node: &Node, op: &str) -> bool {
    node.domain == DOMAIN && node.op_type == op
}

fn is_scalable(dtype: DType) -> bool {
    [DType::F32, DType::F16, DType::BF16].contains(&dtype)
}

/// Values that `from` depends on, itself among them, without those that the nodes `forward` compute or read.
fn backward(graph: &Graph, from: ValueId, forward: &rustc_hash::FxHashSet<NodeId>) -> HashSet<ValueId> {
    let is_forward = |v: ValueId| {
        let value = graph.value(v);
        value.producer.is_some_and(|(id, _)| forward.contains(&id))
            || value.consumers.iter().any(|id| forward.contains(id))
    };
    let mut found = HashSet::new();
    let mut stack = vec![from];
    while let Some(value) = stack.pop() {
        if graph.value(value).is_input || is_forward(value) || !found.insert(value) {
            continue;
        }
        if let Some((_, node)) = graph.producer(value) {
            stack.extend(node.inputs.iter().flatten().chain(&node.captures));
        }
    }
    found
}

/// What every candidate is tried on.
struct Scan<'a> {
    graph: &'a Graph,
    order: &'a [NodeId],
    /// Outputs that are no update's.
    others: &'a [ValueId],
    /// Degrees where nothing is multiplied: zeros, and all else.
    still: Vec<Degree>,
}

impl<'a> Scan<'a> {
    fn new(graph: &'a Graph, order: &'a [NodeId], others: &'a [ValueId]) -> Self {
        let mut still = vec![INDEPENDENT; graph.value_count()];
        for (value, tensor) in graph.initializers() {
            if graph.constant(value).is_some() && is_zero(tensor) {
                still[value.0 as usize] = None;
            }
        }
        let mut scan = Scan { graph, order, others, still: Vec::new() };
        for id in order {
            let node = graph.node(*id);
            let degree = if makes_zeros(node) { Ok(vec![None]) } else { scan.node(node, &still) };
            // Without a multiplied value every operator is as good as any other.
            store(node, &degree.unwrap_or_default(), &mut still);
        }
        scan.still = still;
        scan
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.graph.producer(value).is_none_or(|(_, node)| node.is("Constant"))
    }

    /// Propagates from `value`; why it is no cut otherwise.
    fn degrees(&self, value: ValueId) -> Result<(), String> {
        let mut degrees = self.still.clone();
        degrees[value.0 as usize] = Some(1);
        let mut is_reached = vec![false; degrees.len()];
        is_reached[value.0 as usize] = true;
        for id in self.order {
            let node = self.graph.node(*id);
            let all = || node.inputs.iter().flatten().chain(&node.captures);
            if !all().any(|v| is_reached[v.0 as usize]) && !is_own(node, OP) {
                continue;
            }
            let place = || format!("{} at node '{}'", node.op_type, self.node_name(node));
            let found = self.node(node, &degrees).map_err(|why| format!("{}: {why}", place()))?;
            store(node, &found, &mut degrees);
            node.outputs.iter().flatten().for_each(|v| is_reached[v.0 as usize] = true);
        }
        let changed = self.others.iter().find(|v| degrees[v.0 as usize].is_some_and(|d| d != 0));
        changed.map_or(Ok(()), |v| Err(format!("the output '{}' depends on it", self.graph.name_of(*v))))
    }

    fn node_name<'b>(&'b self, node: &'b Node) -> &'b str {
        if node.name.is_empty() { node.output(0).map_or("", |v| self.graph.name_of(v)) } else { &node.name }
    }

    /// Degrees of a node's outputs; one stands for all.
    fn node(&self, node: &Node, degrees: &[Degree]) -> Result<Vec<Degree>, String> {
        let of = |v: ValueId| degrees[v.0 as usize];
        let at = |slot: usize| node.input(slot).and_then(of);
        let all: Vec<Degree> = node.inputs.iter().flatten().map(|v| of(*v)).collect();
        let still = |slots: &[usize]| {
            let moving = slots.iter().find(|slot| at(**slot).is_some_and(|d| d != 0));
            moving.map_or(Ok(()), |slot| Err(format!("its input {slot} must not change")))
        };
        let count = node.inputs.len();
        let but = |one: usize| (0..count).filter(|slot| *slot != one).collect::<Vec<_>>();
        if is_own(node, OP) {
            still(&but(4))?;
            return match at(4) {
                None | Some(1) => Ok(vec![INDEPENDENT]),
                Some(_) => Err("its gradient does not grow with it".into()),
            };
        }
        if is_own(node, SIGNAL) {
            still(&but(1))?;
            return match at(1) {
                None | Some(1) => Ok(vec![INDEPENDENT]),
                Some(_) => Err("its gradient does not grow with it".into()),
            };
        }
        let is_standard = node.domain.is_empty() && node.captures.is_empty();
        let op = if is_standard { node.op_type.as_str() } else { "" };
        Ok(vec![match op {
            // What only arranges elements anew, or adds them up.
            "Identity" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Expand" | "Tile" | "Slice"
            | "Split" | "Gather" | "GatherElements" | "GatherND" | "Trilu" | "DepthToSpace" | "SpaceToDepth" | "Neg"
            | "ReduceSum" | "ReduceMean" | "CumSum" | "AveragePool" | "GlobalAveragePool" | "MaxUnpool" | "Dropout"
            // Positively homogeneous.
            | "Abs" | "Relu" | "LeakyRelu" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "GlobalMaxPool" => {
                still(&but(0))?;
                at(0)
            }
            "CastLike" => at(0),
            "Cast" => match node.int("to").and_then(|to| i32::try_from(to).ok()).map(DType) {
                Some(to) if to.is_float() => at(0),
                _ => {
                    still(&but(count))?;
                    INDEPENDENT
                }
            },
            "MaxPool" => return Ok(vec![at(0), INDEPENDENT]),
            "Add" | "Sub" | "Sum" | "Mean" | "Max" | "Min" | "Concat" | "Clip" => equal(&all)?,
            "Where" => {
                still(&[0])?;
                equal(&all[1..])?
            }
            "Pad" => {
                still(&[1, 3])?;
                // The filling is zero where it is not given.
                equal(&[at(0), at(2)])?
            }
            "ScatterElements" | "ScatterND" => {
                still(&[1])?;
                if node.string("reduction") == Some("mul") {
                    still(&but(count))?;
                }
                equal(&[at(0), at(2)])?
            }
            "Mul" | "MatMul" | "Einsum" => sum(&all),
            "Conv" | "ConvTranspose" | "Gemm" => {
                let product = sum(&[at(0), at(1)]);
                if node.input(2).is_some() && node.float("beta") != Some(0.0) { equal(&[product, at(2)])? } else { product }
            }
            "Div" => match (at(0), at(1)) {
                (Some(a), Some(b)) => Some(a - b),
                // A quotient of zeros is no number, and stays so.
                _ => None,
            },
            "Reciprocal" => at(0).map(|d| -d),
            "ReduceSumSquare" => at(0).map(|d| 2 * d),
            "Sqrt" => match at(0) {
                Some(d) if d % 2 != 0 => return Err("it takes the root".into()),
                degree => degree.map(|d| d / 2),
            },
            "Pow" => {
                still(&[1])?;
                let exponent = node.input(1).and_then(|v| self.graph.constant(v)?.scalar_f64());
                match (at(0), exponent) {
                    (None | Some(0), _) => INDEPENDENT,
                    (Some(d), Some(e)) if e.fract() == 0.0 && e.abs() < 8.0 => Some(d * e as i32),
                    _ => return Err("the exponent is not a small constant".into()),
                }
            }
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => equal(&all).map(|_| INDEPENDENT)?,
            "Sign" | "Shape" | "Size" | "IsNaN" | "IsInf" | "ArgMax" | "ArgMin" => INDEPENDENT,
            _ => {
                still(&but(count))?;
                let captured = node.captures.iter().any(|v| of(*v).is_some_and(|d| d != 0));
                if captured { Err("a sub-graph reads it")? } else { INDEPENDENT }
            }
        }])
    }
}

fn store(node: &Node, found: &[Degree], degrees: &mut [Degree]) {
    for (slot, output) in node.outputs.iter().enumerate() {
        if let Some(v) = output {
            degrees[v.0 as usize] = found.get(slot).or(found.first()).copied().unwrap_or(INDEPENDENT);
        }
    }
}

fn equal(degrees: &[Degree]) -> Result<Degree, String> {
    let mut found = None;
    for degree in degrees.iter().flatten() {
        match found {
            Some(known) if known != *degree => return Err("it joins what grows with what does not".into()),
            _ => found = Some(*degree),
        }
    }
    Ok(found)
}

/// Of a product; one with zeros is zero.
fn sum(degrees: &[Degree]) -> Degree {
    degrees.iter().copied().sum()
}

fn is_zero(tensor: &Tensor) -> bool {
    match tensor.bytes() {
        Some(bytes) => bytes.iter().all(|b| *b == 0),
        None => tensor.to_f64().is_some_and(|values| values.iter().all(|x| *x == 0.0)),
    }
}

fn makes_zeros(node: &Node) -> bool {
    let value = |name: &str| match node.attribute(name) {
        Some(AttributeValue::Tensor(tensor)) => Some(is_zero(tensor)),
        _ => None,
    };
    // Without a value it fills with zeros.
    (node.is("ConstantOfShape") && value("value") != Some(false))
        || (node.is("Constant") && (value("value") == Some(true) || node.float("value_float") == Some(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompileOptions, Optimizer, compile};
    use std::path::Path;

    fn compiled(file: &str, optimizer: Optimizer) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
        let options = CompileOptions { optimizer, ..CompileOptions::default() };
        compile(crate::onnx::load(&path).unwrap(), &options).unwrap().model
    }

    /// The seed of the backward pass, or the logits' gradient.
    #[test]
    fn every_shipped_step_has_a_cut() {
        for (file, cut) in [
            ("pytorch-train-step/mlp_adam_lerp.onnx", "Div(full_like, _to_copy)"),
            ("pytorch-train-step/mlp_adamw.onnx", "Div(full_like, _to_copy)"),
            ("pytorch-train-step/mlp_adamw_unoptimized.onnx", "Expand(val_10, val_11)"),
            ("pytorch-train-step/mlp_momentum.onnx", "Div(full_like, _to_copy)"),
            ("pytorch-train-step/mlp_rmsprop.onnx", "Div(full_like, _to_copy)"),
            ("pytorch-train-step/mlp_sgd.onnx", "Div(full_like, _to_copy)"),
            ("pytorch-train-step/transformer_adamw.onnx", "Div(full_like, _to_copy)"),
            ("cnn-train-step/cnn_adamw.onnx", "Sub(probabilities, one_hot)"),
            ("jax-train-step/mlp_optax_adam.onnx", "Neg(const_68)"),
            ("jax-train-step/mlp_optax_momentum.onnx", "Neg(const_68)"),
            ("jax-train-step/mlp_optax_sgd.onnx", "Neg(const_68)"),
        ] {
            let mut model = compiled(file, Optimizer::NeuroPlastic);
            let (before, name) = (model.graph.node_count(), insert(&mut model).unwrap());
            assert_eq!(model.graph.node_count(), before + 1, "{file}");
            crate::graph::verify::verify(&model).unwrap();
            let value = model.graph.value_named(&name).unwrap();
            let (_, node) = model.graph.producer(value).unwrap();
            assert_eq!(crate::graph::text::application(&model.graph, node), cut, "{file}");
            // Only the multiplication reads it any more.
            assert_eq!(model.graph.value(value).consumers.len(), 1, "{file}");
        }
    }

    fn first_update(graph: &Graph) -> NodeId {
        graph.node_ids().find(|id| is_own(graph.node(*id), OP)).unwrap()
    }

    #[test]
    fn what_cannot_be_scaled_is_refused_by_name() {
        let refused = |change: fn(&mut Graph)| {
            let mut model = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
            change(&mut model.graph);
            insert(&mut model).unwrap_err().to_string()
        };
        let clipped = refused(|graph| {
            let update = first_update(graph);
            let [low, high] = [-1.0, 1.0].map(|x| graph.add_initializer("bound", Tensor::f32([], &[x])));
            let gradient = graph.node(update).input(4).unwrap();
            let mut clip = Node::new("Clip", [gradient, low, high]);
            clip.name = "by_value".into();
            let [clipped] = graph.add(clip, ["clipped"]);
            graph.set_input(update, 4, clipped);
        });
        assert!(clipped.contains("Clip at node 'by_value'"), "{clipped}");
        // An output of the user's own that would be scaled with the gradients.
        let shown = refused(|graph| {
            let gradient = graph.node(first_update(graph)).input(4).unwrap();
            graph.outputs.push(gradient);
        });
        assert!(shown.contains("nothing else"), "{shown}");
        let squared = refused(|graph| {
            let update = first_update(graph);
            let gradient = graph.node(update).input(4).unwrap();
            let [square] = graph.add(Node::new("Mul", [gradient, gradient]), ["square"]);
            graph.set_input(update, 4, square);
        });
        assert!(squared.contains("does not grow"), "{squared}");
        let mut kept = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::Keep);
        assert!(insert(&mut kept).unwrap_err().to_string().contains("kept optimizer"));
    }

    /// Gradients divided by their norm, and put together again by it, are as linear as they were.
    #[test]
    fn degrees_of_roots_and_quotients_cancel() {
        let mut model = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
        let graph = &mut model.graph;
        let update = first_update(graph);
        let gradient = graph.node(update).input(4).unwrap();
        let [square] = graph.add(Node::new("ReduceSumSquare", [gradient]), ["square"]);
        let [norm] = graph.add(Node::new("Sqrt", [square]), ["norm"]);
        let [direction] = graph.add(Node::new("Div", [gradient, norm]), ["direction"]);
        let [again] = graph.add(Node::new("Mul", [direction, norm]), ["again"]);
        graph.set_input(update, 4, again);
        assert!(cut(graph).is_ok());
        graph.set_input(update, 4, direction);
        assert!(cut(graph).unwrap_err().to_string().contains("does not grow"));
    }
}
