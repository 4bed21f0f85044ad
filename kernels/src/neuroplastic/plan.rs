//! Which variants of the sweeps one tensor needs, and the scalars between them.

use super::sweep::{Alpha, Base, BaseConstants, Form, Sums, TraceConstants, UpdateConstants};
use super::{Config, HybridBase, Inputs, Mode, ModulationTarget};

pub(super) struct Plan<'a> {
    pub config: &'a Config,
    pub alpha: Alpha,
    pub form: Form,
    pub base: Base,
    /// q · `plasticity_scale`, 0 in the ablation.
    pub blend: f64,
    /// `modulation_strength` times the phase gate.
    pub strength: f64,
    pub orthogonal_gate: f64,
    /// λ that is added to u.
    pub coupled_decay: f64,
    /// λ that shrinks θ.
    pub decoupled_decay: f64,
    /// 1 / (1 − b₁ᵗ) and 1 / (1 − b₂ᵗ) for AdamW.
    pub corrections: (f64, f64),
    /// η' = κ η.
    pub rate: f64,
}

/// Means over the tensor after the traces' update.
#[derive(Clone, Copy)]
pub(super) struct Means {
    pub gradient: f64,
    pub activity: f64,
    pub memory: f64,
}

impl<'a> Plan<'a> {
    /// `is_observed`: whether diagnostics look at the step.
    pub fn new(config: &'a Config, inputs: &Inputs, is_observed: bool) -> Self {
        let base = match config.hybrid_base {
            HybridBase::Classic => Base::Classic,
            HybridBase::AdamW => Base::AdamW,
            HybridBase::SgdMomentum => Base::SgdMomentum,
        };
        let blend = match config.mode {
            Mode::RuleBased => f64::from(inputs.gates.warm_up) * config.plasticity_scale,
            Mode::AblationGradOnly => 0.0,
        };
        let form = match base {
            Base::Classic if config.orthogonal_residual => Form::Projection,
            Base::Classic => Form::Classic,
            _ => Form::Hybrid,
        };
        let alpha = match form {
            _ if !config.parameterwise => Alpha::Uniform,
            Form::Projection if blend == 0.0 => Alpha::Uniform,
            Form::Projection => Alpha::Blend,
            _ if blend == 0.0 => Alpha::Gradient,
            _ if blend == 1.0 => Alpha::Full,
            _ => Alpha::Blend,
        };
        let decoupled = config.decoupled_weight_decay || base == Base::AdamW;
        let t = inputs.step.saturating_add(1) as f64;
        let correction = |beta: f64| match base {
            Base::AdamW => 1.0 / (1.0 - beta.powf(t)).max(1e-12),
            _ => 1.0,
        };
        let mut plan = Plan {
            config,
            alpha,
            form,
            base,
            blend,
            strength: config.modulation_strength * f64::from(inputs.gates.phase),
            orthogonal_gate: f64::from(inputs.gates.orthogonal),
            coupled_decay: if base == Base::Classic && !decoupled { config.weight_decay } else { 0.0 },
            decoupled_decay: if base != Base::SgdMomentum && decoupled { config.weight_decay } else { 0.0 },
            corrections: (correction(config.base_momentum), correction(config.base_beta2)),
            rate: f64::from(inputs.learning_rate) * f64::from(inputs.multiplier),
        };
        // A hybrid base is computed in the first sweep where its norm is wanted before the update, or where it is looked at
        // again after it; otherwise in the second, which spares an array.
        let is_early = is_observed
            || config.modulation_target == ModulationTarget::TrustRatio
            || plan.modulation_may_be_clipped(plan.strength);
        plan.form = match (form, base) {
            (Form::Hybrid, Base::AdamW) if !is_early => Form::AdamW,
            (Form::Hybrid, Base::SgdMomentum) if !is_early => Form::SgdMomentum,
            _ => form,
        };
        plan
    }

    pub fn needs_memory(&self) -> bool {
        self.blend != 0.0
    }

    /// Whether the norm of the gradient, or of a hybrid base, is needed.
    pub fn needs_base_norm(&self) -> bool {
        self.form == Form::Hybrid || self.config.bounded_residual || self.config.orthogonal_residual
    }

    /// The base that the first sweep computes.
    pub fn early_base(&self) -> Base {
        if self.form == Form::Hybrid { self.base } else { Base::Classic }
    }

    fn base_constants(&self) -> BaseConstants {
        let config = self.config;
        let sgd = self.base == Base::SgdMomentum;
        BaseConstants {
            momentum: config.base_momentum as f32,
            momentum_gain: if sgd { 1.0 } else { (1.0 - config.base_momentum) as f32 },
            beta2: config.base_beta2 as f32,
            beta2_rest: (1.0 - config.base_beta2) as f32,
            root_scale: (self.corrections.1.sqrt() / self.corrections.0) as f32,
            // A least epsilon must not become 0.
            eps: ((config.base_eps / self.corrections.0) as f32).max(f32::from_bits(1)),
            weight_decay: if sgd { config.weight_decay as f32 } else { 0.0 },
        }
    }

