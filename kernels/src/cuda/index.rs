//! Moving elements: strided copies, gathers, scatters. Elements are moved as bits; only the sums know a float type.

use super::neuroplastic::Storage;
use super::{Argument, DevicePointer, Launch, Source};

/// Most axes of a strided tensor.
pub const RANK: usize = 8;
const THREADS: u64 = 256;
/// Enough blocks to fill any device; more elements are taken in turns.
const BLOCKS: u64 = 2048;

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
    let blocks = items.div_ceil(THREADS).clamp(1, BLOCKS) as u32;
    let block = [THREADS as u32, 1, 1];
    Launch { source: Source::Index, kernel, grid: [blocks, 1, 1], block, dynamic_shared: 0, arguments }
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

/// Reads `shape` through `strides` (in elements; 0 repeats, negative runs backwards) and writes it densely. `None` beyond
/// [`RANK`] axes.
pub fn copy(bits: Bits, from: DevicePointer, to: DevicePointer, shape: &[u64], strides: &[i64]) -> Option<Launch> {
    let kernel = bits.pick(["copy_b8", "copy_b16", "copy_b32", "copy_b64"]);
    let arguments = vec![Argument::Pointer(from), Argument::Pointer(to), layout(shape, strides)];
    (shape.len() <= RANK).then(|| launch(kernel, shape.iter().product(), arguments))
}

/// Writes a dense tensor of `shape` through `strides`. `None` beyond [`RANK`] axes.
pub fn scatter_copy(
    bits: Bits,
    from: DevicePointer,
    to: DevicePointer,
    shape: &[u64],
    strides: &[i64],
) -> Option<Launch> {
    let kernel = bits.pick(["scatter_copy_b8", "scatter_copy_b16", "scatter_copy_b32", "scatter_copy_b64"]);
    let arguments = vec![Argument::Pointer(from), Argument::Pointer(to), layout(shape, strides)];
    (shape.len() <= RANK).then(|| launch(kernel, shape.iter().product(), arguments))
}

fn picked(kernel: &'static str, items: u64, pointers: [DevicePointer; 4], p: Picks) -> Launch {
    let numbers = [p.outer, p.extent, p.inner, p.picks].map(Argument::U64);
    launch(kernel, items, pointers.map(Argument::Pointer).into_iter().chain(numbers).collect())
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
    let kernel = bits.pick(["gather_b8", "gather_b16", "gather_b32", "gather_b64"]);
    picked(kernel, p.outer * p.picks * p.inner, [x, indices, y, bad], p)
}

/// [`gather`] with an index for every element: `indices[outer, picks, inner]`.
pub fn gather_elements(
    bits: Bits,
    x: DevicePointer,
    indices: DevicePointer,
    y: DevicePointer,
    bad: DevicePointer,
    p: Picks,
) -> Launch {
    let kernel = bits.pick(["gather_elements_b8", "gather_elements_b16", "gather_elements_b32", "gather_elements_b64"]);
    picked(kernel, p.outer * p.picks * p.inner, [x, indices, y, bad], p)
}

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
