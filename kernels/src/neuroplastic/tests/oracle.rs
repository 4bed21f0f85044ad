//! The fused step against the scalar `f64` reference, for random settings and shapes.

use proptest::prelude::*;

use super::{Owned, assert_close, wide};
use crate::neuroplastic::tensors::BLOCK;
use crate::neuroplastic::{
    Config, Diagnostics, Gates, HybridBase, Inputs, Mode, ModulationTarget, OrthogonalNormalization, Traces, Workspace,
    plasticity_signal, reference, step,
};

const STEPS: i64 = 3;

fn classic() -> impl Strategy<Value = Config> {
    let residual = (any::<bool>(), 0.0..1.0, any::<bool>(), 0.0..2.0, 0.0..1.0, any::<bool>());
    (residual, prop::sample::select(vec![0.0, 0.01]), any::<bool>()).prop_map(
        |((bounded, bound, orthogonal, lambda, ratio, matched), weight_decay, decoupled)| Config {
            bounded_residual: bounded,
            residual_max_ratio: bound,
            orthogonal_residual: orthogonal,
            orthogonal_lambda: lambda,
            orthogonal_max_ratio: ratio,
            orthogonal_normalization: if matched {
                OrthogonalNormalization::MatchGradNorm
            } else {
                OrthogonalNormalization::Raw
            },
            weight_decay,
            decoupled_weight_decay: decoupled,
            ..Config::default()
        },
    )
}

fn hybrid() -> impl Strategy<Value = Config> {
    let base = prop::sample::select(vec![HybridBase::AdamW, HybridBase::SgdMomentum]);
    let targets = vec![ModulationTarget::Gain, ModulationTarget::Momentum, ModulationTarget::TrustRatio];
    (base, prop::sample::select(targets), 0.0..2.0, 0.0..1.0, prop::sample::select(vec![0.0, 0.01])).prop_map(
        |(hybrid_base, modulation_target, modulation_strength, modulation_max_ratio, weight_decay)| Config {
            hybrid_base,
            modulation_target,
            modulation_strength,
            modulation_max_ratio,
            weight_decay,
            ..Config::default()
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    let form = prop_oneof![classic(), hybrid()];
    let weights = prop_oneof![3 => (0.0..1.0, 0.0..1.0), 1 => Just((0.0, 0.0)), 1 => Just((1.0, 0.0))];
    let alpha = (0.05..0.9, 1.0..4.0, prop::sample::select(vec![0.0, 0.5, 1.0, 2.0]), prop::bool::weighted(0.8));
    let norms = (prop::sample::select(vec![0.5, 1.0, 1e9]), 0.001..1.0, 0.0..1.0);
    (form, prop::bool::weighted(0.1), weights, alpha, norms, prop::sample::select(vec![1e-8, 1e-6])).prop_map(
        |(form, ablation, (first, second), (min_alpha, max_alpha, scale, parameterwise), norms, eps)| {
            let activity_weight = first;
            let gradient_weight = (1.0 - first) * second;
            Config {
                mode: if ablation { Mode::AblationGradOnly } else { Mode::RuleBased },
                activity_weight,
                gradient_weight,
                memory_weight: 1.0 - activity_weight - gradient_weight,
                plasticity_scale: scale,
                min_alpha,
                max_alpha,
                parameterwise,
                max_update_norm: norms.0,
                target_rms: norms.1,
                adaptation_rate: norms.2,
                eps,
                ..form
            }
        },
    )
}

fn inputs() -> impl Strategy<Value = Inputs> {
    let gate = || prop::sample::select(vec![0.0f32, 0.3, 1.0]);
    (1e-4f32..0.1, gate(), prop::sample::select(vec![0.0f32, 1.0]), gate(), 0.8f32..1.2).prop_map(
        |(learning_rate, warm_up, phase, orthogonal, multiplier)| Inputs {
            learning_rate,
            step: 0,
            gates: Gates { warm_up, phase, orthogonal },
            multiplier,
        },
    )
}

/// Values in (−1, 1), a tenth of them zero.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            if (state >> 33).is_multiple_of(10) { 0.0 } else { value }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_fused_step_agrees_with_the_reference(
        config in config(),
        inputs in inputs(),
        n in prop_oneof![1usize..200, BLOCK - 9..BLOCK + 9, 2 * BLOCK..2 * BLOCK + 40],
        scale in prop::sample::select(vec![1e-3f32, 1e-1, 1.0, 1e3]),
        seed in any::<u64>(),
    ) {
        // Matching the gradient's norm blows up what little of p is not along g, rounding included, without bound: no
        // allowance holds for every gradient. The golden vectors cover that form.
        prop_assume!(!config.orthogonal_residual || config.orthogonal_normalization == OrthogonalNormalization::Raw);
        let mut tensor = Owned::new(&config, noise(n, seed), vec![]);
        let mut state = reference::State::new(wide(&tensor.parameter));
        let workspace = Workspace::new();
        for t in 0..STEPS {
            tensor.gradient = noise(n, seed ^ (t as u64 + 1) << 8).iter().map(|g| g * scale).collect();
            let gradient = wide(&tensor.gradient);
            let inputs = Inputs { step: t, ..inputs };
            let traces = Traces {
                gradient: tensor.gradient.as_slice(),
                activity_trace: &tensor.activity_trace,
                momentum: &tensor.momentum,
                variance: &tensor.variance,
            };
            let signal = f64::from(plasticity_signal(&config, &inputs.gates, traces).unwrap());
            let expected = reference::plasticity_signal(&config, &inputs, &state, &gradient);
            // A mean of logarithms of both signs, each of some units, is as exact as they are.
            assert_close("signal", &[signal], &[expected], 4e-5, 2e-5);

            let before = state.parameter.clone();
            let mut diagnostics = Diagnostics::new();
            step(&config, &inputs, tensor.tensors(), &workspace, Some(&mut diagnostics)).unwrap();
            let seen = reference::step(&config, &inputs, &mut state, &gradient).unwrap();
            let moved = before.iter().zip(&state.parameter).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert_close("parameter", &wide(&tensor.parameter), &state.parameter, 2e-6 + 2e-5 * moved, 2e-5);
            let found = [
                diagnostics.alpha.mean().unwrap(),
                diagnostics.raw_update_norm(),
                diagnostics.effective_update_norm(),
                diagnostics.plasticity_delta_norm(),
            ];
            let mean = seen.alpha.iter().sum::<f64>() / n as f64;
            let expected =
                [mean, seen.raw_update_norm, seen.effective_update_norm, seen.plasticity_delta_norm];
            // A difference of nearly equal α is as exact as they are, relative to g.
            let gradient_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert_close("diagnostics", &found, &expected, 2e-6 * (1.0 + gradient_norm), 5e-5);
        }
        let states = [&state.activity_trace, &state.momentum, &state.variance, &state.base_momentum, &state.base_variance];
        for ((name, found), expected) in tensor.states().into_iter().zip(states) {
            if !found.is_empty() {
                // Signed sums cancel: they are as exact as their terms.
                let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
                assert_close(name, &wide(found), expected, 2e-6 + 1e-6 * largest, 2e-5);
            }
        }
    }
}
