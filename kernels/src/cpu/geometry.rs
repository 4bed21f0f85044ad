use std::ops::Range;

use super::KernelError;

/// The number of window positions along one axis: ONNX's
/// `floor_or_ceil((input + pads − dilation·(kernel − 1) − 1) / stride) + 1`.
///
/// With `ceil`, a last window that would start in the padding after the input is left out, as ONNX asks since opset 11.
/// `None` when the window is longer than the padded input, or when a size is zero.
pub fn output_size(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pads: (usize, usize),
    ceil: bool,
) -> Option<usize> {
    let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let span = (input + pads.0 + pads.1).checked_sub(reach)?;
    if !ceil {
        return Some(span.checked_div(stride)? + 1);
    }
    let count = span.checked_add(stride)?.checked_sub(1)?.checked_div(stride)? + 1;
    Some(if (count - 1) * stride >= input + pads.0 { count - 1 } else { count })
}

/// How a window slides over one to three spatial axes.
///
/// Axes are kept as three, the missing ones in front as size 1. Tap `k` of output position `o` reads input position
/// `o·stride + k·dilation − pad`; what falls outside the input is padding. The output sizes are the caller's, so that
/// one geometry serves a convolution and the transposed convolution with output padding that undoes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    pub(crate) input: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) kernel: [usize; 3],
    pub(crate) strides: [usize; 3],
    pub(crate) dilations: [usize; 3],
    pub(crate) pads: [isize; 3],
}

/// Sizes above this could overflow the position arithmetic.
const LIMIT: usize = 1 << 30;

impl Geometry {
    /// `pads` are those before the input, one an axis; those after it follow from the sizes.
    ///
    /// # Errors
    /// When the slices are not all of one length from 1 to 3, a kernel, stride or dilation is zero, or a number
    /// exceeds 2³⁰.
    pub fn new(
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        pads: &[isize],
    ) -> Result<Self, KernelError> {
        let rank = input.len();
        let lengths = [output.len(), kernel.len(), strides.len(), dilations.len(), pads.len()];
        if !(1..=3).contains(&rank) || lengths.iter().any(|&l| l != rank) {
            return Err(KernelError::Shape(format!(
                "a window needs 1 to 3 spatial axes, the same number everywhere; input has {rank}, and output, kernel, \
                 strides, dilations and pads have {lengths:?}"
            )));
        }
        for (name, values) in [("kernel", kernel), ("strides", strides), ("dilations", dilations)] {
            if values.contains(&0) {
                return Err(KernelError::Shape(format!("{name} {values:?} contains a zero")));
            }
        }
        let too_large = [input, output, kernel, strides, dilations].iter().any(|s| s.iter().any(|&v| v > LIMIT));
        if too_large || pads.iter().any(|p| p.unsigned_abs() > LIMIT) {
            return Err(KernelError::Shape("a window size exceeds 2^30".into()));
        }
        let three = |values: &[usize]| {
            let mut all = [1; 3];
            all[3 - rank..].copy_from_slice(values);
            all
        };
        let mut all_pads = [0; 3];
        all_pads[3 - rank..].copy_from_slice(pads);
        Ok(Geometry {
            input: three(input),
            output: three(output),
            kernel: three(kernel),
            strides: three(strides),
            dilations: three(dilations),
            pads: all_pads,
        })
    }

    /// Extents of the input's three axes.
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Extents of the output's three axes.
    pub fn output(&self) -> [usize; 3] {
        self.output
    }

    /// Extents of the window's three axes.
    pub fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Distances between windows along the three axes.
    pub fn strides(&self) -> [usize; 3] {
        self.strides
    }

    /// Distances between taps along the three axes.
    pub fn dilations(&self) -> [usize; 3] {
        self.dilations
    }

    /// Padding before each of the three axes.
    pub fn pads(&self) -> [isize; 3] {
        self.pads
    }

