//! ONNX Runtime's training operators in graphs of the shapes that its own tools write.

use crate::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use crate::optimizers::{Kind, Match, RecogniseOptions, Recognition, Setting, StateRole, recognise};
use crate::{CompileOptions, compile};

/// A step of two parameters w0 and w1 whose gradients are computed; `update` adds the optimizer and returns the outputs.
struct Step {
    graph: Graph,
    rate: ValueId,
    count: ValueId,
    parameters: [ValueId; 2],
    gradients: [ValueId; 2],
}

const SHAPE: [usize; 2] = [4, 3];

impl Step {
    fn new() -> Self {
        let mut graph = Graph::new("step");
        let x = graph.add_input("x", ValueType::tensor(DType::F32, &[5, 4]));
        let rate = graph.add_input("lr", ValueType::tensor(DType::F32, &[]));
        let count = graph.add_input("count", ValueType::tensor(DType::I64, &[]));
        let parameters = ["w0", "w1"].map(|name| graph.add_input(name, ValueType::tensor(DType::F32, &SHAPE)));
        let [xt] = graph.add(Node::new("Transpose", [x]), ["xt"]);
        let gradients = parameters.map(|w| {
            let [y] = graph.add(Node::new("MatMul", [x, w]), ["y"]);
            let [g] = graph.add(Node::new("MatMul", [xt, y]), ["g"]);
            graph.value_mut(g).ty = Some(ValueType::tensor(DType::F32, &SHAPE));
            g
        });
        Step { graph, rate, count, parameters, gradients }
    }

    fn states(&mut self, name: &str) -> [ValueId; 2] {
        [0, 1].map(|i| self.graph.add_input(&format!("{name}{i}"), ValueType::tensor(DType::F32, &SHAPE)))
    }

    fn sequence(&mut self, values: [ValueId; 2], one_by_one: bool) -> ValueId {
        if !one_by_one {
            return self.graph.add(Node::new("SequenceConstruct", values), ["list"])[0];
        }
        let [empty] = self.graph.add(Node::new("SequenceEmpty", []), ["list"]);
        values.into_iter().fold(empty, |list, v| self.graph.add(Node::new("SequenceInsert", [list, v]), ["list"])[0])
    }

    /// Adds an operator of ONNX Runtime with that many results.
    fn operator<const N: usize>(&mut self, node: Node) -> [ValueId; N] {
        self.graph.add(node.in_domain("com.microsoft"), ["updated"; N])
    }

    fn output(&mut self, value: ValueId, name: &str) {
        let [out] = self.graph.add(Node::new("Identity", [value]), [name]);
        self.graph.value_mut(out).ty = Some(ValueType::tensor(DType::F32, &SHAPE));
        self.graph.outputs.push(out);
    }

    /// Takes both tensors out of a sequence, the second by its index from the end.
    fn unpack(&mut self, list: ValueId, name: &str) {
        for (i, index) in [0i64, -1].into_iter().enumerate() {
            let index = self.graph.add_initializer("index", Tensor::i64([], &[index]));
            let [value] = self.graph.add(Node::new("SequenceAt", [list, index]), ["taken"]);
            self.output(value, &format!("{name}{i}_next"));
        }
    }

    fn model(self) -> Model {
        let opset = |domain: &str, version| Opset { domain: domain.into(), version };
        Model {
            ir_version: 8,
            opsets: vec![opset("", 17), opset("com.microsoft", 1)],
            graph: self.graph,
            ..Model::default()
        }
    }

    fn recognised(self) -> (Model, Recognition) {
        let model = self.model();
        let found = recognise(&model, &RecogniseOptions::default()).unwrap();
        (model, found)
    }
}

fn number(m: &Match, name: &str) -> f64 {
    match m.settings[name] {
        Setting::Number(x) => x,
        Setting::Input(_) => panic!("{name} is an input"),
    }
}

/// Both parameters are updated by `kind`, and after the rewrite nothing of ONNX Runtime's is left.
fn becomes_neuroplastic(step: Step, kind: Kind, states: &[StateRole]) -> Recognition {
    let (model, found) = step.recognised();
    assert_eq!(found.unmatched, []);
    assert_eq!(found.matches.len(), 2);
    for (i, m) in found.matches.iter().enumerate() {
        let name = |v| model.graph.name_of(v).to_string();
        assert_eq!((m.kind, name(m.parameter), name(m.next)), (kind, format!("w{i}"), format!("w{i}_next")));
        assert_eq!(m.states.iter().map(|s| s.role).collect::<Vec<_>>(), states);
        assert_eq!(m.learning_rate.value.map(name), Some("lr".into()));
    }
    let compiled = compile(model, &CompileOptions::default()).unwrap();
    let ops =
        |op: &str| compiled.model.graph.node_ids().filter(|id| compiled.model.graph.node(*id).op_type == op).count();
    assert_eq!(ops("NeuroPlastic"), 2);
    let left = |id| {
        let node = compiled.model.graph.node(id);
        node.domain == "com.microsoft" || node.op_type.starts_with("Sequence")
    };
    assert!(!compiled.model.graph.node_ids().any(left), "{}", crate::graph::text::print(&compiled.model));
    found
}

const MOMENTS: [StateRole; 2] = [StateRole::FirstMoment, StateRole::SecondMoment];

