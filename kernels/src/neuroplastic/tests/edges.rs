//! Extreme values, half precision, and inputs that must be refused.

use half::{bf16, f16};
use proptest::prelude::*;

use super::{Owned, wide};
use crate::neuroplastic::{
    AnyTensors, Config, Element, HybridBase, Inputs, Job, ModulationTarget, StepError, Tensors, Workspace, step,
    step_many, widen,
};

fn every_form() -> Vec<Config> {
    let mut configs = vec![
        Config::default(),
        Config { plasticity_scale: 2.0, ..Config::default() },
        Config { parameterwise: false, ..Config::default() },
        Config { bounded_residual: true, weight_decay: 0.1, ..Config::default() },
        Config { orthogonal_residual: true, ..Config::default() },
    ];
    for hybrid_base in [HybridBase::AdamW, HybridBase::SgdMomentum] {
        for modulation_target in [ModulationTarget::Gain, ModulationTarget::Momentum, ModulationTarget::TrustRatio] {
            configs.push(Config { hybrid_base, modulation_target, modulation_strength: 1.0, ..Config::default() });
        }
    }
    configs
}

fn stepped<T: Element>(config: &Config, mut tensor: Owned<T>, steps: i64) -> Owned<T> {
    for t in 0..steps {
        step(config, &Inputs::new(0.1, t), tensor.tensors(), &Workspace::new(), None).unwrap();
    }
    tensor
}

#[test]
fn extreme_gradients_give_finite_parameters() {
    for config in every_form() {
        for magnitude in [0.0, f32::from_bits(1), 1e-38, 1e-30, 1e-20, 1e10, 1e19, 1e25, 1e37] {
            for mixed in [false, true] {
                let gradient: Vec<f32> = (0..37)
                    .map(|i| match i % 5 {
                        0 => -magnitude,
                        1 if mixed => 0.0,
                        2 if mixed => 1e-3,
                        _ => magnitude,
                    })
                    .collect();
                let parameter = (0..37).map(|i| i as f32 / 37.0 - 0.5).collect();
                let tensor = stepped(&config, Owned::new(&config, parameter, gradient), 6);
                assert!(
                    tensor.parameter.iter().all(|value| value.is_finite()),
                    "|g| = {magnitude:e} with {config:?}: {:?}",
                    tensor.parameter
                );
            }
        }
    }
}

#[test]
fn a_least_eps_gives_finite_parameters() {
    for mut config in every_form() {
        (config.eps, config.base_eps, config.eps_h) = (1e-45, 1e-45, 1e-45);
        let gradient = vec![0.0, 1e-30, 1e-3, 0.0, 1.0, -2.0, 0.0, 0.0, 0.5];
        let tensor = stepped(&config, Owned::new(&config, vec![0.5; 9], gradient), 3);
        assert!(tensor.parameter.iter().all(|value| value.is_finite()), "{config:?}: {:?}", tensor.parameter);
    }
}

#[test]
fn zero_gradients_leave_parameters_alone() {
    for config in every_form().into_iter().filter(|config| config.weight_decay == 0.0) {
        let tensor = stepped(&config, Owned::new(&config, vec![0.25f32; 40], vec![0.0; 40]), 3);
        assert_eq!(tensor.parameter, vec![0.25; 40], "{config:?}");
    }
}

