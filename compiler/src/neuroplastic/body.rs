//! The operators' bodies in standard ONNX operators, so that any runtime executes a rewritten model.
//!
//! A body is specialised on the model's settings; what differs from node to node (`modulation_strength`, `target_rms`, `weight_decay`) comes
//! in as an attribute. Only operators and spellings that opset 12 and later share are used.

use super::schema::{DOMAIN, OP, SIGNAL, State, states};
use super::{HybridBase, Mode, ModulationTarget, OrthogonalNormalization, Settings, node_attributes};
use crate::graph::{Attribute, AttributeValue, DType, Function, Graph, Node, Opset, Tensor, ValueId};

/// Decay of the activity trace.
const DELTA: f64 = 0.95;
/// Decay of the momentum signal.
const BETA1: f64 = 0.9;
/// Decay of the variance signal.
const BETA2: f64 = 0.99;

/// Writes expressions into a function body.
struct Body {
    graph: Graph,
}

impl Body {
    fn input(&mut self, name: &str) -> ValueId {
        let id = self.graph.add_value(name, None);
        self.graph.make_input(id);
        id
    }

    fn node(&mut self, node: Node, name: &str) -> ValueId {
        self.graph.add(node, [name])[0]
    }

    fn op(&mut self, op: &str, inputs: &[ValueId], name: &str) -> ValueId {
        self.node(Node::new(op, inputs.iter().copied()), name)
    }

    fn constant(&mut self, x: f64) -> ValueId {
        self.node(Node::new("Constant", []).with("value", Tensor::f32([], &[x as f32])), "c")
    }

    fn attribute(&mut self, name: &str) -> ValueId {
        let mut node = Node::new("Constant", []);
        node.attributes.push(Attribute::new("value_float", AttributeValue::Ref { name: name.into(), kind: 1 }));
        self.node(node, name)
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Add", &[a, b], "sum")
    }

    fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Sub", &[a, b], "difference")
    }

    fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Mul", &[a, b], "product")
    }

    fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Div", &[a, b], "quotient")
    }

    fn sqrt(&mut self, a: ValueId) -> ValueId {
        self.op("Sqrt", &[a], "root")
    }

    fn scaled(&mut self, a: ValueId, by: f64) -> ValueId {
        let c = self.constant(by);
        self.mul(a, c)
    }

    fn plus(&mut self, a: ValueId, x: f64) -> ValueId {
        let c = self.constant(x);
        self.add(a, c)
    }

    fn clip(&mut self, a: ValueId, low: f64, high: f64) -> ValueId {
        let (low, high) = (self.constant(low), self.constant(high));
        let raised = self.op("Max", &[a, low], "raised");
        self.op("Min", &[raised, high], "clipped")
    }

    fn mean(&mut self, a: ValueId) -> ValueId {
        self.node(Node::new("ReduceMean", [a]).with("keepdims", 0i64), "mean")
    }

    fn total(&mut self, a: ValueId) -> ValueId {
        self.node(Node::new("ReduceSum", [a]).with("keepdims", 0i64), "total")
    }

    fn dot(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let product = self.mul(a, b);
        self.total(product)
    }

    fn norm(&mut self, a: ValueId) -> ValueId {
        let square = self.dot(a, a);
        self.sqrt(square)
    }

    /// `decay`·old + (1 − decay)·new.
    fn average(&mut self, old: ValueId, new: ValueId, decay: f64) -> ValueId {
        let (old, new) = (self.scaled(old, decay), self.scaled(new, 1.0 - decay));
        self.add(old, new)
    }

    /// Non-finite elements become 0: x − x is 0 for finite x only.
    fn finite(&mut self, x: ValueId) -> ValueId {
        let zero = self.constant(0.0);
        let gap = self.sub(x, x);
        let is_finite = self.op("Equal", &[gap, zero], "is_finite");
        self.op("Where", &[is_finite, x, zero], "finite")
    }

    /// `delta` scaled down to norm `limit` when it is longer.
    fn limited(&mut self, delta: ValueId, limit: ValueId, eps: f64) -> ValueId {
        let length = self.norm(delta);
        let longer = self.op("Greater", &[length, limit], "too_long");
        let guarded = self.plus(length, eps);
        let factor = self.div(limit, guarded);
        let one = self.constant(1.0);
        let factor = self.op("Where", &[longer, factor, one], "limit");
        self.mul(delta, factor)
    }

    fn gate(&mut self, gates: ValueId, index: i64) -> ValueId {
        let at = self.node(Node::new("Constant", []).with("value", Tensor::i64([], &[index])), "index");
        self.node(Node::new("Gather", [gates, at]).with("axis", 0i64), "gate")
    }

    /// N(x) = x / (mean(x) + ε).
    fn normalised(&mut self, x: ValueId, eps: f64) -> ValueId {
        let mean = self.mean(x);
        let mean = self.plus(mean, eps);
        self.div(x, mean)
    }

    /// 1 − βᵗ, in double: at t = 1 float32 would lose half its digits.
    fn correction(&mut self, beta: f64, t: ValueId) -> ValueId {
        let double = |x: f64| Tensor::raw(DType::F64, [], x.to_le_bytes().to_vec());
        let beta = self.node(Node::new("Constant", []).with("value", double(beta)), "beta");
        let one = self.node(Node::new("Constant", []).with("value", double(1.0)), "one");
        let t = self.node(Node::new("Cast", [t]).with("to", i64::from(DType::F64.0)), "t");
        let power = self.op("Pow", &[beta, t], "power");
        let gap = self.sub(one, power);
        let gap = self.node(Node::new("Cast", [gap]).with("to", i64::from(DType::F32.0)), "correction");
        let floor = self.constant(1e-12);
        self.op("Max", &[gap, floor], "correction")
    }
}

