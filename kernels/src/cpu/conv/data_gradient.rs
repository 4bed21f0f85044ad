use rayon::prelude::*;

use super::super::error::expect_len;
use super::super::im2col::{blocks, col2im, with_scratch};
use super::super::matmul::{Matrix, matmul};
use super::{Convolution, KernelError, SERIAL, depthwise, parts};

impl Convolution {
    /// Writes `dx`, the gradient with respect to `x`: ONNX `ConvTranspose` of `dy` with the same `w`, plus `bias`.
    ///
    /// `dy` (N, F, O…), `w` (F, C/groups, K…), `bias` (C) if any, `dx` (N, C, D…), all float32; `dx` need not be
    /// cleared. For `ConvTranspose` itself F is its input's channels, C its output's, D… its output's sizes with the
    /// output padding in them.
    ///
    /// # Errors
    /// When a slice does not have its shape's length.
    pub fn data_gradient(
        &self,
        dy: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        dx: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check(dx, w, dy)?;
        if let Some(bias) = bias {
            expect_len("the convolution's bias", bias, self.channels)?;
        }
        if self.x_len() == 0 {
            return Ok(());
        }
        let channels = self.group_channels().div_ceil(parts(self.batch * self.groups, self.group_channels()));
        let inputs = self.geometry.input_len();
        if self.work() < SERIAL {
            dx.chunks_mut(self.group_channels() * inputs).enumerate().for_each(|(group, dx)| {
                self.data_gradient_part(dy, w, bias, group, 0, dx);
            });
        } else {
            dx.par_chunks_mut(self.group_channels() * inputs).enumerate().for_each(|(group, dx)| {
                dx.par_chunks_mut(channels * inputs).enumerate().for_each(|(part, dx)| {
                    self.data_gradient_part(dy, w, bias, group, part * channels, dx);
                });
            });
        }
        Ok(())
    }

    /// Some channels of one (sample, group): those from `first` within the group that fit in `dx`.
    fn data_gradient_part(
        &self,
        dy: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        index: usize,
        first: usize,
        dx: &mut [f32],
    ) {
        let g = &self.geometry;
        let (inputs, outputs, taps) = (g.input_len(), g.output_len(), g.taps());
        let (filters, depth) = (self.group_filters(), self.group_channels() * taps);
        let (group, channels) = (index % self.groups, dx.len() / inputs);
        let dy = &dy[index * filters * outputs..][..filters * outputs];
        let w = &w[group * filters * depth..][..filters * depth];
        let channel = group * self.group_channels() + first;
        match bias {
            Some(bias) => dx.chunks_exact_mut(inputs).zip(&bias[channel..]).for_each(|(x, b)| x.fill(*b)),
            None if g.is_pointwise() && !self.is_depthwise() => {}
            None => dx.fill(0.0),
        }
        if self.is_depthwise() {
            let planes = dy.chunks_exact(outputs.max(1)).zip(w.chunks_exact(taps));
            return planes.for_each(|(dy, w)| depthwise::data_gradient(g, dy, w, dx));
        }
        // Rows (channel, tap) of wᵀ, for the channels of this part.
        let w = match w {
            [] => Matrix::rows(w, 0, channels * taps, depth),
            w => Matrix::rows(&w[first * taps..], filters, channels * taps, depth),
        };
        if g.is_pointwise() {
            return matmul(dx, inputs, w.transposed(), Matrix::rows(dy, filters, outputs, outputs), bias.is_some());
        }
        for columns in blocks(g, channels * taps) {
            let count = columns.len();
            with_scratch(channels * taps * count, |cols| {
                let dy = match dy {
                    [] => Matrix::rows(dy, filters, 0, outputs),
                    dy => Matrix::rows(&dy[columns.start..], filters, count, outputs),
                };
                matmul(cols, count, w.transposed(), dy, false);
                col2im(cols, channels, g, columns, dx);
            });
        }
    }
}
