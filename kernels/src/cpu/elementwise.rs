//! Expressions over tensors of one shape, evaluated block by block so that intermediate values stay in the L1 cache.

use super::KernelError;
use super::error::expect_len;
use rayon::prelude::*;

/// Elements of a block.
const BLOCK: usize = 512;
/// Results of at least this many elements are shared among threads.
const PARALLEL_ELEMENTS: usize = 1 << 15;

/// Where an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// The input of this number.
    Input(usize),
    /// The result of the instruction of this number, an earlier one.
    Result(usize),
    /// A constant.
    Constant(f32),
}

/// What an instruction computes. Comparisons give 1 or 0; `Maximum` and `Minimum` pass a NaN on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Maximum,
    Minimum,
    Less,
    LessOrEqual,
    Equal,
    /// `if a ≠ 0 then b else c`.
    Select,
    Negate,
    Square,
    SquareRoot,
    Reciprocal,
    ReciprocalSquareRoot,
    Absolute,
    /// The function of this number among those given to [`Expression::run`].
    Function(usize),
}

impl Operation {
    /// Number of operands.
    pub fn arity(self) -> usize {
        use Operation::*;
        match self {
            Add | Subtract | Multiply | Divide | Maximum | Minimum | Less | LessOrEqual | Equal => 2,
            Select => 3,
            Negate | Square | SquareRoot | Reciprocal | ReciprocalSquareRoot | Absolute | Function(_) => 1,
        }
    }
}

/// One operation; operands beyond its arity are ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruction {
    /// What is computed.
    pub operation: Operation,
    /// From what.
    pub operands: [Operand; 3],
}

/// A function over a slice, in place, elementwise.
pub type Function<'a> = &'a (dyn Fn(&mut [f32]) + Sync);

/// A planned expression; the last instruction's result is the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    instructions: Vec<Instruction>,
    /// Extents of the result, those that no input tells apart joined.
    extents: Vec<usize>,
    /// For each input its distance along each extent; 0 where it is repeated.
    strides: Vec<Vec<usize>>,
    lengths: Vec<usize>,
}

impl Expression {
    /// Plans `instructions` over inputs of the given shapes. Each input has the result's `shape`, with extent 1 where it is
    /// repeated.
    ///
    /// # Errors
    /// When an input does not fit the shape, or an operand stands for nothing that exists before its instruction.
    pub fn new(shape: &[usize], inputs: &[&[usize]], instructions: Vec<Instruction>) -> Result<Self, KernelError> {
        for (at, instruction) in instructions.iter().enumerate() {
            let known = |o: &Operand| match o {
                Operand::Input(i) => *i < inputs.len(),
                Operand::Result(i) => *i < at,
                Operand::Constant(_) => true,
            };
            if !instruction.operands[..instruction.operation.arity()].iter().all(known) {
                return Err(KernelError::Shape(format!("instruction {at} of an expression reads what is not there")));
            }
        }
        if instructions.is_empty() {
            return Err(KernelError::Shape("an expression without instructions".into()));
        }
        let fits =
            |input: &[usize]| input.len() == shape.len() && input.iter().zip(shape).all(|(i, n)| i == n || *i == 1);
        if let Some(input) = inputs.iter().find(|i| !fits(i)) {
            return Err(KernelError::Shape(format!("an input of shape {input:?} does not fit the result's {shape:?}")));
        }
        let lengths = inputs.iter().map(|i| i.iter().product()).collect();
        let mut extents: Vec<usize> = Vec::new();
        let mut strides: Vec<Vec<usize>> = vec![Vec::new(); inputs.len()];
        let mut last: Option<Vec<bool>> = None;
        for (axis, &extent) in shape.iter().enumerate().filter(|(_, n)| **n != 1) {
            let present: Vec<bool> = inputs.iter().map(|i| i[axis] != 1).collect();
            if last.as_ref() == Some(&present)
                && let Some(outer) = extents.last_mut()
            {
                *outer *= extent;
            } else {
                extents.push(extent);
                strides.iter_mut().zip(&present).for_each(|(s, p)| s.push(usize::from(*p)));
                last = Some(present);
            }
        }
        for stride in &mut strides {
            let mut step = 1;
            for (s, extent) in stride.iter_mut().zip(&extents).rev() {
                if *s != 0 {
                    *s = step;
                    step *= extent;
                }
            }
        }
        Ok(Expression { instructions, extents, strides, lengths })
    }

