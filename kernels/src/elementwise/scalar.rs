//! The machine whose registers are Rust values.

use super::functions::Machine;

/// Computes with `f32` itself.
pub(super) struct Host;

impl Machine for Host {
    type Float = f32;
    type Int = i32;
    type Flag = bool;

    fn float(&mut self, value: f32) -> f32 {
        value
    }
    fn int(&mut self, value: i32) -> i32 {
        value
    }
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn sub(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn mul(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn div(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    fn fma(&mut self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    fn sqrt(&mut self, a: f32) -> f32 {
        a.sqrt()
    }
    fn neg(&mut self, a: f32) -> f32 {
        -a
    }
    fn abs(&mut self, a: f32) -> f32 {
        a.abs()
    }
    fn floor(&mut self, a: f32) -> f32 {
        a.floor()
    }
    fn ceil(&mut self, a: f32) -> f32 {
        a.ceil()
    }
    fn round(&mut self, a: f32) -> f32 {
        a.round_ties_even()
    }
    fn less(&mut self, a: f32, b: f32) -> bool {
        a < b
    }
    fn less_or_equal(&mut self, a: f32, b: f32) -> bool {
        a <= b
    }
    fn equal(&mut self, a: f32, b: f32) -> bool {
        a == b
    }
    fn is_nan(&mut self, a: f32) -> bool {
        a.is_nan()
    }
    fn and(&mut self, a: bool, b: bool) -> bool {
        a && b
    }
    fn or(&mut self, a: bool, b: bool) -> bool {
        a || b
    }
    fn not(&mut self, a: bool) -> bool {
        !a
    }
    fn select(&mut self, condition: bool, a: f32, b: f32) -> f32 {
        if condition { a } else { b }
    }
    fn bits(&mut self, a: f32) -> i32 {
        a.to_bits() as i32
    }
    fn from_bits(&mut self, a: i32) -> f32 {
        f32::from_bits(a as u32)
    }
    fn int_add(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    fn int_sub(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    fn int_and(&mut self, a: i32, b: i32) -> i32 {
        a & b
    }
    fn shift_left(&mut self, a: i32, by: u32) -> i32 {
        a << by
    }
    fn shift_right(&mut self, a: i32, by: u32) -> i32 {
        a >> by
    }
    fn nearest(&mut self, a: f32) -> i32 {
        a.round_ties_even() as i32
    }
    fn to_float(&mut self, a: i32) -> f32 {
        a as f32
    }
}
