//! Random expressions: the PTX, run in the interpreter, against the scalar evaluator.

use super::{interpret, values};
use crate::elementwise::expression::Reduction;
use crate::elementwise::{DType, Expression, Operand, Operation, Reduce, Scalar};
use npc_ptx_interpreter::Schedule;
use proptest::prelude::*;

const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64, DType::Bool];

fn operations() -> Vec<Operation> {
    use Operation::*;
    let mut all = vec![
        Add,
        Subtract,
        Multiply,
        Divide,
        Maximum,
        Minimum,
        Power,
        Less,
        LessOrEqual,
        Equal,
        And,
        Or,
        Not,
        Select,
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
    ];
    all.extend(DTYPES.map(Cast));
    all
}

fn constant(dtype: DType, pick: usize) -> Operand {
    let float = [0.0, 1.0, -1.5, 3.0, 0.1, 1e-3, f32::INFINITY, f32::NAN][pick % 8];
    let integer = [0, 1, -1, 2, 7, -3, i64::MAX, i64::MIN][pick % 8];
    Operand::Constant(
        dtype,
        match dtype {
            DType::I32 => Scalar::I32(integer as i32),
            DType::I64 => Scalar::I64(integer),
            DType::Bool => Scalar::Bool(pick.is_multiple_of(2)),
            _ => Scalar::Float(float),
        },
    )
}

/// What a random case is made from; every part may be shrunk on its own.
#[derive(Clone, Debug)]
struct Recipe {
    shape: Vec<usize>,
    /// Type, which axes are repeated, seed of the values.
    inputs: Vec<(usize, u8, u64)>,
    /// Operation and operands.
    steps: Vec<(usize, [usize; 3])>,
    outputs: Vec<usize>,
    reduction: Option<(usize, usize, u8)>,
}

impl Recipe {
    fn cook(&self) -> (Expression, Vec<Vec<u8>>) {
        let mut builder = Expression::builder(&self.shape);
        let (mut known, mut tensors) = (Vec::new(), Vec::new());
        for (dtype, repeated, seed) in &self.inputs {
            let dtype = DTYPES[*dtype];
            let shape: Vec<usize> =
                self.shape.iter().enumerate().map(|(i, n)| if repeated >> i & 1 == 1 { 1 } else { *n }).collect();
            known.push((builder.input(dtype, &shape).unwrap(), dtype));
            tensors.push(values(dtype, shape.iter().product(), *seed));
        }
        let operations = operations();
        for (operation, picks) in &self.steps {
            let operation = operations[operation % operations.len()];
            // The first operand's type decides the others'.
            let (first, dtype) = known[picks[0] % known.len()];
            let like = |pick: usize, dtype: DType| {
                let alike: Vec<Operand> = known.iter().filter(|k| k.1 == dtype).map(|k| k.0).collect();
                let at = pick % (alike.len() + 1);
                alike.get(at).copied().unwrap_or_else(|| constant(dtype, pick / 7))
            };
            let second = known[picks[1] % known.len()].1;
            let operands = match operation.arity() {
                1 => vec![first],
                2 => vec![first, like(picks[1], dtype)],
                _ => vec![first, like(picks[1], second), like(picks[2], second)],
            };
            if let Ok(result) = builder.apply(operation, &operands) {
                let dtype = builder.known(result).unwrap();
                known.push((result, dtype));
            }
        }
        for output in &self.outputs {
            builder.output(known[known.len() - 1 - output % known.len()].0).unwrap();
        }
        if let Some((reduce, value, axes)) = self.reduction {
            let reduce = [Reduce::Sum, Reduce::Mean, Reduce::Maximum, Reduce::Minimum][reduce];
            let axes: Vec<usize> = (0..self.shape.len()).filter(|axis| axes >> axis & 1 == 1).collect();
            let numbers: Vec<Operand> = known.iter().rev().filter(|k| k.1 != DType::Bool).map(|k| k.0).collect();
            let value = numbers.get(value % numbers.len().max(1)).copied().unwrap_or(1.0.into());
            builder.reduce(reduce, value, &axes).unwrap();
        }
        (builder.finish().unwrap(), tensors)
    }
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let extent = prop_oneof![Just(1usize), 2..6usize, Just(8), Just(12), Just(33), Just(64), Just(130), Just(300)];
    let shape =
        prop::collection::vec(extent, 0..4).prop_filter("too large", |shape| shape.iter().product::<usize>() <= 20_000);
    let inputs = prop::collection::vec((0..6usize, any::<u8>(), any::<u64>()), 1..5);
    let steps = prop::collection::vec((any::<usize>(), any::<[usize; 3]>()), 0..12);
    let reduction = prop::option::of((0..4usize, any::<usize>(), any::<u8>()));
    (shape, inputs, steps, prop::collection::vec(any::<usize>(), 1..4), reduction)
        .prop_map(|(shape, inputs, steps, outputs, reduction)| Recipe { shape, inputs, steps, outputs, reduction })
}

