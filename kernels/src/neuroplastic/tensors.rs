use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Config, StepError};

/// Elements of one block: the unit of summation, so it must not depend on the number of threads.
pub(super) const BLOCK: usize = 4096;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// Storage type of a parameter and its gradient: `f32`, `f16` or `bf16`.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    #[doc(hidden)]
    type Buffer: Default;
    /// The values as float32; `source` has at most one block's length.
    #[doc(hidden)]
    fn read<'a>(source: &'a [Self], buffer: &'a mut Self::Buffer) -> &'a [f32];
    /// Changes the values through float32, rounding once at the end.
    #[doc(hidden)]
    fn change(target: &mut [Self], change: impl FnOnce(&mut [f32]));
    #[doc(hidden)]
    fn to_f64(self) -> f64;
    #[doc(hidden)]
    fn from_f64(value: f64) -> Self;
}

impl Element for f32 {
    type Buffer = ();

    #[inline(always)]
    fn read<'a>(source: &'a [f32], _: &'a mut ()) -> &'a [f32] {
        source
    }

    #[inline(always)]
    fn change(target: &mut [f32], change: impl FnOnce(&mut [f32])) {
        change(target);
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> f32 {
        value as f32
    }
}

#[doc(hidden)]
pub struct Widened([f32; BLOCK]);

impl Default for Widened {
    fn default() -> Self {
        Widened([0.0; BLOCK])
    }
}

macro_rules! half_element {
    ($half:ty) => {
        impl Element for $half {
            type Buffer = Widened;

            #[inline]
            fn read<'a>(source: &'a [$half], buffer: &'a mut Widened) -> &'a [f32] {
                let widened = &mut buffer.0[..source.len()];
                source.convert_to_f32_slice(widened);
                widened
            }

            #[inline]
            fn change(target: &mut [$half], change: impl FnOnce(&mut [f32])) {
                let mut buffer = Widened::default();
                let widened = &mut buffer.0[..target.len()];
                target.convert_to_f32_slice(widened);
                change(widened);
                target.convert_from_f32_slice(widened);
            }

            fn to_f64(self) -> f64 {
                <$half>::to_f64(self)
            }

            fn from_f64(value: f64) -> $half {
                <$half>::from_f32(value as f32)
            }
        }
    };
}

half_element!(f16);
half_element!(bf16);

/// One parameter tensor with its gradient and state, all of one length n. State is float32 whatever `T` is.
pub struct Tensors<'a, T> {
    /// θ, updated in place.
    pub parameter: &'a mut [T],
    /// g, only read.
    pub gradient: &'a [T],
    /// a, updated in place.
    pub activity_trace: &'a mut [f32],
    /// m, updated in place.
    pub momentum: &'a mut [f32],
    /// v, updated in place.
    pub variance: &'a mut [f32],
    /// M, updated in place; empty for the classic base.
    pub base_momentum: &'a mut [f32],
    /// V, updated in place; empty unless the base is AdamW.
    pub base_variance: &'a mut [f32],
}

impl<T> Tensors<'_, T> {
    pub(super) fn check(&self, config: &Config) -> Result<(), StepError> {
        let n = self.parameter.len();
        let kept = |kept: bool| if kept { n } else { 0 };
        let lengths = [
            ("gradient", self.gradient.len(), n),
            ("activity_trace", self.activity_trace.len(), n),
            ("momentum", self.momentum.len(), n),
            ("variance", self.variance.len(), n),
            ("base_momentum", self.base_momentum.len(), kept(config.has_base_momentum())),
            ("base_variance", self.base_variance.len(), kept(config.has_base_variance())),
        ];
        for (name, found, expected) in lengths {
            if found != expected {
                return Err(StepError::Length { name, found, expected });
            }
        }
        Ok(())
    }
}

/// [`Tensors`] of any storage type, so that a group may mix them.
pub enum AnyTensors<'a> {
    F32(Tensors<'a, f32>),
    F16(Tensors<'a, f16>),
    BF16(Tensors<'a, bf16>),
}

impl AnyTensors<'_> {
    /// Elements of the tensor.
    pub fn len(&self) -> usize {
        match self {
            AnyTensors::F32(tensors) => tensors.parameter.len(),
            AnyTensors::F16(tensors) => tensors.parameter.len(),
            AnyTensors::BF16(tensors) => tensors.parameter.len(),
        }
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
