//! Eight float32 lanes. Element maths may differ in the last bits between processor families: where there is one, the fused
//! multiply-add is used. The lanes and the order of additions are the same everywhere.

pub(super) const LANES: usize = 8;

pub(super) type Row = [f32; LANES];

pub(super) trait Lanes: Copy {
    fn splat(value: f32) -> Self;
    fn load(row: &Row) -> Self;
    fn store(self, row: &mut Row);
    /// [`Self::store`] past the caches; to be followed by [`Self::fence`] before anyone reads it. The row is as aligned as long.
    fn stream(self, row: &mut Row);
    fn fence();
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// `self`·factor + term.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// `self` / divisor within two units in the last place; may be NaN where divisor or inverse is not a normal number.
    fn fast_div(self, divisor: Self) -> Self;
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
    fn stream(self, row: &mut Row) {
        self.store(row);
    }

    #[inline(always)]
    fn fence() {}

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
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul(factor).add(term)
    }

    #[inline(always)]
    fn fast_div(self, divisor: Self) -> Self {
        self.div(divisor)
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

    /// Must only be used inside functions that have the target features AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    macro_rules! pairwise {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: the type's contract is that AVX2 and FMA are present.
                Avx2(unsafe { $intrinsic(self.0, other.0) })
            }
        };
    }

    // SAFETY of every block below: the type's contract is that AVX2 and FMA are present, and a row is as long as a register.
    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Avx2(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        fn load(row: &Row) -> Self {
            Avx2(unsafe { _mm256_loadu_ps(row.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, row: &mut Row) {
            unsafe { _mm256_storeu_ps(row.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn stream(self, row: &mut Row) {
            debug_assert!(row.as_ptr().addr().is_multiple_of(32));
            unsafe { _mm256_stream_ps(row.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn fence() {
            unsafe { _mm_sfence() }
        }

        pairwise!(add, _mm256_add_ps);
        pairwise!(sub, _mm256_sub_ps);
        pairwise!(mul, _mm256_mul_ps);
        pairwise!(div, _mm256_div_ps);

        #[inline(always)]
        fn sqrt(self) -> Self {
            Avx2(unsafe { _mm256_sqrt_ps(self.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
        }

        /// From an approximate inverse, refined by a Newton step.
        #[inline(always)]
        fn fast_div(self, divisor: Self) -> Self {
            unsafe {
                let inverse = _mm256_rcp_ps(divisor.0);
                let error = _mm256_fnmadd_ps(divisor.0, inverse, _mm256_set1_ps(1.0));
                let quotient = _mm256_mul_ps(self.0, inverse);
                Avx2(_mm256_fmadd_ps(quotient, error, quotient))
            }
        }

        #[inline(always)]
        fn abs(self) -> Self {
            Avx2(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
        }

        #[inline(always)]
        fn clamp(self, low: Self, high: Self) -> Self {
            // max and min return their second operand when one is NaN.
            Avx2(unsafe { _mm256_min_ps(high.0, _mm256_max_ps(low.0, self.0)) })
        }

        #[inline(always)]
        fn finite_or_zero(self) -> Self {
            unsafe {
                let finite = _mm256_cmp_ps::<_CMP_LT_OQ>(self.abs().0, _mm256_set1_ps(f32::INFINITY));
                Avx2(_mm256_and_ps(self.0, finite))
            }
        }
    }
}
