//! Which inputs and outputs belong together, and the elementwise region between them.
//!
//! Nothing here looks at names. An output is paired with the input of the same type that it is computed from through
//! elementwise operators; a pair whose output feeds another pair's output is that parameter's state.

use super::tape::{Entry, Leaf, Op, Slot, Tape};
use crate::graph::{AttributeValue, DType, Graph, Node, NodeId, Payload, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Most nodes a pairing walk visits: an update is a few dozen nodes, a backward pass may be thousands.
const WALK_LIMIT: usize = 512;
/// Most nodes in a scalar that depends on the parameter's own tensors (a trust ratio, a clipping factor).
const SCALAR_LIMIT: usize = 96;

/// An input and the output that is its next value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Graph input.
    pub value: ValueId,
    /// Graph output.
    pub next: ValueId,
}

/// What is known of a graph before any rule runs.
pub struct Scope<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// Scalars counted or multiplied up from step to step.
    pub clocks: Vec<Pair>,
    scalar: Vec<bool>,
    pure_: Vec<bool>,
}

/// A parameter with its states.
#[derive(Clone, Debug)]
pub struct Group {
    /// The parameter.
    pub theta: Pair,
    /// States its update reads or writes, in order of the graph's inputs.
    pub states: Vec<Pair>,
}

/// The region of one group as a program.
pub struct Region {
    /// The program.
    pub tape: Tape,
    /// Slots of θ' and of each state's next value.
    pub next: Vec<Slot>,
}

impl<'g> Scope<'g> {
    /// Classifies every value of the graph; `order` is a topological order.
    pub fn new(graph: &'g Graph, order: &[NodeId]) -> Self {
        let count = graph.value_ids().count();
        let mut scope = Scope { graph, clocks: Vec::new(), scalar: vec![false; count], pure_: vec![false; count] };
        for id in graph.value_ids() {
            let value = graph.value(id);
            if value.producer.is_none() {
                let scalar = match (&value.initializer, value.dims()) {
                    (Some(t), _) => t.len() == 1,
                    (None, Some(dims)) => dims.iter().product::<usize>() == 1,
                    (None, None) => false,
                };
                let i = id.0 as usize;
                scope.scalar[i] = scalar;
                scope.pure_[i] = scalar || graph.constant(id).is_some_and(|t| uniform(t).is_some());
            }
        }
        for node in order {
            scope.classify(graph.node(*node));
        }
        scope
    }

    fn classify(&mut self, node: &Node) {
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let by_shape = |scope: &Self, shape: Option<ValueId>| match shape.and_then(|s| scope.graph.producer(s)) {
            Some((_, shape)) if shape.is("Shape") => shape.input(0).is_some_and(|v| scope.is_scalar(v)),
            _ => shape.and_then(|s| self.constant_ints(s)).is_some_and(|dims| dims.iter().all(|d| *d == 1)),
        };
        let derived = match node.op_type.as_str() {
            "Constant" => self.constant_tensor(node).is_some_and(|t| t.len() == 1),
            "ConstantOfShape" => by_shape(self, node.input(0)),
            "Expand" => inputs.first().is_some_and(|v| self.is_scalar(*v)) && by_shape(self, node.input(1)),
            "Shape" => false,
            "Reshape" | "Unsqueeze" | "Squeeze" | "Cast" | "CastLike" => {
                inputs.first().is_some_and(|v| self.is_scalar(*v))
            }
            _ => match operator(node) {
                Some(op) if op.is_reduction() => self.reduces_all(node),
                Some(_) => inputs.iter().all(|v| self.is_scalar(*v)),
                None => false,
            },
        };
        let known = operator(node).is_some() || node.op_type == "Constant" || node.op_type == "ConstantOfShape";
        let reduction = operator(node).is_some_and(Op::is_reduction);
        let arguments = if is_view(node) { &inputs[..inputs.len().min(1)] } else { &inputs[..] };
        let pure_ = node.domain.is_empty() && known && !reduction && arguments.iter().all(|v| self.pure_[v.0 as usize]);
        for output in node.outputs.iter().flatten() {
            let declared = self.graph.value(*output).dims().map(|d| d.iter().product::<usize>() == 1);
            let i = output.0 as usize;
            self.scalar[i] = declared.unwrap_or(derived);
            self.pure_[i] = pure_;
        }
    }

