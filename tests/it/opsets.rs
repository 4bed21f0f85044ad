//! Old and new operator sets: the same step, spelled as each of them wants it, through the compiler and the CPU engine.

use npc_compiler::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use npc_compiler::{CompileOptions, Optimizer, compile, onnx};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use npc_runtime::verify::{TOLERANCE, verify};

/// A model as its opset spells `Clip` (attributes before 11), `ReduceSum` and `Unsqueeze` (axes as attribute before 13).
struct Speller {
    graph: Graph,
    opset: i64,
}

impl Speller {
    fn tensor(&mut self, value: ValueId, dims: &[usize]) -> ValueId {
        self.graph.value_mut(value).ty = Some(ValueType::tensor(DType::F32, dims));
        value
    }

    fn op(&mut self, op: &str, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let [value] = self.graph.add(Node::new(op, inputs.iter().copied()), [op]);
        self.tensor(value, dims)
    }

    /// A constant as opset 1 has it: a node.
    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add(Node::new("Constant", []).with("value", tensor), ["constant"])[0]
    }

    fn clip(&mut self, x: ValueId, limit: f32) -> ValueId {
        if self.opset < 11 {
            let node = Node::new("Clip", [x]).with("min", -limit).with("max", limit);
            let [value] = self.graph.add(node, ["clip"]);
            return self.tensor(value, &[2, 2]);
        }
        let [low, high] = [-limit, limit].map(|l| self.constant(Tensor::f32([], &[l])));
        self.op("Clip", &[x, low, high], &[2, 2])
    }

    fn with_axes(&mut self, node: Node, axes: &[i64], dims: &[usize]) -> ValueId {
        let node = if self.opset < 13 {
            node.with("axes", axes.to_vec())
        } else {
            let axes = self.constant(Tensor::i64([axes.len()], axes));
            Node { inputs: node.inputs.iter().copied().chain([Some(axes)]).collect(), ..node }
        };
        let [value] = self.graph.add(node, ["value"]);
        self.tensor(value, dims)
    }
}

/// y = x·w; loss = Σ y; g = xᵀ·clip(y, 1), clipped to 0.5; v' = 0.9 v + g; w' = w − lr v'.
fn step(opset: i64, ir_version: i64) -> Model {
    let mut s = Speller { graph: Graph::new("step"), opset };
    let matrix = || ValueType::tensor(DType::F32, &[2, 2]);
    let lr = s.graph.add_input("lr", ValueType::tensor(DType::F32, &[]));
    let [x, w, v] = ["x", "w", "v"].map(|name| s.graph.add_input(name, matrix()));
    let y = s.op("MatMul", &[x, w], &[2, 2]);
    let rows = s.with_axes(Node::new("ReduceSum", [y]).with("keepdims", 0i64), &[1], &[2]);
    let column = s.with_axes(Node::new("Unsqueeze", [rows]), &[1], &[2, 1]);
    let loss = s.with_axes(Node::new("ReduceSum", [column]).with("keepdims", 0i64), &[0, 1], &[]);
    s.graph.rename(loss, "loss");
    let turned = s.op("Transpose", &[x], &[2, 2]);
    let limited = s.clip(y, 1.0);
    let g = s.op("MatMul", &[turned, limited], &[2, 2]);
    let g = s.clip(g, 0.5);
    let factor = s.constant(Tensor::f32([], &[0.9]));
    let kept = s.op("Mul", &[v, factor], &[2, 2]);
    let v = s.op("Add", &[kept, g], &[2, 2]);
    let change = s.op("Mul", &[v, lr], &[2, 2]);
    let w = s.op("Sub", &[w, change], &[2, 2]);
    s.graph.rename(v, "v.next");
    s.graph.rename(w, "w.next");
    s.graph.outputs = vec![loss, w, v];
    let model = Model {
        ir_version,
        opsets: vec![Opset { domain: String::new(), version: opset }],
        graph: s.graph,
        ..Model::default()
    };
    // Through a file's bytes, as every model comes.
    onnx::parse(onnx::to_bytes(&model).unwrap(), None).unwrap()
}

const X: [f32; 4] = [0.5, -1.0, 2.0, 0.25];
const W: [f32; 4] = [1.0, -0.5, 0.75, 2.0];
const V: [f32; 4] = [0.1, 0.2, -0.3, 0.4];
const LR: f32 = 0.1;

/// Loss, w' and v', computed here.
fn expected() -> [Vec<f32>; 3] {
    let product = |a: [f32; 4], b: [f32; 4]| -> [f32; 4] {
        std::array::from_fn(|i| a[i / 2 * 2] * b[i % 2] + a[i / 2 * 2 + 1] * b[2 + i % 2])
    };
    let y = product(X, W);
    let g = product([X[0], X[2], X[1], X[3]], y.map(|y| y.clamp(-1.0, 1.0))).map(|g| g.clamp(-0.5, 0.5));
    let v: [f32; 4] = std::array::from_fn(|i| 0.9 * V[i] + g[i]);
    let w: [f32; 4] = std::array::from_fn(|i| W[i] - LR * v[i]);
    [vec![y.iter().sum()], w.to_vec(), v.to_vec()]
}

fn run(model: &Model) -> [Vec<f32>; 3] {
    let mut program = Program::new(model, &ProgramOptions::default()).unwrap();
    let matrix = |data: [f32; 4]| HostTensor::f32(&[2, 2], &data).unwrap();
    let feeds = [("lr", HostTensor::f32(&[], &[LR]).unwrap()), ("x", matrix(X)), ("w", matrix(W)), ("v", matrix(V))];
    let results = program.run(feeds.map(|(name, tensor)| (name.to_string(), tensor)).into()).unwrap();
    ["loss", "w.next", "v.next"].map(|name| {
        let (_, tensor) = results.iter().find(|(n, _)| n == name).unwrap();
        tensor.as_f32().unwrap().to_vec()
    })
}

fn close(got: &[Vec<f32>; 3], opset: i64) {
    for (got, wanted) in got.iter().flatten().zip(expected().iter().flatten()) {
        assert!((got - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "opset {opset}: {got} for {wanted}");
    }
}

#[test]
fn a_step_of_every_opset_compiles_and_gives_the_same_numbers() {
    for (opset, ir_version) in [
        (7, 3),
        (8, 3),
        (9, 4),
        (10, 5),
        (11, 6),
        (12, 7),
        (13, 7),
        (15, 8),
        (18, 9),
        (21, 10),
        (23, 11),
        (24, 12),
        (25, 13),
    ] {
        let original = step(opset, ir_version);
        close(&run(&original), opset);
        let keep = CompileOptions { optimizer: Optimizer::Keep, ..CompileOptions::default() };
        let kept = compile(original.clone(), &keep).unwrap();
        let found = &kept.report.parameters[0].found;
        assert_eq!((&*found.kind, found.settings["momentum"].as_f64()), ("Momentum", Some(0.9)), "opset {opset}");
        close(&run(&kept.model), opset);
        let compiled = compile(original.clone(), &CompileOptions::default());
        if opset < 12 {
            let error = compiled.unwrap_err().to_string();
            assert!(error.contains("convert the model with onnx.version_converter"), "{error}");
            continue;
        }
        let compiled = compiled.unwrap();
        for deviation in verify(&original, &compiled.model, &compiled.bindings, 0, 3).unwrap() {
            assert!(deviation.relative <= TOLERANCE, "opset {opset}: {deviation:?}");
        }
    }
}
