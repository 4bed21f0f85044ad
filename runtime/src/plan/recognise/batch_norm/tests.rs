//! Samples are rows, channels columns: a channel has a position.

use super::super::testing::{SHAPE, Step, Value};
use crate::plan::Task;
use npc_kernels::cuda::norm::Channels;
use npc_kernels::elementwise::Operation::{Add, Multiply, ReciprocalSquareRoot, Subtract};

const CHANNELS: [usize; 2] = [1, SHAPE[1]];
const EPSILON: f32 = 1e-3;

/// What a gradient may differ in.
#[derive(Clone, Copy)]
struct Spelling {
    /// Mean and variance are computed again.
    is_again: bool,
    /// What is added to the variance then.
    epsilon: f32,
    /// x̂ without the mean taken off.
    is_uncentred: bool,
    /// Sums along the other axis.
    is_turned: bool,
    /// The mean of what comes in is taken off first.
    is_level_first: bool,
    /// Without the part of the mean.
    lacks_mean: bool,
    /// The part along x̂ is added.
    is_added: bool,
    /// Divides by one element more.
    is_off: bool,
    /// Of another value than was normalised.
    is_other: bool,
    /// Without the scale.
    is_unscaled: bool,
    /// x̂ is an output, too.
    shows: bool,
    /// Bounded where no number of a trial comes near.
    is_bounded: bool,
    /// Which of the other gradients are there: the scale's, the bias's.
    others: [bool; 2],
}

const PLAIN: Spelling = Spelling {
    is_again: false,
    epsilon: EPSILON,
    is_uncentred: false,
    is_turned: false,
    is_level_first: false,
    lacks_mean: false,
    is_added: false,
    is_off: false,
    is_other: false,
    is_unscaled: false,
    shows: false,
    is_bounded: false,
    others: [true; 2],
};

fn step(how: Spelling) -> Vec<&'static str> {
    let mut step = Step::new();
    let [x, other, dy] = ["x", "other", "dy"].map(|name| step.input(name, SHAPE));
    let [scale, bias] = ["scale", "bias"].map(|name| step.input(name, CHANNELS));
    let [batch, channels] = SHAPE.map(|n| n as u64);
    let task = Task::BatchNorm { shape: Channels { batch, channels, positions: 1 }, epsilon: EPSILON };
    let found = step.work(task, &[x, scale, bias], &[SHAPE, CHANNELS, CHANNELS]);
    step.output("y", found[0]);
    let n = SHAPE[0] as f32 + if how.is_off { 1.0 } else { 0.0 };
    let axis = usize::from(how.is_turned);
    let average = |step: &mut Step, value: Value, axis: usize| {
        let sum = step.sum(value, axis);
        step.times(sum, 1.0 / n)
    };
    let x = if how.is_other { other } else { x };
    let (mut mean, mut variance) = (found[1], found[2]);
    if how.is_again {
        mean = average(&mut step, x, 0);
        let centred = step.binary(Subtract, x, mean);
        let square = step.binary(Multiply, centred, centred);
        variance = average(&mut step, square, 0);
    }
    let centred = if how.is_uncentred { x } else { step.binary(Subtract, x, mean) };
    let raised = step.plus(variance, how.epsilon);
    let inverse = step.unary(ReciprocalSquareRoot, raised);
    let normal = step.binary(Multiply, centred, inverse);
    let product = step.binary(Multiply, dy, normal);
    let (dscale, dbias) = (step.sum(product, axis), step.sum(dy, axis));
    let along = step.times(dscale, 1.0 / n);
    let along = step.binary(Multiply, normal, along);
    let average = step.times(dbias, 1.0 / n);
    let mut dx = if how.is_level_first { step.binary(Subtract, dy, average) } else { dy };
    dx = step.binary(if how.is_added { Add } else { Subtract }, dx, along);
    if !how.lacks_mean && !how.is_level_first {
        dx = step.binary(Subtract, dx, average);
    }
    if how.is_bounded {
        dx = step.at_least(dx, -1e6);
    }
    let factor = if how.is_unscaled { inverse } else { step.binary(Multiply, inverse, scale) };
    let dx = step.binary(Multiply, dx, factor);
    let dx = step.binary(Add, dx, other);
    step.output("dx", dx);
    let [has_scale, has_bias] = how.others;
    for (name, value, _) in
        [("dscale", dscale, has_scale), ("dbias", dbias, has_bias)].iter().filter(|(_, _, has)| *has)
    {
        step.output(name, *value);
    }
    if how.shows {
        step.output("normal", normal);
    }
    step.run()
}

#[test]
fn three_gradients_are_one_piece_of_work() {
    for (is_again, others) in
        [(false, [true, true]), (true, [true, false]), (false, [false, true]), (true, [false, false])]
    {
        assert_eq!(step(Spelling { is_again, others, ..PLAIN }), ["batch norm gradient"], "{is_again} {others:?}");
    }
    assert_eq!(step(Spelling { is_level_first: true, ..PLAIN }), ["batch norm gradient"]);
}

#[test]
fn look_alikes_stay() {
    for (how, what) in [
        (Spelling { is_uncentred: true, ..PLAIN }, "uncentred"),
        (Spelling { is_turned: true, ..PLAIN }, "turned"),
        (Spelling { lacks_mean: true, ..PLAIN }, "without the mean"),
        (Spelling { is_added: true, ..PLAIN }, "added"),
        (Spelling { is_off: true, ..PLAIN }, "another number"),
        (Spelling { is_other: true, ..PLAIN }, "another value"),
        (Spelling { is_other: true, is_again: true, ..PLAIN }, "another value's own"),
        (Spelling { is_again: true, epsilon: 2.0 * EPSILON, ..PLAIN }, "another epsilon"),
        (Spelling { is_unscaled: true, ..PLAIN }, "without the scale"),
        (Spelling { shows: true, ..PLAIN }, "shown"),
        (Spelling { is_bounded: true, ..PLAIN }, "bounded"),
    ] {
        assert!(step(how).is_empty(), "{what}");
    }
}