/// What steps 1–4 leave behind.
struct Plasticity {
    activity: ValueId,
    momentum: ValueId,
    variance: ValueId,
    alpha_gradient: ValueId,
    alpha: ValueId,
}

/// Steps 1–4 of the method: traces, signals, coefficients, blend.
fn plasticity(b: &mut Body, s: &Settings, gates: ValueId, g: ValueId, [a, m, v]: [ValueId; 3]) -> Plasticity {
    let size = b.op("Abs", &[g], "size");
    let activity = b.average(a, size, DELTA);
    let momentum = b.average(m, g, BETA1);
    let square = b.mul(g, g);
    let variance = b.average(v, square, BETA2);
    let mut gradient = b.normalised(size, s.eps);
    let clipped = |b: &mut Body, x| b.clip(x, s.min_alpha, s.max_alpha);
    let fused = (s.mode == Mode::RuleBased).then(|| {
        let activity = b.normalised(activity, s.eps);
        let length = b.op("Abs", &[momentum], "length");
        let root = b.sqrt(variance);
        let root = b.plus(root, s.eps);
        let memory = b.div(length, root);
        let memory = b.normalised(memory, s.eps);
        let parts = [(activity, s.activity_weight), (gradient, s.gradient_weight), (memory, s.memory_weight)];
        let [x, y, z] = parts.map(|(x, weight)| b.scaled(x, weight));
        let sum = b.add(x, y);
        let sum = b.add(sum, z);
        if s.parameterwise { sum } else { b.mean(sum) }
    });
    if !s.parameterwise {
        gradient = b.mean(gradient);
    }
    let alpha_gradient = clipped(b, gradient);
    let alpha = match fused {
        None => alpha_gradient,
        Some(fused) => {
            let fused = clipped(b, fused);
            let warm_up = b.gate(gates, 0);
            let share = b.scaled(warm_up, s.plasticity_scale);
            let gap = b.sub(fused, alpha_gradient);
            let gap = b.mul(share, gap);
            b.add(alpha_gradient, gap)
        }
    };
    Plasticity { activity, momentum, variance, alpha_gradient, alpha }
}

