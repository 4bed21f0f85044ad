//! A product, an elementwise function with its kept derivative, the product behind it: joined and not, on the reference
//! device.

use super::*;
use crate::HostTensor;
use crate::plan::device::{Scalars, Session};
use crate::plan::maps::{Map, Operand as Value, What};
use crate::plan::testing::Reference;
use crate::plan::{View, arena, fuse, schedule};
use npc_kernels::cpu::contraction::Operand as Matrix;
use npc_kernels::elementwise::Operation;

const ROWS: usize = 6;
const INNER: usize = 5;
const COLUMNS: usize = 19;

/// A draft under construction whose values all are `[ROWS, COLUMNS]`, or broadcast to it.
struct Step {
    draft: Draft,
}

impl Step {
    fn new() -> Self {
        Step { draft: Draft::default() }
    }

    fn input(&mut self, name: &str, elements: usize) -> BufferId {
        let id = self.draft.buffer(name, DType::F32, elements, Source::Fed);
        self.draft.inputs.push((name.into(), id));
        id
    }

    /// `a[rows, inner] · b[inner, columns]`, both by rows.
    fn product(&mut self, a: BufferId, b: BufferId, [rows, inner, columns]: [usize; 3]) -> BufferId {
        let by_rows = |along: usize| Matrix { start: 0, down: along, along: 1, batch: 0 };
        let (x, y, c) = (by_rows(inner), by_rows(columns), by_rows(columns));
        let p = Product { rows, columns, inner, batch: 1, a: x, b: y, c, accumulate: false };
        let out = self.draft.buffer("product", DType::F32, rows * columns, Source::Computed);
        self.draft.push("product", Task::Products(vec![p]), vec![a, b], vec![out]);
        out
    }

    fn value(&self, id: BufferId) -> Value {
        let whole = View::dense(id, &[ROWS, COLUMNS]);
        let view = if self.draft.buffers[id].elements == COLUMNS {
            View::dense(id, &[1, COLUMNS]).broadcast(&[ROWS, COLUMNS])
        } else {
            whole
        };
        Value::View(view)
    }

    fn apply(&mut self, operation: Operation, operands: &[Value]) -> Value {
        let is_test = matches!(operation, Operation::Less | Operation::LessOrEqual | Operation::Not);
        let dtype = if is_test { DType::Bool } else { DType::F32 };
        let output = self.draft.buffer("map", dtype, ROWS * COLUMNS, Source::Computed);
        let map = Map { shape: vec![ROWS, COLUMNS], operands: operands.to_vec(), what: What::Apply(operation), output };
        self.draft.work.push(Node { name: "map".into(), kind: Kind::Map(map) });
        Value::View(View::dense(output, &[ROWS, COLUMNS]))
    }

    fn sum(&mut self, value: &Value) -> BufferId {
        let output = self.draft.buffer("sum", DType::F32, COLUMNS, Source::Computed);
        let what = What::Reduce(Reduce::Sum, vec![0]);
        let map = Map { shape: vec![ROWS, COLUMNS], operands: vec![value.clone()], what, output };
        self.draft.work.push(Node { name: "sum".into(), kind: Kind::Map(map) });
        output
    }

    fn output(&mut self, name: &str, value: &Value, shape: &[usize]) {
        if let Value::View(view) = value {
            self.draft.outputs.push((name.into(), view.buffer, shape.to_vec()));
        }
    }

    /// The epilogues, and the outputs of a step with them and without.
    fn run(self, has: fn(Epilogue) -> bool) -> Vec<Epilogue> {
        let draft = || Draft {
            buffers: self.draft.buffers.clone(),
            work: self.draft.work.iter().map(|n| Node { name: n.name.clone(), kind: n.kind.clone() }).collect(),
            inputs: self.draft.inputs.clone(),
            outputs: self.draft.outputs.clone(),
            scaling: None,
        };
        let run = |has: &mut Has<'_>| {
            let draft = join(fuse::fuse(draft()).unwrap(), Precision::F32, has);
            let mut plan = schedule::schedule(draft).unwrap();
            arena::place(&mut plan);
            let mut session = Session::new(plan.clone(), Reference::default(), &Scalars::default()).unwrap();
            for (i, (name, id)) in plan.inputs.iter().enumerate() {
                let n = plan.buffers[*id].elements;
                let values: Vec<f32> = (0..n).map(|k| (0.7 * k as f32 + 1.3 * i as f32).sin() * 2.0).collect();
                session.set(name, &HostTensor::f32(&[n], &values).unwrap()).unwrap();
            }
            session.step().unwrap();
            let outputs: Vec<Vec<f64>> =
                plan.outputs.iter().map(|(name, _, shape)| session.get(name, Some(shape)).unwrap().to_f64()).collect();
            (plan, outputs)
        };
        let (plan, joined) = run(&mut |_, _, epilogue| has(epilogue));
        let (_, apart) = run(&mut |_, _, _| false);
        for (joined, apart) in joined.iter().zip(&apart) {
            // In float32, 1 − tanh² is off by 1e-7 of what it is multiplied with.
            let size = apart.iter().fold(1f64, |m, x| m.max(x.abs()));
            for (one, other) in joined.iter().zip(apart) {
                assert!((one - other).abs() <= 1e-5 * size, "{one} for {other}");
            }
        }
        let epilogues = plan.work.iter().filter_map(|w| match w.task {
            Task::ProductWith { epilogue, .. } => Some(epilogue),
            _ => None,
        });
        epilogues.collect()
    }
}

