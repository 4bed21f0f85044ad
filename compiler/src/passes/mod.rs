//! The passes, in order:
//!
//! 1. `validate`: the model that came in is a valid graph, so that later passes need not doubt it;
//! 2. `inline`: expand model-local functions, because an optimizer may stand in one;
//! 3. `recognise`: find every optimizer update and prove it ([`crate::optimizers`]);
//! 4. `rewrite`: put one NeuroPlastic node in each one's place, or, with `--optimizer keep`, give back the epsilon an
//!    exporter dropped;
//! 5. `controller`: make the learning-rate multiplier out of the tensors' signals, where a controller is on;
//! 6. `outputs`: expose the logits, so that accuracy can be computed by whoever steps the model;
//! 7. `clean`: drop what nothing needs any more (before `names`, because the old optimizer's names become free by it);
//! 8. `names`: give new inputs and outputs the names people expect;
//! 9. `verify`: the result is a valid graph.
//!
//! What follows is no pass: [`crate::emit`] brings the verified graph into the form that was asked for.

mod controller;
mod epsilon;
mod finish;
#[cfg(test)]
mod hostile;
mod rates;
mod rewrite;
mod translate;

pub use rewrite::{Tensor, Update};

use crate::analysis;
use crate::bindings::{self, State};
use crate::compile::{CompileError, CompileOptions, Compiled, Optimizer};
use crate::files::WriteError;
use crate::graph::{DType, Graph, Model, Node, ValueId};
use crate::neuroplastic::Settings;
use crate::optimizers::{self, Match, RecogniseOptions, Recognition, Setting};
use crate::report::{self, Report};
use std::time::Instant;

/// A model on its way through the passes.
pub struct Compilation {
    pub(crate) model: Model,
    pub(crate) report: Report,
    /// NeuroPlastic updates in the model's order.
    pub(crate) updates: Vec<rewrite::Update>,
    /// Scalars the updates share.
    pub(crate) shared: Option<rewrite::Shared>,
    /// Updates that keep their own optimizer.
    pub(crate) kept: Vec<Match>,
    /// Other fed-back values: (input, output).
    pub(crate) carried: Vec<(ValueId, ValueId)>,
    /// Inputs whose values come from data.
    pub(crate) task: Option<analysis::Task>,
    /// States and counters of replaced optimizers: (input, output).
    pub(crate) retired: Vec<(ValueId, ValueId)>,
    /// Learning rate to start with where its input has no default.
    pub(crate) default_rate: Option<f64>,
}

impl Compilation {
    /// A model nothing has happened to yet.
    pub fn new(model: Model) -> Self {
        Compilation {
            model,
            report: Report::default(),
            updates: Vec::new(),
            shared: None,
            kept: Vec::new(),
            carried: Vec::new(),
            task: None,
            retired: Vec::new(),
            default_rate: None,
        }
    }

    fn pass<T>(
        &mut self,
        name: &'static str,
        options: &CompileOptions,
        body: impl FnOnce(&mut Self) -> Result<T, CompileError>,
    ) -> Result<T, CompileError> {
        let (nodes_before, start) = (self.model.graph.node_count(), Instant::now());
        let result = body(self)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let pass = report::Pass { name, nodes_before, nodes_after: self.model.graph.node_count(), ms };
        self.report.passes.push(pass);
        if let Some(folder) = &options.dump_passes {
            let path = folder.join(format!("{:02}-{name}.txt", self.report.passes.len()));
            let text = crate::graph::text::print(&self.model);
            std::fs::create_dir_all(folder).map_err(|source| WriteError { path: folder.clone(), source })?;
            crate::files::write(&path, text.as_bytes())?;
        }
        Ok(result)
    }
}

/// Runs every pass.
///
/// # Errors
/// The first pass's complaint.
pub fn run(model: Model, options: &CompileOptions) -> Result<Compiled, CompileError> {
    let mut c = Compilation::new(model);
    c.pass("validate", options, |c| validate(&c.model))?;
    c.pass("inline", options, |c| inline(&mut c.model))?;
    let found = c.pass("recognise", options, |c| recognise(c, options))?;
    let settings = match options.optimizer {
        Optimizer::NeuroPlastic => {
            let settings = c.pass("rewrite", options, |c| {
                let tensors = translate::tensors(c, &found, options)?;
                c.retire_counters(&found)?;
                c.insert(&tensors)?;
                c.retire(&found)?;
                Ok(tensors[0].settings.clone())
            })?;
            c.pass("controller", options, |c| c.control(&settings))?;
            settings
        }
        Optimizer::Keep => {
            c.pass("rewrite", options, |c| epsilon::restore(c, &found, options))?;
            c.kept = found.matches.clone();
            let rate = found.matches.iter().find(|m| m.learning_rate.value.is_none());
            Settings { lr: rate.map_or(1e-3, |m| m.learning_rate.scale), ..Settings::default() }
        }
    };
    c.pass("outputs", options, Compilation::expose_logits)?;
    c.pass("clean", options, Compilation::clean)?;
    c.pass("names", options, |c| {
        c.name();
        Ok(())
    })?;
    c.pass("verify", options, |c| Ok(crate::graph::verify::verify(&c.model)?))?;
    c.finish_with(&settings, options)
}