pub(super) fn same(dtype: DType, found: &[u8], expected: &[u8]) -> Result<(), String> {
    assert_eq!(found.len(), expected.len());
    for at in 0..found.len() / dtype.bytes() {
        let read = |bytes| Scalar::load(dtype, bytes, at).unwrap();
        let alike = match (read(found), read(expected)) {
            (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            (a, b) => a == b,
        };
        if !alike {
            return Err(format!("{dtype:?} element {at} is {:?}, expected {:?}", read(found), read(expected)));
        }
    }
    Ok(())
}

/// Sums depend on their order: they may differ by a share of the sum of magnitudes.
fn close(expression: &Expression, tensors: &[&[u8]], found: &[u8], expected: &[u8]) -> Result<(), String> {
    let Reduction { reduce, dtype, value, .. } = expression.reduction.clone().unwrap();
    if !dtype.is_float() {
        return same(dtype, found, expected);
    }
    let mut magnitudes = expression.clone();
    let operand = vec![value];
    magnitudes.instructions.push(crate::elementwise::Instruction {
        operation: Operation::Absolute,
        operands: operand,
        dtype,
    });
    magnitudes.outputs.clear();
    let reduction = magnitudes.reduction.as_mut().unwrap();
    (reduction.value, reduction.dtype) = (Operand::Result(magnitudes.instructions.len() - 1), DType::F32);
    let magnitudes = magnitudes.evaluate(tensors).unwrap();
    let place = match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 0.0,
    };
    for at in 0..found.len() / dtype.bytes() {
        let float = |dtype, bytes: &[u8]| match Scalar::load(dtype, bytes, at) {
            Some(Scalar::Float(x)) => f64::from(x),
            _ => unreachable!(),
        };
        let (a, b, size) = (float(dtype, found), float(dtype, expected), float(DType::F32, magnitudes.last().unwrap()));
        if reduce == Reduce::Product {
            if (a - b).abs() > 1e-7 * reduction_count(expression) * b.abs() {
                return Err(format!("product {at} in {dtype:?} is {a:e}, expected {b:e}"));
            }
            continue;
        }
        let exact = matches!(reduce, Reduce::Maximum | Reduce::Minimum);
        let tolerance = if exact { 0.0 } else { 5e-6 * size + place * b.abs() + 1e-7 * place };
        // Partial sums may leave the range where the whole one does not.
        let out_of_range =
            !exact && (size * reduction_count(expression) > 1e37 || dtype == DType::F16 && b.abs() > 65_000.0);
        if !(a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance || out_of_range) {
            return Err(format!("result {at} of a {reduce:?} in {dtype:?} is {a:e}, expected {b:e} ± {tolerance:e}"));
        }
    }
    Ok(())
}

fn reduction_count(expression: &Expression) -> f64 {
    expression.reduction.as_ref().map_or(1.0, |r| r.count.max(1) as f64)
}

pub(super) fn check(
    expression: &Expression,
    tensors: &[Vec<u8>],
    aligned: bool,
    schedule: Schedule,
) -> Result<(), String> {
    let slices: Vec<&[u8]> = tensors.iter().map(|t| &t[..]).collect();
    let expected = expression.evaluate(&slices).unwrap();
    let found = interpret(expression, tensors, aligned, schedule);
    for (at, (dtype, _)) in expression.outputs().into_iter().enumerate() {
        let reduced = at == expression.outputs.len();
        let outcome = if reduced {
            close(expression, &slices, &found[at], &expected[at])
        } else {
            same(dtype, &found[at], &expected[at])
        };
        outcome.map_err(|e| format!("output {at}: {e}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ptx_computes_what_the_evaluator_computes(recipe in recipe(), aligned: bool, order in 0..3usize, seed: u64) {
        let (expression, tensors) = recipe.cook();
        let schedule = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(seed)][order];
        if let Err(message) = check(&expression, &tensors, aligned, schedule) {
            return Err(TestCaseError::fail(message));
        }
    }
}
