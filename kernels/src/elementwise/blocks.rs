//! The evaluator for float32 on the CPU: block by block, so that intermediate values stay in the L1 cache.

use super::dtype::{DType, Scalar};
use super::expression::Expression;
use super::lanes::{Source, compute};
use super::layout::axes;
use super::operation::{Operand, Operation};
use crate::cpu::{KernelError, expect_len};
use rayon::prelude::*;

/// Elements of a block.
const BLOCK: usize = 1024;
/// Results of at least this many elements are shared among threads, in pieces of `PIECE`.
const PARALLEL_ELEMENTS: usize = 1 << 15;
const PIECE: usize = 1 << 13;

/// Functions over slices that take the place of the evaluator's own.
pub trait Functions: Sync {
    /// Applies `operation` (`Exp`, `Log`, `Tanh`, `Sigmoid` or `Erf`) to every value in place; or returns false and leaves
    /// it to the evaluator.
    fn apply(&self, operation: Operation, values: &mut [f32]) -> bool;
}

/// No function is replaced: results have the bits of [`Expression::evaluate`].
#[derive(Clone, Copy, Debug)]
pub struct Own;

impl Functions for Own {
    fn apply(&self, _: Operation, _: &mut [f32]) -> bool {
        false
    }
}

/// Where a value of the current block is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Input(usize),
    Register(usize),
    Constant(f32),
}

#[derive(Clone, Debug, PartialEq)]
struct Step {
    operation: Operation,
    operands: [Place; 3],
    register: usize,
}

/// One axis of a repeated input: extent, and the distances along it in the outputs and in the input.
type Stride = (usize, usize, usize);

/// How an input is read.
#[derive(Clone, Debug, PartialEq)]
enum Access {
    /// Element by element, as the outputs are written.
    Whole,
    /// By the strides of each axis, innermost last, into a register of its own.
    Repeated { axes: Vec<Stride>, register: usize },
}

/// An expression planned for evaluation in float32. Conditions live as 1 and 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    length: usize,
    /// Element counts of the inputs.
    lengths: Vec<usize>,
    accesses: Vec<Access>,
    steps: Vec<Step>,
    outputs: Vec<Place>,
    registers: usize,
}

impl Blocks {
    /// Plans an expression without reduction whose inputs and outputs are float32.
    ///
    /// # Errors
    /// When the expression is another one; only conditions, `Bool`, may occur inside besides float32.
    pub fn new(expression: &Expression) -> Result<Self, KernelError> {
        let float = |dtype: DType| dtype == DType::F32;
        let inside = |dtype: DType| float(dtype) || dtype == DType::Bool;
        let fits = expression.reduction.is_none()
            && expression.inputs.iter().all(|i| float(i.dtype))
            && expression.outputs.iter().all(|o| float(expression.dtype(*o)))
            && expression
                .instructions
                .iter()
                .all(|i| inside(i.dtype) && i.operands.iter().all(|o| inside(expression.dtype(*o))));
        if !fits {
            return Err(KernelError::Shape(
                "only float32 expressions without reduction run in blocks on the CPU".into(),
            ));
        }
        let length = expression.elements();
        let axes = axes(expression);
        let mut registers = 0;
        let mut accesses = Vec::new();
        for input in 0..expression.inputs.len() {
            if axes.iter().all(|axis| axis.inputs[input] == axis.stride) {
                accesses.push(Access::Whole);
            } else {
                let axes = axes.iter().map(|axis| (axis.extent, axis.stride, axis.inputs[input])).collect();
                accesses.push(Access::Repeated { axes, register: registers });
                registers += 1;
            }
        }
        let lengths = expression.inputs.iter().map(|input| input.shape.iter().product()).collect();
        let (steps, outputs, registers) = allocate(expression, registers);
        Ok(Blocks { length, lengths, accesses, steps, outputs, registers })
    }

