use super::StepError;

/// How the plasticity coefficients are blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    RuleBased,
    /// Gradient signal only: α = α_g.
    AblationGradOnly,
}

/// The optimizer whose update is modulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HybridBase {
    /// The method's own form: the update is built from the gradient.
    #[default]
    Classic,
    SgdMomentum,
    AdamW,
}

/// What a hybrid base's modulation is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ModulationTarget {
    #[default]
    Gain,
    Momentum,
    TrustRatio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OrthogonalNormalization {
    #[default]
    Raw,
    MatchGradNorm,
}

/// Settings of one tensor's update, with every scope already resolved: `target_rms` holds the scale of the tensor's third,
/// `modulation_strength` the layer gate. Names and defaults are those of the operator `ai.neuroplastic::NeuroPlastic`.
///
/// Numbers are `f64` because the update uses differences such as 1 − b₂, which lose their digits in `f32`; see [`widen`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub mode: Mode,
    pub hybrid_base: HybridBase,
    pub activity_weight: f64,
    pub gradient_weight: f64,
    pub memory_weight: f64,
    pub plasticity_scale: f64,
    pub min_alpha: f64,
    pub max_alpha: f64,
    pub parameterwise: bool,
    pub bounded_residual: bool,
    pub residual_max_ratio: f64,
    pub orthogonal_residual: bool,
    pub orthogonal_lambda: f64,
    pub orthogonal_max_ratio: f64,
    pub orthogonal_normalization: OrthogonalNormalization,
    pub modulation_target: ModulationTarget,
    pub modulation_strength: f64,
    pub modulation_max_ratio: f64,
    pub base_momentum: f64,
    pub base_beta2: f64,
    pub base_eps: f64,
    pub eps: f64,
    pub max_update_norm: f64,
    pub target_rms: f64,
    pub adaptation_rate: f64,
    pub eps_h: f64,
    pub weight_decay: f64,
    pub decoupled_weight_decay: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::RuleBased,
            hybrid_base: HybridBase::Classic,
            activity_weight: 0.4,
            gradient_weight: 0.4,
            memory_weight: 0.2,
            plasticity_scale: 1.0,
            min_alpha: 0.2,
            max_alpha: 2.0,
            parameterwise: true,
            bounded_residual: false,
            residual_max_ratio: 0.5,
            orthogonal_residual: false,
            orthogonal_lambda: 0.1,
            orthogonal_max_ratio: 0.5,
            orthogonal_normalization: OrthogonalNormalization::Raw,
            modulation_target: ModulationTarget::Gain,
            modulation_strength: 0.15,
            modulation_max_ratio: 0.25,
            base_momentum: 0.9,
            base_beta2: 0.999,
            base_eps: 1e-8,
            eps: 1e-8,
            max_update_norm: 1.0,
            target_rms: 0.02,
            adaptation_rate: 0.01,
            eps_h: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
        }
    }
}

impl Config {
    /// Checks the ranges on which the update is defined.
    pub fn validate(&self) -> Result<(), StepError> {
        let non_negative = [
            ("activity_weight", self.activity_weight),
            ("gradient_weight", self.gradient_weight),
            ("memory_weight", self.memory_weight),
            ("plasticity_scale", self.plasticity_scale),
            ("orthogonal_lambda", self.orthogonal_lambda),
            ("modulation_strength", self.modulation_strength),
            ("weight_decay", self.weight_decay),
        ];
        for (name, value) in non_negative {
            check(name, value, "a finite number ≥ 0", value >= 0.0)?;
        }
        let positive = [
            ("min_alpha", self.min_alpha),
            ("max_alpha", self.max_alpha),
            ("base_eps", self.base_eps),
            ("eps", self.eps),
            ("max_update_norm", self.max_update_norm),
            ("target_rms", self.target_rms),
            ("eps_h", self.eps_h),
        ];
        for (name, value) in positive {
            check(name, value, "a finite number > 0", value as f32 > 0.0)?;
        }
        let ratios = [
            ("residual_max_ratio", self.residual_max_ratio),
            ("orthogonal_max_ratio", self.orthogonal_max_ratio),
            ("modulation_max_ratio", self.modulation_max_ratio),
            ("adaptation_rate", self.adaptation_rate),
        ];
        for (name, value) in ratios {
            check(name, value, "a number in [0, 1]", (0.0..=1.0).contains(&value))?;
        }
        for (name, value) in [("base_momentum", self.base_momentum), ("base_beta2", self.base_beta2)] {
            check(name, value, "a number in (0, 1)", value > 0.0 && value < 1.0)?;
        }
        check("min_alpha", self.min_alpha, "at most max_alpha", self.min_alpha <= self.max_alpha)
    }

    /// Whether the update keeps `base_momentum`.
    pub fn has_base_momentum(&self) -> bool {
        self.hybrid_base != HybridBase::Classic
    }

    /// Whether the update keeps `base_variance`.
    pub fn has_base_variance(&self) -> bool {
        self.hybrid_base == HybridBase::AdamW
    }
}

fn check(name: &'static str, value: f64, valid: &'static str, holds: bool) -> Result<(), StepError> {
    if holds && value.is_finite() { Ok(()) } else { Err(StepError::Setting { name, value, valid }) }
}

/// The number a float32 attribute stands for: the shortest decimal that reads back as `value`.
///
/// An ONNX attribute holds 0.999 as the float32 0.99900001287; 1 − b₂ computed from that is off by 1.3e-5 of its value.
pub fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Scalars that depend on the epoch, as in the operator's input Q.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gates {
    /// q in [0, 1]: how much of the plasticity signal is blended in.
    pub warm_up: f32,
    /// 1 inside the phase in which a hybrid base is modulated, else 0.
    pub phase: f32,
    /// r in [0, 1]: strength of the orthogonal residual.
    pub orthogonal: f32,
}

impl Default for Gates {
    fn default() -> Self {
        Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 }
    }
}

/// Scalar inputs of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inputs {
    /// η.
    pub learning_rate: f32,
    /// Updates already applied (t before this step), ≥ 0.
    pub step: i64,
    pub gates: Gates,
    /// κ, the controller's learning-rate multiplier; 1 without a controller.
    pub multiplier: f32,
}

impl Inputs {
    /// Inputs with open gates and no controller.
    pub fn new(learning_rate: f32, step: i64) -> Self {
        Inputs { learning_rate, step, gates: Gates::default(), multiplier: 1.0 }
    }
}

impl Inputs {
    /// Checks that every scalar is finite and the step is not negative.
    pub fn validate(&self) -> Result<(), StepError> {
        let scalars = [
            ("learning_rate", self.learning_rate),
            ("multiplier", self.multiplier),
            ("warm-up gate", self.gates.warm_up),
            ("phase gate", self.gates.phase),
            ("orthogonal gate", self.gates.orthogonal),
        ];
        for (name, value) in scalars {
            if !value.is_finite() {
                return Err(StepError::NotFinite { name, value });
            }
        }
        if self.step < 0 { Err(StepError::NegativeStep { step: self.step }) } else { Ok(()) }
    }
}
