//! LAMB: r = m̂/(√v̂ + ε) + λθ; θ' = θ − η·(‖θ‖/‖r‖)·r, the ratio being 1 where a norm is 0.
//!
//! Source: You et al., arXiv 1904.00962, algorithm 2 with φ the identity.

use super::adam::Moments;
use crate::optimizers::behaviour::{EpsilonForm, close};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    let moments = Moments::find(u)?;
    let Moments { first, second, largest: None, b1, b2, g1, g2, pull: 0.0 } = moments else {
        return fail(2, None, "LAMB keeps two moments of the plain gradient");
    };
    if !u
        .region
        .tape
        .entries
        .iter()
        .any(|e| matches!(e, crate::optimizers::tape::Entry::Apply { op, .. } if op.is_reduction()))
    {
        return fail(0, None, "LAMB scales its step by the ratio of two norms");
    }
    moments.check_fresh(u)?;
    // One lane moves along a chosen direction; the second lane only carries weight decay, whose share gives λ.
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let point = |theta: [f64; 2], m: [f64; 2], v: f64, t: f64| {
        let mut states = vec![vec![0.0; 2]; 2];
        states[first] = m.iter().map(|m| m / b1).collect();
        states[second] = vec![v / b2; 2];
        let next = u.step(&Point { theta: theta.into(), grad: vec![0.0; 2], states, lr: 0.1, t });
        [(theta[0] - next.theta[0]) / lr, (theta[1] - next.theta[1]) / lr]
    };
    let [x, y] = point([3.0, 4.0], [1.0, 0.0], 1e-2, 1e6);
    let scale = x.hypot(y) / 5.0;
    if !(scale.is_finite() && scale > 0.0) || x < 0.0 {
        return fail(11, Some(u.theta_next()), "the step does not have the parameter's norm, or its sign is flipped");
    }
    let [x2, y2] = point([6.0, 8.0], [1.0, 0.0], 1e-2, 1e6);
    if !close(x2.hypot(y2), 2.0 * x.hypot(y)) {
        return fail(12, Some(u.theta_next()), "the step does not grow in proportion to the parameter's norm");
    }
    // r = (d + 3λ, 4λ) with d = 1/(0.1 + ε); the step is along r.
    let along = |v: f64, t: f64| {
        let [x, y] = point([0.0, 1.0], [1.0, 0.0], v, t);
        x / y
    };
    // With v = 10⁴: x/y = 1/((100 + ε)·λ); two values of v give ε and λ. Without decay y is 0.
    let decays = point([0.0, 1.0], [1.0, 0.0], 1e4, 1e6)[1].abs() > 1e-12;
    let (decay, epsilon, corrected, form) = if decays {
        let (a, b) = (1.0 / along(1e4, 1e6), 1.0 / along(1e-12, 1e6));
        // a = (100 + ε)λ, b = (1e-6 + ε)λ.
        let decay = (a - b) / (100.0 - 1e-6);
        let epsilon = b / decay - 1e-6;
        let early = 1.0 / along(1e4, 1.0) / decay;
        let bare = 100.0 + epsilon;
        let both = (100.0 / (1.0 - b2).sqrt() + epsilon) * (1.0 - b1);
        let corrected = (early - both).abs() < 1e-3 * both;
        if !corrected && (early - bare).abs() > 1e-3 * bare {
            return fail(13, Some(u.theta_next()), "the bias correction does not fit the moments' decays");
        }
        (decay, epsilon.max(0.0), corrected, EpsilonForm::Outside)
    } else {
        // The direction's length cancels in the ratio: compare two lanes with different second moments instead.
        let pair = |v: [f64; 2], t: f64| {
            let mut states = vec![vec![0.0; 2]; 2];
            states[first] = vec![1.0 / b1; 2];
            states[second] = v.iter().map(|v| v / b2).collect();
            let next = u.step(&Point { theta: vec![1.0, 1.0], grad: vec![0.0; 2], states, lr: 0.1, t });
            (1.0 - next.theta[0]) / (1.0 - next.theta[1])
        };
        // (√v₁ + ε)/(√v₀ + ε) with v₀ = 0 and √v₁ = 1.
        let epsilon = 1.0 / (pair([0.0, 1.0], 1e6) - 1.0);
        let missing = !epsilon.is_finite() || epsilon <= 0.0;
        let epsilon = if missing { 0.0 } else { epsilon };
        let early = if missing { 0.0 } else { 1.0 / (pair([0.0, 1.0], 1.0) - 1.0) };
        let corrected = missing || (early - epsilon * (1.0 - b2).sqrt()).abs() < 1e-3 * early;
        (0.0, epsilon, corrected, if missing { EpsilonForm::Missing } else { EpsilonForm::Outside })
    };
    u.validate(&moments.positive(), 14, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 };
        let c = |b: f64| if corrected { 1.0 - b.powf(p.t) } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); 2] };
        let mut r = Vec::new();
        for i in 0..p.theta.len() {
            let m = b1 * p.states[first][i] + g1 * p.grad[i];
            let v = b2 * p.states[second][i] + g2 * p.grad[i] * p.grad[i];
            next.states[first].push(m);
            next.states[second].push(v);
            r.push(m / c(b1) / ((v / c(b2)).sqrt() + epsilon) + decay * p.theta[i]);
        }
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (w, s) = (norm(&p.theta), norm(&r));
        let trust = if w > 0.0 && s > 0.0 { w / s } else { 1.0 };
        next.theta = p.theta.iter().zip(&r).map(|(x, r)| x - eta * trust * r).collect();
        next
    })?;
    Ok(Found {
        kind: Kind::Lamb,
        settings: vec![
            ("beta1", b1),
            ("beta2", b2),
            ("epsilon", epsilon),
            ("weight_decay", decay),
            ("bias_correction", f64::from(u8::from(corrected))),
        ],
        rate_scale: scale,
        decoupled: true,
        epsilon_missing: form == EpsilonForm::Missing,
        roles: moments.roles(2),
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    const MOMENTS: &str = "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g;";
    const DIRECTION: &str = "r = (m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-6) + 0.01*w;";

    #[test]
    fn spellings() {
        for (formulas, decay) in [
            (format!("{MOMENTS} {DIRECTION} w' = w - lr*(norm(w)/norm(r))*r"), 0.01),
            (
                format!(
                    "{MOMENTS} {DIRECTION} k = where(gt(norm(w), 0), where(gt(norm(r), 0), norm(w)/norm(r), 1), 1); w' = w - r*(lr*k)"
                ),
                0.01,
            ),
            (format!("{MOMENTS} r = m'/(sqrt(v') + 1e-6) + 0.01*w; w' = w - lr*norm(w)*r/norm(r)"), 0.01),
            (format!("{MOMENTS} {DIRECTION} w' = w - lr*sqrt(sum(w*w))/sqrt(sum(r*r))*r"), 0.01),
        ] {
            let m = matched(&formulas);
            assert_eq!((m.kind, number(&m, "beta1"), number(&m, "beta2")), (Kind::Lamb, 0.9, 0.999), "{formulas}");
            assert!(
                (number(&m, "weight_decay") - decay).abs() < 1e-5 && (number(&m, "epsilon") / 1e-6 - 1.0).abs() < 0.05,
                "{formulas} {m:?}"
            );
        }
    }

    #[test]
    fn look_alikes() {
        let cases = [
            (format!("{MOMENTS} {DIRECTION} w' = w + lr*(norm(w)/norm(r))*r"), "flipped"),
            (format!("{MOMENTS} {DIRECTION} w' = w - lr*(norm(r)/norm(w))*r"), "in proportion to the parameter's norm"),
            (
                format!("{MOMENTS} {DIRECTION} w' = w - lr*(norm(w)*norm(w)/norm(r))*r"),
                "in proportion to the parameter's norm",
            ),
            (
                format!(
                    "{MOMENTS} r = (m'/(1 - 0.9^t))/(sqrt(v/(1 - 0.999^t)) + 1e-6) + 0.01*w; w' = w - lr*(norm(w)/norm(r))*r"
                ),
                "before its update",
            ),
            (
                format!(
                    "{MOMENTS} r = (m'/(1 - 0.5^t))/(sqrt(v'/(1 - 0.9^t)) + 1e-6) + 0.01*w; w' = w - lr*(norm(w)/norm(r))*r"
                ),
                "differs from the formula",
            ),
            (format!("{MOMENTS} {DIRECTION} w' = w - lr*(norm(w)/norm(g))*r"), "does not have the parameter's norm"),
        ];
        let cases: Vec<(&str, &str)> = cases.iter().map(|(f, r)| (f.as_str(), *r)).collect();
        near_misses(&cases);
    }
}