    /// Evaluates into `result`, on the current rayon pool.
    ///
    /// # Errors
    /// When a slice has another length than its shape, or a function is missing.
    pub fn run(&self, inputs: &[&[f32]], functions: &[Function], result: &mut [f32]) -> Result<(), KernelError> {
        if inputs.len() != self.lengths.len() {
            return Err(KernelError::Shape(format!(
                "an expression of {} inputs was given {}",
                self.lengths.len(),
                inputs.len()
            )));
        }
        for (input, length) in inputs.iter().zip(&self.lengths) {
            expect_len("an input", input, *length)?;
        }
        expect_len("the result", result, self.extents.iter().product())?;
        if self.instructions.iter().any(|i| matches!(i.operation, Operation::Function(f) if f >= functions.len())) {
            return Err(KernelError::Shape("a function of an expression is missing".into()));
        }
        if result.is_empty() {
            return Ok(());
        }
        let inner = self.extents.last().copied().unwrap_or(1);
        let rows = |first: usize, part: &mut [f32]| {
            let mut registers = vec![0.0f32; self.instructions.len() * BLOCK.min(inner)];
            for (row, part) in part.chunks_mut(inner).enumerate() {
                self.row(first + row, 0, inputs, functions, &mut registers, part);
            }
        };
        if rayon::current_num_threads() == 1 || result.len() < PARALLEL_ELEMENTS {
            rows(0, result);
        } else if inner >= PARALLEL_ELEMENTS {
            let piece = PARALLEL_ELEMENTS / 2;
            for (row, part) in result.chunks_mut(inner).enumerate() {
                part.par_chunks_mut(piece).enumerate().for_each(|(at, part)| {
                    let mut registers = vec![0.0f32; self.instructions.len() * BLOCK];
                    self.row(row, at * piece, inputs, functions, &mut registers, part);
                });
            }
        } else {
            let count = (PARALLEL_ELEMENTS / 4).div_ceil(inner);
            result.par_chunks_mut(count * inner).enumerate().for_each(|(at, part)| rows(at * count, part));
        }
        Ok(())
    }

    /// Evaluates a part of one row (the innermost extent), from element `from` on.
    fn row(
        &self,
        row: usize,
        from: usize,
        inputs: &[&[f32]],
        functions: &[Function],
        registers: &mut [f32],
        result: &mut [f32],
    ) {
        let outer = self.extents.len().saturating_sub(1);
        let starts: Vec<(usize, usize)> = self
            .strides
            .iter()
            .map(|strides| {
                let (mut at, mut start) = (row, 0);
                for (stride, extent) in strides[..outer].iter().zip(&self.extents).rev() {
                    start += at % extent * stride;
                    at /= extent;
                }
                (start, strides.last().copied().unwrap_or(0))
            })
            .collect();
        let width = registers.len() / self.instructions.len();
        for (block, out) in result.chunks_mut(width).enumerate() {
            let (begin, n) = (from + block * width, out.len());
            let last = self.instructions.len() - 1;
            for (at, instruction) in self.instructions.iter().enumerate() {
                let (before, after) = registers.split_at_mut(at * width);
                let read = |operand: Operand| match operand {
                    Operand::Constant(x) => Source::Same(x),
                    Operand::Result(i) => Source::Each(&before[i * width..][..n]),
                    Operand::Input(i) => match starts[i] {
                        (start, 0) => Source::Same(inputs[i][start]),
                        (start, _) => Source::Each(&inputs[i][start + begin..][..n]),
                    },
                };
                let target = if at == last { &mut *out } else { &mut after[..n] };
                evaluate(
                    instruction.operation,
                    instruction.operands.map(|o| if usable(o, at) { read(o) } else { Source::Same(0.0) }),
                    functions,
                    target,
                );
            }
        }
    }
}

