//! What a pass wants changed, applied in one go.

use super::{Graph, Node, NodeId, ValueId, ValueType};
use rustc_hash::{FxHashMap, FxHashSet};

/// A change to a graph: nodes to add, values to rewire, nodes to drop, inputs and outputs that come and go. A patch is
/// legal when every node it adds computes values nobody else provides and reads values that have a source afterwards,
/// every value it rewires keeps its type and gets a replacement that has a source, every new output has one too, and
/// no node it drops computes a value that is still read (by a node, a sub-graph or as an output) afterwards.
///
/// Checking takes time proportional to the patch and its neighbours, not to the graph; so cycles, which only a walk of the
/// whole graph shows, are left to [`verify`](super::verify::verify).
#[derive(Debug, Default)]
pub struct Patch {
    nodes: Vec<Node>,
    reads: Vec<(NodeId, usize, ValueId)>,
    rewires: Vec<(ValueId, ValueId)>,
    drops: Vec<NodeId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    withdrawn: FxHashSet<ValueId>,
}

/// A patch that would break the graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// Another type in the old value's place.
    #[error("'{old}' cannot be replaced by '{new}': their types differ")]
    Type {
        /// Value.
        old: String,
        /// Its replacement.
        new: String,
    },
    /// A dropped node whose result is still needed.
    #[error("a node cannot be dropped: '{0}' is still read")]
    Live(String),
    /// A value that would be read without anything providing it.
    #[error("'{0}' would be read, but nothing would provide it")]
    Unsourced(String),
    /// Values that would take each other's place.
    #[error("'{0}' would be replaced by itself, through others")]
    Circular(String),
    /// A value that would be provided twice.
    #[error("'{0}' would be provided twice")]
    Provided(String),
    /// A node to be dropped or to read something else that is not in the graph, or is dropped by the same patch.
    #[error("node {} cannot be changed: it is not in the graph, or dropped", .0.index())]
    Missing(NodeId),
}

impl Patch {
    /// Adds a node whose outputs are values made with [`Graph::add_value`].
    pub fn add(&mut self, node: Node) -> &mut Self {
        self.nodes.push(node);
        self
    }

    /// Adds a node and makes one value per name in `outputs` for its results; returns those values.
    pub fn compute<const N: usize>(&mut self, graph: &mut Graph, node: Node, outputs: [&str; N]) -> [ValueId; N] {
        let values = outputs.map(|name| graph.add_value(name, None));
        self.add(Node { outputs: values.iter().copied().map(Some).collect(), ..node });
        values
    }

    /// Adds a graph input behind those that are there, and makes its value.
    pub fn input(&mut self, graph: &mut Graph, name: &str, ty: ValueType) -> ValueId {
        let value = graph.add_value(name, Some(ty));
        self.inputs.push(value);
        value
    }

    /// Makes a value a graph output, behind those that are there.
    pub fn output(&mut self, value: ValueId) -> &mut Self {
        self.outputs.push(value);
        self
    }

    /// Takes a value off the graph's outputs, before anything is rewired; one that is no output is left as it is.
    pub fn withdraw(&mut self, value: ValueId) -> &mut Self {
        self.withdrawn.insert(value);
        self
    }

    /// Makes every reader of `old`, graph outputs included, read `new`. Nodes this patch adds are not touched.
    pub fn rewire(&mut self, old: ValueId, new: ValueId) -> &mut Self {
        self.rewires.push((old, new));
        self
    }

    /// Makes input `slot` of a node of the graph read `new`; the slot after the last one adds an input.
    pub fn read(&mut self, node: NodeId, slot: usize, new: ValueId) -> &mut Self {
        self.reads.push((node, slot, new));
        self
    }

    /// Removes a node.
    pub fn drop(&mut self, node: NodeId) -> &mut Self {
        self.drops.push(node);
        self
    }

    /// Applies the patch.
    ///
    /// # Errors
    /// An illegal patch; the graph is unchanged then.
    pub fn apply(self, graph: &mut Graph) -> Result<(), PatchError> {
        self.check_nodes(graph)?;
        let read = self.reads.iter().filter_map(|(node, slot, new)| Some((graph.node(*node).input(*slot)?, *new)));
        for (old, new) in read.chain(self.rewires.iter().copied()) {
            let (a, b) = (graph.value(old), graph.value(new));
            let dtype = a.dtype().zip(b.dtype()).is_some_and(|(x, y)| x != y);
            let shape = a.dims().zip(b.dims()).is_some_and(|(x, y)| x != y);
            if dtype || shape {
                return Err(PatchError::Type { old: a.name.clone(), new: b.name.clone() });
            }
        }
        self.check_links(graph)?;
        graph.outputs.retain(|v| !self.withdrawn.contains(v));
        graph.replace_all_uses(&self.final_replacements());
        for id in self.drops {
            // The second time a node is dropped there is nothing left to do.
            graph.remove_node(id);
        }
        for input in self.inputs {
            graph.make_input(input);
        }
        graph.outputs.extend(self.outputs);
        for node in self.nodes {
            graph.add_node(node);
        }
        for (node, slot, value) in self.reads {
            if slot < graph.node(node).inputs.len() {
                graph.set_input(node, slot, value);
            } else {
                graph.push_input(node, value);
            }
        }
        Ok(())
    }

