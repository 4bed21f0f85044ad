//! The expression and its builder.

use super::dtype::{DType, Scalar};
use super::operation::{Operand, Operation, Reduce};
use crate::cpu::KernelError;

/// One tensor that an expression reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Type of its elements.
    pub dtype: DType,
    /// Its extents, as many as the expression's shape has, 1 where it is repeated.
    pub shape: Vec<usize>,
}

/// One operation on operands of checked types.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// What is computed.
    pub operation: Operation,
    /// From what, as many as the operation takes.
    pub operands: Vec<Operand>,
    /// Type of the result.
    pub dtype: DType,
}

/// The last thing an expression does: one of its values is reduced over some axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reduction {
    pub reduce: Reduce,
    pub value: Operand,
    /// For each axis of the shape, whether it is reduced.
    pub axes: Vec<bool>,
    /// What a mean divides by.
    pub count: usize,
    /// Type of the reduction's own output.
    pub dtype: DType,
}

/// Elementwise operations on tensors broadcast to one shape, with any number of outputs of that shape and optionally one
/// reduction as the last output.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    pub(super) shape: Vec<usize>,
    pub(super) inputs: Vec<Input>,
    pub(super) instructions: Vec<Instruction>,
    pub(super) outputs: Vec<Operand>,
    pub(super) reduction: Option<Reduction>,
}

impl Expression {
    /// Starts an expression over tensors of `shape`.
    pub fn builder(shape: &[usize]) -> Builder {
        Builder {
            expression: Expression {
                shape: shape.to_vec(),
                inputs: Vec::new(),
                instructions: Vec::new(),
                outputs: Vec::new(),
                reduction: None,
            },
        }
    }

    /// The shape that inputs are broadcast to and outputs have.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensors it reads, in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// What it computes, in order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Type and shape of every output in order. The reduction's output is the last; its reduced axes have extent 1.
    pub fn outputs(&self) -> Vec<(DType, Vec<usize>)> {
        let mut outputs: Vec<_> = self.outputs.iter().map(|o| (self.dtype(*o), self.shape.clone())).collect();
        if let Some(reduction) = &self.reduction {
            let extents = self.shape.iter().zip(&reduction.axes);
            outputs.push((reduction.dtype, extents.map(|(n, reduced)| if *reduced { 1 } else { *n }).collect()));
        }
        outputs
    }

    /// What its outputs are, but for the reduction's, in order.
    pub fn values(&self) -> &[Operand] {
        &self.outputs
    }

    /// The expression with one more output, before the reduction's: a float value rounded to another float type.
    ///
    /// # Errors
    /// When the operand does not exist or is no float.
    pub fn with_cast(self, value: Operand, to: DType) -> Result<Self, KernelError> {
        let mut builder = Builder { expression: self };
        let cast = builder.apply(Operation::Cast(to), &[value])?;
        builder.output(cast)?;
        builder.finish()
    }

    /// The expression without an output, one of [`Expression::values`].
    pub fn without(mut self, output: usize) -> Self {
        if output < self.outputs.len() {
            self.outputs.remove(output);
        }
        self
    }

    /// The reduction at the end, and for each axis of the shape whether it is reduced.
    pub fn reduction(&self) -> Option<(Reduce, &[bool])> {
        self.reduction.as_ref().map(|r| (r.reduce, r.axes.as_slice()))
    }

    /// What is computed at one place, for `count` places that have nothing to do with each other: every input and output has
    /// the shape `[count]`, and what the expression reduces is the last output, unreduced.
    pub fn at_points(&self, count: usize) -> Expression {
        Expression {
            shape: vec![count],
            inputs: self.inputs.iter().map(|i| Input { dtype: i.dtype, shape: vec![count] }).collect(),
            instructions: self.instructions.clone(),
            outputs: self.outputs.iter().copied().chain(self.reduction.as_ref().map(|r| r.value)).collect(),
            reduction: None,
        }
    }

    /// Type of an operand that belongs to this expression.
    pub(super) fn dtype(&self, operand: Operand) -> DType {
        match operand {
            Operand::Input(i) => self.inputs[i].dtype,
            Operand::Result(i) => self.instructions[i].dtype,
            Operand::Constant(dtype, _) => dtype,
        }
    }

