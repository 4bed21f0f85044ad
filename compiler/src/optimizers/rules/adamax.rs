//! Adamax: m' = β₁m + (1−β₁)g; u' = max(β₂u, |g| + ε); θ' = θ − η/(1−β₁ᵗ) · m'/u'.
//!
//! PyTorch puts ε inside the maximum, the paper and Keras beside the division (m'/(u' + ε)). Sources: Kingma & Ba,
//! arXiv 1412.6980, section 7.1; `torch.optim.Adamax`.

use crate::optimizers::behaviour::{Recurrence, decoupled_decay, near, recurrence};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 2 {
        return fail(0, None, "Adamax keeps a first moment and an infinity norm");
    }
    let linear = |i: usize| match recurrence(u, i) {
        Recurrence::Linear { decay, gain, theta: 0.0 } => Some((decay, gain)),
        _ => None,
    };
    let Some((first, (b1, g1))) = (0..2).find_map(|i| Some((i, linear(i)?))) else {
        return fail(1, None, "no state averages the gradient");
    };
    let norm = 1 - first;
    let Recurrence::AbsMax { decay: b2 } = recurrence(u, norm) else {
        return fail(2, Some(u.state_next(norm)), "the second state is not the larger of its decayed self and |g|");
    };
    if !(b1 > 0.0 && b1 < 1.0 && b2 > 0.0 && b2 < 1.0) || (b1 + g1 - 1.0).abs() > 1e-6 {
        return fail(
            3,
            Some(u.state_next(first)),
            "the decays are not between 0 and 1, or do not sum to 1 with their gains",
        );
    }
    for i in 0..2 {
        if let (Some(slot), false) = (u.stale_reader(i), u.uses_next(i)) {
            return fail(4, Some(slot), "the parameter reads a state before its update");
        }
    }
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let states = |m: f64, n: f64| {
        let mut states = vec![0.0; 2];
        states[first] = m / b1;
        states[norm] = n / b2;
        states
    };
    let step = |m: f64, n: f64, t: f64| -u.at(0.0, 0.0, &states(m, n), 0.1, t).0 / lr;
    let scale = step(1.0, 1e8, 1e6) * 1e8;
    if !(scale > 0.0) {
        return fail(5, Some(u.theta_next()), "the step is not along the first moment, or its sign is flipped");
    }
    if !near(step(1.0, 2e8, 1e6) * 2e8, scale) {
        return fail(6, Some(u.theta_next()), "the step does not shrink in proportion to the infinity norm");
    }
    let corrected = near(step(1.0, 1e8, 1.0) * 1e8 / scale, 1.0 / (1.0 - b1));
    if !corrected && !near(step(1.0, 1e8, 1.0) * 1e8, scale) {
        return fail(7, Some(u.theta_next()), "the bias correction does not fit the first moment's decay");
    }
    // ε of PyTorch shows in the state, ε of the paper in the division.
    let inside = u.at(0.0, 0.0, &[0.0, 0.0], 0.1, 1e6).1[norm];
    let beside = if inside > 0.0 { 0.0 } else { scale / step(1.0, 0.0, 1e6) };
    let missing = inside == 0.0 && !(beside > 0.0);
    let beside = if beside.is_finite() { beside } else { 0.0 };
    let decay = decoupled_decay(u, scale, 8, |lr| u.at(1.0, 0.0, &states(0.0, 1.0), lr, 3.0).0)?;
    u.validate(&[norm], 9, |p: &Point| {
        let eta = if u.has_rate() { p.lr } else { 1.0 } * scale;
        let c1 = if corrected { 1.0 - b1.powf(p.t) } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); 2] };
        for i in 0..p.theta.len() {
            let m = b1 * p.states[first][i] + g1 * p.grad[i];
            let n = (b2 * p.states[norm][i]).max(p.grad[i].abs() + inside);
            next.states[first].push(m);
            next.states[norm].push(n);
            next.theta.push(p.theta[i] * (1.0 - eta * decay) - eta / c1 * m / (n + beside));
        }
        next
    })?;
    let mut roles = vec![StateRole::FirstMoment; 2];
    roles[norm] = StateRole::InfinityNorm;
    Ok(Found {
        kind: Kind::Adamax,
        settings: vec![("beta1", b1), ("beta2", b2), ("epsilon", inside + beside), ("weight_decay", decay)],
        rate_scale: scale,
        decoupled: decay != 0.0,
        epsilon_missing: missing,
        roles,
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    #[test]
    fn spellings() {
        for formulas in [
            "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g) + 1e-8); w' = w - lr/(1 - 0.9^t)*m'/u'",
            "m' = m + 0.1*(g - m); u' = max(abs(g), u*0.999); w' = w - lr*(m'/(1 - 0.9^t))/(u' + 1e-8)",
        ] {
            let m = matched(formulas);
            assert_eq!((m.kind, number(&m, "beta1"), number(&m, "beta2")), (Kind::Adamax, 0.9, 0.999), "{formulas}");
            assert!((number(&m, "epsilon") - 1e-8).abs() < 1e-10);
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g)); w' = w + lr/(1 - 0.9^t)*m'/(u' + 1e-8)", "flipped"),
            (
                "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g)); w' = w - lr/(1 - 0.9^t)*m'/(u + 1e-8)",
                "before its update",
            ),
            (
                "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g)); w' = w - lr/(1 - 0.9^t)*m'/(sqrt(u') + 1e-8)",
                "in proportion to the infinity norm",
            ),
            (
                "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g)); w' = w - lr*(m'/(1 - 0.5^t))/(u' + 1e-8)",
                "bias correction",
            ),
            (
                "m' = 0.9*m + 0.3*g; u' = max(0.999*u, abs(g)); w' = w - lr/(1 - 0.9^t)*m'/(u' + 1e-8)",
                "do not sum to 1",
            ),
            (
                "m' = 0.9*m + 0.1*g; u' = min(0.999*u, abs(g)); w' = w - lr/(1 - 0.9^t)*m'/(u' + 1e-8)",
                "no state averages",
            ),
        ]);
    }
}
