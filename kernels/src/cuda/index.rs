//! Moving elements: strided copies, gathers, scatters. Elements are moved as bits; only the sums know a float type.

mod moves;

pub use moves::{copy, scatter_copy};

use super::division::{NARROW, divisor};
use super::neuroplastic::Storage;
use super::{Argument, BLOCKS, DevicePointer, Launch, Source, THREADS};

/// Most axes of a strided tensor.
pub const RANK: usize = 8;
/// Items that a thread of a copy or a gather takes at a time.
const ITEMS: u64 = 4;

/// Bits of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Bits {
    B8,
    B16,
    B32,
    B64,
}

impl Bits {
    /// The width of an element of so many bytes; `None` for what no element has.
    pub fn of(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Bits::B8),
            2 => Some(Bits::B16),
            4 => Some(Bits::B32),
            8 => Some(Bits::B64),
            _ => None,
        }
    }

    fn pick(self, names: [&'static str; 4]) -> &'static str {
        names[self as usize]
    }
}

/// What a scatter does where something is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scatter {
    /// The last update in order stays.
    Replace(Bits),
    /// Updates are added in order.
    Add(Storage),
}

/// The three groups of axes that an axis splits a tensor into: `[outer, extent, inner]`, and how many of `extent` are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Picks {
    pub outer: u64,
    pub extent: u64,
    pub inner: u64,
    pub picks: u64,
}

fn launch(kernel: &'static str, items: u64, arguments: Vec<Argument>) -> Launch {
    Launch::threads(Source::Index, kernel, items, arguments)
}

/// Whether `items`, and what is added to reach the next one, do not fit in 32 bits.
fn is_wide(items: u64) -> bool {
    items.saturating_add(BLOCKS * THREADS * ITEMS) >= NARROW
}

/// How many elements of `bytes` bytes can move together, up to 16 bytes: what divides all `counts` and, in bytes, `addresses`.
fn together(bytes: u64, counts: impl Iterator<Item = u64>, addresses: &[DevicePointer]) -> u64 {
    let mut most = 16 / bytes;
    for count in counts.chain(addresses.iter().map(|at| if at.0 % bytes == 0 { at.0 / bytes } else { 1 })) {
        // A power of two: what both have is the smaller one.
        most = if count == 0 { most } else { most.min(1 << count.trailing_zeros().min(4)) };
    }
    most
}