fn adamw(one_by_one: bool, signal: bool) -> Step {
    let mut step = Step::new();
    let (m, v) = (step.states("m"), step.states("v"));
    let lists = [step.parameters, step.gradients, m, v].map(|values| step.sequence(values, one_by_one));
    let mut inputs = vec![step.rate, step.count];
    inputs.extend(lists);
    if signal {
        inputs.push(step.graph.add_input("go", ValueType::tensor(DType::BOOL, &[])));
    }
    let node = Node::new("AdamWOptimizer", inputs).with("alpha", 0.8f32).with("weight_decay", 0.05f32);
    let [_, parameters, m, v] = step.operator(node);
    for (list, name) in [(parameters, "w"), (m, "m"), (v, "v")] {
        step.unpack(list, name);
    }
    step
}

#[test]
fn adamw_of_sequences() {
    for one_by_one in [false, true] {
        let found = becomes_neuroplastic(adamw(one_by_one, false), Kind::AdamW, &MOMENTS);
        let m = &found.matches[1];
        assert_eq!((number(m, "beta1"), number(m, "beta2"), number(m, "weight_decay")), (0.8, 0.999, 0.05));
        assert_eq!(number(m, "epsilon"), 1e-8);
        assert!(m.decoupled_weight_decay && m.step.is_some());
    }
}

#[test]
fn sgd_of_sequences() {
    let mut step = Step::new();
    let (parameters, gradients) = (step.sequence(step.parameters, false), step.sequence(step.gradients, false));
    let node = Node::new("SGDOptimizerV2", [step.rate, parameters, gradients]);
    let [_, parameters] = step.operator(node);
    step.unpack(parameters, "w");
    becomes_neuroplastic(step, Kind::Sgd, &[]);
}

#[test]
fn sgd_one_by_one() {
    let mut step = Step::new();
    for i in 0..2 {
        let node = Node::new("SGDOptimizer", [step.rate, step.parameters[i], step.gradients[i]]);
        let [next] = step.operator(node);
        step.output(next, &format!("w{i}_next"));
    }
    becomes_neuroplastic(step, Kind::Sgd, &[]);
}

fn adam(loss_scale: bool) -> Step {
    let mut step = Step::new();
    let (m, v) = (step.states("m"), step.states("v"));
    for i in 0..2 {
        let mut node =
            Node::new("AdamOptimizer", [step.rate, step.count, step.parameters[i], step.gradients[i], m[i], v[i]]);
        if loss_scale {
            node.inputs.extend([None, Some(step.rate)]);
        }
        let [_, m_next, v_next, next] = step.operator(node.with("lambda", 0.0f32).with("epsilon", 1e-6f32));
        for (value, name) in [(next, "w"), (m_next, "m"), (v_next, "v")] {
            step.output(value, &format!("{name}{i}_next"));
        }
    }
    step
}

#[test]
fn adam_one_by_one() {
    let found = becomes_neuroplastic(adam(false), Kind::Adam, &MOMENTS);
    assert_eq!(number(&found.matches[0], "epsilon"), 1e-6);
}

#[test]
fn lamb_of_several_tensors() {
    let mut step = Step::new();
    let (m, v) = (step.states("m"), step.states("v"));
    let mut node = Node::new("LambOptimizer", []);
    node.inputs = vec![None, None, None, Some(step.rate), Some(step.count)];
    for i in 0..2 {
        node.inputs.extend([step.parameters[i], step.gradients[i], m[i], v[i]].map(Some));
        node.inputs.push(None);
    }
    let node = node.with("lambda", vec![0.01f32, 0.02]).with("alpha", vec![0.9f32, 0.9]);
    let results: [ValueId; 11] = step.operator(node);
    for i in 0..2 {
        // After the step count: per tensor the weight, the gradient, both moments and a 16-bit copy.
        for (k, name) in [(0, "w"), (2, "m"), (3, "v")] {
            step.output(results[1 + 5 * i + k], &format!("{name}{i}_next"));
        }
    }
    let found = becomes_neuroplastic(step, Kind::Lamb, &MOMENTS);
    assert_eq!([0, 1].map(|i| number(&found.matches[i], "weight_decay")), [0.01, 0.02]);
}

#[test]
fn options_that_change_the_update_are_refused_by_name() {
    for (step, operator, option) in
        [(adamw(false, true), "AdamWOptimizer", "update_signal"), (adam(true), "AdamOptimizer", "loss_scale")]
    {
        let (_, found) = step.recognised();
        assert_eq!(found.matches.len(), 0);
        assert!(
            found.unmatched.iter().all(|u| u.reason.contains(option) && u.node.contains(operator)),
            "{:?}",
            found.unmatched
        );
        assert!(!found.unmatched.is_empty());
    }
}

#[test]
fn a_new_value_that_leaves_the_graph_nowhere_is_reported() {
    let mut step = Step::new();
    let node = Node::new("SGDOptimizer", [step.rate, step.parameters[0], step.gradients[0]]);
    let [next] = step.operator(node);
    let [twice] = step.graph.add(Node::new("Add", [next, next]), ["twice"]);
    step.output(twice, "twice");
    let (_, found) = step.recognised();
    assert!(found.matches.is_empty());
    assert!(found.unmatched.iter().any(|u| u.reason.contains("not a graph output")), "{:?}", found.unmatched);
}
