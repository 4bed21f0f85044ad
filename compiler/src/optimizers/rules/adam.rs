//! Adam, AdamW and AMSGrad: m' = β₁m + (1−β₁)g; v' = β₂v + (1−β₂)g²; θ' = (1−ηλ)θ − η·m̂/(√v̂ + ε).
//!
//! m̂ = m'/(1−β₁ᵗ), v̂ = v'/(1−β₂ᵗ); AMSGrad replaces v̂ by the largest v so far. Coupled decay (Adam with L2) adds λθ to
//! g. Sources: Kingma & Ba, arXiv 1412.6980; Loshchilov & Hutter, arXiv 1711.05101; Reddi et al., arXiv 1904.09237;
//! `torch.optim.AdamW`.

use crate::optimizers::behaviour::{Direction, EpsilonForm, Recurrence, close, decoupled_decay, recurrence};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    let moments = Moments::find(u)?;
    let Moments { first, second, largest, b1, b2, g1, g2, .. } = moments;
    moments.check_fresh(u)?;
    if !u.uses_next(first) {
        return fail(4, Some(u.theta_next()), "the parameter does not read the first moment");
    }
    // With g = 0, m' = β₁m and v' = β₂v, so any (m', v') can be chosen.
    let state = |m: f64, v: f64| {
        let mut states = vec![0.0; u.states];
        states[first] = m / b1;
        states[second] = v / b2;
        if let Some(k) = largest {
            states[k] = v;
        }
        states
    };
    let moved = |theta: f64, m: f64, v: f64, lr: f64, t: f64| u.at(theta, 0.0, &state(m, v), lr, t).0;
    let lr = if u.has_rate() { 0.1 } else { 1.0 };
    let mut direction = Direction::solve(u, |m, v, t| -moved(0.0, m, v, 0.1, t) / lr, b1, b2, 5)?;
    if direction.corrects_second && !direction.corrects_first {
        return fail(8, u.find(crate::optimizers::tape::Op::Pow), "only the second moment is corrected for its bias");
    }
    // At g = −λθ a coupled decay is silent, so that only a decoupled one shows.
    let decay = decoupled_decay(u, direction.scale, 9, |lr| u.at(1.0, -moments.pull, &state(0.0, 1.0), lr, 3.0).0)?;
    let coupled = moments.pull;
    if decay != 0.0 && coupled != 0.0 {
        return fail(9, Some(u.theta_next()), "weight decay enters twice: through the gradient and on the parameter");
    }
    let missing = direction.form == EpsilonForm::Missing;
    if missing {
        direction.epsilon = 0.0;
    }
    u.validate(&moments.positive(), 10, |p: &Point| {
        let eta = if u.has_rate() { p.lr } else { 1.0 };
        let mut next = Next { theta: Vec::new(), states: vec![Vec::new(); u.states] };
        for i in 0..p.theta.len() {
            let g = p.grad[i] + coupled * p.theta[i];
            let m = b1 * p.states[first][i] + g1 * g;
            let v = b2 * p.states[second][i] + g2 * g * g;
            let top = largest.map_or(v, |k| v.max(p.states[k][i]));
            next.states[first].push(m);
            next.states[second].push(v);
            if let Some(k) = largest {
                next.states[k].push(top);
            }
            let step = direction.at(m, top, b1, b2, p.t);
            next.theta.push(p.theta[i] * (1.0 - eta * direction.scale * decay) - eta * step);
        }
        next
    })?;
    let kind = match (largest, decay != 0.0) {
        (Some(_), _) => Kind::AmsGrad,
        (None, true) => Kind::AdamW,
        (None, false) => Kind::Adam,
    };
    Ok(Found {
        kind,
        settings: vec![
            ("beta1", b1),
            ("beta2", b2),
            ("epsilon", direction.epsilon),
            ("weight_decay", if decay != 0.0 { decay } else { coupled }),
            ("bias_correction", f64::from(u8::from(direction.corrects_first))),
        ],
        rate_scale: direction.scale,
        decoupled: decay != 0.0,
        epsilon_missing: missing,
        roles: moments.roles(u.states),
    })
}

/// The states of Adam's family.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Index of m.
    pub first: usize,
    /// Index of v.
    pub second: usize,
    /// Index of the largest v so far (AMSGrad).
    pub largest: Option<usize>,
    /// β₁.
    pub b1: f64,
    /// β₂.
    pub b2: f64,
    /// Share of the gradient in m (1 − β₁ up to float32 rounding of the constants).
    pub g1: f64,
    /// Share of the squared gradient in v.
    pub g2: f64,
    /// λ of a decay coupled into the gradient.
    pub pull: f64,
}

