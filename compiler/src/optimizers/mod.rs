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

// A check that a NaN must fail is the negation of what has to hold.
#![allow(clippy::neg_cmp_op_on_partial_ord)]

mod behaviour;
mod found;
mod judge;
pub mod operators;
mod region;
mod rules;
mod tape;
mod update;

use crate::analysis::running_statistics;
use crate::graph::{Graph, Model, NodeId, ValueId};
pub use found::{
    Kind, Match, Rate, RecogniseError, RecogniseOptions, Recognition, Setting, State, StateRole, StepInput, Unmatched,
};
use judge::{Verdict, instantiate, is_running_average, judge};
use region::{Group, Pair, Region, Scope};
use rustc_hash::{FxHashMap, FxHashSet};
use tape::{Entry, Leaf};
use update::Mismatch;

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
    result.carried.extend(running_statistics(graph).into_iter().map(|(value, next, _)| (value, next)));
    let mut known: FxHashMap<Vec<u64>, Result<Verdict, Mismatch>> = FxHashMap::default();
    let owners = owners(&groups);
    for group in groups.iter().filter(|g| !taken.contains(&g.theta.next)) {
        let region = scope.region(group);
        if let Some((state, other)) = shared_state(group, &owners) {
            let name = |v: ValueId| graph.name_of(v).to_string();
            let node = graph.value(group.theta.next).producer.map_or_else(String::new, |(n, _)| describe(graph, n));
            let reason = format!("its state '{}' belongs to '{}' as well", name(state), name(other));
            result.unmatched.push(Unmatched { parameter: name(group.theta.value), reason, node });
            result.carried.push((group.theta.value, group.theta.next));
            result.carried.extend(group.states.iter().map(|p| (p.value, p.next)));
            continue;
        }
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
    let mut seen = FxHashSet::default();
    result.carried.retain(|(value, _)| seen.insert(*value));
    let position: FxHashMap<ValueId, usize> = graph.inputs.iter().enumerate().map(|(i, v)| (*v, i)).collect();
    result.matches.sort_by_key(|m| position.get(&m.parameter).copied());
    Ok(result)
}

/// The parameters whose updates read each state.
fn owners(groups: &[Group]) -> FxHashMap<ValueId, Vec<ValueId>> {
    let mut owners: FxHashMap<ValueId, Vec<ValueId>> = FxHashMap::default();
    for group in groups {
        for state in &group.states {
            owners.entry(state.value).or_default().push(group.theta.value);
        }
    }
    owners
}

/// A state of the group that another parameter's update reads as its own, and that parameter.
fn shared_state(group: &Group, owners: &FxHashMap<ValueId, Vec<ValueId>>) -> Option<(ValueId, ValueId)> {
    let other = |state: &Pair| owners.get(&state.value)?.iter().copied().find(|theta| *theta != group.theta.value);
    group.states.iter().find_map(|state| Some((state.value, other(state)?)))
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

/// Everything about a region but which values of the graph it stands on, as numbers.
fn signature(region: &Region) -> Vec<u64> {
    let mut key = Vec::with_capacity(region.tape.entries.len() * 4);
    for entry in &region.tape.entries {
        match entry {
            Entry::Constant(x) => key.extend([0, x.to_bits()]),
            Entry::Leaf(Leaf::Scalar(v)) => key.extend([1, u64::from(v.0)]),
            Entry::Leaf(Leaf::Opaque(_)) => key.push(2),
            Entry::Leaf(Leaf::Tensor(_)) => key.push(3),
            Entry::Leaf(Leaf::Theta) => key.push(4),
            Entry::Leaf(Leaf::State(i)) => key.extend([5, *i as u64]),
            Entry::Apply { op, args, .. } => {
                key.extend([6, *op as u64, args.len() as u64]);
                key.extend(args.iter().map(|a| *a as u64));
            }
        }
    }
    key.extend(region.next.iter().map(|slot| *slot as u64));
    key
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod testing;

#[cfg(test)]
mod disguise;

#[cfg(test)]
mod hostile;
