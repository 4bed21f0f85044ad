use proptest::prelude::*;

use super::weight_gradient::PlaneStrides;
use super::*;
use crate::cpu::output_size;
use crate::cpu::testing::{assert_close, noise, with_threads};

/// A convolution with its attributes still apart, for the naive loops.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    groups: usize,
    channels: usize,
    filters: usize,
    input: Vec<usize>,
    output: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<isize>,
}

impl Case {
    fn convolution(&self) -> Convolution {
        let geometry =
            Geometry::new(&self.input, &self.output, &self.kernel, &self.strides, &self.dilations, &self.pads);
        Convolution::new(self.batch, self.groups, self.channels, self.filters, geometry.unwrap()).unwrap()
    }

    /// Calls `f(x index, w index, y index)` for every product of the definition.
    fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (c, m) = (self.channels / self.groups, self.filters / self.groups);
        let (inputs, outputs, taps) =
            (self.input.iter().product::<usize>(), self.output.iter().product(), self.kernel.iter().product());
        let unravel = |mut index: usize, dims: &[usize]| {
            let mut at = vec![0; dims.len()];
            for (at, dim) in at.iter_mut().zip(dims).rev() {
                (*at, index) = (index % dim, index / dim);
            }
            at
        };
        for n in 0..self.batch {
            for filter in 0..self.filters {
                for o in 0..outputs {
                    for channel in 0..c {
                        for k in 0..taps {
                            let (at, tap) = (unravel(o, &self.output), unravel(k, &self.kernel));
                            let position = (0..at.len()).try_fold(0, |index, a| {
                                let p = (at[a] * self.strides[a] + tap[a] * self.dilations[a]) as isize - self.pads[a];
                                usize::try_from(p)
                                    .ok()
                                    .filter(|p| *p < self.input[a])
                                    .map(|p| index * self.input[a] + p)
                            });
                            if let Some(position) = position {
                                f(
                                    (n * self.channels + filter / m * c + channel) * inputs + position,
                                    (filter * c + channel) * taps + k,
                                    (n * self.filters + filter) * outputs + o,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

fn axis() -> impl Strategy<Value = (usize, usize, usize, usize, usize, isize)> {
    let sizes = (1usize..=9, 1usize..=4, 1usize..=3, 1usize..=3, 0usize..=2, 0usize..=2, 0usize..=1);
    sizes.prop_filter_map("the window must fit", |(input, kernel, stride, dilation, before, after, extra)| {
        let output = output_size(input, kernel, stride, dilation, (before, after), false)?;
        // A transposed convolution's output padding makes the input longer than the windows reach.
        Some((input + extra.min(stride - 1), output, kernel, stride, dilation, before as isize))
    })
}

fn case() -> impl Strategy<Value = Case> {
    let channels = (0usize..=3, 1usize..=3, 1usize..=3, 1usize..=5);
    (channels, prop::collection::vec(axis(), 1..=3)).prop_map(|((batch, groups, channels, filters), axes)| Case {
        batch,
        groups,
        channels: channels * groups,
        filters: filters * groups,
        input: axes.iter().map(|a| a.0).collect(),
        output: axes.iter().map(|a| a.1).collect(),
        kernel: axes.iter().map(|a| a.2).collect(),
        strides: axes.iter().map(|a| a.3).collect(),
        dilations: axes.iter().map(|a| a.4).collect(),
        pads: axes.iter().map(|a| a.5).collect(),
    })
}

/// Larger sizes, where blocks, parts and pieces are more than one.
fn large() -> Vec<Case> {
    let case = |batch, groups, channels, filters, input: usize, output: usize, kernel, stride| Case {
        batch,
        groups,
        channels,
        filters,
        input: vec![input; 2],
        output: vec![output; 2],
        kernel: vec![kernel; 2],
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![kernel as isize / 2; 2],
    };
    let mut cases = vec![
        case(5, 1, 24, 40, 28, 28, 3, 1),
        case(1, 2, 64, 96, 15, 8, 3, 2),
        case(3, 1, 40, 33, 11, 11, 1, 1),
        case(4, 12, 12, 24, 20, 20, 5, 1),
        case(4, 12, 12, 12, 21, 11, 3, 2),
    ];
    let mut audio = case(2, 1, 16, 12, 1, 1, 1, 1);
    (audio.input, audio.output, audio.kernel) = (vec![5000], vec![2500], vec![8]);
    (audio.strides, audio.dilations, audio.pads) = (vec![2], vec![1], vec![3]);
    cases.push(audio);
    cases
}

fn check(case: &Case) {
    let conv = case.convolution();
    let (x, w, dy) = (noise(conv.x_len(), 1), noise(conv.w_len(), 2), noise(conv.y_len(), 3));
    let (b, c) = (noise(case.filters, 4), noise(case.channels, 5));
    let outputs: usize = case.output.iter().product();
    let inputs: usize = case.input.iter().product();
    let mut y: Vec<f64> = (0..dy.len()).map(|i| f64::from(b[i / outputs % case.filters])).collect();
    let mut dx: Vec<f64> = (0..x.len()).map(|i| f64::from(c[i / inputs % case.channels])).collect();
    let mut dw = vec![0.0; w.len()];
    case.products(|xi, wi, yi| {
        y[yi] += f64::from(x[xi]) * f64::from(w[wi]);
        dx[xi] += f64::from(dy[yi]) * f64::from(w[wi]);
        dw[wi] += f64::from(dy[yi]) * f64::from(x[xi]);
    });
    let run = || {
        let (mut a, mut b_, mut d) = (vec![f32::NAN; y.len()], vec![f32::NAN; dx.len()], vec![f32::NAN; dw.len()]);
        conv.forward(&x, &w, Some(&b), &mut a).unwrap();
        conv.data_gradient(&dy, &w, Some(&c), &mut b_).unwrap();
        conv.weight_gradient(&x, &dy, &mut d).unwrap();
        (a, b_, d)
    };
    let results = with_threads(1, run);
    assert_close("y", &results.0, &y, 1e-5);
    assert_close("dx", &results.1, &dx, 1e-5);
    assert_close("dw", &results.2, &dw, 1e-4);
    assert_eq!(results, with_threads(3, run), "three threads give other bits than one");
}

proptest! {
    #[test]
    fn small_convolutions_and_gradients_follow_the_definition(case in case()) {
        check(&case);
    }
}

#[test]
fn large_convolutions_and_gradients_follow_the_definition() {
    large().iter().for_each(check);
}

#[test]
fn results_without_bias_do_not_depend_on_what_was_there() {
    for case in large() {
        let conv = case.convolution();
        let (x, w, dy) = (noise(conv.x_len(), 1), noise(conv.w_len(), 2), noise(conv.y_len(), 3));
        let zeros = vec![0.0; case.filters.max(case.channels)];
        let (mut y, mut y0) = (vec![f32::NAN; dy.len()], vec![1.0; dy.len()]);
        conv.forward(&x, &w, None, &mut y).unwrap();
        conv.forward(&x, &w, Some(&zeros[..case.filters]), &mut y0).unwrap();
        assert_close("y", &y, &y0.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1e-5);
        let (mut dx, mut dx0) = (vec![f32::NAN; x.len()], vec![1.0; x.len()]);
        conv.data_gradient(&dy, &w, None, &mut dx).unwrap();
        conv.data_gradient(&dy, &w, Some(&zeros[..case.channels]), &mut dx0).unwrap();
        assert_close("dx", &dx, &dx0.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1e-5);
    }
}

#[test]
fn weight_gradient_reads_transposed_planes_in_place() {
    for case in large().into_iter().filter(|c| c.batch > 1) {
        let conv = case.convolution();
        let (x, dy) = (noise(conv.x_len(), 1), noise(conv.y_len(), 3));
        let (inputs, outputs) = (case.input.iter().product::<usize>(), case.output.iter().product::<usize>());
        let transposed = |data: &[f32], channels: usize, plane: usize| -> Vec<f32> {
            let rows = (0..channels).flat_map(|c| (0..case.batch).map(move |n| (n * channels + c) * plane));
            rows.flat_map(|at| data[at..at + plane].iter().copied()).collect()
        };
        let (mut straight, mut strided) = (vec![0.0; conv.w_len()], vec![0.0; conv.w_len()]);
        conv.weight_gradient(&x, &dy, &mut straight).unwrap();
        conv.weight_gradient_strided(
            &transposed(&x, case.channels, inputs),
            PlaneStrides { sample: inputs, channel: case.batch * inputs },
            &transposed(&dy, case.filters, outputs),
            PlaneStrides { sample: outputs, channel: case.batch * outputs },
            &mut strided,
        )
        .unwrap();
        assert_eq!(straight, strided);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let geometry = Geometry::new(&[4, 4], &[4, 4], &[3, 3], &[1, 1], &[1, 1], &[1, 1]).unwrap();
    assert!(Convolution::new(1, 2, 3, 4, geometry).is_err());
    assert!(Convolution::new(1, 0, 3, 4, geometry).is_err());
    assert!(Convolution::new(usize::MAX / 2, 1, 3, 4, geometry).is_err());
    assert!(Geometry::new(&[4], &[4, 4], &[3, 3], &[1, 1], &[1, 1], &[1, 1]).is_err());
    assert!(Geometry::new(&[4; 4], &[4; 4], &[3; 4], &[1; 4], &[1; 4], &[1; 4]).is_err());
    let conv = Convolution::new(2, 1, 3, 4, geometry).unwrap();
    let (x, w, mut y) = (vec![0.0; 96], vec![0.0; 108], vec![0.0; 128]);
    assert!(conv.forward(&x, &w, None, &mut y).is_ok());
    assert!(conv.forward(&x, &w, Some(&[0.0; 3]), &mut y).is_err());
    assert!(conv.forward(&x[1..], &w, None, &mut y).is_err());
    assert!(conv.forward(&x, &w[1..], None, &mut y).is_err());
    assert!(conv.data_gradient(&y[1..], &w, None, &mut x.clone()).is_err());
    let far = PlaneStrides { sample: usize::MAX, channel: 1 };
    let near = PlaneStrides { sample: 64, channel: 16 };
    assert!(conv.weight_gradient_strided(&x, far, &y, near, &mut w.clone()).is_err());
}
