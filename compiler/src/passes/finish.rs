//! From the rewritten graph to the emitted model: outputs, cleaning, names, bindings.

use super::{Compilation, state};
use crate::analysis::{self, LabelKind};
use crate::bindings::{self, BatchInput, Bindings, Outputs, Parameter, RateInput, StepInput};
use crate::compile::{CompileError, CompileOptions, Compiled, Emit, Optimizer};
use crate::emit;
use crate::graph::patch::Patch;
use crate::graph::{DType, ValueId, ValueType};
use crate::neuroplastic::Settings;
use crate::optimizers::StateRole;
use rustc_hash::FxHashSet;

impl Compilation {
    pub(super) fn expose_logits(&mut self) -> Result<(), CompileError> {
        let mut patch = Patch::default();
        if let Some(task) = self.task
            && !self.model.graph.outputs.contains(&task.logits)
        {
            let graph = &mut self.model.graph;
            if graph.value(task.logits).ty.is_none() {
                // The checker wants every output typed; the rank is unknown here.
                graph.value_mut(task.logits).ty = Some(ValueType::Tensor { dtype: DType::F32, shape: None });
            }
            patch.output(task.logits);
        }
        Ok(patch.apply(&mut self.model.graph)?)
    }

    /// Drops nodes, constants and inputs that no output needs any more. What belonged to the replaced optimizers but is
    /// still read by something else (a logged moment, a schedule's counter) stays, fed back as before.
    pub(super) fn clean(&mut self) -> Result<(), CompileError> {
        let graph = &mut self.model.graph;
        let mut open = std::mem::take(&mut self.retired);
        loop {
            let live = graph.ancestors(&graph.outputs);
            let (read, idle): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|(value, _)| graph.value(*value).consumers.iter().any(|n| live.contains(n)));
            if read.is_empty() {
                break;
            }
            let mut patch = Patch::default();
            for (_, next) in &read {
                patch.output(*next);
            }
            patch.apply(graph)?;
            self.carried.extend(read);
            open = idle;
        }
        graph.remove_dead();
        let exported: FxHashSet<ValueId> = graph.outputs.iter().copied().collect();
        let dangling: Vec<ValueId> = graph
            .inputs
            .iter()
            .copied()
            .filter(|v| graph.value(*v).consumers.is_empty() && !exported.contains(v))
            .collect();
        graph.remove_inputs(&dangling);
        self.carried.retain(|(value, _)| graph.value(*value).is_input);
        Ok(())
    }

    pub(super) fn name(&mut self) {
        let graph = &mut self.model.graph;
        if let Some(shared) = self.shared {
            graph.rename(shared.step, "step");
            graph.rename(shared.gates, "gates");
        }
        for update in &self.updates {
            let stem = graph.name_of(update.theta).to_string();
            for (state, value, next) in &update.states {
                let name = graph.rename(*value, &format!("{stem}.{}", state.name()));
                graph.rename(*next, &format!("{name}.next"));
            }
        }
    }

    /// [`Compilation::finish_with`] for a model without an optimizer of its own.
    pub fn finish(mut self, settings: &Settings, emit: Emit) -> Result<Compiled, CompileError> {
        self.control(settings)?;
        self.name();
        self.finish_with(settings, &CompileOptions { emit, ..CompileOptions::default() })
    }

    pub(super) fn finish_with(
        mut self,
        settings: &Settings,
        options: &CompileOptions,
    ) -> Result<Compiled, CompileError> {
        let bindings = self.bindings(settings, options);
        let json = serde_json::to_string(&bindings).unwrap_or_default();
        self.model.set_metadata(bindings::KEY, json);
        emit::emit(&mut self, options.emit)?;
        if options.emit == Emit::TrainingInfo {
            emit::training_info(&mut self.model, &bindings)?;
        }
        Ok(Compiled { model: self.model, report: self.report, bindings })
    }

    fn bindings(&self, settings: &Settings, options: &CompileOptions) -> Bindings {
        let graph = &self.model.graph;
        let name = |v: ValueId| graph.name_of(v).to_string();
        let mut parameters: Vec<Parameter> = Vec::new();
        let parameter = |theta: ValueId, next: ValueId, gradient: ValueId, states| Parameter {
            name: name(theta),
            next: name(next),
            gradient: Some(name(gradient)),
            init: analysis::initialization(graph, theta),
            dtype: bindings::dtype_name(graph.value(theta).dtype()),
            shape: graph.value(theta).dims().unwrap_or_default(),
            states,
        };
        for u in &self.updates {
            let states = u.states.iter().map(|(s, value, next)| state(graph, *value, *next, s.name())).collect();
            parameters.push(parameter(u.theta, u.next, u.gradient, states));
        }
        for m in &self.kept {
            let states = m.states.iter().map(|s| state(graph, s.value, s.next, role(s.role))).collect();
            parameters.push(parameter(m.parameter, m.next, m.gradient, states));
        }
        let rate = self.shared.map(|s| s.rate).or_else(|| self.kept.first().and_then(|m| m.learning_rate.value));
        let rate = rate.and_then(|v| self.rate_input(v));
        let step = match (self.shared, self.kept.iter().find_map(|m| m.step)) {
            (Some(s), _) => Some(StepInput { name: name(s.step), dtype: "i64".into(), first: 0.0 }),
            (None, Some(s)) if !self.carried.iter().any(|(v, _)| *v == s.value) => Some(StepInput {
                name: name(s.value),
                dtype: bindings::dtype_name(graph.value(s.value).dtype()),
                first: s.first,
            }),
            _ => None,
        };
        let gates = self.shared.map(|s| name(s.gates));
        let statistics = analysis::running_statistics(graph);
        let role = |value: ValueId| {
            statistics.iter().find(|(of, _, _)| *of == value).map_or("other", |(_, _, what)| what.role())
        };
        let carried: Vec<_> = self.carried.iter().map(|(v, next)| state(graph, *v, *next, role(*v))).collect();
        let mut taken: FxHashSet<String> = carried.iter().map(|s| s.name.clone()).collect();
        taken.extend(parameters.iter().flat_map(|p| p.states.iter().map(|s| s.name.clone()).chain([p.name.clone()])));
        taken.extend(
            rate.iter().map(|r| r.name.clone()).chain(step.iter().map(|s| s.name.clone())).chain(gates.clone()),
        );
        let inputs = graph
            .inputs
            .iter()
            .map(|v| graph.value(*v))
            .filter(|v| !taken.contains(&v.name) && v.initializer.is_none())
            .map(|v| BatchInput {
                name: v.name.clone(),
                dtype: bindings::dtype_name(v.dtype()),
                shape: v.shape().unwrap_or_default().iter().map(Into::into).collect(),
            })
            .collect();
        let mut fed_back: Vec<ValueId> = self.carried.iter().map(|(_, next)| *next).collect();
        fed_back.extend(self.updates.iter().flat_map(|u| u.states.iter().map(|(_, _, next)| *next).chain([u.next])));
        fed_back.extend(self.kept.iter().flat_map(|m| m.states.iter().map(|s| s.next).chain([m.next])));
        fed_back.extend(self.task.map(|t| t.logits));
        let task = self.task.filter(|t| graph.value(t.labels).is_input);
        Bindings {
            version: 1,
            optimizer: if options.optimizer == Optimizer::Keep { "keep" } else { "neuroplastic" }.into(),
            inputs,
            learning_rate: rate,
            step,
            gates,
            outputs: Outputs {
                loss: analysis::loss(graph, &fed_back).map(name),
                logits: task.map(|t| name(t.logits)),
                labels: task.map(|t| name(t.labels)),
                label_kind: task.map(|t| if t.kind == LabelKind::Class { "class" } else { "one_hot" }.into()),
                class_axis: task.map_or(-1, |t| t.class_axis),
            },
            parameters,
            state: carried,
            settings: settings.clone(),
        }
    }

    /// The graph input a learning rate is computed from.
    fn rate_input(&self, value: ValueId) -> Option<RateInput> {
        let graph = &self.model.graph;
        let mut open = vec![value];
        for _ in 0..64 {
            let v = open.pop()?;
            let info = graph.value(v);
            if info.is_input && info.dtype().is_none_or(DType::is_float) {
                let default = info.initializer.as_ref().and_then(crate::graph::Tensor::scalar_f64);
                // Through text: 0.1f32 is meant as 0.1.
                let default = default.map(|x| (x as f32).to_string().parse().unwrap_or(x)).or(self.default_rate);
                return Some(RateInput { name: info.name.clone(), default });
            }
            if let Some((_, node)) = graph.producer(v) {
                open.extend(node.inputs.iter().flatten());
            }
        }
        None
    }
}

fn role(role: StateRole) -> &'static str {
    match role {
        StateRole::FirstMoment => "first_moment",
        StateRole::SecondMoment => "second_moment",
        StateRole::Velocity => "velocity",
        StateRole::MaxSecondMoment => "max_second_moment",
        StateRole::InfinityNorm => "infinity_norm",
        StateRole::GradientAverage => "gradient_average",
        StateRole::DeltaAccumulator => "delta_accumulator",
    }
}
