//! Graphs and function bodies.

use super::{Content, LoadError, Reader, Result};
use crate::graph::{Graph, Node, NodeId, Tensor, ValueId, ValueType};
use rustc_hash::FxHashSet;
use std::ops::Range;

impl Reader<'_> {
    /// Returns the graph and the outer names it reads; in a `closed` graph there may be none.
    pub(super) fn graph(&mut self, range: Range<usize>, closed: bool) -> Result<(Graph, Vec<String>)> {
        let mut graph = Graph::default();
        let mut sparse = FxHashSet::default();
        let (mut nodes, mut values) = (0, 0);
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            nodes += usize::from(field.number == 1);
            values += usize::from(matches!(field.number, 1 | 5 | 11));
            match (field.number, &field.content) {
                (2, Content::Bytes(r)) => graph.name = self.text(r)?,
                (10, Content::Bytes(r)) => graph.doc = self.text(r)?,
                (16, Content::Bytes(r)) => graph.metadata.push(self.entry(r)?),
                // Below, sources before their readers whatever their order in the file.
                (1 | 5 | 11 | 12 | 13, Content::Bytes(_)) => {}
                (number, content) => {
                    if let (15, Content::Bytes(r)) = (number, content) {
                        sparse.insert(self.sparse_name(r)?);
                    }
                    self.keep(&mut graph.unknown, &field);
                }
            }
        }
        // A node that names its operator and its output takes 16 bytes and more.
        graph.reserve(nodes.min(range.len() / 16), values.min(range.len() / 16));
        // First, so that saving keeps their order.
        for tensor in self.each(&range, 5) {
            let tensor = self.tensor(tensor?)?;
            let id = graph.intern(&tensor.name);
            let value = graph.value_mut(id);
            if tensor.name.is_empty() || value.initializer.is_some() {
                return Err(LoadError::invalid(
                    format!("initializer '{}'", tensor.name),
                    "stands in the file twice or has no name; names must be unique",
                ));
            }
            value.ty.get_or_insert_with(|| ValueType::tensor(tensor.dtype, &tensor.dims));
            value.initializer = Some(Tensor { name: String::new(), ..tensor });
        }
        for info in self.each(&range, 11) {
            let id = self.value_info(&mut graph, &info?, None)?;
            if graph.value(id).is_input {
                return Err(LoadError::invalid(
                    format!("graph input '{}'", graph.name_of(id)),
                    "is declared twice; names must be unique",
                ));
            }
            graph.make_input(id);
        }
        self.nodes(&mut graph, &range, 1)?;
        for info in self.each(&range, 12) {
            let id = self.value_info(&mut graph, &info?, None)?;
            graph.outputs.push(id);
        }
        let mut last = None;
        for info in self.each(&range, 13) {
            last = Some(self.value_info(&mut graph, &info?, last)?);
        }
        let free = free(&graph, &sparse);
        match free.first() {
            Some(value) if closed => Err(unprovided(&graph, *value)),
            _ => {
                let names = free.iter().map(|v| graph.name_of(*v).to_string()).collect();
                Ok((graph, names))
            }
        }
    }

    /// The body of a `FunctionProto`.
    pub(super) fn body(&mut self, range: &Range<usize>, name: &str) -> Result<Graph> {
        let mut body = Graph::new(name);
        for input in self.each(range, 4) {
            let id = body.intern(self.str(&input?)?);
            if body.value(id).is_input {
                return Err(LoadError::invalid(format!("input '{}'", body.name_of(id)), "is declared twice"));
            }
            body.make_input(id);
        }
        self.nodes(&mut body, range, 7)?;
        for output in self.each(range, 5) {
            let id = body.intern(self.str(&output?)?);
            body.outputs.push(id);
        }
        let mut last = None;
        for info in self.each(range, 12) {
            last = Some(self.value_info(&mut body, &info?, last)?);
        }
        match free(&body, &FxHashSet::default()).first() {
            Some(value) => Err(unprovided(&body, *value)),
            None => Ok(body),
        }
    }

    fn nodes(&mut self, graph: &mut Graph, range: &Range<usize>, number: u32) -> Result<()> {
        for node in self.each(range, number) {
            let node = self.node(graph, &node?)?;
            for (i, output) in node.outputs.iter().enumerate() {
                let Some(output) = output else { continue };
                let value = graph.value(*output);
                let twice = node.outputs[..i].contains(&Some(*output));
                if twice || value.producer.is_some() || value.is_input || value.initializer.is_some() {
                    return Err(LoadError::invalid(
                        place(&node, graph),
                        format!("computes '{}', which already has another source; rename one of them", value.name),
                    ));
                }
            }
            graph.add_node(node);
        }
        graph.order().map(drop).map_err(|tangled| {
            LoadError::invalid(cycle(graph, &tangled), "is a cycle; an ONNX graph must be acyclic, export it again")
        })
    }

    /// Declares a value; what an earlier declaration said stays. Files tend to declare values in the order in which
    /// nodes compute them, so the value after `last` is tried before the name is looked up.
    fn value_info(&mut self, graph: &mut Graph, range: &Range<usize>, last: Option<ValueId>) -> Result<ValueId> {
        let name = self.each(range, 1).last().transpose()?;
        let name = name.map_or(Ok(""), |r| self.str(&r))?;
        if name.is_empty() {
            return Err(LoadError::invalid(format!("graph '{}'", graph.name), "declares a value without a name"));
        }
        let next = last
            .map(|v| ValueId(v.0 + 1))
            .filter(|v| (v.0 as usize) < graph.value_count() && graph.name_of(*v) == name);
        let id = next.unwrap_or_else(|| graph.intern(name));
        let value = graph.value_mut(id);
        let again = std::mem::replace(&mut value.declared, true);
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(_)) => {}
                _ if again && value.ty.is_some() => {}
                (2, Content::Bytes(r)) => value.ty = Some(self.value_type(r)?),
                (3, Content::Bytes(r)) => value.doc = self.text(r)?,
                (4, Content::Bytes(r)) => value.metadata.push(self.entry(r)?),
                _ => self.keep(&mut value.unknown, &field),
            }
        }
        Ok(id)
    }

    /// Name of the values of a `SparseTensorProto`, which is the initializer's name.
    fn sparse_name(&self, range: &Range<usize>) -> Result<String> {
        let Some(values) = self.each(range, 1).last().transpose()? else { return Ok(String::new()) };
        let name = self.each(&values, 8).last().transpose()?;
        name.map_or(Ok(String::new()), |r| self.text(&r))
    }
}

