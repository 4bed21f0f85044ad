//! Softmax, layer, batch and group normalisation with their gradients. Everything is float32; results of rows go to 16 bits, too,
//! or only there, rounded to nearest even, where [`Output`] says so.
//!
//! Rows are read once as far as they fit a team's registers: a warp has a row of up to 512 elements, a block a row of up to 4096;
//! longer rows are read again. Sums are fixed trees that depend on shapes only.

use super::{Argument, DevicePointer, Launch, Source, arguments};

/// The longest rows that a warp holds in few registers, in many, a block in few, in many.
const ROWS: [u64; 4] = [32 * 4, 32 * 16, 256 * 4, 256 * 16];
/// Rows a block has when a warp has each.
const WARPS: u64 = 8;

/// A launch over rows of `columns` elements by the kernel for their length: of warps (few elements a thread, or more), of blocks,
/// or for rows of any length.
pub(super) fn by_row(
    source: Source,
    kernels: [&'static str; 5],
    rows: u64,
    columns: u64,
    arguments: Vec<Argument>,
) -> Launch {
    let kind = ROWS.iter().position(|longest| columns <= *longest).unwrap_or(ROWS.len());
    Launch::blocks(source, kernels[kind], if kind < 2 { rows.div_ceil(WARPS) } else { rows }, arguments)
}

/// Kernels that hold no rows: a warp's for short ones, a block's for all others.
fn by_team(warp: &'static str, block: &'static str) -> [&'static str; 5] {
    [warp, warp, block, block, block]
}

/// Where the elements of a result go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Float32 memory, or null.
    pub wide: DevicePointer,
    /// Memory of 16 bits an element, or null.
    pub narrow: DevicePointer,
    /// Whether those are bfloat16, otherwise float16.
    pub is_bfloat: bool,
}

impl From<DevicePointer> for Output {
    fn from(wide: DevicePointer) -> Self {
        Output { wide, narrow: DevicePointer::NULL, is_bfloat: false }
    }
}

impl Output {
    /// `struct Output` of the source.
    fn argument(self) -> Argument {
        let pointers = [self.wide, self.narrow].into_iter().flat_map(|p| p.0.to_le_bytes());
        let kind = u64::from(self.is_bfloat).to_le_bytes();
        Argument::Bytes(pointers.chain(kind).collect())
    }
}

/// Writes `y = exp(x) / Σ exp(x)` of every row of (rows, columns), or its logarithm. A NaN or +∞ anywhere, or −∞ everywhere, makes
/// the whole row NaN.
pub fn softmax(rows: u64, columns: u64, x: DevicePointer, y: impl Into<Output>, log: bool) -> Launch {
    let mut all = arguments(&[], &[rows, columns]);
    all.extend([Argument::Pointer(x), y.into().argument(), Argument::U32(log.into())]);
    by_row(
        Source::Norm,
        ["softmax_warp_few", "softmax_warp", "softmax_block_few", "softmax_block", "softmax_long"],
        rows,
        columns,
        all,
    )
}

/// Writes the gradient of [`softmax`] from its result: `dx = y · (dy − Σ y·dy)`, or `dx = dy − exp(y) · Σ dy` of the logarithm.
pub fn softmax_gradient(
    rows: u64,
    columns: u64,
    y: DevicePointer,
    dy: DevicePointer,
    dx: impl Into<Output>,
    log: bool,
) -> Launch {
    let mut all = arguments(&[], &[rows, columns]);
    all.extend([y, dy].map(Argument::Pointer));
    all.extend([dx.into().argument(), Argument::U32(log.into())]);
    let kernels = by_team("softmax_gradient_warp", "softmax_gradient_block");
    by_row(Source::Norm, kernels, rows, columns, all)
}

/// [`crate::cpu::layer_norm::layer_norm`] of (rows, columns): `scale` and `bias` have `columns` elements, `mean` and
/// `inverse_deviation` one a row. `bias`, `mean` and `inverse_deviation` may be null.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm(
    rows: u64,
    columns: u64,
    epsilon: f32,
    x: DevicePointer,
    scale: DevicePointer,
    bias: DevicePointer,
    y: impl Into<Output>,
    mean: DevicePointer,
    inverse_deviation: DevicePointer,
) -> Launch {
    let mut all = arguments(&[], &[rows, columns]);
    all.push(Argument::F32(epsilon));
    all.extend([x, scale, bias].map(Argument::Pointer));
    all.push(y.into().argument());
    all.extend([mean, inverse_deviation].map(Argument::Pointer));
    by_row(
        Source::Norm,
        ["layer_norm_warp_few", "layer_norm_warp", "layer_norm_block_few", "layer_norm_block", "layer_norm_long"],
        rows,
        columns,
        all,
    )
}

