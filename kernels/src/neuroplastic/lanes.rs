//! Sixteen float32 lanes. Every implementation does the same IEEE operations on the same lanes in the same order and never
//! contracts to fused multiply-add, so all of them give the same bits.

pub(super) const LANES: usize = 16;

pub(super) type Row = [f32; LANES];

pub(super) trait Lanes: Copy {
    fn splat(value: f32) -> Self;
    fn load(row: &Row) -> Self;
    fn store(self, row: &mut Row);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// `self` limited to [low, high]; NaN stays NaN.
    fn clamp(self, low: Self, high: Self) -> Self;
    /// `self` with infinities and NaN replaced by 0.
    fn finite_or_zero(self) -> Self;
}

#[derive(Clone, Copy)]
pub(super) struct Portable(Row);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Portable(self.0.map(f))
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    fn load(row: &Row) -> Self {
        Portable(*row)
    }

    #[inline(always)]
    fn store(self, row: &mut Row) {
        *row = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |x, y| x + y)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |x, y| x - y)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |x, y| x * y)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |x, y| x / y)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    fn clamp(self, low: Self, high: Self) -> Self {
        self.zip(low, |x, low| if low > x { low } else { x }).zip(high, |x, high| if high < x { high } else { x })
    }

    #[inline(always)]
    fn finite_or_zero(self) -> Self {
        self.map(|x| if x.abs() < f32::INFINITY { x } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Row};

    /// Must only be used inside functions that have the target feature AVX2.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    macro_rules! pairwise {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: the type's contract is that AVX2 is present.
                unsafe { Avx2($intrinsic(self.0, other.0), $intrinsic(self.1, other.1)) }
            }
        };
    }

    // SAFETY of every block below: the type's contract is that AVX2 is present, and a row has room for both halves.
    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }

        #[inline(always)]
        fn load(row: &Row) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))) }
        }

        #[inline(always)]
        fn store(self, row: &mut Row) {
            unsafe {
                _mm256_storeu_ps(row.as_mut_ptr(), self.0);
                _mm256_storeu_ps(row.as_mut_ptr().add(8), self.1);
            }
        }

        pairwise!(add, _mm256_add_ps);
        pairwise!(sub, _mm256_sub_ps);
        pairwise!(mul, _mm256_mul_ps);
        pairwise!(div, _mm256_div_ps);

        #[inline(always)]
        fn sqrt(self) -> Self {
            unsafe { Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
        }

        #[inline(always)]
        fn abs(self) -> Self {
            unsafe {
                let sign = _mm256_set1_ps(-0.0);
                Avx2(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
            }
        }

        #[inline(always)]
        fn clamp(self, low: Self, high: Self) -> Self {
            // max and min return their second operand when one is NaN.
            unsafe {
                let first = _mm256_min_ps(high.0, _mm256_max_ps(low.0, self.0));
                let second = _mm256_min_ps(high.1, _mm256_max_ps(low.1, self.1));
                Avx2(first, second)
            }
        }

        #[inline(always)]
        fn finite_or_zero(self) -> Self {
            unsafe {
                let infinity = _mm256_set1_ps(f32::INFINITY);
                let magnitude = self.abs();
                let first = _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude.0, infinity);
                let second = _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude.1, infinity);
                Avx2(_mm256_and_ps(self.0, first), _mm256_and_ps(self.1, second))
            }
        }
    }
}
