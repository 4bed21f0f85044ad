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
        (
            "pytorch-train-step/mlp_adamw_unoptimized.onnx",
            &["--preset", "paper", "--base", "classic", "--lr", "0.1"],
            0.6,
        ),
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
fn a_convolutional_network_learns_real_images() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    stdout(&train("cnn-train-step/cnn_adamw.onnx", &out, &["--lr", "0.001", "--epochs", "1"]));
    let accuracy = last(&out)["test_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.68, "{accuracy}");
}

/// The licence as a byte text, from an archive whose arrays are named like the model's inputs.
#[test]
fn a_transformer_learns_a_text() {
    const LENGTH: usize = 32;
    let bytes = std::fs::read(crate::root().join("LICENSE-APACHE")).unwrap();
    let tokens: Vec<i64> = bytes.iter().map(|b| i64::from(b.saturating_sub(32).min(95))).collect();
    let mut counts = [0.0f64; 96];
    tokens.iter().for_each(|t| counts[*t as usize] += 1.0);
    let share = |count: &f64| count / tokens.len() as f64;
    let entropy: f64 = -counts.iter().map(share).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>();
    let starts: Vec<usize> = (0..tokens.len() - LENGTH).step_by(6).collect();
    let rows = |from: usize| -> ndarray::Array2<i64> {
        ndarray::Array2::from_shape_fn((starts.len(), LENGTH), |(row, i)| tokens[starts[row] + i + from])
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("tokens.npz"), folder.path().join("run"));
    let mut archive = ndarray_npy::NpzWriter::new(std::fs::File::create(&data).unwrap());
    archive.add_array("x", &rows(0)).unwrap();
    archive.add_array("y", &rows(1)).unwrap();
    archive.finish().unwrap();
    let step = model("pytorch-train-step/transformer_adamw.onnx");
    stdout(&npc([
        "train",
        text(&step),
        "--data",
        text(&data),
        "--lr",
        "0.002",
        "--epochs",
        "1",
        "--seed",
        "1",
        "--out",
        text(&out),
    ]));
    let loss = last(&out)["test_loss"].as_f64().unwrap();
    assert!(entropy > 2.5 && loss < entropy, "loss {loss}, unigram entropy {entropy}");
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
    let step = model("gpt-train-step/gpt_adamw.onnx");
    for options in [&[][..], &["--optimizer", "keep"]] {
        stdout(&npc([&["compile", text(&step), "-o", text(&out)], options].concat()));
        let report = stdout(&npc(["verify", text(&step), text(&out)]));
        assert!(report.contains("29 tensors agree"), "{report}");
    }
    let step = model("pytorch-train-step/transformer_adamw.onnx");
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

/// Ends a run after a number of steps, as Ctrl-C does.
struct StopAfter(usize);

impl npc_runtime::train::Observer for StopAfter {
    fn step(&mut self, _: &npc_runtime::train::Progress) {
        self.0 = self.0.saturating_sub(1);
    }
    fn epoch(&mut self, _: &npc_runtime::train::Epoch) {}
    fn stop(&mut self) -> bool {
        self.0 == 0
    }
}

#[test]
fn a_run_stopped_inside_an_epoch_goes_on_where_it_was() {
    use npc_compiler::{CompileOptions, compile, onnx};
    use npc_runtime::train::{TrainOptions, train};
    let folder = tempfile::tempdir().unwrap();
    let original = onnx::load(&model("pytorch-train-step/mlp_adamw.onnx")).unwrap();
    let compiled = compile(original, &CompileOptions::default()).unwrap();
    let run = |out: &str, resume: bool, stop: usize| {
        let options = TrainOptions {
            data: text(&model("fashion-mnist")).into(),
            epochs: 2,
            lr: Some(0.001),
            seed: 7,
            threads: 2,
            out: folder.path().join(out),
            resume,
            ..TrainOptions::default()
        };
        train(&compiled.model, &compiled.bindings, &options, &mut StopAfter(stop)).unwrap()
    };
    assert!(!run("whole", false, usize::MAX).interrupted);
    assert!(run("parts", false, 100).interrupted);
    assert!(run("parts", true, 700).interrupted);
    // A line whose epoch the checkpoint does not hold: written just before a crash.
    let metrics = folder.path().join("parts/metrics.jsonl");
    let lines = std::fs::read_to_string(&metrics).unwrap();
    assert_eq!(lines.lines().count(), 1);
    std::fs::write(&metrics, format!("{lines}{lines}")).unwrap();
    assert!(!run("parts", true, usize::MAX).interrupted);
    let read = |run: &str, file: &str| std::fs::read(folder.path().join(run).join(file)).unwrap();
    assert_eq!(read("whole", "model.onnx"), read("parts", "model.onnx"));
    assert_eq!(std::fs::read_to_string(&metrics).unwrap().lines().count(), 2);
    let (a, b) = (last(&folder.path().join("whole")), last(&folder.path().join("parts")));
    for key in ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"] {
        assert_eq!(a[key], b[key], "{key}");
    }
}
