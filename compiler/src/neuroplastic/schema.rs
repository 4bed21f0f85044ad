//! The ONNX operator: inputs, outputs, attributes.

use super::{HybridBase, Settings, Third, layer_gate, third};
use crate::graph::{Attribute, AttributeValue};

/// Domain of the operators.
pub const DOMAIN: &str = "ai.neuroplastic";
/// Version of the domain's operator set.
pub const VERSION: i64 = 1;
/// One fused update of one parameter tensor.
pub const OP: &str = "NeuroPlastic";
/// The controller's signal of one parameter tensor.
pub const SIGNAL: &str = "PlasticitySignal";

/// Per-element state of one parameter, in the operator's input order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum State {
    ActivityTrace,
    Momentum,
    Variance,
    BaseMomentum,
    BaseVariance,
}

impl State {
    /// Name in files and code.
    pub fn name(self) -> &'static str {
        match self {
            State::ActivityTrace => "activity_trace",
            State::Momentum => "momentum",
            State::Variance => "variance",
            State::BaseMomentum => "base_momentum",
            State::BaseVariance => "base_variance",
        }
    }
}

/// States a base keeps.
pub fn states(base: HybridBase) -> &'static [State] {
    use State::*;
    const ALL: [State; 5] = [ActivityTrace, Momentum, Variance, BaseMomentum, BaseVariance];
    match base {
        HybridBase::Classic => &ALL[..3],
        HybridBase::SgdMomentum => &ALL[..4],
        HybridBase::AdamW => &ALL,
    }
}

/// Attributes of the node for tensor `index` of `count`, every scope resolved.
pub fn node_attributes(s: &Settings, index: usize, count: usize, rank: usize) -> Vec<Attribute> {
    let scale = match third(index, count) {
        Third::Early => s.early_target_rms_scale,
        Third::Middle => s.middle_target_rms_scale,
        Third::Late => s.late_target_rms_scale,
    };
    let strength = if layer_gate(s, index, count, rank) { s.modulation_strength } else { 0.0 };
    let float = |x: f64| AttributeValue::Float(x as f32);
    let flag = AttributeValue::from;
    [
        ("mode", AttributeValue::from(s.mode.as_str())),
        ("hybrid_base", AttributeValue::from(s.hybrid_base.as_str())),
        ("activity_weight", float(s.activity_weight)),
        ("gradient_weight", float(s.gradient_weight)),
        ("memory_weight", float(s.memory_weight)),
        ("plasticity_scale", float(s.plasticity_scale)),
        ("min_alpha", float(s.min_alpha)),
        ("max_alpha", float(s.max_alpha)),
        ("parameterwise", flag(s.parameterwise)),
        ("bounded_residual", flag(s.bounded_residual)),
        ("residual_max_ratio", float(s.residual_max_ratio)),
        ("orthogonal_residual", flag(s.orthogonal_residual)),
        ("orthogonal_lambda", float(s.orthogonal_lambda)),
        ("orthogonal_max_ratio", float(s.orthogonal_max_ratio)),
        ("orthogonal_normalization", AttributeValue::from(s.orthogonal_normalization.as_str())),
        ("modulation_target", AttributeValue::from(s.modulation_target.as_str())),
        ("modulation_strength", float(strength)),
        ("modulation_max_ratio", float(s.modulation_max_ratio)),
        ("base_momentum", float(s.base_momentum)),
        ("base_beta2", float(s.base_beta2)),
        ("base_eps", float(s.base_eps)),
        ("eps", float(s.eps)),
        ("max_update_norm", float(s.max_update_norm)),
        ("target_rms", float(s.target_rms * scale)),
        ("adaptation_rate", float(s.adaptation_rate)),
        ("eps_h", float(s.eps_h)),
        ("weight_decay", float(s.weight_decay)),
        ("decoupled_weight_decay", flag(s.decoupled_weight_decay)),
    ]
    .map(|(name, value)| Attribute::new(name, value))
    .into()
}