fn validate(model: &Model) -> Result<(), CompileError> {
    let compiled = bindings::read(model).is_ok_and(|b| b.optimizer == "neuroplastic");
    if compiled {
        return Err(CompileError::Compiled);
    }
    crate::graph::verify::verify(model).map_err(CompileError::Input)
}

/// Expands model-local functions whose operator sets are the model's own: another version could mean other operators.
fn inline(model: &mut Model) -> Result<(), CompileError> {
    let foreign: rustc_hash::FxHashSet<(String, String, String)> = model
        .functions
        .iter()
        .filter(|f| f.opsets.iter().any(|o| model.opset_of(&o.domain).is_some_and(|v| v != o.version)))
        .map(|f| (f.domain.clone(), f.name.clone(), f.overload.clone()))
        .collect();
    let keep = |n: &Node| foreign.contains(&(n.domain.clone(), n.op_type.clone(), n.overload.clone()));
    Ok(crate::onnx::inline_functions(model, keep)?)
}

fn recognise(c: &mut Compilation, options: &CompileOptions) -> Result<Recognition, CompileError> {
    let mut found = optimizers::recognise(&c.model, &RecogniseOptions { bind: options.bind.clone() })?;
    let graph = &c.model.graph;
    if options.optimizer == Optimizer::NeuroPlastic {
        leave_unfit(graph, &mut found);
    }
    c.task = analysis::task(graph);
    c.report.parameters.extend(found.matches.iter().map(|m| describe(graph, m)));
    c.report.unmatched.extend(found.unmatched.iter().map(|u| report::Unmatched {
        parameter: u.parameter.clone(),
        reason: u.reason.clone(),
        node: u.node.clone(),
    }));
    c.report.warnings.extend(found.warnings.iter().cloned());
    if found.matches.is_empty() {
        return Err(nothing_found(graph, &found));
    }
    c.carried = found.carried.clone();
    Ok(found)
}

/// Takes out of the matches what the operator cannot update: parameters of other types or without a known shape.
fn leave_unfit(graph: &Graph, found: &mut Recognition) {
    let unfit = |m: &Match| {
        let value = graph.value(m.parameter);
        match value.dtype() {
            Some(DType::F32 | DType::F16 | DType::BF16) if value.dims().is_some() => None,
            Some(DType::F32 | DType::F16 | DType::BF16) => {
                Some("its shape is not made of numbers, so its state could not be declared".to_string())
            }
            Some(other) => Some(format!("NeuroPlastic updates float32, float16 and bfloat16, not {other}")),
            None => Some("its element type is not declared".to_string()),
        }
    };
    for m in std::mem::take(&mut found.matches) {
        let Some(reason) = unfit(&m) else {
            found.matches.push(m);
            continue;
        };
        let (parameter, node) = (graph.name_of(m.parameter).to_string(), optimizers::describe(graph, m.node));
        found.unmatched.push(optimizers::Unmatched { parameter, reason, node });
        found.carried.push((m.parameter, m.next));
        found.carried.extend(m.states.iter().map(|s| (s.value, s.next)));
    }
}

fn nothing_found(graph: &Graph, found: &Recognition) -> CompileError {
    match found.unmatched.first() {
        Some(u) => CompileError::Unrecognised {
            count: found.unmatched.len(),
            parameter: u.parameter.clone(),
            reason: u.reason.clone(),
            node: u.node.clone(),
        },
        None => CompileError::NoOptimizer { nodes: graph.node_count() },
    }
}

fn describe(graph: &Graph, m: &Match) -> report::Parameter {
    let number = |x: f64| serde_json::Number::from_f64(x).map_or(serde_json::Value::Null, serde_json::Value::Number);
    let value = |s: &Setting| match s {
        Setting::Number(x) => number(*x),
        Setting::Input(v) => serde_json::Value::String(graph.name_of(*v).into()),
    };
    let mut settings = indexmap::IndexMap::new();
    let rate = match (m.learning_rate.value, m.learning_rate.scale) {
        (Some(v), 1.0) => serde_json::Value::String(graph.name_of(v).into()),
        (Some(v), scale) => serde_json::Value::String(format!("{scale} × {}", graph.name_of(v))),
        (None, scale) => number(scale),
    };
    settings.insert("lr".to_string(), rate);
    settings.extend(m.settings.iter().map(|(k, v)| ((*k).to_string(), value(v))));
    if m.epsilon_missing {
        settings.insert("epsilon".into(), serde_json::Value::String("missing".into()));
    }
    report::Parameter {
        name: graph.name_of(m.parameter).to_string(),
        shape: graph.value(m.parameter).dims().unwrap_or_default(),
        found: report::Found {
            kind: m.kind.name().into(),
            settings: settings.clone(),
            node: optimizers::describe(graph, m.node),
        },
        became: report::Became { settings },
    }
}

/// A fed-back value as bindings spell it.
pub(crate) fn state(graph: &Graph, value: ValueId, next: ValueId, role: &str) -> State {
    let info = graph.value(value);
    State {
        name: info.name.clone(),
        next: graph.name_of(next).to_string(),
        role: role.to_string(),
        dtype: bindings::dtype_name(info.dtype()),
        shape: info.dims().unwrap_or_default(),
    }
}
