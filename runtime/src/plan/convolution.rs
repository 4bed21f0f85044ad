//! A whole convolution, for libraries that have one.

use npc_kernels::cpu::Geometry;

/// Which of a convolution's three sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `y` of `x` and `w`.
    Forward,
    /// The gradient `dx` of `w` and `dy`.
    Data,
    /// The gradient `dw` of `x` and `dy`.
    Filter,
}

/// `y[n, f, o] = Σ over c and k of w[f, c, k] · x[n, c, o·stride + k·dilation − pad]`, or one of its gradients, float32.
///
/// Planes are dense; `w` is `[filters, channels / groups, kernel]`, dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Which sum.
    pub pass: Pass,
    /// Samples.
    pub batch: usize,
    /// Channels of `x`.
    pub channels: usize,
    /// Channels of `y`.
    pub filters: usize,
    /// Groups of both.
    pub groups: usize,
    /// How the kernel slides over `x`.
    pub geometry: Geometry,
    /// Whether `x` lies as `[channels, batch, …]` in memory.
    pub is_x_turned: bool,
    /// Whether `y` lies as `[filters, batch, …]` in memory.
    pub is_y_turned: bool,
}

impl Convolution {
    /// Padding on both sides of each axis, when it is the same on both, which is all that libraries know. What lies behind
    /// the last tap of the last window may be anything.
    pub fn symmetric_pads(&self) -> Option<[usize; 3]> {
        let g = &self.geometry;
        let pads = g.pads().map(usize::try_from);
        let [Ok(a), Ok(b), Ok(c)] = pads else { return None };
        let pads = [a, b, c];
        let fits = (0..3).all(|axis| {
            let reach = (g.kernel()[axis] - 1) * g.dilations()[axis] + 1;
            let whole = g.input()[axis] + 2 * pads[axis];
            whole >= reach && (whole - reach) / g.strides()[axis] + 1 == g.output()[axis]
        });
        fits.then_some(pads)
    }

    /// Distances in elements between samples and between channels of `x`.
    pub fn x_distances(&self) -> [usize; 2] {
        distances(self.is_x_turned, self.batch, self.channels, self.geometry.input_len())
    }

    /// Distances in elements between samples and between channels of `y`.
    pub fn y_distances(&self) -> [usize; 2] {
        distances(self.is_y_turned, self.batch, self.filters, self.geometry.output_len())
    }
}

fn distances(is_turned: bool, batch: usize, channels: usize, plane: usize) -> [usize; 2] {
    if is_turned { [plane, batch * plane] } else { [channels * plane, plane] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_that_differ_are_not_symmetric() {
        let with = |input: usize, output: usize, stride: usize, pad: isize| {
            let geometry = Geometry::new(&[input], &[output], &[3], &[stride], &[1], &[pad]).unwrap();
            let (pass, is_x_turned, is_y_turned) = (Pass::Forward, false, false);
            Convolution { pass, batch: 1, channels: 1, filters: 1, groups: 1, geometry, is_x_turned, is_y_turned }
                .symmetric_pads()
        };
        assert_eq!(with(8, 8, 1, 1), Some([0, 0, 1]));
        assert_eq!(with(8, 6, 1, 0), Some([0, 0, 0]));
        // The second row of padding behind is never read with a stride of 2, the first one of two is.
        assert_eq!(with(8, 4, 2, 1), Some([0, 0, 1]));
        assert_eq!(with(8, 7, 1, 1), None);
        assert_eq!(with(8, 8, 1, 2), None);
        assert_eq!(with(8, 5, 1, -1), None);
    }
}
