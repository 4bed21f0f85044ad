//! The intermediate representation: ONNX's own vocabulary on a petgraph stable graph.
//!
//! A [`Graph`] owns its [`Value`]s (an arena indexed by [`ValueId`]) and its [`Node`]s (petgraph node weights). A
//! petgraph edge runs from a value's producer to each of its consumers, so order and reachability are petgraph's own
//! algorithms. Names stay unique among values; nothing else depends on names.

pub mod diff;
pub mod dot;
mod dtype;
mod equality;
pub mod json;
mod model;
mod node;
pub mod patch;
#[cfg(test)]
mod properties;
mod tensor;
pub mod text;
pub mod verify;
mod wiring;

pub use dtype::DType;
pub use model::{Function, Model, Opset, TrainingInfo};
pub use node::{Attribute, AttributeValue, Node};
pub use tensor::{Bytes, MappedFile, Payload, Tensor};

use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use rustc_hash::FxHashMap;
use std::fmt;

/// Index of a node in its graph; stays valid while other nodes come and go.
pub type NodeId = NodeIndex;

/// Index of a value in its graph; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// One axis of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number.
    Known(usize),
    /// A named symbolic dimension.
    Symbol(String),
    /// Nothing is said about it.
    Unknown,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// Type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueType {
    /// A dense tensor; `shape` is `None` when even the rank is unknown.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Axes.
        shape: Option<Vec<Dim>>,
    },
    /// Sequence, map, optional, sparse tensor, or a tensor type with denotations: the serialised `TypeProto`, verbatim.
    Other(Vec<u8>),
}

impl ValueType {
    /// A tensor type of known extents.
    pub fn tensor(dtype: DType, dims: &[usize]) -> Self {
        ValueType::Tensor { dtype, shape: Some(dims.iter().map(|&d| Dim::Known(d)).collect()) }
    }
}

/// A value: a graph input, an initializer (possibly both), a node output, or an outer value seen from a sub-graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique name.
    pub name: String,
    /// Declared or inferred type.
    pub ty: Option<ValueType>,
    /// True when `ty` stood in the file (as an input, an output or in `value_info`) and is written back.
    pub declared: bool,
    /// The node and output slot that compute it.
    pub producer: Option<(NodeId, usize)>,
    /// Nodes that read it, one entry a slot; a capture by a sub-graph counts once.
    pub consumers: Vec<NodeId>,
    /// True for a graph input (see [`Graph::make_input`]).
    pub is_input: bool,
    /// Its constant or default content.
    pub initializer: Option<Tensor>,
    /// `ValueInfoProto.doc_string`.
    pub doc: String,
    /// `ValueInfoProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Unknown protobuf fields of its `ValueInfoProto`, verbatim.
    pub unknown: Vec<u8>,
}

impl Value {
    /// Element type of a tensor value.
    pub fn dtype(&self) -> Option<DType> {
        match self.ty.as_ref()? {
            ValueType::Tensor { dtype, .. } => Some(*dtype),
            ValueType::Other(_) => None,
        }
    }

    /// Axes of a tensor value of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        match self.ty.as_ref()? {
            ValueType::Tensor { shape, .. } => shape.as_deref(),
            ValueType::Other(_) => None,
        }
    }

    /// Extents, when all of them are numbers.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.shape()?.iter().map(|d| if let Dim::Known(n) = d { Some(*n) } else { None }).collect()
    }

    /// True when all extents are numbers: [`Value::dims`] gives them.
    pub fn has_dims(&self) -> bool {
        self.shape().is_some_and(|axes| axes.iter().all(|d| matches!(d, Dim::Known(_))))
    }
}

