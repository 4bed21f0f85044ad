use rayon::prelude::*;

use super::super::im2col::{blocks, im2col, with_scratch};
use super::super::matmul::{Matrix, matmul};
use super::{Convolution, KernelError, SERIAL, depthwise};

/// Where sample `n` and channel `c` start in a tensor of planes: at `n·sample + c·channel`. Other orders than (N, C) let
/// a gradient spelled as a convolution of transposed tensors run on the tensors as they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneStrides {
    pub sample: usize,
    pub channel: usize,
}

/// A piece of the work with a sum of its own: some channels of a group, over some samples.
struct Piece {
    group: usize,
    channels: std::ops::Range<usize>,
    samples: std::ops::Range<usize>,
}

impl Convolution {
    /// Writes `dw[f,c,k] = Σ_{n,o} dy[n,f,o] · x[n, c, o·stride + k·dilation − pad]`, the gradient with respect to `w`.
    ///
    /// `x` (N, C, D…), `dy` (N, F, O…), `dw` (F, C/groups, K…), all float32; `dw` need not be cleared.
    ///
    /// # Errors
    /// When a slice does not have its shape's length.
    pub fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
        let (inputs, outputs) = (self.geometry.input_len(), self.geometry.output_len());
        let x_planes = PlaneStrides { sample: self.channels * inputs, channel: inputs };
        let y_planes = PlaneStrides { sample: self.filters * outputs, channel: outputs };
        self.weight_gradient_strided(x, x_planes, dy, y_planes, dw)
    }

    /// [`weight_gradient`](Self::weight_gradient) for tensors whose samples and channels lie in another order.
    ///
    /// # Errors
    /// When a slice does not have its shape's length, or the strides reach beyond it.
    pub fn weight_gradient_strided(
        &self,
        x: &[f32],
        x_planes: PlaneStrides,
        dy: &[f32],
        y_planes: PlaneStrides,
        dw: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check(x, dw, dy)?;
        let g = &self.geometry;
        if x.is_empty() || dy.is_empty() {
            dw.fill(0.0);
            return Ok(());
        }
        for (name, planes, channels, plane, len) in [
            ("input", x_planes, self.channels, g.input_len(), x.len()),
            ("output", y_planes, self.filters, g.output_len(), dy.len()),
        ] {
            let last = (self.batch - 1)
                .checked_mul(planes.sample)
                .zip((channels - 1).checked_mul(planes.channel))
                .and_then(|(a, b)| a.checked_add(b)?.checked_add(plane));
            if last.is_none_or(|last| last > len) {
                return Err(KernelError::Shape(format!("the plane strides {planes:?} reach beyond the {name}")));
            }
        }
        let pieces = self.pieces();
        let run = |piece: &Piece| self.weight_gradient_piece(piece, x, x_planes, dy, y_planes);
        let sums: Vec<Vec<f32>> =
            if self.work() < SERIAL { pieces.iter().map(run).collect() } else { pieces.par_iter().map(run).collect() };
        let (depth, taps, filters) = (self.group_channels() * g.taps(), g.taps(), self.group_filters());
        for (piece, sums) in pieces.iter().zip(&sums) {
            let dw = &mut dw[piece.group * filters * depth..][..filters * depth];
            for (dw, sums) in dw.chunks_exact_mut(depth).zip(sums.chunks_exact(piece.channels.len() * taps)) {
                let dw = &mut dw[piece.channels.start * taps..piece.channels.end * taps];
                if piece.samples.start == 0 {
                    dw.copy_from_slice(sums);
                } else {
                    dw.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
                }
            }
        }
        Ok(())
    }

    /// Channels are cut before samples: pieces of one sample range need no further sum.
    fn pieces(&self) -> Vec<Piece> {
        let channels = self.group_channels();
        let wide = (64usize.div_ceil(self.geometry.taps())).clamp(1, channels);
        let per_group = channels.div_ceil(wide);
        let ranges = (16usize.div_ceil(self.groups * per_group)).clamp(1, self.batch);
        let samples = self.batch.div_ceil(ranges);
        let mut pieces = Vec::new();
        for group in 0..self.groups {
            for first in (0..channels).step_by(wide) {
                for sample in (0..self.batch).step_by(samples) {
                    pieces.push(Piece {
                        group,
                        channels: first..(first + wide).min(channels),
                        samples: sample..(sample + samples).min(self.batch),
                    });
                }
            }
        }
        pieces
    }

    fn weight_gradient_piece(
        &self,
        piece: &Piece,
        x: &[f32],
        x_planes: PlaneStrides,
        dy: &[f32],
        y_planes: PlaneStrides,
    ) -> Vec<f32> {
        let g = &self.geometry;
        let (inputs, outputs, filters) = (g.input_len(), g.output_len(), self.group_filters());
        let (channels, width) = (piece.channels.len(), piece.channels.len() * g.taps());
        let mut dw = vec![0.0; filters * width];
        for sample in piece.samples.clone() {
            let channel = piece.group * self.group_channels() + piece.channels.start;
            let x = &x[sample * x_planes.sample + channel * x_planes.channel..];
            let dy = &dy[sample * y_planes.sample + piece.group * filters * y_planes.channel..];
            if self.is_depthwise() {
                for (filter, dw) in dw.chunks_exact_mut(width).enumerate() {
                    depthwise::weight_gradient(g, &x[..inputs], &dy[filter * y_planes.channel..][..outputs], dw);
                }
                continue;
            }
            if g.is_pointwise() {
                let x = Matrix::rows(x, channels, inputs, x_planes.channel);
                let dy = Matrix::rows(dy, filters, outputs, y_planes.channel);
                matmul(&mut dw, width, dy, x.transposed(), true);
                continue;
            }
            for columns in blocks(g, width) {
                let count = columns.len();
                with_scratch(width * count, |cols| {
                    let dy = Matrix::rows(&dy[columns.start..], filters, count, y_planes.channel);
                    im2col(x, x_planes.channel, channels, g, columns, cols);
                    matmul(&mut dw, width, dy, Matrix::rows(cols, width, count, count).transposed(), true);
                });
            }
        }
        dw
    }
}