/// Into how many slabs the rows are cut to be summed, and the rows of each.
fn slabs(rows: u64) -> (u64, u64) {
    let slabs = rows.div_ceil(64).clamp(1, 128);
    (slabs, rows.div_ceil(slabs))
}

/// Bytes of the scratch memory `partial` of [`layer_norm_gradient`].
pub fn layer_norm_partial_bytes(rows: u64, columns: u64) -> u64 {
    slabs(rows).0 * 2 * columns * 4
}

/// Writes the gradient of [`layer_norm`] with its means and inverse deviations: `dx` (rows, columns), `dscale` and `dbias`
/// (columns). `dbias` may be null. `partial` is scratch of [`layer_norm_partial_bytes`].
///
/// With x̂ the normalised row and g = dy·scale: `dx = (g − mean(g) − x̂·mean(g·x̂)) · inverse_deviation` (J. L. Ba, J. R. Kiros,
/// G. E. Hinton, "Layer Normalization", 2016).
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_gradient(
    rows: u64,
    columns: u64,
    dy: DevicePointer,
    x: DevicePointer,
    scale: DevicePointer,
    mean: DevicePointer,
    inverse_deviation: DevicePointer,
    dx: impl Into<Output>,
    dscale: DevicePointer,
    dbias: DevicePointer,
    partial: DevicePointer,
) -> Vec<Launch> {
    let mut data = arguments(&[], &[rows, columns]);
    data.extend([dy, x, scale, mean, inverse_deviation].map(Argument::Pointer));
    data.push(dx.into().argument());
    let kernels = by_team("layer_norm_gradient_warp", "layer_norm_gradient_block");
    let (slabs, slab) = slabs(rows);
    let mut sums = arguments(&[], &[rows, columns, slab]);
    sums.extend([dy, x, mean, inverse_deviation, partial].map(Argument::Pointer));
    let sums = Launch::blocks(Source::Norm, "layer_norm_columns", columns.div_ceil(32), sums);
    let mut totals = vec![Argument::U64(columns), Argument::U32(slabs as u32)];
    totals.extend([partial, dscale, dbias].map(Argument::Pointer));
    vec![
        by_row(Source::Norm, kernels, rows, columns, data),
        Launch { grid: [sums.grid[0], slabs as u32, 1], ..sums },
        Launch::threads(Source::Norm, "layer_norm_slabs", columns, totals),
    ]
}

/// The shape of `x`: (batch, channels, positions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Channels {
    pub batch: u64,
    pub channels: u64,
    pub positions: u64,
}

impl Channels {
    fn elements(self) -> u64 {
        self.batch * self.channels * self.positions
    }

    /// `struct Shape` of the source.
    fn argument(self) -> Argument {
        let sizes = [self.batch, self.channels, self.positions];
        Argument::Bytes(sizes.into_iter().flat_map(u64::to_le_bytes).collect())
    }

    /// A launch with a block of 1024 threads for each channel.
    fn each_channel(self, kernel: &'static str, arguments: Vec<Argument>) -> Launch {
        let launch = Launch::blocks(Source::Channel, kernel, self.channels, arguments);
        Launch { block: [1024, 1, 1], ..launch }
    }
}

/// [`crate::cpu::batch_norm::BatchNorm::train`]: writes each channel's mean and population variance, and `y` normalised by them.
#[allow(clippy::too_many_arguments)]
pub fn batch_norm_train(
    shape: Channels,
    epsilon: f32,
    x: DevicePointer,
    scale: DevicePointer,
    bias: DevicePointer,
    y: DevicePointer,
    mean: DevicePointer,
    variance: DevicePointer,
) -> Vec<Launch> {
    let mut all = vec![shape.argument()];
    all.extend([x, mean, variance].map(Argument::Pointer));
    let statistics = shape.each_channel("channel_statistics", all);
    vec![statistics, batch_norm_infer(shape, epsilon, x, scale, bias, mean, variance, y)]
}

