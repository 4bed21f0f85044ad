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