/// Values that are read but have no source.
fn free(graph: &Graph, sparse: &FxHashSet<String>) -> Vec<ValueId> {
    let outputs: FxHashSet<ValueId> = graph.outputs.iter().copied().collect();
    let provided = |id: ValueId| {
        let value = graph.value(id);
        value.producer.is_some() || value.is_input || value.initializer.is_some() || sparse.contains(&value.name)
    };
    graph
        .value_ids()
        .filter(|id| !provided(*id) && (!graph.value(*id).consumers.is_empty() || outputs.contains(id)))
        .collect()
}

fn unprovided(graph: &Graph, value: ValueId) -> LoadError {
    let reader = graph.value(value).consumers.first();
    LoadError::invalid(
        reader.map_or_else(|| format!("graph '{}'", graph.name), |n| place(graph.node(*n), graph)),
        format!(
            "{} '{}', which no node, input or initializer provides; export the model again",
            if reader.is_some() { "reads" } else { "returns" },
            graph.name_of(value)
        ),
    )
}

/// A cycle among nodes that have no order, spelled out.
fn cycle(graph: &Graph, tangled: &[NodeId]) -> String {
    let members: FxHashSet<NodeId> = tangled.iter().copied().collect();
    let mut path: Vec<NodeId> = Vec::new();
    let mut seen = FxHashSet::default();
    let mut next = tangled.first().copied();
    // Every tangled node waits for another one, so walking backwards must come round.
    while let Some(node) = next.filter(|n| seen.insert(*n)) {
        path.push(node);
        next = graph.dag().neighbors_directed(node, petgraph::Incoming).find(|n| members.contains(n));
    }
    let start = path.iter().position(|n| Some(*n) == next).unwrap_or(0);
    let mut around: Vec<NodeId> = path.split_off(start);
    around.reverse();
    let first = around.iter().enumerate().min_by_key(|(_, n)| **n).map_or(0, |(i, _)| i);
    around.rotate_left(first);
    let mut names: Vec<String> = around.iter().take(4).map(|n| place(graph.node(*n), graph)).collect();
    if around.len() > names.len() {
        names.push(format!("{} more", around.len() - names.len()));
    }
    names.join(" → ")
}

/// A node in words.
pub(super) fn place(node: &Node, graph: &Graph) -> String {
    let name = if node.name.is_empty() { node.output(0).map_or("", |v| graph.name_of(v)) } else { &node.name };
    format!("node {} '{name}'", node.op_type)
}
