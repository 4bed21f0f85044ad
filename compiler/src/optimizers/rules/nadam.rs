//! NAdam: Adam whose numerator looks one step ahead.
//!
//! Keras and Dozat: θ' = θ − η·(β₁m'/(1−β₁ᵗ⁺¹) + (1−β₁)g/(1−β₁ᵗ)) / (√v̂ + ε), constant β₁. optax (`nesterov=True`) is the same.
//! PyTorch's momentum-decay schedule (`torch.optim.NAdam` with `momentum_decay` ≠ 0) keeps a product of momenta as a state
//! of its own and is not recognised. Source: Dozat, ICLR 2016 workshop.

use super::adam::Moments;
use crate::optimizers::behaviour::{Direction, EpsilonForm, decoupled_decay, near};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind};

const HUGE: f64 = 1e16;

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    let moments = Moments::find(u)?;
    let Moments { first, second, largest: None, b1, b2, g1, g2, pull } = moments else {
        return fail(2, None, "NAdam keeps two moments");
    };
    moments.check_fresh(u)?;
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    // −Δθ/η for given m', v', g: linear in m' and g for a fixed v'.
    let moved = |m: f64, v: f64, g: f64, t: f64| {
        let mut states = vec![0.0; 2];
        states[first] = (m - g1 * g) / b1;
        states[second] = (v - g2 * g * g) / b2;
        -u.at(0.0, g, &states, 0.1, t).0 / lr
    };
    let late = 1e6;
    let along = moved(1.0, HUGE, 0.0, late) * HUGE.sqrt();
    let direct = moved(0.0, HUGE, 1.0, late) * HUGE.sqrt();
    if !(along > 0.0 && direct > 0.0) {
        return fail(5, Some(u.theta_next()), "the step is not a positive mixture of first moment and gradient");
    }
    let scale = along / b1;
    if !near(direct, scale * (1.0 - b1)) {
        return fail(
            11,
            Some(u.theta_next()),
            format!("gradient and first moment are mixed as {direct:.4} to {along:.4}, not as 1 − β₁ to β₁"),
        );
    }
    let c = |b: f64, t: f64| 1.0 - b.powf(t);
    for t in [1.0, 2.0, 7.0] {
        let m = moved(1.0, HUGE, 0.0, t) * HUGE.sqrt() / scale;
        let g = moved(0.0, HUGE, 1.0, t) * HUGE.sqrt() / scale;
        if !near(m, b1 / c(b1, t + 1.0) * c(b2, t).sqrt()) || !near(g, (1.0 - b1) / c(b1, t) * c(b2, t).sqrt()) {
            return fail(12, Some(u.theta_next()), "the look-ahead is not corrected for its bias as NAdam asks");
        }
    }
    let ahead = |t: f64| b1 / c(b1, t + 1.0);
    let mut direction = Direction::solve(u, |m, v, t| moved(m, v, 0.0, t) / ahead(t) / c(b1, t), b1, b2, 13)?;
    let missing = direction.form == EpsilonForm::Missing;
    direction.epsilon = if missing { 0.0 } else { direction.epsilon };
    let still = |lr: f64| {
        let mut states = vec![0.0; 2];
        states[second] = 1.0;
        u.at(1.0, -pull, &states, lr, 3.0).0
    };
    let decay = decoupled_decay(u, scale, 18, still)?;
    u.validate(&moments.positive(), 19, |p: &Point| {
        let eta = if u.has_rate() { p.lr } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); 2] };
        for i in 0..p.theta.len() {
            let g = p.grad[i] + pull * p.theta[i];
            let m = b1 * p.states[first][i] + g1 * g;
            let v = b2 * p.states[second][i] + g2 * g * g;
            next.states[first].push(m);
            next.states[second].push(v);
            let numerator = ahead(p.t) * m + (1.0 - b1) / c(b1, p.t) * g;
            // `at` divides by 1 − β₁ᵗ where it found that correction; here the numerator is corrected already.
            let step = direction.at(numerator * c(b1, p.t), v, b1, b2, p.t);
            next.theta.push(p.theta[i] * (1.0 - eta * scale * decay) - eta * step);
        }
        next
    })?;
    Ok(Found {
        kind: Kind::NAdam,
        settings: vec![
            ("beta1", b1),
            ("beta2", b2),
            ("epsilon", direction.epsilon),
            ("weight_decay", if decay != 0.0 { decay } else { pull }),
        ],
        rate_scale: scale,
        decoupled: decay != 0.0,
        epsilon_missing: missing,
        roles: moments.roles(2),
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    const MOMENTS: &str = "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g;";
    const TAIL: &str = "/(sqrt(v'/(1 - 0.999^t)) + 1e-8)";

    #[test]
    fn spellings() {
        for update in [
            format!("w' = w - lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t)){TAIL}"),
            format!("n = m'*(0.9/(1 - 0.9^(t + 1))) + g*(0.1/(1 - 0.9^t)); w' = w - lr*n{TAIL}"),
        ] {
            let m = matched(&format!("{MOMENTS} {update}"));
            assert_eq!(
                (m.kind, number(&m, "beta1"), number(&m, "beta2"), number(&m, "epsilon")),
                (Kind::NAdam, 0.9, 0.999, 1e-8),
                "{update}"
            );
        }
    }

    #[test]
    fn look_alikes() {
        let cases = [
            (
                format!("w' = w + lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t)){TAIL}"),
                "sign of the step is flipped",
            ),
            (format!("w' = w - lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.5*g/(1 - 0.9^t)){TAIL}"), "not as 1 − β₁ to β₁"),
            (format!("w' = w - lr*(0.9*m'/(1 - 0.9^t) + 0.1*g/(1 - 0.9^t)){TAIL}"), "look-ahead is not corrected"),
            (format!("w' = w - lr*(0.9*m/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t)){TAIL}"), "before its update"),
            (
                "w' = w - lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t))/(v'/(1 - 0.999^t) + 1e-8)".into(),
                "look-ahead is not corrected",
            ),
            (
                format!("w' = w*0.9 - lr*(0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t)){TAIL}"),
                "not scaled by the learning rate",
            ),
        ];
        let cases: Vec<(String, &str)> = cases.into_iter().map(|(u, r)| (format!("{MOMENTS} {u}"), r)).collect();
        let cases: Vec<(&str, &str)> = cases.iter().map(|(f, r)| (f.as_str(), *r)).collect();
        near_misses(&cases);
    }
}
