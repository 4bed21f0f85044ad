//! What a pass wants changed, applied in one go.

use super::{Graph, Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

/// A change to a graph. A patch is legal when every node it adds reads values of the graph or of the patch, every value it
/// rewires keeps its type, and no node it drops computes a value that is still read afterwards.
#[derive(Debug, Default)]
pub struct Patch {
    nodes: Vec<Node>,
    reads: Vec<(NodeId, usize, ValueId)>,
    rewires: Vec<(ValueId, ValueId)>,
    drops: Vec<NodeId>,
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
}

impl Patch {
    /// Adds a node whose outputs are values made with [`Graph::add_value`].
    pub fn add(&mut self, node: Node) -> &mut Self {
        self.nodes.push(node);
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
        let read = self.reads.iter().filter_map(|(node, slot, new)| Some((graph.node(*node).input(*slot)?, *new)));
        for (old, new) in read.chain(self.rewires.iter().copied()) {
            let (a, b) = (graph.value(old), graph.value(new));
            let dtype = a.dtype().zip(b.dtype()).is_some_and(|(x, y)| x != y);
            let shape = a.dims().zip(b.dims()).is_some_and(|(x, y)| x != y);
            if dtype || shape {
                return Err(PatchError::Type { old: a.name.clone(), new: b.name.clone() });
            }
        }
        let dropped: FxHashSet<NodeId> = self.drops.iter().copied().collect();
        let rewired: FxHashMap<ValueId, ValueId> = self.rewires.iter().copied().collect();
        let exported: FxHashSet<ValueId> =
            if dropped.is_empty() { FxHashSet::default() } else { graph.outputs.iter().copied().collect() };
        for id in &self.drops {
            for value in graph.node(*id).outputs.iter().flatten() {
                let info = graph.value(*value);
                let read = info.consumers.iter().any(|c| !dropped.contains(c)) || exported.contains(value);
                if read && !rewired.contains_key(value) {
                    return Err(PatchError::Live(info.name.clone()));
                }
            }
        }
        graph.replace_all_uses(&rewired);
        for id in self.drops {
            graph.remove_node(id);
        }
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
}

#[cfg(test)]
mod tests {
    use super::super::{DType, ValueType};
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
}
