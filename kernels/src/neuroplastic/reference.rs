//! The step written out in scalar `f64`, one line of the method at a time: the oracle of the tests, slow on purpose.

use super::{Config, Element, HybridBase, Inputs, Mode, ModulationTarget, OrthogonalNormalization, Tensors};

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn inner(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(values: &[f64]) -> f64 {
    inner(values, values).sqrt()
}

fn zip(x: &[f64], y: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    x.iter().zip(y).map(|(&x, &y)| f(x, y)).collect()
}

fn map(x: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| f(x)).collect()
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// One tensor and its state, of one length n; every field as in [`Tensors`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct State {
    pub parameter: Vec<f64>,
    pub activity_trace: Vec<f64>,
    pub momentum: Vec<f64>,
    pub variance: Vec<f64>,
    pub base_momentum: Vec<f64>,
    pub base_variance: Vec<f64>,
}

/// What one step looked like.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub alpha: Vec<f64>,
    pub raw_update_norm: f64,
    /// Of κ·u after the stabilisation.
    pub effective_update_norm: f64,
    pub plasticity_delta_norm: f64,
}

impl State {
    /// A parameter with state zero; the base's state is always kept.
    pub fn new(parameter: Vec<f64>) -> State {
        let zeros = vec![0.0; parameter.len()];
        State {
            parameter,
            activity_trace: zeros.clone(),
            momentum: zeros.clone(),
            variance: zeros.clone(),
            base_momentum: zeros.clone(),
            base_variance: zeros,
        }
    }

    /// The values a fused step would start from.
    pub fn of<T: Element>(tensors: &Tensors<'_, T>) -> State {
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        State {
            parameter: tensors.parameter.iter().map(|value| value.to_f64()).collect(),
            activity_trace: wide(tensors.activity_trace),
            momentum: wide(tensors.momentum),
            variance: wide(tensors.variance),
            base_momentum: wide(tensors.base_momentum),
            base_variance: wide(tensors.base_variance),
        }
    }
}

/// α_g and α with the traces of `state` already updated.
fn alphas(config: &Config, inputs: &Inputs, state: &State, gradient: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let normalised = |x: Vec<f64>| {
        let mean = mean(&x);
        map(&x, |x| x / (mean + config.eps))
    };
    let g = normalised(map(gradient, f64::abs));
    let a = normalised(state.activity_trace.clone());
    let m = normalised(zip(&state.momentum, &state.variance, |m, v| m.abs() / (v.sqrt() + config.eps)));
    let mut alone = g.clone();
    let mut full: Vec<f64> = (0..g.len())
        .map(|i| config.activity_weight * a[i] + config.gradient_weight * g[i] + config.memory_weight * m[i])
        .collect();
    if !config.parameterwise {
        alone = vec![mean(&alone); g.len()];
        full = vec![mean(&full); g.len()];
    }
    let clip = |x: &[f64]| map(x, |x| x.max(config.min_alpha).min(config.max_alpha));
    let (alone, full) = (clip(&alone), clip(&full));
    let alpha = match config.mode {
        Mode::AblationGradOnly => alone.clone(),
        Mode::RuleBased => {
            let weight = f64::from(inputs.gates.warm_up) * config.plasticity_scale;
            zip(&alone, &full, |alone, full| alone + weight * (full - alone))
        }
    };
    (alone, alpha)
}

fn update_traces(state: &mut State, gradient: &[f64]) {
    for (i, &g) in gradient.iter().enumerate() {
        state.activity_trace[i] = 0.95 * state.activity_trace[i] + (1.0 - 0.95) * g.abs();
        state.momentum[i] = 0.9 * state.momentum[i] + (1.0 - 0.9) * g;
        state.variance[i] = 0.99 * state.variance[i] + (1.0 - 0.99) * g * g;
    }
}

/// The controller's signal s, with the traces as they enter the step.
pub fn plasticity_signal(config: &Config, inputs: &Inputs, state: &State, gradient: &[f64]) -> f64 {
    if config.mode == Mode::AblationGradOnly || gradient.is_empty() {
        return 0.0;
    }
    let mut state = state.clone();
    update_traces(&mut state, gradient);
    let (alone, alpha) = alphas(config, inputs, &state, gradient);
    mean(&zip(&alpha, &alone, |alpha, alone| finite((alpha.max(config.eps) / alone.max(config.eps)).ln())))
}

