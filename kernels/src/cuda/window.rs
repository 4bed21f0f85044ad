//! Windows that slide over planes: convolutions as matrix products over columns (im2col; K. Chellapilla, S. Puri, P. Simard,
//! "High Performance Convolutional Neural Networks for Document Processing", 2006), and pooling. Float32.

use super::{Argument, DevicePointer, Launch, Source};
use crate::cpu::Geometry;
use crate::cpu::pool::Divisor;

const THREADS: u64 = 256;
/// Enough blocks to fill any device; more elements are taken in turns.
const BLOCKS: u64 = 4096;
/// Most blocks along the second axis of a grid.
const ROWS: u64 = 65_535;

fn window(g: &Geometry) -> Argument {
    let sizes = [g.input, g.output, g.kernel, g.strides, g.dilations].concat();
    let sizes = sizes.into_iter().flat_map(|n| (n as u64).to_le_bytes());
    Argument::Bytes(sizes.chain(g.pads.into_iter().flat_map(|p| (p as i64).to_le_bytes())).collect())
}

/// Picks the kernel that counts in 32 bits where `items` and what is added to reach the next one fit.
fn start(kernels: [&'static str; 2], items: u64, rows: u64, arguments: Vec<Argument>) -> Launch {
    let blocks = items.div_ceil(THREADS).clamp(1, BLOCKS);
    let fits = items + blocks * THREADS <= u64::from(u32::MAX);
    Launch {
        source: Source::Window,
        kernel: kernels[usize::from(!fits)],
        grid: [blocks as u32, rows.clamp(1, ROWS) as u32, 1],
        block: [THREADS as u32, 1, 1],
        dynamic_shared: 0,
        arguments,
    }
}

/// Samples and channels of a tensor of planes, and how many elements apart they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Planes {
    pub batch: u64,
    pub channels: u64,
    pub sample: u64,
    pub channel: u64,
}

impl Planes {
    /// `[batch, channels, …]` with planes of `elements`.
    pub fn dense(batch: u64, channels: u64, elements: u64) -> Self {
        Planes { batch, channels, sample: channels * elements, channel: elements }
    }
}

/// `columns[channels][taps][batch][positions]`: what each tap reads at each position, 0 in the padding.
pub fn columns(g: &Geometry, planes: Planes, x: DevicePointer, columns: DevicePointer) -> Launch {
    let Planes { batch, channels, sample, channel } = planes;
    let mut arguments = vec![Argument::Pointer(x), Argument::Pointer(columns), window(g)];
    arguments.extend([batch, channels, sample, channel].map(Argument::U64));
    let rows = channels * g.taps() as u64;
    start(["columns_u32", "columns_u64"], batch * g.output_len() as u64, rows, arguments)
}

/// The adjoint of [`columns`]: `x[batch][channels][elements]`, each element the sum of what the columns hold of it, taps in
/// order, and of `bias[channels]` unless that is null.
pub fn data_from_columns(
    g: &Geometry,
    (batch, channels): (u64, u64),
    columns: DevicePointer,
    bias: DevicePointer,
    x: DevicePointer,
) -> Launch {
    let mut arguments: Vec<Argument> = [columns, bias, x].map(Argument::Pointer).into();
    arguments.extend([window(g), Argument::U64(batch), Argument::U64(channels)]);
    let items = batch * channels * g.input_len() as u64;
    start(["data_from_columns_u32", "data_from_columns_u64"], items, 1, arguments)
}

/// [`crate::cpu::pool::max_pool`] with int64 indices (unless null) that count through all planes, within a plane row-major
/// or, for `column_major`, with the first axis fastest.
pub fn max_pool(
    g: &Geometry,
    planes: u64,
    x: DevicePointer,
    y: DevicePointer,
    indices: DevicePointer,
    column_major: bool,
) -> Launch {
    let mut arguments: Vec<Argument> = [x, y, indices].map(Argument::Pointer).into();
    arguments.extend([window(g), Argument::U64(planes), Argument::U32(u32::from(column_major))]);
    start(["max_pool_u32", "max_pool_u64"], planes * g.output_len() as u64, 1, arguments)
}

/// [`crate::cpu::pool::average_pool`].
pub fn average_pool(g: &Geometry, planes: u64, divisor: Divisor, x: DevicePointer, y: DevicePointer) -> Launch {
    let (with_pads, after) = match divisor {
        Divisor::Inside => (0, [0; 3]),
        Divisor::WithPads { after } => (1, after),
    };
    let ends = (0..3).flat_map(|axis| ((g.input[axis] + after[axis]) as u64).to_le_bytes()).collect();
    let mut arguments: Vec<Argument> = [x, y].map(Argument::Pointer).into();
    arguments.extend([window(g), Argument::U64(planes), Argument::U32(with_pads), Argument::Bytes(ends)]);
    start(["average_pool_u32", "average_pool_u64"], planes * g.output_len() as u64, 1, arguments)
}

/// `y[indices[i]] = x[i]` over `elements`, the rest of `y[outputs]` being 0; the uint32 at `bad` counts int64 indices out of
/// range. Indices of a pool whose windows do not overlap differ from each other; of equal ones any may win.
pub fn unpool(
    x: DevicePointer,
    indices: DevicePointer,
    y: DevicePointer,
    bad: DevicePointer,
    (elements, outputs): (u64, u64),
) -> [Launch; 2] {
    let mut arguments: Vec<Argument> = [x, indices, y, bad].map(Argument::Pointer).into();
    arguments.extend([elements, outputs].map(Argument::U64));
    let clear = vec![Argument::Pointer(y), Argument::U64(outputs)];
    [start(["clear"; 2], outputs, 1, clear), start(["unpool"; 2], elements, 1, arguments)]
}

#[cfg(test)]
mod tests;
