//! Momentum and Nesterov momentum, in the conventions of PyTorch and TensorFlow.
//!
//! PyTorch (`torch.optim.SGD`): b' = μb + (1−d)(g + λθ); θ' = θ − ηb', or with Nesterov θ' = θ − η(g + λθ + μb').
//! TensorFlow/Keras: v' = μv − ηg; θ' = θ + v', or with Nesterov θ' = θ + μv' − ηg.

use crate::optimizers::behaviour::{Recurrence, close, near, recurrence};
use crate::optimizers::update::{Mismatch, Next, Point, Update, fail};
use crate::optimizers::{Found, Kind, StateRole};

pub fn check(u: &Update) -> Result<Found, Mismatch> {
    if u.states != 1 {
        return fail(0, None, "momentum keeps one state");
    }
    let Recurrence::Linear { decay, gain, theta: pull } = recurrence(u, 0) else {
        return fail(0, Some(u.state_next(0)), "the state is not a running sum of gradients");
    };
    if !(decay > 0.0 && decay < 1.0) {
        return fail(
            1,
            Some(u.state_next(0)),
            format!("the velocity is multiplied by {decay}, not by a number between 0 and 1"),
        );
    }
    if let Some(slot) = u.stale_reader(0)
        && !u.uses_next(0)
    {
        return fail(2, Some(slot), "the parameter reads the velocity before its update");
    }
    const LR: f64 = 0.05;
    let lr = if u.has_rate() { LR } else { 1.0 };
    let next = |theta: f64, g: f64, s: f64| u.at(theta, g, &[s], LR, 2.0).0;
    // θ' = keep·θ + along·b' + direct·g, by substituting b = (b' − gain·g − pull·θ)/decay.
    let along = next(0.0, 0.0, 1.0) / decay;
    let direct = next(0.0, 1.0, 0.0) - along * gain;
    let keep = next(1.0, 0.0, 0.0) - along * pull;
    let linear = |theta: f64, g: f64, s: f64| keep * theta + along * (decay * s + gain * g + pull * theta) + direct * g;
    if !near(next(0.7, -1.3, 0.4), linear(0.7, -1.3, 0.4)) {
        return fail(2, Some(u.theta_next()), "the parameter does not move in proportion to the velocity");
    }
    let absent = |x: f64| x.abs() < 1e-7 * (along.abs() * gain.abs() + lr * 1e-3);
    if absent(along) {
        return fail(3, Some(u.theta_next()), "the parameter moves by the gradient, not by the velocity");
    }
    // TensorFlow's velocity already holds −η.
    let tensorflow = gain < 0.0 && (near(along, 1.0) || near(along, decay));
    let (scale, nesterov) = if tensorflow {
        let scale = -gain / lr;
        if near(along, 1.0) && absent(direct) {
            (scale, false)
        } else if near(along, decay) && near(direct, gain) {
            (scale, true)
        } else {
            return fail(
                4,
                Some(u.theta_next()),
                "the look-ahead is neither TensorFlow's momentum nor its Nesterov form",
            );
        }
    } else if along > 0.0 || gain < 0.0 {
        return fail(3, Some(u.theta_next()), "the velocity is added, not subtracted: the sign of the step is flipped");
    } else if absent(direct) {
        (-along / lr, false)
    } else if near(along, direct * decay) {
        (-direct / lr, true)
    } else {
        return fail(
            4,
            Some(u.theta_next()),
            "gradient and velocity are mixed in proportions that are not Nesterov's (1 and the momentum)",
        );
    };
    let decay_of_weights = pull / gain;
    let eta = scale * lr;
    let coupled = if nesterov && !tensorflow { 1.0 - eta * decay_of_weights } else { 1.0 };
    let decoupled = (coupled - keep) / eta;
    if decay_of_weights < -1e-9 {
        return fail(5, Some(u.state_next(0)), "weight decay has the wrong sign");
    }
    let is_decoupled = decoupled.abs() > 1e-6;
    if is_decoupled && (decay_of_weights.abs() > 1e-9 || decoupled < 0.0) {
        return fail(5, Some(u.theta_next()), "the parameter is scaled in a way that is not weight decay");
    }
    let wd = if is_decoupled { decoupled } else { decay_of_weights };
    let damp = if tensorflow { 1.0 } else { gain };
    u.validate(&[], 6, |p: &Point| {
        let eta = scale * if u.has_rate() { p.lr } else { 1.0 };
        let lanes = || p.theta.iter().zip(&p.grad).zip(&p.states[0]);
        let g = |x: f64, g: f64| if is_decoupled { g } else { g + wd * x };
        let velocity = |((x, gr), s): ((&f64, &f64), &f64)| {
            if tensorflow { decay * s - eta * g(*x, *gr) } else { decay * s + damp * g(*x, *gr) }
        };
        let shrink = if is_decoupled { 1.0 - eta * wd } else { 1.0 };
        let theta = lanes().map(|((x, gr), s)| {
            let v = velocity(((x, gr), s));
            shrink * x
                + match (tensorflow, nesterov) {
                    (false, false) => -eta * v,
                    (false, true) => -eta * (g(*x, *gr) + decay * v),
                    (true, false) => v,
                    (true, true) => decay * v - eta * g(*x, *gr),
                }
        });
        Next { theta: theta.collect(), states: vec![lanes().map(velocity).collect()] }
    })?;
    let dampening = if tensorflow || close(gain, 1.0) { 0.0 } else { 1.0 - gain };
    Ok(Found {
        kind: if nesterov { Kind::Nesterov } else { Kind::Momentum },
        settings: vec![("momentum", decay), ("dampening", dampening), ("weight_decay", wd)],
        rate_scale: scale,
        decoupled: is_decoupled,
        epsilon_missing: false,
        roles: vec![StateRole::Velocity],
    })
}

