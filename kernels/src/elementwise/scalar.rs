//! The machine whose registers are Rust values.

use super::machine::Machine;

/// Computes with `f32` itself.
pub(super) struct Host;

impl Machine for Host {
    type Float = f32;
    type Int = i32;
    type Flag = bool;

    #[inline(always)]
    fn float(&mut self, value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn int(&mut self, value: i32) -> i32 {
        value
    }
    #[inline(always)]
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn fma(&mut self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn sqrt(&mut self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    fn neg(&mut self, a: f32) -> f32 {
        -a
    }
    #[inline(always)]
    fn abs(&mut self, a: f32) -> f32 {
        a.abs()
    }
    #[inline(always)]
    fn floor(&mut self, a: f32) -> f32 {
        a.floor()
    }
    #[inline(always)]
    fn ceil(&mut self, a: f32) -> f32 {
        a.ceil()
    }
    #[inline(always)]
    fn round(&mut self, a: f32) -> f32 {
        a.round_ties_even()
    }
    #[inline(always)]
    fn less(&mut self, a: f32, b: f32) -> bool {
        a < b
    }
    #[inline(always)]
    fn less_or_equal(&mut self, a: f32, b: f32) -> bool {
        a <= b
    }
    #[inline(always)]
    fn equal(&mut self, a: f32, b: f32) -> bool {
        a == b
    }
    #[inline(always)]
    fn is_nan(&mut self, a: f32) -> bool {
        a.is_nan()
    }
    #[inline(always)]
    fn and(&mut self, a: bool, b: bool) -> bool {
        a && b
    }
    #[inline(always)]
    fn or(&mut self, a: bool, b: bool) -> bool {
        a || b
    }
    #[inline(always)]
    fn not(&mut self, a: bool) -> bool {
        !a
    }
    #[inline(always)]
    fn select(&mut self, condition: bool, a: f32, b: f32) -> f32 {
        if condition { a } else { b }
    }
    #[inline(always)]
    fn bits(&mut self, a: f32) -> i32 {
        a.to_bits() as i32
    }
    #[inline(always)]
    fn with_bits(&mut self, a: i32) -> f32 {
        f32::from_bits(a as u32)
    }
    #[inline(always)]
    fn int_add(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn int_sub(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn int_and(&mut self, a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline(always)]
    fn int_mul(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    fn int_mul_high(&mut self, a: i32, b: i32) -> i32 {
        ((u64::from(a as u32) * u64::from(b as u32)) >> 32) as i32
    }
    #[inline(always)]
    fn int_below(&mut self, a: i32, b: i32) -> bool {
        (a as u32) < b as u32
    }
    #[inline(always)]
    fn int_select(&mut self, condition: bool, a: i32, b: i32) -> i32 {
        if condition { a } else { b }
    }
    #[inline(always)]
    fn shift_left_by(&mut self, a: i32, by: i32) -> i32 {
        a.checked_shl(by as u32).unwrap_or(0)
    }
    #[inline(always)]
    fn shift_right_by(&mut self, a: i32, by: i32) -> i32 {
        (a as u32).checked_shr(by as u32).unwrap_or(0) as i32
    }
    #[inline(always)]
    fn shift_left(&mut self, a: i32, by: u32) -> i32 {
        a << by
    }
    #[inline(always)]
    fn shift_right(&mut self, a: i32, by: u32) -> i32 {
        a >> by
    }
    #[inline(always)]
    fn nearest(&mut self, a: f32) -> i32 {
        // The last bit of a float of this size is worth 1. (A conversion would check its range and not be vectorised.)
        const LARGE: f32 = 12_582_912.0;
        (a + LARGE).to_bits().wrapping_sub(LARGE.to_bits()) as i32
    }
    #[inline(always)]
    fn to_float(&mut self, a: i32) -> f32 {
        a as f32
    }
}
