//! Expands calls of model-local functions into their bodies.

mod copy;
#[cfg(test)]
mod tests;

use crate::graph::{AttributeValue, Function, Graph, Model, Node, NodeId};
use copy::{Copy, Names};
use rustc_hash::{FxHashMap, FxHashSet};

/// An expansion to more nodes than this is refused: functions that call functions can grow exponentially.
const LIMIT: u64 = 10_000_000;

/// Sub-graphs and functions nested deeper than this are refused.
const DEPTH: usize = 200;

/// Why a call cannot be expanded; the model is left half expanded then.
#[derive(Debug, thiserror::Error)]
pub enum InlineError {
    /// A function that calls itself, directly or through others.
    #[error("the model-local function {0} calls itself, which ONNX forbids; export the model again")]
    Recursive(String),
    /// An attribute without a default that the call does not give.
    #[error("a call of the function {function} lacks the attribute {attribute}; export the model again")]
    MissingAttribute {
        /// Function.
        function: String,
        /// Attribute.
        attribute: String,
    },
    /// More arguments than the function takes.
    #[error(
        "node '{node}' calls the function {function} with more inputs or outputs than it has; export the model again"
    )]
    Arity {
        /// Calling node.
        node: String,
        /// Function.
        function: String,
    },
    /// An output that only hands an input on, which the call leaves out.
    #[error("node '{node}' uses an output of the function {function} that hands on an input it leaves out")]
    MissingInput {
        /// Calling node.
        node: String,
        /// Function.
        function: String,
    },
    /// A body written for another operator set version.
    #[error(
        "the function {function} is written for version {own} of the operator set '{domain}', the model for version \
         {model}; bring the model to one version (onnx.version_converter) first"
    )]
    Opset {
        /// Function.
        function: String,
        /// Domain, `ai.onnx` for the standard one.
        domain: String,
        /// Version of the function's import.
        own: i64,
        /// Version of the model's import.
        model: i64,
    },
    /// Functions that call functions that call functions ….
    #[error(
        "the model-local functions call each other more than 200 deep, which npc does not follow; export the model again"
    )]
    TooDeep,
    /// A graph that would not fit memory.
    #[error("expanding the model-local functions would give {0} nodes, more than npc takes on; export the model again")]
    TooLarge(u64),
}

/// Identity of a function: domain, name, overload.
type Key = (String, String, String);

fn key(node: &Node) -> Key {
    (node.domain.clone(), node.op_type.clone(), node.overload.clone())
}

fn key_of(function: &Function) -> Key {
    (function.domain.clone(), function.name.clone(), function.overload.clone())
}

/// Expands every call of a model-local function for which `keep` is false, also calls in sub-graphs, in training
/// graphs and in other functions' bodies; the function definitions that remain unused are dropped.
///
/// Values of a body get names that are free in the whole model, their types are kept. Attribute references take the
/// call's value or the function's default.
///
/// # Errors
/// A recursion, a missing attribute, a call that does not fit its function, a body for another operator set version.
pub fn inline_functions(model: &mut Model, keep: impl Fn(&Node) -> bool) -> Result<(), InlineError> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let definitions = std::mem::take(&mut model.functions);
    let functions: FxHashMap<Key, &Function> = definitions.iter().map(|f| (key_of(f), f)).collect();
    let result = Inliner::new(model, functions.clone(), &keep).run(model);
    if let Err(error) = result {
        model.functions = definitions;
        return Err(error);
    }
    let mut used = FxHashSet::default();
    for_each_graph(model, |g| called(g, &mut used));
    // What a function that stays calls stays too.
    let mut pending: Vec<Key> = used.iter().cloned().collect();
    while let Some(key) = pending.pop() {
        let Some(function) = functions.get(&key) else { continue };
        let mut inner = FxHashSet::default();
        called(&function.body, &mut inner);
        pending.extend(inner.into_iter().filter(|k| used.insert(k.clone())));
    }
    model.functions = definitions.into_iter().filter(|f| used.contains(&key_of(f))).collect();
    Ok(())
}

struct Inliner<'a> {
    functions: FxHashMap<Key, &'a Function>,
    keep: &'a dyn Fn(&Node) -> bool,
    names: Names,
}

impl<'a> Inliner<'a> {
    fn new(model: &Model, functions: FxHashMap<Key, &'a Function>, keep: &'a dyn Fn(&Node) -> bool) -> Self {
        let mut names = Names::default();
        for_each_graph(model, |g| collect_names(g, &mut names));
        Inliner { functions, keep, names }
    }

