use super::super::testing::{SHAPE, Step, Value};
use npc_kernels::elementwise::Operation::{Add, Equal, Exp, Less, Maximum, Multiply, Negate, Reciprocal, Subtract};
use npc_kernels::elementwise::Scalar;

const IDS: [i64; SHAPE[0]] = [3, 0, 8, 5, 5, 1];
const OTHER: [i64; SHAPE[0]] = [3, 0, 8, 4, 5, 1];
const IGNORED: i64 = -100;
const WITH_IGNORED: [i64; SHAPE[0]] = [3, IGNORED, 8, 5, IGNORED, 1];
const BOTH: &[&str] = &["losses and gradient"];
const LOSSES: &[&str] = &["losses"];
/// A gradient of its own, and the losses besides.
const APART: &[&str] = &["losses", "log-softmax gradient"];

/// Logits, labels, log-probabilities.
struct Given {
    x: Value,
    ids: Value,
    y: Value,
}

fn given(step: &mut Step, ids: &[i64; SHAPE[0]]) -> Given {
    let (x, ids) = (step.input("x", SHAPE), step.ids("ids", ids));
    let y = step.softmax(x, true);
    Given { x, ids, y }
}

fn mean(step: &mut Step, picked: Value) {
    let sum = step.sum(picked, 0);
    let loss = step.times(sum, -1.0 / SHAPE[0] as f32);
    step.output("loss", loss);
}

/// The mean loss by a gather, and a gradient that is made of log-probabilities and one-hot rows.
fn gathered(gradient: impl Fn(&mut Step, &Given, Value) -> Value) -> Vec<&'static str> {
    let mut step = Step::new();
    let given = given(&mut step, &IDS);
    let picked = step.gathered(given.y, given.ids);
    mean(&mut step, picked);
    let hot = step.one_hot(given.ids, 1.0, 0, 1);
    let dx = gradient(&mut step, &given, hot);
    let dx = step.binary(Multiply, dx, given.x);
    step.output("dx", dx);
    step.run()
}

/// p − one-hot, times the share of a row.
fn plain(step: &mut Step, given: &Given, hot: Value) -> Value {
    let p = step.unary(Exp, given.y);
    let error = step.binary(Subtract, p, hot);
    step.times(error, 1.0 / SHAPE[0] as f32)
}

#[test]
fn losses_and_gradient_are_one_kernel_however_they_are_spelled() {
    assert_eq!(gathered(plain), BOTH);
    let by_factors = |step: &mut Step, given: &Given, hot| {
        let dx = plain(step, given, hot);
        let (each, shared) = (step.input("each", [SHAPE[0], 1]), step.input("shared", [1, 1]));
        let dx = step.binary(Multiply, dx, each);
        step.binary(Multiply, shared, dx)
    };
    assert_eq!(gathered(by_factors), BOTH);
    // dy − exp(y) · Σ dy, with dy the gradient of what is picked.
    let of_logarithm = |step: &mut Step, given: &Given, hot: Value| {
        let factor = step.input("factor", [SHAPE[0], 1]);
        let dy = step.binary(Multiply, hot, factor);
        let (p, sum) = (step.unary(Exp, given.y), step.sum(dy, 1));
        let taken = step.binary(Multiply, p, sum);
        step.binary(Subtract, dy, taken)
    };
    assert_eq!(gathered(of_logarithm), BOTH);
    // Of the probabilities, which somebody computed again.
    let of_probabilities = |step: &mut Step, given: &Given, hot: Value| {
        let p = step.softmax(given.x, false);
        step.binary(Subtract, hot, p)
    };
    assert_eq!(gathered(of_probabilities), BOTH);
}

#[test]
fn one_hot_rows_pick_too() {
    for (is_whole, is_scattered) in [(false, false), (true, false), (true, true)] {
        let mut step = Step::new();
        let given = given(&mut step, &IDS);
        let hot = if is_scattered {
            let zeros = step.numbers(SHAPE, |_| 0.0);
            step.scattered(zeros, given.ids, -2.0)
        } else {
            step.one_hot(given.ids, 1.0, 0, 1)
        };
        let product = step.binary(Multiply, hot, given.y);
        let picked = step.sum(product, 1);
        if is_whole {
            mean(&mut step, picked);
        } else {
            step.output("losses", picked);
        }
        assert_eq!(step.run(), LOSSES);
    }
}

