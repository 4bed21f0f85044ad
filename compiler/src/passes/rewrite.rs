//! Puts one NeuroPlastic node in the place of each recognised update.

use super::Compilation;
use crate::compile::CompileError;
use crate::graph::patch::Patch;
use crate::graph::{AttributeValue, DType, Graph, Node, NodeId, ValueId, ValueType};
use crate::neuroplastic::{self, DOMAIN, OP, Settings, State, states};
use crate::optimizers::Recognition;

/// A parameter to be updated.
pub struct Tensor {
    /// Graph input.
    pub theta: ValueId,
    /// Gradient, shape of θ.
    pub gradient: ValueId,
    /// The next value the update takes the place of, its name included; `None` makes a new output `<θ>.next`.
    pub replaces: Option<ValueId>,
    /// Learning rate, float32 scalar.
    pub rate: ValueId,
    /// Its settings.
    pub settings: Settings,
}

/// A NeuroPlastic node with its surroundings.
pub struct Update {
    /// Graph input.
    pub theta: ValueId,
    /// Gradient, shape of θ.
    pub gradient: ValueId,
    /// Graph output with the next value.
    pub next: ValueId,
    /// The node.
    pub node: NodeId,
    /// The node that computes its controller's signal, where a controller is on.
    pub signal: Option<NodeId>,
    /// States with their graph inputs and outputs, in the operator's order.
    pub states: Vec<(State, ValueId, ValueId)>,
    /// Its settings.
    pub settings: Settings,
}

/// Scalars all updates read.
#[derive(Clone, Copy)]
pub struct Shared {
    pub step: ValueId,
    pub gates: ValueId,
    pub rate: ValueId,
}

impl Compilation {
    /// Adds a NeuroPlastic node per tensor. New inputs and outputs get working names, because the names people expect
    /// may still belong to the replaced optimizer; the `names` pass gives the final ones.
    ///
    /// # Errors
    /// A gradient or next value whose type is not the parameter's.
    pub fn insert(&mut self, tensors: &[Tensor]) -> Result<(), CompileError> {
        let Some(first) = tensors.first() else { return Ok(()) };
        let graph = &mut self.model.graph;
        let mut patch = Patch::default();
        let gates = patch.input(graph, "npc.gates", ValueType::tensor(DType::F32, &[3]));
        let step = patch.input(graph, "npc.step", ValueType::tensor(DType::I64, &[]));
        let shared = Shared { step, gates, rate: first.rate };
        self.shared = Some(shared);
        for (index, tensor) in tensors.iter().enumerate() {
            let gradient = typed_gradient(graph, tensor, &mut patch);
            let update = update(graph, tensor, gradient, shared, (index, tensors.len()), &mut patch);
            match tensor.replaces {
                Some(old) => patch.rewire(old, update.next),
                None => patch.output(update.next),
            };
            for (_, _, next) in &update.states {
                patch.output(*next);
            }
            self.updates.push(update);
        }
        patch.apply(graph)?;
        for update in &mut self.updates {
            if let Some((id, _)) = graph.producer(update.next) {
                update.node = id;
            }
        }
        Ok(())
    }

    /// Sets aside the counters that the optimizers to be replaced depend on; [`Compilation::clean`] brings back those
    /// that something else still reads.
    ///
    /// # Errors
    /// A change the graph refuses.
    pub fn retire_counters(&mut self, found: &Recognition) -> Result<(), CompileError> {
        let graph = &self.model.graph;
        let updates: Vec<ValueId> = found.matches.iter().map(|m| m.next).collect();
        let live = graph.ancestors(&updates);
        let counts = |(value, _): &(ValueId, ValueId)| graph.value(*value).consumers.iter().any(|n| live.contains(n));
        self.retired = self.carried.extract_if(.., |pair| counts(pair)).collect();
        self.withdraw_retired()
    }

    fn withdraw_retired(&mut self) -> Result<(), CompileError> {
        let mut patch = Patch::default();
        for (_, next) in &self.retired {
            patch.withdraw(*next);
        }
        Ok(patch.apply(&mut self.model.graph)?)
    }

