//! Ctrl-C, as a terminal sends it.

use crate::{model, npc, root, stdout, text};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn start(out: &Path, extra: &[&str]) -> Child {
    let step = model("pytorch-train-step/mlp_adamw.onnx");
    let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
    command.args(arguments(&step, out, extra)).current_dir(root());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn arguments<'a>(step: &'a Path, out: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    let common = ["train", text(step), "--data", "fashion-mnist-10k", "--epochs", "12", "--lr", "0.001", "--seed", "3"];
    common.into_iter().chain(["--threads", "1", "--out", text(out)]).chain(extra.iter().copied()).collect()
}

fn lines(out: &Path) -> usize {
    std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn a_signal_saves_and_resuming_ends_bit_for_bit_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let step = model("pytorch-train-step/mlp_adamw.onnx");
    let mut child = start(&parts, &[]);
    let patience = Instant::now() + Duration::from_secs(120);
    while lines(&parts) < 1 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    // A moment into the second epoch.
    std::thread::sleep(Duration::from_millis(20));
    assert!(child.try_wait().unwrap().is_none(), "the run was over before it could be interrupted");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("everything is saved") && said.contains("--resume"), "{said}");
    let done = lines(&parts);
    assert!((1..12).contains(&done), "{done} epochs");
    stdout(&npc(arguments(&step, &parts, &["--resume"])));
    stdout(&npc(arguments(&step, &whole, &[])));
    let read = |run: &Path, file: &str| std::fs::read(run.join(file)).unwrap();
    for file in ["model.onnx", "checkpoint.safetensors"] {
        assert!(read(&whole, file) == read(&parts, file), "{file} differs");
    }
    let measured = |run: &Path| -> Vec<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let line = |l: &str| -> Vec<serde_json::Value> {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(l).unwrap();
            let keys: Vec<&String> = object.keys().collect();
            let wanted = "epoch train_loss train_accuracy test_loss test_accuracy seconds samples_per_second";
            assert_eq!(keys, wanted.split(' ').collect::<Vec<_>>());
            object.values().take(5).cloned().collect()
        };
        text.lines().map(line).collect()
    };
    assert_eq!(measured(&whole).len(), 12);
    assert_eq!(measured(&whole), measured(&parts));
}
