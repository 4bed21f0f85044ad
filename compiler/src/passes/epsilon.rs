//! Gives a kept optimizer back the epsilon its exporter dropped.

use super::Compilation;
use crate::compile::CompileError;
use crate::graph::patch::Patch;
use crate::graph::{Graph, Node, NodeId, Tensor, ValueId};
use crate::optimizers::{Match, Recognition};

/// Adds `eps` to the divisor of every update that lacks it.
pub fn restore(c: &mut Compilation, found: &Recognition, eps: f64) -> Result<(), CompileError> {
    let graph = &mut c.model.graph;
    let mut constant = None;
    for m in found.matches.iter().filter(|m| m.epsilon_missing) {
        let Some((division, divisor)) = division(graph, m) else {
            c.report.warnings.push(format!("{}: no division by a root was found to put the epsilon back into", graph.name_of(m.parameter)));
            continue;
        };
        let constant = *constant.get_or_insert_with(|| graph.add_initializer("epsilon", Tensor::f32([], &[eps as f32])));
        let name = format!("{}.with_epsilon", graph.name_of(divisor));
        let ty = graph.value(divisor).ty.clone();
        let raised = graph.add_value(&name, ty);
        let mut patch = Patch::default();
        let mut node = graph.node(division).clone();
        node.inputs[1] = Some(raised);
        patch.add(Node { outputs: vec![Some(raised)], ..Node::new("Add", [divisor, constant]) });
        patch.apply(graph)?;
        graph.set_input(division, 1, raised);
    }
    Ok(())
}

/// The division on θ''s way whose divisor is a root of a tensor.
fn division(graph: &Graph, m: &Match) -> Option<(NodeId, ValueId)> {
    let mut open = vec![m.next];
    let mut seen = rustc_hash::FxHashSet::default();
    while let Some(value) = open.pop() {
        if !seen.insert(value) || seen.len() > 64 || value == m.gradient {
            continue;
        }
        let Some((id, node)) = graph.producer(value) else { continue };
        if node.is("Div")
            && let Some(divisor) = node.input(1)
            && is_root_of_tensor(graph, divisor, m.parameter)
        {
            return Some((id, divisor));
        }
        open.extend(node.inputs.iter().flatten());
    }
    None
}

fn is_root_of_tensor(graph: &Graph, value: ValueId, parameter: ValueId) -> bool {
    let mut at = value;
    for _ in 0..6 {
        let Some((_, node)) = graph.producer(at) else { return false };
        match node.op_type.as_str() {
            "Sqrt" => return node.input(0).is_some_and(|v| spans(graph, v, parameter)),
            "Pow" if node.input(0).is_some_and(|v| spans(graph, v, parameter)) => return true,
            "Div" | "Mul" | "Identity" | "Cast" => match node.input(0) {
                Some(v) => at = v,
                None => return false,
            },
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
        None => graph.producer(value).is_some_and(|(_, n)| n.inputs.iter().flatten().any(|v| graph.value(*v).dims() == wanted)),
    }
}
