//! Loading and saving against copying the file.
//!
//! `nodes/N`: a training step of N nodes (matrix products and Adam updates spelled out), a few bytes of weights each.
//! `weights/N`: one N MiB model of large initializers, beside `std::fs::copy` of the same file.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use npc_compiler::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use npc_compiler::onnx::{SaveOptions, load, save};
use std::cell::LazyCell;
use std::path::PathBuf;
use std::time::Duration;

fn model(graph: Graph) -> Model {
    Model { ir_version: 10, opsets: vec![Opset { domain: String::new(), version: 20 }], graph, ..Model::default() }
}

/// Nodes of one layer in [`training_step`].
const LAYER: usize = 20;

/// A chain of layers, each with its Adam update: `layers × 20` nodes.
fn training_step(layers: usize) -> Model {
    let mut graph = Graph::new("step");
    let tensor = |dims: &[usize]| ValueType::tensor(DType::F32, dims);
    let mut x = graph.add_input("input", tensor(&[16, 8]));
    let rate = graph.add_input("learning_rate", tensor(&[]));
    let constants = [0.9, 0.1, 0.999, 0.001, 1e-8].map(|c| graph.add_initializer("c", Tensor::f32([], &[c])));
    let [beta1, rest1, beta2, rest2, epsilon] = constants;
    let mut updated = Vec::new();
    for layer in 0..layers {
        let name = |what: &str| format!("layers.{layer}.weight{what}");
        let weight = graph.add_input(&name(""), tensor(&[8, 8]));
        let moments = [".momentum", ".variance"].map(|s| graph.add_input(&name(s), tensor(&[8, 8])));
        let mut op = |op_type: &str, inputs: &[ValueId], dims: &[usize]| {
            let node = Node { name: format!("node_{op_type}_{layer}"), ..Node::new(op_type, inputs.iter().copied()) };
            let [out] = graph.add(node, [&format!("{}_{layer}", op_type.to_lowercase())]);
            graph.value_mut(out).ty = Some(tensor(dims));
            graph.value_mut(out).declared = true;
            out
        };
        let w = &[8, 8];
        let product = op("MatMul", &[x, weight], &[16, 8]);
        let relu = op("Relu", &[product], &[16, 8]);
        let turned = op("Transpose", &[x], &[8, 16]);
        let gradient = op("MatMul", &[turned, relu], w);
        let kept = op("Mul", &[moments[0], beta1], w);
        let fresh = op("Mul", &[gradient, rest1], w);
        let first = op("Add", &[kept, fresh], w);
        let square = op("Mul", &[gradient, gradient], w);
        let kept = op("Mul", &[moments[1], beta2], w);
        let fresh = op("Mul", &[square, rest2], w);
        let second = op("Add", &[kept, fresh], w);
        let root = op("Sqrt", &[second], w);
        let denominator = op("Add", &[root, epsilon], w);
        let direction = op("Div", &[first, denominator], w);
        let step = op("Mul", &[direction, rate], w);
        let next = op("Sub", &[weight, step], w);
        let outputs = [next, first, second].map(|v| op("Identity", &[v], w));
        x = op("Identity", &[relu], &[16, 8]);
        for (value, suffix) in outputs.into_iter().zip([".next", ".momentum.next", ".variance.next"]) {
            graph.rename(value, &name(suffix));
            updated.push(value);
        }
    }
    graph.outputs = updated;
    assert_eq!(graph.node_count(), layers * LAYER);
    model(graph)
}

/// One matrix product a tensor, 16 MiB each.
fn weights(mebibytes: usize) -> Model {
    let mut graph = Graph::new("weights");
    let mut x = graph.add_input("input", ValueType::tensor(DType::F32, &[1, 2048]));
    for i in 0..mebibytes / 16 {
        let bytes: Vec<u8> =
            (0..16 << 20).map(|b: u32| (b.wrapping_mul(2_654_435_761) >> 24) as u8 ^ i as u8).collect();
        let weight = graph.add_initializer(&format!("w{i}"), Tensor::raw(DType::F32, [2048, 2048], bytes));
        [x] = graph.add(Node::new("MatMul", [x, weight]), ["x"]);
    }
    graph.outputs.push(x);
    model(graph)
}

/// The model as a file, written when the first benchmark that needs it runs.
struct Files {
    _folder: tempfile::TempDir,
    from: PathBuf,
    to: PathBuf,
    model: LazyCell<(), Box<dyn FnOnce()>>,
}

impl Files {
    fn new(make: impl FnOnce() -> Model + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
        let path = from.clone();
        let write = move || save(&make(), &path, &SaveOptions::default()).expect("a writable folder");
        Files { _folder: folder, from, to, model: LazyCell::new(Box::new(write)) }
    }

    fn load(&self) -> Model {
        LazyCell::force(&self.model);
        load(&self.from).expect("a valid model")
    }

    fn save(&self, model: &Model, external_data: bool) {
        save(model, &self.to, &SaveOptions { external_data }).expect("a writable folder");
    }
}

fn nodes(c: &mut Criterion) {
    let mut group = c.benchmark_group("nodes");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
    for count in [1_000, 10_000, 100_000] {
        let files = Files::new(move || training_step(count / LAYER));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("load", count), |b| b.iter_with_large_drop(|| files.load()));
        group.bench_function(BenchmarkId::new("save", count), |b| {
            let model = files.load();
            b.iter(|| files.save(&model, false))
        });
    }
}

fn payloads(c: &mut Criterion) {
    let mut group = c.benchmark_group("weights");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(5));
    for size in [64, 256, 1024] {
        let files = Files::new(move || weights(size));
        group.throughput(Throughput::Bytes((size as u64) << 20));
        group.bench_function(BenchmarkId::new("fs_copy", size), |b| {
            files.load();
            b.iter(|| std::fs::copy(&files.from, &files.to).expect("a writable folder"))
        });
        for external_data in [false, true] {
            let id = BenchmarkId::new(if external_data { "load_save_external" } else { "load_save" }, size);
            group.bench_function(id, |b| {
                files.load();
                b.iter(|| files.save(&files.load(), external_data))
            });
        }
    }
}

criterion_group!(benches, nodes, payloads);
criterion_main!(benches);