    /// Number of elements of the shape.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Puts an [`Expression`] together; whatever it hands out is an operand of that expression only.
#[derive(Clone, Debug)]
pub struct Builder {
    expression: Expression,
}

impl Builder {
    /// Adds an input of `shape`, which may have fewer axes than the expression and extent 1 where it is repeated.
    ///
    /// # Errors
    /// When `shape` cannot be broadcast to the expression's.
    pub fn input(&mut self, dtype: DType, shape: &[usize]) -> Result<Operand, KernelError> {
        let whole = &self.expression.shape;
        let fits = shape.iter().rev().zip(whole.iter().rev()).all(|(i, n)| i == n || *i == 1);
        let Some(missing) = whole.len().checked_sub(shape.len()).filter(|_| fits) else {
            return Err(KernelError::Shape(format!("an input of shape {shape:?} does not fit the result's {whole:?}")));
        };
        let shape = std::iter::repeat_n(1, missing).chain(shape.iter().copied()).collect();
        self.expression.inputs.push(Input { dtype, shape });
        Ok(Operand::Input(self.expression.inputs.len() - 1))
    }

    /// Adds an operation. Powers with the exponents 1, 2, 3, ½ and −1 become products, a root and a reciprocal.
    ///
    /// # Errors
    /// When the operation does not take operands of these types or this number, or an operand does not exist.
    pub fn apply(&mut self, operation: Operation, operands: &[Operand]) -> Result<Operand, KernelError> {
        let dtypes = operands.iter().map(|o| self.known(*o)).collect::<Result<Vec<_>, _>>()?;
        let dtype = operation
            .result(&dtypes)
            .ok_or_else(|| KernelError::Shape(format!("{operation:?} does not take operands of types {dtypes:?}")))?;
        if let (Operation::Power, [base, Operand::Constant(_, Scalar::Float(exponent))]) = (operation, operands)
            && let Some(simpler) = self.simple_power(*base, *exponent)
        {
            return simpler;
        }
        self.expression.instructions.push(Instruction { operation, operands: operands.to_vec(), dtype });
        Ok(Operand::Result(self.expression.instructions.len() - 1))
    }

    fn simple_power(&mut self, base: Operand, exponent: f32) -> Option<Result<Operand, KernelError>> {
        Some(match exponent {
            1.0 => Ok(base),
            2.0 => self.apply(Operation::Square, &[base]),
            3.0 => self
                .apply(Operation::Square, &[base])
                .and_then(|square| self.apply(Operation::Multiply, &[square, base])),
            0.5 => self.apply(Operation::SquareRoot, &[base]),
            -1.0 => self.apply(Operation::Reciprocal, &[base]),
            _ => return None,
        })
    }

    /// Makes a value the next output.
    ///
    /// # Errors
    /// When the operand does not exist.
    pub fn output(&mut self, operand: Operand) -> Result<(), KernelError> {
        self.known(operand)?;
        self.expression.outputs.push(operand);
        Ok(())
    }

    /// Makes the reduction of a value over `axes` the last output. Floats are added up in float32, integers wrap, and a
    /// mean of integers is truncated.
    ///
    /// # Errors
    /// When the value does not exist or is `Bool`, an axis is out of range, or there is a reduction already.
    pub fn reduce(&mut self, reduce: Reduce, value: Operand, axes: &[usize]) -> Result<(), KernelError> {
        let dtype = self.known(value)?;
        let shape = &self.expression.shape;
        if dtype == DType::Bool || axes.iter().any(|axis| *axis >= shape.len()) || self.expression.reduction.is_some() {
            return Err(KernelError::Shape(format!(
                "a {dtype:?} value of shape {shape:?} cannot be reduced over {axes:?}"
            )));
        }
        let reduced: Vec<bool> = (0..shape.len()).map(|axis| axes.contains(&axis)).collect();
        let count = shape.iter().zip(&reduced).filter(|(_, reduced)| **reduced).map(|(n, _)| n).product();
        self.expression.reduction = Some(Reduction { reduce, value, axes: reduced, count, dtype });
        Ok(())
    }

    /// The finished expression.
    ///
    /// # Errors
    /// When it has no output.
    pub fn finish(self) -> Result<Expression, KernelError> {
        if self.expression.outputs.is_empty() && self.expression.reduction.is_none() {
            return Err(KernelError::Shape("an expression without outputs".into()));
        }
        Ok(self.expression)
    }

    /// Type of an operand.
    pub(super) fn known(&self, operand: Operand) -> Result<DType, KernelError> {
        let exists = match operand {
            Operand::Input(i) => i < self.expression.inputs.len(),
            Operand::Result(i) => i < self.expression.instructions.len(),
            Operand::Constant(dtype, value) => value.holds(dtype),
        };
        if !exists {
            return Err(KernelError::Shape(format!("{operand:?} is no operand of this expression")));
        }
        Ok(self.expression.dtype(operand))
    }
}
