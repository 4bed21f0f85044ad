//! Pairs every output with the input it is the next value of, and groups a parameter with its states.

use super::super::tape::Leaf;
use super::operator::is_view;
use super::{Group, Pair, Scope, WALK_LIMIT};
use crate::graph::{DType, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

impl Scope<'_> {
    /// Element types may differ: a float16 parameter often has float32 states.
    fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        let (a, b) = (self.graph.value(a), self.graph.value(b));
        let floats =
            a.dtype() == b.dtype() || a.dtype().zip(b.dtype()).is_some_and(|(a, b)| a.is_float() && b.is_float());
        floats && a.has_dims() && (!b.has_dims() || a.shape() == b.shape())
    }

    fn same_type(&self, a: ValueId, b: ValueId) -> bool {
        self.graph.value(a).dtype() == self.graph.value(b).dtype()
    }

    /// Walks back from an output through elementwise nodes of its own shape; returns inputs of its shape and nodes passed.
    fn reach(&self, output: ValueId) -> (Vec<ValueId>, FxHashSet<NodeId>) {
        let through_scalars = self.is_scalar(output);
        let (mut inputs, mut nodes) = (Vec::new(), FxHashSet::default());
        let (mut stack, mut seen) = (vec![output], FxHashSet::default());
        while let Some(value) = stack.pop() {
            if !seen.insert(value) || nodes.len() > WALK_LIMIT {
                continue;
            }
            let info = self.graph.value(value);
            if info.is_input {
                if value != output && self.same_shape(value, output) {
                    inputs.push(value);
                }
                continue;
            }
            let Some((id, node)) = self.graph.producer(value) else { continue };
            let foreign = info.has_dims() && info.shape() != self.graph.value(output).shape();
            if foreign && !through_scalars {
                continue;
            }
            if self.is_elementwise(node) {
                nodes.insert(id);
                let arguments = node.inputs.iter().flatten().take(if is_view(node) { 1 } else { usize::MAX });
                stack.extend(arguments.filter(|v| through_scalars || !self.is_scalar(**v)));
            }
        }
        (inputs, nodes)
    }

    /// Finds every parameter with its states. `bind` lists pairs the user insists on.
    pub fn groups(&mut self, bind: &[Pair]) -> Vec<Group> {
        let graph = self.graph;
        let mut walks = Vec::new();
        for &output in &graph.outputs {
            let value = graph.value(output);
            if value.producer.is_none() {
                continue;
            }
            if self.is_scalar(output) && self.pure_[output.0 as usize] {
                if let ([input], _) = (&self.reach_any(output)[..], ()) {
                    self.clocks.push(Pair { value: *input, next: output });
                }
                continue;
            }
            if value.dtype().is_none_or(DType::is_float) {
                let (inputs, nodes) = self.reach(output);
                if !inputs.is_empty() {
                    walks.push((output, inputs, nodes));
                }
            }
        }
        let pairs = self.pair(&walks, bind);
        let index: FxHashMap<ValueId, usize> = pairs.iter().map(|(w, p)| (p.value, *w)).collect();
        // Pair Q is a state of P when P's update reads Q's input and either passes through Q's update, or Q's update
        // does not read P in turn.
        let is_state_of = |q: &(usize, Pair), p: &(usize, Pair)| {
            let reads = |w: usize, v: ValueId| walks[w].1.contains(&v);
            let producer = graph.value(q.1.next).producer.map(|(n, _)| n);
            q.1 != p.1
                && reads(p.0, q.1.value)
                && (producer.is_some_and(|n| walks[p.0].2.contains(&n)) || !reads(q.0, p.1.value))
        };
        let by_input = |v: &ValueId| index.get(v).map(|w| (*w, Pair { value: *v, next: walks[*w].0 }));
        let mut owned: FxHashSet<ValueId> = FxHashSet::default();
        for p in &pairs {
            for q in walks[p.0].1.iter().filter_map(by_input) {
                if is_state_of(&q, p) {
                    owned.insert(q.1.value);
                }
            }
        }
        let mut groups: Vec<Group> = pairs
            .iter()
            .filter(|p| !owned.contains(&p.1.value))
            .map(|p| {
                let mut states: Vec<Pair> = Vec::new();
                let mut open = vec![*p];
                while let Some(at) = open.pop() {
                    for q in walks[at.0].1.iter().filter_map(by_input) {
                        let known = q.1 == p.1 || states.contains(&q.1);
                        if !known && (is_state_of(&q, &at) || is_state_of(&q, p)) {
                            states.push(q.1);
                            open.push(q);
                        }
                    }
                }
                Group { theta: p.1, states }
            })
            .collect();
        let position: FxHashMap<ValueId, usize> = graph.inputs.iter().enumerate().map(|(i, v)| (*v, i)).collect();
        for group in &mut groups {
            group.states.sort_by_key(|p| position[&p.value]);
        }
        groups.sort_by_key(|g| position[&g.theta.value]);
        groups
    }

    /// Scalar graph inputs a pure scalar depends on.
    fn reach_any(&self, output: ValueId) -> Vec<ValueId> {
        let (mut inputs, mut stack, mut seen) = (Vec::new(), vec![output], FxHashSet::default());
        while let Some(value) = stack.pop() {
            if !seen.insert(value) {
                continue;
            }
            if self.graph.value(value).is_input {
                inputs.push(value);
            } else if let Some((_, node)) = self.graph.producer(value) {
                let arguments = node.inputs.iter().flatten().take(if is_view(node) { 1 } else { usize::MAX });
                stack.extend(arguments);
            }
        }
        inputs
    }

    /// Assigns one input to each output: insisted pairs first, then the only candidate, then the input whose derivative is nearest to 1.
    fn pair(&self, walks: &[(ValueId, Vec<ValueId>, FxHashSet<NodeId>)], bind: &[Pair]) -> Vec<(usize, Pair)> {
        let mut taken: FxHashSet<ValueId> = bind.iter().map(|p| p.value).collect();
        let mut result: Vec<Option<ValueId>> =
            walks.iter().map(|w| bind.iter().find(|p| p.next == w.0).map(|p| p.value)).collect();
        let mut readers: FxHashMap<ValueId, Vec<usize>> = FxHashMap::default();
        for (w, walk) in walks.iter().enumerate() {
            for input in &walk.1 {
                readers.entry(*input).or_default().push(w);
            }
        }
        let free = |w: usize, taken: &FxHashSet<ValueId>| -> Vec<ValueId> {
            walks[w].1.iter().copied().filter(|v| !taken.contains(v) && self.same_type(*v, walks[w].0)).collect()
        };
        let mut queue: Vec<usize> = (0..walks.len()).rev().collect();
        while let Some(w) = queue.pop() {
            if let (None, [only]) = (result[w], &free(w, &taken)[..]) {
                result[w] = Some(*only);
                taken.insert(*only);
                queue.extend(readers[only].iter().filter(|r| result[**r].is_none()));
            }
        }
        // What is left reads several free inputs (momentum with coupled weight decay, say): ask the derivatives.
        let mut scored: Vec<(f64, usize, ValueId)> = Vec::new();
        for w in (0..walks.len()).filter(|w| result[*w].is_none()) {
            scored.extend(free(w, &taken).into_iter().map(|v| ((self.derivative(walks[w].0, v) - 1.0).abs(), w, v)));
        }
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, w, v) in scored {
            if result[w].is_none() && taken.insert(v) {
                result[w] = Some(v);
            }
        }
        result.iter().enumerate().filter_map(|(w, v)| Some((w, Pair { value: (*v)?, next: walks[w].0 }))).collect()
    }

    fn derivative(&self, output: ValueId, input: ValueId) -> f64 {
        use super::super::tape::Lanes;
        let region = self.region(&Group { theta: Pair { value: input, next: output }, states: Vec::new() });
        let value = |x: f64| {
            let leaf = |leaf: Leaf| match leaf {
                Leaf::Theta => Lanes::Scalar(x),
                Leaf::Scalar(_) => Lanes::Scalar(0.01),
                _ => Lanes::Scalar(0.3),
            };
            region.tape.run(leaf, &[])[region.next[0]].at(0)
        };
        let d = (value(0.5 + 1e-4) - value(0.5 - 1e-4)) / 2e-4;
        if d.is_finite() { d } else { f64::MAX }
    }
}
