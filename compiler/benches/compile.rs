//! How compile time grows with the graph: load, compile and save generated AdamW training steps.
//!
//! `cargo bench -p npc-compiler --bench compile` prints one line a size; the best of three runs.

use npc_compiler::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use npc_compiler::{CompileOptions, compile, onnx};
use std::time::Instant;

/// A step of `layers` linear layers, each with its own AdamW in primitive operators: 26 nodes a layer.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
    println!("{:>8} {:>9} {:>9} {:>9} {:>9} {:>12}", "nodes", "load ms", "compile", "save", "total", "µs a node");
    for layers in [40, 400, 1250, 3900] {
        onnx::save(&step(layers), &input, &Default::default())?;
        let mut best = [f64::INFINITY; 3];
        let mut nodes = 0;
        for _ in 0..3 {
            let start = Instant::now();
            let model = onnx::load(&input)?;
            nodes = model.graph.node_count();
            let loaded = start.elapsed();
            let compiled = compile(model, &CompileOptions::default())?;
            assert_eq!(compiled.report.parameters.len(), layers);
            let compiled_at = start.elapsed();
            onnx::save(&compiled.model, &output, &Default::default())?;
            let total = start.elapsed();
            let times = [loaded, compiled_at - loaded, total - compiled_at].map(|t| t.as_secs_f64() * 1e3);
            if times.iter().sum::<f64>() < best.iter().sum() {
                best = times;
            }
        }
        let total: f64 = best.iter().sum();
        println!(
            "{nodes:>8} {:>9.1} {:>9.1} {:>9.1} {total:>9.1} {:>12.2}",
            best[0],
            best[1],
            best[2],
            total * 1e3 / nodes as f64
        );
    }
    Ok(())
}