/// `struct Layout` of the source. At most [`RANK`] axes count.
fn layout(shape: &[u64], strides: &[i64]) -> Argument {
    let mut out = Vec::with_capacity(16 + 16 * RANK);
    out.extend((shape.len() as u32).to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(shape.iter().product::<u64>().to_le_bytes());
    (0..RANK).for_each(|i| out.extend(shape.get(i).copied().unwrap_or(1).to_le_bytes()));
    (0..RANK).for_each(|i| out.extend(strides.get(i).copied().unwrap_or(0).to_le_bytes()));
    Argument::Bytes(out)
}

fn picked(kernel: &'static str, items: u64, pointers: [DevicePointer; 4], p: Picks) -> Launch {
    let numbers = [p.outer, p.extent, p.inner, p.picks].map(Argument::U64);
    launch(kernel, items, pointers.map(Argument::Pointer).into_iter().chain(numbers).collect())
}

/// A name for every size of elements, of the kernels that count in 32 and in 64 bits.
type Names = [[&'static str; 2]; 5];

/// A gather of elements of `1 << size` bytes, `p.inner` of them side by side, counted in 64 bits where `wide`.
fn gathered(names: &Names, size: usize, pointers: [DevicePointer; 4], p: Picks, wide: bool) -> Launch {
    let items = p.outer * p.picks * p.inner;
    let mut picks: Vec<u8> = [items, p.extent].into_iter().flat_map(u64::to_le_bytes).collect();
    picks.extend([p.inner, p.picks].into_iter().flat_map(|n| divisor(n, wide)));
    let mut arguments: Vec<Argument> = pointers.map(Argument::Pointer).into();
    arguments.push(Argument::Bytes(picks));
    launch(names[size][usize::from(wide)], items.div_ceil(ITEMS), arguments)
}

/// `y[outer, picks, inner]` from `x[outer, extent, inner]` by int64 `indices[picks]`; the uint32 at `bad` counts those out of range.
pub fn gather(
    bits: Bits,
    x: DevicePointer,
    indices: DevicePointer,
    y: DevicePointer,
    bad: DevicePointer,
    p: Picks,
) -> Launch {
    let vector = together(1 << bits as u64, std::iter::once(p.inner), &[x, y]);
    let size = bits as usize + vector.trailing_zeros() as usize;
    let p = Picks { inner: p.inner / vector, ..p };
    gathered(&GATHER, size, [x, indices, y, bad], p, is_wide(p.outer * p.picks * p.inner))
}

const GATHER: Names = [
    ["gather_b8_u32", "gather_b8_u64"],
    ["gather_b16_u32", "gather_b16_u64"],
    ["gather_b32_u32", "gather_b32_u64"],
    ["gather_b64_u32", "gather_b64_u64"],
    ["gather_b128_u32", "gather_b128_u64"],
];

/// [`gather`] with an index for every element: `indices[outer, picks, inner]`.
pub fn gather_elements(
    bits: Bits,
    x: DevicePointer,
    indices: DevicePointer,
    y: DevicePointer,
    bad: DevicePointer,
    p: Picks,
) -> Launch {
    let wide = is_wide(p.outer * p.picks * p.inner);
    gathered(&GATHER_ELEMENTS, bits as usize, [x, indices, y, bad], p, wide)
}

/// Elements of 16 bytes have no index each.
const GATHER_ELEMENTS: Names = [
    ["gather_elements_b8_u32", "gather_elements_b8_u64"],
    ["gather_elements_b16_u32", "gather_elements_b16_u64"],
    ["gather_elements_b32_u32", "gather_elements_b32_u64"],
    ["gather_elements_b64_u32", "gather_elements_b64_u64"],
    ["gather_elements_b64_u32", "gather_elements_b64_u64"],
];

/// Puts `updates[outer, picks, inner]` into `y[outer, extent, inner]`, which holds the data already, where int64
/// `indices[outer, picks, inner]` say.
pub fn scatter_elements(
    how: Scatter,
    y: DevicePointer,
    indices: DevicePointer,
    updates: DevicePointer,
    bad: DevicePointer,
    p: Picks,
) -> Launch {
    let kernel = match how {
        Scatter::Replace(bits) => {
            bits.pick(["scatter_elements_b8", "scatter_elements_b16", "scatter_elements_b32", "scatter_elements_b64"])
        }
        Scatter::Add(Storage::F32) => "scatter_elements_add_f32",
        Scatter::Add(Storage::F16) => "scatter_elements_add_f16",
        Scatter::Add(Storage::Bf16) => "scatter_elements_add_bf16",
    };
    picked(kernel, p.outer * p.inner, [y, indices, updates, bad], p)
}

/// Puts rows `updates[picks, inner]` into `y[extent, inner]`, which holds the data already, at int64 `rows[picks]`, in order:
/// with [`Scatter::Add`] the gradient of an embedding.
pub fn scatter_rows(
    how: Scatter,
    y: DevicePointer,
    rows: DevicePointer,
    updates: DevicePointer,
    bad: DevicePointer,
    p: Picks,
) -> Launch {
    let kernel = match how {
        Scatter::Replace(bits) => {
            bits.pick(["scatter_rows_b8", "scatter_rows_b16", "scatter_rows_b32", "scatter_rows_b64"])
        }
        Scatter::Add(Storage::F32) => "scatter_rows_add_f32",
        Scatter::Add(Storage::F16) => "scatter_rows_add_f16",
        Scatter::Add(Storage::Bf16) => "scatter_rows_add_bf16",
    };
    let numbers = [p.extent, p.inner, p.picks].map(Argument::U64);
    let pointers = [y, rows, updates, bad].map(Argument::Pointer);
    // A block for every pick.
    launch(kernel, p.picks * THREADS, pointers.into_iter().chain(numbers).collect())
}

/// Joins tuples `indices[picks, leading.len()]` into int64 `rows[picks]` of the tensor whose leading axes have the extents
/// `leading`; a tuple out of range becomes the number of rows. `None` beyond [`RANK`] axes.
pub fn join_indices(indices: DevicePointer, rows: DevicePointer, leading: &[u64], picks: u64) -> Option<Launch> {
    let mut strides = vec![1i64; leading.len()];
    for axis in (1..leading.len()).rev() {
        strides[axis - 1] = strides[axis] * leading[axis] as i64;
    }
    let arguments =
        vec![Argument::Pointer(indices), Argument::Pointer(rows), layout(leading, &strides), Argument::U64(picks)];
    (leading.len() <= RANK).then(|| launch("join_indices", picks, arguments))
}

#[cfg(test)]
mod tests;