    /// Whether the input of this number may lie where output 0 is to be written (see [`Self::run`]).
    pub fn may_overwrite(&self, input: usize) -> bool {
        self.outputs.len() == 1 && self.accesses.get(input) == Some(&Access::Whole)
    }

    /// Evaluates on the current rayon pool. One input may be `None`: then output 0 holds it and is overwritten, which
    /// [`Self::may_overwrite`] has to allow.
    ///
    /// # Errors
    /// When a slice is missing or has another length than its shape.
    pub fn run(
        &self,
        inputs: &[Option<&[f32]>],
        functions: &dyn Functions,
        outputs: &mut [&mut [f32]],
    ) -> Result<(), KernelError> {
        if inputs.len() != self.lengths.len() || outputs.len() != self.outputs.len() {
            let (inputs, outputs) = (inputs.len(), outputs.len());
            return Err(KernelError::Shape(format!(
                "an expression does not have {inputs} inputs and {outputs} outputs"
            )));
        }
        for (at, (input, length)) in inputs.iter().zip(&self.lengths).enumerate() {
            match input {
                Some(input) => expect_len("an input", input, *length)?,
                None if self.may_overwrite(at) && inputs.iter().filter(|i| i.is_none()).count() == 1 => {}
                None => return Err(KernelError::Shape(format!("input {at} of an expression is missing"))),
            }
        }
        for output in outputs.iter() {
            expect_len("an output", output, self.length)?;
        }
        let piece =
            if rayon::current_num_threads() == 1 || self.length < PARALLEL_ELEMENTS { self.length } else { PIECE };
        if piece == self.length {
            self.piece(0, inputs, functions, outputs);
            return Ok(());
        }
        let mut pieces: Vec<Vec<&mut [f32]>> = (0..self.length.div_ceil(piece)).map(|_| Vec::new()).collect();
        for output in outputs.iter_mut() {
            pieces.iter_mut().zip(output.chunks_mut(piece)).for_each(|(all, part)| all.push(part));
        }
        pieces
            .into_par_iter()
            .enumerate()
            .for_each(|(at, mut part)| self.piece(at * piece, inputs, functions, &mut part));
        Ok(())
    }

    /// Evaluates the elements from `from` on, as many as the outputs' parts hold.
    fn piece(&self, from: usize, inputs: &[Option<&[f32]>], functions: &dyn Functions, outputs: &mut [&mut [f32]]) {
        let mut registers = vec![vec![0.0f32; BLOCK]; self.registers];
        let count = outputs.first().map_or(0, |output| output.len());
        let (steps, direct) = match self.steps.split_last() {
            Some((last, steps)) if self.writes_output(last, inputs) => (steps, Some(last)),
            _ => (&self.steps[..], None),
        };
        for start in (0..count).step_by(BLOCK) {
            let n = BLOCK.min(count - start);
            for (access, input) in self.accesses.iter().zip(inputs) {
                if let (Access::Repeated { axes, register }, Some(input)) = (access, input) {
                    repeat(axes, input, from + start, &mut registers[*register][..n]);
                }
            }
            for step in steps {
                // Out of its place while it is written, so that the others can be read.
                let mut target = std::mem::take(&mut registers[step.register]);
                let sources =
                    step.operands.map(|place| self.source(place, from, start, n, inputs, &registers, outputs));
                compute(step.operation, sources, functions, &mut target[..n]);
                registers[step.register] = target;
            }
            if let (Some(step), [output]) = (direct, &mut *outputs) {
                let sources = step.operands.map(|place| self.source(place, from, start, n, inputs, &registers, &[]));
                compute(step.operation, sources, functions, &mut output[start..start + n]);
                continue;
            }
            for at in 0..outputs.len() {
                let (done, rest) = outputs.split_at_mut(at);
                let (Some(output), place) = (rest.first_mut(), self.outputs[at]) else { continue };
                if matches!(place, Place::Input(i) if inputs[i].is_none()) {
                    continue;
                }
                match self.source(place, from, start, n, inputs, &registers, done) {
                    Source::Each(values) => output[start..start + n].copy_from_slice(values),
                    Source::Same(value) => output[start..start + n].fill(value),
                }
            }
        }
    }

