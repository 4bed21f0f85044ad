//! What each command prints and writes, on the shipped models.

use crate::{model, npc, root, stdout, text};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Every shipped training step.
fn steps() -> Vec<PathBuf> {
    let folders = ["pytorch-train-step", "jax-train-step", "cnn-train-step"].map(model);
    let files = folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path());
    let mut steps: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    steps.sort();
    assert_eq!(steps.len(), 12);
    steps
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn every_shipped_step_compiles_with_every_parameter_matched_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    for step in steps() {
        stdout(&npc(["compile", text(&step), "-o", text(&out), "--report", text(&report)]));
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(keys(&report), ["parameters", "unmatched", "passes", "warnings"]);
        let parameters = report["parameters"].as_array().unwrap();
        assert!(parameters.len() >= 4 && report["unmatched"].as_array().unwrap().is_empty(), "{}", step.display());
        for p in parameters {
            assert_eq!(keys(p), ["name", "shape", "found", "became"]);
            assert_eq!(keys(&p["found"]), ["kind", "settings", "node"]);
            assert_eq!(keys(&p["became"]), ["settings"]);
            assert!(
                p["shape"].as_array().unwrap().iter().all(Value::is_u64) && !keys(&p["found"]["settings"]).is_empty()
            );
            assert_eq!(
                p["became"]["settings"]["max_update_norm"].as_f64() > Some(1.0),
                p["became"]["settings"]["hybrid_base"] != "classic"
            );
        }
        for pass in report["passes"].as_array().unwrap() {
            assert_eq!(keys(pass), ["name", "nodes_before", "nodes_after", "ms"]);
        }
        // A line a tensor: the loss and every gradient, each with its largest deviation.
        let verified = stdout(&npc(["verify", text(&step), text(&out)]));
        assert!(verified.contains(&format!("\n{} tensors agree over 3 steps", parameters.len() + 1)), "{verified}");
        let deviations = verified.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
        assert_eq!(deviations.filter(|d| *d <= 1e-4).count(), parameters.len() + 1, "{verified}");
    }
}

#[test]
fn parameters_left_alone_are_reported_with_reason_and_node() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let mut odd = npc_compiler::onnx::load(&step).unwrap();
    let next = odd.graph.value_named("net.0.bias.next").unwrap();
    let (sub, _) = odd.graph.producer(next).unwrap();
    odd.graph.node_mut(sub).op_type = "Add".into();
    let (input, out, report) =
        (folder.path().join("odd.onnx"), folder.path().join("out.onnx"), folder.path().join("report.json"));
    npc_compiler::onnx::save(&odd, &input, &Default::default()).unwrap();
    let explained = stdout(&npc(["compile", text(&input), "-o", text(&out), "--report", text(&report), "--explain"]));
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let [unmatched] = &report["unmatched"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(keys(unmatched), ["parameter", "reason", "node"]);
    let word = |key: &str| unmatched[key].as_str().unwrap();
    assert_eq!(word("parameter"), "net.0.bias");
    assert!(word("reason").contains("flipped") && word("node").starts_with("Add '"), "{report}");
    let line = format!("net.0.bias: left alone: {} (at {})", word("reason"), word("node"));
    assert!(explained.contains(&line), "{explained}");
    assert_eq!(explained.matches("SGD (lr \"lr\"").count(), 5, "{explained}");
    for pass in report["passes"].as_array().unwrap() {
        assert!(explained.contains(&format!("pass {}", pass["name"].as_str().unwrap())), "{explained}");
    }
}

#[test]
fn every_pass_can_be_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let (out, dump) = (folder.path().join("out.onnx"), folder.path().join("a/b"));
    let step = model("pytorch-train-step/mlp_adamw.onnx");
    stdout(&npc(["compile", text(&step), "-o", text(&out), "--dump-passes", text(&dump)]));
    let mut names: Vec<String> =
        std::fs::read_dir(&dump).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let wanted = ["validate", "inline", "recognise", "rewrite", "controller", "outputs", "clean", "names", "verify"];
    assert_eq!(names, wanted.iter().enumerate().map(|(i, n)| format!("{:02}-{n}.txt", i + 1)).collect::<Vec<_>>());
    let read = |name: &str| std::fs::read_to_string(dump.join(name)).unwrap();
    assert!(!read("03-recognise.txt").contains("NeuroPlastic") && read("04-rewrite.txt").contains("NeuroPlastic"));
    assert!(read("06-outputs.txt").contains("= Sqrt(") && !read("07-clean.txt").contains("= Sqrt("));
}

#[test]
fn a_model_as_text_graph_and_json() {
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let graph = npc_compiler::onnx::load(&step).unwrap().graph;
    let print = stdout(&npc(["inspect", text(&step)]));
    assert!(print.starts_with("model ir ") && print.contains("net.0.weight.next: f32[64, 784] = Sub("), "{print}");
    let dot = stdout(&npc(["inspect", text(&step), "--format", "dot"]));
    assert!(dot.starts_with("digraph ") && dot.trim_end().ends_with('}'), "{dot}");
    assert_eq!(dot.matches('{').count(), dot.matches('}').count());
    assert!(dot.matches(" -> ").count() >= graph.node_count(), "{dot}");
    let json: Value = serde_json::from_str(&stdout(&npc(["inspect", text(&step), "--format", "json"]))).unwrap();
    let nodes = json["graph"]["nodes"].as_array().unwrap();
    assert_eq!(
        (nodes.len(), json["graph"]["inputs"].as_array().unwrap().len()),
        (graph.node_count(), graph.inputs.len())
    );
    assert_eq!(keys(&nodes[0]), ["name", "domain", "op", "inputs", "outputs", "attributes"]);
}

#[test]
fn a_difference_ends_with_a_table_of_operators() {
    let (a, b) = (model("pytorch-train-step/mlp_sgd.onnx"), model("pytorch-train-step/mlp_momentum.onnx"));
    let output = npc(["diff", text(&a), text(&b)]);
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |path: &PathBuf, op: &str| {
        let graph = npc_compiler::onnx::load(path).unwrap().graph;
        graph.node_ids().filter(|id| graph.node(*id).op_type == op).count().to_string()
    };
    for op in ["Mul", "Add"] {
        let row: Vec<&str> =
            printed.lines().filter_map(|l| l.trim().strip_prefix(op)).flat_map(str::split_whitespace).collect();
        assert_eq!(row[..2], [count(&a, op), count(&b, op)], "{printed}");
    }
    let same = npc(["diff", text(&a), text(&a)]);
    assert_eq!((same.status.code(), &same.stdout[..]), (Some(0), &b"no differences\n"[..]));
}

#[test]
fn a_terminal_shows_a_bar_with_loss_accuracy_speed_and_time_left() {
    let folder = tempfile::tempdir().unwrap();
    let (step, out) = (model("pytorch-train-step/mlp_sgd.onnx"), folder.path().join("run"));
    let npc = env!("CARGO_BIN_EXE_npc");
    let line = format!("{npc} train {} --data fashion-mnist-10k --epochs 2 --out {}", text(&step), text(&out));
    // `script` gives the command a terminal.
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).current_dir(root()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    let bar = |line: &&str| {
        ["epoch 1/2 ", "/562 ", "loss 2.", "accuracy ", " %", "/s ", "ETA "].iter().all(|w| line.contains(w))
    };
    assert!(shown.split(['\r', '\n']).any(|line| bar(&line)), "{shown}");
    assert!(shown.contains("epoch 2/2: loss "), "{shown}");
}
