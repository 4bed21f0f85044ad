//! Vectors made by the method's authors' implementation, one JSON file a case, in the folder `NPC_GOLDEN_DIR`; without it
//! `../shared/golden` beside the repository if there is one, else the copy in `tests/golden`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::scopes::Settings;
use super::{Owned, assert_close, wide};
use crate::neuroplastic::{
    AnyTensors, Diagnostics, Inputs, Job, Traces, Workspace, plasticity_signal, reference, step_many,
};

pub(super) const ABSOLUTE: f64 = 2e-6;
pub(super) const RELATIVE: f64 = 2e-5;

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("NPC_GOLDEN_DIR") {
        return folder.into();
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = repository.join("../shared/golden");
    if shared.is_dir() { shared } else { repository.join("tests/golden") }
}

pub(super) fn cases() -> Vec<Value> {
    let folder = folder();
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("golden vectors in {folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() >= 25, "{folder:?} holds {} golden files, there are at least 25", paths.len());
    paths.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

pub(super) fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|value| value as f32).collect()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

#[test]
fn the_fused_step_agrees_with_the_golden_vectors() {
    for case in cases() {
        fused(&case);
    }
}

fn fused(case: &Value) {
    let name = case["case"].as_str().unwrap();
    let settings = Settings(case["settings"].as_object().unwrap());
    let epochs = case["total_epochs"].as_f64().unwrap();
    let shapes = list(&case["shapes"]);
    let count = shapes.len();
    let configs: Vec<_> = (0..count).map(|i| settings.config(i, count, list(&shapes[i]).len())).collect();
    let mut tensors: Vec<_> = list(&case["initial_params"])
        .iter()
        .zip(&configs)
        .map(|(parameter, config)| Owned::new(config, floats(parameter), vec![]))
        .collect();
    let mut diagnostics = Diagnostics::new();
    let workspace = Workspace::new();
    for (t, step) in list(&case["steps"]).iter().enumerate() {
        let gates = settings.gates(step["epoch"].as_f64().unwrap(), epochs);
        let mut signals = vec![];
        for ((tensor, gradient), config) in tensors.iter_mut().zip(list(&step["grads"])).zip(&configs) {
            tensor.gradient = floats(gradient);
            let traces = Traces {
                gradient: tensor.gradient.as_slice(),
                activity_trace: &tensor.activity_trace,
                momentum: &tensor.momentum,
                variance: &tensor.variance,
            };
            signals.push(f64::from(plasticity_signal(config, &gates, traces).unwrap()));
        }
        let control = settings.controller(&signals);
        let mut seen = vec![Diagnostics::new(); count];
        let mut jobs: Vec<Job<'_>> = (tensors.iter_mut().zip(&configs).zip(&control).zip(&mut seen))
            .map(|(((tensor, config), &(signal, multiplier)), seen)| {
                seen.controller_signal.record(signal);
                let lr = settings.number("lr", 1e-3) as f32;
                let inputs = Inputs { learning_rate: lr, step: t as i64, gates, multiplier: multiplier as f32 };
                Job { config, inputs, tensors: AnyTensors::F32(tensor.tensors()), diagnostics: Some(seen) }
            })
            .collect();
        step_many(&mut jobs, &workspace).unwrap();
        seen.iter().for_each(|seen| diagnostics.merge(seen));
        for (i, (tensor, expected)) in tensors.iter().zip(list(&step["params"])).enumerate() {
            let what = format!("{name}: parameter {i} after step {t}");
            assert_close(&what, &wide(&tensor.parameter), &numbers(expected), ABSOLUTE, RELATIVE);
        }
    }
    for (i, (tensor, expected)) in tensors.iter().zip(list(&case["final_state"])).enumerate() {
        for (state, values) in tensor.states() {
            // Files hold zeros for the states that a base does not keep.
            let expected = numbers(&expected[state]);
            if values.is_empty() {
                assert!(expected.iter().all(|&value| value == 0.0), "{name}: {state} {i} is kept after all");
            } else {
                assert_close(&format!("{name}: {state} {i}"), &wide(values), &expected, ABSOLUTE, RELATIVE);
            }
        }
    }
    compare_diagnostics(name, &diagnostics, &case["diagnostics"]);
}

fn compare_diagnostics(name: &str, found: &Diagnostics, expected: &Value) {
    let fields = expected.as_object().unwrap();
    assert!(fields.len() >= 12, "{name}: {} diagnostics", fields.len());
    for (field, expected) in fields {
        let value = match field.as_str() {
            "alpha_mean" => found.alpha.mean().unwrap(),
            "alpha_std" => found.alpha_std().unwrap(),
            "alpha_min" => found.alpha.min,
            "alpha_max" => found.alpha.max,
            "alpha_median" => found.alpha_median().unwrap(),
            "alpha_fraction_near_min" => found.alpha_fraction_near_min().unwrap(),
            "alpha_fraction_near_max" => found.alpha_fraction_near_max().unwrap(),
            "raw_gradient_norm" => found.gradient_norm(),
            "parameter_norm" => found.parameter_norm(),
            "raw_update_norm" => found.raw_update_norm(),
            "effective_update_norm" => found.effective_update_norm(),
            "plasticity_delta_norm" => found.plasticity_delta_norm(),
            "controller_signal_mean" => found.controller_signal.mean().unwrap(),
            "controller_signal_min" => found.controller_signal.min,
            "controller_signal_max" => found.controller_signal.max,
            "controller_multiplier_mean" => found.controller_multiplier.mean().unwrap(),
            "controller_multiplier_min" => found.controller_multiplier.min,
            "controller_multiplier_max" => found.controller_multiplier.max,
            other => panic!("{name}: diagnostic {other} is not compared"),
        };
        assert_close(&format!("{name}: {field}"), &[value], &[expected.as_f64().unwrap()], ABSOLUTE, RELATIVE);
    }
}

#[test]
fn the_reference_agrees_with_the_golden_vectors() {
    for case in cases() {
        let name = case["case"].as_str().unwrap();
        let settings = Settings(case["settings"].as_object().unwrap());
        let epochs = case["total_epochs"].as_f64().unwrap();
        let shapes = list(&case["shapes"]);
        let count = shapes.len();
        let configs: Vec<_> = (0..count).map(|i| settings.config(i, count, list(&shapes[i]).len())).collect();
        let initial = list(&case["initial_params"]);
        let mut states: Vec<_> = initial.iter().map(|values| reference::State::new(numbers(values))).collect();
        for (t, step) in list(&case["steps"]).iter().enumerate() {
            let gates = settings.gates(step["epoch"].as_f64().unwrap(), epochs);
            let lr = settings.number("lr", 1e-3) as f32;
            let inputs = Inputs { gates, ..Inputs::new(lr, t as i64) };
            let gradients: Vec<_> = list(&step["grads"]).iter().map(numbers).collect();
            let signals: Vec<f64> = (0..count)
                .map(|i| reference::plasticity_signal(&configs[i], &inputs, &states[i], &gradients[i]))
                .collect();
            let control = settings.controller(&signals);
            for i in 0..count {
                let inputs = Inputs { multiplier: control[i].1 as f32, ..inputs };
                reference::step(&configs[i], &inputs, &mut states[i], &gradients[i]);
                let expected = numbers(&list(&step["params"])[i]);
                let what = format!("{name}: parameter {i} after step {t}");
                assert_close(&what, &states[i].parameter, &expected, ABSOLUTE, RELATIVE);
            }
        }
    }
}
