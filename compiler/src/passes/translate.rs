//! What the old optimizer's settings become.

use super::Compilation;
use super::rates::Rates;
use super::rewrite::Tensor;
use crate::compile::{Base, CompileError, CompileOptions, Preset};
use crate::graph::patch::Patch;
use crate::graph::{self, Graph};
use crate::neuroplastic::{HybridBase, Settings};
use crate::optimizers::{Kind, Match, Recognition, Setting};

/// Norm limit of a hybrid base: high enough never to clip. The paper's 1.0 clips the whole tensor's Adam update.
const LIFTED: f64 = 1e9;
/// Stands in for a decay of 0, which the method's settings exclude; no different from 0 in float32.
const NO_DECAY: f64 = 1e-12;

/// One NeuroPlastic update for every match, with its learning rate wired and its settings resolved.
///
/// # Errors
/// Settings out of range, a change the graph refuses.
pub fn tensors(
    c: &mut Compilation,
    found: &Recognition,
    options: &CompileOptions,
) -> Result<Vec<Tensor>, CompileError> {
    let mut notes = Notes::default();
    let mut rates = Rates::default();
    let mut result = Vec::new();
    let mut patch = Patch::default();
    for m in &found.matches {
        let translated = translate(&c.model.graph, m, options, &mut notes)?;
        let rate = rates.value(&mut c.model.graph, &mut patch, m.learning_rate, &translated);
        result.push(Tensor {
            theta: m.parameter,
            gradient: m.gradient,
            replaces: Some(m.next),
            rate,
            settings: translated.settings,
        });
    }
    patch.apply(&mut c.model.graph)?;
    if let Some(first) = result.first().filter(|_| chooses_rate(options)) {
        c.default_rate = rates.start_with(&mut c.model.graph, first.settings.lr);
    }
    if let Some(names) = rates.several(&c.model.graph) {
        notes
            .say(format!("the learning rate comes from several inputs ({names}); only the first is npc's to schedule"));
    }
    c.report.warnings.extend(notes.0);
    Ok(result)
}

/// True when the user names a learning rate instead of taking over the one that was found.
fn chooses_rate(options: &CompileOptions) -> bool {
    options.preset.is_some() || options.set.iter().any(|(name, _)| name == "lr")
}

/// Remarks, each said once.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn say(&mut self, text: String) {
        if !self.0.contains(&text) {
            self.0.push(text);
        }
    }
}

/// A match in NeuroPlastic's terms.
pub struct Translated {
    /// Its settings.
    pub settings: Settings,
    /// What the found learning rate is multiplied by, beside its own scale.
    pub rate_factor: f64,
}

/// The base a match turns into.
fn base_of(options: &CompileOptions, kind: Kind) -> HybridBase {
    match options.base {
        Base::Classic => HybridBase::Classic,
        Base::SgdMomentum => HybridBase::SgdMomentum,
        Base::AdamW => HybridBase::AdamW,
        // The working point is one of the paper's own form.
        Base::Auto if options.preset.is_some() => HybridBase::Classic,
        Base::Auto => match kind {
            Kind::Momentum | Kind::Nesterov => HybridBase::SgdMomentum,
            Kind::Adam | Kind::AdamW | Kind::Adamax | Kind::NAdam | Kind::AmsGrad | Kind::Lamb => HybridBase::AdamW,
            Kind::Sgd | Kind::Adagrad | Kind::RmsProp | Kind::Adadelta | Kind::Lion => HybridBase::Classic,
        },
    }
}

fn translate(
    graph: &Graph,
    m: &Match,
    options: &CompileOptions,
    notes: &mut Notes,
) -> Result<Translated, CompileError> {
    let mut s = match options.preset {
        Some(Preset::Paper) => Settings::paper(),
        None => Settings::default(),
    };
    s.hybrid_base = base_of(options, m.kind);
    let mut rate_factor = 1.0;
    if options.preset.is_some() {
        notes.say("the preset's settings take the place of those that were found".into());
    } else {
        rate_factor = take_over(&mut s, graph, m, options, notes);
    }
    let chosen = |name: &str| options.set.iter().any(|(n, _)| n == name);
    if s.hybrid_base != HybridBase::Classic && options.preset.is_none() && !chosen("max_update_norm") {
        s.max_update_norm = LIFTED;
        let base = s.hybrid_base.as_str();
        notes.say(format!("base {base}: the update-norm clip is lifted (max_update_norm {LIFTED:e}), because the method's 1 would clip the whole tensor's update"));
    }
    for (name, value) in &options.set {
        s.set(name, value)?;
    }
    s.check()?;
    Ok(Translated { settings: s, rate_factor })
}