    /// True for a value of one element.
    pub fn is_scalar(&self, value: ValueId) -> bool {
        self.scalar[value.0 as usize]
    }

    /// True when every output element depends on the inputs' elements at the same place (or on scalars) alone.
    fn is_elementwise(&self, node: &Node) -> bool {
        let reshapes = matches!(node.op_type.as_str(), "Reshape" | "Unsqueeze" | "Squeeze" | "Expand");
        let spreads_scalar = node.input(0).is_some_and(|v| self.is_scalar(v));
        operator(node).is_some_and(|op| !op.is_reduction()) && (!reshapes || spreads_scalar)
    }

    fn reduces_all(&self, node: &Node) -> bool {
        let axes = match node.ints("axes") {
            Some(axes) => Some(axes.to_vec()),
            None => match node.input(1) {
                None => None,
                Some(v) => match self.constant_ints(v) {
                    Some(axes) => Some(axes),
                    None => return false,
                },
            },
        };
        match axes {
            None => node.int("noop_with_empty_axes") != Some(1),
            Some(axes) if axes.is_empty() => node.int("noop_with_empty_axes") != Some(1),
            Some(axes) => {
                let rank = node.input(0).and_then(|v| self.graph.value(v).shape()).map(<[_]>::len);
                rank.is_some_and(|r| {
                    axes.iter().map(|a| a.rem_euclid(r.max(1) as i64)).collect::<FxHashSet<_>>().len() == r
                })
            }
        }
    }

    fn constant_tensor<'a>(&'a self, node: &'a Node) -> Option<std::borrow::Cow<'a, Tensor>> {
        use std::borrow::Cow;
        let attribute = node.attributes.first()?;
        Some(match &attribute.value {
            AttributeValue::Tensor(t) => Cow::Borrowed(t),
            AttributeValue::Float(x) => Cow::Owned(Tensor::f32([], &[*x])),
            AttributeValue::Int(x) => Cow::Owned(Tensor::i64([], &[*x])),
            AttributeValue::Floats(x) => Cow::Owned(Tensor::f32([x.len()], x)),
            AttributeValue::Ints(x) => Cow::Owned(Tensor::i64([x.len()], x)),
            _ => return None,
        })
    }

    fn constant_ints(&self, value: ValueId) -> Option<Vec<i64>> {
        match self.graph.constant(value) {
            Some(t) => t.to_i64(),
            None => match self.graph.producer(value)? {
                (_, node) if node.is("Constant") => self.constant_tensor(node)?.to_i64(),
                (_, node) if node.is("Concat") && node.inputs.len() == 1 => self.constant_ints(node.input(0)?),
                _ => None,
            },
        }
    }

    /// The number a constant holds in every element, if it is one.
    fn constant_number(&self, value: ValueId) -> Option<f64> {
        if let Some(t) = self.graph.constant(value) {
            return uniform(t);
        }
        let (_, node) = self.graph.producer(value)?;
        match node.op_type.as_str() {
            "Constant" => uniform(&*self.constant_tensor(node)?),
            "ConstantOfShape" => match node.attribute("value") {
                Some(AttributeValue::Tensor(t)) => uniform(t),
                None => Some(0.0),
                _ => None,
            },
            _ => None,
        }
    }

    fn same_type(&self, a: ValueId, b: ValueId) -> bool {
        let (a, b) = (self.graph.value(a), self.graph.value(b));
        a.dtype() == b.dtype() && a.dims().is_some() && (b.dims().is_none() || a.shape() == b.shape())
    }

    /// Walks back from an output through elementwise nodes of its own shape; returns inputs of its type and nodes passed.
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
                if value != output && self.same_type(value, output) {
                    inputs.push(value);
                }
                continue;
            }
            let Some((id, node)) = self.graph.producer(value) else { continue };
            let foreign = info.dims().is_some() && info.dims() != self.graph.value(output).dims();
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
            walks[w].1.iter().copied().filter(|v| !taken.contains(v)).collect()
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
        use super::tape::Lanes;
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

    /// The program that computes θ' and the states' next values.
    pub fn region(&self, group: &Group) -> Region {
        let mut builder = Builder {
            scope: self,
            group,
            tape: Tape::default(),
            memo: FxHashMap::default(),
            own: FxHashSet::default(),
        };
        builder.collect_own();
        let next = std::iter::once(&group.theta).chain(&group.states).map(|p| builder.slot(p.next)).collect();
        Region { tape: builder.tape, next }
    }
}