    /// Whether a step's result is the only output and may be written while the step's operands are read.
    fn writes_output(&self, step: &Step, inputs: &[Option<&[f32]>]) -> bool {
        let overwritten = |place: &Place| matches!(place, Place::Input(i) if inputs[*i].is_none());
        self.outputs == [Place::Register(step.register)] && !step.operands.iter().any(overwritten)
    }

    /// A value at the `n` elements of a block, which starts at `start` in the outputs' parts and those at `from`.
    #[allow(clippy::too_many_arguments)]
    fn source<'a>(
        &self,
        place: Place,
        from: usize,
        start: usize,
        n: usize,
        inputs: &[Option<&'a [f32]>],
        registers: &'a [Vec<f32>],
        outputs: &'a [&mut [f32]],
    ) -> Source<'a> {
        match place {
            Place::Constant(value) => Source::Same(value),
            Place::Register(register) => Source::Each(&registers[register][..n]),
            Place::Input(i) => match (&self.accesses[i], inputs[i]) {
                (Access::Repeated { register, .. }, _) => Source::Each(&registers[*register][..n]),
                (Access::Whole, Some(input)) => Source::Each(&input[from + start..][..n]),
                (Access::Whole, None) => Source::Each(&outputs[0][start..][..n]),
            },
        }
    }
}

/// Assigns registers beyond the first `used`, each free again after its value's last use.
fn allocate(expression: &Expression, used: usize) -> (Vec<Step>, Vec<Place>, usize) {
    let mut last = vec![0; expression.instructions.len()];
    for (at, instruction) in expression.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            if let Operand::Result(i) = operand {
                last[*i] = at;
            }
        }
    }
    for output in &expression.outputs {
        if let Operand::Result(i) = output {
            last[*i] = usize::MAX;
        }
    }
    let (mut count, mut free) = (used, Vec::new());
    let mut registers: Vec<usize> = Vec::new();
    let place = |operand: Operand, registers: &[usize]| match operand {
        Operand::Input(i) => Place::Input(i),
        Operand::Result(i) => Place::Register(registers[i]),
        Operand::Constant(_, Scalar::Float(value)) => Place::Constant(value),
        Operand::Constant(_, value) => Place::Constant(if value == Scalar::Bool(true) { 1.0 } else { 0.0 }),
    };
    let mut steps = Vec::new();
    for (at, instruction) in expression.instructions.iter().enumerate() {
        let mut operands = [Place::Constant(0.0); 3];
        for (to, operand) in operands.iter_mut().zip(&instruction.operands) {
            *to = place(*operand, &registers);
        }
        let register = free.pop().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        registers.push(register);
        steps.push(Step { operation: instruction.operation, operands, register });
        free.extend((0..=at).filter(|i| last[*i] == at).map(|i| registers[i]));
    }
    let outputs = expression.outputs.iter().map(|o| place(*o, &registers)).collect();
    (steps, outputs, count)
}

/// Writes the elements that a repeated input has at the outputs' elements from `from` on.
fn repeat(axes: &[Stride], input: &[f32], from: usize, block: &mut [f32]) {
    let Some((&(inner, _, step), outer)) = axes.split_last() else {
        block.fill(input[0]);
        return;
    };
    let mut at = from;
    let mut rest = block;
    while !rest.is_empty() {
        let column = at % inner;
        let start: usize = outer.iter().map(|(extent, stride, step)| at / stride % extent * step).sum();
        let (run, after) = rest.split_at_mut((inner - column).min(rest.len()));
        if step == 0 {
            run.fill(input[start]);
        } else {
            run.copy_from_slice(&input[start + column..][..run.len()]);
        }
        at += run.len();
        rest = after;
    }
}
