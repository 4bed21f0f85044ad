//! Losses beside their twins on the CPU, gradients beside the definition in float64 and differences of it.

use super::*;
use crate::cpu::loss as twin;
use crate::cpu::testing::{assert_close, differences, noise, wide};
use crate::cuda::testing::Device;
use npc_ptx_interpreter::Schedule;

const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(3)];
const REDUCTIONS: [Reduction; 3] = [Reduction::None, Reduction::Sum, Reduction::Mean];
const NULL: DevicePointer = DevicePointer::NULL;

struct Case {
    shape: LossShape,
    ids: Vec<i64>,
    weights: Option<Vec<f32>>,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

impl Case {
    fn new(
        [batch, classes, positions]: [usize; 3],
        weighted: bool,
        ignore_index: Option<i64>,
        reduction: Reduction,
    ) -> Self {
        let shape = LossShape { batch, classes, positions };
        let mut ids: Vec<i64> =
            noise(batch * positions, 1).iter().map(|x| ((x + 0.5) * classes as f32) as i64).collect();
        if let Some(ignore) = ignore_index {
            ids.iter_mut().skip(1).step_by(3).for_each(|id| *id = ignore);
        }
        let weights = weighted.then(|| noise(classes, 2).iter().map(|w| w + 1.0).collect());
        Case { shape, ids, weights, ignore_index, reduction }
    }

    fn losses(&self) -> usize {
        if self.reduction == Reduction::None { self.ids.len() } else { 1 }
    }

    fn weight(&self, id: i64) -> f64 {
        if Some(id) == self.ignore_index { 0.0 } else { self.weights.as_ref().map_or(1.0, |w| w[id as usize].into()) }
    }

    /// The losses in float64: of scores, or of log-probabilities.
    fn losses64(&self, x: &[f64], softmax: bool) -> Vec<f64> {
        let LossShape { classes, positions, .. } = self.shape;
        let loss = |(i, id): (usize, &i64)| {
            let at = |c: usize| (i / positions * classes + c) * positions + i % positions;
            let largest = (0..classes).map(|c| x[at(c)]).fold(f64::NEG_INFINITY, f64::max);
            let sum = if softmax { (0..classes).map(|c| (x[at(c)] - largest).exp()).sum::<f64>() } else { 1.0 };
            let shift = if softmax { largest + sum.ln() } else { 0.0 };
            if Some(*id) == self.ignore_index { 0.0 } else { self.weight(*id) * (shift - x[at(*id as usize)]) }
        };
        let losses: Vec<f64> = self.ids.iter().enumerate().map(loss).collect();
        match self.reduction {
            Reduction::None => losses,
            Reduction::Sum => vec![losses.iter().sum()],
            Reduction::Mean => vec![losses.iter().sum::<f64>() / self.total()],
        }
    }

    fn total(&self) -> f64 {
        self.ids.iter().map(|id| self.weight(*id)).sum()
    }

    /// The gradient in float64 of Σ upstream · loss.
    fn gradient64(&self, x: &[f64], upstream: &[f64], softmax: bool) -> Vec<f64> {
        let LossShape { classes, positions, .. } = self.shape;
        let mut gradient = vec![0.0; x.len()];
        for (i, id) in self.ids.iter().enumerate().filter(|(_, id)| Some(**id) != self.ignore_index) {
            let at = |c: usize| (i / positions * classes + c) * positions + i % positions;
            let largest = (0..classes).map(|c| x[at(c)]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..classes).map(|c| (x[at(c)] - largest).exp()).sum();
            let divisor = if self.reduction == Reduction::Mean { self.total() } else { 1.0 };
            let factor = upstream[i.min(upstream.len() - 1)] * self.weight(*id) / divisor;
            for c in 0..classes {
                let p = if softmax { (x[at(c)] - largest).exp() / sum } else { 0.0 };
                gradient[at(c)] = factor * (p - if c as i64 == *id { 1.0 } else { 0.0 });
            }
        }
        gradient
    }

