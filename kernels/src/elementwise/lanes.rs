//! One operation over a block, with AVX2 and FMA where the processor has them.

use super::blocks::Functions;
use super::functions;
use super::operation::Operation;
use super::scalar::Host;

/// An operand of a block.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Same(f32),
    Each(&'a [f32]),
}

/// Computes `out` from operands, of which those beyond the operation's arity are ignored.
pub(super) fn compute(operation: Operation, sources: [Source; 3], functions: &dyn Functions, out: &mut [f32]) {
    use Operation::{Erf, Exp, Log, Sigmoid, Tanh};
    if let (Exp | Log | Tanh | Sigmoid | Erf, Source::Each(values)) = (operation, sources[0]) {
        out.copy_from_slice(values);
        if functions.apply(operation, out) {
            return;
        }
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features are there.
        unsafe { compute_avx2(operation, sources, out) };
        return;
    }
    body(operation, sources, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn compute_avx2(operation: Operation, sources: [Source; 3], out: &mut [f32]) {
    body(operation, sources, out);
}

#[inline(always)]
fn body(operation: Operation, [a, b, c]: [Source; 3], out: &mut [f32]) {
    use Operation::*;
    let truth = |condition: bool| f32::from(u8::from(condition));
    match operation {
        Add => binary(a, b, out, |a, b| a + b),
        Subtract => binary(a, b, out, |a, b| a - b),
        Multiply => binary(a, b, out, |a, b| a * b),
        Divide => binary(a, b, out, |a, b| a / b),
        Maximum => binary(a, b, out, |a, b| if a > b || a.is_nan() { a } else { b }),
        Minimum => binary(a, b, out, |a, b| if a < b || a.is_nan() { a } else { b }),
        Less => binary(a, b, out, |a, b| truth(a < b)),
        LessOrEqual => binary(a, b, out, |a, b| truth(a <= b)),
        Equal => binary(a, b, out, |a, b| truth(a == b)),
        And => binary(a, b, out, |a, b| a * b),
        Or => binary(a, b, out, f32::max),
        Not => unary(a, out, |a| 1.0 - a),
        Select => select(a, b, c, out),
        Negate => unary(a, out, |a| -a),
        Absolute => unary(a, out, f32::abs),
        Square => unary(a, out, |a| a * a),
        Relu => unary(a, out, |a| if a > 0.0 || a.is_nan() { a } else { 0.0 }),
        SquareRoot => unary(a, out, f32::sqrt),
        Reciprocal => unary(a, out, |a| 1.0 / a),
        ReciprocalSquareRoot => unary(a, out, |a| 1.0 / a.sqrt()),
        Cast(super::DType::Bool) => unary(a, out, |a| truth(a != 0.0)),
        Cast(_) => unary(a, out, |a| a),
        Power => binary(a, b, out, |a, b| functions::apply(&mut Host, Power, &[a, b]).unwrap_or(f32::NAN)),
        Sign => own(a, out, Sign),
        Floor => own(a, out, Floor),
        Ceil => own(a, out, Ceil),
        Round => own(a, out, Round),
        Exp => own(a, out, Exp),
        Log => own(a, out, Log),
        Tanh => own(a, out, Tanh),
        Sigmoid => own(a, out, Sigmoid),
        Erf => own(a, out, Erf),
        Sine => own(a, out, Sine),
        Cosine => own(a, out, Cosine),
    }
}

/// No closure, which would not have the caller's target features.
#[inline(always)]
fn own(a: Source, out: &mut [f32], operation: Operation) {
    match a {
        Source::Same(a) => {
            out.fill(functions::apply(&mut Host, operation, &[a]).unwrap_or(f32::NAN));
            return;
        }
        Source::Each(a) => out.copy_from_slice(a),
    }
    for value in out {
        *value = functions::apply(&mut Host, operation, &[*value]).unwrap_or(f32::NAN);
    }
}

// Loops rather than iterator adaptors, for the same reason.

#[inline(always)]
fn unary(a: Source, out: &mut [f32], f: impl Fn(f32) -> f32) {
    match a {
        Source::Same(a) => out.fill(f(a)),
        Source::Each(a) => {
            for (o, a) in out.iter_mut().zip(a) {
                *o = f(*a);
            }
        }
    }
}

#[inline(always)]
fn binary(a: Source, b: Source, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Source::Same(a), b) => unary(b, out, |b| f(a, b)),
        (a, Source::Same(b)) => unary(a, out, |a| f(a, b)),
        (Source::Each(a), Source::Each(b)) => {
            for (o, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
                *o = f(*a, *b);
            }
        }
    }
}

#[inline(always)]
fn select(condition: Source, a: Source, b: Source, out: &mut [f32]) {
    match (condition, a, b) {
        (Source::Same(condition), a, b) => unary(if condition != 0.0 { a } else { b }, out, |x| x),
        (condition, Source::Same(a), b) => {
            binary(condition, b, out, |condition, b| if condition != 0.0 { a } else { b })
        }
        (condition, a, Source::Same(b)) => {
            binary(condition, a, out, |condition, a| if condition != 0.0 { a } else { b })
        }
        (Source::Each(condition), Source::Each(a), Source::Each(b)) => {
            for (o, (c, (a, b))) in out.iter_mut().zip(condition.iter().zip(a.iter().zip(b))) {
                *o = if *c != 0.0 { *a } else { *b };
            }
        }
    }
}
