//! The block evaluator against the scalar one.

use crate::elementwise::blocks::{Blocks, Own};
use crate::elementwise::{DType, Expression, Operand, Operation, Reduce};

fn values(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + phase).sin() * 3.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn check(expression: &Expression, inputs: &[Vec<f32>], threads: usize) {
    let tensors: Vec<Vec<u8>> = inputs.iter().map(|x| bytes(x)).collect();
    let expected = expression.evaluate(&tensors.iter().map(|t| &t[..]).collect::<Vec<_>>()).unwrap();
    let blocks = Blocks::new(expression).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let n: usize = expression.shape().iter().product();
    let given: Vec<Option<&[f32]>> = inputs.iter().map(|x| Some(&x[..])).collect();
    let mut found = vec![vec![f32::NAN; n]; expected.len()];
    let mut outputs: Vec<&mut [f32]> = found.iter_mut().map(|x| &mut x[..]).collect();
    pool.install(|| blocks.run(&given, &Own, &mut outputs)).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(&bytes(found), expected, "{expression:?}");
    }
    for at in (0..inputs.len()).filter(|at| blocks.may_overwrite(*at)) {
        let mut output = inputs[at].clone();
        let mut given = given.clone();
        given[at] = None;
        pool.install(|| blocks.run(&given, &Own, &mut [&mut output])).unwrap();
        assert_eq!(bytes(&output), expected[0], "in place of input {at}: {expression:?}");
    }
}

/// Operations of all kinds, with an input repeated along every set of axes in turn.
#[test]
fn broadcasts_along_any_axis_and_at_any_size() {
    use Operation::*;
    for shape in [[3, 5, 7], [2, 3, 1300], [1, 1, 1], [70, 40, 33], [1, 1, 70_000], [2, 0, 3]] {
        for axes in 0..8usize {
            let part: Vec<usize> = (0..3).map(|i| if axes >> i & 1 == 1 { shape[i] } else { 1 }).collect();
            let mut b = Expression::builder(&shape);
            let inputs = [&shape[..], &shape, &part].map(|shape| b.input(DType::F32, shape).unwrap());
            let sum = b.apply(Add, &[inputs[1], inputs[2]]).unwrap();
            let e = b.apply(Exp, &[sum]).unwrap();
            let low = b.apply(LessOrEqual, &[inputs[0], 0.0.into()]).unwrap();
            let high = b.apply(Less, &[inputs[2], 2.0.into()]).unwrap();
            let both = b.apply(And, &[low, high]).unwrap();
            let chosen = b.apply(Select, &[both, 0.0.into(), e]).unwrap();
            let last = b.apply(Subtract, &[chosen, inputs[0]]).unwrap();
            b.output(last).unwrap();
            if axes % 3 == 0 {
                b.output(sum).unwrap();
                b.output(inputs[2]).unwrap();
                b.output(0.5.into()).unwrap();
            }
            let expression = b.finish().unwrap();
            let n = shape.iter().product();
            for threads in [1, 3] {
                check(&expression, &[values(n, 0.0), values(n, 1.0), values(part.iter().product(), 2.0)], threads);
            }
        }
    }
}

#[test]
fn every_operation_gives_the_bits_of_the_scalar_evaluator() {
    use Operation::*;
    for operation in [
        Add,
        Subtract,
        Multiply,
        Divide,
        Maximum,
        Minimum,
        Power,
        Negate,
        Absolute,
        Square,
        Sign,
        Relu,
        SquareRoot,
        ReciprocalSquareRoot,
        Reciprocal,
        Exp,
        Log,
        Tanh,
        Sigmoid,
        Erf,
        Sine,
        Cosine,
        Floor,
        Ceil,
        Round,
        Cast(DType::F32),
    ] {
        let mut b = Expression::builder(&[1000]);
        let inputs = [b.input(DType::F32, &[1000]).unwrap(), b.input(DType::F32, &[1000]).unwrap()];
        let first = b.apply(operation, &inputs[..operation.arity()]).unwrap();
        // NaN has no bits to compare.
        let number = b.apply(Equal, &[first, first]).unwrap();
        let shown = b.apply(Select, &[number, first, 7.0.into()]).unwrap();
        b.output(shown).unwrap();
        check(&b.finish().unwrap(), &[values(1000, 0.1), values(1000, 0.7)], 1);
    }
}

#[test]
fn other_types_reductions_and_wrong_lengths_are_refused() {
    let mut b = Expression::builder(&[4]);
    let x = b.input(DType::F32, &[4]).unwrap();
    let mut reduced = b.clone();
    reduced.reduce(Reduce::Sum, x, &[0]).unwrap();
    assert!(Blocks::new(&reduced.finish().unwrap()).is_err());
    let mut half = Expression::builder(&[4]);
    let y = half.input(DType::F16, &[4]).unwrap();
    half.output(y).unwrap();
    assert!(Blocks::new(&half.finish().unwrap()).is_err());
    let sum = b.apply(Operation::Add, &[x, Operand::from(1.0)]).unwrap();
    b.output(sum).unwrap();
    let good = Blocks::new(&b.finish().unwrap()).unwrap();
    assert!(good.run(&[Some(&[0.0; 3])], &Own, &mut [&mut [0.0; 4]]).is_err());
    assert!(good.run(&[], &Own, &mut [&mut [0.0; 4]]).is_err());
    assert!(good.run(&[Some(&[0.0; 4])], &Own, &mut []).is_err());
    assert!(good.run(&[Some(&[0.0; 4])], &Own, &mut [&mut [0.0; 5]]).is_err());
}
