//! Expands calls of model-local functions into their bodies.

use crate::graph::{AttributeValue, Function, Graph, Model, Node, NodeId, ValueId};
use rustc_hash::FxHashMap;

/// Functions calling functions deeper than this are taken for a recursion.
const DEPTH: usize = 32;

/// Why a call cannot be expanded.
#[derive(Debug, thiserror::Error)]
pub enum InlineError {
    /// A function that calls itself, directly or through others.
    #[error("the model-local function {0} calls itself")]
    Recursive(String),
    /// An attribute without a default that the call does not give.
    #[error("a call of the function {function} lacks the attribute {attribute}")]
    MissingAttribute {
        /// Function.
        function: String,
        /// Attribute.
        attribute: String,
    },
    /// More arguments than the function takes.
    #[error("a call of the function {0} has more inputs or outputs than the function")]
    Arity(String),
}

/// Expands every call of a model-local function for which `keep` is false; the function definitions that remain
/// unused are dropped. Values get fresh names; attribute references take the call's value or the default.
///
/// # Errors
/// A recursion, a missing attribute, a call that does not fit its function.
pub fn inline_functions(model: &mut Model, keep: impl Fn(&Node) -> bool) -> Result<(), InlineError> {
    let functions: FxHashMap<(String, String, String), Function> =
        model.functions.iter().map(|f| ((f.domain.clone(), f.name.clone(), f.overload.clone()), f.clone())).collect();
    if functions.is_empty() {
        return Ok(());
    }
    for _ in 0..DEPTH {
        let calls: Vec<NodeId> = model
            .graph
            .node_ids()
            .filter(|id| {
                let n = model.graph.node(*id);
                functions.contains_key(&key(n)) && !keep(n)
            })
            .collect();
        if calls.is_empty() {
            let used: rustc_hash::FxHashSet<_> = model.graph.node_ids().map(|id| key(model.graph.node(id))).collect();
            model.functions.retain(|f| used.contains(&(f.domain.clone(), f.name.clone(), f.overload.clone())));
            return Ok(());
        }
        for call in calls {
            let function = &functions[&key(model.graph.node(call))];
            expand(&mut model.graph, call, function)?;
            for opset in &function.opsets {
                if model.opsets.iter().all(|o| o.domain != opset.domain) {
                    model.opsets.push(opset.clone());
                }
            }
        }
    }
    let name = model.graph.node_ids().map(|id| model.graph.node(id)).find(|n| functions.contains_key(&key(n)));
    Err(InlineError::Recursive(name.map_or_else(String::new, |n| n.op_type.clone())))
}

fn key(node: &Node) -> (String, String, String) {
    (node.domain.clone(), node.op_type.clone(), node.overload.clone())
}

fn expand(graph: &mut Graph, call: NodeId, function: &Function) -> Result<(), InlineError> {
    let Some(call) = graph.remove_node(call) else { return Ok(()) };
    let body = &function.body;
    if call.inputs.len() > body.inputs.len() || call.outputs.len() > body.outputs.len() {
        return Err(InlineError::Arity(function.name.clone()));
    }
    let mut map: FxHashMap<ValueId, Option<ValueId>> = FxHashMap::default();
    for (i, formal) in body.inputs.iter().enumerate() {
        map.insert(*formal, call.input(i));
    }
    let mut passed = Vec::new();
    for (i, formal) in body.outputs.iter().enumerate() {
        let Some(actual) = call.output(i) else { continue };
        if map.contains_key(formal) {
            passed.push((*formal, actual));
        } else {
            map.insert(*formal, Some(actual));
        }
    }
    let prefix = if call.name.is_empty() { call.op_type.clone() } else { call.name.clone() };
    let order = body.order().map_err(|_| InlineError::Recursive(function.name.clone()))?;
    for id in order {
        let mut node = body.node(id).clone();
        let mut of = |v: &Option<ValueId>| -> Option<ValueId> {
            let v = (*v)?;
            *map.entry(v).or_insert_with(|| {
                let inner = body.value(v);
                Some(graph.add_value(&format!("{prefix}/{}", inner.name), inner.ty.clone()))
            })
        };
        node.inputs = node.inputs.iter().map(&mut of).collect();
        node.outputs = node.outputs.iter().map(&mut of).collect();
        node.captures = node.captures.iter().filter_map(|v| of(&Some(*v))).collect();
        if !node.name.is_empty() {
            node.name = format!("{prefix}/{}", node.name);
        }
        resolve(&mut node, &call, function)?;
        graph.add_node(node);
    }
    // A formal output that is a formal input needs a node to carry the value over.
    for (formal, actual) in passed {
        if let Some(Some(source)) = map.get(&formal) {
            let mut node = Node::new("Identity", [*source]);
            node.outputs = vec![Some(actual)];
            graph.add_node(node);
        }
    }
    Ok(())
}

fn resolve(node: &mut Node, call: &Node, function: &Function) -> Result<(), InlineError> {
    let mut result = Ok(());
    node.attributes.retain_mut(|attribute| {
        let AttributeValue::Ref { name, .. } = &attribute.value else { return true };
        let default = || function.defaults.iter().find(|a| a.name == *name).map(|a| &a.value);
        match call.attribute(name).or_else(default) {
            Some(value) => {
                attribute.value = value.clone();
                true
            }
            // Optional attributes of the inner operator stay unset; only a Constant cannot do without its value.
            None => {
                if node.op_type == "Constant" && node.domain.is_empty() {
                    result =
                        Err(InlineError::MissingAttribute { function: function.name.clone(), attribute: name.clone() });
                }
                false
            }
        }
    });
    result
}
