//! How a state moves, found by asking the update: the vocabulary rules are written in.

use super::tape::{Leaf, Op};
use super::update::{Mismatch, Update, fail};

/// How a state's next value depends on what the update reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recurrence {
    /// s' = decay·s + gain·g + theta·θ.
    Linear { decay: f64, gain: f64, theta: f64 },
    /// s' = decay·s + gain·(g + theta·θ)².
    Square { decay: f64, gain: f64, theta: f64 },
    /// s' = max(decay·s, |g|).
    AbsMax { decay: f64 },
    /// s' = max(s, s_j').
    MaxOf(usize),
    /// Anything else.
    Other,
}

const T: f64 = 3.0;
const LR: f64 = 0.05;

/// True when two numbers agree to float32 constants' precision.
pub fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 3e-6 * a.abs().max(b.abs()) + 1e-12
}

/// True when two numbers agree to 1e-4: bias corrections computed from float32 constants.
pub fn near(a: f64, b: f64) -> bool {
    a.is_finite() && b.is_finite() && (a - b).abs() <= 1e-4 * a.abs().max(b.abs())
}

/// Classifies state `i`.
pub fn recurrence(u: &Update, i: usize) -> Recurrence {
    let value = |theta: f64, g: f64, s: f64, rest: f64| {
        let mut states = vec![rest; u.states];
        states[i] = s;
        u.at(theta, g, &states, LR, T).1[i]
    };
    let alone = (0..u.states).filter(|j| *j != i).all(|j| !u.reads(u.state_next(i), Leaf::State(j)));
    if alone {
        let (decay, gain, theta) = (value(0., 0., 1., 0.3), value(0., 1., 0., 0.3), value(1., 0., 0., 0.3));
        if close(value(0.7, -1.3, 0.4, 0.3), decay * 0.4 - gain * 1.3 + theta * 0.7) && gain != 0.0 {
            return Recurrence::Linear { decay, gain, theta };
        }
        // θ enters a squared gradient only by coupled weight decay: (g + λθ)².
        let lambda = if theta > 0.0 && gain > 0.0 { (theta / gain).sqrt() } else { 0.0 };
        let square = |t: f64, g: f64, s: f64| decay * s + gain * (g + lambda * t).powi(2);
        if close(value(0.7, -1.3, 0.4, 0.3), square(0.7, -1.3, 0.4))
            && close(value(0., 3., 0., 0.3), 9.0 * gain)
            && gain > 0.0
        {
            return Recurrence::Square { decay, gain, theta: lambda };
        }
        let max = |g: f64, s: f64| f64::max(decay * s, g.abs());
        if [(0.2, 3.0), (-2.0, 0.3), (1.1, 1.0)]
            .iter()
            .all(|(g, s)| close_to(value(0.3, *g, *s, 0.3), max(*g, *s), 1e-4))
        {
            return Recurrence::AbsMax { decay };
        }
    }
    for j in (0..u.states).filter(|j| *j != i) {
        let is_max = [(0.1, 2.0), (2.0, 0.1), (0.5, 0.4)].iter().all(|(s, other)| {
            let mut states = vec![*other; u.states];
            states[i] = *s;
            let next = u.at(0.3, 0.8, &states, LR, T).1;
            close(next[i], next[j].max(*s))
        });
        if is_max {
            return Recurrence::MaxOf(j);
        }
    }
    Recurrence::Other
}

fn close_to(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-6)
}

/// Where ε stands in a denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EpsilonForm {
    /// √v̂ + ε.
    Outside,
    /// √(v̂ + ε).
    Inside,
    /// √v + ε with the bias correction folded into the learning rate (the paper's ε̂).
    Hat,
    /// None at all: 0/0 for a zero gradient.
    Missing,
}

/// −Δθ = scale · m̂ / (√v̂ + ε), with the corrections and the ε that were found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Direction {
    /// Factor in front (times the learning rate).
    pub scale: f64,
    /// First moment divided by 1 − β₁ᵗ.
    pub corrects_first: bool,
    /// Second moment divided by 1 − β₂ᵗ.
    pub corrects_second: bool,
    /// ε; 0 when it is missing.
    pub epsilon: f64,
    /// Where ε stands.
    pub form: EpsilonForm,
}

