//! Elementwise work and reductions that amount to what a hand-written kernel does.
//!
//! Exported steps spell gradients in primitive operators, and every exporter spells them otherwise. So a rule does not compare
//! operators: it takes the values that lie between what the kernel reads and what it writes, computes them on numbers
//! ([`region`]), and compares them with the kernel's formula. Numbers decide only where they can: the values in between are
//! analytic in what the kernel reads, so that equal on numbers that follow no pattern is equal everywhere; rows are computed
//! apart from each other, or added up once. What somebody else reads besides stays as it is, and so does all that a kernel
//! would not save.
//!
//! Losses of class ids ([`entropy`]) read ids besides numbers. What a graph makes of an id is followed for every class there is
//! ([`labels`]): indices must be the ids themselves, forward and backward, but for at most one id that is no class and that both
//! put the same class in the place of; masks, counts and means around it stay work of their own. Every other id that is no class
//! the kernel counts, and the step fails with the sentence of [`super::device::DeviceError::Index`] where the graph would have
//! counted from the end, or had a row without loss: an error, and never another number.

mod batch_norm;
mod entropy;
mod labels;
mod layer_norm;
mod log_softmax;
mod region;
mod softmax;
mod softmax_rows;
#[cfg(test)]
mod testing;

use super::{BufferId, Draft, Kind, Node, Task, Work};
use region::Graph;
use std::collections::{HashMap, HashSet};

/// Finds what a rule replaces around the work at a position.
type Rule = fn(&Graph<'_>, usize) -> Option<Rewrite>;

/// All rules, those first whose results others look for.
const RULES: [&[Rule]; 2] =
    [&[log_softmax::rule, softmax_rows::rule], &[softmax::rule, layer_norm::rule, batch_norm::rule]];
/// So many of them come before losses are looked for, which read their results.
const BEFORE_LOSSES: usize = 1;

/// Work in the place of what computed its results.
struct Rewrite {
    at: usize,
    work: Work,
    /// What computed them.
    gone: Vec<usize>,
    /// New buffers: placeholders in `work.writes` count from the draft's end.
    room: Vec<(super::DType, usize)>,
}

impl Rewrite {
    /// Work that writes `results`, each of which one piece of work computes now, and then `room`: types and elements of
    /// buffers that nothing else reads. `None` when something it reads would come too late.
    fn new(
        graph: &Graph<'_>,
        task: Task,
        reads: Vec<BufferId>,
        results: Vec<BufferId>,
        room: Vec<(super::DType, usize)>,
    ) -> Option<Self> {
        let gone = results.iter().map(|id| graph.producer(*id)).collect::<Option<Vec<usize>>>()?;
        let at = *gone.iter().min()?;
        let in_time = reads.iter().all(|id| graph.producer(*id).is_none_or(|p| p < at));
        let name = graph.draft.work[*gone.last()?].name.clone();
        in_time.then_some(Rewrite { at, work: Work { name, task, reads, writes: results }, gone, room })
    }
}

/// Puts kernels in the place of what amounts to them.
pub(super) fn recognise(mut draft: Draft) -> Draft {
    for (round, rules) in RULES.into_iter().enumerate() {
        if round == BEFORE_LOSSES {
            entropy::join(&mut draft);
        }
        let mut taken: HashSet<usize> = HashSet::new();
        let mut rewrites: Vec<Rewrite> = Vec::new();
        let graph = Graph::new(&draft);
        for at in 0..draft.work.len() {
            for rule in rules {
                if let Some(rewrite) = rule(&graph, at)
                    && !rewrite.gone.iter().any(|p| taken.contains(p))
                {
                    taken.extend(&rewrite.gone);
                    rewrites.push(rewrite);
                }
            }
        }
        if !rewrites.is_empty() {
            draft = rewritten(draft, rewrites);
        }
    }
    draft
}

fn rewritten(mut draft: Draft, rewrites: Vec<Rewrite>) -> Draft {
    let mut slots: Vec<Option<Node>> = std::mem::take(&mut draft.work).into_iter().map(Some).collect();
    for Rewrite { at, mut work, gone, room } in rewrites {
        for (dtype, elements) in room {
            let id = draft.buffer(&work.name, dtype, elements, super::Source::Computed);
            work.writes.push(id);
        }
        gone.iter().for_each(|p| slots[*p] = None);
        slots[at] = Some(Node { name: work.name.clone(), kind: Kind::Work(work) });
    }
    draft.work = slots.into_iter().flatten().collect();
    settle(&mut draft);
    draft
}

/// Puts work behind what it reads, and drops what nobody reads any more.
fn settle(draft: &mut Draft) {
    let mut producers: HashMap<BufferId, usize> = HashMap::new();
    for (at, node) in draft.work.iter().enumerate() {
        producers.extend(writes(node).iter().map(|id| (*id, at)));
    }
    producers.retain(|id, _| draft.buffers[*id].source == super::Source::Computed);
    let (mut order, mut seen) = (Vec::with_capacity(draft.work.len()), vec![false; draft.work.len()]);
    for root in 0..draft.work.len() {
        // An explicit stack: a step may be thousands of nodes deep.
        let mut stack = vec![(root, false)];
        while let Some((at, is_left)) = stack.pop() {
            if is_left {
                order.push(at);
            } else if !std::mem::replace(&mut seen[at], true) {
                stack.push((at, true));
                let above = region::reads(&draft.work[at]);
                stack.extend(above.iter().rev().filter_map(|id| producers.get(id)).map(|p| (*p, false)));
            }
        }
    }
    let mut slots: Vec<Option<Node>> = std::mem::take(&mut draft.work).into_iter().map(Some).collect();
    let mut read: HashSet<BufferId> = draft.outputs.iter().map(|(_, id, _)| *id).collect();
    let mut kept: Vec<Node> = Vec::new();
    for mut node in order.into_iter().rev().filter_map(|at| slots[at].take()) {
        if whole_result(&node).is_none_or(|id| read.contains(&id)) {
            drop_logarithm(&mut node, &read);
            read.extend(region::reads(&node));
            kept.push(node);
        }
    }
    kept.reverse();
    draft.work = kept;
}

/// A loss whose logarithms nobody reads gives none.
fn drop_logarithm(node: &mut Node, read: &HashSet<BufferId>) {
    if let Kind::Work(work) = &mut node.kind
        && let Task::CrossEntropy { logarithm, .. } = &mut work.task
        && *logarithm
        && work.writes.last().is_some_and(|id| !read.contains(id))
    {
        *logarithm = false;
        work.writes.pop();
    }
}

fn writes(node: &Node) -> &[BufferId] {
    match &node.kind {
        Kind::Map(map) => std::slice::from_ref(&map.output),
        Kind::Work(work) => &work.writes,
    }
}

/// The one result of work that does nothing else.
fn whole_result(node: &Node) -> Option<BufferId> {
    match &node.kind {
        Kind::Map(map) => Some(map.output),
        Kind::Work(work) => {
            let is_pure =
                matches!(work.task, Task::Softmax { .. } | Task::ScatterElements { .. } | Task::Gather { .. });
            work.writes.first().copied().filter(|_| is_pure)
        }
    }
}
