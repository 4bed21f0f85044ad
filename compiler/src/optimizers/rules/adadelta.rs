//! Adadelta: s' = ρs + (1−ρ)g²; Δ = √(d + ε)/√(s' + ε) · g; d' = ρd + (1−ρ)Δ²; θ' = θ − ηΔ.
//!
//! Sources: Zeiler, arXiv 1212.5701; `torch.optim.Adadelta`.

use crate::optimizers::behaviour::{Recurrence, near, recurrence};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 2 {
        return fail(0, None, "Adadelta keeps two states");
    }
    let square = |i: usize| match recurrence(u, i) {
        Recurrence::Square { decay, gain, theta } => Some((i, decay, gain, theta)),
        _ => None,
    };
    let Some((squares, rho, gain, pull)) = (0..2).find_map(square) else {
        return fail(0, None, "no state averages the squared gradient");
    };
    let deltas = 1 - squares;
    if !(rho > 0.0 && rho < 1.0) || (rho + gain - 1.0).abs() > 1e-6 {
        return fail(
            1,
            Some(u.state_next(squares)),
            format!("the squared gradient's average decays by {rho:.6} but takes in {gain:.6}: they do not sum to 1"),
        );
    }
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let at = |g: f64, s: f64, d: f64| {
        let mut states = vec![0.0; 2];
        states[squares] = (s - gain * g * g) / rho;
        states[deltas] = d;
        u.at(0.0, g, &states, 0.1, 3.0)
    };
    let step = |g: f64, s: f64, d: f64| -at(g, s, d).0 / lr;
    let scale = step(1.0, 1e16, 1e16);
    if !(scale > 0.0) {
        return fail(2, Some(u.theta_next()), "the step is not along the gradient, or its sign is flipped");
    }
    if !near(step(1.0, 4e16, 1e16) * 2.0, scale) || !near(step(1.0, 1e16, 4e16), 2.0 * scale) {
        return fail(3, Some(u.theta_next()), "the step is not the ratio of the two running roots");
    }
    let epsilon = (step(1.0, 1e16, 0.0) / scale).powi(2) * 1e16;
    if !(epsilon > 1e-20) {
        return fail(4, Some(u.theta_next()), "epsilon is missing: with zero states the parameter never moves");
    }
    u.validate(&[squares, deltas], 5, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); 2] };
        for i in 0..p.theta.len() {
            let g = p.grad[i] + pull * p.theta[i];
            let s = rho * p.states[squares][i] + gain * g * g;
            let d = p.states[deltas][i];
            let delta = (d + epsilon).sqrt() / (s + epsilon).sqrt() * g;
            next.states[squares].push(s);
            next.states[deltas].push(rho * d + gain * delta * delta);
            next.theta.push(p.theta[i] - eta * delta);
        }
        next
    })?;
    let mut roles = vec![StateRole::SecondMoment; 2];
    roles[deltas] = StateRole::DeltaAccumulator;
    Ok(Found {
        kind: Kind::Adadelta,
        settings: vec![("rho", rho), ("epsilon", epsilon), ("weight_decay", pull)],
        rate_scale: scale,
        decoupled: false,
        epsilon_missing: false,
        roles,
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    const SQUARES: &str = "s' = 0.9*s + 0.1*g*g;";

    #[test]
    fn spellings() {
        for rest in [
            "x = sqrt(d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x",
            "x = g*((d + 1e-6)^0.5)/(s' + 1e-6)^0.5; d' = d + 0.1*(x^2 - d); w' = w - x*lr",
        ] {
            let m = matched(&format!("{SQUARES} {rest}"));
            assert_eq!((m.kind, number(&m, "rho")), (Kind::Adadelta, 0.9), "{rest}");
            assert!((number(&m, "epsilon") / 1e-6 - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn look_alikes() {
        let cases = [
            ("x = sqrt(d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w + lr*x", "flipped"),
            (
                "x = sqrt(d + 1e-6)/(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x",
                "does not shrink with the square root",
            ),
            ("x = (d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x", "differs from the formula"),
            ("x = sqrt(d)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x", "not along the gradient"),
            ("x = sqrt(d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.5*d + 0.1*x*x; w' = w - lr*x", "differs from the formula"),
            ("x = sqrt(d + 1e-6)/sqrt(s + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x", "differs from the formula"),
        ];
        let cases: Vec<(String, &str)> = cases.into_iter().map(|(u, r)| (format!("{SQUARES} {u}"), r)).collect();
        let cases: Vec<(&str, &str)> = cases.iter().map(|(f, r)| (f.as_str(), *r)).collect();
        near_misses(&cases);
    }
}
