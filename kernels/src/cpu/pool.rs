//! Pooling over windows and its gradients: ONNX `MaxPool`, `AveragePool`, `GlobalAveragePool`.

use rayon::prelude::*;

use super::error::expect_len;
use super::{Geometry, KernelError};

/// Planes below this many window taps together are not worth spreading over threads.
const SERIAL: usize = 1 << 14;

fn check(g: &Geometry, planes: usize, x: &[f32], y: &[f32]) -> Result<(), KernelError> {
    expect_len("the pool's input", x, planes.saturating_mul(g.input_len()))?;
    expect_len("the pool's output", y, planes.saturating_mul(g.output_len()))
}

/// How many planes a task takes at least.
fn planes_per_task(g: &Geometry) -> usize {
    (SERIAL / (g.output_len() * g.taps()).max(1)).max(1)
}

/// Calls `f(output position, input position)` for every tap of `g` that reads inside the input, taps in order for each
/// position.
#[inline(always)]
fn reads(g: &Geometry, mut f: impl FnMut(usize, usize)) {
    for tap in 0..g.taps() {
        for (input, output) in g.runs(tap) {
            for (step, at) in output.enumerate() {
                f(at, input + step * g.step());
            }
        }
    }
}

/// Writes the largest element of each window, and which it was: the first of equals, or the first NaN.
///
/// `x` (planes, D…) float32, planes being batch × channels; `y` and `indices` (planes, O…). Indices count within the
/// plane, row-major; the padding never wins. A window wholly in the padding gives −∞ and index 0.
///
/// # Errors
/// When a slice does not have its shape's length, or an index would not fit a 32-bit integer.
pub fn max_pool(
    g: &Geometry,
    planes: usize,
    x: &[f32],
    y: &mut [f32],
    indices: Option<&mut [u32]>,
) -> Result<(), KernelError> {
    check(g, planes, x, y)?;
    if u32::try_from(g.input_len()).is_err() {
        return Err(KernelError::Shape("a plane of 2^32 elements or more cannot be indexed".into()));
    }
    let (inputs, outputs) = (g.input_len().max(1), g.output_len().max(1));
    let plane = |x: &[f32], y: &mut [f32], mut indices: Option<&mut [u32]>| {
        y.fill(f32::NEG_INFINITY);
        if let Some(indices) = &mut indices {
            indices.fill(0);
        }
        reads(g, |at, from| {
            let (value, best) = (x[from], y[at]);
            if value > best || (value.is_nan() && !best.is_nan()) {
                y[at] = value;
                if let Some(indices) = &mut indices {
                    indices[at] = from as u32;
                }
            }
        });
    };
    let grain = planes_per_task(g);
    // An empty input has no plane to pair with an output of padding.
    if x.is_empty() {
        y.fill(f32::NEG_INFINITY);
        return Ok(());
    }
    match indices {
        Some(indices) => {
            expect_len("the pool's indices", indices, y.len())?;
            let tasks = y.par_chunks_mut(outputs).zip(indices.par_chunks_mut(outputs)).zip(x.par_chunks(inputs));
            tasks.with_min_len(grain).for_each(|((y, indices), x)| plane(x, y, Some(indices)));
        }
        None => {
            let tasks = y.par_chunks_mut(outputs).zip(x.par_chunks(inputs));
            tasks.with_min_len(grain).for_each(|(y, x)| plane(x, y, None));
        }
    }
    Ok(())
}

/// Writes `dx`, the gradient of [`max_pool`]: each `dy` is added to the element its window's index names.
///
/// `dy` and `indices` (planes, O…), `dx` (planes, D…), which need not be cleared.
///
/// # Errors
/// When a slice does not have its shape's length or an index points outside its plane.
pub fn max_pool_gradient(
    g: &Geometry,
    planes: usize,
    dy: &[f32],
    indices: &[u32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    check(g, planes, dx, dy)?;
    expect_len("the pool's indices", indices, dy.len())?;
    let (inputs, outputs) = (g.input_len(), g.output_len());
    if let Some(position) = indices.iter().position(|i| *i as usize >= inputs) {
        return Err(KernelError::Index { index: indices[position].into(), position, size: inputs });
    }
    if dx.is_empty() {
        return Ok(());
    }
    dx.par_chunks_mut(inputs).enumerate().with_min_len(planes_per_task(g)).for_each(|(plane, dx)| {
        dx.fill(0.0);
        let range = plane * outputs..(plane + 1) * outputs;
        dy[range.clone()].iter().zip(&indices[range]).for_each(|(dy, i)| dx[*i as usize] += dy);
    });
    Ok(())
}

/// What an average divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Divisor {
    /// The elements of the window that lie in the input: ONNX's `count_include_pad = 0`.
    Inside,
    /// Those and its padding, of which there are `after[axis]` elements behind each of the three axes (the geometry
    /// knows those in front): `count_include_pad = 1`.
    WithPads { after: [usize; 3] },
}

