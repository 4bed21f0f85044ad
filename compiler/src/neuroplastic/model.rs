//! A model that is nothing but optimizer: gradients are inputs. For tests, benchmarks and golden vectors.

use super::Settings;
use crate::compile::{CompileError, Compiled, Emit};
use crate::graph::{DType, Graph, Model, Opset, ValueType};
use crate::passes::{Compilation, Tensor};

/// One NeuroPlastic update per shape: inputs `p0, p1, …` (parameters) and `g0, g1, …` (gradients) in float32, outputs
/// `p0.next, p1.next, …`, states as in every compiled model. With [`Emit::TrainingInfo`] the result has no forward part.
///
/// # Errors
/// Settings out of range.
pub fn step_model(shapes: &[Vec<usize>], settings: &Settings, emit: Emit) -> Result<Compiled, CompileError> {
    settings.check()?;
    let mut graph = Graph::new("step");
    let mut tensors = Vec::new();
    let rate = graph.add_input("learning_rate", ValueType::tensor(DType::F32, &[]));
    graph.value_mut(rate).initializer = Some(crate::graph::Tensor::f32([], &[settings.lr as f32]));
    for (i, dims) in shapes.iter().enumerate() {
        let theta = graph.add_input(&format!("p{i}"), ValueType::tensor(DType::F32, dims));
        let gradient = graph.add_input(&format!("g{i}"), ValueType::tensor(DType::F32, dims));
        tensors.push(Tensor { theta, gradient, replaces: None, rate, settings: settings.clone() });
    }
    let model = Model {
        ir_version: 8,
        opsets: vec![Opset { domain: String::new(), version: 17 }],
        producer_name: "npc".into(),
        graph,
        ..Model::default()
    };
    let mut state = Compilation::new(model);
    state.insert(&tensors)?;
    state.finish(settings, emit)
}