/// Carries a match's hyperparameters over as far as the base has a place for them, and says what it has none for.
/// Returns a factor for the learning rate.
fn take_over(s: &mut Settings, graph: &Graph, m: &Match, options: &CompileOptions, notes: &mut Notes) -> f64 {
    let kind = m.kind.name();
    let default = |v| graph.value(v).initializer.as_ref().and_then(graph::Tensor::scalar_f64);
    for (name, setting) in &m.settings {
        if let Setting::Input(v) = setting
            && default(*v).is_none()
        {
            let input = graph.name_of(*v);
            notes.say(format!("{kind}'s {name} is the graph input '{input}', which has no default; NeuroPlastic takes its own default for it (--set changes it)"));
        }
    }
    let number = |name: &str| match m.settings.get(name)? {
        Setting::Number(x) => Some(*x),
        Setting::Input(v) => default(*v),
    };
    let found_rate = m.learning_rate.value.map_or(Some(1.0), default).map(|x| x * m.learning_rate.scale);
    s.lr = found_rate.filter(|x| *x > 0.0).unwrap_or(s.lr);
    s.weight_decay = number("weight_decay").unwrap_or(0.0);
    s.decoupled_weight_decay = m.decoupled_weight_decay;
    let decays = s.weight_decay > 0.0;
    match s.hybrid_base {
        HybridBase::Classic => {
            let own = matches!(m.kind, Kind::Sgd);
            if options.base == Base::Auto && !own {
                notes.say(format!("{kind} has no base of its own; NeuroPlastic's classic form takes its place, with the learning rate and weight decay that were found"));
            }
            1.0
        }
        HybridBase::SgdMomentum => {
            s.base_momentum = number("momentum").map_or(s.base_momentum, |x| x.max(NO_DECAY));
            if decays && m.decoupled_weight_decay {
                notes.say(format!("{kind}'s weight decay acted on the parameter (decoupled); base sgd_momentum takes it into the gradient"));
            }
            if m.kind == Kind::Nesterov {
                notes.say(
                    "Nesterov's look-ahead has no counterpart in base sgd_momentum: the update follows the velocity"
                        .into(),
                );
            }
            let dampening = number("dampening").unwrap_or(0.0);
            if dampening == 0.0 {
                return 1.0;
            }
            // A velocity that takes in (1 − d)·g is (1 − d) times the one that takes in g.
            notes.say(format!(
                "dampening {dampening} becomes a factor {} on the learning rate, which is the same",
                1.0 - dampening
            ));
            1.0 - dampening
        }
        HybridBase::AdamW => {
            s.base_momentum = number("beta1").map_or(s.base_momentum, |x| x.max(NO_DECAY));
            s.base_beta2 = number("beta2").map_or(s.base_beta2, |x| x.max(NO_DECAY));
            let epsilon = number("epsilon").filter(|x| !m.epsilon_missing && *x > 0.0);
            s.base_eps = options.eps.or(epsilon).unwrap_or(s.base_eps);
            if m.epsilon_missing && options.eps.is_none() {
                notes.say(format!(
                    "{kind} had no epsilon (PyTorch's exporter drops '+ 1e-8'); it is {:e} again (--eps changes it)",
                    s.base_eps
                ));
            }
            if decays && !m.decoupled_weight_decay {
                notes.say(format!("{kind}'s weight decay went through the gradient; base adamw decays the parameter itself (decoupled)"));
            }
            if !matches!(m.kind, Kind::Adam | Kind::AdamW) {
                notes.say(format!("{kind} becomes base adamw, which takes over betas, epsilon and weight decay where {kind} has them, but not what sets it apart from Adam"));
            }
            1.0
        }
    }
}
