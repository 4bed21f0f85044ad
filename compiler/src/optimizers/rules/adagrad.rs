//! Adagrad: h' = h + g²; θ' = θ − η/(1 + (t−1)·lr_decay) · g/(√h' + ε).
//!
//! Weight decay, where there is one, is coupled: g + λθ. Sources: Duchi et al., JMLR 2011; `torch.optim.Adagrad`.

use crate::optimizers::behaviour::{Recurrence, close, near, recurrence};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 1 {
        return fail(0, None, "Adagrad keeps one state");
    }
    let Recurrence::Square { decay, gain, theta: pull } = recurrence(u, 0) else {
        return fail(0, Some(u.state_next(0)), "the state does not gather squared gradients");
    };
    if !close(decay, 1.0) || !close(gain, 1.0) {
        let depth = u32::from(close(decay, 1.0));
        return fail(
            depth,
            Some(u.state_next(0)),
            format!("the state is {decay:.4}·h + {gain:.4}·g², not the plain sum of squares"),
        );
    }
    if let (Some(slot), false) = (u.stale_reader(0), u.uses_next(0)) {
        return fail(2, Some(slot), "the parameter reads the sum of squares before its update");
    }
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let step = |g: f64, h: f64, t: f64| -u.at(0.0, g, &[h - g * g], 0.1, t).0 / lr;
    let scale = step(1.0, 1e16, 1.0) * 1e8;
    if !(scale > 0.0) {
        return fail(3, Some(u.theta_next()), "the step is not along the gradient, or its sign is flipped");
    }
    if !near(step(1.0, 4e16, 1.0) * 2e8, scale) {
        return fail(4, Some(u.theta_next()), "the step does not shrink with the square root of the sum of squares");
    }
    let slow = |t: f64| scale / (step(1.0, 1e16, t) * 1e8);
    let lr_decay = slow(2.0) - 1.0;
    if !near(slow(11.0), 1.0 + 10.0 * lr_decay) {
        return fail(5, Some(u.theta_next()), "the learning rate decays over steps in a way that is not Adagrad's");
    }
    let lr_decay = if lr_decay.abs() < 1e-7 { 0.0 } else { lr_decay };
    // With h' = g² exactly, −Δθ/η = g/(g + ε) for the outside form.
    let tiny = 1e-30;
    let epsilon = scale * tiny / step(tiny, 0.0, 1.0);
    let missing = !(epsilon.is_finite() && epsilon > 1e-20);
    let epsilon = if missing { 0.0 } else { epsilon };
    let outside = missing || near(step(1e-3 * epsilon, epsilon * epsilon, 1.0), scale * 1e-3 / 2.0);
    u.validate(&[0], 6, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 } / (1.0 + (p.t - 1.0) * lr_decay);
        let lanes = || p.theta.iter().zip(&p.grad).zip(&p.states[0]).map(|((x, g), h)| (x, g + pull * x, h));
        Next {
            theta: lanes()
                .map(|(x, g, h)| {
                    let h = h + g * g;
                    x - eta * g / if outside { h.sqrt() + epsilon } else { (h + epsilon * epsilon).sqrt() }
                })
                .collect(),
            states: vec![lanes().map(|(_, g, h)| h + g * g).collect()],
        }
    })?;
    Ok(Found {
        kind: Kind::Adagrad,
        settings: vec![
            ("epsilon", if outside { epsilon } else { epsilon * epsilon }),
            ("lr_decay", lr_decay),
            ("weight_decay", pull),
        ],
        rate_scale: scale,
        decoupled: false,
        epsilon_missing: missing,
        roles: vec![StateRole::SecondMoment],
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    #[test]
    fn spellings() {
        for (formulas, slow, decay) in [
            ("h' = h + g*g; w' = w - lr*g/(sqrt(h') + 1e-6)", 0.0, 0.0),
            ("h' = g^2 + h; w' = w - lr*(g/(h'^0.5 + 1e-6))", 0.0, 0.0),
            ("h' = h + g*g; w' = w - lr/(1 + (t - 1)*0.01)*g/(sqrt(h') + 1e-6)", 0.01, 0.0),
            ("d = g + 0.1*w; h' = h + d*d; w' = w - lr*d/(sqrt(h') + 1e-6)", 0.0, 0.1),
        ] {
            let m = matched(formulas);
            let found = (m.kind, number(&m, "lr_decay"), number(&m, "weight_decay"), number(&m, "epsilon"));
            assert_eq!((found.0, found.2), (Kind::Adagrad, decay), "{formulas}");
            assert!((found.1 - slow).abs() < 1e-6 && (found.3 - 1e-6).abs() < 1e-10, "{formulas} {found:?}");
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("h' = h + g*g; w' = w + lr*g/(sqrt(h') + 1e-6)", "flipped"),
            ("h' = h + g*g; w' = w - lr*g/(sqrt(h) + 1e-6)", "before its update"),
            ("h' = h + g*g; w' = w - lr*g/(h' + 1e-6)", "square root of the sum of squares"),
            ("h' = h + 2*g*g; w' = w - lr*g/(sqrt(h') + 1e-6)", "not the plain sum"),
            ("h' = h + abs(g); w' = w - lr*g/(sqrt(h') + 1e-6)", "none of the optimizers"),
            ("h' = h + g*g; w' = w*0.9 - lr*g/(sqrt(h') + 1e-6)", "differs from the formula"),
        ]);
    }
}
