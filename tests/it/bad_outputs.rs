//! Outputs that cannot be written: a sentence, and nothing half done. Ends of runs that nobody wished for.

use crate::bad_input::one_sentence;
use crate::{model, npc, root, stdout, text};
use std::path::Path;
use std::process::Command;

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs a shell line in which `npc` is the command; its exit code and standard error.
fn shell(line: &str) -> (Option<i32>, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_npc")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash").args(["-c", line]).env("PATH", path).current_dir(root()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_full_disk_or_a_wrong_place() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let inside_a_file = step.join("out.onnx");
    for (target, word) in [
        ("/dev/full", "No space left"),
        ("/no/such/folder/out.onnx", "there is no folder /no/such/folder"),
        (text(folder.path()), "it is a folder"),
        (text(&inside_a_file), "cannot write"),
    ] {
        one_sentence(&npc(["compile", text(&step), "-o", target]), 3, word);
        one_sentence(&npc(["compile", text(&step), "-o", target, "--external-data"]), 3, "");
    }
    assert_eq!(files(folder.path()), [""; 0]);
    // What was there stays.
    let out = folder.path().join("out.onnx");
    std::fs::write(&out, "old").unwrap();
    let mut permissions = std::fs::metadata(&out).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&out, permissions).unwrap();
    one_sentence(&npc(["compile", text(&step), "-o", text(&out)]), 3, "read-only");
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
}

#[test]
fn a_report_or_dump_that_cannot_be_written_leaves_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let out = folder.path().join("out.onnx");
    let inside_a_file = step.join("dump");
    for (option, target) in [
        ("--report", "/dev/full"),
        ("--report", "/no/such/folder/report.json"),
        ("--report", text(folder.path())),
        ("--dump-passes", text(&inside_a_file)),
    ] {
        one_sentence(&npc(["compile", text(&step), "-o", text(&out), option, target]), 3, "cannot write");
        assert_eq!(files(folder.path()), [""; 0], "{option} {target}");
    }
    // A model that cannot be written leaves no report.
    let report = folder.path().join("report.json");
    one_sentence(&npc(["compile", text(&step), "-o", "/dev/full", "--report", text(&report)]), 3, "No space left");
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn standard_output_and_error_may_be_closed_or_full() {
    assert_eq!(
        shell("npc inspect models/pytorch-train-step/transformer_adamw.onnx | head -1; exit ${PIPESTATUS[0]}").0,
        Some(0)
    );
    let (code, message) = shell("npc inspect models/pytorch-train-step/mlp_sgd.onnx > /dev/full");
    assert_eq!(code, Some(3));
    assert!(message.contains("cannot write to standard output"), "{message}");
    // Two models that differ, whoever reads it.
    let differ = "npc diff models/pytorch-train-step/mlp_sgd.onnx models/pytorch-train-step/mlp_momentum.onnx";
    assert_eq!(shell(&format!("{differ} | true; exit ${{PIPESTATUS[0]}}")).0, Some(1));
    // A run goes on when nobody watches it any more.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let train = format!(
        "npc train models/pytorch-train-step/mlp_sgd.onnx --data fashion-mnist-10k --epochs 2 --out {}",
        text(&out)
    );
    assert_eq!(shell(&format!("{train} 2>/dev/full >/dev/null")).0, Some(0));
    assert_eq!(shell(&format!("{train} 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}")).0, Some(0));
    assert_eq!(std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn a_run_that_cannot_write_says_so_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let out = folder.path().join("run");
    let train = |out: &Path, extra: &[&str]| {
        let common = ["train", text(&step), "--data", "fashion-mnist-10k", "--lr", "0.1", "--out", text(out)];
        npc(common.iter().chain(extra))
    };
    one_sentence(&train(&step, &["--epochs", "1"]), 3, "cannot write");
    one_sentence(&train(&out, &["--resume"]), 3, "start without --resume");
    stdout(&train(&out, &["--epochs", "1"]));
    // No room for a second epoch: the checkpoint of the first is whole, and the run goes on from it afterwards.
    let before = std::fs::read(out.join("checkpoint.safetensors")).unwrap();
    let limited = "ulimit -f 100; trap '' XFSZ; exec npc train models/pytorch-train-step/mlp_sgd.onnx";
    let (code, message) =
        shell(&format!("{limited} --data fashion-mnist-10k --lr 0.1 --epochs 2 --resume --out {}", text(&out)));
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("cannot write") && message.contains("checkpoint.safetensors"), "{message}");
    assert_eq!(std::fs::read(out.join("checkpoint.safetensors")).unwrap(), before);
    assert_eq!(files(&out), ["checkpoint.safetensors", "metrics.jsonl", "model.onnx"]);
    stdout(&train(&out, &["--epochs", "2", "--resume"]));
    assert_eq!(std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn a_loss_that_is_no_number_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (step, out) = (model("pytorch-train-step/mlp_momentum.onnx"), folder.path().join("run"));
    let output = npc([
        "train",
        text(&step),
        "--data",
        "fashion-mnist-10k",
        "--optimizer",
        "keep",
        "--lr",
        "1e30",
        "--out",
        text(&out),
    ]);
    one_sentence(&output, 3, "lower --lr");
    assert_eq!(files(&out), ["metrics.jsonl"]);
}
