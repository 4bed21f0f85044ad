//! One parameter's update as a function that rules can call at points of their choice.

use super::region::Region;
use super::tape::{Entry, Lanes, Leaf, Op, Slot, Tape};
use crate::graph::ValueId;

/// Arguments of an update, all in float64; vectors hold one element per lane.
#[derive(Clone, Debug)]
pub struct Point {
    /// θ.
    pub theta: Vec<f64>,
    /// g.
    pub grad: Vec<f64>,
    /// States, in the group's order.
    pub states: Vec<Vec<f64>>,
    /// Learning rate (ignored when it is folded into constants).
    pub lr: f64,
    /// Number of this update, counted from 1.
    pub t: f64,
}

/// Results of an update.
#[derive(Clone, Debug)]
pub struct Next {
    /// θ'.
    pub theta: Vec<f64>,
    /// States' next values.
    pub states: Vec<Vec<f64>>,
}

/// What a scalar leaf holds at update `t`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clock {
    /// t − 1 + first.
    Step { value: ValueId, first: f64 },
    /// base^(t − 1 + offset).
    Power { value: ValueId, base: f64, offset: f64 },
}

impl Clock {
    fn at(&self, leaf: ValueId, t: f64) -> Option<f64> {
        match *self {
            Clock::Step { value, first } if value == leaf => Some(t - 1.0 + first),
            Clock::Power { value, base, offset } if value == leaf => Some(base.powf(t - 1.0 + offset)),
            _ => None,
        }
    }
}

/// Why a rule did not match: `depth` counts the checks passed before, so that the best attempt can be reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Checks passed before this one failed.
    pub depth: u32,
    /// One sentence.
    pub reason: String,
    /// Where it shows.
    pub slot: Option<Slot>,
}

/// Builds a [`Mismatch`].
pub fn fail<T>(depth: u32, slot: Option<Slot>, reason: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch { depth, reason: reason.into(), slot })
}

/// An update under one hypothesis about its gradient, learning rate and step.
#[derive(Clone)]
pub struct Update<'r> {
    /// The region.
    pub region: &'r Region,
    /// Number of states.
    pub states: usize,
    /// Slot taken for the gradient.
    pub gradient: Slot,
    /// Slot taken for the learning rate; `None` when it is a constant.
    pub rate: Option<Slot>,
    /// Scalars that follow the step.
    pub clocks: Vec<Clock>,
    /// Value given to scalar inputs that are neither (hyperparameters that are graph inputs).
    pub other: f64,
}

