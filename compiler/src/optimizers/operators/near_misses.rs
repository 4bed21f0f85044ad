//! Optimizer operators that must be left alone, and what is said about each.

use super::{MICROSOFT, PREVIEW};
use crate::graph::{DType, Graph, Model, Node, Opset, ValueId, ValueType};
use crate::optimizers::{RecogniseOptions, recognise};

/// Graph inputs by their names; `g` is a gradient that is computed.
struct Step {
    graph: Graph,
    gradient: ValueId,
}

impl Step {
    fn new() -> Self {
        let mut graph = Graph::new("step");
        let tensor = || ValueType::tensor(DType::F32, &[2, 2]);
        for (name, ty) in [("lr", ValueType::tensor(DType::F32, &[])), ("t", ValueType::tensor(DType::I64, &[]))] {
            graph.add_input(name, ty);
        }
        let [w, ..] = ["w", "m", "v", "x"].map(|name| graph.add_input(name, tensor()));
        graph.add_input("go", ValueType::tensor(DType::BOOL, &[]));
        graph.add_input("list", ValueType::Other(Vec::new()));
        let [gradient] = graph.add(Node::new("MatMul", [w, w]), ["g"]);
        graph.value_mut(gradient).ty = Some(tensor());
        Step { graph, gradient }
    }

    fn value(&self, name: &str) -> ValueId {
        if name == "g" { self.gradient } else { self.graph.value_named(name).unwrap() }
    }

    /// An operator that reads `inputs` (`-` for one left out), with that many results.
    fn node<const N: usize>(&mut self, node: Node, domain: &str, inputs: &str) -> [ValueId; N] {
        let inputs = inputs.split(' ').map(|name| (name != "-").then(|| self.value(name))).collect();
        self.graph.add(Node { inputs, ..node.in_domain(domain) }, ["result"; N])
    }

    fn sequence(&mut self, name: &str, of: &str) {
        let inputs: Vec<ValueId> = of.split(' ').map(|name| self.value(name)).collect();
        self.graph.add(Node::new("SequenceConstruct", inputs), [name]);
    }

    /// Nothing matches, and the operator is named with this reason.
    fn left_alone(mut self, outputs: &[ValueId], operator: &str, reason: &str) {
        self.graph.outputs.extend(outputs);
        let opset = |domain: &str, version| Opset { domain: domain.into(), version };
        let opsets = vec![opset("", 17), opset(MICROSOFT, 1), opset(PREVIEW, 1)];
        let model = Model { ir_version: 8, opsets, graph: self.graph, ..Model::default() };
        let found = recognise(&model, &RecogniseOptions::default()).unwrap();
        assert_eq!(found.matches, [], "{operator}: {reason}");
        let said = found.unmatched.iter().any(|u| u.reason.contains(reason) && u.node.starts_with(operator));
        assert!(said, "wanted {reason}, got {:?}", found.unmatched);
    }
}

fn node(op: &str) -> Node {
    Node::new(op, [])
}

#[test]
fn of_onnx() {
    for (op, inputs, reason) in [
        (node("Adam").with("norm_coefficient_post", 0.1f32), "lr t w g m v", "norm_coefficient_post"),
        (node("Adam"), "lr t w g m", "no whole number of tensors"),
        (node("Adam"), "lr t g w m v", "its parameter is not a graph input"),
        (node("Adam"), "lr t w g g v", "one of its states is not a graph input"),
        (node("Adam"), "- t w g m v", "it lacks a gradient or a learning rate"),
        (node("Adam"), "lr t w - m v", "it lacks a gradient or a learning rate"),
    ] {
        let mut step = Step::new();
        let results: [ValueId; 3] = step.node(op, PREVIEW, inputs);
        step.left_alone(&results, "Adam", reason);
    }
    for (mode, reason) in [(Some("heavy"), "its mode is Some(\"heavy\")"), (None, "its mode is None")] {
        let mut step = Step::new();
        let op = mode.map_or(node("Momentum"), |mode| node("Momentum").with("mode", mode));
        let results: [ValueId; 2] = step.node(op, PREVIEW, "lr t w g v");
        step.left_alone(&results, "Momentum", reason);
    }
    // The new state stays inside the graph.
    let mut step = Step::new();
    let [next, _] = step.node(node("Adagrad"), PREVIEW, "lr t w g v");
    step.left_alone(&[next], "Adagrad", "or its new value not a graph output");
    let mut step = Step::new();
    let [next, state, _] = step.node(node("Adagrad"), PREVIEW, "lr t w g v");
    step.left_alone(&[next, state], "Adagrad", "no whole number of tensors");
}

#[test]
fn of_onnx_runtime() {
    for (inputs, outputs, reason) in [
        ("lr t w g m v w", 4, "mixed_precision_weights"),
        ("lr t w g m v - lr", 4, "loss_scale"),
        ("lr t w g m v - - lr", 4, "global_gradient_norm"),
        ("lr t w g m v - - - go", 4, "update_signal"),
        ("lr t w g m v", 2, "one of its states is not a graph input, or its new value not a graph output"),
        ("lr t g w m v", 4, "its parameter is not a graph input"),
        ("- t w g m v", 4, "it lacks a gradient or a learning rate"),
    ] {
        let mut step = Step::new();
        let results: [ValueId; 4] = step.node(node("AdamOptimizer"), MICROSOFT, inputs);
        step.left_alone(&results[4 - outputs..], "AdamOptimizer", reason);
    }
    for (inputs, reason) in [
        ("lr t ws gs ms vs go", "update_signal"),
        ("lr t ws gs ms two", "different lengths"),
        ("lr t list gs ms vs", "a sequence that is not built inside the graph"),
        ("lr t ws gs ms vs", "its new value not a graph output"),
    ] {
        let mut step = Step::new();
        for (name, of) in [("ws", "w"), ("gs", "g"), ("ms", "m"), ("vs", "v"), ("two", "v x")] {
            step.sequence(name, of);
        }
        let results: [ValueId; 4] = step.node(node("AdamWOptimizer"), MICROSOFT, inputs);
        step.left_alone(&results, "AdamWOptimizer", reason);
    }
    for (inputs, reason) in [("lr ws gs go", "update_signal"), ("lr two gs", "different lengths")] {
        let mut step = Step::new();
        for (name, of) in [("ws", "w"), ("gs", "g"), ("two", "w x")] {
            step.sequence(name, of);
        }
        let results: [ValueId; 2] = step.node(node("SGDOptimizerV2"), MICROSOFT, inputs);
        step.left_alone(&results, "SGDOptimizerV2", reason);
    }
    for (inputs, reason) in [
        ("go - - lr t w g m v -", "update_signal"),
        ("- lr - lr t w g m v -", "loss_scale"),
        ("- - lr lr t w g m v -", "gradient_norm"),
        ("- - - lr t w g m v x", "16-bit copies"),
        ("- - - lr t g w m v -", "its parameter is not a graph input"),
    ] {
        let mut step = Step::new();
        let results: [ValueId; 6] = step.node(node("LambOptimizer"), MICROSOFT, inputs);
        step.left_alone(&results, "LambOptimizer", reason);
    }
}
