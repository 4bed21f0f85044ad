use super::read::tests::all_models;
use super::*;
use crate::graph::{AttributeValue, Dim};
use std::path::PathBuf;

mod external;
mod hostile;
pub(crate) mod random;
mod tensors;

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