impl Direction {
    /// Solves a direction from `f(m', v', t)`, which gives −Δθ/η.
    ///
    /// # Errors
    /// What is wrong with it, when it is not of this form.
    pub fn solve(u: &Update, f: impl Fn(f64, f64, f64) -> f64, b1: f64, b2: f64, depth: u32) -> Result<Self, Mismatch> {
        const LATE: f64 = 1e6;
        const HUGE: f64 = 1e16;
        let divide = u.find(Op::Div).or(u.find(Op::Mul));
        let scale = f(1.0, HUGE, LATE) * HUGE.sqrt();
        if !scale.is_finite() || scale == 0.0 {
            return fail(depth, Some(u.theta_next()), "the parameter does not move along the first moment");
        }
        if scale < 0.0 {
            return fail(
                depth,
                Some(u.theta_next()),
                "the update is added, not subtracted: the sign of the step is flipped",
            );
        }
        if !near(f(1.0, 4.0 * HUGE, LATE) * 2.0 * HUGE.sqrt(), scale) {
            let square_root = f(1.0, 4.0 * HUGE, LATE) * 4.0 / f(1.0, HUGE, LATE);
            let reason = if near(square_root, 1.0) {
                "the step divides by the second moment itself, not by its square root"
            } else {
                "the step does not shrink with the square root of the second moment"
            };
            return fail(depth + 1, divide, reason);
        }
        let corrections = [(true, true), (false, false), (true, false), (false, true)];
        let expected = |(first, second): (bool, bool), t: f64| {
            let c1 = if first { 1.0 - b1.powf(t) } else { 1.0 };
            let c2 = if second { 1.0 - b2.powf(t) } else { 1.0 };
            c2.sqrt() / c1
        };
        let found = |t: f64| f(1.0, HUGE, t) * HUGE.sqrt() / scale;
        let fits = |c: &(bool, bool)| [1.0, 2.0, 7.0].iter().all(|t| near(found(*t), expected(*c, *t)));
        let Some((corrects_first, corrects_second)) = corrections.into_iter().find(fits) else {
            return fail(
                depth + 2,
                u.find(Op::Pow).or(divide),
                format!(
                    "the bias correction at the first step is {:.6}, not {:.6} as the decays {b1} and {b2} ask",
                    found(1.0),
                    expected((true, true), 1.0)
                ),
            );
        };
        let mut direction =
            Direction { scale, corrects_first, corrects_second, epsilon: 0.0, form: EpsilonForm::Missing };
        let at_zero = f(1.0, 0.0, LATE);
        if at_zero.is_finite() {
            let epsilon = scale / at_zero;
            let halfway = scale / f(1.0, epsilon * epsilon, LATE) / epsilon;
            (direction.form, direction.epsilon) = if near(halfway, 2.0) {
                let c1 = if corrects_first { 1.0 - b1 } else { 1.0 };
                let first_step = scale / c1 / f(1.0, 0.0, 1.0);
                if near(first_step, epsilon) { (EpsilonForm::Outside, epsilon) } else { (EpsilonForm::Hat, epsilon) }
            } else if near(halfway, std::f64::consts::SQRT_2) {
                (EpsilonForm::Inside, epsilon * epsilon)
            } else {
                return fail(depth + 3, u.find(Op::Add), "epsilon enters the denominator in no known way");
            };
        }
        Ok(direction)
    }

    /// The direction at given moments (the `m'`, `v'` after their update).
    pub fn at(&self, m: f64, v: f64, b1: f64, b2: f64, t: f64) -> f64 {
        let c1 = if self.corrects_first { 1.0 - b1.powf(t) } else { 1.0 };
        let c2 = if self.corrects_second { 1.0 - b2.powf(t) } else { 1.0 };
        self.scale
            * match self.form {
                EpsilonForm::Outside | EpsilonForm::Missing => m / c1 / ((v / c2).sqrt() + self.epsilon),
                EpsilonForm::Inside => m / c1 / (v / c2 + self.epsilon).sqrt(),
                EpsilonForm::Hat => m / c1 * c2.sqrt() / (v.sqrt() + self.epsilon),
            }
    }
}

/// Decoupled weight decay: θ' = (1 − η·scale·λ)·θ when nothing else moves. `still` gives θ' for θ = 1 at a learning rate.
///
/// # Errors
/// When the decay does not follow the learning rate, or grows the parameter.
pub fn decoupled_decay(u: &Update, scale: f64, depth: u32, still: impl Fn(f64) -> f64) -> Result<f64, Mismatch> {
    let decay = |lr: f64| (1.0 - still(lr)) / (if u.has_rate() { lr } else { 1.0 } * scale);
    let (a, b) = (decay(0.1), decay(0.2));
    let tiny = |x: f64| x.abs() < 1e-9;
    if tiny(a) && tiny(b) {
        return Ok(0.0);
    }
    if !(a.is_finite() && (a - b).abs() <= 1e-4 * a.abs()) {
        return fail(depth, Some(u.theta_next()), "weight decay is not scaled by the learning rate");
    }
    if a < 0.0 {
        return fail(
            depth,
            Some(u.theta_next()),
            "the parameter grows instead of decaying: weight decay has the wrong sign",
        );
    }
    Ok(a)
}
