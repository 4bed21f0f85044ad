//! Recognition of optimizers written out in primitive operators.
//!
//! Recognition is behavioural. For every parameter the elementwise region between its inputs and its next value becomes
//! a small float64 program ([`region`], [`tape`]); a rule then asks that program questions (what happens to the state
//! when the gradient is 1 and all else 0? by what factor does the step shrink when the second moment grows fourfold?),
//! solves the optimizer's hyperparameters from the answers, and finally compares its reference formula with the program
//! on random points and on a trajectory. How an exporter spelled the update (folded or not, `x*x` or `Pow`, `lerp`,
//! shared bias corrections) therefore does not matter, and nothing is replaced that was not proven equal.
//!
//! To add an optimizer, add one file under `rules/` and its line to [`rules::ALL`].

mod behaviour;
pub mod operators;
mod region;
mod rules;
mod tape;
mod update;

use crate::graph::{Graph, Model, NodeId, ValueId};
use indexmap::IndexMap;
use region::{Group, Pair, Region, Scope};
use rustc_hash::{FxHashMap, FxHashSet};
use tape::{Entry, Leaf, Slot};
use update::{Clock, Mismatch, Update, boundaries, nice};

/// A known optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Kind {
    Sgd,
    Momentum,
    Nesterov,
    Adam,
    AdamW,
    Adamax,
    NAdam,
    AmsGrad,
    Adagrad,
    RmsProp,
    Adadelta,
    Lion,
    Lamb,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sgd => "SGD",
            Kind::Momentum => "Momentum",
            Kind::Nesterov => "Nesterov",
            Kind::Adam => "Adam",
            Kind::AdamW => "AdamW",
            Kind::Adamax => "Adamax",
            Kind::NAdam => "NAdam",
            Kind::AmsGrad => "AMSGrad",
            Kind::Adagrad => "Adagrad",
            Kind::RmsProp => "RMSprop",
            Kind::Adadelta => "Adadelta",
            Kind::Lion => "Lion",
            Kind::Lamb => "LAMB",
        }
    }
}

/// What a state is to its optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum StateRole {
    FirstMoment,
    SecondMoment,
    Velocity,
    MaxSecondMoment,
    InfinityNorm,
    GradientAverage,
    DeltaAccumulator,
}

/// A hyperparameter: a number, or a scalar graph input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// A scalar input of the graph.
    Input(ValueId),
}

/// η = scale · value, or just `scale` when it is folded into constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Scalar value of the graph.
    pub value: Option<ValueId>,
    /// Factor.
    pub scale: f64,
}

/// A state of a recognised update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Graph input.
    pub value: ValueId,
    /// Graph output.
    pub next: ValueId,
    /// What it is.
    pub role: StateRole,
}

/// The scalar that counts updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInput {
    /// Graph input.
    pub value: ValueId,
    /// What it holds at the first update (0 or 1).
    pub first: f64,
}

/// One recognised and validated update.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Graph input θ.
    pub parameter: ValueId,
    /// Graph output θ'.
    pub next: ValueId,
    /// The value taken for the gradient (already clipped, averaged or unscaled where the graph does so); shape of θ.
    pub gradient: ValueId,
    /// States in the order of the graph's inputs.
    pub states: Vec<State>,
    /// Which optimizer.
    pub kind: Kind,
    /// Learning rate.
    pub learning_rate: Rate,
    /// Hyperparameters: `beta1, beta2, epsilon, weight_decay, momentum, dampening, alpha, rho, lr_decay, centered`, ….
    pub settings: IndexMap<&'static str, Setting>,
    /// Weight decay acts on the parameter, not through the gradient.
    pub decoupled_weight_decay: bool,
    /// The exporter dropped epsilon: a zero gradient gives 0/0.
    pub epsilon_missing: bool,
    /// The step counter, where the update depends on it.
    pub step: Option<StepInput>,
    /// The node that computes θ'.
    pub node: NodeId,
}

