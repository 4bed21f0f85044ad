//! Tries the rules on one region: which boundary is the gradient, which scalar the learning rate, which one counts steps.

use super::region::{Group, Region};
use super::tape::{Entry, Leaf, Slot};
use super::update::{self, Clock, Mismatch, Update, boundaries, nice};
use super::{Found, Match, Rate, Setting, State, StepInput, behaviour, rules};
use crate::graph::{Graph, NodeId, ValueId};

/// A rule's finding in terms of slots, so that it can be carried over to every parameter with the same region.
#[derive(Clone)]
pub(super) struct Verdict {
    found: Found,
    gradient: Slot,
    rate: Option<Slot>,
    step: Option<StepInput>,
    inputs: Vec<(&'static str, ValueId)>,
}

/// Tries every rule under every hypothesis about gradient, learning rate and step; the deepest failure is the reason.
pub(super) fn judge(
    region: &Region,
    states: usize,
    clocks: &[(ValueId, f64)],
    graph: &Graph,
) -> Result<Verdict, Mismatch> {
    let mut best =
        Mismatch { depth: 0, reason: "no gradient enters this update".into(), slot: region.next.first().copied() };
    let mut rated = false;
    for gradient in boundaries(region) {
        let blank = Update { region, states, gradient, rate: None, clocks: Vec::new(), other: 0.37 };
        if !fits_parameter(region, gradient, graph) {
            continue;
        }
        let rates = rate_candidates(&blank);
        // A boundary behind a product with the learning rate would make any step look like a constant one.
        if rated && rates.is_empty() {
            continue;
        }
        rated |= !rates.is_empty();
        let rates: Vec<Option<Slot>> =
            if rates.is_empty() { vec![None] } else { rates.into_iter().map(Some).collect() };
        for rate in rates {
            for clocks in clock_hypotheses(&Update { rate, ..blank.clone() }, clocks) {
                let update = Update { rate, clocks, ..blank.clone() };
                if best.depth == 0 {
                    best.reason = "its form is none of the optimizers that npc knows".into();
                }
                for rule in rules::ALL {
                    match rule(&update).and_then(|found| settle(&update, found, *rule)) {
                        Ok((found, inputs)) => {
                            let step = update.clocks.iter().find_map(|c| match *c {
                                Clock::Step { value, first } => Some(StepInput { value, first }),
                                Clock::Power { .. } => None,
                            });
                            return Ok(Verdict { found, gradient, rate, step, inputs });
                        }
                        Err(mismatch) if mismatch.depth > best.depth => best = mismatch,
                        Err(_) => {}
                    }
                }
            }
        }
    }
    Err(best)
}

fn fits_parameter(region: &Region, gradient: Slot, graph: &Graph) -> bool {
    let theta = region.tape.entries.iter().position(|e| *e == Entry::Leaf(Leaf::Theta));
    let value = |slot: Slot| region.tape.values[slot].map(|v| graph.value(v));
    let (Some(theta), Some(gradient)) = (theta.and_then(value), value(gradient)) else { return false };
    gradient.dims().is_none() || gradient.dims() == theta.dims()
}

/// Scalars that θ moves in proportion to: graph inputs first, then computed ones.
fn rate_candidates(blank: &Update) -> Vec<Slot> {
    let tape = &blank.region.tape;
    let is_scalar = |slot: &Slot| match &tape.entries[*slot] {
        Entry::Leaf(Leaf::Scalar(_)) => true,
        Entry::Leaf(Leaf::Opaque(_)) => *slot != blank.gradient,
        Entry::Apply { .. } => {
            let tensor =
                |s: Slot| matches!(tape.entries[s], Entry::Leaf(Leaf::Theta | Leaf::State(_) | Leaf::Tensor(_)));
            *slot != blank.gradient
                && !tape.depends(*slot, |s| tensor(s) || s == blank.gradient, &[])
                && tape.depends(*slot, |s| matches!(tape.entries[s], Entry::Leaf(_)), &[])
        }
        _ => false,
    };
    let proportional = |slot: &Slot| {
        let update = Update { rate: Some(*slot), ..blank.clone() };
        // At θ = 0 a decay that ignores the learning rate is silent: the rule for it says what is wrong with it.
        [0.7, 0.0].iter().any(|theta| {
            let moved = |lr: f64| update.at(*theta, 0.9, &vec![0.0; blank.states], lr, 2.0).0 - theta;
            let (zero, one, two) = (moved(0.0), moved(0.01), moved(0.02));
            zero == 0.0 && one.is_finite() && one != 0.0 && (two - 2.0 * one).abs() <= 1e-9 * one.abs() + 1e-15
        })
    };
    let mut slots: Vec<Slot> = (0..tape.entries.len()).filter(is_scalar).filter(proportional).collect();
    slots.sort_by_key(|s| (!matches!(tape.entries[*s], Entry::Leaf(_)), *s));
    slots
}

/// What the scalars that are not the learning rate may count.
fn clock_hypotheses(update: &Update, clocks: &[(ValueId, f64)]) -> Vec<Vec<Clock>> {
    let tape = &update.region.tape;
    let live = |v: ValueId| {
        update.region.next.iter().any(|n| {
            tape.depends(
                *n,
                |s| tape.entries[s] == Entry::Leaf(Leaf::Scalar(v)) && Some(s) != update.rate,
                &[update.gradient],
            )
        })
    };
    let mut scalars: Vec<ValueId> = tape
        .entries
        .iter()
        .filter_map(|e| if let Entry::Leaf(Leaf::Scalar(v)) = e { Some(*v) } else { None })
        .filter(|v| live(*v))
        .collect();
    scalars.dedup();
    let known: Vec<(ValueId, f64)> = clocks.iter().filter(|(v, _)| scalars.contains(v)).copied().collect();
    if !known.is_empty() {
        return [0.0, 1.0]
            .map(|k| {
                let clock = |(value, base): &(ValueId, f64)| {
                    if *base == 0.0 {
                        Clock::Step { value: *value, first: k }
                    } else {
                        Clock::Power { value: *value, base: *base, offset: k }
                    }
                };
                known.iter().map(clock).collect()
            })
            .into();
    }
    let mut hypotheses = vec![Vec::new()];
    for value in scalars {
        hypotheses.extend([1.0, 0.0].map(|first| vec![Clock::Step { value, first }]));
    }
    hypotheses
}

type Settled = (Found, Vec<(&'static str, ValueId)>);

/// Runs the rule again with other values for the remaining scalar inputs: a setting that follows one *is* that input.
fn settle(update: &Update, found: Found, rule: rules::Rule) -> Result<Settled, Mismatch> {
    let tape = &update.region.tape;
    let others: Vec<ValueId> = tape
        .entries
        .iter()
        .enumerate()
        .filter_map(|(slot, e)| match e {
            Entry::Leaf(Leaf::Scalar(v)) if Some(slot) != update.rate => Some(*v),
            _ => None,
        })
        .filter(|v| {
            !update
                .clocks
                .iter()
                .any(|c| matches!(c, Clock::Step { value, .. } | Clock::Power { value, .. } if value == v))
        })
        .collect();
    if others.is_empty() {
        return Ok((found, Vec::new()));
    }
    let again = rule(&Update { other: 0.43, ..update.clone() })?;
    let mut inputs = Vec::new();
    for ((name, a), (_, b)) in found.settings.iter().zip(&again.settings) {
        if behaviour::close(*a, *b) {
            continue;
        }
        match others[..] {
            [only] if behaviour::near(*a, 0.37) && behaviour::near(*b, 0.43) => inputs.push((*name, only)),
            _ => {
                return update::fail(
                    5,
                    None,
                    format!("{name} depends on a graph input in a way that is not a plain setting"),
                );
            }
        }
    }
    if !behaviour::close(found.rate_scale, again.rate_scale) {
        return update::fail(5, None, "the learning rate is multiplied by a graph input");
    }
    Ok((found, inputs))
}

pub(super) fn instantiate(graph: &Graph, group: &Group, region: &Region, verdict: &Verdict) -> Match {
    let value = |slot: Slot| region.tape.values[slot].unwrap_or(group.theta.value);
    let found = &verdict.found;
    let setting = |(name, x): &(&'static str, f64)| {
        let input = verdict.inputs.iter().find(|(n, _)| n == name);
        (*name, input.map_or(Setting::Number(nice(*x)), |(_, v)| Setting::Input(*v)))
    };
    Match {
        parameter: group.theta.value,
        next: group.theta.next,
        gradient: value(verdict.gradient),
        states: group
            .states
            .iter()
            .zip(&found.roles)
            .map(|(p, role)| State { value: p.value, next: p.next, role: *role })
            .collect(),
        kind: found.kind,
        learning_rate: Rate { value: verdict.rate.map(value), scale: nice(found.rate_scale) },
        settings: found.settings.iter().map(setting).collect(),
        decoupled_weight_decay: found.decoupled,
        epsilon_missing: found.epsilon_missing,
        step: verdict.step,
        node: graph.value(group.theta.next).producer.map_or_else(NodeId::end, |(n, _)| n),
    }
}

/// s' = a·s + (1 − a)·x: a running statistic (batch normalisation's, say), not a trained parameter.
pub(super) fn is_running_average(region: &Region, group: &Group) -> bool {
    let Some(gradient) = boundaries(region).into_iter().next() else { return false };
    if !group.states.is_empty() {
        return false;
    }
    let update = Update { region, states: 0, gradient, rate: None, clocks: Vec::new(), other: 0.37 };
    let (a, b) = (update.at(1.0, 0.0, &[], 0.1, 1.0).0, update.at(0.0, 1.0, &[], 0.1, 1.0).0);
    a > 0.0 && b > 0.0 && (a + b - 1.0).abs() < 1e-5
}
