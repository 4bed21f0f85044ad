//! PTX text in the making, and the machine whose registers are PTX registers.

use crate::elementwise::machine::Machine;
use std::fmt;

/// Register classes of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Pred,
    B16,
    B32,
    B64,
    F32,
}

impl Class {
    const ALL: [Class; 5] = [Class::Pred, Class::B16, Class::B32, Class::B64, Class::F32];

    fn prefix(self) -> &'static str {
        match self {
            Class::Pred => "p",
            Class::B16 => "h",
            Class::B32 => "r",
            Class::B64 => "d",
            Class::F32 => "f",
        }
    }

    pub fn keyword(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::B16 => "b16",
            Class::B32 => "b32",
            Class::B64 => "b64",
            Class::F32 => "f32",
        }
    }
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Register(Class, u32),
    Float(f32),
    Integer(i64),
    Unsigned(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Value::Register(class, number) => write!(f, "%{}{number}", class.prefix()),
            Value::Float(value) => write!(f, "0f{:08X}", value.to_bits()),
            // The most negative number has no literal of its own: a minus is an operator in PTX.
            Value::Integer(i64::MIN) => f.write_str("0x8000000000000000"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Unsigned(value) => write!(f, "0x{value:x}"),
        }
    }
}

/// The body of one kernel.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    text: String,
    registers: [u32; Class::ALL.len()],
    labels: u32,
}

impl Emitter {
    /// A register not used before.
    pub fn register(&mut self, class: Class) -> Value {
        let count = &mut self.registers[class as usize];
        *count += 1;
        Value::Register(class, *count - 1)
    }

    /// A label not used before.
    pub fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    pub fn place(&mut self, label: &str) {
        self.text.push_str(&format!("{label}:\n"));
    }

    /// Adds `opcode operands;`.
    pub fn run(&mut self, opcode: &str, operands: &[Value]) {
        let operands: Vec<String> = operands.iter().map(Value::to_string).collect();
        self.text.push_str(&format!("\t{opcode} {};\n", operands.join(", ")));
    }

    /// Adds a line as it is.
    pub fn line(&mut self, line: impl fmt::Display) {
        self.text.push_str(&format!("\t{line}\n"));
    }

    /// Adds `opcode result, operands;` with a new register as its result.
    pub fn new_value(&mut self, class: Class, opcode: &str, operands: &[Value]) -> Value {
        let result = self.register(class);
        let all: Vec<Value> = std::iter::once(result).chain(operands.iter().copied()).collect();
        self.run(opcode, &all);
        result
    }

    /// `@condition bra label`, or unless the condition holds.
    pub fn branch(&mut self, condition: Value, label: &str, unless: bool) {
        let not = if unless { "!" } else { "" };
        self.line(format_args!("@{not}{condition} bra {label};"));
    }

    /// Register declarations and everything emitted.
    pub fn finish(self) -> String {
        let declarations = Class::ALL.iter().zip(self.registers).filter(|(_, count)| *count > 0);
        let declare =
            |(class, count): (&Class, u32)| format!("\t.reg .{} %{}<{count}>;\n", class.keyword(), class.prefix());
        declarations.map(declare).collect::<String>() + &self.text
    }

    fn float_value(&mut self, opcode: &str, operands: &[Value]) -> Value {
        self.new_value(Class::F32, opcode, operands)
    }

    fn flag(&mut self, opcode: &str, operands: &[Value]) -> Value {
        self.new_value(Class::Pred, opcode, operands)
    }

    fn word(&mut self, opcode: &str, operands: &[Value]) -> Value {
        self.new_value(Class::B32, opcode, operands)
    }
}

// Every rounding modifier is written out: without it the assembler may contract a product and a sum into one fma.
impl Machine for Emitter {
    type Float = Value;
    type Int = Value;
    type Flag = Value;

