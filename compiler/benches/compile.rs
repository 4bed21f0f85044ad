//! What compiling (load, compile, save) costs: for every shipped training step, for generated AdamW steps of growing size,
//! and for a step with 1 GiB of weights beside copying its file.
//!
//! `cargo bench -p npc-compiler --bench compile` prints one line a model.

use npc_compiler::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use npc_compiler::{CompileOptions, compile, onnx};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A step of `layers` linear layers, each with its own AdamW in primitive operators: 24 nodes a layer.
fn step(layers: usize) -> Model {
    let mut g = Graph::new("step");
    let matrix = || ValueType::tensor(DType::F32, &[4, 4]);
    let lr = g.add_input("lr", ValueType::tensor(DType::F32, &[]));
    let t = g.add_input("t", ValueType::tensor(DType::F32, &[]));
    let mut x = g.add_input("x", matrix());
    let [b1, b2, c1, c2, one, decay, eps] =
        [0.9, 0.999, 0.1, 0.001, 1.0, 0.01, 1e-8].map(|c| g.add_initializer("c", Tensor::f32([], &[c])));
    let op = |g: &mut Graph, op: &str, a: ValueId, b: Option<ValueId>| {
        let [v] = g.add(Node::new(op, [Some(a), b].into_iter().flatten()), ["v"]);
        v
    };
    let mut outputs = Vec::new();
    for i in 0..layers {
        let [w, m, v] = ["w", "m", "v"].map(|n| g.add_input(&format!("{n}{i}"), matrix()));
        let y = op(&mut g, "MatMul", x, Some(w));
        let grad = op(&mut g, "MatMul", y, Some(x));
        g.value_mut(grad).ty = Some(matrix());
        x = op(&mut g, "Tanh", y, None);
        let (a, b) = (op(&mut g, "Mul", m, Some(b1)), op(&mut g, "Mul", grad, Some(c1)));
        let m = op(&mut g, "Add", a, Some(b));
        let square = op(&mut g, "Mul", grad, Some(grad));
        let (a, b) = (op(&mut g, "Mul", v, Some(b2)), op(&mut g, "Mul", square, Some(c2)));
        let v = op(&mut g, "Add", a, Some(b));
        let hat = |g: &mut Graph, beta: ValueId, state: ValueId| {
            let power = op(g, "Pow", beta, Some(t));
            let gap = op(g, "Sub", one, Some(power));
            op(g, "Div", state, Some(gap))
        };
        let (mh, vh) = (hat(&mut g, b1, m), hat(&mut g, b2, v));
        let root = op(&mut g, "Sqrt", vh, None);
        let root = op(&mut g, "Add", root, Some(eps));
        let step = op(&mut g, "Mul", lr, Some(mh));
        let step = op(&mut g, "Div", step, Some(root));
        let shrink = op(&mut g, "Mul", lr, Some(decay));
        let shrink = op(&mut g, "Sub", one, Some(shrink));
        let kept = op(&mut g, "Mul", w, Some(shrink));
        let w = op(&mut g, "Sub", kept, Some(step));
        for (value, name) in [(w, "w"), (m, "m"), (v, "v")] {
            g.rename(value, &format!("{name}{i}.next"));
            g.value_mut(value).ty = Some(matrix());
            outputs.push(value);
        }
    }
    g.outputs = outputs;
    Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph: g, ..Model::default() }
}

/// An SGD step whose parameters, 16 MiB each, are that many MiB together.
fn heavy(mebibytes: usize) -> Model {
    let mut g = Graph::new("heavy");
    let matrix = |rows| ValueType::tensor(DType::F32, &[rows, 2048]);
    let lr = g.add_input("lr", ValueType::tensor(DType::F32, &[]));
    let mut x = g.add_input("x", matrix(1));
    for i in 0..mebibytes / 16 {
        let w = g.add_input(&format!("w{i}"), matrix(2048));
        let bytes = (0..16u32 << 20).map(|b| (b.wrapping_mul(2_654_435_761) >> 25) as u8).collect::<Vec<u8>>();
        g.value_mut(w).initializer = Some(Tensor::raw(DType::F32, [2048, 2048], bytes));
        let [turned] = g.add(Node::new("Transpose", [x]), ["turned"]);
        let [grad] = g.add(Node::new("MatMul", [turned, x]), ["grad"]);
        let [step] = g.add(Node::new("Mul", [lr, grad]), ["step"]);
        let [next] = g.add(Node::new("Sub", [w, step]), [format!("w{i}.next").as_str()]);
        for value in [grad, next] {
            g.value_mut(value).ty = Some(matrix(2048));
        }
        g.outputs.push(next);
        [x] = g.add(Node::new("MatMul", [x, w]), ["x"]);
    }
    Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph: g, ..Model::default() }
}

