//! Instructions of an expression as PTX.

use super::emitter::{Class, Emitter, Value};
use crate::elementwise::dtype::{DType, Scalar};
use crate::elementwise::functions;
use crate::elementwise::machine::Machine;
use crate::elementwise::operation::Operation;

/// Class of the register that holds a value of type `dtype` while it is computed with.
pub(super) fn class(dtype: DType) -> Class {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Class::F32,
        DType::I32 => Class::B32,
        DType::I64 => Class::B64,
        DType::Bool => Class::Pred,
    }
}

pub(super) fn constant(e: &mut Emitter, value: Scalar) -> Value {
    match value {
        Scalar::Float(x) => Value::Float(x),
        Scalar::I32(x) => Value::Integer(i64::from(x)),
        Scalar::I64(x) => Value::Integer(x),
        Scalar::Bool(x) => e.new_value(Class::Pred, "setp.ne.s32", &[Value::Integer(i64::from(x)), Value::Integer(0)]),
    }
}

/// Emits one operation on operands of type `dtype` (for `Select`, of the values chosen from).
pub(super) fn apply(e: &mut Emitter, operation: Operation, dtype: DType, operands: &[Value]) -> Option<Value> {
    match (operation, operands) {
        (Operation::Cast(to), &[value]) => Some(cast(e, dtype, to, value)),
        (Operation::Select, &[condition, a, b]) => Some(select(e, dtype, condition, a, b)),
        (Operation::And, &[a, b]) => Some(e.and(a, b)),
        (Operation::Or, &[a, b]) => Some(e.or(a, b)),
        (Operation::Not, &[a]) => Some(e.not(a)),
        (Operation::Equal, &[a, b]) if dtype == DType::Bool => {
            let differ = e.new_value(Class::Pred, "xor.pred", &[a, b]);
            Some(e.not(differ))
        }
        _ if dtype.is_float() => {
            functions::compare(e, operation, operands).or_else(|| functions::apply(e, operation, operands))
        }
        _ => integer(e, operation, dtype, operands),
    }
}

fn select(e: &mut Emitter, dtype: DType, condition: Value, a: Value, b: Value) -> Value {
    if dtype == DType::Bool {
        let otherwise = e.not(condition);
        let (a, b) = (e.and(condition, a), e.and(otherwise, b));
        return e.or(a, b);
    }
    let opcode = match dtype {
        DType::I32 => "selp.s32",
        DType::I64 => "selp.s64",
        _ => "selp.f32",
    };
    e.new_value(class(dtype), opcode, &[a, b, condition])
}

fn integer(e: &mut Emitter, operation: Operation, dtype: DType, operands: &[Value]) -> Option<Value> {
    let ty = if dtype == DType::I64 { "s64" } else { "s32" };
    let class = class(dtype);
    let zero = Value::Integer(0);
    let simple = |opcode: &str| format!("{opcode}.{ty}");
    Some(match (operation, operands) {
        (Operation::Less, &[a, b]) => e.new_value(Class::Pred, &simple("setp.lt"), &[a, b]),
        (Operation::LessOrEqual, &[a, b]) => e.new_value(Class::Pred, &simple("setp.le"), &[a, b]),
        (Operation::Equal, &[a, b]) => e.new_value(Class::Pred, &simple("setp.eq"), &[a, b]),
        (Operation::Add, &[a, b]) => e.new_value(class, &simple("add"), &[a, b]),
        (Operation::Subtract, &[a, b]) => e.new_value(class, &simple("sub"), &[a, b]),
        (Operation::Multiply, &[a, b]) => e.new_value(class, &simple("mul.lo"), &[a, b]),
        (Operation::Square, &[a]) => e.new_value(class, &simple("mul.lo"), &[a, a]),
        (Operation::Maximum, &[a, b]) => e.new_value(class, &simple("max"), &[a, b]),
        (Operation::Minimum, &[a, b]) => e.new_value(class, &simple("min"), &[a, b]),
        (Operation::Relu, &[a]) => e.new_value(class, &simple("max"), &[a, zero]),
        (Operation::Negate, &[a]) => e.new_value(class, &simple("sub"), &[zero, a]),
        (Operation::Absolute, &[a]) => {
            let negated = e.new_value(class, &simple("sub"), &[zero, a]);
            e.new_value(class, &simple("max"), &[a, negated])
        }
        (Operation::Sign, &[a]) => {
            let above = e.new_value(class, &simple("min"), &[a, Value::Integer(1)]);
            e.new_value(class, &simple("max"), &[above, Value::Integer(-1)])
        }
        (Operation::Divide, &[a, b]) => divide(e, dtype, a, b),
        _ => return None,
    })
}