    /// Input elements in one channel.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Output elements in one channel.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Taps of the window.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// A 1×1 window on every element: the input of each channel is its own column matrix.
    pub fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.strides == [1; 3] && self.pads == [0; 3] && self.input == self.output
    }

    /// Input position that tap `tap` of output position `position` reads along `axis`, before any bounds check.
    pub(crate) fn at(&self, axis: usize, position: usize, tap: usize) -> isize {
        (position * self.strides[axis] + tap * self.dilations[axis]) as isize - self.pads[axis]
    }

    /// The same as an index, `None` in the padding.
    pub(crate) fn inside(&self, axis: usize, position: usize, tap: usize) -> Option<usize> {
        usize::try_from(self.at(axis, position, tap)).ok().filter(|&i| i < self.input[axis])
    }

    /// The output positions along `axis` at which tap `tap` reads inside the input.
    pub(crate) fn covered(&self, axis: usize, tap: usize) -> Range<usize> {
        let stride = self.strides[axis] as isize;
        let first = self.at(axis, 0, tap);
        let low = (-first).max(0).div_ceil_by(stride);
        let high = (self.input[axis] as isize - first).max(0).div_ceil_by(stride);
        let output = self.output[axis];
        let low = (low as usize).min(output);
        low..(high as usize).clamp(low, output)
    }

    /// The runs of output positions along the last axis at which tap number `tap` reads inside the input, each with the
    /// input position of its first; the next ones follow the last axis' stride apart.
    pub(crate) fn runs(&self, tap: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (g, tap) = (*self, self.tap(tap));
        let columns = g.covered(2, tap[2]);
        let depths = if columns.is_empty() { 0..0 } else { g.covered(0, tap[0]) };
        depths.flat_map(move |d| {
            let (plane, columns) = (g.at(0, d, tap[0]) as usize * g.input[1], columns.clone());
            g.covered(1, tap[1]).map(move |h| {
                let input = (plane + g.at(1, h, tap[1]) as usize) * g.input[2];
                let output = (d * g.output[1] + h) * g.output[2];
                (input + g.at(2, columns.start, tap[2]) as usize, output + columns.start..output + columns.end)
            })
        })
    }

    /// Stride of the last axis.
    pub(crate) fn step(&self) -> usize {
        self.strides[2]
    }

    /// The three coordinates of tap number `tap`.
    pub(crate) fn tap(&self, tap: usize) -> [usize; 3] {
        let [_, kh, kw] = self.kernel;
        [tap / (kh * kw), tap / kw % kh, tap % kw]
    }
}

trait DivCeil {
    fn div_ceil_by(self, by: Self) -> Self;
}

impl DivCeil for isize {
    /// For non-negative `self`; the standard library's signed `div_ceil` is unstable.
    fn div_ceil_by(self, by: isize) -> isize {
        (self + by - 1) / by
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn output_sizes_follow_onnx() {
        assert_eq!(output_size(28, 3, 1, 1, (1, 1), false), Some(28));
        assert_eq!(output_size(4, 3, 2, 1, (0, 0), true), Some(2));
        // The ceil-mode window that would start in the trailing padding does not count.
        assert_eq!(output_size(2, 1, 2, 1, (0, 1), true), Some(1));
        assert_eq!(output_size(2, 3, 1, 1, (0, 0), false), None);
        assert_eq!(output_size(5, 3, 0, 1, (0, 0), false), None);
    }

    proptest! {
        #[test]
        fn covered_is_exactly_where_inside_answers(
            input in 0usize..9, output in 0usize..9, kernel in 1usize..5, stride in 1usize..4, dilation in 1usize..4,
            pad in -3isize..4,
        ) {
            let g = Geometry::new(&[input], &[output], &[kernel], &[stride], &[dilation], &[pad]).unwrap();
            for tap in 0..kernel {
                let covered = g.covered(2, tap);
                for position in 0..output {
                    prop_assert_eq!(covered.contains(&position), g.inside(2, position, tap).is_some());
                }
            }
        }
    }
}