impl Moments {
    /// Tells the states apart by how they move.
    ///
    /// # Errors
    /// What is missing, or which decay does not fit its gain.
    pub fn find(u: &Update) -> Result<Self, Mismatch> {
        if !(2..=3).contains(&u.states) {
            return fail(0, None, "Adam keeps a first and a second moment");
        }
        let kinds: Vec<Recurrence> = (0..u.states).map(|i| recurrence(u, i)).collect();
        let Some(first) = kinds.iter().position(|k| matches!(k, Recurrence::Linear { .. })) else {
            return fail(1, None, "no state averages the gradient");
        };
        let Some(second) = kinds.iter().position(|k| matches!(k, Recurrence::Square { .. })) else {
            let other = (0..u.states).find(|i| *i != first).map(|i| u.state_next(i));
            return fail(2, other, "no state averages the squared gradient");
        };
        let largest = match u.states {
            2 => None,
            _ => match kinds.iter().position(|k| *k == Recurrence::MaxOf(second)) {
                Some(k) => Some(k),
                None => return fail(2, None, "the third state is not the largest second moment so far"),
            },
        };
        let (
            Recurrence::Linear { decay: b1, gain: g1, theta },
            Recurrence::Square { decay: b2, gain: g2, theta: pull },
        ) = (kinds[first], kinds[second])
        else {
            return fail(2, None, "Adam keeps a first and a second moment");
        };
        for (name, b, g, i) in [("first", b1, g1, first), ("second", b2, g2, second)] {
            if !(b > 0.0 && b < 1.0) {
                return fail(
                    3,
                    Some(u.state_next(i)),
                    format!("the {name} moment decays by {b}, not by a number between 0 and 1"),
                );
            }
            if (b + g - 1.0).abs() > 1e-6 {
                return fail(
                    3,
                    Some(u.state_next(i)),
                    format!(
                        "the {name} moment decays by {b:.6} but takes in {g:.6} of the gradient: they do not sum to 1"
                    ),
                );
            }
        }
        if !close(theta / g1, pull) && (theta / g1 - pull).abs() > 1e-5 {
            return fail(3, Some(u.state_next(first)), "weight decay enters one moment but not the other");
        }
        Ok(Moments { first, second, largest, b1, b2, g1, g2, pull })
    }

    /// # Errors
    /// When θ' reads a moment as it was before the update.
    pub fn check_fresh(&self, u: &Update) -> Result<(), Mismatch> {
        for (i, name) in [(self.first, "first"), (self.second, "second")] {
            if let (Some(slot), false) = (u.stale_reader(i), u.uses_next(i)) {
                return fail(4, Some(slot), format!("the parameter reads the {name} moment before its update"));
            }
        }
        Ok(())
    }

    /// States that accumulate squares.
    pub fn positive(&self) -> Vec<usize> {
        std::iter::once(self.second).chain(self.largest).collect()
    }

