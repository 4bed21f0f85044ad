//! A float64 interpreter for the elementwise region around one parameter.
//!
//! Every slot is a scalar or a vector of `lanes` elements. Elementwise operators broadcast scalars; a reduction turns a
//! vector into a scalar. Float64 is deliberate: a look-alike that differs by one rounding of float32 still differs here.

use crate::graph::{NodeId, ValueId};

/// Index of a value within a [`Tape`].
pub type Slot = usize;

/// A scalar or one element per lane.
#[derive(Clone, Debug, PartialEq)]
pub enum Lanes {
    /// The same in every lane.
    Scalar(f64),
    /// One element per lane.
    Vector(Vec<f64>),
}

impl Lanes {
    /// Element of lane `i`.
    pub fn at(&self, i: usize) -> f64 {
        match self {
            Lanes::Scalar(x) => *x,
            Lanes::Vector(v) => v[i],
        }
    }

    fn len(&self) -> Option<usize> {
        match self {
            Lanes::Scalar(_) => None,
            Lanes::Vector(v) => Some(v.len()),
        }
    }
}

/// What a slot without an instruction stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// The parameter.
    Theta,
    /// The i-th state of the parameter.
    State(usize),
    /// A scalar graph input: learning rate, step, hyperparameter.
    Scalar(ValueId),
    /// A computed scalar that depends on other tensors (say, a global norm).
    Opaque(ValueId),
    /// A tensor of the parameter's shape computed outside the region: a gradient candidate.
    Tensor(ValueId),
}

/// Operators a region may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Neg,
    Sqrt,
    Pow,
    Abs,
    Sign,
    Max,
    Min,
    Clip,
    Where,
    Exp,
    Log,
    Reciprocal,
    Identity,
    Trunc,
    Floor,
    Ceil,
    Relu,
    Mean,
    Tanh,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Not,
    And,
    Or,
    IsNan,
    IsInf,
    ReduceSum,
    ReduceSumSquare,
    ReduceL2,
    ReduceL1,
    ReduceMean,
    ReduceMax,
    ReduceMin,
}

impl Op {
    /// True for operators that turn a vector into a scalar.
    pub fn is_reduction(self) -> bool {
        use Op::*;
        matches!(self, ReduceSum | ReduceSumSquare | ReduceL2 | ReduceL1 | ReduceMean | ReduceMax | ReduceMin)
    }

    /// Fewest operands it computes with.
    pub fn operands(self) -> usize {
        use Op::*;
        match self {
            Where => 3,
            Sub | Div | Pow | Equal | Less | LessOrEqual | Greater | GreaterOrEqual | And | Or => 2,
            _ => 1,
        }
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A constant.
    Constant(f64),
    /// Supplied at evaluation.
    Leaf(Leaf),
    /// Computed from earlier slots by `node`.
    Apply { op: Op, args: Vec<Slot>, node: NodeId },
}

/// A straight-line program; slots only refer to earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// Slots in order of evaluation.
    pub entries: Vec<Entry>,
    /// The graph value each slot stands for, if it has one.
    pub values: Vec<Option<ValueId>>,
}

impl Tape {
    /// Appends a slot.
    pub fn push(&mut self, entry: Entry, value: Option<ValueId>) -> Slot {
        self.entries.push(entry);
        self.values.push(value);
        self.entries.len() - 1
    }

    /// Evaluates every slot. `leaf` supplies leaves; `fixed` overrides single slots (anything behind them is ignored).
    pub fn run(&self, leaf: impl Fn(Leaf) -> Lanes, fixed: &[(Slot, Lanes)]) -> Vec<Lanes> {
        let mut out: Vec<Lanes> = Vec::with_capacity(self.entries.len());
        for (slot, entry) in self.entries.iter().enumerate() {
            let value = match fixed.iter().find(|(s, _)| *s == slot) {
                Some((_, value)) => value.clone(),
                None => match entry {
                    Entry::Constant(x) => Lanes::Scalar(*x),
                    Entry::Leaf(l) => leaf(*l),
                    Entry::Apply { op, args, .. } => apply(*op, args, &out),
                },
            };
            out.push(value);
        }
        out
    }