/// What is done about ids that are left out, forward and backward.
#[derive(Clone, Copy)]
struct Ways {
    /// The id that is, and the class that stands in for it.
    forward: (i64, i64),
    backward: (i64, i64),
    /// Whether indices from the end count from the end.
    wraps: bool,
    /// Whether other ids are compared with the classes.
    is_other: bool,
    /// What is added to the ids backward.
    apart: i64,
    /// What the scattered number is scattered into.
    base: f32,
}

const SAME: Ways =
    Ways { forward: (IGNORED, 0), backward: (IGNORED, 0), wraps: false, is_other: false, apart: 0, base: 0.0 };

/// The mean over the ids that are not left out, and its gradient, as PyTorch's exporter writes them.
fn masked(ways: Ways) -> Vec<&'static str> {
    let mut step = Step::new();
    let given = given(&mut step, &WITH_IGNORED);
    let is_kept = |step: &mut Step, ids: Value, out: i64| {
        let is_out = step.with_integer(Equal, ids, out);
        step.opposite(is_out)
    };
    let kept = is_kept(&mut step, given.ids, ways.forward.0);
    let safe = step.select(kept, given.ids, Scalar::I64(ways.forward.1), false);
    let picked = step.gathered(given.y, safe);
    let picked = step.unary(Negate, picked);
    let terms = step.select(kept, picked, Scalar::Float(0.0), false);
    let ones = step.numbers([SHAPE[0], 1], |_| 1.0);
    let counted = step.select(kept, ones, Scalar::Float(0.0), false);
    let (sum, count) = (step.sum(terms, 0), step.sum(counted, 0));
    let share = step.unary(Reciprocal, count);
    let loss = step.binary(Multiply, sum, share);
    step.output("loss", loss);
    let ids = if ways.is_other { step.ids("other", &OTHER) } else { given.ids };
    let kept = is_kept(&mut step, ids, ways.backward.0);
    let mut safe = step.select(kept, ids, Scalar::I64(ways.backward.1), false);
    if ways.wraps {
        let (negative, above) = (step.with_integer(Less, safe, 0), step.with_integer(Add, safe, SHAPE[1] as i64));
        safe = step.choose(negative, above, safe);
    }
    if ways.apart != 0 {
        safe = step.with_integer(Add, safe, ways.apart);
        safe = step.with_integer(Maximum, safe, 0);
    }
    let base = step.numbers(SHAPE, |_| ways.base);
    let dy = step.scattered(base, safe, -1.0);
    let wide = step.repeated(share);
    let factor = step.select(kept, wide, Scalar::Float(0.0), false);
    let dy = step.binary(Multiply, dy, factor);
    let (p, sum) = (step.unary(Exp, given.y), step.sum(dy, 1));
    let taken = step.binary(Multiply, p, sum);
    let dx = step.binary(Subtract, dy, taken);
    step.output("dx", dx);
    step.run()
}

#[test]
fn masks_keep_their_meaning() {
    assert_eq!(masked(SAME), BOTH);
    assert_eq!(masked(Ways { wraps: true, ..SAME }), BOTH);
    for near in [
        Ways { backward: (IGNORED, 4), ..SAME },
        Ways { is_other: true, ..SAME },
        Ways { apart: -1, ..SAME },
        Ways { base: 0.25, ..SAME },
    ] {
        assert_eq!(masked(near), APART);
    }
}

