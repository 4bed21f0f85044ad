//! The passes, in order:
//!
//! 1. `recognise`: find every optimizer update and prove it ([`crate::optimizers`]);
//! 2. `rewrite`: put one NeuroPlastic node in each one's place, or, with `--optimizer keep`, give back the epsilon an
//!    exporter dropped;
//! 3. `controller`: make the learning-rate multiplier out of the tensors' signals, where a controller is on;
//! 4. `outputs`: expose the logits, so that accuracy can be computed by whoever steps the model;
//! 5. `clean`: drop what nothing needs any more;
//! 6. `names`: give new inputs and outputs the names people expect, now that the old ones are free;
//! 7. `verify`: the result is a valid graph.

mod controller;
mod epsilon;
mod finish;
mod rewrite;
mod translate;

pub use rewrite::{Tensor, Update};

use crate::analysis;
use crate::bindings::{self, State};
use crate::compile::{Base, CompileError, CompileOptions, Compiled, Optimizer};
use crate::graph::{Graph, Model, ValueId};
use crate::neuroplastic::Settings;
use crate::optimizers::{self, Match, Recognition, RecogniseOptions, Setting};
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
    /// Optimizer states that went away.
    pub(crate) retired: Vec<ValueId>,
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
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|source| CompileError::Dump { path, source })?;
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
    let found = c.pass("recognise", options, |c| recognise(c, options))?;
    let settings = match options.optimizer {
        Optimizer::NeuroPlastic => {
            let tensors = translate::tensors(&mut c, &found, options)?;
            let settings = tensors[0].settings.clone();
            c.pass("rewrite", options, |c| {
                c.insert(&tensors);
                c.retire(&found);
                Ok(())
            })?;
            c.pass("controller", options, |c| {
                c.control(&settings);
                Ok(())
            })?;
            settings
        }
        Optimizer::Keep => {
            c.pass("rewrite", options, |c| epsilon::restore(c, &found, options.eps.unwrap_or(1e-8)))?;
            c.kept = found.matches.clone();
            let rate = found.matches.iter().find(|m| m.learning_rate.value.is_none());
            Settings { lr: rate.map_or(1e-3, |m| m.learning_rate.scale), ..Settings::default() }
        }
    };
    c.pass("outputs", options, |c| {
        c.expose_logits();
        Ok(())
    })?;
    c.pass("clean", options, |c| {
        c.clean();
        Ok(())
    })?;
    c.pass("names", options, |c| {
        c.name();
        Ok(())
    })?;
    c.pass("verify", options, |c| Ok(crate::graph::verify::verify(&c.model)?))?;
    c.finish_with(&settings, options)
}

fn recognise(c: &mut Compilation, options: &CompileOptions) -> Result<Recognition, CompileError> {
    let found = optimizers::recognise(&c.model, &RecogniseOptions { bind: options.bind.clone() })?;
    let graph = &c.model.graph;
    c.task = analysis::task(graph);
    for m in &found.matches {
        c.report.parameters.push(describe(graph, m));
    }
    for u in &found.unmatched {
        let (parameter, reason, node) = (u.parameter.clone(), u.reason.clone(), u.node.clone());
        c.report.unmatched.push(report::Unmatched { parameter, reason, node });
    }
    c.report.warnings.extend(found.warnings.iter().cloned());
    if found.matches.is_empty() {
        return Err(nothing_found(graph, &found));
    }
    let missing = found.matches.iter().filter(|m| m.epsilon_missing).count();
    if missing > 0 {
        let eps = options.eps.unwrap_or(1e-8);
        c.report.warnings.push(format!(
            "{missing} of {} updates have no epsilon (PyTorch's exporter drops '+ 1e-8'), so a zero gradient gives 0/0; restored as {eps:e} (--eps changes it)",
            found.matches.len()
        ));
    }
    c.carried = found.carried.clone();
    Ok(found)
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
        found: report::Found { kind: m.kind.name().into(), settings: settings.clone(), node: optimizers::describe(graph, m.node) },
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

/// The base a recognised optimizer turns into (`--base auto`).
pub(crate) fn base_of(base: Base, kind: optimizers::Kind) -> crate::neuroplastic::HybridBase {
    use crate::neuroplastic::HybridBase as H;
    use optimizers::Kind::*;
    match base {
        Base::Classic => H::Classic,
        Base::SgdMomentum => H::SgdMomentum,
        Base::AdamW => H::AdamW,
        Base::Auto => match kind {
            Momentum | Nesterov => H::SgdMomentum,
            Adam | optimizers::Kind::AdamW | Adamax | NAdam | AmsGrad | Lamb => H::AdamW,
            Sgd | Adagrad | RmsProp | Adadelta | Lion => H::Classic,
        },
    }
}