impl Update<'_> {
    /// The update at `point`.
    pub fn step(&self, point: &Point) -> Next {
        let n = point.theta.len();
        let slots = self.slots(point);
        let lanes = |slot: &Slot| (0..n).map(|i| slots[*slot].at(i)).collect::<Vec<f64>>();
        let mut next = self.region.next.iter().map(lanes);
        Next { theta: next.next().unwrap_or_default(), states: next.collect() }
    }

    /// Every slot at `point`.
    pub fn slots(&self, point: &Point) -> Vec<Lanes> {
        let leaf = |leaf: Leaf| match leaf {
            Leaf::Theta => Lanes::Vector(point.theta.clone()),
            Leaf::State(i) => Lanes::Vector(point.states[i].clone()),
            Leaf::Scalar(v) => Lanes::Scalar(self.clocks.iter().find_map(|c| c.at(v, point.t)).unwrap_or(self.other)),
            Leaf::Opaque(v) => Lanes::Scalar(0.61 + 0.013 * f64::from(v.0 % 29)),
            Leaf::Tensor(_) => Lanes::Scalar(0.77),
        };
        let mut fixed = vec![(self.gradient, Lanes::Vector(point.grad.clone()))];
        fixed.extend(self.rate.map(|slot| (slot, Lanes::Scalar(point.lr))));
        self.region.tape.run(leaf, &fixed)
    }

    /// The update of a single element.
    pub fn at(&self, theta: f64, grad: f64, states: &[f64], lr: f64, t: f64) -> (f64, Vec<f64>) {
        let states = states.iter().map(|s| vec![*s]).collect();
        let next = self.step(&Point { theta: vec![theta], grad: vec![grad], states, lr, t });
        (next.theta[0], next.states.iter().map(|s| s[0]).collect())
    }

    /// True when the learning rate is a value of the graph, not a folded constant.
    pub fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// Slot of θ'.
    pub fn theta_next(&self) -> Slot {
        self.region.next[0]
    }

    /// Slot of a state's next value.
    pub fn state_next(&self, i: usize) -> Slot {
        self.region.next[i + 1]
    }

    /// True when `slot` is computed from leaf `leaf`, the gradient taken as given.
    pub fn reads(&self, slot: Slot, leaf: Leaf) -> bool {
        let tape = &self.region.tape;
        tape.depends(slot, |s| tape.entries[s] == Entry::Leaf(leaf), &[self.gradient])
    }

    /// True when θ' goes through the state's next value rather than around it.
    pub fn uses_next(&self, i: usize) -> bool {
        let next = self.state_next(i);
        self.region.tape.depends(self.theta_next(), |s| s == next, &[self.gradient])
    }

    /// The first node on θ''s way that reads state `i` before its update.
    pub fn stale_reader(&self, i: usize) -> Option<Slot> {
        let tape = &self.region.tape;
        let stop = [self.gradient, self.state_next(i)];
        let stale = |s: Slot| tape.entries[s] == Entry::Leaf(Leaf::State(i));
        (0..tape.entries.len()).find(|s| {
            matches!(&tape.entries[*s], Entry::Apply { args, .. } if args.iter().any(|a| stale(*a)))
                && *s != self.state_next(i)
                && tape.depends(self.theta_next(), |x| x == *s, &stop)
        })
    }

    /// The first slot computed by `op` that θ' depends on.
    pub fn find(&self, op: Op) -> Option<Slot> {
        let tape = &self.region.tape;
        (0..tape.entries.len()).find(|s| {
            matches!(&tape.entries[*s], Entry::Apply { op: o, .. } if *o == op)
                && tape.depends(self.theta_next(), |x| x == *s, &[self.gradient])
        })
    }

    /// Compares the update with a reference formula on random points and on a trajectory from zero states; the states in
    /// `positive` are kept non-negative (accumulated squares).
    ///
    /// # Errors
    /// The first disagreement beyond 1e-4 of the step's length (1e-5 for states).
    pub fn validate(&self, positive: &[usize], depth: u32, reference: impl Fn(&Point) -> Next) -> Result<(), Mismatch> {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let lanes = 5;
        let mut vector = |scale: f64| (0..lanes).map(|_| scale * random.normal()).collect::<Vec<f64>>();
        for (t, lr) in [(1.0, 0.1), (2.0, 0.013), (3.0, 0.4), (17.0, 0.002), (1000.0, 0.05)] {
            let mut states: Vec<Vec<f64>> = (0..self.states).map(|_| vector(0.7)).collect();
            for i in positive {
                states[*i].iter_mut().for_each(|x| *x = *x * *x + 4.0);
            }
            self.agree(&Point { theta: vector(1.0), grad: vector(1.0), states, lr, t }, depth, &reference)?;
        }
        let mut states = vec![vec![0.0; lanes]; self.states];
        let mut theta = vector(1.0);
        for t in 1..5 {
            let point = Point { theta, grad: vector(0.5), states, lr: 0.03, t: f64::from(t) };
            let next = self.agree(&point, depth, &reference)?;
            (theta, states) = (next.theta, next.states);
        }
        Ok(())
    }

    fn agree(&self, point: &Point, depth: u32, reference: &impl Fn(&Point) -> Next) -> Result<Next, Mismatch> {
        let (found, wanted) = (self.step(point), reference(point));
        for (i, (a, b)) in found.theta.iter().zip(&wanted.theta).enumerate() {
            let scale = (b - point.theta[i]).abs() + 1e-7 * point.theta[i].abs() + 1e-12;
            if !((a - b).abs() <= 1e-4 * scale) {
                return fail(
                    depth,
                    Some(self.theta_next()),
                    format!(
                        "on random numbers the parameter's update differs from the formula ({a:.6e} against {b:.6e} at step {})",
                        point.t
                    ),
                );
            }
        }
        for (k, (a, b)) in found.states.iter().zip(&wanted.states).enumerate() {
            if a.iter().zip(b).any(|(a, b)| !((a - b).abs() <= 1e-5 * (b.abs() + 1e-9))) {
                return fail(
                    depth,
                    Some(self.state_next(k)),
                    "on random numbers a state's update differs from the formula",
                );
            }
        }
        Ok(found)
    }
}

