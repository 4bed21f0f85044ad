//! Gives a kept optimizer back the epsilon its exporter dropped.

use super::Compilation;
use crate::compile::{CompileError, CompileOptions};
use crate::graph::patch::Patch;
use crate::graph::{DType, Graph, Node, NodeId, Tensor, ValueId};
use crate::optimizers::{self, Match, RecogniseOptions, Recognition, Setting};
use rustc_hash::FxHashMap;

/// PyTorch's default.
const EPSILON: f64 = 1e-8;
/// Values looked at on the way from θ' back to the division by a root.
const REACH: usize = 64;

/// Adds an epsilon to the divisor of every update that lacks it, then recognises the model again: what was restored is
/// what the report says.
///
/// # Errors
/// A change the graph refuses.
pub fn restore(c: &mut Compilation, found: &Recognition, options: &CompileOptions) -> Result<(), CompileError> {
    let missing: Vec<&Match> = found.matches.iter().filter(|m| m.epsilon_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let eps = options.eps.unwrap_or(EPSILON);
    if !(eps > 0.0 && eps.is_finite()) {
        let range = "greater than 0";
        return Err(crate::neuroplastic::SettingsError::Range { name: "eps", value: eps, range }.into());
    }
    let graph = &mut c.model.graph;
    let mut constants = FxHashMap::default();
    let mut patch = Patch::default();
    for m in &missing {
        let Some(Divisor { node, slot, value }) = divisor(graph, m) else { continue };
        let dtype = graph.value(value).dtype().or(graph.value(m.parameter).dtype()).unwrap_or(DType::F32);
        let Some(tensor) = Tensor::scalar(dtype, eps) else { continue };
        let epsilon = *constants.entry(dtype).or_insert_with(|| graph.add_initializer("epsilon", tensor));
        let ty = graph.value(value).ty.clone();
        let name = format!("{}.with_epsilon", graph.name_of(value));
        let [raised] = patch.compute(graph, Node::new("Add", [value, epsilon]), [&name]);
        graph.value_mut(raised).ty = ty;
        patch.read(node, slot, raised);
    }
    patch.apply(graph)?;
    report(c, &missing, options)
}

/// Says for every update what epsilon it has now.
fn report(c: &mut Compilation, missing: &[&Match], options: &CompileOptions) -> Result<(), CompileError> {
    let again = optimizers::recognise(&c.model, &RecogniseOptions { bind: options.bind.clone() })?;
    let graph = &c.model.graph;
    let mut restored = Vec::new();
    for m in missing {
        let name = graph.name_of(m.parameter);
        let now = again.matches.iter().find(|n| n.parameter == m.parameter && n.kind == m.kind && !n.epsilon_missing);
        match now.and_then(|n| n.settings.get("epsilon")) {
            Some(Setting::Number(epsilon)) => {
                restored.push(*epsilon);
                if let Some(parameter) = c.report.parameters.iter_mut().find(|p| p.name == name) {
                    parameter.became.settings.insert("epsilon".into(), (*epsilon).into());
                }
            }
            _ => c.report.warnings.push(format!(
                "'{name}' has no epsilon and none could be put back: an element whose gradient stays 0 becomes 0/0"
            )),
        }
    }
    if let Some(epsilon) = restored.first() {
        c.report.warnings.push(format!(
            "{} of {} updates had no epsilon (PyTorch's exporter drops '+ 1e-8'), so a zero gradient gave 0/0; it is {epsilon:e} again (--eps changes it)",
            restored.len(),
            c.report.parameters.len()
        ));
    }
    Ok(())
}

/// Where an update divides by a root.
struct Divisor {
    node: NodeId,
    slot: usize,
    value: ValueId,
}

/// The division (or reciprocal) nearest to θ' whose divisor is the root of a tensor.
fn divisor(graph: &Graph, m: &Match) -> Option<Divisor> {
    let mut open = std::collections::VecDeque::from([m.next]);
    let mut seen = rustc_hash::FxHashSet::default();
    while let Some(value) = open.pop_front() {
        if value == m.gradient || seen.len() > REACH || !seen.insert(value) {
            continue;
        }
        let Some((id, node)) = graph.producer(value) else { continue };
        let slot = if node.is("Div") { Some(1) } else { node.is("Reciprocal").then_some(0) };
        if let Some(slot) = slot
            && let Some(value) = node.input(slot)
            && is_root_of_tensor(graph, value, m.parameter)
        {
            return Some(Divisor { node: id, slot, value });
        }
        open.extend(node.inputs.iter().flatten());
    }
    None
}

fn is_root_of_tensor(graph: &Graph, value: ValueId, parameter: ValueId) -> bool {
    let mut at = value;
    // A root may be corrected or converted before it divides.
    for _ in 0..6 {
        let Some((_, node)) = graph.producer(at) else { return false };
        let Some(argument) = node.input(0) else { return false };
        match node.op_type.as_str() {
            "Sqrt" | "Pow" if spans(graph, argument, parameter) => return true,
            "Div" | "Mul" | "Identity" | "Cast" => at = argument,
            _ => return false,
        }
    }
    false
}

/// True when a value has the parameter's shape, or is computed from one that has.
fn spans(graph: &Graph, value: ValueId, parameter: ValueId) -> bool {
    let wanted = graph.value(parameter).dims();
    match graph.value(value).dims() {
        Some(dims) => Some(dims) == wanted,
        None => graph
            .producer(value)
            .is_some_and(|(_, n)| n.inputs.iter().flatten().any(|v| graph.value(*v).dims() == wanted)),
    }
}