/// Nodes read, parameters found, and the milliseconds that loading, compiling and saving took: the fastest of `runs`.
fn best(input: &Path, output: &Path, runs: usize) -> Result<(usize, usize, [f64; 3])> {
    let mut best = (0, 0, [f64::INFINITY; 3]);
    for _ in 0..runs {
        let start = Instant::now();
        let model = onnx::load(input)?;
        let nodes = model.graph.node_count();
        let loaded = start.elapsed();
        let compiled = compile(model, &CompileOptions::default())?;
        let compiled_at = start.elapsed();
        onnx::save(&compiled.model, output, &Default::default())?;
        let total = start.elapsed();
        let times = [loaded, compiled_at - loaded, total - compiled_at].map(|t| t.as_secs_f64() * 1e3);
        if times.iter().sum::<f64>() < best.2.iter().sum() {
            best = (nodes, compiled.report.parameters.len(), times);
        }
    }
    Ok(best)
}

fn line(name: &str, (nodes, parameters, times): (usize, usize, [f64; 3])) {
    let total: f64 = times.iter().sum();
    let [load, compile, save] = times;
    let each = total * 1e3 / nodes as f64;
    println!("{name:<40} {nodes:>7} {parameters:>6} {load:>8.1} {compile:>8.1} {save:>8.1} {total:>8.1} {each:>8.2}");
}

/// The most memory this process held since [`forget_peak`], in bytes, mapped files included (Linux only).
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

fn forget_peak() -> Option<()> {
    std::fs::write("/proc/self/clear_refs", "5").ok()
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
    println!(
        "{:<40} {:>7} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "model", "nodes", "params", "load ms", "compile", "save", "total", "µs/node"
    );
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for kind in ["pytorch-train-step", "jax-train-step", "cnn-train-step"] {
        let files = std::fs::read_dir(models.join(kind))?.map(|entry| Ok(entry?.path()));
        let mut files = files.collect::<Result<Vec<PathBuf>>>()?;
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "onnx")) {
            line(&file.file_name().unwrap_or_default().to_string_lossy(), best(file, &output, 5)?);
        }
    }
    for layers in [40, 400, 1250, 4200] {
        onnx::save(&step(layers), &input, &Default::default())?;
        line("generated AdamW step", best(&input, &output, 3)?);
    }

    onnx::save(&heavy(1024), &input, &Default::default())?;
    let size = std::fs::metadata(&input)?.len() as f64;
    println!(
        "\n{:<40} {:>9} {:>9} {:>6} {:>18}",
        "1 GiB of weights", "copy ms", "compile", "ratio", "peak / file size"
    );
    let copied = folder.path().join("copy.onnx");
    // What one of them left to be written would slow the other down.
    let settle = |path: &Path| std::fs::File::open(path)?.sync_all();
    settle(&input)?;
    for _ in 0..5 {
        let start = Instant::now();
        std::fs::copy(&input, &copied)?;
        let copy = start.elapsed().as_secs_f64() * 1e3;
        settle(&copied)?;
        let measured = forget_peak();
        let (.., times) = best(&input, &output, 1)?;
        settle(&output)?;
        let total: f64 = times.iter().sum();
        let share =
            measured.and_then(|()| peak()).map_or("not on this system".into(), |p| format!("{:.2}", p as f64 / size));
        println!("{:<40} {copy:>9.0} {total:>9.0} {:>6.2} {share:>18}", "", total / copy);
    }
    Ok(())
}
