//! Steps spelled by hand, carried out by the reference device with kernels recognised and without.

use super::recognise;
use crate::HostTensor;
use crate::plan::device::{Scalars, Session};
use crate::plan::maps::{Map, Operand, What};
use crate::plan::testing::Reference;
use crate::plan::{BufferId, DType, Draft, Kind, Node, Source, Task, View, arena, fuse, schedule};
use npc_kernels::cuda::index::Picks;
use npc_kernels::elementwise::{Operation, Reduce, Scalar};
use std::collections::HashMap;

/// Rows and columns of a step's matrices.
pub const SHAPE: [usize; 2] = [6, 9];

/// A value: its buffer and extents.
pub type Value = (BufferId, [usize; 2]);

pub struct Step {
    pub draft: Draft,
    /// Numbers of the inputs that are class ids.
    ids: HashMap<String, Vec<i64>>,
}

fn constant(x: f32) -> Operand {
    Operand::Constant(DType::F32, Scalar::Float(x))
}

/// A value as it is repeated to a whole matrix.
fn wide((id, shape): Value) -> Operand {
    Operand::View(View::dense(id, &shape).broadcast(&SHAPE))
}

impl Step {
    pub fn new() -> Self {
        Step { draft: Draft::default(), ids: HashMap::new() }
    }

    pub fn input(&mut self, name: &str, shape: [usize; 2]) -> Value {
        let id = self.draft.buffer(name, DType::F32, shape.iter().product(), Source::Fed);
        self.draft.inputs.push((name.into(), id));
        (id, shape)
    }

    /// Class ids, one a row.
    pub fn ids(&mut self, name: &str, ids: &[i64; SHAPE[0]]) -> Value {
        let id = self.draft.buffer(name, DType::I64, ids.len(), Source::Fed);
        self.draft.inputs.push((name.into(), id));
        self.ids.insert(name.into(), ids.to_vec());
        (id, [SHAPE[0], 1])
    }

    /// Row numbers, one a column.
    pub fn ids_of_columns(&mut self, name: &str, ids: &[i64; SHAPE[1]]) -> Value {
        let id = self.draft.buffer(name, DType::I64, ids.len(), Source::Fed);
        self.draft.inputs.push((name.into(), id));
        self.ids.insert(name.into(), ids.to_vec());
        (id, [1, SHAPE[1]])
    }

    /// int64 results of work, one a row.
    pub fn indices(&mut self, task: Task, x: Value) -> Value {
        let id = self.draft.buffer("indices", DType::I64, SHAPE[0], Source::Computed);
        self.draft.push("indices", task, vec![x.0], vec![id]);
        (id, [SHAPE[0], 1])
    }

    /// The opposite of a truth value.
    pub fn opposite(&mut self, a: Value) -> Value {
        let operands = vec![Operand::View(View::dense(a.0, &a.1))];
        self.map(a.1, operands, What::Apply(Operation::Not), DType::Bool, a.1)
    }

    /// One of two ids for every row.
    pub fn choose(&mut self, condition: Value, a: Value, b: Value) -> Value {
        let operands = [condition, a, b].map(|(id, shape)| Operand::View(View::dense(id, &shape))).to_vec();
        self.map(a.1, operands, What::Apply(Operation::Select), DType::I64, a.1)
    }

    /// A number for every row.
    pub fn repeated(&mut self, a: Value) -> Value {
        let shape = [SHAPE[0], 1];
        let operands = vec![Operand::View(View::dense(a.0, &a.1).broadcast(&shape)), constant(1.0)];
        self.map(shape, operands, What::Apply(Operation::Multiply), DType::F32, shape)
    }

    /// An operation on a value and a whole number.
    pub fn with_integer(&mut self, operation: Operation, (id, shape): Value, x: i64) -> Value {
        let of_ids = matches!(operation, Operation::Add | Operation::Multiply | Operation::Maximum);
        let operands = vec![Operand::View(View::dense(id, &shape)), Operand::Constant(DType::I64, Scalar::I64(x))];
        self.map(shape, operands, What::Apply(operation), if of_ids { DType::I64 } else { DType::Bool }, shape)
    }

    /// A value where a condition of its shape holds, elsewhere a constant; or the other way round.
    pub fn select(&mut self, condition: Value, a: Value, other: Scalar, swapped: bool) -> Value {
        let (dtype, view) = (self.draft.buffers[a.0].dtype, |v: Value| Operand::View(View::dense(v.0, &v.1)));
        let mut operands = vec![view(condition), view(a), Operand::Constant(dtype, other)];
        if swapped {
            operands.swap(1, 2);
        }
        self.map(a.1, operands, What::Apply(Operation::Select), dtype, a.1)
    }

