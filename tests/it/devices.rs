//! What the command says about GPUs, on machines with and without one.

use crate::{model, npc, stdout, text};

#[test]
fn devices_are_listed_with_what_is_missing() {
    let listed = stdout(&npc(["devices"]));
    assert!(listed.starts_with("cpu ") && listed.contains("cuBLAS"), "{listed}");
    assert!(listed.contains("cuda:0") || listed.contains("cuda     "), "{listed}");
}

#[test]
fn a_gpu_that_is_not_there_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_adamw.onnx");
    let out = folder.path().join("run");
    let output = npc(["train", text(&step), "--data", "fashion-mnist-10k", "--device", "cuda:99", "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("npc devices") || message.contains("--device cpu"), "{message}");
    assert!(!out.exists());
    let output = npc(["train", text(&step), "--data", "fashion-mnist-10k", "--device", "tpu"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_fallback_is_asked_for_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let out = folder.path().join("run");
    let common = ["train", text(&step), "--data", "fashion-mnist-10k", "--epochs", "1", "--out", text(&out)];
    let output = npc(common.iter().copied().chain(["--device", "cuda:99", "--allow-cpu-fallback"]));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && message.contains("training on the CPU: "), "{message}");
    assert!(out.join("model.onnx").exists());
    for option in [["--precision", "bf16"], ["--loss-scale", "dynamic"], ["--loss-scale", "64"]] {
        let output = npc(common.iter().copied().chain(option));
        assert_eq!(output.status.code(), Some(2), "{option:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--device cuda"), "{option:?}");
    }
}
