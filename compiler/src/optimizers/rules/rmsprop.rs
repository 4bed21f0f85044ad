//! RMSprop, plain, centred and with momentum.
//!
//! v' = αv + (1−α)g²; centred: ḡ' = αḡ + (1−α)g and v' − ḡ'² below the root. d = g/(√· + ε) (PyTorch) or g/√(· + ε)
//! (TensorFlow). Without momentum θ' = θ − ηd; with it b' = μb + d, θ' = θ − ηb' (PyTorch) or b' = μb + ηd, θ' = θ − b'
//! (TensorFlow). Sources: Hinton's lecture 6e; `torch.optim.RMSprop`; `tf.raw_ops.ApplyRMSProp`.

use crate::optimizers::behaviour::{Recurrence, near, recurrence};
use crate::optimizers::tape::Op;
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if !(1..=3).contains(&u.states) {
        return fail(0, None, "RMSprop keeps one to three states");
    }
    let kinds: Vec<Recurrence> = (0..u.states).map(|i| recurrence(u, i)).collect();
    let Some(second) = kinds.iter().position(|k| matches!(k, Recurrence::Square { .. })) else {
        return fail(0, None, "no state averages the squared gradient");
    };
    let Recurrence::Square { decay: alpha, gain, theta: pull } = kinds[second] else {
        return fail(0, None, "no state averages the squared gradient");
    };
    if !(alpha > 0.0 && alpha < 1.0) || (alpha + gain - 1.0).abs() > 1e-6 {
        return fail(
            1,
            Some(u.state_next(second)),
            format!("the squared gradient's average decays by {alpha:.6} but takes in {gain:.6}: they do not sum to 1"),
        );
    }
    if let (Some(slot), false) = (u.stale_reader(second), u.uses_next(second)) {
        return fail(2, Some(slot), "the parameter reads the squared gradient's average before its update");
    }
    let average = kinds.iter().position(|k| matches!(k, Recurrence::Linear { decay, .. } if near(*decay, alpha)));
    let buffer = (0..u.states).find(|i| *i != second && Some(*i) != average);
    if average.is_some() && buffer.is_none() && u.states == 3 || buffer.is_some_and(|b| kinds[b] != Recurrence::Other) {
        return fail(3, None, "a state is neither the gradient's average nor the momentum");
    }
    if average.is_some_and(|a| !u.uses_next(a)) {
        return fail(
            3,
            average.map(|a| u.state_next(a)),
            "the gradient's average is kept but the step does not use it",
        );
    }
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let states = |v: f64, g: f64, b: f64| {
        let mut states = vec![0.0; u.states];
        states[second] = (v - gain * g * g) / alpha;
        if let Some(a) = average {
            states[a] = -gain * g / alpha;
        }
        if let Some(k) = buffer {
            states[k] = b;
        }
        states
    };
    // The gradient's average is held at 0, the momentum at b.
    let at = |g: f64, v: f64, b: f64| u.at(0.0, g, &states(v, g, b), 0.1, 3.0);
    // A gradient so small that its square is lost beside any epsilon.
    let tiny = 1e-20;
    let step = |v: f64| -at(tiny, v, 0.0).0 / lr / tiny;
    let scale = step(1e16) * 1e8;
    if !(scale > 0.0) {
        return fail(4, Some(u.theta_next()), "the step is not along the gradient, or its sign is flipped");
    }
    if !near(step(4e16) * 2e8, scale) {
        return fail(5, u.find(Op::Div), "the step does not shrink with the square root of the average");
    }
    let (mut momentum, mut folded) = (0.0, false);
    if let Some(k) = buffer {
        momentum = at(0.0, 1.0, 1.0).1[k];
        folded = near(-at(0.0, 1.0, 1.0).0, momentum);
        if !(momentum > 0.0 && momentum < 1.0) {
            return fail(6, Some(u.state_next(k)), "the momentum is not a number between 0 and 1");
        }
    }
    let at_zero = step(0.0);
    let missing = !(at_zero.is_finite() && at_zero.abs() < 1e18);
    let root = if missing { 0.0 } else { scale / at_zero };
    let outside = missing || near(step(root * root), scale / (2.0 * root));
    if !outside && !near(step(root * root), scale / (2f64.sqrt() * root)) {
        return fail(7, u.find(Op::Add), "epsilon enters the denominator in no known way");
    }
    u.validate(&[second], 8, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); u.states] };
        for i in 0..p.theta.len() {
            let g = p.grad[i] + pull * p.theta[i];
            let v = alpha * p.states[second][i] + gain * g * g;
            next.states[second].push(v);
            let mut spread = v;
            if let Some(a) = average {
                let mean = alpha * p.states[a][i] + gain * g;
                next.states[a].push(mean);
                spread -= mean * mean;
            }
            let d = g / if outside { spread.sqrt() + root } else { (spread + root * root).sqrt() };
            next.theta.push(match buffer {
                None => p.theta[i] - eta * d,
                Some(k) => {
                    let b = momentum * p.states[k][i] + if folded { eta * d } else { d };
                    next.states[k].push(b);
                    p.theta[i] - if folded { b } else { eta * b }
                }
            });
        }
        next
    })?;
    let role = |i: usize| match i {
        _ if i == second => StateRole::SecondMoment,
        _ if Some(i) == average => StateRole::GradientAverage,
        _ => StateRole::Velocity,
    };
    Ok(Found {
        kind: Kind::RmsProp,
        settings: vec![
            ("alpha", alpha),
            ("epsilon", if outside { root } else { root * root }),
            ("momentum", momentum),
            ("centered", f64::from(u8::from(average.is_some()))),
            ("weight_decay", pull),
        ],
        rate_scale: scale,
        decoupled: false,
        epsilon_missing: missing,
        roles: (0..u.states).map(role).collect(),
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    #[test]
    fn spellings() {
        for (formulas, centered, momentum, eps) in [
            ("v' = 0.99*v + 0.01*g*g; w' = w - lr*g/(sqrt(v') + 1e-8)", 0.0, 0.0, 1e-8),
            ("v' = v + 0.01*(g^2 - v); w' = w - lr*g/sqrt(v' + 1e-7)", 0.0, 0.0, 1e-7),
            ("v' = 0.99*v + 0.01*g*g; a' = 0.99*a + 0.01*g; w' = w - lr*g/(sqrt(v' - a'*a') + 1e-8)", 1.0, 0.0, 1e-8),
            ("v' = 0.99*v + 0.01*g*g; b' = 0.9*b + g/(sqrt(v') + 1e-8); w' = w - lr*b'", 0.0, 0.9, 1e-8),
            ("v' = 0.99*v + 0.01*g*g; b' = 0.9*b + lr*g/sqrt(v' + 1e-7); w' = w - b'", 0.0, 0.9, 1e-7),
            (
                "v' = 0.99*v + 0.01*g*g; a' = 0.99*a + 0.01*g; b' = 0.9*b + g/(sqrt(v' - a'*a') + 1e-8); w' = w - lr*b'",
                1.0,
                0.9,
                1e-8,
            ),
        ] {
            let m = matched(formulas);
            assert_eq!(
                (m.kind, number(&m, "alpha"), number(&m, "centered")),
                (Kind::RmsProp, 0.99, centered),
                "{formulas}"
            );
            assert!(
                (number(&m, "momentum") - momentum).abs() < 1e-6 && (number(&m, "epsilon") / eps - 1.0).abs() < 1e-3,
                "{formulas}"
            );
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("v' = 0.99*v + 0.01*g*g; w' = w + lr*g/(sqrt(v') + 1e-8)", "flipped"),
            ("v' = 0.99*v + 0.01*g*g; w' = w - lr*g/(sqrt(v) + 1e-8)", "before its update"),
            ("v' = 0.99*v + 0.01*g*g; w' = w - lr*g/(v' + 1e-8)", "square root of the average"),
            ("v' = 0.99*v + 0.05*g*g; w' = w - lr*g/(sqrt(v') + 1e-8)", "do not sum to 1"),
            ("v' = 0.99*v + 0.01*g*g; b' = 1.2*b + g/(sqrt(v') + 1e-8); w' = w - lr*b'", "momentum is not a number"),
            (
                "v' = 0.99*v + 0.01*g*g; a' = 0.9*a + 0.1*g; w' = w - lr*g/(sqrt(v' - a'*a') + 1e-8)",
                "does not move along",
            ),
        ]);
    }
}
