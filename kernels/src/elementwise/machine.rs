//! What the float32 functions need of whatever runs them.

/// Float32 and 32-bit integer arithmetic. Every float operation rounds once, to nearest even, and keeps subnormals.
pub(super) trait Machine {
    type Float: Copy;
    type Int: Copy;
    type Flag: Copy;

    fn float(&mut self, value: f32) -> Self::Float;
    fn int(&mut self, value: i32) -> Self::Int;
    fn add(&mut self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn sub(&mut self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn mul(&mut self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn div(&mut self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// a·b + c, rounded once.
    fn fma(&mut self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    fn sqrt(&mut self, a: Self::Float) -> Self::Float;
    fn neg(&mut self, a: Self::Float) -> Self::Float;
    fn abs(&mut self, a: Self::Float) -> Self::Float;
    fn floor(&mut self, a: Self::Float) -> Self::Float;
    fn ceil(&mut self, a: Self::Float) -> Self::Float;
    fn round(&mut self, a: Self::Float) -> Self::Float;
    /// False when either is NaN, as for the other comparisons.
    fn less(&mut self, a: Self::Float, b: Self::Float) -> Self::Flag;
    fn less_or_equal(&mut self, a: Self::Float, b: Self::Float) -> Self::Flag;
    fn equal(&mut self, a: Self::Float, b: Self::Float) -> Self::Flag;
    fn is_nan(&mut self, a: Self::Float) -> Self::Flag;
    fn and(&mut self, a: Self::Flag, b: Self::Flag) -> Self::Flag;
    fn or(&mut self, a: Self::Flag, b: Self::Flag) -> Self::Flag;
    fn not(&mut self, a: Self::Flag) -> Self::Flag;
    fn select(&mut self, condition: Self::Flag, a: Self::Float, b: Self::Float) -> Self::Float;
    fn bits(&mut self, a: Self::Float) -> Self::Int;
    fn with_bits(&mut self, a: Self::Int) -> Self::Float;
    fn int_add(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn int_sub(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn int_and(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// The lower half of the product.
    fn int_mul(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// The upper half of the product of unsigned numbers.
    fn int_mul_high(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Compares unsigned numbers.
    fn int_below(&mut self, a: Self::Int, b: Self::Int) -> Self::Flag;
    fn int_select(&mut self, condition: Self::Flag, a: Self::Int, b: Self::Int) -> Self::Int;
    /// 0 for shifts by 32 or more, as the next.
    fn shift_left_by(&mut self, a: Self::Int, by: Self::Int) -> Self::Int;
    /// Shifts zeros in.
    fn shift_right_by(&mut self, a: Self::Int, by: Self::Int) -> Self::Int;
    fn shift_left(&mut self, a: Self::Int, by: u32) -> Self::Int;
    /// Copies the sign bit down.
    fn shift_right(&mut self, a: Self::Int, by: u32) -> Self::Int;
    /// The nearest integer, ties to even, of a number below 2²² in size; of anything else, any integer.
    fn nearest(&mut self, a: Self::Float) -> Self::Int;
    fn to_float(&mut self, a: Self::Int) -> Self::Float;

    /// c₀ + c₁·x + c₂·x² + …, by Horner's rule.
    #[inline(always)]
    fn polynomial(&mut self, x: Self::Float, coefficients: &[f32]) -> Self::Float {
        let mut backwards = coefficients.iter().rev();
        let mut value = self.float(backwards.next().copied().unwrap_or(0.0));
        for coefficient in backwards {
            let coefficient = self.float(*coefficient);
            value = self.fma(value, x, coefficient);
        }
        value
    }

    /// `value` with its sign turned where `like` is negative.
    #[inline(always)]
    fn signed_like(&mut self, value: Self::Float, like: Self::Float) -> Self::Float {
        let (zero, negated) = (self.float(0.0), self.neg(value));
        let negative = self.less(like, zero);
        self.select(negative, negated, value)
    }
}
