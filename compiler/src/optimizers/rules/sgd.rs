//! Stochastic gradient descent: θ' = θ − η(g + λθ).
//!
//! Coupled and decoupled weight decay are the same thing here. Source: `torch.optim.SGD` with `momentum=0`.

use crate::optimizers::behaviour::{close, decoupled_decay};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 0 {
        return fail(0, None, "SGD keeps no state");
    }
    let at = |theta: f64, g: f64, lr: f64| u.at(theta, g, &[], lr, 2.0).0;
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let scale = -at(0.0, 1.0, 0.1) / lr;
    if !close(at(0.0, 3.0, 0.1), -3.0 * scale * lr) || !close(at(0.0, -1.0, 0.1), scale * lr) {
        return fail(1, Some(u.theta_next()), "the parameter does not move in proportion to its gradient");
    }
    if !(scale > 0.0) {
        return fail(2, Some(u.theta_next()), "the gradient is added, not subtracted: the sign of the step is flipped");
    }
    let decay = decoupled_decay(u, scale, 3, |lr| at(1.0, 0.0, lr))?;
    let eta = |p: &Point| scale * if u.has_rate() { p.lr } else { 1.0 };
    u.validate(&[], 4, |p| Next {
        theta: p.theta.iter().zip(&p.grad).map(|(x, g)| x - eta(p) * (g + decay * x)).collect(),
        states: Vec::new(),
    })?;
    Ok(Found {
        kind: Kind::Sgd,
        settings: vec![("weight_decay", decay)],
        rate_scale: scale,
        decoupled: false,
        epsilon_missing: false,
        roles: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::testing::{matched, near_misses, number};
    use crate::optimizers::{Kind, Rate};

    #[test]
    fn spellings() {
        for (formulas, decay, rate) in [
            ("w' = w - lr*g", 0.0, 1.0),
            ("w' = neg(g)*lr + w", 0.0, 1.0),
            ("w' = w - 0.01*g", 0.0, 0.01),
            ("w' = w + g*neg(lr)", 0.0, 1.0),
            ("w' = w - lr*(g + 0.0005*w)", 5e-4, 1.0),
            ("w' = w*(1 - lr*0.1) - g*lr", 0.1, 1.0),
            ("s = 2*lr; w' = w - g*s", 0.0, 2.0),
        ] {
            let m = matched(formulas);
            assert_eq!(
                (m.kind, number(&m, "weight_decay"), m.learning_rate.scale),
                (Kind::Sgd, decay, rate),
                "{formulas}"
            );
            assert_eq!(m.learning_rate.value.is_some(), formulas.contains("lr"), "{formulas}");
        }
    }

    #[test]
    fn clipping_stays_in_front() {
        for clipped in
            ["max(min(g, 1), neg(1))", "g*min(1, 1/(norm(g) + 1e-6))", "g*where(gt(norm(g), 1), 1/norm(g), 1)"]
        {
            let m = matched(&format!("c = {clipped}; w' = w - lr*c"));
            assert_eq!(
                (m.kind, m.learning_rate),
                (Kind::Sgd, Rate { value: m.learning_rate.value, scale: 1.0 }),
                "{clipped}"
            );
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("w' = w + lr*g", "sign of the step is flipped"),
            ("w' = w - lr*g*g", "not move in proportion"),
            ("w' = w - lr*sign(g)", "not move in proportion"),
            ("w' = w - lr*abs(g)", "not move in proportion"),
            ("w' = w*0.99 - lr*g", "weight decay is not scaled by the learning rate"),
            ("w' = w*(1 + lr*0.1) - lr*g", "wrong sign"),
            ("w' = w*w - lr*g", "differs from the formula"),
        ]);
    }
}
