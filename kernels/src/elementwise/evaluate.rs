//! The scalar evaluator: one element at a time, the reference for every other form.

use super::dtype::Scalar;
use super::expression::{Expression, Reduction};
use super::functions;
use super::layout::{Axis, axes};
use super::operation::{Operand, Operation, Reduce};
use super::scalar::Host;
use crate::cpu::KernelError;

impl Expression {
    /// Evaluates one element after the other, on tensors as their bytes, and returns the outputs' bytes.
    ///
    /// Elementwise outputs have the very bits that the generated PTX gives (any NaN standing for every NaN); a
    /// floating-point sum is added up in float64 and rounded once.
    ///
    /// # Errors
    /// When a tensor is missing or has another length than its shape and type say.
    pub fn evaluate(&self, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, KernelError> {
        if inputs.len() != self.inputs.len() {
            let (needed, given) = (self.inputs.len(), inputs.len());
            return Err(KernelError::Shape(format!("an expression of {needed} inputs was given {given}")));
        }
        for (bytes, input) in inputs.iter().zip(&self.inputs) {
            let expected = input.shape.iter().product::<usize>() * input.dtype.bytes();
            crate::cpu::expect_len("an input (in bytes)", bytes, expected)?;
        }
        let axes = axes(self);
        let mut outputs: Vec<Vec<u8>> = vec![Vec::new(); self.outputs.len()];
        let kept: usize = axes.iter().filter(|axis| axis.kept.is_some()).map(|axis| axis.extent).product();
        let mut totals = self.reduction.as_ref().map(|r| vec![Total::new(r); kept]);
        for element in 0..self.elements() {
            let value = self.element(&axes, inputs, element)?;
            for (bytes, output) in outputs.iter_mut().zip(&self.outputs) {
                value(*output)?.store(self.dtype(*output), bytes);
            }
            if let (Some(totals), Some(reduction)) = (&mut totals, &self.reduction) {
                let at = axes.iter().map(|a| element / a.stride % a.extent * a.kept.unwrap_or(0)).sum::<usize>();
                totals[at].add(reduction, value(reduction.value)?)?;
            }
        }
        if let (Some(totals), Some(reduction)) = (totals, &self.reduction) {
            let mut bytes = Vec::new();
            for total in totals {
                total.finish(reduction).store(reduction.dtype, &mut bytes);
            }
            outputs.push(bytes);
        }
        Ok(outputs)
    }

    /// All values at one element.
    fn element(
        &self,
        axes: &[Axis],
        inputs: &[&[u8]],
        element: usize,
    ) -> Result<impl Fn(Operand) -> Result<Scalar, KernelError> + use<>, KernelError> {
        let missing = || KernelError::Shape("an operand of an expression is missing".into());
        let mut loaded = Vec::with_capacity(inputs.len());
        for (at, (bytes, input)) in inputs.iter().zip(&self.inputs).enumerate() {
            let index = axes.iter().map(|a| element / a.stride % a.extent * a.inputs[at]).sum();
            loaded.push(Scalar::load(input.dtype, bytes, index).ok_or_else(missing)?);
        }
        let mut results: Vec<Scalar> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            let operands = instruction
                .operands
                .iter()
                .map(|o| read(*o, &loaded, &results).ok_or_else(missing))
                .collect::<Result<Vec<_>, _>>()?;
            results.push(apply(instruction.operation, &operands)?);
        }
        Ok(move |operand| read(operand, &loaded, &results).ok_or_else(missing))
    }
}

fn read(operand: Operand, inputs: &[Scalar], results: &[Scalar]) -> Option<Scalar> {
    match operand {
        Operand::Input(i) => inputs.get(i).copied(),
        Operand::Result(i) => results.get(i).copied(),
        Operand::Constant(_, value) => Some(value),
    }
}

