//! `ai.onnx.preview.training` operators as standard ones, for engines that lack them.

use super::{PREVIEW, number};
use crate::graph::{DType, Graph, Node, NodeId, Tensor, ValueId};

/// Replaces every `Adam`, `Adagrad` and `Momentum` of `ai.onnx.preview.training` by the formula of its definition.
pub fn lower(graph: &mut Graph) {
    let known = |n: &Node| n.domain == PREVIEW && matches!(n.op_type.as_str(), "Adam" | "Adagrad" | "Momentum");
    let nodes: Vec<NodeId> = graph.node_ids().filter(|id| known(graph.node(*id))).collect();
    for id in nodes {
        let states = if graph.node(id).op_type == "Adam" { 2 } else { 1 };
        let count = graph.node(id).inputs.len().saturating_sub(2) / (2 + states);
        let whole = graph.node(id).inputs.len() == 2 + count * (2 + states)
            && graph.node(id).outputs.len() == count * (1 + states);
        let Some(node) = (if whole { graph.remove_node(id) } else { None }) else { continue };
        let (Some(rate), Some(t)) = (node.input(0), node.input(1)) else { continue };
        for i in 0..count {
            let pick = |k: usize| node.input(2 + k * count + i);
            let out = |k: usize| node.output(k * count + i);
            let mut f = Formula { graph };
            let results = match (node.op_type.as_str(), pick(0), pick(1), pick(2), pick(2 + states - 1)) {
                ("Adam", Some(x), Some(g), Some(v), Some(h)) => f.adam(&node, rate, t, [x, g, v, h]),
                ("Adagrad", Some(x), Some(g), Some(h), _) => f.adagrad(&node, rate, t, [x, g, h]),
                (_, Some(x), Some(g), Some(v), _) => f.momentum(&node, rate, t, [x, g, v]),
                _ => continue,
            };
            for (k, value) in results.into_iter().enumerate() {
                if let Some(target) = out(k) {
                    graph.add_node(Node { outputs: vec![Some(target)], ..Node::new("Identity", [value]) });
                }
            }
        }
    }
}

struct Formula<'g> {
    graph: &'g mut Graph,
}

impl Formula<'_> {
    fn op(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.graph.add(Node::new(op, inputs.iter().copied()), ["lowered"])[0]
    }

    fn constant(&mut self, x: f64) -> ValueId {
        self.graph.add_initializer("lowered.c", Tensor::f32([], &[x as f32]))
    }

    fn scaled(&mut self, x: ValueId, by: f64) -> ValueId {
        let by = self.constant(by);
        self.op("Mul", &[x, by])
    }

    fn plus(&mut self, x: ValueId, y: f64) -> ValueId {
        let y = self.constant(y);
        self.op("Add", &[x, y])
    }

    fn float(&mut self, t: ValueId) -> ValueId {
        let node = Node::new("Cast", [t]).with("to", i64::from(DType::F32.0));
        self.graph.add(node, ["lowered.t"])[0]
    }

    fn regularised(&mut self, node: &Node, x: ValueId, g: ValueId) -> ValueId {
        match number(node, "norm_coefficient", 0.0) {
            0.0 => g,
            c => {
                let pull = self.scaled(x, c);
                self.op("Add", &[pull, g])
            }
        }
    }

    fn average(&mut self, old: ValueId, new: ValueId, decay: f64) -> ValueId {
        let (old, new) = (self.scaled(old, decay), self.scaled(new, 1.0 - decay));
        self.op("Add", &[old, new])
    }

    /// Where t > 0, `then`, else `otherwise`.
    fn started(&mut self, t: ValueId, then: ValueId, otherwise: ValueId) -> ValueId {
        let zero = self.constant(0.0);
        let started = self.op("Greater", &[t, zero]);
        self.op("Where", &[started, then, otherwise])
    }

    fn adam(&mut self, node: &Node, rate: ValueId, t: ValueId, [x, g, v, h]: [ValueId; 4]) -> Vec<ValueId> {
        let (alpha, beta) = (number(node, "alpha", 0.9), number(node, "beta", 0.999));
        let g = self.regularised(node, x, g);
        let v = self.average(v, g, alpha);
        let square = self.op("Mul", &[g, g]);
        let h = self.average(h, square, beta);
        let root = self.op("Sqrt", &[h]);
        let root = self.plus(root, number(node, "epsilon", 1e-6));
        let t = self.float(t);
        let [c1, c2] = [alpha, beta].map(|b| {
            let b = self.constant(b);
            let power = self.op("Pow", &[b, t]);
            let one = self.constant(1.0);
            self.op("Sub", &[one, power])
        });
        let c2 = self.op("Sqrt", &[c2]);
        let adjusted = self.op("Mul", &[rate, c2]);
        let adjusted = self.op("Div", &[adjusted, c1]);
        let adjusted = self.started(t, adjusted, rate);
        let step = self.op("Mul", &[adjusted, v]);
        let step = self.op("Div", &[step, root]);
        let next = self.op("Sub", &[x, step]);
        let next = match number(node, "norm_coefficient_post", 0.0) {
            0.0 => next,
            c => self.scaled(next, 1.0 - c),
        };
        vec![next, v, h]
    }

    fn adagrad(&mut self, node: &Node, rate: ValueId, t: ValueId, [x, g, h]: [ValueId; 3]) -> Vec<ValueId> {
        let t = self.float(t);
        let slow = self.scaled(t, number(node, "decay_factor", 0.0));
        let slow = self.plus(slow, 1.0);
        let rate = self.op("Div", &[rate, slow]);
        let g = self.regularised(node, x, g);
        let square = self.op("Mul", &[g, g]);
        let h = self.op("Add", &[h, square]);
        let root = self.op("Sqrt", &[h]);
        let root = self.plus(root, number(node, "epsilon", 1e-6));
        let step = self.op("Mul", &[rate, g]);
        let step = self.op("Div", &[step, root]);
        vec![self.op("Sub", &[x, step]), h]
    }

    fn momentum(&mut self, node: &Node, rate: ValueId, t: ValueId, [x, g, v]: [ValueId; 3]) -> Vec<ValueId> {
        let alpha = number(node, "alpha", 0.0);
        let g = self.regularised(node, x, g);
        let t = self.float(t);
        let (beta, one) = (self.constant(number(node, "beta", 1.0)), self.constant(1.0));
        let beta = self.started(t, beta, one);
        let (old, new) = (self.scaled(v, alpha), self.op("Mul", &[beta, g]));
        let v = self.op("Add", &[old, new]);
        let direction = if node.string("mode") == Some("nesterov") {
            let ahead = self.scaled(v, alpha);
            self.op("Add", &[g, ahead])
        } else {
            v
        };
        let step = self.op("Mul", &[rate, direction]);
        vec![self.op("Sub", &[x, step]), v]
    }
}
