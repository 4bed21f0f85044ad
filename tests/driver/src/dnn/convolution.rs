//! A convolution, computed: loops over everything in float64, rounded once.

use super::Pass;
use super::shape::Shape;
use crate::driver::Driver;
use crate::rounding;
use crate::work::{Failure, failure};
use cudarc::cudnn::sys::cudnnMathType_t as Math;

/// A convolution on a stream.
pub struct Convolution {
    pub pass: Pass,
    pub shape: Shape,
    pub math: Math,
    /// x, w, y.
    pub addresses: [u64; 3],
    /// What it scribbles on.
    pub workspace: (u64, usize),
    pub alpha: f32,
    pub beta: f32,
}

/// A factor as the math type takes it.
fn rounded(math: Math, x: f32) -> f64 {
    f64::from(match math {
        Math::CUDNN_FMA_MATH => x,
        Math::CUDNN_DEFAULT_MATH | Math::CUDNN_TENSOR_OP_MATH => rounding::tf32(x),
        Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION => rounding::f16(x),
    })
}

/// Every index of a box, the last axis running fastest.
fn indices(extents: &[usize]) -> Vec<Vec<usize>> {
    extents.iter().fold(vec![vec![]], |outer, extent| {
        let longer = |index: Vec<usize>| (0..*extent).map(move |i| index.iter().copied().chain([i]).collect());
        outer.into_iter().flat_map(longer).collect()
    })
}

/// Where an element lies.
fn at(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, stride)| i * stride).sum()
}

impl Shape {
    fn w_strides(&self) -> Vec<usize> {
        let extents = &self.w.extents;
        (0..extents.len()).map(|axis| extents[axis + 1..].iter().product()).collect()
    }

    /// The planes' elements that meet: offsets into planes of x, of w and of y.
    fn meetings(&self) -> Vec<[usize; 3]> {
        let (window, w_strides) = (&self.window, self.w_strides());
        let mut found = Vec::new();
        for tap in indices(&self.w.extents[2..]) {
            for to in indices(&self.y.extents[2..]) {
                let from = |axis: usize| {
                    let padded = to[axis] * window.strides[axis] + tap[axis] * window.dilations[axis];
                    padded.checked_sub(window.pads[axis]).filter(|i| *i < self.x.extents[axis + 2])
                };
                if let Some(from) = (0..tap.len()).map(from).collect::<Option<Vec<usize>>>() {
                    let x = at(&from, &self.x.strides[2..]);
                    found.push([x, at(&tap, &w_strides[2..]), at(&to, &self.y.strides[2..])]);
                }
            }
        }
        found
    }

    /// Adds up a pass's products; `x`, `w` and `y` span their tensors, the result's is added to.
    fn add_up(&self, pass: Pass, [x, w, y]: [&mut [f64]; 3]) {
        let (meetings, w_strides) = (self.meetings(), self.w_strides());
        let (inputs, outputs) = (self.w.extents[1], self.w.extents[0] / self.window.groups);
        for (sample, filter) in (0..self.x.extents[0]).flat_map(|n| (0..self.w.extents[0]).map(move |f| (n, f))) {
            for input in 0..inputs {
                let channel = filter / outputs * inputs + input;
                let x = &mut x[at(&[sample, channel], &self.x.strides)..];
                let w = &mut w[at(&[filter, input], &w_strides)..];
                let y = &mut y[at(&[sample, filter], &self.y.strides)..];
                match pass {
                    Pass::Forward => meetings.iter().for_each(|[i, k, o]| y[*o] += x[*i] * w[*k]),
                    Pass::Data => meetings.iter().for_each(|[i, k, o]| x[*i] += w[*k] * y[*o]),
                    Pass::Filter => meetings.iter().for_each(|[i, k, o]| w[*k] += x[*i] * y[*o]),
                }
            }
        }
    }
}

impl Driver {
    pub fn convolve(&mut self, c: &Convolution) -> Result<(), Failure> {
        self.report.convolutions += 1;
        let faulty = |fault| failure("a convolution", &fault);
        let (shape, result) = (&c.shape, c.pass.result());
        let spans = [shape.x.span(), shape.w.extents.iter().product(), shape.y.span()];
        let mut values: [Vec<f32>; 3] = Default::default();
        // The old result is read where it counts only: nobody may have written it.
        for (i, values) in values.iter_mut().enumerate().filter(|(i, _)| *i != result || c.beta != 0.0) {
            *values = self.memory.read(c.addresses[i], spans[i]).map_err(faulty)?;
        }
        // What lay there is gone, and is no number to whoever reads it.
        self.memory.write(c.workspace.0, &vec![0xff_u8; c.workspace.1]).map_err(faulty)?;
        let factors = |i: usize| match i == result {
            true => vec![0.0; spans[i]],
            false => values[i].iter().map(|x| rounded(c.math, *x)).collect(),
        };
        let mut sums: [Vec<f64>; 3] = [factors(0), factors(1), factors(2)];
        shape.add_up(c.pass, sums.each_mut().map(|values| &mut values[..]));
        let (extents, strides) = match c.pass {
            Pass::Forward => (&shape.y.extents, &shape.y.strides),
            Pass::Data => (&shape.x.extents, &shape.x.strides),
            Pass::Filter => (&shape.w.extents, &shape.w_strides()),
        };
        let mut places: Vec<usize> = indices(extents).iter().map(|index| at(index, strides)).collect();
        places.sort_unstable();
        // What lies between the elements stays as it was.
        for run in places.chunk_by(|a, b| a + 1 == *b) {
            let finished = |i: &usize| {
                let old = if c.beta == 0.0 { 0.0 } else { f64::from(c.beta) * f64::from(values[result][*i]) };
                (f64::from(c.alpha) * sums[result][*i] + old) as f32
            };
            let finished: Vec<f32> = run.iter().map(finished).collect();
            self.memory.write(c.addresses[result] + 4 * run[0] as u64, &finished).map_err(faulty)?;
        }
        Ok(())
    }
}
