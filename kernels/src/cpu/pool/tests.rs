use proptest::prelude::*;

use super::*;
use crate::cpu::output_size;
use crate::cpu::testing::{assert_close, noise, with_threads};

/// A geometry with the pads behind each of its three axes.
fn geometry() -> impl Strategy<Value = (Geometry, [usize; 3])> {
    let axis = (1usize..=8, 1usize..=3, 1usize..=3, 1usize..=2, 0usize..=1, 0usize..=1, any::<bool>());
    let axis = axis.prop_filter_map("the window must fit", |(input, kernel, stride, dilation, before, after, ceil)| {
        let output = output_size(input, kernel, stride, dilation, (before, after), ceil)?;
        Some((input, output, kernel, stride, dilation, before, after))
    });
    prop::collection::vec(axis, 1..=3).prop_map(|axes| {
        type Axis = (usize, usize, usize, usize, usize, usize, usize);
        let all = |f: fn(&Axis) -> usize| -> Vec<usize> { axes.iter().map(f).collect() };
        let pads: Vec<isize> = axes.iter().map(|a| a.5 as isize).collect();
        let g = Geometry::new(&all(|a| a.0), &all(|a| a.1), &all(|a| a.2), &all(|a| a.3), &all(|a| a.4), &pads);
        let mut after = [0; 3];
        after[3 - axes.len()..].copy_from_slice(&all(|a| a.6));
        (g.unwrap(), after)
    })
}

/// The input elements of one window and the number of its taps that are not behind the padding.
fn window(g: &Geometry, at: usize, after: [usize; 3]) -> (Vec<usize>, usize) {
    let position = [at / (g.output[1] * g.output[2]), at / g.output[2] % g.output[1], at % g.output[2]];
    let (mut inside, mut padded) = (vec![], 0);
    for tap in 0..g.taps() {
        let tap = g.tap(tap);
        let at: Vec<isize> = (0..3).map(|a| g.at(a, position[a], tap[a])).collect();
        padded += usize::from((0..3).all(|a| at[a] < (g.input[a] + after[a]) as isize));
        if (0..3).all(|a| (0..g.input[a] as isize).contains(&at[a])) {
            inside.push((at[0] as usize * g.input[1] + at[1] as usize) * g.input[2] + at[2] as usize);
        }
    }
    (inside, padded)
}

proptest! {
    #[test]
    fn pools_and_gradients_follow_the_definition((g, after) in geometry(), planes in 0usize..4, pads: bool) {
        let (inputs, outputs) = (g.input_len(), g.output_len());
        let (x, dy) = (noise(planes * inputs, 1), noise(planes * outputs, 2));
        let divisor = if pads { Divisor::WithPads { after } } else { Divisor::Inside };
        let (mut max, mut mean) = (vec![], vec![]);
        let (mut max_dx, mut mean_dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for plane in 0..planes {
            for at in 0..outputs {
                let (inside, padded) = window(&g, at, after);
                let x = |i: usize| f64::from(x[plane * inputs + i]);
                let gradient = f64::from(dy[plane * outputs + at]);
                let best = inside.iter().copied().reduce(|a, b| if x(b) > x(a) { b } else { a });
                max.push(best.map_or(f64::NEG_INFINITY, x));
                max_dx[plane * inputs + best.unwrap_or(0)] += gradient;
                let count = if pads { padded } else { inside.len() } as f64;
                mean.push(inside.iter().map(|i| x(*i)).sum::<f64>() / count);
                inside.iter().for_each(|i| mean_dx[plane * inputs + i] += gradient / count);
            }
        }
        let (mut y, mut i, mut dx) = (vec![9.0; dy.len()], vec![9; dy.len()], vec![9.0; x.len()]);
        max_pool(&g, planes, &x, &mut y, Some(&mut i)).unwrap();
        prop_assert!(y.iter().zip(&max).all(|(y, max)| f64::from(*y) == *max));
        max_pool_gradient(&g, planes, &dy, &i, &mut dx).unwrap();
        assert_close("max dx", &dx, &max_dx, 1e-6);
        let mut alone = vec![9.0; dy.len()];
        max_pool(&g, planes, &x, &mut alone, None).unwrap();
        prop_assert_eq!(&alone, &y);
        average_pool(&g, planes, divisor, &x, &mut y).unwrap();
        if mean.iter().all(|m| m.is_finite()) {
            assert_close("mean", &y, &mean, 1e-6);
            average_pool_gradient(&g, planes, divisor, &dy, &mut dx).unwrap();
            assert_close("mean dx", &dx, &mean_dx, 1e-6);
        }
    }
}

#[test]
fn the_first_of_equals_wins_and_nan_is_kept() {
    let g = Geometry::new(&[4], &[2], &[2], &[2], &[1], &[0]).unwrap();
    let (mut y, mut i) = ([0.0; 2], [7; 2]);
    max_pool(&g, 1, &[3.0, 3.0, 1.0, f32::NAN], &mut y, Some(&mut i)).unwrap();
    assert_eq!((y[0], i), (3.0, [0, 3]));
    assert!(y[1].is_nan());
    let error = max_pool_gradient(&g, 1, &[1.0; 2], &[0, 4], &mut [0.0; 4]);
    assert_eq!(error, Err(KernelError::Index { index: 4, position: 1, size: 4 }));
}

#[test]
fn global_average_and_its_gradient() {
    let x = noise(3 * 5000, 1);
    let mean: Vec<f64> = x.chunks(5000).map(|x| x.iter().map(|x| f64::from(*x)).sum::<f64>() / 5000.0).collect();
    let mut y = [0.0; 3];
    global_average_pool(5000, &x, &mut y).unwrap();
    assert_close("mean", &y, &mean, 1e-7);
    let mut dx = [0.0; 8];
    global_average_pool_gradient(4, &[2.0, -4.0], &mut dx).unwrap();
    assert_eq!(dx, [0.5, 0.5, 0.5, 0.5, -1.0, -1.0, -1.0, -1.0]);
    assert!(global_average_pool(4, &x, &mut y).is_err());
    global_average_pool(0, &[], &mut y).unwrap();
    assert!(y[0].is_nan());
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let g = Geometry::new(&[28, 28], &[14, 14], &[3, 3], &[2, 2], &[1, 1], &[1, 1]).unwrap();
    let (x, dy) = (noise(40 * 784, 1), noise(40 * 196, 2));
    let run = || {
        let (mut y, mut i, mut dx) = (vec![0.0; dy.len()], vec![0; dy.len()], vec![0.0; x.len()]);
        max_pool(&g, 40, &x, &mut y, Some(&mut i)).unwrap();
        max_pool_gradient(&g, 40, &dy, &i, &mut dx).unwrap();
        let (mut mean, mut mean_dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        average_pool(&g, 40, Divisor::Inside, &x, &mut mean).unwrap();
        average_pool_gradient(&g, 40, Divisor::Inside, &dy, &mut mean_dx).unwrap();
        (y, i, dx, mean, mean_dx)
    };
    assert_eq!(with_threads(1, run), with_threads(3, run));
}
