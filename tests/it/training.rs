//! Real runs on the shipped images.

use crate::{model, npc, stdout, text};

fn last(out: &std::path::Path) -> serde_json::Value {
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    serde_json::from_str(metrics.lines().last().unwrap()).unwrap()
}

fn train(step: &str, out: &std::path::Path, extra: &[&str]) -> std::process::Output {
    let step = model(step);
    let mut arguments = vec!["train", text(&step), "--data", "fashion-mnist-10k", "--seed", "1", "--out", text(out)];
    arguments.extend(extra);
    npc(arguments)
}

#[test]
fn every_shipped_mlp_learns_real_images() {
    let folder = tempfile::tempdir().unwrap();
    for (step, options, wanted) in [
        ("pytorch-train-step/mlp_sgd.onnx", &["--lr", "0.1"][..], 0.75),
        ("pytorch-train-step/mlp_momentum.onnx", &["--lr", "0.01"], 0.75),
        ("pytorch-train-step/mlp_adamw.onnx", &["--lr", "0.001"], 0.75),
        ("pytorch-train-step/mlp_adam_lerp.onnx", &["--lr", "0.001"], 0.75),
        ("pytorch-train-step/mlp_rmsprop.onnx", &["--lr", "0.1"], 0.7),
        ("pytorch-train-step/mlp_adamw_unoptimized.onnx", &["--lr", "0.001"], 0.75),
        ("pytorch-train-step/mlp_adamw_unoptimized.onnx", &["--lr", "0.001", "--optimizer", "keep"], 0.75),
        ("pytorch-train-step/mlp_adamw_unoptimized.onnx", &["--preset", "paper", "--base", "classic", "--lr", "0.1"], 0.6),
        ("pytorch-train-step/mlp_adamw.onnx", &["--lr", "0.001", "--optimizer", "keep"], 0.75),
        ("jax-train-step/mlp_optax_sgd.onnx", &["--lr", "0.1"], 0.7),
        ("jax-train-step/mlp_optax_adam.onnx", &["--lr", "0.001"], 0.75),
        ("jax-train-step/mlp_optax_momentum.onnx", &["--lr", "0.02"], 0.7),
    ] {
        let out = folder.path().join("run");
        stdout(&train(step, &out, &[options, &["--epochs", "3"]].concat()));
        let accuracy = last(&out)["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > wanted, "{step} {options:?}: {accuracy}");
        // The trained model is a model again.
        stdout(&npc(["inspect", text(&out.join("model.onnx"))]));
    }
}

#[test]
fn a_resumed_run_ends_like_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let step = "pytorch-train-step/mlp_momentum.onnx";
    let common = ["--lr", "0.01", "--threads", "1"];
    stdout(&train(step, &whole, &[&common[..], &["--epochs", "2"]].concat()));
    stdout(&train(step, &parts, &[&common[..], &["--epochs", "1"]].concat()));
    stdout(&train(step, &parts, &[&common[..], &["--epochs", "2", "--resume"]].concat()));
    let (a, b) = (last(&whole), last(&parts));
    for key in ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"] {
        assert_eq!(a[key], b[key], "{key}");
    }
    let read = |run: &std::path::Path| std::fs::read(run.join("model.onnx")).unwrap();
    assert_eq!(read(&whole), read(&parts));
}

#[test]
fn verify_tells_equal_from_different() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    let step = model("pytorch-train-step/transformer_adamw.onnx");
    stdout(&npc(["compile", text(&step), "-o", text(&out)]));
    let report = stdout(&npc(["verify", text(&step), text(&out)]));
    assert!(report.contains("38 tensors agree"), "{report}");
    // A model whose forward pass was changed: one Relu taken out.
    let mut changed = npc_compiler::onnx::load(&model("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    let graph = &mut changed.graph;
    let relu = graph.node_ids().find(|id| graph.node(*id).op_type == "Relu").unwrap();
    graph.node_mut(relu).op_type = "Tanh".into();
    let other = folder.path().join("other.onnx");
    npc_compiler::onnx::save(&changed, &other, &Default::default()).unwrap();
    let output = npc(["verify", text(&model("pytorch-train-step/mlp_sgd.onnx")), text(&other)]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(npc(["diff", text(&step), text(&out)]).status.code(), Some(1));
    assert_eq!(npc(["diff", text(&step), text(&step)]).status.code(), Some(0));
}