/// A graph of operators.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// `GraphProto.name`.
    pub name: String,
    /// `GraphProto.doc_string`.
    pub doc: String,
    /// Inputs in signature order; change through [`Graph::add_input`], [`Graph::make_input`], [`Graph::remove_inputs`].
    pub inputs: Vec<ValueId>,
    /// Outputs in signature order.
    pub outputs: Vec<ValueId>,
    /// `GraphProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Serialised fields kept verbatim: sparse initializers, quantization annotations, unknown fields.
    pub unknown: Vec<u8>,
    dag: StableDiGraph<Node, ValueId>,
    values: Vec<Value>,
    by_name: FxHashMap<String, ValueId>,
    next_suffix: FxHashMap<String, u32>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Graph { name: name.to_string(), ..Graph::default() }
    }

    // ---- values

    /// Adds a value; when the name is taken the value gets the first free `name_1`, `name_2`, ….
    pub fn add_value(&mut self, name: &str, ty: Option<ValueType>) -> ValueId {
        let name = self.fresh_name(name);
        self.push_value(name, ty)
    }

    fn push_value(&mut self, name: String, ty: Option<ValueType>) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.by_name.insert(name.clone(), id);
        self.values.push(Value {
            name,
            ty,
            declared: false,
            producer: None,
            consumers: Vec::new(),
            is_input: false,
            initializer: None,
            doc: String::new(),
            metadata: Vec::new(),
            unknown: Vec::new(),
        });
        id
    }

    /// The value called `name`, added without a type when there is none; `name` is not empty.
    pub fn intern(&mut self, name: &str) -> ValueId {
        match self.by_name.get(name) {
            Some(id) => *id,
            None => self.push_value(name.to_string(), None),
        }
    }

    /// Makes room for that many more nodes and values.
    pub fn reserve(&mut self, nodes: usize, values: usize) {
        self.dag.reserve_nodes(nodes);
        self.dag.reserve_edges(values);
        self.values.reserve(values);
        self.by_name.reserve(values);
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, ty: ValueType) -> ValueId {
        let id = self.add_value(name, Some(ty));
        self.make_input(id);
        id
    }

    /// Makes a value without a producer the last graph input.
    pub fn make_input(&mut self, id: ValueId) {
        if !std::mem::replace(&mut self.values[id.0 as usize].is_input, true) {
            self.inputs.push(id);
        }
    }

    /// Adds a constant with the type of its tensor.
    pub fn add_initializer(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.add_value(name, Some(ValueType::tensor(tensor.dtype, &tensor.dims)));
        self.values[id.0 as usize].initializer = Some(tensor);
        id
    }

    /// `name`, or `name_1`, `name_2`, … when it is taken.
    pub fn fresh_name(&mut self, name: &str) -> String {
        if !name.is_empty() && !self.by_name.contains_key(name) {
            return name.to_string();
        }
        let stem = if name.is_empty() { "value" } else { name };
        let next = self.next_suffix.entry(stem.to_string()).or_insert(0);
        loop {
            *next += 1;
            let candidate = format!("{stem}_{next}");
            if !self.by_name.contains_key(&candidate) {
                return candidate;
            }
        }
    }

    /// Gives a value another name (made unique when taken) and returns the name it got.
    pub fn rename(&mut self, id: ValueId, name: &str) -> String {
        self.by_name.remove(&self.values[id.0 as usize].name);
        let name = self.fresh_name(name);
        self.by_name.insert(name.clone(), id);
        self.values[id.0 as usize].name = name.clone();
        name
    }

    /// The value called `name`.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value, to change its type, initializer or documentation (not its links: see [`Graph::replace_uses`]).
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// All values in order of creation, dropped ones included.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// Number of values ever created, dropped ones included.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Initializers in order of creation.
    pub fn initializers(&self) -> impl Iterator<Item = (ValueId, &Tensor)> {
        self.values.iter().enumerate().filter_map(|(i, v)| Some((ValueId(i as u32), v.initializer.as_ref()?)))
    }

    /// The content of a value that cannot change: an initializer that is not also an input.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).initializer.as_ref().filter(|_| !self.value(id).is_input)
    }

    /// Name of a value, for messages.
    pub fn name_of(&self, id: ValueId) -> &str {
        &self.value(id).name
    }

    // ---- nodes

    /// Adds a node whose `outputs` are set already.
    pub fn add_node(&mut self, node: Node) -> NodeId {
        let id = self.dag.add_node(node);
        let node = &self.dag[id];
        let reads: Vec<ValueId> = node.inputs.iter().flatten().chain(&node.captures).copied().collect();
        let writes: Vec<(usize, ValueId)> =
            node.outputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))).collect();
        for (slot, value) in writes {
            self.values[value.0 as usize].producer = Some((id, slot));
            for consumer in self.values[value.0 as usize].consumers.clone() {
                self.dag.add_edge(id, consumer, value);
            }
        }
        for value in reads {
            self.link(value, id);
        }
        id
    }

    /// Adds a node and one fresh value per name in `outputs`; returns those values.
    pub fn add<const N: usize>(&mut self, node: Node, outputs: [&str; N]) -> [ValueId; N] {
        let values = outputs.map(|name| self.add_value(name, None));
        self.add_node(Node { outputs: values.iter().copied().map(Some).collect(), ..node });
        values
    }

    /// Removes a node; its outputs stay as values without a producer until [`Graph::remove_dead`] or new wiring.
    pub fn remove_node(&mut self, id: NodeId) -> Option<Node> {
        let node = self.dag.remove_node(id)?;
        for value in node.inputs.iter().flatten().chain(&node.captures) {
            self.forget_consumer(*value, id);
        }
        for value in node.outputs.iter().flatten() {
            self.values[value.0 as usize].producer = None;
        }
        Some(node)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id]
    }

    /// A node, to change attributes, name or documentation (not its links: see [`Graph::set_input`]).
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.dag[id]
    }

    /// All nodes in order of creation.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices()
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.dag.node_count()
    }

    /// The underlying petgraph: one edge per use, from producer to consumer.
    pub fn dag(&self) -> &StableDiGraph<Node, ValueId> {
        &self.dag
    }

    /// Nodes so that every producer comes before its consumers, as close to creation order as that allows.
    ///
    /// # Errors
    /// The nodes that lie on or behind a cycle, when there is one.
    pub fn order(&self) -> Result<Vec<NodeId>, Vec<NodeId>> {
        use std::cmp::Reverse;
        let mut waiting = vec![0u32; self.dag.node_indices().next_back().map_or(0, |i| i.index() + 1)];
        let mut ready = std::collections::BinaryHeap::new();
        for id in self.dag.node_indices() {
            let degree = self.dag.neighbors_directed(id, petgraph::Incoming).count() as u32;
            waiting[id.index()] = degree;
            if degree == 0 {
                ready.push(Reverse(id));
            }
        }
        let mut order = Vec::with_capacity(self.dag.node_count());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for next in self.dag.neighbors(id) {
                waiting[next.index()] -= 1;
                if waiting[next.index()] == 0 {
                    ready.push(Reverse(next));
                }
            }
        }
        if order.len() == self.dag.node_count() {
            Ok(order)
        } else {
            Err(self.dag.node_indices().filter(|id| waiting[id.index()] > 0).collect())
        }
    }

    /// The node that computes `value`.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, &Node)> {
        let (id, _) = self.value(value).producer?;
        Some((id, &self.dag[id]))
    }
}
