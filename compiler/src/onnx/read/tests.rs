//! What the reader makes of a file, against `onnx-protobuf` as an independent witness.

use crate::graph::{Graph, Tensor};
use crate::onnx::{load, to_bytes};
use onnx_protobuf as pb;
use onnx_protobuf::Message as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every `.onnx` file of the repository's `models` folder.
pub fn all_models() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "onnx") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"), &mut found);
    found.sort();
    assert!(found.len() >= 30, "the models are missing");
    found
}

/// A message without what may differ between two spellings of the same model.
fn plain(mut model: pb::ModelProto) -> pb::ModelProto {
    model.opset_import.iter_mut().filter(|o| o.domain == "ai.onnx").for_each(|o| o.domain.clear());
    if let Some(graph) = model.graph.as_mut() {
        plain_graph(graph);
    }
    for info in &mut model.training_info {
        [&mut info.initialization, &mut info.algorithm].into_iter().filter_map(|g| g.as_mut()).for_each(plain_graph);
    }
    for function in &mut model.functions {
        function.node.iter_mut().for_each(plain_node);
        function.value_info.sort_by(|a, b| a.name.cmp(&b.name));
    }
    model
}

fn plain_graph(graph: &mut pb::GraphProto) {
    graph.node.iter_mut().for_each(plain_node);
    graph.node.sort_by(|a, b| a.output.cmp(&b.output));
    graph.initializer.iter_mut().for_each(plain_tensor);
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    // Saying again what an input or an output says adds nothing.
    let interface: Vec<&str> = graph.input.iter().chain(&graph.output).map(|v| v.name.as_str()).collect();
    let extra: Vec<bool> = graph.value_info.iter().map(|v| !interface.contains(&v.name.as_str())).collect();
    let mut extra = extra.into_iter();
    graph.value_info.retain(|_| extra.next().unwrap());
    graph.value_info.sort_by(|a, b| a.name.cmp(&b.name));
}

fn plain_node(node: &mut pb::NodeProto) {
    if node.domain == "ai.onnx" {
        node.domain.clear();
    }
    for attribute in &mut node.attribute {
        attribute.t.as_mut().into_iter().for_each(plain_tensor);
        attribute.tensors.iter_mut().for_each(plain_tensor);
        attribute.g.as_mut().into_iter().for_each(plain_graph);
        attribute.graphs.iter_mut().for_each(plain_graph);
    }
}

/// Typed fields as raw bytes, by onnx.proto's table.
fn plain_tensor(t: &mut pb::TensorProto) {
    let float = |t: &mut pb::TensorProto| std::mem::take(&mut t.float_data);
    let width = match t.data_type {
        1 | 6 | 12 | 14 => 4,
        7 | 11 | 13 | 15 => 8,
        4 | 5 | 10 | 16 => 2,
        _ => 1,
    };
    let mut raw: Vec<u8> = float(t).iter().flat_map(|x| x.to_le_bytes()).collect();
    raw.extend(std::mem::take(&mut t.double_data).iter().flat_map(|x| x.to_le_bytes()));
    raw.extend(std::mem::take(&mut t.int32_data).iter().flat_map(|x| x.to_le_bytes()[..width.min(4)].to_vec()));
    raw.extend(std::mem::take(&mut t.int64_data).iter().flat_map(|x| x.to_le_bytes()));
    raw.extend(std::mem::take(&mut t.uint64_data).iter().flat_map(|x| x.to_le_bytes()[..width].to_vec()));
    if !raw.is_empty() {
        t.raw_data = raw;
    }
}

#[test]
fn a_saved_model_says_what_the_file_said() {
    for path in all_models() {
        let original = pb::ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        let saved = pb::ModelProto::parse_from_bytes(&to_bytes(&load(&path).unwrap()).unwrap()).unwrap();
        assert!(plain(original) == plain(saved), "{}", path.display());
    }
}

#[test]
fn the_graph_holds_what_the_file_says() {
    for path in all_models() {
        let proto = pb::ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        let model = load(&path).unwrap();
        let (g, graph) = (proto.graph.unwrap(), &model.graph);
        assert_eq!((proto.ir_version, proto.producer_name), (model.ir_version, model.producer_name.clone()));
        assert_eq!(g.input.iter().map(|v| &v.name).collect::<Vec<_>>(), names(graph, &graph.inputs));
        assert_eq!(g.output.iter().map(|v| &v.name).collect::<Vec<_>>(), names(graph, &graph.outputs));
        let tensors: BTreeMap<&str, &Tensor> = graph.initializers().map(|(v, t)| (graph.name_of(v), t)).collect();
        assert_eq!(tensors.len(), g.initializer.len());
        for mut t in g.initializer {
            plain_tensor(&mut t);
            assert_eq!(tensors[t.name.as_str()].bytes(), Some(&t.raw_data[..]), "{}", t.name);
        }
        let written = g.node.iter().map(|n| (n.op_type.as_str(), n.input.len(), n.output.len(), n.attribute.len()));
        let order = graph.order().unwrap();
        let read = order.iter().map(|n| {
            let n = graph.node(*n);
            (n.op_type.as_str(), n.inputs.len(), n.outputs.len(), n.attributes.len())
        });
        assert!(written.eq(read), "{}", path.display());
    }
}

fn names<'a>(graph: &'a Graph, ids: &[crate::graph::ValueId]) -> Vec<&'a String> {
    ids.iter().map(|v| &graph.value(*v).name).collect()
}
