//! The operations and their typing rules.

use super::dtype::{DType, Scalar};

/// What an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// The input of this number.
    Input(usize),
    /// The result of the instruction of this number, an earlier one.
    Result(usize),
    /// The same value everywhere.
    Constant(DType, Scalar),
}

impl From<f32> for Operand {
    fn from(value: f32) -> Self {
        Operand::Constant(DType::F32, Scalar::Float(value))
    }
}

/// What an instruction computes.
///
/// Integers wrap; an integer divided by 0 is 0. Float operations on `F16` and `BF16` are float32 operations whose result is
/// rounded only where it is stored or cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// The greater operand; NaN when either is.
    Maximum,
    /// The smaller operand; NaN when either is.
    Minimum,
    /// Float only, with the special cases of C's `pow`.
    Power,
    Less,
    LessOrEqual,
    Equal,
    And,
    Or,
    Not,
    /// `if a then b else c`.
    Select,
    Negate,
    Absolute,
    Square,
    /// −1, 0 or 1; NaN and signed zeros stay.
    Sign,
    /// The greater of the operand and 0; NaN stays.
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
    /// To the nearest integer, ties to even.
    Round,
    Cast(DType),
}

impl Operation {
    /// Number of operands.
    pub fn arity(self) -> usize {
        use Operation::*;
        match self {
            Add | Subtract | Multiply | Divide | Maximum | Minimum | Power | Less | LessOrEqual | Equal | And | Or => 2,
            Select => 3,
            _ => 1,
        }
    }

    /// Type of the result; `None` when the operation does not take operands of these types.
    pub(super) fn result(self, operands: &[DType]) -> Option<DType> {
        use Operation::*;
        if operands.len() != self.arity() {
            return None;
        }
        let first = *operands.first()?;
        let alike = operands.iter().all(|dtype| *dtype == first);
        match self {
            Add | Subtract | Multiply | Divide | Maximum | Minimum | Negate | Absolute | Square | Sign | Relu => {
                (alike && first != DType::Bool).then_some(first)
            }
            Power => (alike && first.is_float()).then_some(first),
            Less | LessOrEqual => (alike && first != DType::Bool).then_some(DType::Bool),
            Equal => alike.then_some(DType::Bool),
            And | Or | Not => (alike && first == DType::Bool).then_some(first),
            Select => (first == DType::Bool && operands[1] == operands[2]).then_some(operands[1]),
            Cast(to) => Some(to),
            _ => first.is_float().then_some(first),
        }
    }
}

/// How a trailing reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Mean,
    Product,
    Maximum,
    Minimum,
}

impl Reduce {
    /// The operation that combines two elements; a mean is a sum that is divided in the end.
    pub(super) fn combine(self) -> Operation {
        match self {
            Reduce::Sum | Reduce::Mean => Operation::Add,
            Reduce::Product => Operation::Multiply,
            Reduce::Maximum => Operation::Maximum,
            Reduce::Minimum => Operation::Minimum,
        }
    }

    /// What the reduction of no element gives, in an accumulator of type `dtype`.
    pub(super) fn identity(self, dtype: DType) -> Scalar {
        let (float, small, large) = match self {
            Reduce::Sum | Reduce::Mean => (0.0, 0, 0),
            Reduce::Product => (1.0, 1, 1),
            Reduce::Maximum => (f32::NEG_INFINITY, i32::MIN, i64::MIN),
            Reduce::Minimum => (f32::INFINITY, i32::MAX, i64::MAX),
        };
        match dtype {
            DType::I32 => Scalar::I32(small),
            DType::I64 => Scalar::I64(large),
            _ => Scalar::Float(float),
        }
    }
}
