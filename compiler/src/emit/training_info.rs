//! A standard `TrainingInfoProto` (onnx.proto): the step as an inference graph and an algorithm that is run joined to
//! it, every fed-back value an initializer that an update binding overwrites.

use super::initialization::{First, Initialization};
use crate::analysis::Init;
use crate::bindings::Bindings;
use crate::compile::CompileError;
use crate::graph::{Graph, Model, Node, NodeId, Tensor, TrainingInfo, ValueId};
use crate::neuroplastic::{HybridBase, Mode, OrthogonalSchedule, PhaseScope, Settings};
use rustc_hash::FxHashSet;

/// First IR version with training information.
const TRAINING_IR: i64 = 7;

/// A value that a step overwrites.
struct Variable {
    value: ValueId,
    next: ValueId,
    first: First,
}

/// Splits a step graph whose feedback `bindings` describe. The inference graph computes the logits (the loss where the
/// logits are unknown); everything else is the algorithm. The step counter becomes a variable too, the learning rate
/// stays an input, and so do the gates unless they are the same in every epoch.
///
/// # Errors
/// A fed-back value for which neither the model nor data flow says how it starts.
pub fn training_info(model: &mut Model, bindings: &Bindings) -> Result<(), CompileError> {
    let variables = variables(&mut model.graph, bindings)?;
    settle_inputs(&mut model.graph, bindings);
    let graph = &mut model.graph;
    let fed_back: FxHashSet<ValueId> = variables.iter().map(|v| v.value).collect();
    graph.inputs.retain(|v| !fed_back.contains(v));
    let mut initialization = Initialization::default();
    for variable in &variables {
        initialization.add(graph, variable.value, variable.first)?;
        graph.value_mut(variable.value).is_input = false;
    }
    let result = bindings.outputs.logits.as_ref().or(bindings.outputs.loss.as_ref());
    let result: Vec<ValueId> = result.and_then(|name| graph.value_named(name)).into_iter().collect();
    let forward = graph.ancestors(&result);
    let whole = graph.clone();
    let in_forward = |v: ValueId| match whole.value(v).producer {
        Some((id, _)) => forward.contains(&id),
        None => whole.value(v).consumers.iter().any(|n| forward.contains(n)),
    };
    let inference = part(&whole, in_forward, |id| forward.contains(&id));
    let mut algorithm = part(&whole, |v| !in_forward(v), |id| !forward.contains(&id));
    algorithm.name = format!("{}.algorithm", whole.name);
    algorithm.doc.clear();
    algorithm.metadata.clear();
    algorithm.unknown.clear();
    let name = |v: ValueId| whole.name_of(v).to_string();
    model.training.push(TrainingInfo {
        initialization: Some(initialization.graph),
        algorithm: Some(algorithm),
        initialization_binding: initialization.bindings,
        // A value that a step leaves as it is needs no update.
        update_binding: variables.iter().filter(|v| v.value != v.next).map(|v| (name(v.value), name(v.next))).collect(),
        unknown: Vec::new(),
    });
    model.graph = inference;
    model.ir_version = model.ir_version.max(TRAINING_IR);
    Ok(())
}

fn variables(graph: &mut Graph, bindings: &Bindings) -> Result<Vec<Variable>, CompileError> {
    let find = |graph: &Graph, name: &str| {
        graph.value_named(name).ok_or_else(|| CompileError::TrainingInfo(format!("'{name}' is not in the graph")))
    };
    let mut variables = Vec::new();
    for parameter in &bindings.parameters {
        let (value, next) = (find(graph, &parameter.name)?, find(graph, &parameter.next)?);
        variables.push(Variable { value, next, first: First::Drawn(parameter.init) });
        for state in &parameter.states {
            let (value, next) = (find(graph, &state.name)?, find(graph, &state.next)?);
            variables.push(Variable { value, next, first: First::Same(0.0) });
        }
    }
    for state in &bindings.state {
        let (value, next) = (find(graph, &state.name)?, find(graph, &state.next)?);
        variables.push(Variable { value, next, first: first_of_other(graph, value)? });
    }
    if let Some(step) = &bindings.step {
        let value = find(graph, &step.name)?;
        let unsuitable = || CompileError::TrainingInfo(format!("the step counter '{}' is no number", step.name));
        let one = graph.value(value).dtype().and_then(|d| Tensor::scalar(d, 1.0)).ok_or_else(unsuitable)?;
        let one = graph.add_initializer(&format!("{}.one", step.name), one);
        let [next] = graph.add(Node::new("Add", [value, one]), [format!("{}.next", step.name).as_str()]);
        graph.value_mut(next).ty = graph.value(value).ty.clone();
        graph.outputs.push(next);
        variables.push(Variable { value, next, first: First::Same(step.first) });
    }
    Ok(variables)
}

/// How a fed-back value that is no parameter of a recognised update starts.
fn first_of_other(graph: &Graph, value: ValueId) -> Result<First, CompileError> {
    let info = graph.value(value);
    let scalar = info.dims().is_some_and(|d| d.iter().product::<usize>() == 1);
    match (&info.initializer, info.dtype()) {
        (Some(_), _) => Ok(First::Drawn(Init::Initializer)),
        (None, Some(dtype)) if !dtype.is_float() => Ok(First::Same(0.0)),
        (None, Some(_)) if !scalar => Ok(match crate::analysis::initialization(graph, value) {
            Init::Ones => First::Same(1.0),
            Init::Zeros => First::Same(0.0),
            drawn => First::Drawn(drawn),
        }),
        _ => Err(CompileError::TrainingInfo(format!(
            "'{}' is fed back from step to step, but nothing says what it starts with; give it an initializer",
            info.name
        ))),
    }
}

/// Documents the inputs that stay, and gives the gates a default where they are the same in every epoch.
fn settle_inputs(graph: &mut Graph, bindings: &Bindings) {
    if let Some(rate) = bindings.learning_rate.as_ref().and_then(|r| graph.value_named(&r.name)) {
        graph.value_mut(rate).doc = "Learning rate.".into();
    }
    if let Some(gates) = bindings.gates.as_ref().and_then(|name| graph.value_named(name)) {
        let gates = graph.value_mut(gates);
        gates.doc = "Gates of the epoch, each from 0 to 1: warm-up, phase, orthogonal.".into();
        if are_constant(&bindings.settings) {
            gates.initializer = Some(Tensor::f32([3], &bindings.settings.gates(1, 1)));
        }
    }
}

/// True when the gates that the settings make use of do not follow the run.
fn are_constant(s: &Settings) -> bool {
    let warm_up = s.mode == Mode::AblationGradOnly || s.warmup_epochs <= 0.0;
    let phase = s.hybrid_base == HybridBase::Classic || s.phase_scope == PhaseScope::Full;
    let orthogonal = !s.orthogonal_residual || s.orthogonal_schedule == OrthogonalSchedule::Constant;
    warm_up && phase && orthogonal
}

/// The part of a graph with the nodes and the values that belong to it; other values remain as names only.
fn part(whole: &Graph, has_value: impl Fn(ValueId) -> bool, has_node: impl Fn(NodeId) -> bool) -> Graph {
    let mut part = whole.clone();
    for id in whole.node_ids().filter(|id| !has_node(*id)) {
        part.remove_node(id);
    }
    for id in whole.value_ids().filter(|v| !has_value(*v)) {
        let value = part.value_mut(id);
        value.initializer = None;
        value.declared = false;
        value.is_input = false;
    }
    part.inputs.retain(|v| has_value(*v));
    part.outputs.retain(|v| has_value(*v));
    part
}
