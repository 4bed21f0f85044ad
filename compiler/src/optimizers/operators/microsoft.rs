//! ONNX Runtime's training operators. Options for mixed precision (loss scales, skip signals, 16-bit copies) and for
//! clipping inside the operator change the formula and are refused by name.

use super::{Update, Updates, number};
use crate::graph::{Graph, Node, ValueId};
use crate::optimizers::{Kind, StateRole};

const MOMENTS: [StateRole; 2] = [StateRole::FirstMoment, StateRole::SecondMoment];

/// Tensors put into a sequence by `SequenceConstruct`, or one by one by `SequenceInsert` from `SequenceEmpty`.
fn sequence(graph: &Graph, value: Option<ValueId>) -> Result<Vec<ValueId>, String> {
    let unknown = || "its tensors come as a sequence that is not built inside the graph".to_string();
    let (mut at, mut last_first) = (value, Vec::new());
    loop {
        let (_, node) = at.and_then(|v| graph.producer(v)).ok_or_else(unknown)?;
        match node.op_type.as_str() {
            "SequenceConstruct" => last_first.extend(node.inputs.iter().rev().flatten()),
            "SequenceEmpty" => {}
            "SequenceInsert" if node.inputs.len() == 2 => {
                last_first.extend(node.input(1));
                at = node.input(0);
                continue;
            }
            _ => return Err(unknown()),
        }
        last_first.reverse();
        return Ok(last_first);
    }
}

/// The tensors taken out of a sequence by `SequenceAt` with a constant index.
fn elements(graph: &Graph, value: Option<ValueId>, count: usize) -> Vec<Option<ValueId>> {
    let mut found = vec![None; count];
    let readers = value.map(|v| graph.value(v).consumers.clone()).unwrap_or_default();
    for node in readers.into_iter().map(|id| graph.node(id)).filter(|n| n.is("SequenceAt")) {
        let index = node.input(1).and_then(|v| constant(graph, v));
        if let Some(slot) = index
            .map(|i| if i < 0 { i + count as i64 } else { i })
            .and_then(|i| found.get_mut(usize::try_from(i).ok()?))
        {
            *slot = node.output(0);
        }
    }
    found
}

fn constant(graph: &Graph, value: ValueId) -> Option<i64> {
    let number = |t: &crate::graph::Tensor| t.scalar_f64().map(|x| x as i64);
    match graph.constant(value) {
        Some(t) => number(t),
        None => match graph.producer(value)?.1 {
            node if node.is("Constant") => match &node.attributes.first()?.value {
                crate::graph::AttributeValue::Tensor(t) => number(t),
                crate::graph::AttributeValue::Int(x) => Some(*x),
                _ => None,
            },
            _ => None,
        },
    }
}

/// Refuses present inputs by name.
fn absent(node: &Node, options: &[(usize, &str)]) -> Result<(), String> {
    match options.iter().find(|(i, _)| node.input(*i).is_some()) {
        Some((_, name)) => Err(format!(
            "its input {name} changes the update in a way NeuroPlastic cannot follow; export without mixed precision"
        )),
        None => Ok(()),
    }
}

pub fn sgd(node: &Node) -> Updates {
    let (rate, parameter, gradient) = (node.input(0), node.input(1), node.input(2));
    let next = node.output(0);
    Ok(vec![Update {
        kind: Kind::Sgd,
        parameter,
        next,
        gradient,
        states: Vec::new(),
        rate,
        step: None,
        settings: vec![("weight_decay", 0.0)],
        decoupled: false,
    }])
}

pub fn sgd_v2(graph: &Graph, node: &Node) -> Updates {
    absent(node, &[(3, "update_signal")])?;
    let (parameters, gradients) = (sequence(graph, node.input(1))?, sequence(graph, node.input(2))?);
    if parameters.len() != gradients.len() {
        return Err("its sequences have different lengths".into());
    }
    let next = elements(graph, node.output(1), parameters.len());
    let one = |((parameter, gradient), next): ((ValueId, ValueId), Option<ValueId>)| Update {
        kind: Kind::Sgd,
        parameter: Some(parameter),
        next,
        gradient: Some(gradient),
        states: Vec::new(),
        rate: node.input(0),
        step: None,
        settings: vec![("weight_decay", 0.0)],
        decoupled: false,
    };
    Ok(parameters.into_iter().zip(gradients).zip(next).map(one).collect())
}

