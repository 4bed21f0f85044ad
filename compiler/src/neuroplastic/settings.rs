use serde::{Deserialize, Serialize};

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal, $($variant:ident = $text:literal),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum $name {
            #[default]
            #[serde(rename = $first_text)]
            $first,
            $(#[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Spelling in settings, attributes and files.
            pub fn as_str(self) -> &'static str {
                match self { $name::$first => $first_text, $($name::$variant => $text,)* }
            }
        }
    };
}

choice! {
    /// How α is blended.
    Mode { RuleBased = "rule_based", AblationGradOnly = "ablation_grad_only" }
}
choice! {
    /// Which optimizer the update is built on.
    HybridBase { Classic = "classic", SgdMomentum = "sgd_momentum", AdamW = "adamw" }
}
choice! {
    /// Scaling of the orthogonal residual.
    OrthogonalNormalization { Raw = "raw", MatchGradNorm = "match_grad_norm" }
}
choice! {
    /// How the orthogonal residual's gate follows the run.
    OrthogonalSchedule { Constant = "constant", Late = "late", Cosine = "cosine" }
}
choice! {
    /// What a hybrid base's modulation acts on.
    ModulationTarget { Gain = "gain", Momentum = "momentum", TrustRatio = "trust_ratio" }
}
choice! {
    /// Part of the run in which a hybrid base is modulated.
    PhaseScope { Full = "full", Early = "early", Middle = "middle", Late = "late" }
}
choice! {
    /// Tensors that a hybrid base's modulation acts on.
    LayerScope {
        All = "all", ClassifierOnly = "classifier_only", HeadOnly = "head_only", EarlyBlocks = "early_blocks",
        LateBlocks = "late_blocks", Late = "late", ConvOnly = "conv_only"
    }
}
choice! {
    /// Scope of the learning-rate controller.
    ControllerMode { Off = "off", Global = "global", Layerwise = "layerwise", ClassifierOnly = "classifier_only" }
}

/// Every setting of the optimizer, with the method's names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Settings {
    /// Learning rate η the run starts with (the graph takes the actual one as an input).
    pub lr: f64,
    pub mode: Mode,
    pub hybrid_base: HybridBase,
    pub weight_decay: f64,
    pub decoupled_weight_decay: bool,
    pub activity_weight: f64,
    pub gradient_weight: f64,
    pub memory_weight: f64,
    pub plasticity_scale: f64,
    pub min_alpha: f64,
    pub max_alpha: f64,
    pub warmup_epochs: f64,
    pub parameterwise: bool,
    pub bounded_residual: bool,
    pub residual_max_ratio: f64,
    pub orthogonal_residual: bool,
    pub orthogonal_lambda: f64,
    pub orthogonal_max_ratio: f64,
    pub orthogonal_normalization: OrthogonalNormalization,
    pub orthogonal_schedule: OrthogonalSchedule,
    pub orthogonal_late_start_fraction: f64,
    pub modulation_target: ModulationTarget,
    pub modulation_strength: f64,
    pub modulation_max_ratio: f64,
    pub layer_scope: LayerScope,
    pub phase_scope: PhaseScope,
    pub lr_controller_mode: ControllerMode,
    pub controller_alpha: f64,
    pub controller_low: f64,
    pub controller_high: f64,
    pub base_momentum: f64,
    pub base_beta2: f64,
    pub base_eps: f64,
    pub eps: f64,
    pub max_update_norm: f64,
    pub target_rms: f64,
    pub adaptation_rate: f64,
    pub early_target_rms_scale: f64,
    pub middle_target_rms_scale: f64,
    pub late_target_rms_scale: f64,
    /// ε_h of the homeostatic stabilisation.
    pub eps_h: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lr: 1e-3,
            mode: Mode::default(),
            hybrid_base: HybridBase::default(),
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            activity_weight: 0.4,
            gradient_weight: 0.4,
            memory_weight: 0.2,
            plasticity_scale: 1.0,
            min_alpha: 0.2,
            max_alpha: 2.0,
            warmup_epochs: 0.0,
            parameterwise: true,
            bounded_residual: false,
            residual_max_ratio: 0.5,
            orthogonal_residual: false,
            orthogonal_lambda: 0.1,
            orthogonal_max_ratio: 0.5,
            orthogonal_normalization: OrthogonalNormalization::default(),
            orthogonal_schedule: OrthogonalSchedule::default(),
            orthogonal_late_start_fraction: 0.3,
            modulation_target: ModulationTarget::default(),
            modulation_strength: 0.15,
            modulation_max_ratio: 0.25,
            layer_scope: LayerScope::default(),
            phase_scope: PhaseScope::default(),
            lr_controller_mode: ControllerMode::default(),
            controller_alpha: 0.1,
            controller_low: 0.8,
            controller_high: 1.2,
            base_momentum: 0.9,
            base_beta2: 0.999,
            base_eps: 1e-8,
            eps: 1e-8,
            max_update_norm: 1.0,
            target_rms: 0.02,
            adaptation_rate: 0.01,
            early_target_rms_scale: 1.0,
            middle_target_rms_scale: 1.0,
            late_target_rms_scale: 1.0,
            eps_h: 1e-8,
        }
    }
}