    fn run(mut self, model: &mut Model) -> Result<(), InlineError> {
        let mut sizes = FxHashMap::default();
        let mut total = 0u64;
        let mut graphs = Vec::new();
        for_each_graph(model, |g| graphs.push(self.size(g, &mut sizes, 0)));
        for size in graphs {
            total = total.saturating_add(size?);
        }
        if total > LIMIT {
            return Err(InlineError::TooLarge(total));
        }
        for key in sizes.into_keys() {
            self.import(model, self.functions[&key])?;
        }
        let training = model.training.iter_mut().flat_map(|t| [t.initialization.as_mut(), t.algorithm.as_mut()]);
        for graph in std::iter::once(&mut model.graph).chain(training.flatten()) {
            self.expand(graph)?;
        }
        Ok(())
    }

    fn call(&self, node: &Node) -> Option<&'a Function> {
        self.functions.get(&key(node)).copied().filter(|_| !(self.keep)(node))
    }

    /// Nodes that a graph has once its calls are expanded; `sizes` holds `None` for functions under way.
    fn size(&self, graph: &Graph, sizes: &mut FxHashMap<Key, Option<u64>>, depth: usize) -> Result<u64, InlineError> {
        if depth > DEPTH {
            return Err(InlineError::TooDeep);
        }
        let mut total = 0u64;
        for id in graph.node_ids() {
            let node = graph.node(id);
            for inner in sub_graphs(node) {
                total = total.saturating_add(self.size(inner, sizes, depth + 1)?);
            }
            let own = match self.call(node) {
                None => 1,
                Some(function) => match sizes.get(&key(node)) {
                    Some(Some(size)) => *size,
                    Some(None) => return Err(InlineError::Recursive(function.name.clone())),
                    None => {
                        sizes.insert(key(node), None);
                        let size = self.size(&function.body, sizes, depth + 1)?;
                        sizes.insert(key(node), Some(size));
                        size
                    }
                },
            };
            total = total.saturating_add(own);
        }
        Ok(total)
    }

    /// Makes the model import what a function's body uses.
    fn import(&self, model: &mut Model, function: &Function) -> Result<(), InlineError> {
        let mut domains = FxHashSet::default();
        operators(&function.body, &mut |node| {
            if !self.functions.contains_key(&key(node)) {
                domains.insert(node.domain.clone());
            }
        });
        for opset in function.opsets.iter().filter(|o| domains.contains(&o.domain)) {
            match model.opset_of(&opset.domain) {
                None => model.opsets.push(opset.clone()),
                Some(version) if version == opset.version => {}
                Some(version) => {
                    let domain = if opset.domain.is_empty() { "ai.onnx" } else { &opset.domain };
                    return Err(InlineError::Opset {
                        function: function.name.clone(),
                        domain: domain.to_string(),
                        own: opset.version,
                        model: version,
                    });
                }
            }
        }
        Ok(())
    }

    fn expand(&mut self, graph: &mut Graph) -> Result<(), InlineError> {
        let mut pending: Vec<NodeId> = graph.node_ids().collect();
        pending.reverse();
        while let Some(id) = pending.pop() {
            if let Some(function) = self.call(graph.node(id)) {
                if let Some(call) = graph.remove_node(id) {
                    let added = Copy::new(&mut self.names, &call, function).expand(graph)?;
                    pending.extend(added.into_iter().rev());
                }
                continue;
            }
            for attribute in &mut graph.node_mut(id).attributes {
                match &mut attribute.value {
                    AttributeValue::Graph(inner) => self.expand(inner)?,
                    AttributeValue::Graphs(list) => list.iter_mut().try_for_each(|g| self.expand(g))?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Visits the main graph and the training graphs.
fn for_each_graph(model: &Model, mut visit: impl FnMut(&Graph)) {
    let training = model.training.iter().flat_map(|t| [t.initialization.as_ref(), t.algorithm.as_ref()]);
    std::iter::once(&model.graph).chain(training.flatten()).for_each(&mut visit);
}

fn sub_graphs(node: &Node) -> impl Iterator<Item = &Graph> {
    node.attributes.iter().flat_map(|a| match &a.value {
        AttributeValue::Graph(g) => std::slice::from_ref(&**g),
        AttributeValue::Graphs(list) => list,
        _ => &[],
    })
}

/// Visits every node, those of sub-graphs included.
fn operators(graph: &Graph, visit: &mut dyn FnMut(&Node)) {
    for id in graph.node_ids() {
        visit(graph.node(id));
        sub_graphs(graph.node(id)).for_each(|g| operators(g, visit));
    }
}

fn collect_names(graph: &Graph, names: &mut Names) {
    names.extend(graph.value_ids().map(|v| graph.name_of(v).to_string()));
    graph.node_ids().flat_map(|id| sub_graphs(graph.node(id))).for_each(|g| collect_names(g, names));
}

fn called(graph: &Graph, used: &mut FxHashSet<Key>) {
    operators(graph, &mut |node| {
        used.insert(key(node));
    });
}
