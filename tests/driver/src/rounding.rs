//! Numbers as tensor cores take them: to nearest, ties to even.

pub fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

pub fn f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// TF32 has float32's exponent and float16's 10 bits of fraction.
pub fn tf32(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff)
}
