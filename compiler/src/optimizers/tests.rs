//! Recognition on the real training steps under `models/`.

use super::*;
use std::path::Path;

fn recognised(file: &str) -> (Model, Recognition) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
    let model = crate::onnx::load(&path).unwrap();
    let found = recognise(&model, &RecogniseOptions::default()).unwrap();
    (model, found)
}

fn number(m: &Match, name: &str) -> f64 {
    match m.settings[name] {
        Setting::Number(x) => x,
        Setting::Input(_) => panic!("{name} is an input"),
    }
}

fn all_are(file: &str, count: usize, kind: Kind) -> (Model, Recognition) {
    let (model, found) = recognised(file);
    assert_eq!(found.unmatched, [], "{file}");
    assert_eq!(found.matches.len(), count, "{file}");
    assert!(found.matches.iter().all(|m| m.kind == kind), "{file}: {:?}", found.matches[0].kind);
    (model, found)
}

#[test]
fn pytorch_sgd() {
    let (model, found) = all_are("pytorch-train-step/mlp_sgd.onnx", 6, Kind::Sgd);
    for m in &found.matches {
        assert_eq!(m.learning_rate, Rate { value: model.graph.value_named("lr"), scale: 1.0 });
        assert_eq!(number(m, "weight_decay"), 0.0);
    }
    assert_eq!(model.graph.name_of(found.matches[0].gradient), "mm_4");
    assert_eq!(model.graph.name_of(found.matches[1].gradient), "view_3");
}

#[test]
fn pytorch_momentum() {
    let (_, found) = all_are("pytorch-train-step/mlp_momentum.onnx", 6, Kind::Momentum);
    assert_eq!((number(&found.matches[0], "momentum"), number(&found.matches[0], "weight_decay")), (0.9, 5e-4));
}

#[test]
fn pytorch_adamw_without_epsilon() {
    let (model, found) = all_are("pytorch-train-step/mlp_adamw.onnx", 6, Kind::AdamW);
    for m in &found.matches {
        assert!(m.epsilon_missing && m.decoupled_weight_decay);
        assert_eq!((number(m, "beta1"), number(m, "beta2"), number(m, "weight_decay")), (0.9, 0.999, 0.01));
        assert_eq!(m.step, Some(StepInput { value: model.graph.value_named("step").unwrap(), first: 1.0 }));
        assert_eq!(
            m.states.iter().map(|s| s.role).collect::<Vec<_>>(),
            [StateRole::FirstMoment, StateRole::SecondMoment]
        );
    }
}

#[test]
fn pytorch_adam_written_with_lerp() {
    let (_, found) = all_are("pytorch-train-step/mlp_adam_lerp.onnx", 6, Kind::Adam);
    assert!(found.matches.iter().all(|m| m.epsilon_missing && !m.decoupled_weight_decay));
}

#[test]
fn pytorch_adamw_as_exported_without_optimisation() {
    let (_, found) = all_are("pytorch-train-step/mlp_adamw_unoptimized.onnx", 6, Kind::AdamW);
    assert!(found.matches.iter().all(|m| !m.epsilon_missing && number(m, "epsilon") == 1e-8));
}

#[test]
fn pytorch_transformer() {
    all_are("pytorch-train-step/transformer_adamw.onnx", 37, Kind::AdamW);
    all_are("gpt-train-step/gpt_adamw.onnx", 28, Kind::AdamW);
}

#[test]
fn pytorch_rmsprop() {
    let (_, found) = all_are("pytorch-train-step/mlp_rmsprop.onnx", 6, Kind::RmsProp);
    assert!(found.matches.iter().all(|m| m.epsilon_missing && number(m, "alpha") == 0.99));
}

#[test]
fn jax_steps() {
    let (_, found) = all_are("jax-train-step/mlp_optax_sgd.onnx", 4, Kind::Sgd);
    assert_eq!(found.matches[0].learning_rate, Rate { value: None, scale: 0.1 });
    let (_, found) = all_are("jax-train-step/mlp_optax_momentum.onnx", 4, Kind::Momentum);
    assert_eq!(number(&found.matches[0], "momentum"), 0.9);
    let (_, found) = all_are("jax-train-step/mlp_optax_adam.onnx", 4, Kind::Adam);
    assert_eq!(number(&found.matches[0], "epsilon"), 1e-8);
}

#[test]
fn onnx_test_vectors() {
    for (folder, kind, count) in [
        ("test_adam", Kind::Adam, 1),
        ("test_adam_multiple", Kind::Adam, 2),
        ("test_adagrad", Kind::Adagrad, 1),
        ("test_adagrad_multiple", Kind::Adagrad, 2),
        ("test_momentum", Kind::Momentum, 1),
        ("test_momentum_multiple", Kind::Momentum, 2),
        ("test_nesterov_momentum", Kind::Nesterov, 1),
    ] {
        all_are(&format!("onnx-testvectors/{folder}/model.onnx"), count, kind);
    }
    let (_, found) = recognised("onnx-testvectors/test_adam/model.onnx");
    assert_eq!((number(&found.matches[0], "beta1"), number(&found.matches[0], "weight_decay")), (0.95, 0.001));
}
