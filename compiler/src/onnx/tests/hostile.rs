//! Files that are no models, and models that are none.

use super::*;
use crate::graph::{DType, Graph, Node, Tensor, ValueType};
use crate::onnx::wire::put_varint;

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
fn cycles_and_duplicates_are_refused_with_their_node() {
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

fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, body.len() as u64);
    out.extend(body);
    out
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [vec![0x08, 8], field(7, &graph.concat())].concat()
}

fn error(bytes: Vec<u8>) -> String {
    parse(bytes, None).unwrap_err().to_string()
}

#[test]
fn protobuf_that_is_no_model_is_refused() {
    assert!(error(vec![0x08, 8]).contains("it has no graph"));
    assert!(error(field(7, &[])).contains("it has no IR version"));
    assert!(error([model(&[]), field(7, &[])].concat()).contains("a second message where one may stand"));
    assert!(error(model(&[field(2, b"\xff\xfe")])).contains("not UTF-8 at byte 6"));
    let tensor = std::fs::read(models().join("onnx-testvectors/test_adam/test_data_set_0/input_2.pb")).unwrap();
    assert!(error(tensor).starts_with("not a"));
}

#[test]
fn errors_of_a_file_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    for (bytes, words) in [
        (&b""[..], "m.onnx: the file is empty"),
        (b"\x08", "m.onnx: not a valid ONNX file: a number that is cut off"),
        (b"<html>", "m.onnx: this is a web page"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(load(folder.path()).unwrap_err().to_string().contains("is a folder"));
    assert!(load(&folder.path().join("none")).unwrap_err().to_string().starts_with("cannot read "));
}

#[test]
fn graphs_without_order_or_sources_are_refused() {
    let node = |inputs: &[&str], output: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        field(1, &[inputs, field(2, output.as_bytes()), field(4, b"Add")].concat())
    };
    let input = |name: &str| field(11, &field(1, name.as_bytes()));
    let output = |name: &str| field(12, &field(1, name.as_bytes()));
    let constant = |name: &str| field(5, &[vec![0x08, 1, 0x10, 2], field(9, &[0]), field(8, name.as_bytes())].concat());
    for (graph, words) in [
        (vec![node(&["c"], "a"), node(&["a"], "b"), node(&["b"], "c")], "node Add 'a' → node Add 'b' → node Add 'c'"),
        (vec![node(&["a"], "a")], "is a cycle"),
        (vec![node(&["c"], "a")], "node Add 'a': reads 'c', which no node, input or initializer provides"),
        (vec![input("x"), node(&["x"], "x")], "computes 'x', which already has another source"),
        (vec![input("x"), node(&["x"], "y"), node(&["x"], "y")], "computes 'y', which already has another source"),
        (vec![constant("x"), node(&["x"], "x")], "computes 'x', which already has another source"),
        (vec![input("x"), input("x")], "graph input 'x': is declared twice"),
        (vec![input("")], "declares a value without a name"),
        (vec![constant("w"), constant("w")], "initializer 'w': stands in the file twice"),
        (vec![constant("")], "initializer ''"),
        (vec![output("y")], "returns 'y'"),
        (vec![field(1, &field(2, b"y"))], "node  'y': names no operator"),
    ] {
        let error = error(model(&graph));
        assert!(error.contains(words), "{error}");
    }
    assert!(parse(model(&[input("x"), node(&["x", "x"], "y"), output("y"), output("y")]), None).is_ok());
}

#[test]
fn function_bodies_are_closed_too() {
    let function = |name: &str, parts: &[Vec<u8>]| field(25, &[field(1, name.as_bytes()), parts.concat()].concat());
    let node = field(7, &[field(1, b"q"), field(2, b"y"), field(4, b"Neg")].concat());
    for (functions, words) in [
        (vec![function("f", &[]), function("f", &[])], "function 'f': is defined twice"),
        (vec![function("f", std::slice::from_ref(&node))], "function 'f', node Neg 'y': reads 'q'"),
        (vec![function("f", &[field(5, b"y")])], "returns 'y'"),
        (vec![function("f", &[field(4, b"x"), field(4, b"x")])], "function 'f', input 'x': is declared twice"),
    ] {
        let error = error([model(&[]), functions.concat()].concat());
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn attributes_in_nodes_say_where_they_are() {
    let mut graph = Graph::new("g");
    let [c] = graph.add(Node::new("Constant", []).with("value", Tensor::raw(DType::F32, [3], vec![0; 8])), ["c"]);
    graph.outputs.push(c);
    let bytes = to_bytes(&Model { ir_version: 8, graph, ..Model::default() }).unwrap();
    let message = error(bytes);
    assert!(message.starts_with("node Constant 'c', attribute 'value', its tensor: has 8 bytes"), "{message}");
}

#[test]
fn a_long_chain_and_many_small_messages_stay_cheap() {
    // 300,000 two-byte nodes: refused at the first, not after building all of them.
    assert!(error(model(&[[0x0a, 0].repeat(300_000)])).contains("names no operator"));
    // 300,000 empty value declarations, opsets, entries.
    assert!(error(model(&[[0x6a, 0].repeat(300_000)])).contains("without a name"));
    let mut graph = Graph::new("g");
    let mut x = graph.add_input("x", ValueType::tensor(DType::F32, &[]));
    for _ in 0..50_000 {
        [x] = graph.add(Node::new("Neg", [x]), ["y"]);
    }
    graph.outputs.push(x);
    let model = Model { ir_version: 8, graph, ..Model::default() };
    assert_eq!(parse(to_bytes(&model).unwrap(), None).unwrap(), model);
}