fn number(x: f32) -> Value {
    Value::Constant(DType::F32, Scalar::Float(x))
}

/// What a forward expression does with `z`: the activated value, and what a gradient reads.
type Function = fn(&mut Step, &Value) -> (Value, Value);
/// What comes out of what comes in and what the forward expression kept.
type Behind = fn(&mut Step, &Value, &Value) -> Value;

/// A layer with a bias, forward and backward; `sums`: with the bias's gradient.
fn layer(forward: Function, behind: Behind, sums: bool) -> Step {
    let mut step = Step::new();
    let (x, w, b) = (step.input("x", ROWS * INNER), step.input("w", INNER * COLUMNS), step.input("b", COLUMNS));
    let v = step.input("v", COLUMNS * COLUMNS);
    let product = step.product(x, w, [ROWS, INNER, COLUMNS]);
    let (product, bias) = (step.value(product), step.value(b));
    let z = step.apply(Operation::Add, &[bias, product]);
    let (y, kept) = forward(&mut step, &z);
    step.output("y", &y, &[ROWS, COLUMNS]);
    // What comes back depends on what went out, as a loss's gradient does.
    let Value::View(out) = &y else { panic!("a constant layer") };
    let incoming = step.product(out.buffer, v, [ROWS, COLUMNS, COLUMNS]);
    let incoming = step.value(incoming);
    let dz = behind(&mut step, &incoming, &kept);
    step.output("dz", &dz, &[ROWS, COLUMNS]);
    if sums {
        let sum = step.sum(&dz);
        step.draft.outputs.push(("db".into(), sum, vec![COLUMNS]));
    }
    step
}

fn relu(step: &mut Step, z: &Value) -> (Value, Value) {
    let y = step.apply(Operation::Maximum, &[number(0.0), z.clone()]);
    let mask = step.apply(Operation::LessOrEqual, &[y.clone(), number(0.0)]);
    (y, mask)
}

fn zero_where(step: &mut Step, dy: &Value, mask: &Value) -> Value {
    step.apply(Operation::Select, &[mask.clone(), number(0.0), dy.clone()])
}

/// The tanh form, and the derivative beside it.
fn gelu(step: &mut Step, z: &Value) -> (Value, Value) {
    let slope = (2.0f32 / std::f32::consts::PI).sqrt();
    let square = step.apply(Operation::Square, std::slice::from_ref(z));
    let inner = step.apply(Operation::Multiply, &[square.clone(), number(0.044715)]);
    let inner = step.apply(Operation::Add, &[inner, number(1.0)]);
    let inner = step.apply(Operation::Multiply, &[inner, z.clone()]);
    let inner = step.apply(Operation::Multiply, &[inner, number(slope)]);
    let t = step.apply(Operation::Tanh, &[inner]);
    let upper = step.apply(Operation::Add, &[t.clone(), number(1.0)]);
    let upper = step.apply(Operation::Multiply, &[upper, number(0.5)]);
    let y = step.apply(Operation::Multiply, &[upper.clone(), z.clone()]);
    let rate = step.apply(Operation::Multiply, &[square, number(3.0 * 0.044715)]);
    let rate = step.apply(Operation::Add, &[rate, number(1.0)]);
    let rate = step.apply(Operation::Multiply, &[rate, number(0.5 * slope)]);
    let t = step.apply(Operation::Square, &[t]);
    let rest = step.apply(Operation::Subtract, &[number(1.0), t]);
    let rest = step.apply(Operation::Multiply, &[rest, rate]);
    let rest = step.apply(Operation::Multiply, &[rest, z.clone()]);
    let slope = step.apply(Operation::Add, &[rest, upper]);
    (y, slope)
}

fn times(step: &mut Step, dy: &Value, slope: &Value) -> Value {
    step.apply(Operation::Multiply, &[dy.clone(), slope.clone()])
}

fn all(_: Epilogue) -> bool {
    true
}

fn both(activation: Activation, sums: bool) -> Vec<Epilogue> {
    vec![Epilogue::Bias { activation: Some(activation), keeps: true }, Epilogue::Gradient { activation, sums }]
}

#[test]
fn activations_join_with_their_gradients() {
    for sums in [false, true] {
        assert_eq!(layer(relu, zero_where, sums).run(all), both(Activation::Relu, sums));
        assert_eq!(layer(gelu, times, sums).run(all), both(Activation::Gelu, sums));
    }
    // The activated value itself, or the pre-activation, is as good as a mask.
    let by_value: Behind = |step, dy, y| {
        let positive = step.apply(Operation::Less, &[number(0.0), y.clone()]);
        step.apply(Operation::Select, &[positive, dy.clone(), number(0.0)])
    };
    let of_itself: Function = |step, z| {
        let y = step.apply(Operation::Relu, std::slice::from_ref(z));
        (y.clone(), y)
    };
    let of_z: Function = |step, z| (step.apply(Operation::Relu, std::slice::from_ref(z)), z.clone());
    assert_eq!(layer(of_itself, by_value, true).run(all), both(Activation::Relu, true));
    assert_eq!(layer(of_z, by_value, false).run(all), both(Activation::Relu, false));
}

