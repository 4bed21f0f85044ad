//! One channel at a time, tap by tap over rows: for groups of one channel.

use super::Geometry;

/// `y += conv(x, w)` for one channel `x` and one filter `w`.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], y: &mut [f32]) {
    for (tap, &w) in w.iter().enumerate() {
        for (input, output) in g.runs(tap) {
            let (y, x) = (&mut y[output], &x[input..]);
            if g.step() == 1 {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
            } else {
                y.iter_mut().zip(x.iter().step_by(g.step())).for_each(|(y, x)| *y += w * x);
            }
        }
    }
}

/// `dx += convᵀ(dy, w)` for one filter.
pub(super) fn data_gradient(g: &Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    for (tap, &w) in w.iter().enumerate() {
        for (input, output) in g.runs(tap) {
            let (dx, dy) = (&mut dx[input..], &dy[output]);
            if g.step() == 1 {
                dx.iter_mut().zip(dy).for_each(|(x, y)| *x += w * y);
            } else {
                dx.iter_mut().step_by(g.step()).zip(dy).for_each(|(x, y)| *x += w * y);
            }
        }
    }
}

/// Adds each tap's `Σ x·dy` to `dw`, for one channel and one filter of one sample.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    for (tap, dw) in dw.iter_mut().enumerate() {
        // Eight running sums, so that the loop over a row needs no reassociation to be vectorised.
        let mut sums = [0.0f32; 8];
        for (input, output) in g.runs(tap) {
            let (x, dy) = (&x[input..], &dy[output]);
            if g.step() == 1 {
                let (xs, ys) = (x[..dy.len()].chunks_exact(8), dy.chunks_exact(8));
                sums.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())).for_each(|(s, (x, y))| *s += x * y);
                for (x, y) in xs.zip(ys) {
                    for i in 0..8 {
                        sums[i] += x[i] * y[i];
                    }
                }
            } else {
                let pairs = x.iter().step_by(g.step()).zip(dy).enumerate();
                pairs.for_each(|(i, (x, y))| sums[i % 8] += x * y);
            }
        }
        *dw += sums.iter().sum::<f32>();
    }
}
