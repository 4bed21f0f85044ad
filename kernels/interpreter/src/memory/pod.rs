//! Plain numbers that may be copied to and from device memory.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// A number with a fixed little-endian form: the integers, the floats, and the sixteen-bit floats of `half`.
pub trait Pod: Copy + sealed::Sealed {
    /// Bytes that one value takes.
    const BYTES: usize;

    #[doc(hidden)]
    fn write_to(self, bytes: &mut [u8]);

    #[doc(hidden)]
    fn read_from(bytes: &[u8]) -> Self;
}

macro_rules! pods {
    ($($number:ty),*) => {$(
        impl sealed::Sealed for $number {}

        impl Pod for $number {
            const BYTES: usize = size_of::<$number>();

            fn write_to(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn read_from(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<$number>()];
                value.copy_from_slice(bytes);
                <$number>::from_le_bytes(value)
            }
        }
    )*};
}

pods!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, f16, bf16);