    /// Node names are looked up by callers; this is the node that computes a slot.
    pub fn node(&self, slot: Slot) -> Option<NodeId> {
        match &self.entries[slot] {
            Entry::Apply { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// True when `to` is computed from `from`, not passing through the slots in `without`.
    pub fn depends(&self, to: Slot, from: impl Fn(Slot) -> bool, without: &[Slot]) -> bool {
        let mut seen = vec![false; self.entries.len()];
        let mut stack = vec![to];
        while let Some(slot) = stack.pop() {
            if std::mem::replace(&mut seen[slot], true) {
                continue;
            }
            if from(slot) {
                return true;
            }
            if let (Entry::Apply { args, .. }, false) = (&self.entries[slot], without.contains(&slot)) {
                stack.extend(args);
            }
        }
        false
    }
}

fn apply(op: Op, args: &[Slot], slots: &[Lanes]) -> Lanes {
    if op.is_reduction() {
        return Lanes::Scalar(reduce(op, &slots[args[0]]));
    }
    let lanes = args.iter().filter_map(|a| slots[*a].len()).max();
    let at = |k: usize, i: usize| slots[args[k]].at(i);
    let element = |i: usize| elementwise(op, args.len(), |k| at(k, i));
    match lanes {
        None => Lanes::Scalar(element(0)),
        Some(n) => Lanes::Vector((0..n).map(element).collect()),
    }
}

fn reduce(op: Op, x: &Lanes) -> f64 {
    let (values, n): (&[f64], f64) = match x {
        Lanes::Scalar(x) => (std::slice::from_ref(x), 1.0),
        Lanes::Vector(v) => (v, v.len() as f64),
    };
    let sum = |f: fn(f64) -> f64| values.iter().copied().map(f).sum::<f64>();
    match op {
        Op::ReduceSum => sum(|x| x),
        Op::ReduceMean => sum(|x| x) / n,
        Op::ReduceL1 => sum(f64::abs),
        Op::ReduceSumSquare => sum(|x| x * x),
        Op::ReduceL2 => sum(|x| x * x).sqrt(),
        Op::ReduceMax => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        _ => values.iter().copied().fold(f64::INFINITY, f64::min),
    }
}

fn elementwise(op: Op, arity: usize, arg: impl Fn(usize) -> f64) -> f64 {
    let (a, b) = (|| arg(0), || arg(1));
    let truth = |x: bool| f64::from(u8::from(x));
    let fold = |f: fn(f64, f64) -> f64| (1..arity).fold(arg(0), |acc, k| f(acc, arg(k)));
    match op {
        Op::Add => fold(|x, y| x + y),
        Op::Sub => a() - b(),
        Op::Mul => fold(|x, y| x * y),
        Op::Div => a() / b(),
        Op::Neg => -a(),
        Op::Sqrt => a().sqrt(),
        Op::Pow => a().powf(b()),
        Op::Abs => a().abs(),
        Op::Sign => {
            if a() == 0.0 {
                0.0
            } else {
                a().signum()
            }
        }
        Op::Max => fold(f64::max),
        Op::Min => fold(f64::min),
        Op::Clip => a().max(b()).min(arg(2)),
        Op::Where => {
            if a() != 0.0 {
                b()
            } else {
                arg(2)
            }
        }
        Op::Exp => a().exp(),
        Op::Log => a().ln(),
        Op::Reciprocal => 1.0 / a(),
        Op::Trunc => a().trunc(),
        Op::Floor => a().floor(),
        Op::Ceil => a().ceil(),
        Op::Relu => a().max(0.0),
        Op::Tanh => a().tanh(),
        Op::Mean => fold(|x, y| x + y) / arity as f64,
        Op::Equal => truth(a() == b()),
        Op::Less => truth(a() < b()),
        Op::LessOrEqual => truth(a() <= b()),
        Op::Greater => truth(a() > b()),
        Op::GreaterOrEqual => truth(a() >= b()),
        Op::Not => truth(a() == 0.0),
        Op::And => truth(a() != 0.0 && b() != 0.0),
        Op::Or => truth(a() != 0.0 || b() != 0.0),
        Op::IsNan => truth(a().is_nan()),
        Op::IsInf => truth(a().is_infinite()),
        _ => a(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_scalars_and_reduces_lanes() {
        let mut tape = Tape::default();
        let theta = tape.push(Entry::Leaf(Leaf::Theta), None);
        let two = tape.push(Entry::Constant(2.0), None);
        let node = NodeId::new(0);
        let scaled = tape.push(Entry::Apply { op: Op::Mul, args: vec![theta, two], node }, None);
        let norm = tape.push(Entry::Apply { op: Op::ReduceL2, args: vec![scaled], node }, None);
        let out = tape.run(|_| Lanes::Vector(vec![1.5, 2.0]), &[]);
        assert_eq!(out[scaled], Lanes::Vector(vec![3.0, 4.0]));
        assert_eq!(out[norm], Lanes::Scalar(5.0));
        let out = tape.run(|_| Lanes::Vector(vec![1.5, 2.0]), &[(scaled, Lanes::Scalar(-7.0))]);
        assert_eq!(out[norm], Lanes::Scalar(7.0));
    }

    #[test]
    fn dependence_stops_at_a_cut() {
        let mut tape = Tape::default();
        let theta = tape.push(Entry::Leaf(Leaf::Theta), None);
        let node = NodeId::new(0);
        let a = tape.push(Entry::Apply { op: Op::Neg, args: vec![theta], node }, None);
        let b = tape.push(Entry::Apply { op: Op::Abs, args: vec![a], node }, None);
        assert!(tape.depends(b, |s| s == theta, &[]));
        assert!(!tape.depends(b, |s| s == theta, &[a]));
    }
}
