//! Resolves a golden file's whole-optimizer settings into one tensor's [`Config`] and the gates of an epoch.

use serde_json::{Map, Value};

use crate::neuroplastic::{Config, Gates, HybridBase, Mode, ModulationTarget, OrthogonalNormalization};

pub struct Settings<'a>(pub &'a Map<String, Value>);

impl Settings<'_> {
    pub fn number(&self, name: &str, default: f64) -> f64 {
        self.0.get(name).map_or(default, |value| value.as_f64().unwrap())
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).map_or(default, |value| value.as_bool().unwrap())
    }

    pub fn text(&self, name: &str, default: &'static str) -> &str {
        self.0.get(name).map_or(default, |value| value.as_str().unwrap())
    }

    /// The settings of tensor `i` of `count`, which has `rank` dimensions.
    pub fn config(&self, i: usize, count: usize, rank: usize) -> Config {
        let default = Config::default();
        let third = match i {
            i if i < count.div_ceil(3) => "early_target_rms_scale",
            i if i < (2 * count).div_ceil(3) => "middle_target_rms_scale",
            _ => "late_target_rms_scale",
        };
        let layer_gate = match self.text("layer_scope", "all") {
            "all" => true,
            "conv_only" => rank == 4,
            "classifier_only" | "head_only" => group(i, count) == Group::Classifier,
            "early_blocks" => in_early_blocks(i, count),
            "late_blocks" | "late" => in_late_blocks(i, count),
            other => panic!("layer_scope {other}"),
        };
        let number = |name, default| self.number(name, default);
        Config {
            mode: match self.text("mode", "rule_based") {
                "rule_based" => Mode::RuleBased,
                "ablation_grad_only" => Mode::AblationGradOnly,
                other => panic!("mode {other}"),
            },
            hybrid_base: match self.text("hybrid_base", "classic") {
                "classic" => HybridBase::Classic,
                "sgd_momentum" => HybridBase::SgdMomentum,
                "adamw" => HybridBase::AdamW,
                other => panic!("hybrid_base {other}"),
            },
            orthogonal_normalization: match self.text("orthogonal_normalization", "raw") {
                "raw" => OrthogonalNormalization::Raw,
                "match_grad_norm" => OrthogonalNormalization::MatchGradNorm,
                other => panic!("orthogonal_normalization {other}"),
            },
            modulation_target: match self.text("modulation_target", "gain") {
                "gain" => ModulationTarget::Gain,
                "momentum" => ModulationTarget::Momentum,
                "trust_ratio" => ModulationTarget::TrustRatio,
                other => panic!("modulation_target {other}"),
            },
            activity_weight: number("activity_weight", default.activity_weight),
            gradient_weight: number("gradient_weight", default.gradient_weight),
            memory_weight: number("memory_weight", default.memory_weight),
            plasticity_scale: number("plasticity_scale", default.plasticity_scale),
            min_alpha: number("min_alpha", default.min_alpha),
            max_alpha: number("max_alpha", default.max_alpha),
            parameterwise: self.flag("parameterwise", true),
            bounded_residual: self.flag("bounded_residual", false),
            residual_max_ratio: number("residual_max_ratio", default.residual_max_ratio),
            orthogonal_residual: self.flag("orthogonal_residual", false),
            orthogonal_lambda: number("orthogonal_lambda", default.orthogonal_lambda),
            orthogonal_max_ratio: number("orthogonal_max_ratio", default.orthogonal_max_ratio),
            modulation_strength: number("modulation_strength", default.modulation_strength) * f64::from(layer_gate),
            modulation_max_ratio: number("modulation_max_ratio", default.modulation_max_ratio),
            base_momentum: number("base_momentum", default.base_momentum),
            base_beta2: number("base_beta2", default.base_beta2),
            base_eps: number("base_eps", default.base_eps),
            eps: number("eps", default.eps),
            max_update_norm: number("max_update_norm", default.max_update_norm),
            target_rms: number("target_rms", default.target_rms) * number(third, 1.0),
            adaptation_rate: number("adaptation_rate", default.adaptation_rate),
            eps_h: number("eps_h", default.eps_h),
            weight_decay: number("weight_decay", default.weight_decay),
            decoupled_weight_decay: self.flag("decoupled_weight_decay", false),
        }
    }

    pub fn gates(&self, epoch: f64, epochs: f64) -> Gates {
        let warm_up_epochs = self.number("warmup_epochs", 0.0);
        let warm_up = match self.text("mode", "rule_based") {
            "ablation_grad_only" => 0.0,
            _ if warm_up_epochs <= 0.0 => 1.0,
            _ => ((epoch - 1.0) / warm_up_epochs).clamp(0.0, 1.0),
        };
        let x = epoch / epochs;
        let phase = match self.text("phase_scope", "full") {
            "full" => true,
            "early" => x <= 0.3,
            "middle" => 0.3 < x && x < 0.7,
            "late" => x >= 0.7,
            other => panic!("phase_scope {other}"),
        };
        let start = self.number("orthogonal_late_start_fraction", 0.3);
        let orthogonal = match self.text("orthogonal_schedule", "constant") {
            "constant" => 1.0,
            "late" if x <= start => 0.0,
            "late" => ((x - start) / (1.0 - start).max(1e-12)).min(1.0),
            "cosine" => 0.5 * (1.0 - (std::f64::consts::PI * x.clamp(0.0, 1.0)).cos()),
            other => panic!("orthogonal_schedule {other}"),
        };
        Gates { warm_up: warm_up as f32, phase: f32::from(phase), orthogonal: orthogonal as f32 }
    }

    /// (S, κ) of every tensor, from the tensors' own signals.
    pub fn controller(&self, signals: &[f64]) -> Vec<(f64, f64)> {
        let count = signals.len();
        let mean_of = |wanted: &dyn Fn(usize) -> bool| {
            let members: Vec<f64> = (0..count).filter(|&i| wanted(i)).map(|i| signals[i]).collect();
            members.iter().sum::<f64>() / members.len() as f64
        };
        let multiplier = |signal: f64| {
            let low = self.number("controller_low", 0.8);
            let high = self.number("controller_high", 1.2);
            (1.0 + self.number("controller_alpha", 0.1) * signal).clamp(low, high)
        };
        (0..count)
            .map(|i| match self.text("lr_controller_mode", "off") {
                "off" => (0.0, 1.0),
                "global" => {
                    let signal = mean_of(&|_| true);
                    (signal, multiplier(signal))
                }
                "layerwise" => {
                    let signal = mean_of(&|j| group(j, count) == group(i, count));
                    (signal, multiplier(signal))
                }
                "classifier_only" if group(i, count) != Group::Classifier => (0.0, 1.0),
                "classifier_only" => {
                    let signal = mean_of(&|j| group(j, count) == Group::Classifier);
                    (signal, multiplier(signal))
                }
                other => panic!("lr_controller_mode {other}"),
            })
            .collect()
    }
}

#[derive(PartialEq, Eq)]
enum Group {
    Classifier,
    EarlyBlocks,
    LateBlocks,
    Stem,
}

fn body(count: usize) -> usize {
    count.saturating_sub(2)
}

fn in_early_blocks(i: usize, count: usize) -> bool {
    i < body(count).div_ceil(2)
}

fn in_late_blocks(i: usize, count: usize) -> bool {
    (body(count) / 2..body(count)).contains(&i)
}

fn group(i: usize, count: usize) -> Group {
    match i {
        i if i >= body(count) => Group::Classifier,
        i if in_early_blocks(i, count) => Group::EarlyBlocks,
        i if in_late_blocks(i, count) => Group::LateBlocks,
        _ => Group::Stem,
    }
}