/// Operands beyond an operation's arity may stand for anything.
fn usable(operand: Operand, at: usize) -> bool {
    !matches!(operand, Operand::Result(i) if i >= at)
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Same(f32),
    Each(&'a [f32]),
}

fn unary(a: Source, out: &mut [f32], f: impl Fn(f32) -> f32) {
    match a {
        Source::Same(a) => out.fill(f(a)),
        Source::Each(a) => out.iter_mut().zip(a).for_each(|(o, a)| *o = f(*a)),
    }
}

fn binary(a: Source, b: Source, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Source::Same(a), b) => unary(b, out, |b| f(a, b)),
        (a, Source::Same(b)) => unary(a, out, |a| f(a, b)),
        (Source::Each(a), Source::Each(b)) => {
            out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (a, b))| *o = f(*a, *b))
        }
    }
}

fn select(a: Source, b: Source, c: Source, out: &mut [f32]) {
    match a {
        Source::Same(a) => unary(if a != 0.0 { b } else { c }, out, |x| x),
        Source::Each(a) => match (b, c) {
            (Source::Same(b), c) => binary(Source::Each(a), c, out, |a, c| if a != 0.0 { b } else { c }),
            (b, Source::Same(c)) => binary(Source::Each(a), b, out, |a, b| if a != 0.0 { b } else { c }),
            (Source::Each(b), Source::Each(c)) => {
                let operands = a.iter().zip(b.iter().zip(c));
                out.iter_mut().zip(operands).for_each(|(o, (a, (b, c)))| *o = if *a != 0.0 { *b } else { *c });
            }
        },
    }
}