#[test]
fn what_the_library_lacks_stays_a_kernel() {
    let no_gradients = |e: Epilogue| !matches!(e, Epilogue::Gradient { .. });
    assert_eq!(layer(relu, zero_where, true).run(no_gradients), []);
    assert_eq!(layer(relu, zero_where, true).run(|_| false), []);
    // Without a gradient behind it nothing has to be kept.
    let alone = |activation| [Epilogue::Bias { activation, keeps: false }];
    let of_itself: Function = |step, z| {
        let y = step.apply(Operation::Relu, std::slice::from_ref(z));
        (y.clone(), y)
    };
    let nothing: Behind = |_, dy, _| dy.clone();
    assert_eq!(layer(of_itself, nothing, false).run(no_gradients), alone(Some(Activation::Relu)));
    assert_eq!(layer(|_, z| (z.clone(), z.clone()), nothing, false).run(all), alone(None));
}

#[test]
fn look_alikes_stay_kernels() {
    // ReLU cut off at 6, a leaky one, the other form of GELU.
    let cut: Function = |step, z| {
        let (y, mask) = relu(step, z);
        (step.apply(Operation::Minimum, &[y, number(6.0)]), mask)
    };
    let leaky: Function = |step, z| {
        let little = step.apply(Operation::Multiply, &[z.clone(), number(1e-3)]);
        let y = step.apply(Operation::Maximum, &[z.clone(), little]);
        (y.clone(), step.apply(Operation::LessOrEqual, &[y, number(0.0)]))
    };
    let erf: Function = |step, z| {
        let t = step.apply(Operation::Multiply, &[z.clone(), number(std::f32::consts::FRAC_1_SQRT_2)]);
        let t = step.apply(Operation::Erf, &[t]);
        let t = step.apply(Operation::Add, &[t, number(1.0)]);
        let t = step.apply(Operation::Multiply, &[t, number(0.5)]);
        let y = step.apply(Operation::Multiply, &[t, z.clone()]);
        (y.clone(), step.apply(Operation::LessOrEqual, &[y, number(0.0)]))
    };
    for forward in [cut, leaky, erf] {
        assert_eq!(layer(forward, zero_where, true).run(all), []);
    }
    // A mask that lets the gradient through at 0, or at what is not positive, is another function's.
    let at_zero: Function = |step, z| {
        let (y, _) = relu(step, z);
        (y, step.apply(Operation::Less, &[z.clone(), number(0.0)]))
    };
    let turned: Behind = |step, dy, mask| step.apply(Operation::Select, &[mask.clone(), dy.clone(), number(0.0)]);
    let halved: Behind = |step, dy, mask| {
        let dz = step.apply(Operation::Select, &[mask.clone(), number(0.0), dy.clone()]);
        step.apply(Operation::Multiply, &[dz, number(0.5)])
    };
    assert_eq!(layer(at_zero, zero_where, false).run(all), []);
    assert_eq!(layer(relu, turned, false).run(all), []);
    assert_eq!(layer(relu, halved, false).run(all), []);
    // Somebody else reads the mask.
    let mut step = layer(relu, zero_where, false);
    let mask = step.draft.buffers.iter().position(|b| b.dtype == DType::Bool).unwrap();
    step.draft.outputs.push(("mask".into(), mask, vec![ROWS, COLUMNS]));
    assert_eq!(step.run(all), []);
}

/// The gradient of a bias beside that of its weight, which may be stored either way.
#[test]
fn sums_of_operands_come_with_their_product() {
    let by_rows = |along: usize| Matrix { start: 0, down: along, along: 1, batch: 0 };
    let turned = |along: usize| Matrix { start: 0, down: 1, along, batch: 0 };
    for of_right in [false, true] {
        let mut step = Step::new();
        let (dy, x) = (step.input("dy", ROWS * COLUMNS), step.input("x", ROWS * INNER));
        let (rows, columns) = if of_right { (INNER, COLUMNS) } else { (COLUMNS, INNER) };
        let (a, b) = if of_right { (x, dy) } else { (dy, x) };
        let c = by_rows(columns);
        let p = Product {
            rows,
            columns,
            inner: ROWS,
            batch: 1,
            a: turned(rows),
            b: by_rows(columns),
            c,
            accumulate: false,
        };
        let dw = step.draft.buffer("dw", DType::F32, rows * columns, Source::Computed);
        step.draft.push("dw", Task::Products(vec![p]), vec![a, b], vec![dw]);
        step.draft.outputs.push(("dw".into(), dw, vec![rows, columns]));
        let value = step.value(dy);
        let sum = step.sum(&value);
        step.draft.outputs.push(("db".into(), sum, vec![COLUMNS]));
        assert_eq!(step.run(all), [Epilogue::Sums { of_right }]);
    }
}