/// A setting that does not exist or is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// No such setting.
    #[error("there is no setting {name}; did you mean {nearest}?")]
    Unknown {
        /// What was written.
        name: String,
        /// The nearest name.
        nearest: String,
    },
    /// A value of the wrong type or choice.
    #[error("{name} = {value}: {why}")]
    Value {
        /// Setting.
        name: String,
        /// What was written.
        value: String,
        /// Why it is refused.
        why: String,
    },
    /// A value outside its range.
    #[error("{name} = {value} is out of range; it must be {range}")]
    Range {
        /// Setting.
        name: &'static str,
        /// Value.
        value: f64,
        /// Valid range.
        range: &'static str,
    },
}

impl Settings {
    /// The method's published working point ("locked best"): lr 0.1, two warm-up epochs, plasticity scale 2.
    pub fn paper() -> Self {
        Settings { lr: 0.1, warmup_epochs: 2.0, plasticity_scale: 2.0, ..Settings::default() }
    }

    /// Sets one setting from text, as `--set key=value` does.
    ///
    /// # Errors
    /// An unknown name, a value of the wrong type.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        let failed = |why: String| SettingsError::Value { name: name.into(), value: value.into(), why };
        let mut json = serde_json::to_value(&*self).map_err(|e| failed(e.to_string()))?;
        let Some(slot) = json.get_mut(name) else {
            let names = json.as_object().into_iter().flat_map(|o| o.keys().cloned());
            let nearest = names.min_by_key(|n| distance(n, name)).unwrap_or_default();
            return Err(SettingsError::Unknown { name: name.into(), nearest });
        };
        *slot = match slot {
            serde_json::Value::Bool(_) => match value {
                "true" | "1" | "yes" | "on" => true.into(),
                "false" | "0" | "no" | "off" => false.into(),
                _ => return Err(failed("write true or false".into())),
            },
            serde_json::Value::Number(_) => value
                .parse::<f64>()
                .ok()
                .filter(|x| x.is_finite())
                .ok_or_else(|| failed("write a number".into()))?
                .into(),
            _ => value.into(),
        };
        *self = serde_json::from_value(json).map_err(|e| failed(e.to_string()))?;
        Ok(())
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first setting out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let positive = |x: f64| x > 0.0;
        let not_negative = |x: f64| x >= 0.0;
        let unit = |x: f64| (0.0..=1.0).contains(&x);
        let open = |x: f64| x > 0.0 && x < 1.0;
        type Check<'a> = (&'static str, f64, &'a dyn Fn(f64) -> bool, &'static str);
        let checks: [Check; 28] = [
            ("lr", self.lr, &positive, "greater than 0"),
            ("weight_decay", self.weight_decay, &not_negative, "0 or more"),
            ("activity_weight", self.activity_weight, &not_negative, "0 or more"),
            ("gradient_weight", self.gradient_weight, &not_negative, "0 or more"),
            ("memory_weight", self.memory_weight, &not_negative, "0 or more"),
            ("plasticity_scale", self.plasticity_scale, &not_negative, "0 or more"),
            ("min_alpha", self.min_alpha, &|x| x > 0.0 && x <= self.max_alpha, "greater than 0 and at most max_alpha"),
            ("max_alpha", self.max_alpha, &positive, "greater than 0"),
            ("warmup_epochs", self.warmup_epochs, &not_negative, "0 or more"),
            ("residual_max_ratio", self.residual_max_ratio, &unit, "between 0 and 1"),
            ("orthogonal_lambda", self.orthogonal_lambda, &not_negative, "0 or more"),
            ("orthogonal_max_ratio", self.orthogonal_max_ratio, &unit, "between 0 and 1"),
            (
                "orthogonal_late_start_fraction",
                self.orthogonal_late_start_fraction,
                &|x| (0.0..1.0).contains(&x),
                "at least 0 and below 1",
            ),
            ("modulation_strength", self.modulation_strength, &not_negative, "0 or more"),
            ("modulation_max_ratio", self.modulation_max_ratio, &unit, "between 0 and 1"),
            ("controller_alpha", self.controller_alpha, &not_negative, "0 or more"),
            (
                "controller_low",
                self.controller_low,
                &|x| x > 0.0 && x <= self.controller_high,
                "greater than 0 and at most controller_high",
            ),
            ("controller_high", self.controller_high, &positive, "greater than 0"),
            ("base_momentum", self.base_momentum, &open, "strictly between 0 and 1"),
            ("base_beta2", self.base_beta2, &open, "strictly between 0 and 1"),
            ("base_eps", self.base_eps, &positive, "greater than 0"),
            ("eps", self.eps, &positive, "greater than 0"),
            ("max_update_norm", self.max_update_norm, &positive, "greater than 0"),
            ("target_rms", self.target_rms, &positive, "greater than 0"),
            ("adaptation_rate", self.adaptation_rate, &unit, "between 0 and 1"),
            ("early_target_rms_scale", self.early_target_rms_scale, &positive, "greater than 0"),
            ("middle_target_rms_scale", self.middle_target_rms_scale, &positive, "greater than 0"),
            ("late_target_rms_scale", self.late_target_rms_scale, &positive, "greater than 0"),
        ];
        for (name, value, holds, range) in checks {
            if !holds(value) {
                return Err(SettingsError::Range { name, value, range });
            }
        }
        if !positive(self.eps_h) {
            return Err(SettingsError::Range { name: "eps_h", value: self.eps_h, range: "greater than 0" });
        }
        let sum = self.activity_weight + self.gradient_weight + self.memory_weight;
        if (sum - 1.0).abs() > 1e-6 {
            let range = "such that activity_weight + gradient_weight + memory_weight = 1";
            return Err(SettingsError::Range { name: "gradient_weight", value: self.gradient_weight, range });
        }
        Ok(())
    }

    /// Gates of an epoch (counted from 1) in a run of `epochs`: warm-up q, phase, orthogonal r.
    pub fn gates(&self, epoch: u32, epochs: u32) -> [f32; 3] {
        let x = f64::from(epoch) / f64::from(epochs.max(1));
        let warm_up = match self.mode {
            Mode::AblationGradOnly => 0.0,
            Mode::RuleBased if self.warmup_epochs <= 0.0 => 1.0,
            Mode::RuleBased => ((f64::from(epoch) - 1.0) / self.warmup_epochs).clamp(0.0, 1.0),
        };
        let phase = match self.phase_scope {
            PhaseScope::Full => true,
            PhaseScope::Early => x <= 0.3,
            PhaseScope::Middle => x > 0.3 && x < 0.7,
            PhaseScope::Late => x >= 0.7,
        };
        let start = self.orthogonal_late_start_fraction;
        let orthogonal = match self.orthogonal_schedule {
            OrthogonalSchedule::Constant => 1.0,
            OrthogonalSchedule::Late if x <= start => 0.0,
            OrthogonalSchedule::Late => ((x - start) / (1.0 - start).max(1e-12)).min(1.0),
            OrthogonalSchedule::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * x.clamp(0.0, 1.0)).cos()),
        };
        [warm_up as f32, f32::from(u8::from(phase)), orthogonal as f32]
    }
}

