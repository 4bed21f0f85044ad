//! What the old optimizer's settings become.

use super::rewrite::Tensor;
use super::{Compilation, base_of};
use crate::compile::{Base, CompileError, CompileOptions, Preset};
use crate::graph::{self, DType, Node, ValueId, ValueType};
use crate::neuroplastic::{HybridBase, Settings};
use crate::optimizers::{Kind, Match, Recognition, Setting};
use rustc_hash::FxHashMap;

/// Norm limit of a hybrid base: high enough never to clip. The paper's 1.0 clips the whole tensor's Adam update.
const LIFTED: f64 = 1e9;

/// One NeuroPlastic update for every match, with its learning rate wired and its settings resolved.
pub fn tensors(c: &mut Compilation, found: &Recognition, options: &CompileOptions) -> Result<Vec<Tensor>, CompileError> {
    let mut warnings = Warnings::default();
    let mut rates = Rates::default();
    let mut result = Vec::new();
    for m in &found.matches {
        let settings = settings(c, m, options, &mut warnings)?;
        let rate = rates.value(c, m, &settings);
        result.push(Tensor {
            theta: m.parameter,
            gradient: m.gradient,
            next: c.model.graph.name_of(m.next).to_string(),
            rate,
            settings,
        });
    }
    c.report.warnings.extend(warnings.0);
    Ok(result)
}

/// Remarks, each said once.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Warnings {
    fn say(&mut self, text: String) {
        if !self.0.contains(&text) {
            self.0.push(text);
        }
    }
}

fn settings(c: &Compilation, m: &Match, options: &CompileOptions, warnings: &mut Warnings) -> Result<Settings, CompileError> {
    let graph = &c.model.graph;
    let number = |name: &str| match m.settings.get(name) {
        Some(Setting::Number(x)) => Some(*x),
        Some(Setting::Input(v)) => graph.value(*v).initializer.as_ref().and_then(graph::Tensor::scalar_f64),
        None => None,
    };
    for (name, setting) in &m.settings {
        if let Setting::Input(v) = setting
            && number(name).is_none()
        {
            warnings.say(format!("{name} is the graph input '{}', which has no default; NeuroPlastic uses its own default for it (--set changes it)", graph.name_of(*v)));
        }
    }
    let base = base_of(options.base, m.kind);
    let mut s = match options.preset {
        Some(Preset::Paper) => Settings::paper(),
        None => Settings::default(),
    };
    s.hybrid_base = base;
    if options.preset.is_none() {
        if let (None, scale) = (m.learning_rate.value, m.learning_rate.scale) {
            s.lr = scale;
        }
        s.weight_decay = number("weight_decay").unwrap_or(0.0);
        s.decoupled_weight_decay = m.decoupled_weight_decay;
    }
    match base {
        HybridBase::Classic => {}
        HybridBase::SgdMomentum => {
            if let Some(x) = number("momentum") {
                s.base_momentum = x;
            }
            if number("dampening").unwrap_or(0.0) != 0.0 {
                warnings.say(format!("dampening {} has no counterpart in base sgd_momentum and is dropped: the velocity takes in the whole gradient", number("dampening").unwrap_or(0.0)));
            }
            if m.kind == Kind::Nesterov {
                warnings.say("Nesterov's look-ahead has no counterpart in base sgd_momentum: the update follows the velocity".into());
            }
        }
        HybridBase::AdamW => {
            s.base_momentum = number("beta1").unwrap_or(s.base_momentum);
            s.base_beta2 = number("beta2").unwrap_or(s.base_beta2);
            let found = number("epsilon").filter(|_| !m.epsilon_missing);
            s.base_eps = options.eps.or(found).unwrap_or(s.base_eps);
            if s.base_eps <= 0.0 {
                s.base_eps = 1e-8;
            }
            if s.weight_decay > 0.0 && !m.decoupled_weight_decay {
                warnings.say(format!("{}'s weight decay went through the gradient; base adamw decays the parameter itself (decoupled)", m.kind.name()));
            }
            if !matches!(m.kind, Kind::Adam | Kind::AdamW) {
                warnings.say(format!("{} becomes base adamw, which keeps its betas and epsilon but not what sets it apart from Adam", m.kind.name()));
            }
        }
    }
    if base != HybridBase::Classic && options.base == Base::Auto && options.preset.is_none() {
        s.max_update_norm = LIFTED;
        warnings.say(format!("base {}: the update-norm clip is lifted (max_update_norm {LIFTED:e}), because 1.0 would clip the whole tensor's update", base.as_str()));
    }
    if options.base == Base::Auto && matches!(m.kind, Kind::Adagrad | Kind::RmsProp | Kind::Adadelta | Kind::Lion) {
        warnings.say(format!("{} has no base of its own; NeuroPlastic's classic form takes its place, with the learning rate that was found", m.kind.name()));
    }
    for (name, value) in &options.set {
        s.set(name, value)?;
    }
    s.check()?;
    Ok(s)
}

/// Learning-rate values shared between updates.
#[derive(Default)]
struct Rates {
    constant: Option<(ValueId, f64)>,
    scaled: FxHashMap<(ValueId, u64), ValueId>,
}

impl Rates {
    fn value(&mut self, c: &mut Compilation, m: &Match, settings: &Settings) -> ValueId {
        let (value, scale) = match m.learning_rate.value {
            Some(value) => (value, m.learning_rate.scale),
            None => {
                let (value, first) = *self.constant.get_or_insert_with(|| {
                    let graph = &mut c.model.graph;
                    let value = graph.add_input("learning_rate", ValueType::tensor(DType::F32, &[]));
                    graph.value_mut(value).declared = true;
                    graph.value_mut(value).initializer = Some(graph::Tensor::f32([], &[settings.lr as f32]));
                    (value, m.learning_rate.scale)
                });
                (value, m.learning_rate.scale / first)
            }
        };
        if scale == 1.0 {
            return value;
        }
        *self.scaled.entry((value, scale.to_bits())).or_insert_with(|| {
            let graph = &mut c.model.graph;
            let factor = graph.add_initializer("learning_rate.scale", graph::Tensor::f32([], &[scale as f32]));
            graph.add(Node::new("Mul", [value, factor]), ["learning_rate.scaled"])[0]
        })
    }
}
