//! Windows that slide over planes: convolutions as matrix products over columns (im2col; K. Chellapilla, S. Puri, P. Simard,
//! "High Performance Convolutional Neural Networks for Document Processing", 2006), and pooling. Float32.

use super::division::{NARROW, divisor};
use super::{Argument, BLOCKS, DevicePointer, Launch, Source, THREADS};
use crate::cpu::Geometry;
use crate::cpu::pool::Divisor;

/// Most blocks along the second axis of a grid.
const ROWS: u64 = 65_535;

/// `struct Window` of the source.
fn window(g: &Geometry, wide: bool) -> Argument {
    let sizes = [g.input, g.output, g.kernel].concat().into_iter().flat_map(|n| (n as u64).to_le_bytes());
    let divisors = [g.input, g.output, g.kernel, g.strides].concat().into_iter().flat_map(|n| divisor(n as u64, wide));
    let dilations = g.dilations.into_iter().flat_map(|n| (n as u64).to_le_bytes());
    let pads = g.pads.into_iter().flat_map(|p| (p as i64).to_le_bytes());
    Argument::Bytes(sizes.chain(divisors).chain(dilations).chain(pads).collect())
}

/// Whether a plane's element, a number of `items` or `rows` or what is added to reach the next one, or a place that a window
/// reads would not fit in 32 bits.
fn is_wide(g: &Geometry, items: u64, rows: u64) -> bool {
    let reach = (0..3).map(|axis| {
        let window = g.output[axis] as u64 * g.strides[axis] as u64 + g.kernel[axis] as u64 * g.dilations[axis] as u64;
        window + g.input[axis] as u64 + g.pads[axis].unsigned_abs() as u64
    });
    let largest = reach.chain([items, rows, g.input_len() as u64]).max().unwrap_or(0);
    largest + BLOCKS * THREADS >= NARROW
}

fn start(kernel: &'static str, items: u64, rows: u64, arguments: Vec<Argument>) -> Launch {
    let launch = Launch::threads(Source::Window, kernel, items, arguments);
    Launch { grid: [launch.grid[0], rows.clamp(1, ROWS) as u32, 1], ..launch }
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
    let (items, rows) = (batch * g.output_len() as u64, channels * g.taps() as u64);
    let wide = is_wide(g, items, rows);
    let mut arguments = vec![Argument::Pointer(x), Argument::Pointer(columns), window(g, wide)];
    arguments.extend([batch, channels, sample, channel].map(Argument::U64));
    start(if wide { "columns_u64" } else { "columns_u32" }, items, rows, arguments)
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
    let items = batch * channels * g.input_len() as u64;
    let wide = is_wide(g, items, 1);
    arguments.extend([window(g, wide), Argument::U64(batch), Argument::U64(channels)]);
    arguments.push(Argument::Bytes(divisor(channels, wide).into()));
    start(if wide { "data_from_columns_u64" } else { "data_from_columns_u32" }, items, 1, arguments)
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
    let items = planes * g.output_len() as u64;
    let wide = is_wide(g, items, 1);
    arguments.extend([window(g, wide), Argument::U64(planes), Argument::U32(u32::from(column_major))]);
    start(if wide { "max_pool_u64" } else { "max_pool_u32" }, items, 1, arguments)
}

/// [`crate::cpu::pool::average_pool`].
pub fn average_pool(g: &Geometry, planes: u64, divisor: Divisor, x: DevicePointer, y: DevicePointer) -> Launch {
    let (with_pads, after) = match divisor {
        Divisor::Inside => (0, [0; 3]),
        Divisor::WithPads { after } => (1, after),
    };
    let ends = [0, 1, 2].map(|axis| (g.input[axis] + after[axis]) as u64);
    let items = planes * g.output_len() as u64;
    let wide = is_wide(g, items, 1) || ends.iter().any(|end| *end >= NARROW);
    let mut arguments: Vec<Argument> = [x, y].map(Argument::Pointer).into();
    let ends = Argument::Bytes(ends.into_iter().flat_map(u64::to_le_bytes).collect());
    arguments.extend([window(g, wide), Argument::U64(planes), Argument::U32(with_pads), ends]);
    start(if wide { "average_pool_u64" } else { "average_pool_u32" }, items, 1, arguments)
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
    [start("clear", outputs, 1, clear), start("unpool", elements, 1, arguments)]
}

#[cfg(test)]
mod tests;