    fn float(&mut self, value: f32) -> Value {
        Value::Float(value)
    }
    fn int(&mut self, value: i32) -> Value {
        Value::Integer(i64::from(value))
    }
    fn add(&mut self, a: Value, b: Value) -> Value {
        self.float_value("add.rn.f32", &[a, b])
    }
    fn sub(&mut self, a: Value, b: Value) -> Value {
        self.float_value("sub.rn.f32", &[a, b])
    }
    fn mul(&mut self, a: Value, b: Value) -> Value {
        self.float_value("mul.rn.f32", &[a, b])
    }
    fn div(&mut self, a: Value, b: Value) -> Value {
        self.float_value("div.rn.f32", &[a, b])
    }
    fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        self.float_value("fma.rn.f32", &[a, b, c])
    }
    fn sqrt(&mut self, a: Value) -> Value {
        self.float_value("sqrt.rn.f32", &[a])
    }
    fn neg(&mut self, a: Value) -> Value {
        self.float_value("neg.f32", &[a])
    }
    fn abs(&mut self, a: Value) -> Value {
        self.float_value("abs.f32", &[a])
    }
    fn floor(&mut self, a: Value) -> Value {
        self.float_value("cvt.rmi.f32.f32", &[a])
    }
    fn ceil(&mut self, a: Value) -> Value {
        self.float_value("cvt.rpi.f32.f32", &[a])
    }
    fn round(&mut self, a: Value) -> Value {
        self.float_value("cvt.rni.f32.f32", &[a])
    }
    fn less(&mut self, a: Value, b: Value) -> Value {
        self.flag("setp.lt.f32", &[a, b])
    }
    fn less_or_equal(&mut self, a: Value, b: Value) -> Value {
        self.flag("setp.le.f32", &[a, b])
    }
    fn equal(&mut self, a: Value, b: Value) -> Value {
        self.flag("setp.eq.f32", &[a, b])
    }
    fn is_nan(&mut self, a: Value) -> Value {
        self.flag("setp.nan.f32", &[a, a])
    }
    fn and(&mut self, a: Value, b: Value) -> Value {
        self.flag("and.pred", &[a, b])
    }
    fn or(&mut self, a: Value, b: Value) -> Value {
        self.flag("or.pred", &[a, b])
    }
    fn not(&mut self, a: Value) -> Value {
        self.flag("not.pred", &[a])
    }
    fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        self.float_value("selp.f32", &[a, b, condition])
    }
    fn bits(&mut self, a: Value) -> Value {
        self.word("mov.b32", &[a])
    }
    fn with_bits(&mut self, a: Value) -> Value {
        self.float_value("mov.b32", &[a])
    }
    fn int_add(&mut self, a: Value, b: Value) -> Value {
        self.word("add.s32", &[a, b])
    }
    fn int_sub(&mut self, a: Value, b: Value) -> Value {
        self.word("sub.s32", &[a, b])
    }
    fn int_and(&mut self, a: Value, b: Value) -> Value {
        self.word("and.b32", &[a, b])
    }
    fn int_mul(&mut self, a: Value, b: Value) -> Value {
        self.word("mul.lo.u32", &[a, b])
    }
    fn int_mul_high(&mut self, a: Value, b: Value) -> Value {
        self.word("mul.hi.u32", &[a, b])
    }
    fn int_below(&mut self, a: Value, b: Value) -> Value {
        self.flag("setp.lt.u32", &[a, b])
    }
    fn int_select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        self.word("selp.b32", &[a, b, condition])
    }
    fn shift_left_by(&mut self, a: Value, by: Value) -> Value {
        self.word("shl.b32", &[a, by])
    }
    fn shift_right_by(&mut self, a: Value, by: Value) -> Value {
        self.word("shr.u32", &[a, by])
    }
    fn shift_left(&mut self, a: Value, by: u32) -> Value {
        self.word("shl.b32", &[a, Value::Integer(i64::from(by))])
    }
    fn shift_right(&mut self, a: Value, by: u32) -> Value {
        self.word("shr.s32", &[a, Value::Integer(i64::from(by))])
    }
    fn nearest(&mut self, a: Value) -> Value {
        self.word("cvt.rni.s32.f32", &[a])
    }
    fn to_float(&mut self, a: Value) -> Value {
        self.float_value("cvt.rn.f32.s32", &[a])
    }
}
