//! Strided copies: neighbours that stay neighbours move together, and a transposition goes through tiles in shared memory.

use super::super::division::{NARROW, divisor};
use super::super::{Argument, DevicePointer, Launch, Source};
use super::{Bits, ITEMS, Names, RANK, is_wide, launch, together};

/// Fewest elements along an axis that are worth a tile.
const TILED: u64 = 16;
const TILE: u64 = 32;

/// An axis with its strides, in elements, where elements are read and where they are written.
#[derive(Clone, Copy, Debug)]
struct Axis {
    extent: u64,
    from: i64,
    to: i64,
}

const COPY: Names = [
    ["copy_b8_u32", "copy_b8_u64"],
    ["copy_b16_u32", "copy_b16_u64"],
    ["copy_b32_u32", "copy_b32_u64"],
    ["copy_b64_u32", "copy_b64_u64"],
    ["copy_b128_u32", "copy_b128_u64"],
];

/// Reads `shape` through `strides` (in elements; 0 repeats, negative runs backwards) and writes it densely. `None` beyond
/// [`RANK`] axes.
pub fn copy(bits: Bits, from: DevicePointer, to: DevicePointer, shape: &[u64], strides: &[i64]) -> Option<Launch> {
    let axes = shape.iter().zip(strides).zip(dense(shape)).map(|((n, from), to)| Axis { extent: *n, from: *from, to });
    (shape.len() <= RANK).then(|| moved(bits, from, to, axes.collect()))
}

/// Writes a dense tensor of `shape` through `strides`. `None` beyond [`RANK`] axes.
pub fn scatter_copy(
    bits: Bits,
    from: DevicePointer,
    to: DevicePointer,
    shape: &[u64],
    strides: &[i64],
) -> Option<Launch> {
    let axes = shape.iter().zip(strides).zip(dense(shape)).map(|((n, to), from)| Axis { extent: *n, from, to: *to });
    (shape.len() <= RANK).then(|| moved(bits, from, to, axes.collect()))
}

/// Strides of a dense tensor.
fn dense(shape: &[u64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].wrapping_mul(shape[axis] as i64);
    }
    strides
}

/// None of extent 1; neighbours that both memories run through alike are one.
fn joined(axes: Vec<Axis>) -> Vec<Axis> {
    let mut result: Vec<Axis> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.extent != 1) {
        let spans = |stride: i64| stride.wrapping_mul(axis.extent as i64);
        match result.last_mut().filter(|last| last.from == spans(axis.from) && last.to == spans(axis.to)) {
            Some(last) => *last = Axis { extent: last.extent * axis.extent, ..axis },
            None => result.push(axis),
        }
    }
    result
}

fn moved(bits: Bits, from: DevicePointer, to: DevicePointer, axes: Vec<Axis>) -> Launch {
    let mut axes = joined(axes);
    let mut vector = 1;
    if let Some((last, outer)) = axes.split_last_mut().filter(|(last, _)| (last.from, last.to) == (1, 1)) {
        let strides = outer.iter().flat_map(|axis| [axis.from.unsigned_abs(), axis.to.unsigned_abs()]);
        vector = together(1 << bits as u64, strides.chain([last.extent]), &[from, to]);
        last.extent /= vector;
        for axis in outer {
            (axis.from, axis.to) = (axis.from / vector as i64, axis.to / vector as i64);
        }
    }
    if let Some(launch) = tiled(bits, from, to, &axes).filter(|_| vector == 1) {
        return launch;
    }
    let elements = axes.iter().map(|axis| axis.extent).product::<u64>();
    let strides = || axes.iter().flat_map(|axis| [axis.from, axis.to]);
    let wide = is_wide(elements) || strides().any(|stride| i32::try_from(stride).is_err());
    let mut bytes = header(axes.len(), &[elements]);
    divisors(&mut bytes, axes.iter().map(|axis| axis.extent), wide);
    both_strides(&mut bytes, &axes);
    let arguments = vec![Argument::Pointer(from), Argument::Pointer(to), Argument::Bytes(bytes)];
    let size = bits as usize + vector.trailing_zeros() as usize;
    launch(COPY[size][usize::from(wide)], elements.div_ceil(ITEMS), arguments)
}

/// The copy by tiles, where the memories have neighbours along different, long axes.
fn tiled(bits: Bits, from: DevicePointer, to: DevicePointer, axes: &[Axis]) -> Option<Launch> {
    let columns = axes.iter().position(|axis| axis.from == 1 && axis.extent >= TILED)?;
    let rows = axes.iter().position(|axis| axis.to == 1 && axis.from != 0 && axis.extent >= TILED)?;
    if axes[columns].to == 1 || axes[rows].from == 1 {
        return None;
    }
    let across = [columns, rows].map(|axis| axes[axis].extent.div_ceil(TILE));
    let rest: Vec<Axis> =
        axes.iter().enumerate().filter(|(at, _)| ![columns, rows].contains(at)).map(|(_, axis)| *axis).collect();
    let tiles = rest.iter().map(|axis| axis.extent).product::<u64>() * across[0] * across[1];
    if tiles >= NARROW / 2 {
        return None;
    }
    let mut bytes = header(rest.len(), &[tiles, axes[columns].extent, axes[rows].extent]);
    bytes.extend([axes[rows].from, axes[columns].to].into_iter().flat_map(i64::to_le_bytes));
    bytes.extend(across.into_iter().flat_map(|n| divisor(n, false)));
    divisors(&mut bytes, rest.iter().map(|axis| axis.extent), false);
    both_strides(&mut bytes, &rest);
    let kernel = bits.pick(["transpose_b8", "transpose_b16", "transpose_b32", "transpose_b64"]);
    let arguments = vec![Argument::Pointer(from), Argument::Pointer(to), Argument::Bytes(bytes)];
    Some(Launch::blocks(Source::Index, kernel, tiles, arguments))
}

fn header(rank: usize, numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend((rank as u64).to_le_bytes());
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}

/// A divisor for each of [`RANK`] axes.
fn divisors(bytes: &mut Vec<u8>, extents: impl Iterator<Item = u64>, wide: bool) {
    bytes.extend(extents.chain(std::iter::repeat(1)).take(RANK).flat_map(|extent| divisor(extent, wide)));
}

fn both_strides(bytes: &mut Vec<u8>, axes: &[Axis]) {
    for stride in [|axis: &Axis| axis.from, |axis: &Axis| axis.to] {
        let strides = axes.iter().map(stride).chain(std::iter::repeat(0)).take(RANK);
        bytes.extend(strides.flat_map(i64::to_le_bytes));
    }
}