/// [`crate::cpu::batch_norm::BatchNorm::infer`]: writes `y` normalised by given statistics.
#[allow(clippy::too_many_arguments)]
pub fn batch_norm_infer(
    shape: Channels,
    epsilon: f32,
    x: DevicePointer,
    scale: DevicePointer,
    bias: DevicePointer,
    mean: DevicePointer,
    variance: DevicePointer,
    y: DevicePointer,
) -> Launch {
    let mut all = vec![shape.argument(), Argument::F32(epsilon)];
    all.extend([x, scale, bias, mean, variance, y].map(Argument::Pointer));
    Launch::threads(Source::Channel, "batch_norm", shape.elements(), all)
}

/// Writes the gradient of [`batch_norm_train`] through the batch's own statistics: `dx`, `dscale` (channels), `dbias` (channels).
///
/// With x̂ the normalised input and n elements a channel: `dbias = Σ dy`, `dscale = Σ dy·x̂`,
/// `dx = scale / √(variance + ε) · (dy − dbias/n − x̂·dscale/n)` (S. Ioffe, C. Szegedy, "Batch Normalization", 2015).
#[allow(clippy::too_many_arguments)]
pub fn batch_norm_gradient(
    shape: Channels,
    epsilon: f32,
    dy: DevicePointer,
    x: DevicePointer,
    scale: DevicePointer,
    mean: DevicePointer,
    variance: DevicePointer,
    dx: DevicePointer,
    dscale: DevicePointer,
    dbias: DevicePointer,
) -> Vec<Launch> {
    let mut sums = vec![shape.argument(), Argument::F32(epsilon)];
    sums.extend([dy, x, mean, variance, dscale, dbias].map(Argument::Pointer));
    let mut data = vec![shape.argument(), Argument::F32(epsilon)];
    data.extend([dy, x, scale, mean, variance, dscale, dbias, dx].map(Argument::Pointer));
    vec![
        shape.each_channel("batch_norm_sums", sums),
        Launch::threads(Source::Channel, "batch_norm_data", shape.elements(), data),
    ]
}

/// Normalises each sample's groups of neighbouring channels: ONNX `GroupNormalization` (opset 21), `InstanceNormalization` where
/// there are as many groups as channels. `scale` and `bias` have an element a channel; `mean` and `inverse_deviation` (batch,
/// groups) may be null.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    shape: Channels,
    groups: u64,
    epsilon: f32,
    x: DevicePointer,
    scale: DevicePointer,
    bias: DevicePointer,
    y: DevicePointer,
    mean: DevicePointer,
    inverse_deviation: DevicePointer,
) -> Launch {
    let own = shape.channels / groups.max(1);
    let mut all = arguments(&[], &[shape.batch, groups, own, shape.positions]);
    all.push(Argument::F32(epsilon));
    all.extend([x, scale, bias, y, mean, inverse_deviation].map(Argument::Pointer));
    let kernels = ["group_norm_warp", "group_norm_warp", "group_norm_block", "group_norm_block", "group_norm_long"];
    by_row(Source::Norm, kernels, shape.batch * groups, own * shape.positions, all)
}

/// Writes the gradient of [`group_norm`] with its means and inverse deviations: `dx`, `dscale` (channels), `dbias` (channels), the
/// last of which may be null.
#[allow(clippy::too_many_arguments)]
pub fn group_norm_gradient(
    shape: Channels,
    groups: u64,
    dy: DevicePointer,
    x: DevicePointer,
    scale: DevicePointer,
    mean: DevicePointer,
    inverse_deviation: DevicePointer,
    dx: DevicePointer,
    dscale: DevicePointer,
    dbias: DevicePointer,
) -> Vec<Launch> {
    let own = shape.channels / groups.max(1);
    let mut data = arguments(&[], &[shape.batch, groups, own, shape.positions]);
    data.extend([dy, x, scale, mean, inverse_deviation, dx].map(Argument::Pointer));
    let kernels = by_team("group_norm_gradient_warp", "group_norm_gradient_block");
    let mut sums = vec![shape.argument(), Argument::U64(groups)];
    sums.extend([dy, x, mean, inverse_deviation, dscale, dbias].map(Argument::Pointer));
    vec![
        by_row(Source::Norm, kernels, shape.batch * groups, own * shape.positions, data),
        shape.each_channel("group_norm_sums", sums),
    ]
}

#[cfg(test)]
mod tests;