    fn run(&self, schedule: Schedule, wide_ids: bool) {
        let x: Vec<f32> = noise(self.ids.len() * self.shape.classes, 3).iter().map(|x| x * 20.0).collect();
        let narrow: Vec<i32> = self.ids.iter().map(|id| *id as i32).collect();
        let mut device = Device::narrow(schedule);
        let ids = if wide_ids { device.put(&self.ids) } else { device.put(&narrow) };
        let weights = self.weights.as_ref().map_or(NULL, |weights| device.put(weights));
        let bad = device.put(&[0u32]);
        let labels =
            Labels { ids, wide: wide_ids, weights, ignore_index: self.ignore_index, reduction: self.reduction, bad };
        let on_cpu = twin::Labels {
            ids: &self.ids,
            weights: self.weights.as_deref(),
            ignore_index: self.ignore_index,
            reduction: self.reduction,
        };
        let (mut want, mut want_log) = (vec![0.0; self.losses()], vec![0.0; x.len()]);
        twin::softmax_cross_entropy(self.shape, &x, &on_cpu, &mut want, Some(&mut want_log)).unwrap();
        let scores = device.put(&x);
        let [loss, log_prob, gradient] = [self.losses(), x.len(), x.len()].map(|len| device.put(&vec![f32::NAN; len]));
        let scratch = device.put(&vec![0xffu8; scratch_bytes(self.shape) as usize]);
        let go = |device: &mut Device, launches: Vec<Launch>| launches.iter().for_each(|launch| device.run(launch));
        go(&mut device, softmax_cross_entropy(self.shape, labels, scores, loss, log_prob, scratch));
        let first = device.get::<f32>(loss, self.losses());
        assert_close("log_prob", &device.get::<f32>(log_prob, x.len()), &wide(&want_log), 2e-6);
        assert_close("loss", &first, &wide(&want), 4e-6);
        go(&mut device, negative_log_likelihood(self.shape, labels, log_prob, loss, scratch));
        assert_close("likelihood", &device.get::<f32>(loss, self.losses()), &wide(&want), 4e-6);

        let upstream: Vec<f32> = noise(self.losses(), 4).iter().map(|x| x + 1.0).collect();
        let (x64, up64) = (wide(&x), wide(&upstream));
        let pu = device.put(&upstream);
        for (pointer, up) in [(pu, up64), (NULL, vec![1.0; self.losses()])] {
            let want = self.gradient64(&x64, &up, true);
            let launches =
                softmax_cross_entropy_with_gradient(self.shape, labels, scores, pointer, loss, NULL, gradient, scratch);
            go(&mut device, launches);
            assert_eq!(device.get::<f32>(loss, self.losses()), first);
            assert_close("gradient", &device.get::<f32>(gradient, x.len()), &want, 2e-6);
            let launches = negative_log_likelihood_gradient(self.shape, labels, pointer, gradient, scratch);
            go(&mut device, launches);
            let of_likelihood = self.gradient64(&x64, &up, false);
            assert_close("likelihood's gradient", &device.get::<f32>(gradient, x.len()), &of_likelihood, 1e-6);
            if x.len() < 100 {
                for (softmax, gradient) in [(true, want), (false, of_likelihood)] {
                    let found = differences(|x| self.losses64(x, softmax), &x64, &up);
                    found.iter().zip(gradient).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
                }
            }
        }
        assert_eq!(device.get::<u32>(bad, 1), [0]);
    }
}

#[test]
fn losses_follow_the_cpu_and_gradients_the_definition() {
    let shapes = [[5, 3, 1], [4, 5, 3], [1, 2, 7], [11, 40, 1], [3, 600, 1], [2, 4200, 1], [3, 4, 90]];
    let mut number = 0;
    for shape in shapes {
        for reduction in REDUCTIONS {
            for (weighted, ignore) in [(false, None), (true, None), (false, Some(-100)), (true, Some(1))] {
                if shape[1] > 100 && number % 5 != 0 {
                    number += 1;
                    continue;
                }
                Case::new(shape, weighted, ignore, reduction).run(SCHEDULES[number % 3], number % 2 == 0);
                number += 1;
            }
        }
    }
}

#[test]
fn many_labels_are_added_up_in_shares() {
    for (reduction, shape) in [(Reduction::Mean, [1, 2, 4101]), (Reduction::Sum, [2, 2, 2051])] {
        let case = Case::new(shape, true, Some(-1), reduction);
        let plan = Plan::new(
            case.shape,
            Labels { ids: NULL, wide: true, weights: NULL, ignore_index: None, reduction, bad: NULL },
            NULL,
        );
        assert_eq!(plan.shares(), 2);
        case.run(Schedule::Random(9), true);
    }
}

#[test]
fn labels_that_are_no_class_are_counted_and_left_out() {
    for positions in [1, 2] {
        let shape = LossShape { batch: 4 / positions, classes: 3, positions };
        let mut device = Device::new(Schedule::Reversed);
        let [ids, scores] = [device.put(&[0i64, 3, -1, i64::MIN]), device.put(&[0f32; 12])];
        let (bad, loss, gradient) = (device.put(&[0u32]), device.put(&[9f32; 4]), device.put(&[9f32; 12]));
        let scratch = device.put(&vec![0u8; scratch_bytes(shape) as usize]);
        let labels = Labels { ids, wide: true, weights: NULL, ignore_index: None, reduction: Reduction::None, bad };
        let launches = softmax_cross_entropy_with_gradient(shape, labels, scores, NULL, loss, NULL, gradient, scratch);
        launches.iter().for_each(|launch| device.run(launch));
        assert_eq!(device.get::<u32>(bad, 1), [3]);
        let found = device.get::<f32>(loss, 4);
        assert!((found[0] - 3f32.ln()).abs() < 1e-6);
        assert_eq!(found[1..], [0.0; 3]);
        let moved = device.get::<f32>(gradient, 12).iter().filter(|g| **g != 0.0).count();
        assert_eq!(moved, 3);
        let launches = negative_log_likelihood(shape, labels, scores, loss, scratch);
        launches.iter().for_each(|launch| device.run(launch));
        assert_eq!(device.get::<u32>(bad, 1), [6]);
    }
}

#[test]
fn means_over_no_weight_are_nan_and_ignored_labels_take_no_gradient() {
    let shape = LossShape { batch: 2, classes: 3, positions: 1 };
    let mut device = Device::new(Schedule::InOrder);
    let (ids, scores, bad) = (device.put(&[7i32, 7]), device.put(&[f32::INFINITY; 6]), device.put(&[0u32]));
    let (loss, gradient) = (device.put(&[9f32]), device.put(&[9f32; 6]));
    let scratch = device.put(&vec![0u8; scratch_bytes(shape) as usize]);
    let labels = Labels { ids, wide: false, weights: NULL, ignore_index: Some(7), reduction: Reduction::Mean, bad };
    let launches = softmax_cross_entropy_with_gradient(shape, labels, scores, NULL, loss, NULL, gradient, scratch);
    launches.iter().for_each(|launch| device.run(launch));
    assert!(device.get::<f32>(loss, 1)[0].is_nan());
    assert_eq!(device.get::<f32>(gradient, 6), [0.0; 6]);
    assert_eq!(device.get::<u32>(bad, 1), [0]);
    let empty = LossShape { batch: 0, classes: 3, positions: 4 };
    let labels = Labels { ignore_index: None, ..labels };
    let launches = softmax_cross_entropy_with_gradient(empty, labels, scores, NULL, loss, NULL, gradient, scratch);
    launches.iter().for_each(|launch| device.run(launch));
    assert!(device.get::<f32>(loss, 1)[0].is_nan());
}