    /// `on` where the ids' class is, counted from `first` along an axis, 0 elsewhere.
    pub fn one_hot(&mut self, ids: Value, on: f32, first: i64, axis: usize) -> Value {
        let mut shape = [1, 1];
        shape[axis] = SHAPE[axis];
        let bytes = (first..).take(SHAPE[axis]).flat_map(i64::to_le_bytes).collect();
        let classes = (self.draft.buffer("classes", DType::I64, SHAPE[axis], Source::Constant(bytes)), shape);
        let operands = vec![wide(ids), wide(classes)];
        let hit = self.map(SHAPE, operands, What::Apply(Operation::Equal), DType::Bool, SHAPE);
        let operands = vec![Operand::View(View::dense(hit.0, &SHAPE)), constant(on), constant(0.0)];
        self.map(SHAPE, operands, What::Apply(Operation::Select), DType::F32, SHAPE)
    }

    /// Constant numbers.
    pub fn numbers(&mut self, shape: [usize; 2], number: impl Fn(usize) -> f32) -> Value {
        let bytes = (0..shape.iter().product()).flat_map(|i| number(i).to_le_bytes()).collect();
        (self.draft.buffer("numbers", DType::F32, shape.iter().product(), Source::Constant(bytes)), shape)
    }

    fn picks() -> Picks {
        let [outer, extent] = SHAPE.map(|n| n as u64);
        Picks { outer, extent, inner: 1, picks: 1 }
    }

    /// `on` at the ids, in place of what `base` has there.
    pub fn scattered(&mut self, base: Value, ids: Value, on: f32) -> Value {
        let numbers = self.numbers([SHAPE[0], 1], |_| on);
        self.work(Task::ScatterElements { picks: Self::picks(), add: false }, &[base, ids, numbers], &[SHAPE])[0]
    }

    /// What is at the ids.
    pub fn gathered(&mut self, x: Value, ids: Value) -> Value {
        self.work(Task::Gather { picks: Self::picks(), each: true }, &[x, ids], &[[SHAPE[0], 1]])[0]
    }

    fn map(&mut self, shape: [usize; 2], operands: Vec<Operand>, what: What, dtype: DType, to: [usize; 2]) -> Value {
        let output = self.draft.buffer("map", dtype, to.iter().product(), Source::Computed);
        let map = Map { shape: shape.to_vec(), operands, what, output };
        self.draft.work.push(Node { name: "map".into(), kind: Kind::Map(map) });
        (output, to)
    }

    /// Of values of a whole matrix, or broadcast to one.
    fn apply(&mut self, operation: Operation, operands: Vec<Operand>) -> Value {
        self.map(SHAPE, operands, What::Apply(operation), DType::F32, SHAPE)
    }

    pub fn binary(&mut self, operation: Operation, a: Value, b: Value) -> Value {
        if a.1 == b.1 {
            let operands = [a, b].map(|(id, shape)| Operand::View(View::dense(id, &shape))).to_vec();
            return self.map(a.1, operands, What::Apply(operation), DType::F32, a.1);
        }
        self.apply(operation, vec![wide(a), wide(b)])
    }

    pub fn times(&mut self, a: Value, factor: f32) -> Value {
        self.map(
            a.1,
            vec![Operand::View(View::dense(a.0, &a.1)), constant(factor)],
            What::Apply(Operation::Multiply),
            DType::F32,
            a.1,
        )
    }

    pub fn plus(&mut self, a: Value, term: f32) -> Value {
        let operands = vec![Operand::View(View::dense(a.0, &a.1)), constant(term)];
        self.map(a.1, operands, What::Apply(Operation::Add), DType::F32, a.1)
    }

    /// The larger of a value's elements and a bound.
    pub fn at_least(&mut self, a: Value, bound: f32) -> Value {
        let operands = vec![Operand::View(View::dense(a.0, &a.1)), constant(bound)];
        self.map(a.1, operands, What::Apply(Operation::Maximum), DType::F32, a.1)
    }

    /// A value times how many rows there are by `rows`.
    pub fn shared(&mut self, a: Value, rows: usize) -> Value {
        let ones = [1f32; SHAPE[0]].into_iter().flat_map(f32::to_le_bytes).collect();
        let ones = (self.draft.buffer("ones", DType::F32, SHAPE[0], Source::Constant(ones)), [SHAPE[0], 1]);
        let count = self.sum(ones, 0);
        let share = self.times(count, 1.0 / rows as f32);
        let operands = [a, share].map(|(id, shape)| Operand::View(View::dense(id, &shape).broadcast(&a.1)));
        self.map(a.1, operands.to_vec(), What::Apply(Operation::Multiply), DType::F32, a.1)
    }

    pub fn unary(&mut self, operation: Operation, a: Value) -> Value {
        self.map(a.1, vec![Operand::View(View::dense(a.0, &a.1))], What::Apply(operation), DType::F32, a.1)
    }

    /// The logarithms of a matrix's last row.
    pub fn logarithm_of_last_row(&mut self, (id, shape): Value) -> Value {
        let row = [1, SHAPE[1]];
        let view = View::dense(id, &shape).sliced(0, SHAPE[0] - 1, SHAPE[0]);
        self.map(row, vec![Operand::View(view)], What::Apply(Operation::Log), DType::F32, row)
    }

