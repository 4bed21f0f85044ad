//! Bits to floats and back, with the results' NaN as the hardware writes it.

/// The single-precision value in a register.
pub(crate) fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The double-precision value in a register.
pub(crate) fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// An arithmetic result; every NaN is the hardware's one.
pub(crate) fn from_single(value: f32) -> u64 {
    if value.is_nan() { 0x7fff_ffff } else { u64::from(value.to_bits()) }
}

/// An arithmetic result.
pub(crate) fn from_double(value: f64) -> u64 {
    value.to_bits()
}

/// The lesser of two, where a NaN gives way to a number and -0 is below +0.
macro_rules! extremes {
    ($minimum:ident, $maximum:ident, $float:ty) => {
        pub(crate) fn $minimum(a: $float, b: $float) -> $float {
            match () {
                () if a.is_nan() => b,
                () if b.is_nan() || a < b => a,
                () if a == b && a.is_sign_negative() => a,
                () => b,
            }
        }

        pub(crate) fn $maximum(a: $float, b: $float) -> $float {
            match () {
                () if a.is_nan() => b,
                () if b.is_nan() || a > b => a,
                () if a == b && a.is_sign_positive() => a,
                () => b,
            }
        }
    };
}

extremes!(minimum_single, maximum_single, f32);
extremes!(minimum_double, maximum_double, f64);

/// Clamps to [0, 1]; NaN becomes 0.
pub(crate) fn saturate_single(bits: u64) -> u64 {
    let value = single(bits);
    if value > 0.0 { u64::from(value.min(1.0).to_bits()) } else { 0 }
}

pub(crate) fn saturate_double(bits: u64) -> u64 {
    let value = double(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}
