//! Which inputs and outputs belong together, and the elementwise region between them.
//!
//! Nothing here looks at names. An output is paired with the input of the same type that it is computed from through
//! elementwise operators; a pair whose output feeds another pair's output is that parameter's state.

mod builder;
mod operator;
mod pairs;

use super::tape::{Op, Slot, Tape};
use crate::graph::{AttributeValue, Dim, Graph, Node, NodeId, Tensor, ValueId};
use operator::{is_view, operator, uniform};
use rustc_hash::FxHashSet;

/// Most nodes a pairing walk visits: an update is a few dozen nodes, a backward pass may be thousands.
const WALK_LIMIT: usize = 512;

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

/// True for the axes of exactly one element.
fn of_one_element(axes: &[Dim]) -> bool {
    axes.iter().all(|d| *d == Dim::Known(1))
}

impl<'g> Scope<'g> {
    /// Classifies every value of the graph; `order` is a topological order.
    pub fn new(graph: &'g Graph, order: &[NodeId]) -> Self {
        let count = graph.value_ids().count();
        let mut scope = Scope { graph, clocks: Vec::new(), scalar: vec![false; count], pure_: vec![false; count] };
        for id in graph.value_ids() {
            let value = graph.value(id);
            if value.producer.is_none() {
                let scalar = match &value.initializer {
                    Some(t) => t.len() == 1,
                    None => value.shape().is_some_and(of_one_element),
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
            let info = self.graph.value(*output);
            let declared = info.has_dims().then(|| info.shape().is_some_and(of_one_element));
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

    fn constant_ints(&self, mut value: ValueId) -> Option<Vec<i64>> {
        loop {
            if let Some(t) = self.graph.constant(value) {
                return t.to_i64();
            }
            match self.graph.producer(value)? {
                (_, node) if node.is("Constant") => return self.constant_tensor(node)?.to_i64(),
                (_, node) if node.is("Concat") && node.inputs.len() == 1 => value = node.input(0)?,
                _ => return None,
            }
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
}
