//! The learning-rate controller: each tensor's signal, their mean over a scope, and the multiplier κ made of it.

use super::Compilation;
use crate::compile::CompileError;
use crate::graph::patch::Patch;
use crate::graph::{DType, Node, Tensor, ValueId, ValueType};
use crate::neuroplastic::{ControllerMode, DOMAIN, Group, SIGNAL, Settings, controller_group};
use rustc_hash::FxHashMap;

impl Compilation {
    /// Gives every NeuroPlastic node its κ when a controller is on.
    ///
    /// # Errors
    /// A change the graph refuses.
    pub fn control(&mut self, settings: &Settings) -> Result<(), CompileError> {
        let on = settings.lr_controller_mode != ControllerMode::Off;
        let Some(shared) = self.shared.filter(|_| on) else { return Ok(()) };
        let count = self.updates.len();
        let scope = |index: usize| match (settings.lr_controller_mode, controller_group(index, count)) {
            (ControllerMode::Off, _) => None,
            (ControllerMode::Global, _) => Some(Group::Stem),
            (ControllerMode::ClassifierOnly, group) => (group == Group::Classifier).then_some(group),
            (ControllerMode::Layerwise, group) => Some(group),
        };
        let graph = &mut self.model.graph;
        let mut patch = Patch::default();
        let mut made: Vec<(usize, ValueId)> = Vec::new();
        let mut signals: FxHashMap<Group, Vec<ValueId>> = FxHashMap::default();
        for (index, update) in self.updates.iter().enumerate() {
            let Some(group) = scope(index) else { continue };
            let traces = update.states.iter().take(3).map(|(_, value, _)| *value);
            let mut node =
                Node::new(SIGNAL, [shared.gates, update.gradient].into_iter().chain(traces)).in_domain(DOMAIN);
            node.attributes.clone_from(&graph.node(update.node).attributes);
            let stem = graph.name_of(update.theta).to_string();
            node.name = format!("{SIGNAL}.{stem}");
            let [signal] = patch.compute(graph, node, [format!("{stem}.signal").as_str()]);
            graph.value_mut(signal).ty = Some(ValueType::tensor(DType::F32, &[]));
            made.push((index, signal));
            signals.entry(group).or_default().push(signal);
        }
        let constant = |graph: &mut crate::graph::Graph, name: &str, x: f64| {
            graph.add_initializer(name, Tensor::f32([], &[x as f32]))
        };
        let one = constant(graph, "controller.one", 1.0);
        let alpha = constant(graph, "controller.alpha", settings.controller_alpha);
        let low = constant(graph, "controller.low", settings.controller_low);
        let high = constant(graph, "controller.high", settings.controller_high);
        let mut multipliers: FxHashMap<Group, ValueId> = FxHashMap::default();
        for (index, update) in self.updates.iter().enumerate() {
            let multiplier = match scope(index) {
                None => one,
                Some(group) => *multipliers.entry(group).or_insert_with(|| {
                    let parts = &signals[&group];
                    let share = constant(graph, "controller.share", 1.0 / parts.len() as f64);
                    let mut op = |op: &str, inputs: &[ValueId], name: &str| {
                        patch.compute(graph, Node::new(op, inputs.iter().copied()), [name])[0]
                    };
                    let sum = op("Sum", parts, "controller.sum");
                    let mean = op("Mul", &[sum, share], "controller.mean");
                    let gain = op("Mul", &[alpha, mean], "controller.gain");
                    let raw = op("Add", &[one, gain], "controller.raw");
                    let raised = op("Max", &[raw, low], "controller.raised");
                    op("Min", &[raised, high], "controller.multiplier")
                }),
            };
            patch.read(update.node, graph.node(update.node).inputs.len(), multiplier);
        }
        patch.apply(graph)?;
        for (index, signal) in made {
            self.updates[index].signal = graph.producer(signal).map(|(id, _)| id);
        }
        Ok(())
    }
}