struct Builder<'s, 'g> {
    scope: &'s Scope<'g>,
    group: &'s Group,
    tape: Tape,
    memo: FxHashMap<ValueId, Slot>,
    /// Tensors of this parameter's own update.
    own: FxHashSet<ValueId>,
}

impl Builder<'_, '_> {
    fn is_foreign(&self, value: ValueId) -> bool {
        let dims = self.scope.graph.value(value).dims();
        dims.is_some() && dims != self.scope.graph.value(self.group.theta.value).dims()
    }

    fn collect_own(&mut self) {
        let pairs = std::iter::once(&self.group.theta).chain(&self.group.states);
        let mut stack: Vec<ValueId> = pairs.clone().map(|p| p.next).collect();
        self.own.extend(pairs.map(|p| p.value));
        while let Some(value) = stack.pop() {
            if self.scope.is_scalar(value) || !self.own.insert(value) || self.own.len() > WALK_LIMIT {
                continue;
            }
            if let Some((_, node)) = self.scope.graph.producer(value)
                && self.scope.is_elementwise(node)
                && !self.is_foreign(value)
            {
                stack.extend(node.inputs.iter().flatten().take(if is_view(node) { 1 } else { usize::MAX }));
            }
        }
    }

    /// True when a scalar depends on nothing but scalars and this parameter's own tensors.
    fn owns(&mut self, scalar: ValueId) -> bool {
        let (mut stack, mut seen) = (vec![scalar], FxHashSet::default());
        while let Some(value) = stack.pop() {
            if self.scope.pure_[value.0 as usize] || self.own.contains(&value) || !seen.insert(value) {
                continue;
            }
            let Some((_, node)) = self.scope.graph.producer(value) else { return false };
            let supported = operator(node).is_some_and(|op| !op.is_reduction() || self.scope.reduces_all(node));
            if !supported || seen.len() > SCALAR_LIMIT {
                return false;
            }
            let view = is_view(node) || operator(node).is_some_and(Op::is_reduction);
            stack.extend(node.inputs.iter().flatten().take(if view { 1 } else { usize::MAX }));
        }
        self.own.extend(seen);
        true
    }

    fn slot(&mut self, value: ValueId) -> Slot {
        if let Some(slot) = self.memo.get(&value) {
            return *slot;
        }
        let entry = self.entry(value);
        let slot = self.tape.push(entry, Some(value));
        self.memo.insert(value, slot);
        slot
    }

    fn entry(&mut self, value: ValueId) -> Entry {
        let scope = self.scope;
        if value == self.group.theta.value {
            return Entry::Leaf(Leaf::Theta);
        }
        if let Some(i) = self.group.states.iter().position(|p| p.value == value) {
            return Entry::Leaf(Leaf::State(i));
        }
        if let Some(x) = scope.constant_number(value) {
            return Entry::Constant(x);
        }
        let scalar = scope.is_scalar(value);
        let outside = if scalar { Leaf::Opaque(value) } else { Leaf::Tensor(value) };
        if scope.graph.value(value).is_input {
            return Entry::Leaf(if scalar { Leaf::Scalar(value) } else { outside });
        }
        let Some((id, node)) = scope.graph.producer(value) else { return Entry::Leaf(outside) };
        let Some(op) = operator(node) else { return Entry::Leaf(outside) };
        let expand = if scalar {
            let splits = matches!(op, Op::Mul | Op::Div);
            scope.pure_[value.0 as usize] || splits || self.owns(value)
        } else {
            scope.is_elementwise(node) && !self.is_foreign(value) && self.own.contains(&value)
        };
        if !expand {
            return Entry::Leaf(outside);
        }
        self.apply(op, id, node)
    }