    /// Takes the replaced optimizers' states off the graph's outputs and reports what each update became.
    ///
    /// # Errors
    /// A change the graph refuses.
    pub fn retire(&mut self, found: &Recognition) -> Result<(), CompileError> {
        self.retired.extend(found.matches.iter().flat_map(|m| &m.states).map(|s| (s.value, s.next)));
        for (update, parameter) in self.updates.iter().zip(&mut self.report.parameters) {
            let attributes = &self.model.graph.node(update.node).attributes;
            parameter.became.settings = attributes.iter().map(|a| (a.name.clone(), attribute_json(&a.value))).collect();
        }
        self.withdraw_retired()
    }
}

/// The gradient in the parameter's element type, as the operator wants it: mixed-precision steps widen one of them.
fn typed_gradient(graph: &mut Graph, tensor: &Tensor, patch: &mut Patch) -> ValueId {
    let (theta, gradient) = (graph.value(tensor.theta).dtype(), graph.value(tensor.gradient).dtype());
    let Some((to, _)) = theta.zip(gradient).filter(|(theta, gradient)| theta != gradient) else {
        return tensor.gradient;
    };
    let dims = graph.value(tensor.theta).dims().unwrap_or_default();
    let name = format!("{}.cast", graph.name_of(tensor.gradient));
    let [cast] = patch.compute(graph, Node::new("Cast", [tensor.gradient]).with("to", i64::from(to.0)), [&name]);
    graph.value_mut(cast).ty = Some(ValueType::tensor(to, &dims));
    cast
}

/// Adds the node that updates `tensor` to the patch; the node's id is settled when the patch is applied.
fn update(
    graph: &mut Graph,
    tensor: &Tensor,
    gradient: ValueId,
    shared: Shared,
    (index, count): (usize, usize),
    patch: &mut Patch,
) -> Update {
    let ty = graph.value(tensor.theta).ty.clone();
    let dims = graph.value(tensor.theta).dims().unwrap_or_default();
    let stem = graph.name_of(tensor.theta).to_string();
    let next_name = match tensor.replaces {
        Some(old) => {
            let name = graph.name_of(old).to_string();
            graph.rename(old, &format!("npc.{name}.replaced"));
            name
        }
        None => format!("{stem}.next"),
    };
    let next = graph.add_value(&next_name, ty);
    let state_type = ValueType::tensor(DType::F32, &dims);
    let kept: Vec<(State, ValueId, ValueId)> = states(tensor.settings.hybrid_base)
        .iter()
        .map(|state| {
            let name = format!("npc.{stem}.{}", state.name());
            let value = patch.input(graph, &name, state_type.clone());
            (*state, value, graph.add_value(&format!("{name}.next"), Some(state_type.clone())))
        })
        .collect();
    let mut node = Node::new(OP, [tensor.rate, shared.step, shared.gates, tensor.theta, gradient]).in_domain(DOMAIN);
    node.name = format!("NeuroPlastic.{stem}");
    node.inputs.extend(kept.iter().map(|(_, value, _)| Some(*value)));
    node.outputs = std::iter::once(next).chain(kept.iter().map(|(_, _, next)| *next)).map(Some).collect();
    node.attributes = neuroplastic::node_attributes(&tensor.settings, index, count, dims.len());
    patch.add(node);
    Update {
        theta: tensor.theta,
        gradient,
        next,
        node: NodeId::end(),
        signal: None,
        states: kept,
        settings: tensor.settings.clone(),
    }
}

fn attribute_json(value: &AttributeValue) -> serde_json::Value {
    match value {
        // Through text: a float32's shortest decimal, not its float64 expansion.
        AttributeValue::Float(x) => x.to_string().parse::<f64>().map_or(serde_json::Value::Null, Into::into),
        AttributeValue::Int(x) => (*x).into(),
        AttributeValue::String(s) => String::from_utf8_lossy(s).into(),
        _ => serde_json::Value::Null,
    }
}