fn evaluate(operation: Operation, [a, b, c]: [Source; 3], functions: &[Function], out: &mut [f32]) {
    let truth = |condition: bool| f32::from(u8::from(condition));
    match operation {
        Operation::Add => binary(a, b, out, |a, b| a + b),
        Operation::Subtract => binary(a, b, out, |a, b| a - b),
        Operation::Multiply => binary(a, b, out, |a, b| a * b),
        Operation::Divide => binary(a, b, out, |a, b| a / b),
        Operation::Maximum => binary(a, b, out, |a, b| if a > b || a.is_nan() { a } else { b }),
        Operation::Minimum => binary(a, b, out, |a, b| if a < b || a.is_nan() { a } else { b }),
        Operation::Less => binary(a, b, out, |a, b| truth(a < b)),
        Operation::LessOrEqual => binary(a, b, out, |a, b| truth(a <= b)),
        Operation::Equal => binary(a, b, out, |a, b| truth(a == b)),
        Operation::Select => select(a, b, c, out),
        Operation::Negate => unary(a, out, |a| -a),
        Operation::Square => unary(a, out, |a| a * a),
        Operation::SquareRoot => unary(a, out, f32::sqrt),
        Operation::Reciprocal => unary(a, out, f32::recip),
        Operation::ReciprocalSquareRoot => unary(a, out, |a| a.sqrt().recip()),
        Operation::Absolute => unary(a, out, f32::abs),
        Operation::Function(f) => {
            unary(a, out, |a| a);
            functions[f](out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Operand::{Constant, Input, Result as Earlier};
    use super::*;

    fn does(operation: Operation, operands: &[Operand]) -> Instruction {
        let at = |i: usize| operands.get(i).copied().unwrap_or(Constant(0.0));
        Instruction { operation, operands: [at(0), at(1), at(2)] }
    }

    fn values(n: usize, phase: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
    }

    /// relu'(x)·exp(y + bias) with a bias along each axis in turn, against a plain loop.
    #[test]
    fn broadcasts_along_any_axis_and_at_any_size() {
        for shape in [[3, 5, 7], [2, 3, 1300], [1, 1, 1], [70, 40, 33], [1, 1, 70_000], [2, 0, 3]] {
            for axes in 0..8usize {
                let bias_shape: Vec<usize> = (0..3).map(|i| if axes >> i & 1 == 1 { shape[i] } else { 1 }).collect();
                let n = shape.iter().product();
                let (x, y, bias) = (values(n, 0.0), values(n, 1.0), values(bias_shape.iter().product(), 2.0));
                let program = vec![
                    does(Operation::Add, &[Input(1), Input(2)]),
                    does(Operation::Function(0), &[Earlier(0)]),
                    does(Operation::LessOrEqual, &[Input(0), Constant(0.0)]),
                    does(Operation::Select, &[Earlier(2), Constant(0.0), Earlier(1)]),
                ];
                let expression = Expression::new(&shape, &[&shape, &shape, &bias_shape], program).unwrap();
                let exp = |xs: &mut [f32]| xs.iter_mut().for_each(|x| *x = x.exp());
                for threads in [1, 3] {
                    let mut got = vec![f32::NAN; n];
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| expression.run(&[&x, &y, &bias], &[&exp], &mut got)).unwrap();
                    for (at, got) in got.iter().enumerate() {
                        let place = [at / (shape[1] * shape[2]), at / shape[2] % shape[1], at % shape[2]];
                        let b = place.iter().zip(&bias_shape).fold(0, |b, (p, n)| b * n + if *n == 1 { 0 } else { *p });
                        let expected = if x[at] <= 0.0 { 0.0 } else { (y[at] + bias[b]).exp() };
                        assert_eq!(got.to_bits(), expected.to_bits(), "{shape:?} {bias_shape:?} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_operation_means_what_its_name_says() {
        use Operation::*;
        let (a, b) = ([2.0f32, -0.5, f32::NAN, 3.0], [0.25f32, 4.0, 1.0, 3.0]);
        let one = |operation| {
            let program = vec![does(operation, &[Input(0), Input(1), Constant(9.0)])];
            let mut out = [0.0; 4];
            Expression::new(&[4], &[&[4], &[4]], program).unwrap().run(&[&a, &b], &[], &mut out).unwrap();
            [out[0], out[1], out[2], out[3]].map(|x| if x.is_nan() { -99.0 } else { x })
        };
        assert_eq!(one(Add), [2.25, 3.5, -99.0, 6.0]);
        assert_eq!(one(Subtract), [1.75, -4.5, -99.0, 0.0]);
        assert_eq!(one(Multiply), [0.5, -2.0, -99.0, 9.0]);
        assert_eq!(one(Divide), [8.0, -0.125, -99.0, 1.0]);
        assert_eq!(one(Maximum), [2.0, 4.0, -99.0, 3.0]);
        assert_eq!(one(Minimum), [0.25, -0.5, -99.0, 3.0]);
        assert_eq!(one(Less), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(one(LessOrEqual), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(one(Equal), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(one(Select), [0.25, 4.0, 1.0, 3.0]);
        assert_eq!(one(Negate), [-2.0, 0.5, -99.0, -3.0]);
        assert_eq!(one(Square), [4.0, 0.25, -99.0, 9.0]);
        assert_eq!(one(SquareRoot), [2f32.sqrt(), -99.0, -99.0, 3f32.sqrt()]);
        assert_eq!(one(Reciprocal), [0.5, -2.0, -99.0, 1.0 / 3.0]);
        assert_eq!(one(ReciprocalSquareRoot), [2f32.sqrt().recip(), -99.0, -99.0, 3f32.sqrt().recip()]);
        assert_eq!(one(Absolute), [2.0, 0.5, -99.0, 3.0]);
    }

    #[test]
    fn nonsense_is_refused() {
        let add = |a, b| vec![does(Operation::Add, &[a, b])];
        assert!(Expression::new(&[4], &[&[4]], add(Input(0), Input(1))).is_err());
        assert!(Expression::new(&[4], &[&[4]], add(Input(0), Earlier(0))).is_err());
        assert!(Expression::new(&[4], &[&[3]], add(Input(0), Constant(1.0))).is_err());
        assert!(Expression::new(&[4], &[&[4]], Vec::new()).is_err());
        let good = Expression::new(&[4], &[&[4]], add(Input(0), Constant(1.0))).unwrap();
        assert!(good.run(&[&[0.0; 3]], &[], &mut [0.0; 4]).is_err());
        assert!(good.run(&[], &[], &mut [0.0; 4]).is_err());
        let function = Expression::new(&[4], &[&[4]], vec![does(Operation::Function(0), &[Input(0)])]).unwrap();
        assert!(function.run(&[&[0.0; 4]], &[], &mut [0.0; 4]).is_err());
    }
}
