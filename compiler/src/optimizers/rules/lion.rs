//! Lion: θ' = (1−ηλ)θ − η·sign(β₁m + (1−β₁)g); m' = β₂m + (1−β₂)g.
//!
//! Source: Chen et al., arXiv 2302.06675, algorithm 2.

use crate::optimizers::behaviour::{Recurrence, close, decoupled_decay, recurrence};
use crate::optimizers::tape::Op;
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 1 {
        return fail(0, None, "Lion keeps one state");
    }
    let Recurrence::Linear { decay: b2, gain, theta: 0.0 } = recurrence(u, 0) else {
        return fail(0, Some(u.state_next(0)), "the state is not an average of the gradient");
    };
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let step = |g: f64, m: f64| -u.at(0.0, g, &[m], 0.1, 3.0).0 / lr;
    let scale = step(1.0, 1.0);
    if !close(step(7.0, 0.2).abs(), scale.abs()) || !close(step(0.3, 5.0).abs(), scale.abs()) || step(0.0, 0.0) != 0.0 {
        return fail(0, Some(u.theta_next()), "the step is not a sign");
    }
    if !(b2 > 0.0 && b2 < 1.0) || (b2 + gain - 1.0).abs() > 1e-6 {
        return fail(
            6,
            Some(u.state_next(0)),
            format!("the average decays by {b2:.6} but takes in {gain:.6} of the gradient: they do not sum to 1"),
        );
    }
    if !(scale > 0.0) {
        return fail(7, u.find(Op::Sign), "the sign of the step is flipped");
    }
    // Where β₁m − (1−β₁)·1 changes sign as m grows gives β₁.
    let (mut low, mut high) = (0.0f64, 1e6f64);
    if step(-1.0, high) < 0.0 {
        return fail(8, u.find(Op::Sign), "the sign is taken of the gradient alone, not of its mixture with the state");
    }
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if step(-1.0, middle) > 0.0 { high = middle } else { low = middle }
    }
    let b1 = 1.0 / (1.0 + high);
    if !(b1 > 1e-5) {
        return fail(8, u.find(Op::Sign), "the sign is taken of the gradient alone, not of its mixture with the state");
    }
    if b1 > 0.999_999 {
        return fail(8, u.find(Op::Sign), "the sign is taken of the state alone, not of its mixture with the gradient");
    }
    let decay = decoupled_decay(u, scale, 9, |lr| u.at(1.0, 0.0, &[0.0], lr, 3.0).0)?;
    u.validate(&[], 10, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 };
        let lanes = || p.theta.iter().zip(&p.grad).zip(&p.states[0]);
        Next {
            theta: lanes()
                .map(|((x, g), m)| x * (1.0 - eta * decay) - eta * (b1 * m + (1.0 - b1) * g).signum())
                .collect(),
            states: vec![lanes().map(|((_, g), m)| b2 * m + gain * g).collect()],
        }
    })?;
    Ok(Found {
        kind: Kind::Lion,
        settings: vec![("beta1", b1), ("beta2", b2), ("weight_decay", decay)],
        rate_scale: scale,
        decoupled: decay != 0.0,
        epsilon_missing: false,
        roles: vec![StateRole::FirstMoment],
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    #[test]
    fn spellings() {
        for (formulas, decay) in [
            ("w' = w - lr*sign(0.9*m + 0.1*g); m' = 0.99*m + 0.01*g", 0.0),
            ("m' = m + 0.01*(g - m); w' = w*(1 - lr*0.1) - lr*sign(g*0.1 + m*0.9)", 0.1),
            ("m' = 0.99*m + 0.01*g; w' = w - lr*(sign(0.9*m + 0.1*g) + 0.1*w)", 0.1),
        ] {
            let m = matched(formulas);
            assert_eq!(
                (m.kind, number(&m, "beta2"), number(&m, "weight_decay")),
                (Kind::Lion, 0.99, decay),
                "{formulas}"
            );
            assert!((number(&m, "beta1") - 0.9).abs() < 1e-6, "{formulas}");
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("m' = 0.99*m + 0.01*g; w' = w + lr*sign(0.9*m + 0.1*g)", "sign of the step is flipped"),
            ("m' = 0.99*m + 0.01*g; w' = w - lr*sign(g)", "in proportion to its gradient"),
            ("m' = 0.99*m + 0.01*g; w' = w - lr*sign(m)", "state alone"),
            ("m' = 0.99*m + 0.5*g; w' = w - lr*sign(0.9*m + 0.1*g)", "do not sum to 1"),
            ("m' = 0.99*m + 0.01*g; w' = w*0.9 - lr*sign(0.9*m + 0.1*g)", "not scaled by the learning rate"),
            ("m' = 0.99*m + 0.01*g*g; w' = w - lr*sign(0.9*m + 0.1*g)", "squared gradient's average before its update"),
        ]);
    }
}