impl Divisor {
    /// One over the divisor of every output position.
    fn reciprocals(self, g: &Geometry) -> Vec<f32> {
        let counts = |axis: usize| -> Vec<usize> {
            let taps = |position: usize| match self {
                Divisor::Inside => (0..g.kernel[axis]).filter(|tap| g.inside(axis, position, *tap).is_some()).count(),
                Divisor::WithPads { after } => {
                    let end = (g.input[axis] + after[axis]) as isize;
                    (0..g.kernel[axis]).filter(|tap| g.at(axis, position, *tap) < end).count()
                }
            };
            (0..g.output[axis]).map(taps).collect()
        };
        let (d, h, w) = (counts(0), counts(1), counts(2));
        let rows = d.iter().flat_map(|d| h.iter().map(move |h| d * h));
        rows.flat_map(|rows| w.iter().map(move |w| 1.0 / (rows * w) as f32)).collect()
    }
}

/// Writes the mean of each window.
///
/// `x` (planes, D…), planes being batch × channels; `y` (planes, O…); float32. A window wholly in the padding gives
/// 0/0 = NaN unless the padding counts.
///
/// # Errors
/// When a slice does not have its shape's length.
pub fn average_pool(
    g: &Geometry,
    planes: usize,
    divisor: Divisor,
    x: &[f32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    check(g, planes, x, y)?;
    let (inputs, outputs, scale) = (g.input_len(), g.output_len().max(1), divisor.reciprocals(g));
    y.par_chunks_mut(outputs).enumerate().with_min_len(planes_per_task(g)).for_each(|(plane, y)| {
        let x = &x[plane * inputs..][..inputs];
        y.fill(0.0);
        reads(g, |at, from| y[at] += x[from]);
        y.iter_mut().zip(&scale).for_each(|(y, scale)| *y *= scale);
    });
    Ok(())
}

/// Writes `dx`, the gradient of [`average_pool`]: each `dy` is shared out evenly over its window.
///
/// `dy` (planes, O…), `dx` (planes, D…), which need not be cleared.
///
/// # Errors
/// When a slice does not have its shape's length.
pub fn average_pool_gradient(
    g: &Geometry,
    planes: usize,
    divisor: Divisor,
    dy: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    check(g, planes, dx, dy)?;
    let (inputs, outputs, scale) = (g.input_len().max(1), g.output_len(), divisor.reciprocals(g));
    dx.par_chunks_mut(inputs).enumerate().with_min_len(planes_per_task(g)).for_each(|(plane, dx)| {
        let dy = &dy[plane * outputs..][..outputs];
        dx.fill(0.0);
        reads(g, |at, to| dx[to] += dy[at] * scale[at]);
    });
    Ok(())
}

/// Writes the mean of every plane of `plane` elements to `y` (planes).
///
/// # Errors
/// When `x` is not `y.len()` planes.
pub fn global_average_pool(plane: usize, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    expect_len("the pool's input", x, plane.saturating_mul(y.len()))?;
    let grain = (SERIAL / plane.max(1)).max(1);
    y.par_iter_mut().enumerate().with_min_len(grain).for_each(|(at, y)| {
        *y = (super::sum::sum(&x[at * plane..][..plane]) / plane as f64) as f32;
    });
    Ok(())
}

/// Writes `dx`, the gradient of [`global_average_pool`]: `dy / plane` over every plane.
///
/// # Errors
/// When `dx` is not `dy.len()` planes.
pub fn global_average_pool_gradient(plane: usize, dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    expect_len("the pool's input gradient", dx, plane.saturating_mul(dy.len()))?;
    let scale = 1.0 / plane as f32;
    let grain = (SERIAL / plane.max(1)).max(1);
    dx.par_chunks_mut(plane.max(1)).zip(dy).with_min_len(grain).for_each(|(dx, dy)| dx.fill(dy * scale));
    Ok(())
}

#[cfg(test)]
mod tests;
