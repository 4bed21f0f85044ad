use rayon::prelude::*;

use super::super::error::expect_len;
use super::super::im2col::{blocks, im2col, with_scratch};
use super::super::matmul::{Matrix, matmul};
use super::{Convolution, KernelError, SERIAL, depthwise, parts};

impl Convolution {
    /// Writes `y = conv(x, w) + bias`.
    ///
    /// `x` (N, C, D…), `w` (F, C/groups, K…), `bias` (F) if any, `y` (N, F, O…), all float32; `y` need not be cleared.
    ///
    /// # Errors
    /// When a slice does not have its shape's length.
    pub fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> Result<(), KernelError> {
        self.check(x, w, y)?;
        if let Some(bias) = bias {
            expect_len("the convolution's bias", bias, self.filters)?;
        }
        if self.y_len() == 0 {
            return Ok(());
        }
        let filters = self.group_filters().div_ceil(parts(self.batch * self.groups, self.group_filters()));
        let outputs = self.geometry.output_len();
        let pieces = |(group, y): (usize, &mut [f32])| {
            y.chunks_mut(filters * outputs).enumerate().for_each(|(part, y)| {
                self.forward_part(x, w, bias, group, part * filters, y);
            });
        };
        if self.work() < SERIAL {
            y.chunks_mut(self.group_filters() * outputs).enumerate().for_each(pieces);
        } else {
            y.par_chunks_mut(self.group_filters() * outputs).enumerate().for_each(|(group, y)| {
                y.par_chunks_mut(filters * outputs).enumerate().for_each(|(part, y)| {
                    self.forward_part(x, w, bias, group, part * filters, y);
                });
            });
        }
        Ok(())
    }

    /// Some filters of one (sample, group): those from `first` within the group that fit in `y`.
    fn forward_part(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>, index: usize, first: usize, y: &mut [f32]) {
        let g = &self.geometry;
        let (inputs, outputs, channels) = (g.input_len(), g.output_len(), self.group_channels());
        let depth = channels * g.taps();
        let filter = index % self.groups * self.group_filters() + first;
        let filters = y.len() / outputs;
        let x = &x[index * channels * inputs..][..channels * inputs];
        let w = &w[filter * depth..][..filters * depth];
        if let Some(bias) = bias {
            y.chunks_exact_mut(outputs).zip(&bias[filter..]).for_each(|(y, b)| y.fill(*b));
        } else if self.is_depthwise() {
            y.fill(0.0);
        }
        if self.is_depthwise() {
            let planes = y.chunks_exact_mut(outputs).zip(w.chunks_exact(g.taps()));
            return planes.for_each(|(y, w)| depthwise::forward(g, x, w, y));
        }
        let w = Matrix::rows(w, filters, depth, depth);
        if g.is_pointwise() {
            return matmul(y, outputs, w, Matrix::rows(x, channels, outputs, outputs), bias.is_some());
        }
        for columns in blocks(g, depth) {
            let count = columns.len();
            with_scratch(depth * count, |cols| {
                im2col(x, inputs, channels, g, columns.clone(), cols);
                matmul(&mut y[columns.start..], outputs, w, Matrix::rows(cols, depth, count, count), bias.is_some());
            });
        }
    }
}
