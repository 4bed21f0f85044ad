mod cuda;
mod edges;
mod fences;
mod golden;
mod oracle;
mod scopes;
mod threads;

use super::{Config, Element, HybridBase, Tensors};

/// A parameter with its gradient and state, owned.
#[derive(Clone, Debug, PartialEq)]
struct Owned<T> {
    parameter: Vec<T>,
    gradient: Vec<T>,
    activity_trace: Vec<f32>,
    momentum: Vec<f32>,
    variance: Vec<f32>,
    base_momentum: Vec<f32>,
    base_variance: Vec<f32>,
}

impl<T: Element> Owned<T> {
    fn new(config: &Config, parameter: Vec<T>, gradient: Vec<T>) -> Self {
        let zeros = |kept: bool| vec![0.0; if kept { parameter.len() } else { 0 }];
        Owned {
            activity_trace: zeros(true),
            momentum: zeros(true),
            variance: zeros(true),
            base_momentum: zeros(config.hybrid_base != HybridBase::Classic),
            base_variance: zeros(config.hybrid_base == HybridBase::AdamW),
            parameter,
            gradient,
        }
    }

    fn tensors(&mut self) -> Tensors<'_, T> {
        Tensors {
            parameter: &mut self.parameter,
            gradient: &self.gradient,
            activity_trace: &mut self.activity_trace,
            momentum: &mut self.momentum,
            variance: &mut self.variance,
            base_momentum: &mut self.base_momentum,
            base_variance: &mut self.base_variance,
        }
    }

    fn states(&self) -> [(&'static str, &[f32]); 5] {
        [
            ("activity_trace", &self.activity_trace),
            ("momentum", &self.momentum),
            ("variance", &self.variance),
            ("base_momentum", &self.base_momentum),
            ("base_variance", &self.base_variance),
        ]
    }
}

/// Panics unless |found − expected| ≤ absolute + relative·|expected| everywhere.
#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], absolute: f64, relative: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let allowed = absolute + relative * expected.abs();
        assert!((found - expected).abs() <= allowed, "{what}[{i}] is {found:e}, expected {expected:e} ± {allowed:e}");
    }
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}