#[test]
fn gradients_that_look_alike_stay() {
    let signed = |step: &mut Step, given: &Given, hot| {
        let p = step.unary(Exp, given.y);
        step.binary(Add, p, hot)
    };
    let uneven = |step: &mut Step, given: &Given, hot| {
        let (p, half) = (step.unary(Exp, given.y), step.times(hot, 0.5));
        step.binary(Subtract, p, half)
    };
    let without_exponential = |step: &mut Step, given: &Given, hot| step.binary(Subtract, given.y, hot);
    // Every class, or every row by what its loss is, by a factor.
    let weighted = |step: &mut Step, given: &Given, hot, by: Value| {
        let p = step.unary(Exp, given.y);
        let [p, hot] = [p, hot].map(|part| step.binary(Multiply, part, by));
        step.binary(Subtract, p, hot)
    };
    let by_class = |step: &mut Step, given: &Given, hot: Value| {
        let weights = step.input("weights", [1, SHAPE[1]]);
        weighted(step, given, hot, weights)
    };
    let by_constant = |step: &mut Step, given: &Given, hot| {
        let weights = step.numbers([1, SHAPE[1]], |i| 1.0 + i as f32);
        let p = step.unary(Exp, given.y);
        let p = step.binary(Multiply, p, weights);
        step.binary(Subtract, p, hot)
    };
    let shown = |step: &mut Step, given: &Given, hot| {
        let p = step.unary(Exp, given.y);
        step.output("p", p);
        step.binary(Subtract, p, hot)
    };
    let from_one = |step: &mut Step, given: &Given, _: Value| {
        let hot = step.one_hot(given.ids, 1.0, 1, 1);
        plain(step, given, hot)
    };
    let along_rows = |step: &mut Step, given: &Given, _: Value| {
        let row = step.ids_of_columns("turned", &[1, 0, 2, 5, 4, 3, 1, 1, 0]);
        let hot = step.one_hot(row, 1.0, 0, 0);
        plain(step, given, hot)
    };
    let bounded = |step: &mut Step, given: &Given, hot| {
        let p = step.unary(Exp, given.y);
        let p = step.at_least(p, 1e-6);
        step.binary(Subtract, p, hot)
    };
    let by_losses = |step: &mut Step, given: &Given, hot: Value| {
        let losses = step.gathered(given.y, given.ids);
        weighted(step, given, hot, losses)
    };
    for gradient in [
        &signed as &dyn Fn(&mut Step, &Given, Value) -> Value,
        &uneven,
        &without_exponential,
        &by_class,
        &by_constant,
        &shown,
        &from_one,
        &along_rows,
        &bounded,
        &by_losses,
    ] {
        assert_eq!(gathered(gradient), LOSSES);
    }
}

#[test]
fn losses_that_look_alike_stay() {
    let run = |pick: fn(&mut Step, &Given) -> Value| {
        let mut step = Step::new();
        let given = given(&mut step, &IDS);
        let picked = pick(&mut step, &given);
        step.output("picked", picked);
        step.run()
    };
    let shifted = |step: &mut Step, given: &Given| {
        let ids = step.with_integer(Add, given.ids, -1);
        let ids = step.with_integer(Maximum, ids, 0);
        step.gathered(given.y, ids)
    };
    let of_probabilities = |step: &mut Step, given: &Given| {
        let p = step.unary(Exp, given.y);
        step.gathered(p, given.ids)
    };
    let times = |step: &mut Step, given: &Given| {
        let hot = step.one_hot(given.ids, 1.0, 0, 1);
        let square = step.binary(Multiply, given.y, given.y);
        let product = step.binary(Multiply, hot, square);
        step.sum(product, 1)
    };
    let along_rows = |step: &mut Step, given: &Given| {
        let hot = step.one_hot(given.ids, 1.0, 0, 1);
        let product = step.binary(Multiply, hot, given.y);
        step.sum(product, 0)
    };
    let weighted = |step: &mut Step, given: &Given| {
        let weights = step.numbers([1, SHAPE[1]], |i| 1.0 + i as f32);
        let hot = step.one_hot(given.ids, 1.0, 0, 1);
        let hot = step.binary(Multiply, hot, weights);
        let product = step.binary(Multiply, hot, given.y);
        step.sum(product, 1)
    };
    let shown = |step: &mut Step, given: &Given| {
        let hot = step.one_hot(given.ids, 1.0, 0, 1);
        let product = step.binary(Multiply, hot, given.y);
        step.output("product", product);
        step.sum(product, 1)
    };
    // The labels come from the softmax itself.
    let own = |step: &mut Step, given: &Given| {
        let task = crate::plan::Task::Arg {
            dtype: npc_kernels::cuda::arg::Ordered::F32,
            which: npc_kernels::cuda::arg::Extreme { is_smallest: false, is_last: false },
            shape: [SHAPE[0] as u64, SHAPE[1] as u64, 1],
        };
        let best = step.indices(task, given.y);
        step.gathered(given.y, best)
    };
    for pick in
        [shifted, of_probabilities, times, along_rows, weighted, shown, own] as [fn(&mut Step, &Given) -> Value; 7]
    {
        assert!(run(pick).is_empty());
    }
}
