//! Optimizers that are one operator: `ai.onnx.preview.training` and `com.microsoft`.
//!
//! Their formulas are their definitions, so nothing needs to be solved; what is checked is that parameters and states are
//! inputs, next values outputs, and that no option changes the formula in a way NeuroPlastic cannot follow.

pub mod lower;
mod microsoft;
#[cfg(test)]
mod near_misses;
mod preview;
#[cfg(test)]
mod tests;

use super::{Kind, Match, Rate, Setting, State, StateRole, StepInput, Unmatched, describe};
use crate::graph::{Graph, Node, NodeId, ValueId};

/// Domain of ONNX's own training operators.
pub const PREVIEW: &str = "ai.onnx.preview.training";
/// Domain of ONNX Runtime's training operators.
pub const MICROSOFT: &str = "com.microsoft";

/// What the optimizer operators of a graph are.
#[derive(Default)]
pub struct Operators {
    /// Recognised updates.
    pub matches: Vec<Match>,
    /// Updates that an option or a missing output rules out.
    pub unmatched: Vec<Unmatched>,
}

/// Recognises every optimizer operator of a graph.
pub fn recognise(graph: &Graph) -> Operators {
    let mut found = Operators::default();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let updates = match (node.domain.as_str(), node.op_type.as_str()) {
            (PREVIEW, "Adam") => preview::adam(node),
            (PREVIEW, "Adagrad") => preview::adagrad(node),
            (PREVIEW, "Momentum") => preview::momentum(node),
            (MICROSOFT, "SGDOptimizer") => microsoft::sgd(node),
            (MICROSOFT, "SGDOptimizerV2") => microsoft::sgd_v2(graph, node),
            (MICROSOFT, "AdamOptimizer") => microsoft::adam(graph, node),
            (MICROSOFT, "AdamWOptimizer") => microsoft::adamw(graph, node),
            (MICROSOFT, "LambOptimizer") => microsoft::lamb(graph, node),
            _ => continue,
        };
        match updates {
            Ok(updates) => updates.into_iter().for_each(|u| found.add(graph, id, u)),
            Err(reason) => {
                let parameter = node.inputs.iter().flatten().find(|v| graph.value(**v).is_input);
                let parameter = parameter.map_or_else(String::new, |v| graph.name_of(*v).to_string());
                found.unmatched.push(Unmatched { parameter, reason, node: describe(graph, id) });
            }
        }
    }
    found
}

/// One tensor's update by an operator.
struct Update {
    kind: Kind,
    parameter: Option<ValueId>,
    next: Option<ValueId>,
    gradient: Option<ValueId>,
    states: Vec<(Option<ValueId>, Option<ValueId>, StateRole)>,
    rate: Option<ValueId>,
    step: Option<(ValueId, f64)>,
    settings: Vec<(&'static str, f64)>,
    decoupled: bool,
}

type Updates = Result<Vec<Update>, String>;

impl Operators {
    fn add(&mut self, graph: &Graph, id: NodeId, u: Update) {
        let name = u.parameter.map_or_else(|| "?".to_string(), |v| graph.name_of(v).to_string());
        let mut refuse = |reason: &str| {
            self.unmatched.push(Unmatched {
                parameter: name.clone(),
                reason: reason.into(),
                node: describe(graph, id),
            });
        };
        let input = |v: Option<ValueId>| v.filter(|v| graph.value(*v).is_input);
        let output = |v: Option<ValueId>| v.map(|v| exported(graph, v)).filter(|v| graph.outputs.contains(v));
        let (Some(parameter), Some(next)) = (input(u.parameter), output(u.next)) else {
            return refuse("its parameter is not a graph input, or its new value not a graph output");
        };
        let (Some(gradient), Some(rate)) = (u.gradient, u.rate) else {
            return refuse("it lacks a gradient or a learning rate");
        };
        let mut states = Vec::new();
        for (value, after, role) in u.states {
            let (Some(value), Some(next)) = (input(value), output(after)) else {
                return refuse("one of its states is not a graph input, or its new value not a graph output");
            };
            states.push(State { value, next, role });
        }
        self.matches.push(Match {
            parameter,
            next,
            gradient,
            states,
            kind: u.kind,
            learning_rate: Rate { value: Some(rate), scale: 1.0 },
            settings: u.settings.into_iter().map(|(k, x)| (k, Setting::Number(x))).collect(),
            decoupled_weight_decay: u.decoupled,
            epsilon_missing: false,
            step: u.step.filter(|(v, _)| graph.value(*v).is_input).map(|(value, first)| StepInput { value, first }),
            node: id,
        });
    }
}

/// The output a value leaves the graph by: itself, or an `Identity` of it.
fn exported(graph: &Graph, value: ValueId) -> ValueId {
    let identity = |id: &NodeId| {
        let node = graph.node(*id);
        node.is("Identity").then(|| node.output(0)).flatten()
    };
    let copies = graph.value(value).consumers.iter().filter_map(identity);
    std::iter::once(value).chain(copies).find(|v| graph.outputs.contains(v)).unwrap_or(value)
}

/// A float attribute as the number that was meant, or its default.
fn number(node: &Node, name: &str, default: f64) -> f64 {
    node.float(name).map_or(default, |x| x.to_string().parse().unwrap_or(f64::from(x)))
}