    /// Roles in the group's order.
    pub fn roles(&self, states: usize) -> Vec<StateRole> {
        let role = |i: usize| match i {
            _ if i == self.first => StateRole::FirstMoment,
            _ if i == self.second => StateRole::SecondMoment,
            _ => StateRole::MaxSecondMoment,
        };
        (0..states).map(role).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::optimizers::testing::{matched, near_misses, number};
    use crate::optimizers::{Kind, Setting};

    const MOMENTS: &str = "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g;";

    #[test]
    fn spellings() {
        for update in [
            "w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)",
            "w' = w - lr/(1 - 0.9^t)*m'/(sqrt(v')/sqrt(1 - 0.999^t) + 1e-8)",
            "w' = w + neg(lr)*((m'/(1 - exp(t*log(0.9))))/(sqrt(v'/(1 - exp(t*log(0.999)))) + 1e-8))",
            "s = t + 1; w' = w - lr*(m'/(1 - 0.9^s))/(sqrt(v'/(1 - 0.999^s)) + 1e-8)",
            "c = lr*sqrt(1 - 0.999^t)/(1 - 0.9^t); w' = w - c*m'/(sqrt(v') + 1e-8)",
            "w' = w - 0.001*(m'/(1 - 0.9^t))/((v'/(1 - 0.999^t))^0.5 + 1e-8)",
            "pow1' = pow1*0.9; pow2' = pow2*0.999; w' = w - lr*(m'/(1 - pow1'))/(sqrt(v'/(1 - pow2')) + 1e-8)",
            "pow1' = pow1*0.9; pow2' = pow2*0.999; w' = w - lr*(m'/(1 - pow1))/(sqrt(v'/(1 - pow2)) + 1e-8)",
        ] {
            let m = matched(&format!("{MOMENTS} {update}"));
            assert_eq!(
                (m.kind, number(&m, "beta1"), number(&m, "beta2"), number(&m, "epsilon")),
                (Kind::Adam, 0.9, 0.999, 1e-8),
                "{update}"
            );
        }
        for moments in [
            "m' = m + 0.1*(g - m); v' = v + 0.001*(g*g - v)",
            "m' = g*0.1 + m*0.9; v' = 0.001*g^2 + v*0.999",
            "m' = where(gt(0, 1), g, m) + (g - m)*0.1; v' = v*0.999 + (0.001*g)*g",
        ] {
            let m = matched(&format!(
                "{moments}; w' = w*(1 - lr*0.01) - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-6)"
            ));
            assert_eq!(
                (m.kind, number(&m, "weight_decay"), number(&m, "epsilon")),
                (Kind::AdamW, 0.01, 1e-6),
                "{moments}"
            );
            assert!(m.decoupled_weight_decay && m.step.is_some());
        }
    }

    #[test]
    fn coupled_decay_amsgrad_and_no_correction() {
        let m = matched(
            "d = g + 0.01*w; m' = 0.9*m + 0.1*d; v' = 0.999*v + 0.001*d*d; w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)",
        );
        assert_eq!((m.kind, number(&m, "weight_decay"), m.decoupled_weight_decay), (Kind::Adam, 0.01, false));
        let m = matched(&format!(
            "{MOMENTS} x' = max(x, v'); w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(x'/(1 - 0.999^t)) + 1e-8)"
        ));
        assert_eq!(m.kind, Kind::AmsGrad);
        let m = matched(&format!("{MOMENTS} w' = w - lr*m'/(sqrt(v') + 1e-8)"));
        assert_eq!((m.kind, number(&m, "bias_correction")), (Kind::Adam, 0.0));
        let m = matched(&format!("{MOMENTS} w' = w - lr*m'/sqrt(v')"));
        assert!(m.epsilon_missing);
    }

    #[test]
    fn hyperparameters_that_are_inputs() {
        let m = matched(&format!("{MOMENTS} w' = w*(1 - lr*wd) - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)"));
        assert!(matches!(m.settings["weight_decay"], Setting::Input(_)), "{:?}", m.settings);
        assert_eq!(number(&m, "beta1"), 0.9);
    }

    #[test]
    fn look_alikes() {
        let with = |update: &str| format!("{MOMENTS} {update}");
        let tail = "(sqrt(v'/(1 - 0.999^t)) + 1e-8)";
        let cases = [
            (with(&format!("w' = w + lr*(m'/(1 - 0.9^t))/{tail}")), "sign of the step is flipped"),
            (
                with("w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(v/(1 - 0.999^t)) + 1e-8)"),
                "reads the second moment before its update",
            ),
            (with(&format!("w' = w - lr*(m/(1 - 0.9^t))/{tail}")), "reads the first moment before its update"),
            (with("w' = w - lr*(m'/(1 - 0.9^t))/(v'/(1 - 0.999^t) + 1e-8)"), "not by its square root"),
            (with("w' = w - lr*(m'/(1 - 0.999^t))/(sqrt(v'/(1 - 0.9^t)) + 1e-8)"), "bias correction at the first step"),
            (
                with("w' = w - lr*(m'/(1 - 0.9^(t + 5)))/(sqrt(v'/(1 - 0.999^(t + 5))) + 1e-8)"),
                "bias correction at the first step",
            ),
            (with(&format!("w' = w*0.99 - lr*(m'/(1 - 0.9^t))/{tail}")), "not scaled by the learning rate"),
            (with(&format!("w' = w*(1 + lr*0.01) - lr*(m'/(1 - 0.9^t))/{tail}")), "wrong sign"),
            (
                format!("m' = 0.9*m + 0.2*g; v' = 0.999*v + 0.001*g*g; w' = w - lr*(m'/(1 - 0.9^t))/{tail}"),
                "do not sum to 1",
            ),
            (
                format!("m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*abs(g); w' = w - lr*(m'/(1 - 0.9^t))/{tail}"),
                "no state averages the squared gradient",
            ),
            (with(&format!("w' = w - lr*(m'/(1 - 0.9^t) + g)/{tail}")), "not as 1 − β₁ to β₁"),
        ];
        let cases: Vec<(&str, &str)> = cases.iter().map(|(f, r)| (f.as_str(), *r)).collect();
        near_misses(&cases);
    }
}