/// SplitMix64 with a Box-Muller tail: validation needs repeatable points, not cryptography.
pub struct Random(pub u64);

impl Random {
    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Slots that may stand for the gradient, rawest first.
///
/// The rawest is where everything that is not this update's own enters; behind it follow values that only clip, scale or
/// cast it. The latter stay ordinary nodes in front of the optimizer.
pub fn boundaries(region: &Region) -> Vec<Slot> {
    let tape = &region.tape;
    let outside = |tensors: bool| {
        move |s: Slot| match tape.entries[s] {
            Entry::Leaf(Leaf::Tensor(_)) => tensors,
            Entry::Leaf(Leaf::Opaque(_)) => !tensors,
            _ => false,
        }
    };
    let live = |s: Slot| region.next.iter().any(|n| tape.depends(*n, |x| x == s, &[]));
    let tensors = (0..tape.entries.len()).any(|s| outside(true)(s) && live(s));
    let source = outside(tensors);
    let is_cut = |c: Slot| {
        !region.next.iter().any(|n| tape.depends(*n, |s| s != c && source(s), &[c])) && tape.depends(c, source, &[])
    };
    let mut cuts: Vec<Slot> = (0..tape.entries.len()).filter(|c| live(*c) && is_cut(*c)).collect();
    cuts.sort_unstable();
    let mut chain: Vec<Slot> = Vec::new();
    for cut in cuts {
        match chain.last() {
            None => chain.push(cut),
            Some(previous) if keeps_direction(tape, *previous, cut) => chain.push(cut),
            Some(_) => break,
        }
    }
    chain
}

/// True when a slot holds one element per lane.
fn is_vector(tape: &Tape, slot: Slot) -> bool {
    match &tape.entries[slot] {
        Entry::Constant(_) => false,
        Entry::Leaf(leaf) => matches!(leaf, Leaf::Theta | Leaf::State(_) | Leaf::Tensor(_)),
        Entry::Apply { op, args, .. } => !op.is_reduction() && args.iter().any(|a| is_vector(tape, *a)),
    }
}

/// True when the node at `to` clips, scales by a positive factor or casts the value at `from`.
fn keeps_direction(tape: &Tape, from: Slot, to: Slot) -> bool {
    let Entry::Apply { op, args, .. } = &tape.entries[to] else { return false };
    let scalar = |s: &Slot| !is_vector(tape, *s);
    let not_negative = |s: &Slot| !matches!(tape.entries[*s], Entry::Constant(x) if x <= 0.0);
    if args.iter().filter(|a| **a == from).count() != 1 {
        return false;
    }
    let others = || args.iter().filter(|a| **a != from);
    match op {
        Op::Identity => args == &[from],
        Op::Clip | Op::Max | Op::Min => args.contains(&from) && others().all(scalar),
        Op::Mul => args.contains(&from) && others().all(|s| scalar(s) && not_negative(s)),
        Op::Div => args[0] == from && others().all(|s| scalar(s) && not_negative(s)),
        Op::Where => args[1..].contains(&from),
        _ => false,
    }
}

/// The number with the fewest digits within float32 rounding of `x`.
pub fn nice(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    (0..9)
        .filter_map(|digits| format!("{x:.digits$e}").parse::<f64>().ok())
        .find(|y| (y - x).abs() <= 4e-7 * x.abs())
        .unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nice_numbers_are_the_ones_people_wrote() {
        for x in [0.9f32, 0.999, 1e-8, 0.01, 5e-4, 0.1, 1.0, 0.95] {
            assert_eq!(nice(f64::from(x)), x.to_string().parse::<f64>().unwrap());
        }
        assert!((nice(1.0 / 3.0) - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn random_is_repeatable_and_normal() {
        let mut a = Random(1);
        let mean = (0..4000).map(|_| a.normal()).sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.05);
        assert_eq!(Random(7).uniform(), Random(7).uniform());
    }
}
