//! Puts one NeuroPlastic node in the place of each recognised update.

use super::Compilation;
use crate::graph::{DType, Node, NodeId, ValueId, ValueType};
use crate::neuroplastic::{self, DOMAIN, OP, Settings, State, states};
use crate::optimizers::Recognition;

/// A parameter to be updated.
pub struct Tensor {
    /// Graph input.
    pub theta: ValueId,
    /// Gradient, shape of θ.
    pub gradient: ValueId,
    /// Name of the output with the next value.
    pub next: String,
    /// Learning rate, float32 scalar.
    pub rate: ValueId,
    /// Its settings.
    pub settings: Settings,
}

/// A NeuroPlastic node with its surroundings.
pub struct Update {
    pub theta: ValueId,
    pub gradient: ValueId,
    pub next: ValueId,
    pub node: NodeId,
    pub states: Vec<(State, ValueId, ValueId)>,
    pub settings: Settings,
    pub rank: usize,
}

/// Scalars all updates read.
#[derive(Clone, Copy)]
pub struct Shared {
    pub step: ValueId,
    pub gates: ValueId,
    pub rate: ValueId,
}

impl Compilation {
    /// Adds a NeuroPlastic node per tensor. New inputs and outputs get working names; the `names` pass gives the final ones.
    pub fn insert(&mut self, tensors: &[Tensor]) {
        let graph = &mut self.model.graph;
        let declare = |graph: &mut crate::graph::Graph, v: ValueId| graph.value_mut(v).declared = true;
        let gates = graph.add_input("npc.gates", ValueType::tensor(DType::F32, &[3]));
        let step = graph.add_input("npc.step", ValueType::tensor(DType::I64, &[]));
        declare(graph, gates);
        declare(graph, step);
        if let Some(first) = tensors.first() {
            self.shared = Some(Shared { step, gates, rate: first.rate });
        }
        for (index, t) in tensors.iter().enumerate() {
            let ty = graph.value(t.theta).ty.clone();
            let dims = graph.value(t.theta).dims().unwrap_or_default();
            let stem = graph.name_of(t.theta).to_string();
            let state_type = Some(ValueType::tensor(DType::F32, &dims));
            let kept: Vec<(State, ValueId)> = states(t.settings.hybrid_base)
                .iter()
                .map(|s| (*s, graph.add_input(&format!("npc.{stem}.{}", s.name()), ValueType::tensor(DType::F32, &dims))))
                .collect();
            if let Some(old) = graph.value_named(&t.next) {
                graph.rename(old, &format!("{}.replaced", t.next));
            }
            let next = graph.add_value(&t.next, ty);
            let mut node = Node::new(OP, [t.rate, step, gates, t.theta, t.gradient]).in_domain(DOMAIN);
            node.name = format!("NeuroPlastic.{stem}");
            node.inputs.extend(kept.iter().map(|(_, v)| Some(*v)));
            node.attributes = neuroplastic::node_attributes(&t.settings, index, tensors.len(), dims.len());
            node.outputs.push(Some(next));
            let mut updated = Vec::new();
            for (state, value) in kept {
                let after = graph.add_value(&format!("npc.{stem}.{}.next", state.name()), state_type.clone());
                node.outputs.push(Some(after));
                updated.push((state, value, after));
            }
            let id = graph.add_node(node);
            let old = graph.value_named(&format!("{}.replaced", t.next));
            match old {
                Some(old) => graph.replace_uses(old, next),
                None => graph.outputs.push(next),
            }
            graph.outputs.extend(updated.iter().map(|(_, _, after)| *after));
            self.updates.push(Update {
                theta: t.theta,
                gradient: t.gradient,
                next,
                node: id,
                states: updated,
                settings: t.settings.clone(),
                rank: dims.len(),
            });
        }
    }

    /// Takes the replaced optimizers' states off the graph's interface.
    pub fn retire(&mut self, found: &Recognition) {
        let states = || found.matches.iter().flat_map(|m| &m.states);
        self.retired.extend(states().map(|s| s.value));
        let gone: rustc_hash::FxHashSet<ValueId> = states().map(|s| s.next).collect();
        self.model.graph.outputs.retain(|v| !gone.contains(v));
        let graph = &mut self.model.graph;
        for (index, update) in self.updates.iter().enumerate() {
            let became: indexmap::IndexMap<String, serde_json::Value> = graph
                .node(update.node)
                .attributes
                .iter()
                .map(|a| (a.name.clone(), attribute_json(&a.value)))
                .collect();
            if let Some(parameter) = self.report.parameters.get_mut(index) {
                parameter.became.settings = became;
            }
        }
    }
}

fn attribute_json(value: &crate::graph::AttributeValue) -> serde_json::Value {
    use crate::graph::AttributeValue as A;
    match value {
        // Through text: a float32's shortest decimal, not its float64 expansion.
        A::Float(x) => x.to_string().parse::<f64>().map_or(serde_json::Value::Null, Into::into),
        A::Int(x) => (*x).into(),
        A::String(s) => String::from_utf8_lossy(s).into(),
        _ => serde_json::Value::Null,
    }
}