/// One operation on operands of checked types.
fn apply(operation: Operation, operands: &[Scalar]) -> Result<Scalar, KernelError> {
    use Scalar::{Bool, Float, I32, I64};
    let wrong = || KernelError::Shape(format!("{operation:?} does not take {operands:?}"));
    Ok(match (operation, operands) {
        (Operation::Cast(to), [value]) => value.cast(to),
        (Operation::Select, [Bool(condition), a, b]) => *if *condition { a } else { b },
        (Operation::And, [Bool(a), Bool(b)]) => Bool(*a && *b),
        (Operation::Or, [Bool(a), Bool(b)]) => Bool(*a || *b),
        (Operation::Not, [Bool(a)]) => Bool(!a),
        (Operation::Equal, [Bool(a), Bool(b)]) => Bool(a == b),
        (_, [Float(_), ..]) => {
            let floats: Vec<f32> =
                operands.iter().filter_map(|x| if let Float(x) = x { Some(*x) } else { None }).collect();
            match functions::compare(&mut Host, operation, &floats) {
                Some(flag) => Bool(flag),
                None => Float(functions::apply(&mut Host, operation, &floats).ok_or_else(wrong)?),
            }
        }
        (_, [I32(a), rest @ ..]) => {
            let b = if let [I32(b)] = rest { *b } else { 0 };
            match integer(operation, i64::from(*a), i64::from(b)).ok_or_else(wrong)? {
                I64(x) => I32(x as i32),
                other => other,
            }
        }
        (_, [I64(a), rest @ ..]) => {
            let b = if let [I64(b)] = rest { *b } else { 0 };
            integer(operation, *a, b).ok_or_else(wrong)?
        }
        _ => return Err(wrong()),
    })
}

/// An operation on 64-bit integers; those on 32 bits are the same with the upper half dropped.
fn integer(operation: Operation, a: i64, b: i64) -> Option<Scalar> {
    Some(Scalar::I64(match operation {
        Operation::Less => return Some(Scalar::Bool(a < b)),
        Operation::LessOrEqual => return Some(Scalar::Bool(a <= b)),
        Operation::Equal => return Some(Scalar::Bool(a == b)),
        Operation::Add => a.wrapping_add(b),
        Operation::Subtract => a.wrapping_sub(b),
        Operation::Multiply => a.wrapping_mul(b),
        Operation::Divide if b == 0 => 0,
        Operation::Divide => a.wrapping_div(b),
        Operation::Maximum => a.max(b),
        Operation::Minimum => a.min(b),
        Operation::Negate => a.wrapping_neg(),
        Operation::Absolute => a.wrapping_abs(),
        Operation::Square => a.wrapping_mul(a),
        Operation::Sign => a.signum(),
        Operation::Relu => a.max(0),
        _ => return None,
    }))
}

/// One element of a reduction's output in the making.
#[derive(Clone, Copy)]
struct Total {
    value: Scalar,
    sum: f64,
}

impl Total {
    fn new(reduction: &Reduction) -> Total {
        Total { value: reduction.reduce.identity(reduction.dtype), sum: 0.0 }
    }

    fn add(&mut self, reduction: &Reduction, value: Scalar) -> Result<(), KernelError> {
        if let (Scalar::Float(x), Operation::Add) = (value, reduction.reduce.combine()) {
            self.sum += f64::from(x);
        } else {
            self.value = apply(reduction.reduce.combine(), &[self.value, value])?;
        }
        Ok(())
    }

    fn finish(self, reduction: &Reduction) -> Scalar {
        match (reduction.reduce, self.value) {
            (Reduce::Sum, Scalar::Float(_)) => Scalar::Float(self.sum as f32),
            (Reduce::Mean, Scalar::Float(_)) => Scalar::Float((self.sum / reduction.count as f64) as f32),
            (Reduce::Mean, Scalar::I32(x)) => {
                Scalar::I32(i64::from(x).checked_div(reduction.count as i64).unwrap_or(0) as i32)
            }
            (Reduce::Mean, Scalar::I64(x)) => Scalar::I64(x.checked_div(reduction.count as i64).unwrap_or(0)),
            (_, value) => value,
        }
    }
}
