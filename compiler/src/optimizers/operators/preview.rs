//! `Adam`, `Adagrad` and `Momentum` of `ai.onnx.preview.training`: inputs R, T, then every X, every G, every state.

use super::{Update, Updates, number};
use crate::graph::{Node, ValueId};
use crate::optimizers::{Kind, StateRole};

/// (X, G, states) and (X', states') of each tensor.
struct Tensor {
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
}

fn tensors(node: &Node, states: usize) -> Result<Vec<Tensor>, String> {
    let (ins, outs) = (2 + states, 1 + states);
    let count = node.inputs.len().saturating_sub(2) / ins;
    if count == 0 || node.inputs.len() != 2 + count * ins || node.outputs.len() != count * outs {
        return Err(format!(
            "it has {} inputs and {} outputs, which is no whole number of tensors",
            node.inputs.len(),
            node.outputs.len()
        ));
    }
    let pick = |i: usize| Tensor {
        inputs: (0..ins).map(|k| node.input(2 + k * count + i)).collect(),
        outputs: (0..outs).map(|k| node.output(k * count + i)).collect(),
    };
    Ok((0..count).map(pick).collect())
}

fn updates(node: &Node, roles: &[StateRole], kind: Kind, first: f64, settings: &[(&'static str, f64)]) -> Updates {
    let one = |t: Tensor| Update {
        kind,
        parameter: t.inputs[0],
        next: t.outputs[0],
        gradient: t.inputs[1],
        states: roles.iter().enumerate().map(|(i, role)| (t.inputs[2 + i], t.outputs[1 + i], *role)).collect(),
        rate: node.input(0),
        step: node.input(1).map(|v| (v, first)),
        settings: settings.to_vec(),
        decoupled: false,
    };
    Ok(tensors(node, roles.len())?.into_iter().map(one).collect())
}

/// T counts from 1: at T = 0 the operator leaves the bias uncorrected.
pub fn adam(node: &Node) -> Updates {
    if number(node, "norm_coefficient_post", 0.0) != 0.0 {
        return Err("norm_coefficient_post shrinks the parameter by a factor that no learning rate scales".into());
    }
    let settings = [
        ("beta1", number(node, "alpha", 0.9)),
        ("beta2", number(node, "beta", 0.999)),
        ("epsilon", number(node, "epsilon", 1e-6)),
        ("weight_decay", number(node, "norm_coefficient", 0.0)),
        ("bias_correction", 1.0),
    ];
    updates(node, &[StateRole::FirstMoment, StateRole::SecondMoment], Kind::Adam, 1.0, &settings)
}

pub fn adagrad(node: &Node) -> Updates {
    let settings = [
        ("epsilon", number(node, "epsilon", 1e-6)),
        ("lr_decay", number(node, "decay_factor", 0.0)),
        ("weight_decay", number(node, "norm_coefficient", 0.0)),
    ];
    updates(node, &[StateRole::SecondMoment], Kind::Adagrad, 0.0, &settings)
}

pub fn momentum(node: &Node) -> Updates {
    let kind = match node.string("mode") {
        Some("standard") => Kind::Momentum,
        Some("nesterov") => Kind::Nesterov,
        other => return Err(format!("its mode is {other:?}; standard and nesterov are known")),
    };
    let settings = [
        ("momentum", number(node, "alpha", 0.0)),
        ("dampening", 1.0 - number(node, "beta", 1.0)),
        ("weight_decay", number(node, "norm_coefficient", 0.0)),
    ];
    updates(node, &[StateRole::Velocity], kind, 0.0, &settings)
}
