//! One channel at a time, tap by tap over rows: for groups of one channel.

use super::Geometry;

/// The rows that a tap connects: offsets of an input and an output row, for every output row it reads inside.
fn rows(g: &Geometry, tap: [usize; 3]) -> impl Iterator<Item = (usize, usize)> + use<> {
    let g = *g;
    g.covered(0, tap[0]).flat_map(move |d| {
        let plane = g.at(0, d, tap[0]) as usize * g.input[1];
        g.covered(1, tap[1]).map(move |h| {
            let input = (plane + g.at(1, h, tap[1]) as usize) * g.input[2];
            (input, (d * g.output[1] + h) * g.output[2])
        })
    })
}

/// `y += conv(x, w)` for one channel `x` and one filter `w`.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], y: &mut [f32]) {
    for (tap, &w) in w.iter().enumerate() {
        let tap = g.tap(tap);
        let covered = g.covered(2, tap[2]);
        if covered.is_empty() {
            continue;
        }
        let first = g.at(2, covered.start, tap[2]) as usize;
        for (input, output) in rows(g, tap) {
            let y = &mut y[output + covered.start..output + covered.end];
            let x = &x[input + first..input + g.input[2]];
            if g.strides[2] == 1 {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
            } else {
                y.iter_mut().zip(x.iter().step_by(g.strides[2])).for_each(|(y, x)| *y += w * x);
            }
        }
    }
}

/// `dx += convᵀ(dy, w)` for one filter.
pub(super) fn data_gradient(g: &Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    for (tap, &w) in w.iter().enumerate() {
        let tap = g.tap(tap);
        let covered = g.covered(2, tap[2]);
        if covered.is_empty() {
            continue;
        }
        let first = g.at(2, covered.start, tap[2]) as usize;
        for (input, output) in rows(g, tap) {
            let dy = &dy[output + covered.start..output + covered.end];
            let dx = &mut dx[input + first..input + g.input[2]];
            if g.strides[2] == 1 {
                dx.iter_mut().zip(dy).for_each(|(x, y)| *x += w * y);
            } else {
                dx.iter_mut().step_by(g.strides[2]).zip(dy).for_each(|(x, y)| *x += w * y);
            }
        }
    }
}

/// Adds each tap's `Σ x·dy` to `dw`, for one channel and one filter of one sample.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    for (tap, dw) in dw.iter_mut().enumerate() {
        let tap = g.tap(tap);
        let covered = g.covered(2, tap[2]);
        if covered.is_empty() {
            continue;
        }
        let first = g.at(2, covered.start, tap[2]) as usize;
        // Eight running sums, so that the loop over a row needs no reassociation to be vectorised.
        let mut sums = [0.0f32; 8];
        for (input, output) in rows(g, tap) {
            let dy = &dy[output + covered.start..output + covered.end];
            let x = &x[input + first..input + g.input[2]];
            if g.strides[2] == 1 {
                let x = &x[..dy.len()];
                let (xs, ys) = (x.chunks_exact(8), dy.chunks_exact(8));
                sums.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())).for_each(|(s, (x, y))| *s += x * y);
                for (x, y) in xs.zip(ys) {
                    for i in 0..8 {
                        sums[i] += x[i] * y[i];
                    }
                }
            } else {
                let pairs = x.iter().step_by(g.strides[2]).zip(dy).enumerate();
                pairs.for_each(|(i, (x, y))| sums[i % 8] += x * y);
            }
        }
        *dw += sums.iter().sum::<f32>();
    }
}