    fn apply(&mut self, op: Op, id: NodeId, node: &Node) -> Entry {
        let take = if is_view(node) || op.is_reduction() { 1 } else { usize::MAX };
        let mut args: Vec<Slot> = Vec::new();
        if op == Op::Clip {
            args.push(node.input(0).map_or(0, |v| self.slot(v)));
            for (k, (name, default)) in [("min", f64::NEG_INFINITY), ("max", f64::INFINITY)].into_iter().enumerate() {
                args.push(match node.input(k + 1) {
                    Some(v) => self.slot(v),
                    None => {
                        let bound = node.float(name).map_or(default, f64::from);
                        self.tape.push(Entry::Constant(bound), None)
                    }
                });
            }
        } else {
            args.extend(node.inputs.iter().flatten().take(take).map(|v| self.slot(*v)).collect::<Vec<_>>());
        }
        let dtype = node.output(0).and_then(|v| self.scope.graph.value(v).dtype());
        let op = match op {
            Op::Identity if node.is("Cast") && !to_float(node) => Op::Trunc,
            _ => op,
        };
        if op == Op::Div && dtype.is_some_and(|d| !d.is_float()) {
            let quotient = self.tape.push(Entry::Apply { op, args, node: id }, None);
            return Entry::Apply { op: Op::Trunc, args: vec![quotient], node: id };
        }
        Entry::Apply { op, args, node: id }
    }
}

fn to_float(node: &Node) -> bool {
    node.int("to").is_none_or(|t| DType(t as i32).is_float() || t == i64::from(DType::BOOL.0))
}

/// Operators whose further inputs say a shape or a type, not a value.
fn is_view(node: &Node) -> bool {
    matches!(node.op_type.as_str(), "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" | "CastLike" | "Cast" | "Identity")
}

/// The interpreter's operator for a node, if it has one.
fn operator(node: &Node) -> Option<Op> {
    if !node.domain.is_empty() {
        return None;
    }
    Some(match node.op_type.as_str() {
        "Add" | "Sum" => Op::Add,
        "Sub" => Op::Sub,
        "Mul" => Op::Mul,
        "Div" => Op::Div,
        "Neg" => Op::Neg,
        "Sqrt" => Op::Sqrt,
        "Pow" => Op::Pow,
        "Abs" => Op::Abs,
        "Sign" => Op::Sign,
        "Max" => Op::Max,
        "Min" => Op::Min,
        "Mean" => Op::Mean,
        "Clip" => Op::Clip,
        "Where" => Op::Where,
        "Exp" => Op::Exp,
        "Log" => Op::Log,
        "Reciprocal" => Op::Reciprocal,
        "Floor" => Op::Floor,
        "Ceil" => Op::Ceil,
        "Relu" => Op::Relu,
        "Tanh" => Op::Tanh,
        "Equal" => Op::Equal,
        "Less" => Op::Less,
        "LessOrEqual" => Op::LessOrEqual,
        "Greater" => Op::Greater,
        "GreaterOrEqual" => Op::GreaterOrEqual,
        "Not" => Op::Not,
        "And" => Op::And,
        "Or" => Op::Or,
        "IsNaN" => Op::IsNan,
        "IsInf" => Op::IsInf,
        "ReduceSum" => Op::ReduceSum,
        "ReduceSumSquare" => Op::ReduceSumSquare,
        "ReduceL2" => Op::ReduceL2,
        "ReduceL1" => Op::ReduceL1,
        "ReduceMean" => Op::ReduceMean,
        "ReduceMax" => Op::ReduceMax,
        "ReduceMin" => Op::ReduceMin,
        "Identity" | "Cast" | "CastLike" | "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" => Op::Identity,
        _ => return None,
    })
}

/// The number every element of a tensor equals.
fn uniform(tensor: &Tensor) -> Option<f64> {
    let Payload::Raw(bytes) = &tensor.payload else { return None };
    let size = tensor.dtype.bits()? / 8;
    if size == 0 || bytes.is_empty() || bytes.chunks_exact(size).any(|c| c != &bytes[..size]) {
        return None;
    }
    Tensor::raw(tensor.dtype, [], bytes[..size].to_vec()).scalar_f64()
}