#[cfg(test)]
mod tests {
    use crate::optimizers::Kind;
    use crate::optimizers::testing::{matched, near_misses, number};

    #[test]
    fn spellings() {
        use Kind::{Momentum, Nesterov};
        for (formulas, kind, dampening, decay) in [
            ("b' = 0.9*b + g; w' = w - lr*b'", Momentum, 0.0, 0.0),
            ("b' = g + b*0.9; w' = w + neg(lr*b')", Momentum, 0.0, 0.0),
            ("b' = 0.9*b + 0.5*g; w' = w - b'*lr", Momentum, 0.5, 0.0),
            ("b' = 0.9*b + (g + 0.01*w); w' = w - lr*b'", Momentum, 0.0, 0.01),
            ("b' = 0.9*b + g; w' = w*(1 - lr*0.01) - lr*b'", Momentum, 0.0, 0.01),
            ("b' = 0.9*b + g; w' = w - lr*(g + 0.9*b')", Nesterov, 0.0, 0.0),
            ("d = g + 0.01*w; b' = 0.9*b + d; w' = w - lr*(d + 0.9*b')", Nesterov, 0.0, 0.01),
            ("b' = 0.9*b - lr*g; w' = w + b'", Momentum, 0.0, 0.0),
            ("b' = 0.9*b - lr*g; w' = w + 0.9*b' - lr*g", Nesterov, 0.0, 0.0),
            ("b' = 0.9*b + g; w' = w - 0.1*b'", Momentum, 0.0, 0.0),
        ] {
            let m = matched(formulas);
            let found = (m.kind, number(&m, "momentum"), number(&m, "dampening"), number(&m, "weight_decay"));
            assert_eq!(found, (kind, 0.9, dampening, decay), "{formulas}");
        }
    }

    #[test]
    fn look_alikes() {
        near_misses(&[
            ("b' = 0.9*b + g; w' = w + lr*b'", "sign of the step is flipped"),
            ("b' = 0.9*b + g; w' = w - lr*b", "reads the velocity before its update"),
            ("b' = 1.1*b + g; w' = w - lr*b'", "not by a number between 0 and 1"),
            ("b' = 0.9*b + g; w' = w - lr*(b' + 0.5*g)", "proportions that are not Nesterov's"),
            ("b' = 0.9*b + g; w' = w - lr*b'*b'", "not move in proportion to the velocity"),
            ("b' = 0.9*b + g*g*g; w' = w - lr*b'", "none of the optimizers"),
            ("b' = 0.9*b + (g - 0.01*w); w' = w - lr*b'", "weight decay has the wrong sign"),
        ]);
    }
}
