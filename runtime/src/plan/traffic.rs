//! How many bytes a step moves between memory and the GPU's processors, at least, when no cache keeps anything from one piece of work
//! to the next.
//!
//! Every piece of work reads each element that it needs once and writes each result once, however often a kernel really does:
//! what a product reads again block by block, rows that are too long for registers, partial sums, padding of what epilogues keep
//! for ReLU are not counted beyond that. An update reads and writes parameter and states once.

use super::{BufferId, Plan, Task, Work};
use npc_kernels::cpu::contraction::Product;

/// Bytes of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read by all work.
    pub read: u64,
    /// Written by all work.
    pub written: u64,
    /// What of `read` are factors of matrix products.
    pub factors: u64,
}

/// Of all work of a plan.
pub fn of_plan(plan: &Plan) -> Traffic {
    plan.work.iter().map(|work| of_work(plan, work)).fold(Traffic::default(), |sum, one| Traffic {
        read: sum.read + one.read,
        written: sum.written + one.written,
        factors: sum.factors + one.factors,
    })
}

/// Of one piece of work.
pub fn of_work(plan: &Plan, work: &Work) -> Traffic {
    let whole = |ids: &[BufferId]| ids.iter().map(|id| plan.buffers[*id].bytes()).sum::<u64>();
    let part = |id: BufferId, elements: usize| (elements * plan.buffers[id].dtype.bytes()) as u64;
    let moved = |read: u64, written: u64| Traffic { read, written, factors: 0 };
    let multiplied = |products: &[Product]| {
        let [a, b, c] = [work.reads[0], work.reads[1], work.writes[0]];
        let matrix = |distance: usize, batch: usize| if distance == 0 { 1 } else { batch };
        let factors = products.iter().map(|p| {
            let (left, right) = (matrix(p.a.batch, p.batch) * p.rows, matrix(p.b.batch, p.batch) * p.columns);
            part(a, left * p.inner) + part(b, right * p.inner)
        });
        let results = |accumulate: bool| {
            let those = products.iter().filter(|p| p.accumulate || !accumulate);
            those.map(|p| part(c, p.batch * p.rows * p.columns)).sum::<u64>()
        };
        let factors = factors.sum::<u64>();
        Traffic { read: factors + results(true), written: results(false), factors }
    };
    match &work.task {
        Task::Products(products) => multiplied(products),
        Task::ProductWith { product, .. } => {
            let plain = multiplied(std::slice::from_ref(product));
            let (read, written) = (whole(&work.reads[2..]), whole(&work.writes[1..]));
            Traffic { read: plain.read + read, written: plain.written + written, ..plain }
        }
        Task::Copy(view) | Task::Place(view) => {
            moved(part(work.reads[0], view.len()), part(work.writes[0], view.len()))
        }
        Task::Gather { .. } => {
            let result = whole(&work.writes[..1]);
            moved(result + whole(&work.reads[1..]), result)
        }
        // The whole is copied, unless it is changed where it lies; what is added to is read and written besides.
        Task::ScatterElements { .. } | Task::ScatterRows { .. } => {
            let copied = if work.reads[0] == work.writes[0] { 0 } else { whole(&work.reads[..1]) };
            let changed = whole(&work.reads[2..]);
            moved(copied + whole(&work.reads[1..]) + changed, copied + whole(&work.writes[1..]) + changed)
        }
        Task::NeuroPlastic { updates, .. } => {
            let kept = |write: bool| {
                let ids = updates.iter().flat_map(|u| {
                    let states = u.states.iter().copied().chain(u.master).chain([u.parameter]);
                    states.chain((!write).then_some(u.gradient))
                });
                ids.map(|id| plan.buffers[id].bytes()).sum::<u64>()
            };
            moved(kept(false), kept(true))
        }
        _ => moved(whole(&work.reads), whole(&work.writes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Buffer, DType, Source, View};
    use npc_kernels::cpu::contraction::Operand;
    use npc_kernels::cuda::index::Picks;

    #[test]
    fn bytes_are_counted_by_hand() {
        let buffer = |dtype, elements| {
            let (name, source) = (String::new(), Source::Computed);
            Buffer { name, dtype, elements, source, offset: 0 }
        };
        let buffers = [
            (DType::BF16, 24),
            (DType::BF16, 20),
            (DType::F32, 60),
            (DType::F32, 30),
            (DType::I64, 6),
            (DType::F32, 60),
        ];
        let buffers = buffers.map(|(dtype, elements)| buffer(dtype, elements)).to_vec();
        let place = |along: usize, batch: usize| Operand { start: 0, batch, down: along, along: 1 };
        let (a, b, c) = (place(4, 12), place(5, 0), place(5, 15));
        let once = Product { rows: 3, columns: 5, inner: 4, batch: 2, a, b, c, accumulate: false };
        let again = Product { accumulate: true, ..once };
        let work = |task, reads: &[usize], writes: &[usize]| Work {
            name: String::new(),
            task,
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        };
        let products = work(Task::Products(vec![once, again]), &[0, 1], &[2]);
        let copy = work(Task::Copy(View::dense(2, &[6, 5])), &[2], &[3]);
        let picks = Picks { outer: 1, extent: 12, inner: 5, picks: 6 };
        // Six rows of 5 added to 12, by six indices, into a copy and in place.
        let scatter = |to| work(Task::ScatterElements { picks, add: true }, &[2, 4, 3], &[to]);
        let scatters = [scatter(5), scatter(2)];
        let (work, outputs) = (vec![products, copy], Vec::new());
        let (inputs, precision, scaling) = (Vec::new(), Default::default(), None);
        let plan = Plan { buffers, work, inputs, outputs, precision, scaling, arena_bytes: 0, live_bytes: 0 };
        // Two left matrices of 3×4, one right one of 4×5, which both products read; two results of 3×5, the second time read, too.
        let factors = 2 * 2 * (24 + 20);
        let multiplied = Traffic { read: factors + 4 * 30, written: 2 * 4 * 30, factors };
        assert_eq!(of_work(&plan, &plan.work[0]), multiplied);
        assert_eq!(of_work(&plan, &plan.work[1]), Traffic { read: 120, written: 120, factors: 0 });
        let all = Traffic { read: multiplied.read + 120, written: multiplied.written + 120, factors };
        assert_eq!(of_plan(&plan), all);
        let [copied, in_place] = scatters.map(|work| of_work(&plan, &work));
        assert_eq!((copied.read, copied.written), (240 + 48 + 120 + 120, 240 + 120));
        assert_eq!((in_place.read, in_place.written), (48 + 120 + 120, 120));
    }
}