/// PTX leaves two quotients open, a/0 and MIN/−1; here they are 0 and MIN.
fn divide(e: &mut Emitter, dtype: DType, a: Value, b: Value) -> Value {
    let ty = if dtype == DType::I64 { "s64" } else { "s32" };
    let class = class(dtype);
    let (zero, one) = (Value::Integer(0), Value::Integer(1));
    let is_zero = e.new_value(Class::Pred, &format!("setp.eq.{ty}"), &[b, zero]);
    let turns = e.new_value(Class::Pred, &format!("setp.eq.{ty}"), &[b, Value::Integer(-1)]);
    let unusual = e.or(is_zero, turns);
    let divisor = select(e, dtype, unusual, one, b);
    let quotient = e.new_value(class, &format!("div.{ty}"), &[a, divisor]);
    let negated = e.new_value(class, &format!("sub.{ty}"), &[zero, a]);
    let quotient = select(e, dtype, turns, negated, quotient);
    select(e, dtype, is_zero, zero, quotient)
}

/// Converts a value of type `from`; a float is rounded where `to` is a narrower float.
pub(super) fn cast(e: &mut Emitter, from: DType, to: DType, value: Value) -> Value {
    match (from, to) {
        (_, DType::F32) | (_, DType::F16) | (_, DType::BF16) => {
            let float = match from {
                DType::I32 => e.new_value(Class::F32, "cvt.rn.f32.s32", &[value]),
                DType::I64 => e.new_value(Class::F32, "cvt.rn.f32.s64", &[value]),
                DType::Bool => select(e, DType::F32, value, Value::Float(1.0), Value::Float(0.0)),
                _ => value,
            };
            if to == DType::F32 {
                return float;
            }
            let bits = narrow(e, to, float);
            widen(e, to, bits)
        }
        (_, DType::Bool) => match from {
            DType::I32 => e.new_value(Class::Pred, "setp.ne.s32", &[value, Value::Integer(0)]),
            DType::I64 => e.new_value(Class::Pred, "setp.ne.s64", &[value, Value::Integer(0)]),
            DType::Bool => value,
            _ => e.new_value(Class::Pred, "setp.neu.f32", &[value, Value::Float(0.0)]),
        },
        (DType::Bool, _) => select(e, to, value, Value::Integer(1), Value::Integer(0)),
        (DType::I64, DType::I32) => e.new_value(Class::B32, "cvt.u32.u64", &[value]),
        (DType::I32, DType::I64) => e.new_value(Class::B64, "cvt.s64.s32", &[value]),
        (DType::I32, DType::I32) | (DType::I64, DType::I64) => value,
        (_, DType::I32) => e.new_value(Class::B32, "cvt.rzi.s32.f32", &[value]),
        (_, DType::I64) => {
            let integer = e.new_value(Class::B64, "cvt.rzi.s64.f32", &[value]);
            // NaN becomes the least integer on the hardware.
            let nan = e.is_nan(value);
            select(e, DType::I64, nan, Value::Integer(0), integer)
        }
    }
}

/// The bits of a float rounded to `to` (`F16` or `BF16`), in a 16-bit register.
pub(super) fn narrow(e: &mut Emitter, to: DType, value: Value) -> Value {
    if to == DType::F16 {
        return e.new_value(Class::B16, "cvt.rn.f16.f32", &[value]);
    }
    let bits = e.bits(value);
    let sixteenth = e.new_value(Class::B32, "shr.u32", &[bits, Value::Integer(16)]);
    let odd = e.new_value(Class::B32, "and.b32", &[sixteenth, Value::Integer(1)]);
    let half = e.new_value(Class::B32, "add.u32", &[bits, Value::Integer(0x7fff)]);
    let rounded = e.new_value(Class::B32, "add.u32", &[half, odd]);
    let upper = e.new_value(Class::B32, "shr.u32", &[rounded, Value::Integer(16)]);
    let quiet = e.new_value(Class::B32, "or.b32", &[sixteenth, Value::Integer(0x40)]);
    let nan = e.is_nan(value);
    let chosen = e.new_value(Class::B32, "selp.b32", &[quiet, upper, nan]);
    e.new_value(Class::B16, "cvt.u16.u32", &[chosen])
}

/// The float32 value of the bits of an `F16` or `BF16` in a 16-bit register.
pub(super) fn widen(e: &mut Emitter, from: DType, bits: Value) -> Value {
    if from == DType::F16 {
        return e.new_value(Class::F32, "cvt.f32.f16", &[bits]);
    }
    let word = e.new_value(Class::B32, "cvt.u32.u16", &[bits]);
    let shifted = e.new_value(Class::B32, "shl.b32", &[word, Value::Integer(16)]);
    e.with_bits(shifted)
}
