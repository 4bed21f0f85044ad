//! One expansion: a function's body copied into the graph that calls it.

use super::InlineError;
use crate::graph::{AttributeValue, Function, Graph, Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Values of the copied graph and what stands for them in the copy; `None` is an omitted optional value.
type Map = FxHashMap<ValueId, Option<ValueId>>;

pub struct Copy<'a> {
    names: &'a mut Names,
    call: &'a Node,
    function: &'a Function,
    /// In front of the names of values and nodes; free for this call alone.
    prefix: String,
}

/// Names in use anywhere in a model, sub-graphs included.
#[derive(Default)]
pub struct Names {
    taken: FxHashSet<String>,
    next_suffix: FxHashMap<String, u32>,
}

impl Names {
    pub fn extend(&mut self, names: impl Iterator<Item = String>) {
        self.taken.extend(names);
    }

    /// `stem/`, or the first free `stem_1/`, `stem_2/`, …, free as a prefix given out by this function.
    fn prefix(&mut self, stem: &str) -> String {
        let mut candidate = format!("{stem}/");
        while !self.taken.insert(candidate.clone()) {
            let next = self.next_suffix.entry(format!("{stem}/")).or_insert(0);
            *next += 1;
            candidate = format!("{stem}_{next}/");
        }
        candidate
    }

    /// `stem`, or the first free `stem_1`, `stem_2`, ….
    fn fresh(&mut self, stem: &str) -> String {
        let mut candidate = stem.to_string();
        while !self.taken.insert(candidate.clone()) {
            let next = self.next_suffix.entry(stem.to_string()).or_insert(0);
            *next += 1;
            candidate = format!("{stem}_{next}");
        }
        candidate
    }
}

impl<'a> Copy<'a> {
    pub fn new(names: &'a mut Names, call: &'a Node, function: &'a Function) -> Self {
        let stem = if call.name.is_empty() { &call.op_type } else { &call.name };
        let prefix = names.prefix(stem);
        Copy { names, call, function, prefix }
    }

    /// Puts the body into `graph`, from which the call is gone already; returns the nodes it added.
    pub fn expand(&mut self, graph: &mut Graph) -> Result<Vec<NodeId>, InlineError> {
        let (call, body) = (self.call, &self.function.body);
        if call.inputs.len() > body.inputs.len() || call.outputs.len() > body.outputs.len() {
            return Err(InlineError::Arity { node: call.name.clone(), function: self.function.name.clone() });
        }
        let mut map: Map = body.inputs.iter().enumerate().map(|(i, formal)| (*formal, call.input(i))).collect();
        // Outputs whose value has another name in the caller already: an input, or an output that stands twice.
        let mut passed = Vec::new();
        for (i, formal) in body.outputs.iter().enumerate() {
            let Some(actual) = call.output(i) else { continue };
            if map.contains_key(formal) {
                passed.push((*formal, actual));
                continue;
            }
            map.insert(*formal, Some(actual));
            let (inner, outer) = (body.value(*formal), graph.value_mut(actual));
            if outer.ty.is_none() {
                outer.ty = inner.ty.clone();
            }
        }
        let mut added = self.nodes(body, graph, &mut map)?;
        for (formal, actual) in passed {
            let Some(Some(source)) = map.get(&formal) else {
                return Err(self.missing_input());
            };
            added.push(graph.add_node(Node { outputs: vec![Some(actual)], ..Node::new("Identity", [*source]) }));
        }
        Ok(added)
    }

    fn missing_input(&self) -> InlineError {
        InlineError::MissingInput { node: self.call.name.clone(), function: self.function.name.clone() }
    }