/// A parameter-like pair no rule accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct Unmatched {
    /// Name of the graph input.
    pub parameter: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Name of the node (or of its output) where it shows.
    pub node: String,
}

/// Options of [`recognise`].
#[derive(Clone, Debug, Default)]
pub struct RecogniseOptions {
    /// Pairs the user insists on: (output, input).
    pub bind: Vec<(String, String)>,
}

/// What [`recognise`] found.
#[derive(Clone, Debug, Default)]
pub struct Recognition {
    /// Recognised updates in the order of the graph's inputs.
    pub matches: Vec<Match>,
    /// Updates left alone.
    pub unmatched: Vec<Unmatched>,
    /// Other fed-back values (running statistics, counters): (input, output).
    pub carried: Vec<(ValueId, ValueId)>,
    /// Remarks for the user.
    pub warnings: Vec<String>,
}

/// Why recognition could not start.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    /// The graph has a cycle.
    #[error("the graph has a cycle through node {0}")]
    Cyclic(String),
    /// A `--bind` name that the graph does not have.
    #[error("--bind {0}={1}: the graph has no {2} called {3}")]
    Bind(String, String, &'static str, String),
}

/// What a rule found, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    kind: Kind,
    settings: Vec<(&'static str, f64)>,
    rate_scale: f64,
    decoupled: bool,
    epsilon_missing: bool,
    roles: Vec<StateRole>,
}

/// Finds every optimizer update of a model's graph.
///
/// # Errors
/// A cyclic graph, or a `--bind` that names nothing.
pub fn recognise(model: &Model, options: &RecogniseOptions) -> Result<Recognition, RecogniseError> {
    let graph = &model.graph;
    let order = graph
        .order()
        .map_err(|nodes| RecogniseError::Cyclic(nodes.first().map_or_else(String::new, |n| describe(graph, *n))))?;
    let bind = bound_pairs(graph, &options.bind)?;
    let operators = operators::recognise(graph);
    let taken: FxHashSet<ValueId> = operators.matches.iter().map(|m| m.next).collect();
    let mut scope = Scope::new(graph, &order);
    let groups = scope.groups(&bind);
    let clocks = clock_bases(&scope);
    let mut result =
        Recognition { matches: operators.matches, unmatched: operators.unmatched, ..Recognition::default() };
    result.carried.extend(scope.clocks.iter().map(|p| (p.value, p.next)));
    let mut known: FxHashMap<String, Result<Verdict, Mismatch>> = FxHashMap::default();
    for group in groups.iter().filter(|g| !taken.contains(&g.theta.next)) {
        let region = scope.region(group);
        let verdict = known
            .entry(signature(&region))
            .or_insert_with(|| judge(&region, group.states.len(), &clocks, graph))
            .clone();
        match verdict {
            Ok(verdict) => result.matches.push(instantiate(graph, group, &region, &verdict)),
            Err(_) if is_running_average(&region, group) => {
                result.carried.push((group.theta.value, group.theta.next));
                result.carried.extend(group.states.iter().map(|p| (p.value, p.next)));
            }
            Err(mismatch) => {
                let value = mismatch.slot.and_then(|s| region.tape.node(s));
                let node = value.or(graph.value(group.theta.next).producer.map(|(n, _)| n));
                result.unmatched.push(Unmatched {
                    parameter: graph.name_of(group.theta.value).to_string(),
                    reason: mismatch.reason,
                    node: node.map_or_else(String::new, |n| describe(graph, n)),
                });
                result.carried.push((group.theta.value, group.theta.next));
                result.carried.extend(group.states.iter().map(|p| (p.value, p.next)));
            }
        }
    }
    let position: FxHashMap<ValueId, usize> = graph.inputs.iter().enumerate().map(|(i, v)| (*v, i)).collect();
    result.matches.sort_by_key(|m| position.get(&m.parameter).copied());
    Ok(result)
}