    pub fn trace_constants(&self) -> TraceConstants {
        TraceConstants { eps: self.config.eps as f32, base: self.base_constants() }
    }

    pub fn means(&self, sums: &Sums, n: usize) -> Means {
        let n = n as f64;
        Means { gradient: sums[0] / n, activity: sums[1] / n, memory: sums[2] / n }
    }

    /// (α_g, α_f) where both are one number for the whole tensor.
    fn uniform_alphas(&self, means: &Means) -> (f64, f64) {
        let config = self.config;
        let normalised = |mean: f64| mean / (mean + config.eps);
        let clamp = |value: f64| value.max(config.min_alpha).min(config.max_alpha);
        let gradient = normalised(means.gradient);
        let full = config.activity_weight * normalised(means.activity)
            + config.gradient_weight * gradient
            + config.memory_weight * normalised(means.memory);
        (clamp(gradient), clamp(full))
    }

    /// `strength`: what (α − 1)·reference is multiplied by.
    pub fn update_constants(&self, means: &Means, strength: f64) -> UpdateConstants {
        let config = self.config;
        let scale = |weight: f64, mean: f64| (weight / (mean + config.eps)) as f32;
        let uniform = match self.alpha {
            Alpha::Uniform => {
                let (gradient, full) = self.uniform_alphas(means);
                let difference = self.blend * (full - gradient);
                if self.form == Form::Projection { difference } else { gradient + difference }
            }
            _ => 0.0,
        };
        UpdateConstants {
            activity: scale(config.activity_weight, means.activity),
            gradient: scale(config.gradient_weight, means.gradient),
            memory: scale(config.memory_weight, means.memory),
            gradient_alone: scale(1.0, means.gradient),
            min_alpha: config.min_alpha as f32,
            max_alpha: config.max_alpha as f32,
            blend: self.blend as f32,
            uniform: uniform as f32,
            strength: strength as f32,
            weight_decay: self.coupled_decay as f32,
            base: self.base_constants(),
        }
    }

    /// (α_g, α) of one element from |g|, a and |m|/(√v+ε), for the passes off the hot path.
    pub fn alphas(&self, means: &Means, gradient: f64, activity: f64, memory: f64) -> (f64, f64) {
        let config = self.config;
        let (alone, full) = if config.parameterwise {
            let clamp = |value: f64| value.max(config.min_alpha).min(config.max_alpha);
            let scaled = |value: f64, mean: f64| value / (mean + config.eps);
            let alone = scaled(gradient, means.gradient);
            let full = config.activity_weight * scaled(activity, means.activity)
                + config.gradient_weight * alone
                + config.memory_weight * scaled(memory, means.memory);
            (clamp(alone), clamp(full))
        } else {
            self.uniform_alphas(means)
        };
        (alone, if self.blend == 0.0 { alone } else { alone + self.blend * (full - alone) })
    }

    /// The modulation's factor k, for the trust ratio times (clip(‖θ‖/‖base‖) − 1).
    pub fn modulation(&self, base_norm: f64, parameter_norm: f64) -> f64 {
        match self.config.modulation_target {
            ModulationTarget::TrustRatio => {
                self.strength * ((parameter_norm / (base_norm + 1e-12)).clamp(0.5, 1.5) - 1.0)
            }
            _ => self.strength,
        }
    }

    /// Whether ‖strength·(α − 1)·base‖ may exceed `modulation_max_ratio`·‖base‖, judged by the range of α alone.
    pub fn modulation_may_be_clipped(&self, strength: f64) -> bool {
        let config = self.config;
        if config.modulation_target == ModulationTarget::Momentum {
            return strength != 0.0;
        }
        let overshoot = (self.blend - 1.0).max(0.0) * (config.max_alpha - config.min_alpha);
        let largest = (config.max_alpha + overshoot - 1.0).abs().max((config.min_alpha - overshoot - 1.0).abs());
        strength.abs() * largest > config.modulation_max_ratio * (1.0 - 1e-5)
    }

    /// The factor that brings `norm` down to `ratio`·`reference`, 1 if it is not above.
    pub fn limit(norm: f64, ratio: f64, reference: f64, eps: f64) -> f64 {
        let limit = ratio * reference;
        if norm > limit { limit / (norm + eps) } else { 1.0 }
    }

    /// The factor of step 8: the clip by `max_update_norm` and the gain, from Σu².
    pub fn stabilisation(&self, squares: f64, n: usize) -> f64 {
        let config = self.config;
        let norm = squares.sqrt();
        let clip = if norm > config.max_update_norm { config.max_update_norm / (norm + config.eps_h) } else { 1.0 };
        let rms = (clip * clip * (squares / n as f64) + config.eps_h).sqrt();
        clip * (1.0 + config.adaptation_rate * (config.target_rms - rms)).clamp(0.5, 1.5)
    }
}
