//! What the shipped training steps are about.

use super::*;
use crate::graph::Graph;
use crate::optimizers::{RecogniseOptions, recognise};
use std::path::Path;

/// The graph with the outputs that recognition says are fed back.
fn step(file: &str) -> (Graph, Vec<crate::graph::ValueId>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
    let model = crate::onnx::load(&path).unwrap();
    let found = recognise(&model, &RecogniseOptions::default()).unwrap();
    let next = found.matches.iter().flat_map(|m| std::iter::once(m.next).chain(m.states.iter().map(|s| s.next)));
    let next = next.collect();
    (model.graph, next)
}

const PYTORCH: [(&str, &str); 7] = [
    ("mlp_adam_lerp", "labels"),
    ("mlp_adamw", "labels"),
    ("mlp_adamw_unoptimized", "y"),
    ("mlp_momentum", "labels"),
    ("mlp_rmsprop", "labels"),
    ("mlp_sgd", "labels"),
    ("transformer_adamw", "y"),
];

#[test]
fn pytorch_steps_show_loss_logits_and_class_labels() {
    for (file, labels) in PYTORCH {
        let (graph, next) = step(&format!("pytorch-train-step/{file}.onnx"));
        assert_eq!(loss(&graph, &next).map(|v| graph.name_of(v)), Some("loss"), "{file}");
        let task = task(&graph).unwrap_or_else(|| panic!("{file}: no task"));
        assert_eq!(graph.name_of(task.labels), labels, "{file}");
        assert_eq!(task.kind, LabelKind::Class, "{file}");
        let (_, producer) = graph.producer(task.logits).unwrap();
        assert_eq!(graph.value(task.logits).dims().unwrap().len(), 2, "{file}: {}", producer.op_type);
        let classes = if file == "transformer_adamw" { 96 } else { 10 };
        assert_eq!(graph.value(task.logits).dims().unwrap()[1], classes, "{file}");
    }
}

#[test]
fn jax_steps_show_loss_log_probabilities_and_one_hot_labels() {
    for file in ["mlp_optax_sgd", "mlp_optax_momentum", "mlp_optax_adam"] {
        let (graph, next) = step(&format!("jax-train-step/{file}.onnx"));
        assert_eq!(loss(&graph, &next), Some(graph.outputs[0]), "{file}");
        let task = task(&graph).unwrap_or_else(|| panic!("{file}: no task"));
        assert_eq!(task.kind, LabelKind::OneHot, "{file}");
        let dims = graph.value(task.labels).dims().unwrap();
        assert_eq!(dims[1], 10, "{file}");
        assert!(graph.inputs.contains(&task.labels), "{file}");
    }
}

#[test]
fn a_convolutional_step_shows_labels_behind_one_hot() {
    let (graph, next) = step("cnn-train-step/cnn_adamw.onnx");
    assert_eq!(loss(&graph, &next).map(|v| graph.name_of(v)), Some("loss"));
    let task = task(&graph).unwrap();
    assert_eq!((graph.name_of(task.logits), graph.name_of(task.labels)), ("logits", "labels"));
    assert_eq!((task.kind, task.class_axis), (LabelKind::Class, 1));
}

#[test]
fn a_graph_without_labels_has_no_task() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/forward/mlp_dynamo.onnx");
    assert_eq!(task(&crate::onnx::load(&path).unwrap().graph), None);
}

#[test]
fn a_linear_layers_weight_and_bias_start_alike() {
    let (graph, _) = step("pytorch-train-step/mlp_sgd.onnx");
    for (name, fan_in) in [("net.0", 784.0f64), ("net.2", 64.0), ("net.4", 64.0)] {
        for part in ["weight", "bias"] {
            let parameter = graph.value_named(&format!("{name}.{part}")).unwrap();
            assert_eq!(
                initialization(&graph, parameter),
                Init::Uniform { bound: 1.0 / fan_in.sqrt() },
                "{name}.{part}"
            );
        }
    }
}

#[test]
fn all_37_parameters_of_the_transformer_start_as_pytorch_starts_them() {
    let (graph, _) = step("pytorch-train-step/transformer_adamw.onnx");
    let parameters = graph.inputs.iter().copied().filter(|v| graph.name_of(*v).starts_with("p."));
    let mut count = 0;
    for parameter in parameters {
        let name = graph.name_of(parameter);
        let layer = name.rsplit('.').nth(1).unwrap();
        let expected = match (layer, name.ends_with("weight")) {
            ("n1" | "n2" | "nf", true) => Init::Ones,
            ("n1" | "n2" | "nf", false) => Init::Zeros,
            ("emb" | "p", _) => Init::Normal { std: 0.02 },
            ("f2", _) => Init::Uniform { bound: 1.0 / 16.0 },
            _ => Init::Uniform { bound: 1.0 / 8.0 },
        };
        assert_eq!(initialization(&graph, parameter), expected, "{name}");
        count += 1;
    }
    assert_eq!(count, 37);
}