pub fn adam(_: &Graph, node: &Node) -> Updates {
    absent(
        node,
        &[(6, "mixed_precision_weights"), (7, "loss_scale"), (8, "global_gradient_norm"), (9, "update_signal")],
    )?;
    let decay = number(node, "lambda", 0.0);
    Ok(vec![Update {
        kind: if decay > 0.0 { Kind::AdamW } else { Kind::Adam },
        parameter: node.input(2),
        next: node.output(3),
        gradient: node.input(3),
        states: vec![(node.input(4), node.output(1), MOMENTS[0]), (node.input(5), node.output(2), MOMENTS[1])],
        rate: node.input(0),
        step: node.input(1).map(|v| (v, 1.0)),
        settings: adam_settings(node, decay, node.int("do_bias_correction") != Some(0)),
        decoupled: true,
    }])
}

fn adam_settings(node: &Node, decay: f64, corrects: bool) -> Vec<(&'static str, f64)> {
    vec![
        ("beta1", number(node, "alpha", 0.9)),
        ("beta2", number(node, "beta", 0.999)),
        ("epsilon", number(node, "epsilon", 1e-8)),
        ("weight_decay", decay),
        ("bias_correction", f64::from(u8::from(corrects))),
    ]
}

pub fn adamw(graph: &Graph, node: &Node) -> Updates {
    absent(node, &[(6, "update_signal")])?;
    let [parameters, gradients, first, second] = [2, 3, 4, 5].map(|i| sequence(graph, node.input(i)));
    let (parameters, gradients, first, second) = (parameters?, gradients?, first?, second?);
    let count = parameters.len();
    if [gradients.len(), first.len(), second.len()] != [count; 3] {
        return Err("its sequences have different lengths".into());
    }
    let [next, m, v] = [1, 2, 3].map(|i| elements(graph, node.output(i), count));
    let settings = adam_settings(node, number(node, "weight_decay", 1e-2), node.int("correct_bias") != Some(0));
    let one = |i: usize| Update {
        kind: Kind::AdamW,
        parameter: Some(parameters[i]),
        next: next[i],
        gradient: Some(gradients[i]),
        states: vec![(Some(first[i]), m[i], MOMENTS[0]), (Some(second[i]), v[i], MOMENTS[1])],
        rate: node.input(0),
        step: node.input(1).map(|v| (v, 1.0)),
        settings: settings.clone(),
        decoupled: true,
    };
    Ok((0..count).map(one).collect())
}

pub fn lamb(_: &Graph, node: &Node) -> Updates {
    absent(node, &[(0, "update_signal"), (1, "loss_scale"), (2, "gradient_norm")])?;
    let count = node.inputs.len().saturating_sub(5).div_ceil(5);
    let list = |name: &str, i: usize, default: f64| match node.attribute(name) {
        Some(crate::graph::AttributeValue::Floats(x)) => {
            x.get(i).or(x.first()).map_or(default, |x| x.to_string().parse().unwrap_or(f64::from(*x)))
        }
        _ => default,
    };
    if (0..count).any(|i| node.input(9 + 5 * i).is_some()) {
        return Err("it keeps 16-bit copies of its weights; export without mixed precision".into());
    }
    let one = |i: usize| {
        let (a, b) = (5 + 5 * i, 1 + 5 * i);
        Update {
            kind: Kind::Lamb,
            parameter: node.input(a),
            next: node.output(b),
            gradient: node.input(a + 1),
            states: vec![
                (node.input(a + 2), node.output(b + 2), MOMENTS[0]),
                (node.input(a + 3), node.output(b + 3), MOMENTS[1]),
            ],
            rate: node.input(3),
            step: node.input(4).map(|v| (v, 1.0)),
            settings: vec![
                ("beta1", list("alpha", i, 0.9)),
                ("beta2", list("beta", i, 0.999)),
                ("epsilon", list("epsilon", i, 1e-6)),
                ("weight_decay", list("lambda", i, 0.0)),
                ("bias_correction", f64::from(u8::from(node.int("do_bias_correction") != Some(0)))),
            ],
            decoupled: true,
        }
    };
    Ok((0..count).map(one).collect())
}