/// The update of base `classic` (step 6).
fn classic(b: &mut Body, s: &Settings, p: &Plasticity, gates: ValueId, g: ValueId) -> ValueId {
    if s.orthogonal_residual {
        let gap = b.sub(p.alpha, p.alpha_gradient);
        let pull = b.mul(gap, g);
        let pull = b.finite(pull);
        let square = b.dot(g, g);
        let length = b.sqrt(square);
        let along = b.dot(pull, g);
        let guarded = b.plus(square, s.eps);
        let along = b.div(along, guarded);
        let along = b.mul(along, g);
        let across = b.sub(pull, along);
        let mut across = b.finite(across);
        if s.orthogonal_normalization == OrthogonalNormalization::MatchGradNorm {
            let own = b.norm(across);
            let eps = b.constant(s.eps);
            let there = b.op("Greater", &[own, eps], "is_long");
            let guarded = b.plus(own, s.eps);
            let factor = b.div(length, guarded);
            let one = b.constant(1.0);
            let factor = b.op("Where", &[there, factor, one], "factor");
            across = b.mul(across, factor);
        }
        let gate = b.gate(gates, 2);
        let gate = b.scaled(gate, s.orthogonal_lambda);
        let delta = b.mul(gate, across);
        let limit = b.scaled(length, s.orthogonal_max_ratio);
        let delta = b.limited(delta, limit, s.eps);
        let eps = b.constant(s.eps);
        let moves = b.op("Greater", &[square, eps], "moves");
        let zero = b.constant(0.0);
        let delta = b.op("Where", &[moves, delta, zero], "delta");
        return b.add(g, delta);
    }
    if s.bounded_residual {
        let excess = b.plus(p.alpha, -1.0);
        let delta = b.mul(excess, g);
        let length = b.norm(g);
        let limit = b.scaled(length, s.residual_max_ratio);
        let delta = b.limited(delta, limit, 1e-12);
        return b.add(g, delta);
    }
    b.mul(p.alpha, g)
}

/// The update of a hybrid base (step 6): u, then the base's states.
fn hybrid(
    b: &mut Body,
    s: &Settings,
    p: &Plasticity,
    [gates, t, x, g]: [ValueId; 4],
    old: &[ValueId],
    decays: bool,
) -> (ValueId, Vec<ValueId>) {
    let (base, reference, kept) = if s.hybrid_base == HybridBase::AdamW {
        let first = b.average(old[0], g, s.base_momentum);
        let square = b.mul(g, g);
        let second = b.average(old[1], square, s.base_beta2);
        let one = b.node(Node::new("Constant", []).with("value", Tensor::i64([], &[1])), "one");
        let t = b.op("Add", &[t, one], "t");
        let (c1, c2) = (b.correction(s.base_momentum, t), b.correction(s.base_beta2, t));
        let (m, v) = (b.div(first, c1), b.div(second, c2));
        let root = b.sqrt(v);
        let root = b.plus(root, s.base_eps);
        (b.div(m, root), m, vec![first, second])
    } else {
        let pull = if decays {
            let decay = b.attribute("weight_decay");
            let decay = b.mul(decay, x);
            b.add(g, decay)
        } else {
            g
        };
        let velocity = b.scaled(old[0], s.base_momentum);
        let velocity = b.add(velocity, pull);
        (velocity, velocity, vec![velocity])
    };
    let excess = b.plus(p.alpha, -1.0);
    let phase = b.gate(gates, 1);
    let strength = b.attribute("modulation_strength");
    let strength = b.mul(strength, phase);
    let strength = b.mul(strength, excess);
    let delta = match s.modulation_target {
        ModulationTarget::Gain => b.mul(strength, base),
        ModulationTarget::Momentum => b.mul(strength, reference),
        ModulationTarget::TrustRatio => {
            let (parameter, length) = (b.norm(x), b.norm(base));
            let length = b.plus(length, 1e-12);
            let trust = b.div(parameter, length);
            let trust = b.clip(trust, 0.5, 1.5);
            let trust = b.plus(trust, -1.0);
            let step = b.mul(trust, base);
            b.mul(strength, step)
        }
    };
    let length = b.norm(base);
    let limit = b.scaled(length, s.modulation_max_ratio);
    let delta = b.limited(delta, limit, 1e-12);
    (b.add(base, delta), kept)
}

/// Opset of the standard domain the bodies need at least.
pub const OPSET: i64 = 12;

/// What decides a body's structure beside the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The model's opset of the standard domain.
    pub opset: i64,
    /// The learning-rate controller is on: the operator has the input K.
    pub controller: bool,
    /// Some parameters are not float32: convert at the border.
    pub casts: bool,
    /// Some parameters have weight decay.
    pub decays: bool,
}

