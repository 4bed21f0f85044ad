//! One order for all work.
//!
//! Work is taken depth first from the updates and outputs upwards, in the draft's order, so that values are used soon after
//! they are computed. Updates and assignments come last: they overwrite what other work reads.

use super::{Draft, Kind, Plan, PlanError, Source, Task, Work};
use std::collections::HashMap;

/// Orders a draft that holds work only.
pub(super) fn schedule(draft: Draft) -> Result<Plan, PlanError> {
    let Draft { buffers, work, inputs, outputs, scaling } = draft;
    let work: Vec<Work> = work
        .into_iter()
        .filter_map(|node| match node.kind {
            Kind::Work(work) => Some(work),
            Kind::Map(_) => None,
        })
        .collect();
    let is_update = |w: &Work| matches!(w.task, Task::NeuroPlastic { .. } | Task::Assign | Task::CountStep);
    let mut writers: HashMap<usize, Vec<usize>> = HashMap::new();
    for (at, w) in work.iter().enumerate().filter(|(_, w)| !is_update(w)) {
        w.writes.iter().for_each(|id| writers.entry(*id).or_default().push(at));
    }
    // What an update writes nobody may read, but the updates themselves.
    for (at, update) in work.iter().enumerate().filter(|(_, w)| is_update(w)) {
        for id in update.writes.iter().filter(|id| buffers[**id].source == Source::Kept) {
            let reads = |(other, w): (usize, &Work)| {
                other != at && is_update(w) && matches!(w.task, Task::Assign) && w.reads.contains(id)
            };
            if work.iter().enumerate().any(reads) || outputs.iter().any(|(_, out, _)| out == id) {
                return Err(PlanError::ReadAfterUpdate(buffers[*id].name.clone()));
            }
        }
    }
    let mut order: Vec<usize> = Vec::with_capacity(work.len());
    let mut state = vec![0u8; work.len()];
    let wanted: Vec<usize> = (outputs.iter().flat_map(|(_, id, _)| writers.get(id).cloned().unwrap_or_default()))
        .chain((0..work.len()).filter(|at| is_update(&work[*at]) || matches!(work[*at].task, Task::Score { .. })))
        .collect();
    for root in wanted {
        // An explicit stack: a step may be thousands of nodes deep.
        let mut stack = vec![(root, false)];
        while let Some((at, is_left)) = stack.pop() {
            if is_left {
                state[at] = 2;
                order.push(at);
            } else if state[at] == 0 {
                state[at] = 1;
                stack.push((at, true));
                let above = work[at].reads.iter().filter_map(|id| writers.get(id)).flatten().filter(|w| **w != at);
                stack.extend(above.rev().map(|w| (*w, false)));
            } else if state[at] == 1 {
                // It is being left: its own work is above it.
                return Err(PlanError::Graph("its work depends on itself".into()));
            }
        }
    }
    // Groups of updates before assignments, which may read what they have computed.
    let rank = |at: &usize| match work[*at].task {
        Task::NeuroPlastic { .. } => 1,
        Task::Assign | Task::CountStep => 2,
        _ => 0,
    };
    order.sort_by_key(rank);
    let mut slots: Vec<Option<Work>> = work.into_iter().map(Some).collect();
    let work = order.into_iter().filter_map(|at| slots[at].take()).collect();
    Ok(Plan { buffers, work, inputs, outputs, precision: Default::default(), scaling, arena_bytes: 0, live_bytes: 0 })
}