/// Levenshtein distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let substitution = diagonal + usize::from(x != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_by_name_and_checked() {
        let mut s = Settings::default();
        s.set("plasticity_scale", "2").unwrap();
        s.set("hybrid_base", "adamw").unwrap();
        s.set("parameterwise", "false").unwrap();
        assert_eq!((s.plasticity_scale, s.hybrid_base, s.parameterwise), (2.0, HybridBase::AdamW, false));
        assert_eq!(s.check(), Ok(()));
        let unknown = s.set("plasticty_scale", "1").unwrap_err().to_string();
        assert!(unknown.contains("did you mean plasticity_scale"), "{unknown}");
        assert!(s.set("lr", "fast").unwrap_err().to_string().contains("write a number"));
        assert!(s.set("hybrid_base", "adam").unwrap_err().to_string().contains("adamw"));
        s.set("adaptation_rate", "1.5").unwrap();
        assert!(s.check().unwrap_err().to_string().contains("between 0 and 1"));
        let unbalanced = Settings { activity_weight: 0.9, ..Settings::default() };
        assert!(unbalanced.check().unwrap_err().to_string().contains("= 1"));
    }

    #[test]
    fn gates_follow_the_run() {
        let paper = Settings::paper();
        assert_eq!([1, 2, 3, 9].map(|e| paper.gates(e, 10)[0]), [0.0, 0.5, 1.0, 1.0]);
        let late = Settings {
            phase_scope: PhaseScope::Late,
            orthogonal_schedule: OrthogonalSchedule::Late,
            ..Settings::default()
        };
        assert_eq!([6, 7, 10].map(|e| late.gates(e, 10)[1]), [0.0, 1.0, 1.0]);
        assert_eq!(late.gates(3, 10)[2], 0.0);
        assert_eq!(late.gates(10, 10)[2], 1.0);
    }
}