/// A node's name, or its first output's, with the operator.
pub fn describe(graph: &Graph, node: NodeId) -> String {
    let n = graph.node(node);
    let name = if n.name.is_empty() { n.output(0).map_or("", |v| graph.name_of(v)) } else { &n.name };
    format!("{} '{name}'", n.op_type)
}

fn bound_pairs(graph: &Graph, bind: &[(String, String)]) -> Result<Vec<Pair>, RecogniseError> {
    bind.iter()
        .map(|(new, old)| {
            let find = |name: &str, what: &'static str, among: &[ValueId]| {
                let value = graph.value_named(name).filter(|v| among.contains(v));
                value.ok_or_else(|| RecogniseError::Bind(new.clone(), old.clone(), what, name.to_string()))
            };
            Ok(Pair { next: find(new, "output", &graph.outputs)?, value: find(old, "input", &graph.inputs)? })
        })
        .collect()
}

/// Which scalars count steps (base 0) or multiply up a decay (its base).
fn clock_bases(scope: &Scope) -> Vec<(ValueId, f64)> {
    use tape::Lanes;
    let base = |pair: &Pair| {
        let region = scope.region(&Group { theta: *pair, states: Vec::new() });
        let next = |x: f64| region.tape.run(|_| Lanes::Scalar(x), &[])[region.next[0]].at(0);
        if next(4.0) == 5.0 && next(0.0) == 1.0 {
            Some((pair.value, 0.0))
        } else {
            let ratio = next(0.5) / 0.5;
            (ratio > 0.0 && ratio < 1.0 && (next(0.25) / 0.25 - ratio).abs() < 1e-9).then_some((pair.value, ratio))
        }
    };
    scope.clocks.iter().filter_map(base).collect()
}

/// Everything about a region but which values of the graph it stands on.
fn signature(region: &Region) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(region.tape.entries.len() * 12);
    for entry in &region.tape.entries {
        let _ = match entry {
            Entry::Constant(x) => write!(text, "c{:x};", x.to_bits()),
            Entry::Leaf(Leaf::Scalar(v)) => write!(text, "s{};", v.0),
            Entry::Leaf(Leaf::Opaque(_)) => write!(text, "o;"),
            Entry::Leaf(Leaf::Tensor(_)) => write!(text, "t;"),
            Entry::Leaf(Leaf::Theta) => write!(text, "p;"),
            Entry::Leaf(Leaf::State(i)) => write!(text, "m{i};"),
            Entry::Apply { op, args, .. } => write!(text, "{}{args:?};", *op as u8),
        };
    }
    let _ = write!(text, "{:?}", region.next);
    text
}

/// A rule's finding in terms of slots, so that it can be carried over to every parameter with the same region.
#[derive(Clone)]
struct Verdict {
    found: Found,
    gradient: Slot,
    rate: Option<Slot>,
    step: Option<StepInput>,
    inputs: Vec<(&'static str, ValueId)>,
}

/// Tries every rule under every hypothesis about gradient, learning rate and step; the deepest failure is the reason.
fn judge(region: &Region, states: usize, clocks: &[(ValueId, f64)], graph: &Graph) -> Result<Verdict, Mismatch> {
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

fn instantiate(graph: &Graph, group: &Group, region: &Region, verdict: &Verdict) -> Match {
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
fn is_running_average(region: &Region, group: &Group) -> bool {
    let Some(gradient) = boundaries(region).into_iter().next() else { return false };
    if !group.states.is_empty() {
        return false;
    }
    let update = Update { region, states: 0, gradient, rate: None, clocks: Vec::new(), other: 0.37 };
    let (a, b) = (update.at(1.0, 0.0, &[], 0.1, 1.0).0, update.at(0.0, 1.0, &[], 0.1, 1.0).0);
    a > 0.0 && b > 0.0 && (a + b - 1.0).abs() < 1e-5
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod testing;

#[cfg(test)]
mod disguise;