    fn nodes(&mut self, from: &Graph, into: &mut Graph, map: &mut Map) -> Result<Vec<NodeId>, InlineError> {
        let mut added = Vec::with_capacity(from.node_count());
        for id in from.order().map_err(|_| InlineError::Recursive(self.function.name.clone()))? {
            let mut node = from.node(id).clone();
            for value in node.inputs.iter_mut().chain(&mut node.outputs) {
                *value = value.and_then(|v| self.value(from, into, map, v));
            }
            // Sub-graphs read outer values by name, so they have to learn the new names.
            let mut outer = FxHashMap::default();
            let mut captures = Vec::new();
            for capture in std::mem::take(&mut node.captures) {
                let value = self.value(from, into, map, capture);
                outer.insert(from.name_of(capture).to_string(), value.map(|v| into.name_of(v).to_string()));
                captures.extend(value.filter(|v| !captures.contains(v)));
            }
            node.captures = captures;
            if !node.name.is_empty() {
                node.name = format!("{}{}", self.prefix, node.name);
            }
            self.attributes(&mut node, &outer)?;
            added.push(into.add_node(node));
        }
        Ok(added)
    }

    /// What stands for a value in the copy, made on first use.
    fn value(&mut self, from: &Graph, into: &mut Graph, map: &mut Map, value: ValueId) -> Option<ValueId> {
        *map.entry(value).or_insert_with(|| {
            let inner = from.value(value);
            let id = into.add_value(&self.names.fresh(&format!("{}{}", self.prefix, inner.name)), inner.ty.clone());
            let copy = into.value_mut(id);
            copy.declared = inner.declared;
            copy.initializer = inner.initializer.clone();
            copy.doc = inner.doc.clone();
            copy.metadata = inner.metadata.clone();
            copy.unknown = inner.unknown.clone();
            Some(id)
        })
    }

    /// Resolves attribute references and copies sub-graphs.
    fn attributes(&mut self, node: &mut Node, outer: &FxHashMap<String, Option<String>>) -> Result<(), InlineError> {
        let is_constant = node.is("Constant");
        let mut attributes = Vec::with_capacity(node.attributes.len());
        for mut attribute in std::mem::take(&mut node.attributes) {
            match &mut attribute.value {
                AttributeValue::Ref { name, .. } => {
                    let default = || self.function.defaults.iter().find(|a| a.name == *name).map(|a| &a.value);
                    match self.call.attribute(name).or_else(default) {
                        Some(value) => attribute.value = value.clone(),
                        // Optional attributes of the inner operator stay unset; a constant needs its value.
                        None if is_constant => {
                            return Err(InlineError::MissingAttribute {
                                function: self.function.name.clone(),
                                attribute: name.clone(),
                            });
                        }
                        None => continue,
                    }
                }
                AttributeValue::Graph(graph) => **graph = self.sub_graph(graph, outer)?,
                AttributeValue::Graphs(list) => {
                    for graph in list {
                        *graph = self.sub_graph(graph, outer)?;
                    }
                }
                _ => {}
            }
            attributes.push(attribute);
        }
        node.attributes = attributes;
        Ok(())
    }

    fn sub_graph(&mut self, from: &Graph, outer: &FxHashMap<String, Option<String>>) -> Result<Graph, InlineError> {
        let mut into = Graph::new(&from.name);
        (into.doc, into.metadata, into.unknown) = (from.doc.clone(), from.metadata.clone(), from.unknown.clone());
        let mut map = Map::default();
        for id in from.value_ids() {
            let value = from.value(id);
            let free = value.producer.is_none() && !value.is_input && value.initializer.is_none();
            if free {
                if let Some(name) = outer.get(&value.name) {
                    map.insert(id, name.as_ref().map(|name| into.intern(name)));
                }
            } else if value.is_input || value.initializer.is_some() {
                self.value(from, &mut into, &mut map, id);
            }
        }
        for input in &from.inputs {
            if let Some(id) = self.value(from, &mut into, &mut map, *input) {
                into.make_input(id);
            }
        }
        self.nodes(from, &mut into, &mut map)?;
        for output in &from.outputs {
            let id = self.value(from, &mut into, &mut map, *output).ok_or_else(|| self.missing_input())?;
            into.outputs.push(id);
        }
        Ok(into)
    }
}
