//! The hardware's fast functions, here as exact results rounded once: a kernel must not depend on their last bits.

use super::float::{from_single, single};
use super::{Form, Function, Opcode};
use crate::types::Type;

pub(super) fn form(opcode: &mut Opcode<'_>) -> Option<Form> {
    fn of(bits: u64, function: fn(f64) -> f64) -> u64 {
        from_single(function(f64::from(single(bits))) as f32)
    }
    if opcode.name == "testp" {
        return test(opcode);
    }
    let function = match opcode.name {
        "ex2" => Function::One(|a| of(a, f64::exp2)),
        "lg2" => Function::One(|a| of(a, f64::log2)),
        "sin" => Function::One(|a| of(a, f64::sin)),
        "cos" => Function::One(|a| of(a, f64::cos)),
        "tanh" => Function::One(|a| of(a, f64::tanh)),
        _ => return None,
    };
    let ty = (opcode.flag("approx") && opcode.ty()? == Type::F32).then_some(Type::F32)?;
    Some(Form { flush: opcode.flag("ftz"), ..Form::new(function, ty) })
}

fn test(opcode: &mut Opcode<'_>) -> Option<Form> {
    let property = opcode.choice(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])?;
    let ty = opcode.ty()?;
    macro_rules! tests {
        ($float:ty, $bits:ty) => {{
            fn value(bits: u64) -> $float {
                <$float>::from_bits(bits as $bits)
            }
            match property {
                "finite" => Function::One(|a| u64::from(value(a).is_finite())),
                "infinite" => Function::One(|a| u64::from(value(a).is_infinite())),
                "number" => Function::One(|a| u64::from(!value(a).is_nan())),
                "notanumber" => Function::One(|a| u64::from(value(a).is_nan())),
                "normal" => Function::One(|a| u64::from(value(a).is_normal())),
                _ => Function::One(|a| u64::from(value(a).is_subnormal())),
            }
        }};
    }
    let function = match ty {
        Type::F32 => tests!(f32, u32),
        Type::F64 => tests!(f64, u64),
        _ => return None,
    };
    Some(Form::new(function, ty).with_result(Type::Pred))
}
