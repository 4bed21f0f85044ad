//! Elementwise work and reductions that amount to what a hand-written kernel does.
//!
//! Exported steps spell gradients in primitive operators, and every exporter spells them otherwise. So a rule does not compare
//! operators: it takes the values that lie between what the kernel reads and what it writes, computes them on numbers
//! ([`region`]), and compares them with the kernel's formula. Numbers decide only where they can: the values in between are
//! analytic in what the kernel reads, so that equal on numbers that follow no pattern is equal everywhere; rows are computed
//! apart from each other, or added up once. What somebody else reads besides stays as it is, and so does all that a kernel
//! would not save.
//!
//! A loss of class ids and its gradient are not looked for: what a graph does with ids that are no classes (an index from the end,
//! a row without loss) the kernel counts as an error.

mod layer_norm;
mod log_softmax;
mod region;
mod softmax;
mod softmax_rows;
#[cfg(test)]
mod testing;

use super::{BufferId, Draft, Kind, Node, Task, Work};
use region::Graph;
use std::collections::HashSet;

/// Finds what a rule replaces around the work at a position.
type Rule = fn(&Graph<'_>, usize) -> Option<Rewrite>;

/// All rules, those first whose results others look for.
const RULES: [&[Rule]; 2] = [&[log_softmax::rule, softmax_rows::rule], &[softmax::rule, layer_norm::rule]];

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
    for rules in RULES {
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
    // What nobody reads any more, last first.
    let mut read: HashSet<BufferId> = draft.outputs.iter().map(|(_, id, _)| *id).collect();
    let mut kept: Vec<Node> = Vec::new();
    for node in slots.into_iter().flatten().rev() {
        if whole_result(&node).is_none_or(|id| read.contains(&id)) {
            read.extend(region::reads(&node));
            kept.push(node);
        }
    }
    kept.reverse();
    draft.work = kept;
    draft
}

/// The one result of work that does nothing else.
fn whole_result(node: &Node) -> Option<BufferId> {
    match &node.kind {
        Kind::Map(map) => Some(map.output),
        Kind::Work(work) => work.writes.first().copied().filter(|_| matches!(work.task, Task::Softmax { .. })),
    }
}
