//! Scatters into the buffer that they start from, instead of into a copy of it.

use super::{BufferId, Draft, Kind, Source, Task, Work};

/// Lets a scatter change what it starts from, where that is computed and nobody else reads it.
pub(super) fn scatter(mut draft: Draft) -> Draft {
    for at in 0..draft.work.len() {
        let Kind::Work(Work { task, reads, writes, .. }) = &draft.work[at].kind else { continue };
        if !matches!(task, Task::ScatterElements { .. } | Task::ScatterRows { .. }) {
            continue;
        }
        let (from, to) = (reads[0], writes[0]);
        if is_own(&draft, from) && draft.buffers[from].bytes() == draft.buffers[to].bytes() {
            draft.work.iter_mut().for_each(|node| rename(&mut node.kind, from, to));
        }
    }
    draft
}

/// Whether a buffer is computed and read once.
fn is_own(draft: &Draft, id: BufferId) -> bool {
    let reads = |kind: &Kind| match kind {
        Kind::Work(work) => work.reads.iter().filter(|read| **read == id).count(),
        Kind::Map(_) => 0,
    };
    draft.buffers[id].source == Source::Computed
        && draft.outputs.iter().all(|(_, out, _)| *out != id)
        && draft.work.iter().map(|node| reads(&node.kind)).sum::<usize>() == 1
}

fn rename(kind: &mut Kind, from: BufferId, to: BufferId) {
    let Kind::Work(work) = kind else { return };
    work.reads.iter_mut().chain(&mut work.writes).filter(|id| **id == from).for_each(|id| *id = to);
    if let Task::Place(view) = &mut work.task
        && view.buffer == from
    {
        view.buffer = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npc_kernels::cuda::index::Picks;
    use npc_kernels::elementwise::DType;

    /// A value copied from an input, and a scatter into it; the draft before and after.
    fn scattered(change: impl Fn(&mut Draft, [BufferId; 3])) -> (Draft, [BufferId; 3]) {
        let mut draft = Draft::default();
        let float = |draft: &mut Draft, name: &str, source| draft.buffer(name, DType::F32, 12, source);
        let x = float(&mut draft, "x", Source::Fed);
        let base = float(&mut draft, "base", Source::Computed);
        let indices = draft.buffer("indices", DType::I64, 2, Source::Fed);
        let y = float(&mut draft, "y", Source::Computed);
        draft.push("base", Task::Copy(super::super::View::dense(x, &[12])), vec![x], vec![base]);
        let picks = Picks { outer: 1, extent: 6, inner: 2, picks: 2 };
        draft.push("y", Task::ScatterElements { picks, add: true }, vec![base, indices, x], vec![y]);
        draft.outputs.push(("y".into(), y, vec![12]));
        change(&mut draft, [x, base, y]);
        (scatter(draft), [x, base, y])
    }

    fn work(draft: &Draft, at: usize) -> &Work {
        let Kind::Work(work) = &draft.work[at].kind else { panic!("a map") };
        work
    }

    #[test]
    fn what_nobody_else_reads_is_changed_in_place() {
        let (draft, [_, _, y]) = scattered(|_, _| {});
        assert_eq!((work(&draft, 0).writes[0], work(&draft, 1).reads[0], work(&draft, 1).writes[0]), (y, y, y));
    }

    #[test]
    fn everything_else_is_copied() {
        let is_output = |draft: &mut Draft, [_, base, _]: [BufferId; 3]| {
            draft.outputs.push(("base".into(), base, vec![12]));
        };
        let is_read = |draft: &mut Draft, [_, base, _]: [BufferId; 3]| {
            let other = draft.buffer("other", DType::F32, 12, Source::Computed);
            draft.push("other", Task::Copy(super::super::View::dense(base, &[12])), vec![base], vec![other]);
        };
        let is_added_to_itself = |draft: &mut Draft, [_, base, _]: [BufferId; 3]| {
            let Kind::Work(work) = &mut draft.work[1].kind else { return };
            work.reads[2] = base;
        };
        let is_kept = |draft: &mut Draft, [_, base, _]: [BufferId; 3]| draft.buffers[base].source = Source::Kept;
        let is_constant = |draft: &mut Draft, [_, base, _]: [BufferId; 3]| {
            draft.buffers[base].source = Source::Constant(vec![0; 48]);
        };
        let changes: [fn(&mut Draft, [BufferId; 3]); 5] =
            [is_output, is_read, is_added_to_itself, is_kept, is_constant];
        for change in changes {
            let (draft, [_, base, y]) = scattered(change);
            assert_eq!(
                (work(&draft, 0).writes[0], work(&draft, 1).reads[0], work(&draft, 1).writes[0]),
                (base, base, y)
            );
        }
    }
}