/// One step, in place. A tensor without elements is left as it is.
pub fn step(config: &Config, inputs: &Inputs, state: &mut State, gradient: &[f64]) -> Option<Seen> {
    if gradient.is_empty() {
        return None;
    }
    let g = gradient;
    update_traces(state, g);
    let (alone, alpha) = alphas(config, inputs, state, g);
    let rate = f64::from(inputs.multiplier) * f64::from(inputs.learning_rate);
    let decay = config.weight_decay;
    let (mut u, delta) = match config.hybrid_base {
        HybridBase::Classic => classic(config, inputs, g, &alone, &alpha),
        _ => hybrid(config, inputs, state, g, &alpha),
    };
    let decoupled = config.decoupled_weight_decay || config.hybrid_base == HybridBase::AdamW;
    let coupled = config.hybrid_base == HybridBase::Classic && !decoupled;
    if coupled {
        u = zip(&u, &state.parameter, |u, parameter| u + decay * parameter);
    }
    let raw_update_norm = norm(&u);
    if decoupled && config.hybrid_base != HybridBase::SgdMomentum {
        state.parameter = map(&state.parameter, |parameter| parameter - rate * decay * parameter);
    }
    if raw_update_norm > config.max_update_norm {
        u = map(&u, |u| u * config.max_update_norm / (raw_update_norm + config.eps_h));
    }
    let rms = (mean(&map(&u, |u| u * u)) + config.eps_h).sqrt();
    let gain = (1.0 + config.adaptation_rate * (config.target_rms - rms)).clamp(0.5, 1.5);
    u = map(&u, |u| gain * u);
    state.parameter = zip(&state.parameter, &u, |parameter, u| parameter - rate * u);
    Some(Seen {
        alpha,
        raw_update_norm,
        effective_update_norm: f64::from(inputs.multiplier) * norm(&u),
        plasticity_delta_norm: norm(&delta),
    })
}

/// u and what plasticity contributes to it.
fn classic(config: &Config, inputs: &Inputs, g: &[f64], alone: &[f64], alpha: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let add = |delta: Vec<f64>| (zip(g, &delta, |g, delta| g + delta), delta);
    if config.orthogonal_residual {
        return add(orthogonal(config, inputs, g, alone, alpha));
    }
    if config.bounded_residual {
        let mut delta = zip(alpha, g, |alpha, g| (alpha - 1.0) * g);
        let (size, limit) = (norm(&delta), config.residual_max_ratio * norm(g));
        if size > limit {
            delta = map(&delta, |delta| delta * limit / (size + 1e-12));
        }
        return add(delta);
    }
    let delta = (0..g.len()).map(|i| (alpha[i] - alone[i]) * g[i]).collect();
    (zip(alpha, g, |alpha, g| alpha * g), delta)
}

fn orthogonal(config: &Config, inputs: &Inputs, g: &[f64], alone: &[f64], alpha: &[f64]) -> Vec<f64> {
    let squares = inner(g, g);
    if squares <= config.eps {
        return vec![0.0; g.len()];
    }
    let p: Vec<f64> = (0..g.len()).map(|i| finite((alpha[i] - alone[i]) * g[i])).collect();
    let along = inner(&p, g) / (squares + config.eps);
    let mut o = zip(&p, g, |p, g| finite(p - along * g));
    let size = norm(&o);
    if config.orthogonal_normalization == OrthogonalNormalization::MatchGradNorm && size > config.eps {
        o = map(&o, |o| o * squares.sqrt() / (size + config.eps));
    }
    let scale = config.orthogonal_lambda * f64::from(inputs.gates.orthogonal);
    let delta = map(&o, |o| scale * o);
    let (size, limit) = (norm(&delta), config.orthogonal_max_ratio * squares.sqrt());
    if size > limit { map(&delta, |delta| delta * limit / (size + config.eps)) } else { delta }
}

fn hybrid(config: &Config, inputs: &Inputs, state: &mut State, g: &[f64], alpha: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (b1, b2) = (config.base_momentum, config.base_beta2);
    let t = (inputs.step + 1) as f64;
    let (base, momentum) = if config.hybrid_base == HybridBase::AdamW {
        state.base_momentum = zip(&state.base_momentum, g, |m, g| b1 * m + (1.0 - b1) * g);
        state.base_variance = zip(&state.base_variance, g, |v, g| b2 * v + (1.0 - b2) * g * g);
        let m = map(&state.base_momentum, |m| m / (1.0 - b1.powf(t)).max(1e-12));
        let v = map(&state.base_variance, |v| v / (1.0 - b2.powf(t)).max(1e-12));
        (zip(&m, &v, |m, v| m / (v.sqrt() + config.base_eps)), m)
    } else {
        let decayed = zip(g, &state.parameter, |g, parameter| g + config.weight_decay * parameter);
        state.base_momentum = zip(&state.base_momentum, &decayed, |m, g| b1 * m + g);
        (state.base_momentum.clone(), state.base_momentum.clone())
    };
    let k = config.modulation_strength * f64::from(inputs.gates.phase);
    let trust = (norm(&state.parameter) / (norm(&base) + 1e-12)).clamp(0.5, 1.5);
    let mut delta: Vec<f64> = (0..g.len())
        .map(|i| {
            let sigma = alpha[i] - 1.0;
            match config.modulation_target {
                ModulationTarget::Gain => k * sigma * base[i],
                ModulationTarget::Momentum => k * sigma * momentum[i],
                ModulationTarget::TrustRatio => k * sigma * (trust - 1.0) * base[i],
            }
        })
        .collect();
    let (size, limit) = (norm(&delta), config.modulation_max_ratio * norm(&base));
    if size > limit {
        delta = map(&delta, |delta| delta * limit / (size + 1e-12));
    }
    (zip(&base, &delta, |base, delta| base + delta), delta)
}