/// `NeuroPlastic` as a model-local function.
pub fn neuroplastic_function(s: &Settings, Shape { opset, controller, casts, decays }: Shape) -> Function {
    let mut b = Body { graph: Graph::new(OP) };
    let [rate, t, gates, x_in, g_in] = ["R", "T", "Q", "X", "G"].map(|name| b.input(name));
    let names = ["A", "M", "V", "BM", "BV"];
    let kept: Vec<ValueId> = states(s.hybrid_base).iter().zip(names).map(|(_, name)| b.input(name)).collect();
    let multiplier = controller.then(|| b.input("K"));
    let to_f32 = |b: &mut Body, v| {
        if casts { b.node(Node::new("Cast", [v]).with("to", i64::from(DType::F32.0)), "f32") } else { v }
    };
    let (x, g) = (to_f32(&mut b, x_in), to_f32(&mut b, g_in));
    let p = plasticity(&mut b, s, gates, g, [kept[0], kept[1], kept[2]]);
    let (mut update, base_states) = if s.hybrid_base == HybridBase::Classic {
        (classic(&mut b, s, &p, gates, g), Vec::new())
    } else {
        hybrid(&mut b, s, &p, [gates, t, x, g], &kept[3..], decays)
    };
    let rate = match multiplier {
        Some(k) => b.mul(rate, k),
        None => rate,
    };
    let mut theta = x;
    if decays && s.hybrid_base != HybridBase::SgdMomentum {
        let decay = b.attribute("weight_decay");
        let decay = b.mul(decay, x);
        if s.decoupled_weight_decay || s.hybrid_base == HybridBase::AdamW {
            let decay = b.mul(rate, decay);
            theta = b.sub(x, decay);
        } else {
            update = b.add(update, decay);
        }
    }
    let stable = stabilised(&mut b, s, update);
    let step = b.mul(rate, stable);
    theta = b.sub(theta, step);
    if casts {
        theta = b.op("CastLike", &[theta, x_in], "narrowed");
    }
    let results = [theta, p.activity, p.momentum, p.variance].into_iter().chain(base_states);
    for (value, name) in results.zip(["X_next", "A_next", "M_next", "V_next", "BM_next", "BV_next"]) {
        let out = b.op("Identity", &[value], name);
        b.graph.outputs.push(out);
    }
    finish(b, OP, s, opset)
}

/// Step 8: norm clip and homeostatic gain.
fn stabilised(b: &mut Body, s: &Settings, u: ValueId) -> ValueId {
    let limit = b.constant(s.max_update_norm);
    let u = b.limited(u, limit, s.eps_h);
    let square = b.mul(u, u);
    let mean = b.mean(square);
    let mean = b.plus(mean, s.eps_h);
    let rms = b.sqrt(mean);
    let target = b.attribute("target_rms");
    let gap = b.sub(target, rms);
    let gap = b.scaled(gap, s.adaptation_rate);
    let gain = b.plus(gap, 1.0);
    let gain = b.clip(gain, 0.5, 1.5);
    b.mul(u, gain)
}

/// `PlasticitySignal(Q, G, A, M, V) → s`: step 5's mean log ratio, from the traces as they enter the step.
pub fn signal_function(s: &Settings, opset: i64, casts: bool) -> Function {
    let mut b = Body { graph: Graph::new(SIGNAL) };
    let [gates, g, a, m, v] = ["Q", "G", "A", "M", "V"].map(|name| b.input(name));
    let g = if casts { b.node(Node::new("Cast", [g]).with("to", i64::from(DType::F32.0)), "f32") } else { g };
    let p = plasticity(&mut b, s, gates, g, [a, m, v]);
    let eps = b.constant(s.eps);
    let (x, y) = (b.op("Max", &[p.alpha, eps], "x"), b.op("Max", &[p.alpha_gradient, eps], "y"));
    let ratio = b.div(x, y);
    let log = b.op("Log", &[ratio], "log");
    let log = b.finite(log);
    let signal = b.mean(log);
    let out = b.op("Identity", &[signal], "signal");
    b.graph.outputs.push(out);
    finish(b, SIGNAL, s, opset)
}

fn finish(mut b: Body, name: &str, s: &Settings, opset: i64) -> Function {
    // Values nobody needs (the unfused signals of an ablation, say) would only cost time.
    b.graph.remove_dead();
    Function {
        domain: DOMAIN.into(),
        name: name.into(),
        overload: String::new(),
        attributes: node_attributes(s, 0, 1, 1).into_iter().map(|a| a.name).collect(),
        defaults: Vec::new(),
        opsets: vec![Opset { domain: String::new(), version: opset }],
        body: b.graph,
        doc: String::new(),
        metadata: Vec::new(),
        unknown: Vec::new(),
    }
}

/// States of a base with the operator's input letters.
pub fn letters(base: HybridBase) -> impl Iterator<Item = (State, &'static str)> {
    states(base).iter().copied().zip(["A", "M", "V", "BM", "BV"])
}