fn half_agrees<T: Element>(config: &Config, parameter: &[f32], gradient: &[f32], precision: f64) {
    let narrow = |values: &[f32]| values.iter().map(|&value| T::from_f64(f64::from(value))).collect::<Vec<T>>();
    let widened = |values: &[T]| values.iter().map(|value| value.to_f64() as f32).collect::<Vec<f32>>();
    let half = Owned::new(config, narrow(parameter), narrow(gradient));
    let full = Owned::new(config, widened(&half.parameter), widened(&half.gradient));
    let (half, full) = (stepped(config, half, 1), stepped(config, full, 1));
    for (i, (half, full)) in wide(&half.parameter).iter().zip(wide(&full.parameter)).enumerate() {
        let allowed = precision * full.abs() + 1e-7;
        assert!((half - full).abs() <= allowed, "{config:?}: parameter[{i}] is {half}, in float32 {full}");
    }
    for ((name, half), (_, full)) in half.states().into_iter().zip(full.states()) {
        // SGD with momentum reads θ, which is the same here: one step from the same values.
        assert_eq!(half, full, "{config:?}: {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn half_precision_is_float32_rounded_once(
        values in prop::collection::vec((-1.0f32..1.0, -0.1f32..0.1), 1..3000),
        which in 0usize..11,
    ) {
        let config = &every_form()[which];
        let (parameter, gradient): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        half_agrees::<f16>(config, &parameter, &gradient, 1.0 / 2048.0);
        half_agrees::<bf16>(config, &parameter, &gradient, 1.0 / 256.0);
    }
}

#[test]
fn tensors_without_elements_are_left_alone() {
    for config in every_form() {
        let tensor = stepped(&config, Owned::<f32>::new(&config, vec![], vec![]), 2);
        assert!(tensor.parameter.is_empty());
    }
}

#[test]
fn refusals_name_the_culprit_and_write_nothing() {
    let config = Config::default();
    let mut tensor = Owned::new(&config, vec![1.0f32; 4], vec![1.0; 3]);
    let before = tensor.clone();
    let error = step(&config, &Inputs::new(0.1, 0), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error.to_string(), "gradient has 3 elements, 4 are needed");
    assert_eq!(tensor, before);

    let adamw = Config { hybrid_base: HybridBase::AdamW, ..Config::default() };
    let mut tensor = Owned::new(&config, vec![1.0f32; 4], vec![1.0; 4]);
    let error = step(&adamw, &Inputs::new(0.1, 0), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error, StepError::Length { name: "base_momentum", found: 0, expected: 4 });

    let bad = Config { min_alpha: 3.0, ..Config::default() };
    let error = step(&bad, &Inputs::new(0.1, 0), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error.to_string(), "setting min_alpha is 3, it must be at most max_alpha");
    let bad = Config { eps: f64::NAN, ..Config::default() };
    let error = step(&bad, &Inputs::new(0.1, 0), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error.to_string(), "setting eps is NaN, it must be a finite number > 0");

    let error = step(&config, &Inputs::new(f32::NAN, 0), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error.to_string(), "learning_rate is NaN, it must be a finite number");
    let error = step(&config, &Inputs::new(0.1, -1), tensor.tensors(), &Workspace::new(), None).unwrap_err();
    assert_eq!(error, StepError::NegativeStep { step: -1 });
}

#[test]
fn a_bad_job_keeps_the_whole_group_untouched() {
    let config = Config::default();
    let mut good = Owned::new(&config, vec![1.0f32; 4], vec![1.0; 4]);
    let before = good.clone();
    let job = |tensors| Job { config: &config, inputs: Inputs::new(0.1, 0), tensors, diagnostics: None };
    let mut parameter = [1.0f32; 2];
    let bad = Tensors {
        parameter: &mut parameter,
        gradient: &[1.0],
        activity_trace: &mut [0.0; 2],
        momentum: &mut [0.0; 2],
        variance: &mut [0.0; 2],
        base_momentum: &mut [],
        base_variance: &mut [],
    };
    {
        let mut jobs = [job(AnyTensors::F32(good.tensors())), job(AnyTensors::F32(bad))];
        assert!(step_many(&mut jobs, &Workspace::new()).is_err());
    }
    assert_eq!(good, before);
}

#[test]
fn attributes_are_read_as_the_decimals_they_stand_for() {
    for decimal in [0.999, 0.9, 1e-8, 0.01, 2.0, 1e9, 0.02] {
        assert_eq!(widen(decimal as f32), decimal);
    }
}