    /// Old → new, where a replacement that is itself rewired hands its readers on.
    fn final_replacements(&self) -> FxHashMap<ValueId, ValueId> {
        let direct: FxHashMap<ValueId, ValueId> = self.rewires.iter().copied().collect();
        let follow = |start: ValueId| {
            let (mut at, mut steps) = (start, 0);
            while let Some(next) = direct.get(&at).filter(|n| **n != at && steps < direct.len()) {
                (at, steps) = (*next, steps + 1);
            }
            at
        };
        direct.keys().map(|old| (*old, follow(*old))).collect()
    }

    fn check_nodes(&self, graph: &Graph) -> Result<(), PatchError> {
        let missing = |id: &&NodeId| !graph.dag().contains_node(**id);
        let dropped = |id: &&NodeId| self.drops.contains(id);
        let readers = self.reads.iter().map(|(node, _, _)| node);
        match self
            .drops
            .iter()
            .find(missing)
            .or(readers.clone().find(missing))
            .or_else(|| readers.clone().find(dropped))
        {
            Some(id) => Err(PatchError::Missing(*id)),
            None => Ok(()),
        }
    }

    fn check_links(&self, graph: &Graph) -> Result<(), PatchError> {
        let name = |v: ValueId| graph.name_of(v).to_string();
        let drops: FxHashSet<NodeId> = self.drops.iter().copied().collect();
        let rewired: FxHashMap<ValueId, ValueId> = self.rewires.iter().copied().collect();
        let stays = |v: ValueId| {
            let value = graph.value(v);
            value.is_input || value.initializer.is_some() || value.producer.is_some_and(|(id, _)| !drops.contains(&id))
        };
        let mut added = FxHashSet::default();
        for value in self.nodes.iter().flat_map(|n| n.outputs.iter().flatten()) {
            if stays(*value) || !added.insert(*value) {
                return Err(PatchError::Provided(name(*value)));
            }
        }
        let inputs: FxHashSet<ValueId> = self.inputs.iter().copied().collect();
        // An initializer is an input's default.
        let provided =
            |v: &&ValueId| added.contains(v) || graph.value(**v).is_input || graph.value(**v).producer.is_some();
        if let Some(value) = inputs.iter().find(provided) {
            return Err(PatchError::Provided(name(*value)));
        }
        let sourced = |v: ValueId| added.contains(&v) || inputs.contains(&v) || stays(v);
        let reads = self.nodes.iter().flat_map(|n| n.inputs.iter().flatten().chain(&n.captures)).copied();
        let reads = reads.chain(self.reads.iter().map(|(_, _, new)| *new));
        let replacements = self.final_replacements();
        if let Some(old) = replacements.iter().find(|(_, new)| rewired.get(new).is_some_and(|next| next != *new)) {
            return Err(PatchError::Circular(name(*old.0)));
        }
        let targets = replacements.values().copied();
        if let Some(value) = reads.chain(targets).chain(self.outputs.iter().copied()).find(|v| !sourced(*v)) {
            return Err(PatchError::Unsourced(name(value)));
        }
        let dropped = drops.iter().flat_map(|id| graph.node(*id).outputs.iter().flatten()).copied();
        let gone: FxHashSet<ValueId> = dropped.filter(|v| !added.contains(v)).collect();
        let leaves = |v: &&ValueId| gone.contains(v) && !rewired.contains_key(v) && !self.withdrawn.contains(v);
        let exported = graph.outputs.iter().find(leaves);
        let read = |v: ValueId| {
            let survives = |id: &NodeId| !drops.contains(id);
            let captured = |id: &NodeId| graph.node(*id).captures.contains(&v);
            graph.value(v).consumers.iter().any(|id| survives(id) && (!rewired.contains_key(&v) || captured(id)))
        };
        match exported.copied().or_else(|| gone.iter().copied().find(|v| read(*v))) {
            Some(value) => Err(PatchError::Live(name(value))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DType;
    use super::*;

    fn chain() -> (Graph, ValueId, ValueId, ValueId) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", ValueType::tensor(DType::F32, &[2]));
        let [a] = g.add(Node::new("Neg", [x]), ["a"]);
        let [b] = g.add(Node::new("Relu", [a]), ["b"]);
        g.outputs.push(b);
        (g, x, a, b)
    }

    #[test]
    fn a_node_is_put_between_two_others() {
        let (mut g, _, a, b) = chain();
        let abs = g.add_value("abs", None);
        let mut patch = Patch::default();
        patch.add(Node { outputs: vec![Some(abs)], ..Node::new("Abs", [a]) }).rewire(a, abs);
        patch.apply(&mut g).unwrap();
        let (_, relu) = g.producer(b).unwrap();
        assert_eq!(relu.input(0), Some(abs));
        assert_eq!(g.order().unwrap().len(), 3);
    }

    #[test]
    fn one_reader_is_given_another_value() {
        let (mut g, x, a, b) = chain();
        let (relu, _) = g.producer(b).unwrap();
        let abs = g.add_value("abs", None);
        let mut patch = Patch::default();
        patch.add(Node { outputs: vec![Some(abs)], ..Node::new("Abs", [x]) }).read(relu, 0, abs).read(relu, 1, a);
        patch.apply(&mut g).unwrap();
        assert_eq!(g.node(relu).inputs, [Some(abs), Some(a)]);
        assert_eq!(g.value(a).consumers, [relu]);
        assert_eq!(g.order().unwrap().len(), 3);
    }

    #[test]
    fn inputs_and_outputs_come_and_go() {
        let (mut g, x, a, b) = chain();
        let mut patch = Patch::default();
        let y = patch.input(&mut g, "y", ValueType::tensor(DType::F32, &[2]));
        let [sum] = patch.compute(&mut g, Node::new("Add", [a, y]), ["sum"]);
        patch.withdraw(b).output(sum).output(y).drop(g.producer(b).unwrap().0);
        patch.apply(&mut g).unwrap();
        assert_eq!((&g.inputs[..], &g.outputs[..]), (&[x, y][..], &[sum, y][..]));
        assert_eq!(g.order().unwrap().len(), 2);
        // An output nobody computes, an input that is one already.
        let before = g.clone();
        let mut patch = Patch::default();
        patch.output(b);
        assert_eq!(patch.apply(&mut g), Err(PatchError::Unsourced("b".into())));
        let patch = Patch { inputs: vec![sum], ..Patch::default() };
        assert_eq!(patch.apply(&mut g), Err(PatchError::Provided("sum".into())));
        assert_eq!(g, before);
    }

    #[test]
    fn illegal_patches_change_nothing() {
        let (mut g, x, a, b) = chain();
        let before = g.clone();
        let mut patch = Patch::default();
        patch.drop(g.producer(a).unwrap().0);
        assert_eq!(patch.apply(&mut g), Err(PatchError::Live("a".into())));
        let y = g.add_input("y", ValueType::tensor(DType::I64, &[2]));
        g.remove_inputs(&[y]);
        g.value_mut(b).ty = Some(ValueType::tensor(DType::I64, &[2]));
        let mut patch = Patch::default();
        patch.rewire(x, b);
        assert!(matches!(patch.apply(&mut g), Err(PatchError::Type { .. })));
        g.value_mut(b).ty = None;
        assert_eq!(g, before);
    }

    #[test]
    fn what_a_drop_leaves_without_source_is_refused() {
        let (mut g, _, a, b) = chain();
        let before = g.clone();
        let (neg, relu) = (g.producer(a).unwrap().0, g.producer(b).unwrap().0);
        let c = g.add_value("c", None);
        // A new node reads what the dropped one computed.
        let mut patch = Patch::default();
        patch.add(Node { outputs: vec![Some(c)], ..Node::new("Abs", [a]) }).rewire(b, c).drop(neg).drop(relu);
        assert_eq!(patch.apply(&mut g), Err(PatchError::Unsourced("a".into())));
        // The replacement's own producer is dropped.
        let mut patch = Patch::default();
        patch.rewire(b, a).drop(neg).drop(relu);
        assert_eq!(patch.apply(&mut g), Err(PatchError::Unsourced("a".into())));
        // A second producer.
        let mut patch = Patch::default();
        patch.add(Node { outputs: vec![Some(a)], ..Node::new("Abs", [b]) });
        assert_eq!(patch.apply(&mut g), Err(PatchError::Provided("a".into())));
        let mut patch = Patch::default();
        patch.drop(NodeId::new(99));
        assert_eq!(patch.apply(&mut g), Err(PatchError::Missing(NodeId::new(99))));
        assert_eq!(g, before);
    }

    #[test]
    fn a_value_that_a_sub_graph_captures_cannot_lose_its_producer() {
        let (mut g, x, a, _) = chain();
        g.add(Node { captures: vec![a], ..Node::new("If", [x]) }, ["chosen"]);
        let mut patch = Patch::default();
        patch.rewire(a, x).drop(g.producer(a).unwrap().0);
        assert_eq!(patch.apply(&mut g), Err(PatchError::Live("a".into())));
    }

    #[test]
    fn a_value_may_get_a_new_producer_and_a_drop_may_be_said_twice() {
        let (mut g, x, a, b) = chain();
        let neg = g.producer(a).unwrap().0;
        let mut patch = Patch::default();
        patch.drop(neg).drop(neg).add(Node { outputs: vec![Some(a)], ..Node::new("Abs", [x]) });
        patch.apply(&mut g).unwrap();
        assert_eq!(g.producer(a).unwrap().1.op_type, "Abs");
        assert_eq!(g.order().unwrap().len(), 2);
        assert_eq!(g.producer(b).unwrap().1.input(0), Some(a));
    }
}