    pub fn sum(&mut self, value: Value, axis: usize) -> Value {
        self.reduce(Reduce::Sum, value, axis)
    }

    pub fn reduce(&mut self, reduce: Reduce, (id, shape): Value, axis: usize) -> Value {
        let mut to = shape;
        to[axis] = 1;
        let dtype = self.draft.buffers[id].dtype;
        let operands = vec![Operand::View(View::dense(id, &shape))];
        self.map(shape, operands, What::Reduce(reduce, vec![axis]), dtype, to)
    }

    pub fn work(&mut self, task: Task, reads: &[Value], writes: &[[usize; 2]]) -> Vec<Value> {
        let mut room =
            |shape: &[usize; 2]| self.draft.buffer("work", DType::F32, shape.iter().product(), Source::Computed);
        let ids: Vec<BufferId> = writes.iter().map(&mut room).collect();
        self.draft.push("work", task, reads.iter().map(|v| v.0).collect(), ids.clone());
        ids.into_iter().zip(writes).map(|(id, shape)| (id, *shape)).collect()
    }

    pub fn softmax(&mut self, x: Value, logarithm: bool) -> Value {
        let [rows, columns] = SHAPE.map(|n| n as u64);
        self.work(Task::Softmax { rows, columns, logarithm }, &[x], &[SHAPE])[0]
    }

    pub fn output(&mut self, name: &str, (id, shape): Value) {
        self.draft.outputs.push((name.into(), id, shape.to_vec()));
    }

    /// The kernels that are recognised, after their results were compared with the step's own.
    pub fn run(self) -> Vec<&'static str> {
        let softmax = |task: &Task| if let Task::Softmax { logarithm, .. } = task { Some(*logarithm) } else { None };
        let own = |n: &Node| if let Kind::Work(work) = &n.kind { softmax(&work.task) } else { None };
        let own: Vec<bool> = self.draft.work.iter().filter_map(own).collect();
        let copy = Draft {
            buffers: self.draft.buffers.clone(),
            work: self.draft.work.iter().map(|n| Node { name: n.name.clone(), kind: n.kind.clone() }).collect(),
            inputs: self.draft.inputs.clone(),
            outputs: self.draft.outputs.clone(),
            scaling: None,
        };
        let run = |draft: Draft| {
            let mut plan = schedule::schedule(fuse::fuse(draft).unwrap()).unwrap();
            arena::place(&mut plan);
            let mut session = Session::new(plan.clone(), Reference::default(), &Scalars::default()).unwrap();
            for (seed, (name, id)) in plan.inputs.iter().enumerate() {
                let n = plan.buffers[*id].elements;
                let wave = |i: usize| (0.83 * i as f32 + 1.3 * seed as f32).sin() * 2.0;
                let tensor = match self.ids.get(name) {
                    Some(ids) => HostTensor::i64(&[n], ids),
                    None => HostTensor::f32(&[n], &(0..n).map(wave).collect::<Vec<_>>()),
                };
                session.set(name, &tensor.unwrap()).unwrap();
            }
            let mut step = || {
                session.step().unwrap();
                session.check().unwrap();
                let get = |(name, _, shape): &(String, _, Vec<usize>)| session.get(name, Some(shape)).unwrap();
                plan.outputs.iter().map(get).collect::<Vec<HostTensor>>()
            };
            let (first, second) = (step(), step());
            assert!(first.iter().zip(&second).all(|(a, b)| a.bytes() == b.bytes()), "other bits the second time");
            (plan, first.iter().map(HostTensor::to_f64).collect::<Vec<Vec<f64>>>())
        };
        let ((plan, ours), (_, plain)) = (run(recognise(self.draft)), run(copy));
        for (ours, plain) in ours.iter().zip(&plain) {
            let size = plain.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
            for (a, b) in ours.iter().zip(plain) {
                assert!((a - b).abs() <= 1e-5 * size, "{a} for {b}");
            }
        }
        let kernel = |task: &Task| match task {
            Task::Softmax { logarithm, .. } if own.contains(logarithm) => None,
            Task::Softmax { logarithm, .. } => Some(if *logarithm { "log-softmax" } else { "softmax" }),
            Task::SoftmaxGradient { logarithm: false, .. } => Some("softmax gradient"),
            Task::SoftmaxGradient { logarithm: true, .. } => Some("log-softmax gradient"),
            Task::LayerNormGradient { .. } => Some("layer norm gradient"),
            Task::BatchNormGradient { .. } => Some("batch norm gradient"),
            Task::CrossEntropy { gradient: Some(_), .. } => Some("losses and gradient"),
            Task::CrossEntropy { gradient: None, .. } => Some("losses"),
            _ => None,
        };
        plan.work.iter().filter_map(|w| kernel(&w.task)).collect()
    }
}
