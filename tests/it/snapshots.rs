//! The rewritten graph of every shipped PyTorch step, as text.

use crate::model;
use npc_compiler::graph::text;
use npc_compiler::{Base, CompileOptions, Emit, Optimizer, compile, onnx};

fn snapshot(file: &str, name: &str, options: &CompileOptions) {
    snapshot_in("pytorch-train-step", file, name, options);
}

fn snapshot_in(folder: &str, file: &str, name: &str, options: &CompileOptions) {
    let compiled = compile(onnx::load(&model(&format!("{folder}/{file}.onnx"))).unwrap(), options).unwrap();
    assert!(compiled.report.unmatched.is_empty());
    insta::with_settings!({snapshot_path => "../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!(format!("{file}-{name}"), text::print(&compiled.model));
    });
}

#[test]
fn rewritten_pytorch_steps() {
    for file in [
        "mlp_sgd",
        "mlp_momentum",
        "mlp_adamw",
        "mlp_adam_lerp",
        "mlp_rmsprop",
        "mlp_adamw_unoptimized",
        "transformer_adamw",
    ] {
        snapshot(file, "neuroplastic", &CompileOptions::default());
    }
}

#[test]
fn rewritten_jax_steps() {
    for file in ["mlp_optax_sgd", "mlp_optax_momentum", "mlp_optax_adam"] {
        snapshot_in("jax-train-step", file, "neuroplastic", &CompileOptions::default());
    }
}

#[test]
fn rewritten_convolutional_step() {
    snapshot_in("cnn-train-step", "cnn_adamw", "neuroplastic", &CompileOptions::default());
}

#[test]
fn rewritten_language_model_step() {
    snapshot_in("gpt-train-step", "gpt_adamw", "neuroplastic", &CompileOptions::default());
}

#[test]
fn training_information_beside_the_inference_graph() {
    let options = CompileOptions { emit: Emit::TrainingInfo, optimizer: Optimizer::Keep, ..CompileOptions::default() };
    snapshot("mlp_sgd", "training-info", &options);
}

#[test]
fn kept_and_forced() {
    snapshot("mlp_adamw", "keep", &CompileOptions { optimizer: Optimizer::Keep, ..CompileOptions::default() });
    snapshot("mlp_adamw", "classic", &CompileOptions { base: Base::Classic, ..CompileOptions::default() });
}

#[test]
fn a_difference_is_shown_with_its_operators() {
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let original = onnx::load(&step).unwrap();
    let compiled = compile(original.clone(), &CompileOptions::default()).unwrap();
    insta::with_settings!({snapshot_path => "../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("mlp_sgd-diff", npc_compiler::graph::diff::diff(&original, &compiled.model));
    });
}
