//! Property: a recognised step stays recognised, with the same finding, under other names, orders and operand orders.

use super::testing::step;
use super::*;
use crate::graph::Node;
use proptest::prelude::*;
use std::path::Path;

/// One spelling of every kind.
const STEPS: &[(Kind, &str)] = &[
    (Kind::Sgd, "w' = w - lr*(g + 0.0005*w)"),
    (Kind::Momentum, "b' = 0.9*b + (g + 0.01*w); w' = w - lr*b'"),
    (Kind::Nesterov, "b' = 0.9*b + g; w' = w - lr*(g + 0.9*b')"),
    (
        Kind::Adam,
        "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)",
    ),
    (
        Kind::AdamW,
        "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; \
         w' = w*(1 - lr*0.01) - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)",
    ),
    (
        Kind::AmsGrad,
        "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; x' = max(x, v'); \
         w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(x'/(1 - 0.999^t)) + 1e-8)",
    ),
    (Kind::Adamax, "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g) + 1e-8); w' = w - lr/(1 - 0.9^t)*m'/u'"),
    (
        Kind::NAdam,
        "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; \
         w' = w - lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)",
    ),
    (Kind::Adagrad, "h' = h + g*g; w' = w - lr*g/(sqrt(h') + 1e-6)"),
    (
        Kind::RmsProp,
        "v' = 0.99*v + 0.01*g*g; a' = 0.99*a + 0.01*g; b' = 0.9*b + g/(sqrt(v' - a'*a') + 1e-8); w' = w - lr*b'",
    ),
    (Kind::Adadelta, "s' = 0.9*s + 0.1*g*g; x = sqrt(d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x"),
    (Kind::Lion, "w' = w - lr*sign(0.9*m + 0.1*g); m' = 0.99*m + 0.01*g"),
    (
        Kind::Lamb,
        "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; \
         r = (m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-6) + 0.01*w; w' = w - lr*(norm(w)/norm(r))*r",
    ),
];

const FILES: &[&str] = &[
    "pytorch-train-step/mlp_momentum.onnx",
    "pytorch-train-step/mlp_adam_lerp.onnx",
    "pytorch-train-step/mlp_adamw_unoptimized.onnx",
    "pytorch-train-step/mlp_rmsprop.onnx",
    "jax-train-step/mlp_optax_adam.onnx",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// The same model with values, nodes, inputs and outputs in another order, other names, and commutative operands
/// swapped; with the value of the original that each new value stands for.
fn disguise(model: &Model, seed: u64) -> (Model, FxHashMap<ValueId, ValueId>) {
    let mut random = Random(seed);
    let old = &model.graph;
    let mut graph = Graph::new("disguised");
    let (mut to, mut from) = (FxHashMap::default(), FxHashMap::default());
    let mut values: Vec<ValueId> = old.value_ids().collect();
    random.shuffle(&mut values);
    for value in values {
        let id = graph.add_value(&format!("{:x}", random.next()), old.value(value).ty.clone());
        graph.value_mut(id).initializer.clone_from(&old.value(value).initializer);
        to.insert(value, id);
        from.insert(id, value);
    }
    let mut inputs = old.inputs.clone();
    random.shuffle(&mut inputs);
    inputs.iter().for_each(|v| graph.make_input(to[v]));
    let mut nodes: Vec<NodeId> = old.node_ids().collect();
    random.shuffle(&mut nodes);
    for id in nodes {
        let node = old.node(id);
        let mut inputs: Vec<_> = node.inputs.iter().map(|v| v.map(|v| to[&v])).collect();
        if matches!(node.op_type.as_str(), "Add" | "Mul" | "Max" | "Min" | "Sum" | "And" | "Or" | "Equal") {
            random.shuffle(&mut inputs);
        }
        graph.add_node(Node {
            name: format!("{:x}", random.next()),
            inputs,
            outputs: node.outputs.iter().map(|v| v.map(|v| to[&v])).collect(),
            captures: node.captures.iter().map(|v| to[v]).collect(),
            ..node.clone()
        });
    }
    graph.outputs = old.outputs.iter().map(|v| to[v]).collect();
    random.shuffle(&mut graph.outputs);
    (Model { graph, ..model.clone() }, from)
}

/// What was found, in the original's values and without regard to order.
fn findings(model: &Model, from: impl Fn(ValueId) -> ValueId) -> Vec<String> {
    let found = recognise(model, &RecogniseOptions::default()).unwrap();
    assert_eq!(found.unmatched, []);
    let mut lines: Vec<String> = found
        .matches
        .iter()
        .map(|m| {
            let mut states: Vec<_> =
                m.states.iter().map(|s| format!("{:?}", (from(s.value), from(s.next), s.role))).collect();
            states.sort();
            let mut settings: Vec<_> = m
                .settings
                .iter()
                .map(|(name, x)| match x {
                    Setting::Number(x) => format!("{name} {x:.5e}"),
                    Setting::Input(v) => format!("{name} {:?}", from(*v)),
                })
                .collect();
            settings.sort();
            let whole = (from(m.parameter), from(m.next), from(m.gradient), m.kind, m.decoupled_weight_decay);
            let rate = (m.learning_rate.value.map(&from), format!("{:.5e}", m.learning_rate.scale));
            let step = m.step.map(|s| (from(s.value), s.first.to_bits()));
            format!("{whole:?} {states:?} {settings:?} {rate:?} {step:?} {}", m.epsilon_missing)
        })
        .collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_kind_survives_disguise(seed in any::<u64>()) {
        for (kind, formulas) in STEPS {
            let model = step(formulas);
            let plain = findings(&model, |v| v);
            prop_assert!(plain.len() == 1 && plain[0].contains(&format!(" {kind:?},")), "{formulas}: {plain:?}");
            let (other, from) = disguise(&model, seed);
            prop_assert_eq!(findings(&other, |v| from[&v]), plain, "{}", formulas);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn real_steps_survive_disguise(seed in any::<u64>()) {
        for file in FILES {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
            let model = crate::onnx::load(&path).unwrap();
            let plain = findings(&model, |v| v);
            prop_assert!(!plain.is_empty(), "{}", file);
            let (other, from) = disguise(&model, seed);
            prop_assert_eq!(findings(&other, |v| from[&v]), plain, "{}", file);
        }
    }
}
