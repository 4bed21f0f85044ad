//! Convolution and its two gradients, as ONNX `Conv` and `ConvTranspose` define them.
//!
//! With `x` of shape (N, C, D…), weights `w` of shape (F, C/groups, K…) and `y` of shape (N, F, O…):
//! `y[n,f,o] = b[f] + Σ_{c,k} x[n, c, o·stride + k·dilation − pad] · w[f,c,k]`, channels of a group meeting the filters of
//! the same group only. Each is one matrix product a sample over a matrix of columns (im2col; K. Chellapilla, S. Puri,
//! P. Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006), built block by block so
//! that a block stays in cache.

mod data_gradient;
mod depthwise;
mod forward;
mod weight_gradient;

#[cfg(test)]
mod tests;

pub use weight_gradient::PlaneStrides;

use super::error::expect_len;
use super::{Geometry, KernelError};

/// The shapes of one convolution. `x` and `y` keep their names in the gradients: `x` is what the convolution reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    batch: usize,
    groups: usize,
    channels: usize,
    filters: usize,
    geometry: Geometry,
}

impl Convolution {
    /// `channels` are those of `x`, `filters` those of `y`, both over all groups.
    ///
    /// # Errors
    /// When `groups` is zero or divides one of the two unevenly, or a tensor would exceed the address space.
    pub fn new(
        batch: usize,
        groups: usize,
        channels: usize,
        filters: usize,
        geometry: Geometry,
    ) -> Result<Self, KernelError> {
        if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
            return Err(KernelError::Shape(format!(
                "{channels} channels and {filters} filters do not divide into {groups} groups"
            )));
        }
        let product = |factors: [usize; 3], axes: [usize; 3]| {
            factors.iter().chain(&axes).try_fold(1usize, |product, &f| product.checked_mul(f))
        };
        let sizes = [
            product([batch, channels, 4], geometry.input),
            product([batch, filters, 4], geometry.output),
            product([filters, channels / groups, 4], geometry.kernel),
        ];
        if sizes.iter().any(|size| size.is_none_or(|s| s > isize::MAX as usize)) {
            return Err(KernelError::Shape("a convolution's tensor exceeds the address space".into()));
        }
        Ok(Convolution { batch, groups, channels, filters, geometry })
    }

    /// Elements of `x`.
    pub fn x_len(&self) -> usize {
        self.batch * self.channels * self.geometry.input_len()
    }

    /// Elements of `y`.
    pub fn y_len(&self) -> usize {
        self.batch * self.filters * self.geometry.output_len()
    }

    /// Elements of `w`.
    pub fn w_len(&self) -> usize {
        self.filters * self.group_channels() * self.geometry.taps()
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    fn group_filters(&self) -> usize {
        self.filters / self.groups
    }

    /// One channel and few filters a group: matrix products would be one row high.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.group_channels() == 1 && self.group_filters() <= 4
    }

    fn check(&self, x: &[f32], w: &[f32], y: &[f32]) -> Result<(), KernelError> {
        expect_len("the convolution's input", x, self.x_len())?;
        expect_len("the convolution's weight", w, self.w_len())?;
        expect_len("the convolution's output", y, self.y_len())
    }

    /// Multiplications in one pass over the whole batch, to tell work worth spreading over threads.
    fn work(&self) -> usize {
        self.y_len().saturating_mul(self.group_channels()).saturating_mul(self.geometry.taps())
    }
}

/// Below this many multiplications the threads cost more than they give.
const SERIAL: usize = 1 << 16;

/// Into how many parts to cut the channels of each (sample, group), so that small batches still use several threads.
/// Depends on shapes only.
fn parts(tasks: usize, channels: usize) -> usize {
    if tasks == 0 || tasks >= 16 { 1 } else { (16 / tasks).min(channels / 16).max(1) }
}
