//! Kernels for NVIDIA GPUs as data: their PTX, and functions that describe launches of them.
//!
//! Nothing here talks to a device. Whoever has one (or the interpreter that stands in for one in tests) loads
//! [`Source::ptx`] and carries out each [`Launch`]. The sources are in `kernels/cuda`; `kernels/build_ptx.py` makes the PTX.

pub mod arg;
pub mod batch;
mod division;
pub mod dropout;
pub mod index;
pub mod loss;
pub mod neuroplastic;
pub mod norm;
#[cfg(test)]
pub(crate) mod testing;
pub mod window;

/// An address in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePointer(pub u64);

impl DevicePointer {
    /// No memory at all, where a kernel takes something optional.
    pub const NULL: DevicePointer = DevicePointer(0);

    /// The address so many bytes further on.
    pub fn offset(self, bytes: u64) -> Self {
        DevicePointer(self.0.wrapping_add(bytes))
    }
}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    U32(u32),
    U64(u64),
    F32(f32),
    Pointer(DevicePointer),
    /// A struct passed by value.
    Bytes(Vec<u8>),
}

/// A kernel with everything it is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub source: Source,
    pub kernel: &'static str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond what the kernel declares.
    pub dynamic_shared: u32,
    pub arguments: Vec<Argument>,
}

/// Threads of a block wherever nothing asks for another number.
const THREADS: u64 = 256;
/// So many blocks that a device's last round of them, which need not fill it, is a small part of all (an H100 holds 1056 of
/// [`THREADS`] threads at a time); more items are taken in turns.
const BLOCKS: u64 = 1 << 16;

impl Launch {
    /// A launch of blocks of [`THREADS`] threads, as many as there are `items` for a block to take, up to [`BLOCKS`].
    fn blocks(source: Source, kernel: &'static str, items: u64, arguments: Vec<Argument>) -> Self {
        let grid = [items.clamp(1, BLOCKS) as u32, 1, 1];
        Launch { source, kernel, grid, block: [THREADS as u32, 1, 1], dynamic_shared: 0, arguments }
    }

    /// A launch with a thread for each of `items`, up to [`BLOCKS`] blocks.
    fn threads(source: Source, kernel: &'static str, items: u64, arguments: Vec<Argument>) -> Self {
        Launch::blocks(source, kernel, items.div_ceil(THREADS), arguments)
    }
}

/// The arguments of a kernel that takes pointers first and sizes after them.
fn arguments(pointers: &[DevicePointer], sizes: &[u64]) -> Vec<Argument> {
    let sizes = sizes.iter().map(|size| Argument::U64(*size));
    pointers.iter().map(|pointer| Argument::Pointer(*pointer)).chain(sizes).collect()
}

macro_rules! sources {
    ($($variant:ident => $file:literal,)*) => {
        /// A PTX module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Source { $($variant,)* }

        impl Source {
            /// Every module.
            pub const ALL: &[Source] = &[$(Source::$variant,)*];

            /// Name of its source file, without the extension.
            pub fn name(self) -> &'static str {
                match self { $(Source::$variant => $file,)* }
            }

            /// Its text.
            pub fn ptx(self) -> &'static str {
                match self { $(Source::$variant => include_str!(concat!("../../ptx/", $file, ".ptx")),)* }
            }
        }
    };
}

sources! {
    NeuroplasticF32 => "neuroplastic_f32",
    NeuroplasticF16 => "neuroplastic_f16",
    NeuroplasticBf16 => "neuroplastic_bf16",
    NeuroplasticPlainF32 => "neuroplastic_plain_f32",
    NeuroplasticPlainF16 => "neuroplastic_plain_f16",
    NeuroplasticPlainBf16 => "neuroplastic_plain_bf16",
    NeuroplasticClassicF32 => "neuroplastic_classic_f32",
    NeuroplasticClassicF16 => "neuroplastic_classic_f16",
    NeuroplasticClassicBf16 => "neuroplastic_classic_bf16",
    NeuroplasticMomentumF32 => "neuroplastic_momentum_f32",
    NeuroplasticMomentumF16 => "neuroplastic_momentum_f16",
    NeuroplasticMomentumBf16 => "neuroplastic_momentum_bf16",
    NeuroplasticAdamwF32 => "neuroplastic_adamw_f32",
    NeuroplasticAdamwF16 => "neuroplastic_adamw_f16",
    NeuroplasticAdamwBf16 => "neuroplastic_adamw_bf16",
    Scale => "scale",
    Index => "index",
    Batch => "batch",
    Window => "window",
    Dropout => "dropout",
    Arg => "arg",
    Norm => "norm",
    Channel => "channel",
    Loss => "loss",
}
