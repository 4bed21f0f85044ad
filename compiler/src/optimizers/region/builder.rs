//! Turns a group's region of the graph into a tape.

use super::super::tape::{Entry, Leaf, Op, Slot, Tape};
use super::operator::{is_view, operator, to_float};
use super::{Group, Region, Scope, WALK_LIMIT};
use crate::graph::{Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Deepest nesting of operators: more than a walk of [`WALK_LIMIT`] nodes can find, but a chain of scalars may be longer.
const DEPTH: usize = WALK_LIMIT + 88;
/// Most nodes in a scalar that depends on the parameter's own tensors (a trust ratio, a clipping factor).
const SCALAR_LIMIT: usize = 96;

impl Scope<'_> {
    /// The program that computes θ' and the states' next values.
    pub fn region(&self, group: &Group) -> Region {
        let mut builder = Builder {
            scope: self,
            group,
            tape: Tape::default(),
            memo: FxHashMap::default(),
            own: FxHashSet::default(),
            depth: 0,
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
    /// Operators whose arguments are being put on the tape.
    depth: usize,
}

impl Builder<'_, '_> {
    fn is_foreign(&self, value: ValueId) -> bool {
        let value = self.scope.graph.value(value);
        value.has_dims() && value.shape() != self.scope.graph.value(self.group.theta.value).shape()
    }

    /// For a parameter of one element, being a scalar says nothing about where a value belongs.
    fn of_one_element(&self) -> bool {
        self.scope.is_scalar(self.group.theta.next)
    }

    fn collect_own(&mut self) {
        let pairs = std::iter::once(&self.group.theta).chain(&self.group.states);
        let mut stack: Vec<ValueId> = pairs.clone().map(|p| p.next).collect();
        self.own.extend(pairs.map(|p| p.value));
        while let Some(value) = stack.pop() {
            let foreign = self.scope.is_scalar(value) && !self.of_one_element();
            if foreign || !self.own.insert(value) || self.own.len() > WALK_LIMIT {
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
        // A function's body may be called without all of its inputs.
        let whole = |op: &Op| node.inputs.len() >= op.operands() && !node.inputs[..op.operands()].contains(&None);
        let Some(op) = operator(node).filter(whole) else { return Entry::Leaf(outside) };
        let elementwise = || scope.is_elementwise(node) && !self.is_foreign(value) && self.own.contains(&value);
        let expand = if scalar && self.of_one_element() && elementwise() {
            true
        } else if scalar {
            let splits = matches!(op, Op::Mul | Op::Div);
            scope.pure_[value.0 as usize] || splits || self.owns(value)
        } else {
            elementwise()
        };
        if !expand || self.depth == DEPTH {
            return Entry::Leaf(outside);
        }
        self.depth += 1;
        let entry = self.apply(op, id, node);
        self.depth -= 1;
        entry
    }

    fn apply(&mut self, op: Op, id: NodeId, node: &Node) -> Entry {
        let take = if is_view(node) || op.is_reduction() { 1 } else { usize::MAX };
        let mut args: Vec<Slot> = Vec::new();
        if op == Op::Clip {
            args.extend(node.input(0).map(|v| self.slot(v)));
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
