//! Every kind of bad input ends with one sentence, the right exit code and no half-written file.

use crate::{model, npc, root, text};
use npc_compiler::graph::{DType, Graph, Model, Node, Opset, ValueType};
use std::path::Path;
use std::process::Output;

/// Compiling `input` must fail with `code` and mention `word`; the output must not appear.
pub fn refused(input: &Path, extra: &[&str], code: i32, word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let mut arguments = vec!["compile", text(input), "-o", text(&out)];
    arguments.extend(extra);
    one_sentence(&npc(arguments), code, word);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
}

pub fn one_sentence(output: &Output, code: i32, word: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(word), "'{word}' is missing in: {message}");
    let errors = message.lines().filter(|l| !l.starts_with("note:") && !l.trim().is_empty()).count();
    assert!(errors == 1 || code == 2, "more than one sentence: {message}");
    assert!(!message.contains("panicked") && !message.contains("failed inside itself"), "{message}");
}

pub fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn files_that_are_no_models() {
    let good = std::fs::read(model("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    refused(file(&good[..good.len() / 2]).path(), &[], 3, "truncated");
    refused(file(b"").path(), &[], 3, "empty");
    refused(file(b"<!DOCTYPE html><html></html>").path(), &[], 3, "web page");
    refused(file(b"PK\x03\x04 a zip archive").path(), &[], 3, "zip");
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    refused(file(&noise).path(), &[], 3, "ONNX");
    refused(file(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]).path(), &[], 3, "beyond");
    refused(Path::new("/no/such/model.onnx"), &[], 3, "cannot read");
    refused(&root(), &[], 3, "folder");
}

fn saved(graph: Graph) -> tempfile::NamedTempFile {
    let model =
        Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph, ..Model::default() };
    file(&npc_compiler::onnx::to_bytes(&model).unwrap())
}

#[test]
fn models_without_an_optimizer() {
    refused(&model("forward/mlp_dynamo.onnx"), &[], 3, "no optimizer");
    let mut graph = Graph::new("ascent");
    let w = graph.add_input("w", ValueType::tensor(DType::F32, &[3, 3]));
    let x = graph.add_input("x", ValueType::tensor(DType::F32, &[3, 3]));
    let lr = graph.add_input("lr", ValueType::tensor(DType::F32, &[]));
    let [g] = graph.add(Node::new("MatMul", [x, w]), ["g"]);
    graph.value_mut(g).ty = Some(ValueType::tensor(DType::F32, &[3, 3]));
    let [step] = graph.add(Node::new("Mul", [lr, g]), ["step"]);
    let [next] = graph.add(Node::new("Add", [w, step]), ["w_next"]);
    graph.value_mut(next).ty = Some(ValueType::tensor(DType::F32, &[3, 3]));
    graph.outputs.push(next);
    refused(saved(graph).path(), &[], 3, "sign of the step is flipped");
}

#[test]
fn wrong_options() {
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    refused(&step, &["--set", "plasticty_scale=2"], 3, "did you mean plasticity_scale");
    refused(&step, &["--set", "adaptation_rate=7"], 3, "between 0 and 1");
    refused(&step, &["--set", "nonsense"], 2, "NAME=VALUE");
    refused(&step, &["--base", "adamax"], 2, "adamw");
    refused(&step, &["--bind", "loss=nothing"], 3, "nothing");
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/out.onnx");
    one_sentence(&npc(["compile", text(&step), "-o", text(&nowhere)]), 3, "cannot write");
    for (option, value) in
        [("--lr", "nan"), ("--lr=-1", ""), ("--epochs", "0"), ("--batch-size", "0"), ("--threads", "0")]
    {
        let arguments = ["train", text(&step), "--data", "fashion-mnist-10k", option, value];
        one_sentence(&npc(arguments.iter().filter(|a| !a.is_empty())), 2, option.trim_end_matches("=-1"));
    }
    one_sentence(&npc(["verify", text(&step), text(&step), "--steps", "0"]), 2, "--steps");
}

#[test]
fn data_that_does_not_fit() {
    let step = model("pytorch-train-step/mlp_adamw_unoptimized.onnx");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let train = |data: &str, extra: &[&str]| {
        let mut arguments = vec!["train", text(&step), "--data", data, "--out", text(&out), "--epochs", "1"];
        arguments.extend(extra);
        npc(arguments)
    };
    one_sentence(&train("no-such-folder", &[]), 3, "no data at");
    one_sentence(&train("fashion-mnist-10k", &["--batch-size", "64"]), 3, "fixed batch of 128");
    let idx = |name: &str, header: &[u8], bytes: &[u8]| {
        std::fs::write(folder.path().join(name), [header, bytes].concat()).unwrap();
    };
    let labels = |values: &[u8]| idx("train-labels", &[0, 0, 8, 1, 0, 0, 0, values.len() as u8], values);
    idx("train-images", &[0, 0, 8, 3, 0, 0, 0, 200, 0, 0, 0, 5, 0, 0, 0, 5], &[7; 200 * 25]);
    labels(&[1; 200]);
    one_sentence(&train(text(folder.path()), &[]), 3, "wants 784 elements");
    idx("train-images", &[0, 0, 8, 3, 0, 0, 0, 200, 0, 0, 0, 28, 0, 0, 0, 28], &[7; 200 * 784]);
    let mut wrong = [1u8; 200];
    wrong[17] = 12;
    labels(&wrong);
    one_sentence(&train(text(folder.path()), &[]), 3, "label 12 of sample 17");
    labels(&[1; 150]);
    one_sentence(&train(text(folder.path()), &[]), 3, "200 images but 150 labels");
}
