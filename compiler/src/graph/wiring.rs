//! Who reads what: changing it, and following it.

use super::{Graph, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

impl Graph {
    /// The nodes that `values` are computed by, directly or through others.
    pub fn ancestors(&self, values: &[ValueId]) -> FxHashSet<NodeId> {
        let mut open: Vec<NodeId> = values.iter().filter_map(|v| Some(self.producer(*v)?.0)).collect();
        let mut found = FxHashSet::default();
        while let Some(id) = open.pop() {
            if found.insert(id) {
                open.extend(self.dag().neighbors_directed(id, petgraph::Incoming));
            }
        }
        found
    }

    /// Makes input `slot` of `node` read `value`.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: ValueId) {
        if let Some(old) = self.dag[node].inputs[slot].replace(value) {
            self.forget_consumer(old, node);
        }
        self.link(value, node);
    }

    /// Appends an input to `node`.
    pub fn push_input(&mut self, node: NodeId, value: ValueId) {
        self.dag[node].inputs.push(Some(value));
        self.link(value, node);
    }

    /// Makes every reader of `old` (graph outputs included, captures by sub-graphs excluded) read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        self.replace_all_uses(&std::iter::once((old, new)).collect());
    }

    /// [`Graph::replace_uses`] for many values in one walk over the outputs; `map` is from old to new.
    pub fn replace_all_uses(&mut self, map: &FxHashMap<ValueId, ValueId>) {
        let mut pairs: Vec<(ValueId, ValueId)> = map.iter().map(|(o, n)| (*o, *n)).filter(|(o, n)| o != n).collect();
        pairs.sort_unstable();
        for (old, new) in pairs {
            for consumer in self.value(old).consumers.clone() {
                for slot in 0..self.dag[consumer].inputs.len() {
                    if self.dag[consumer].inputs[slot] == Some(old) {
                        self.set_input(consumer, slot, new);
                    }
                }
            }
        }
        for output in &mut self.outputs {
            if let Some(new) = map.get(output) {
                *output = *new;
            }
        }
    }

    /// Removes nodes none of whose outputs reach a graph output, then constants nobody reads; returns how many nodes went.
    pub fn remove_dead(&mut self) -> usize {
        let mut live = vec![false; self.dag.node_indices().next_back().map_or(0, |i| i.index() + 1)];
        let mut stack: Vec<NodeId> = self.outputs.iter().filter_map(|v| Some(self.value(*v).producer?.0)).collect();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut live[id.index()], true) {
                stack.extend(self.dag.neighbors_directed(id, petgraph::Incoming));
            }
        }
        let dead: Vec<NodeId> = self.dag.node_indices().filter(|id| !live[id.index()]).collect();
        // Links are taken apart in one sweep: removing consumers one by one is quadratic for widely read constants.
        for value in &mut self.values {
            value.consumers.retain(|c| live[c.index()]);
        }
        for id in &dead {
            let outputs = self.dag.remove_node(*id).map(|node| node.outputs).unwrap_or_default();
            for value in outputs.into_iter().flatten() {
                self.values[value.0 as usize].producer = None;
                self.retire(value);
            }
        }
        let exported: FxHashSet<ValueId> = self.outputs.iter().copied().collect();
        for id in self.value_ids() {
            let value = self.value(id);
            let idle = value.producer.is_none() && value.consumers.is_empty() && !value.is_input;
            if idle && value.initializer.is_some() && !exported.contains(&id) {
                self.retire(id);
            }
        }
        dead.len()
    }

    /// Drops graph inputs that nobody reads; their names become free.
    pub fn remove_inputs(&mut self, ids: &[ValueId]) {
        for id in ids {
            self.values[id.0 as usize].is_input = false;
            self.retire(*id);
        }
        let values = &self.values;
        self.inputs.retain(|v| values[v.0 as usize].is_input);
    }

    /// Forgets a value that nothing reads or computes any more; its name becomes free.
    fn retire(&mut self, id: ValueId) {
        let value = &mut self.values[id.0 as usize];
        value.initializer = None;
        value.declared = false;
        let name = std::mem::take(&mut value.name);
        if self.by_name.get(&name) == Some(&id) {
            self.by_name.remove(&name);
        }
    }

    pub(super) fn link(&mut self, value: ValueId, consumer: NodeId) {
        self.values[value.0 as usize].consumers.push(consumer);
        if let Some((producer, _)) = self.values[value.0 as usize].producer {
            self.dag.add_edge(producer, consumer, value);
        }
    }

    pub(super) fn forget_consumer(&mut self, value: ValueId, consumer: NodeId) {
        let consumers = &mut self.values[value.0 as usize].consumers;
        if let Some(at) = consumers.iter().position(|c| *c == consumer) {
            consumers.swap_remove(at);
        }
        if let Some((producer, _)) = self.values[value.0 as usize].producer
            && let Some(edge) = self.dag.edges_connecting(producer, consumer).find(|e| *e.weight() == value).map(|e| {
                use petgraph::visit::EdgeRef;
                e.id()
            })
        {
            self.dag.remove_edge(edge);
        }
    }
}
