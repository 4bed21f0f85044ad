//! Constants of division by numbers known before a launch.

/// Numbers below this can be divided in 32 bits.
pub(super) const NARROW: u64 = 1 << 31;

/// `struct Divisor` of the sources: for n < 2ᵏ and l = ⌈log₂ d⌉, n / d = n·(⌊2ᵏ⁺ˡ / d⌋ + 1) >> (k + l); k is 63 where `wide`, else
/// 31 (T. Granlund, P. Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994). 0 divides as 1 does; d ≤ 2ᵏ.
pub(super) fn divisor(value: u64, wide: bool) -> [u8; 24] {
    let value = value.max(1);
    let known = if wide { 63 } else { 31 };
    let shift = u64::BITS - (value - 1).leading_zeros();
    let factor = ((1u128 << (known + shift)) / u128::from(value) + 1) as u64;
    let mut bytes = [0; 24];
    for (slot, number) in bytes.chunks_exact_mut(8).zip([value, factor, u64::from(shift)]) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernels do with the constants.
    fn quotient(n: u64, bytes: &[u8; 24], wide: bool) -> u64 {
        let [factor, shift] = [8, 16].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        if wide {
            return ((u128::from(n + n) * u128::from(factor)) >> 64 >> shift) as u64;
        }
        assert!(factor <= u64::from(u32::MAX));
        (u64::from(n as u32 + n as u32) * factor) >> 32 >> shift
    }

    #[test]
    fn quotients_are_exact_up_to_the_largest_numbers() {
        for (wide, end) in [(false, 1u64 << 31), (true, 1 << 63)] {
            let near = |n: u64| [n.saturating_sub(1), n, n + 1];
            let powers = (0..63).map(|k| 1u64 << k).flat_map(near);
            let divisors: Vec<u64> =
                powers.chain([3, 7, 49, 50_257, 641, 1_000_003]).filter(|d| (1..=end).contains(d)).collect();
            for &d in &divisors {
                let bytes = divisor(d, wide);
                let multiples = [1, 2, 1000, (end - 1) / d, (end - 1) / d / 2].map(|k| k.min((end - 1) / d) * d);
                for n in multiples.into_iter().flat_map(near).chain([0, end - 1, end / 3]).filter(|n| *n < end) {
                    assert_eq!(quotient(n, &bytes, wide), n / d, "{n} / {d}");
                }
            }
        }
    }
}
