//! Indices, addresses, loads and stores.

use super::emitter::{Class, Emitter, Value};
use super::lower::{narrow, widen};
use crate::elementwise::dtype::DType;

/// Width of index arithmetic. 32 bits hold every index below 2³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Narrow,
    Wide,
}

impl Width {
    pub fn class(self) -> Class {
        if self == Width::Narrow { Class::B32 } else { Class::B64 }
    }

    pub fn ty(self) -> &'static str {
        if self == Width::Narrow { "u32" } else { "u64" }
    }

    /// a·b + c.
    pub fn multiply_add(self, e: &mut Emitter, a: Value, b: usize, c: Value) -> Value {
        if b == 1 && c == Value::Integer(0) {
            return a;
        }
        let ty = self.ty();
        if b == 1 {
            return e.new_value(self.class(), &format!("add.{ty}"), &[a, c]);
        }
        e.new_value(self.class(), &format!("mad.lo.{ty}"), &[a, Value::Integer(b as i64), c])
    }

    /// (value / divisor, value mod divisor).
    pub fn divide(self, e: &mut Emitter, value: Value, divisor: usize) -> (Value, Value) {
        let quotient = self.quotient(e, value, divisor);
        let ty = self.ty();
        let product = e.new_value(self.class(), &format!("mul.lo.{ty}"), &[quotient, Value::Integer(divisor as i64)]);
        (quotient, e.new_value(self.class(), &format!("sub.{ty}"), &[value, product]))
    }

    fn quotient(self, e: &mut Emitter, value: Value, divisor: usize) -> Value {
        let ty = self.ty();
        let shift = |e: &mut Emitter, value, by: u32| {
            e.new_value(self.class(), &format!("shr.{ty}"), &[value, Value::Integer(i64::from(by))])
        };
        if divisor.is_power_of_two() {
            return shift(e, value, divisor.trailing_zeros());
        }
        // For value < 2ᵏ and l = ⌈log₂ d⌉: value / d = value · (⌊2ᵏ⁺ˡ / d⌋ + 1) >> (k + l); k is 31 or 63.
        let bits = usize::BITS - (divisor - 1).leading_zeros();
        let known = if self == Width::Narrow { 31 } else { 63 };
        let factor = ((1u128 << (known + bits)) / divisor as u128 + 1) as u64;
        let high = e.new_value(self.class(), &format!("mul.hi.{ty}"), &[value, Value::Unsigned(factor)]);
        shift(e, high, bits - 1)
    }

    /// `base` + `index` elements of `bytes` bytes.
    pub fn address(self, e: &mut Emitter, base: Value, index: Value, bytes: usize) -> Value {
        let opcode = if self == Width::Narrow { "mad.wide.u32" } else { "mad.lo.u64" };
        e.new_value(Class::B64, opcode, &[index, Value::Integer(bytes as i64), base])
    }
}

/// The suffix of a memory instruction, the registers it moves and how many at most at a time.
fn access(dtype: DType) -> (&'static str, Class, usize) {
    match dtype {
        DType::F32 => ("f32", Class::F32, 4),
        DType::F16 | DType::BF16 => ("b16", Class::B16, 4),
        DType::I32 => ("b32", Class::B32, 4),
        DType::I64 => ("b64", Class::B64, 2),
        DType::Bool => ("u8", Class::B16, 4),
    }
}

/// Words of the widest access; each holds a pair of 16-bit elements.
const PAIRS: usize = 4;

fn list(registers: &[Value]) -> String {
    let names: Vec<String> = registers.iter().map(Value::to_string).collect();
    if let [one] = &names[..] { one.clone() } else { format!("{{{}}}", names.join(", ")) }
}

fn vector(count: usize) -> String {
    if count == 1 { String::new() } else { format!(".v{count}") }
}

/// `@guard `, or nothing.
fn only(guard: Option<Value>) -> String {
    guard.map_or(String::new(), |guard| format!("@{guard} "))
}

/// Loads `lanes` neighbouring elements at `address`, or zeros where `guard` does not hold; as they are stored.
pub(super) fn load(e: &mut Emitter, dtype: DType, address: Value, lanes: usize, guard: Option<Value>) -> Vec<Value> {
    let (suffix, class, most) = access(dtype);
    let registers: Vec<Value> = (0..lanes).map(|_| e.register(class)).collect();
    if guard.is_some() {
        let zero = if class == Class::F32 { Value::Float(0.0) } else { Value::Integer(0) };
        let mov = format!("mov.{}", class.keyword());
        registers.iter().for_each(|register| e.run(&mov, &[*register, zero]));
    }
    if (dtype.bytes(), lanes) == (2, PAIRS * 2) {
        let words: Vec<Value> = (0..PAIRS).map(|_| e.register(Class::B32)).collect();
        e.line(format_args!("ld.global.v{PAIRS}.b32 {}, [{address}];", list(&words)));
        for (word, pair) in words.iter().zip(registers.chunks(2)) {
            e.line(format_args!("mov.b32 {}, {word};", list(pair)));
        }
        return registers;
    }
    for (at, part) in registers.chunks(most).enumerate() {
        let (only, offset) = (only(guard), at * most * dtype.bytes());
        e.line(format_args!("{only}ld.global{}.{suffix} {}, [{address}+{offset}];", vector(part.len()), list(part)));
    }
    registers
}

/// The value to compute with of an element as it is stored.
pub(super) fn loaded_value(e: &mut Emitter, dtype: DType, register: Value) -> Value {
    match dtype {
        DType::F16 | DType::BF16 => widen(e, dtype, register),
        DType::Bool => e.new_value(Class::Pred, "setp.ne.u16", &[register, Value::Integer(0)]),
        _ => register,
    }
}

/// Stores values computed with as neighbouring elements of type `dtype` where `guard`, if there is one, holds.
pub(super) fn store(e: &mut Emitter, dtype: DType, address: Value, values: &[Value], guard: Option<Value>) {
    let (suffix, class, most) = access(dtype);
    let mut registers = Vec::with_capacity(values.len());
    for value in values {
        registers.push(match (dtype, value) {
            (DType::F16 | DType::BF16, _) => narrow(e, dtype, *value),
            (DType::Bool, _) => e.new_value(Class::B16, "selp.u16", &[Value::Integer(1), Value::Integer(0), *value]),
            (_, Value::Register(_, _)) => *value,
            (DType::F32, _) => e.new_value(class, "mov.f32", &[*value]),
            _ => e.new_value(class, &format!("mov.{suffix}"), &[*value]),
        });
    }
    if (dtype.bytes(), values.len()) == (2, PAIRS * 2) {
        let words: Vec<Value> = registers
            .chunks(2)
            .map(|pair| {
                let word = e.register(Class::B32);
                e.line(format_args!("mov.b32 {word}, {};", list(pair)));
                word
            })
            .collect();
        e.line(format_args!("st.global.v{PAIRS}.b32 [{address}], {};", list(&words)));
        return;
    }
    for (at, part) in registers.chunks(most).enumerate() {
        let (only, offset) = (only(guard), at * most * dtype.bytes());
        e.line(format_args!("{only}st.global{}.{suffix} [{address}+{offset}], {};", vector(part.len()), list(part)));
    }
}
