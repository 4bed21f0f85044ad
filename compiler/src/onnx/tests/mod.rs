use super::read::tests::all_models;
use super::*;
use crate::graph::{AttributeValue, Dim, Payload};
use std::path::PathBuf;

mod random;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

#[test]
fn every_model_survives_load_save_load() {
    for path in all_models() {
        let first = load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = to_bytes(&first).unwrap();
        let second = parse(bytes.clone(), None).unwrap();
        assert_eq!(first, second, "{}", path.display());
        assert_eq!(bytes, to_bytes(&second).unwrap(), "{}", path.display());
    }
}

#[test]
fn external_data_is_written_beside_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let model = load(&models().join("forward/mlp_dynamo.onnx")).unwrap();
    save(&model, &path, &SaveOptions { external_data: true }).unwrap();
    let small = std::fs::metadata(&path).unwrap().len();
    assert!(folder.path().join("m.onnx.data").exists());
    assert!(small < 20_000, "{small}");
    assert_eq!(load(&path).unwrap(), model);
}

#[test]
fn external_data_may_not_leave_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let path = folder.path().join("in/m.onnx");
    let model = load(&models().join("forward/mlp_dynamo.onnx")).unwrap();
    save(&model, &path, &SaveOptions { external_data: true }).unwrap();
    let original = std::fs::read(&path).unwrap();
    std::fs::rename(folder.path().join("in/m.onnx.data"), folder.path().join("secret")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("copy it beside the model"));
    std::os::unix::fs::symlink("../secret", folder.path().join("in/m.onnx.data")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("leaves the model's folder"));
    for hostile in ["../secretxx", "/etc/passwd"] {
        let mut bytes = original.clone();
        let name = b"m.onnx.data";
        let padded = format!("{hostile:.<11}");
        let mut at = 0;
        while let Some(i) = bytes[at..].windows(name.len()).position(|w| w == name) {
            bytes[at + i..at + i + name.len()].copy_from_slice(padded.as_bytes());
            at += i + 1;
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("outside the model's folder"), "{hostile}");
    }
}

#[test]
fn foreign_files_are_called_by_their_names() {
    for (bytes, word) in [
        (&b"PK\x03\x04rest of the archive"[..], "zip"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x20\0\0\0\0\0\0\0{\"w\":{}}", "safetensors"),
        (b"{\"a\": 1}", "JSON"),
        (b"", "empty"),
    ] {
        assert!(parse(bytes.to_vec(), None).unwrap_err().to_string().contains(word), "{word}");
    }
}

#[test]
fn truncations_and_flips_never_panic() {
    let bytes = std::fs::read(models().join("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    for _ in 0..400 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let _ = parse(bytes[..random as usize % bytes.len()].to_vec(), None);
        let mut flipped = bytes.clone();
        let n = flipped.len();
        for k in 0..4 {
            flipped[(random >> (k * 8)) as usize % n] ^= 1 << (random >> 60 & 7);
        }
        let _ = parse(flipped, None);
    }
    assert!(parse(bytes[..bytes.len() - 1].to_vec(), None).is_err());
}

#[test]
fn cycles_and_duplicates_are_refused_with_their_node() {
    use crate::graph::{DType, Graph, Node, ValueType};
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", ValueType::tensor(DType::F32, &[2]));
    let [a] = graph.add(Node::new("Relu", [x]), ["a"]);
    let [b] = graph.add(Node::new("Neg", [a]), ["b"]);
    graph.outputs.push(b);
    let model = Model { ir_version: 8, graph, ..Model::default() };
    let bytes = to_bytes(&model).unwrap();
    let replace = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        parse(bytes, None).unwrap_err().to_string()
    };
    assert!(replace(b"\x0a\x01x\x12\x01a", b"\x0a\x01b\x12\x01a").contains("cycle"));
    assert!(replace(b"\x0a\x01a\x12\x01b", b"\x0a\x01x\x12\x01a").contains("another source"));
    assert!(replace(b"\x0a\x01x\x12\x01a", b"\x0a\x01q\x12\x01a").contains("reads 'q'"));
}

#[test]
fn unwritable_targets_leave_nothing_behind() {
    let model = load(&models().join("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/folder/m.onnx");
    assert!(save(&model, &missing, &SaveOptions::default()).unwrap_err().to_string().starts_with("cannot write"));
    assert!(save(&model, folder.path(), &SaveOptions::default()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn sub_graphs_capture_outer_values() {
    use crate::graph::{DType, Graph, Node, ValueType};
    let mut inner = Graph::new("then");
    let outer = inner.add_value("x", None);
    let [y] = inner.add(Node::new("Neg", [outer]), ["y"]);
    inner.outputs.push(y);
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", ValueType::Tensor { dtype: DType::F32, shape: Some(vec![Dim::Symbol("n".into())]) });
    let c = graph.add_input("c", ValueType::tensor(DType::BOOL, &[]));
    let node = Node::new("If", [c]).with("then_branch", inner.clone()).with("else_branch", inner);
    let [out] = graph.add(Node { captures: vec![x], ..node }, ["out"]);
    graph.outputs.push(out);
    let model = Model { ir_version: 8, graph, ..Model::default() };
    let again = parse(to_bytes(&model).unwrap(), None).unwrap();
    let (_, node) = again.graph.producer(again.graph.value_named("out").unwrap()).unwrap();
    assert_eq!(node.captures, vec![again.graph.value_named("x").unwrap()]);
    assert!(matches!(node.attribute("then_branch"), Some(AttributeValue::Graph(_))));
    assert_eq!(model.graph.value(x).shape(), again.graph.value(again.graph.value_named("x").unwrap()).shape());
}

#[test]
fn strings_and_small_types_are_carried() {
    use crate::graph::{DType, Graph, Tensor};
    let mut graph = Graph::new("g");
    let text = Tensor {
        payload: Payload::Strings(vec![b"a\xff".to_vec(), vec![]]),
        ..Tensor::raw(DType::STRING, [2], vec![])
    };
    graph.add_initializer("text", text);
    for (code, bytes) in
        [(DType::I4, 2), (DType::F8E4M3FN, 3), (DType::BF16, 6), (DType::F16, 6), (DType::C128, 48), (DType::U2, 1)]
    {
        graph.add_initializer(
            &code.to_string(),
            Tensor::raw(code, [3], (0..bytes).map(|i| i as u8 + 250).collect::<Vec<u8>>()),
        );
    }
    let model = Model { ir_version: 10, graph, ..Model::default() };
    assert_eq!(parse(to_bytes(&model).unwrap(), None).unwrap(), model);
}
