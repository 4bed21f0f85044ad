//! The logarithm of a softmax that nobody else reads: the same kernel gives it, and exactly where a probability underflows.

use super::Rewrite;
use super::region::Graph;
use crate::plan::maps::{Operand, What};
use crate::plan::{Kind, Task};
use npc_kernels::elementwise::Operation;

pub fn rule(graph: &Graph<'_>, at: usize) -> Option<Rewrite> {
    let Kind::Work(softmax) = &graph.draft.work[at].kind else { return None };
    let Task::Softmax { rows, columns, logarithm: false } = softmax.task else { return None };
    let (&[x], &[y]) = (softmax.reads.as_slice(), softmax.writes.as_slice()) else { return None };
    let &[reader] = graph.readers(y) else { return None };
    let map = graph.map(reader)?;
    let (What::Apply(Operation::Log), [Operand::View(view)]) = (&map.what, map.operands.as_slice()) else {
        return None;
    };
    if graph.is_output(y) || !view.is_dense() || view.len() as u64 != rows * columns {
        return None;
    }
    Rewrite::new(graph, Task::Softmax { rows, columns, logarithm: true }, vec![x], vec![map.output], vec![])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SHAPE, Step, Value};
    use npc_kernels::elementwise::Operation::{Add, Exp, Log, Square};

    /// A softmax of `x`, or its logarithm, and what is made of it.
    fn step(logarithm: bool, finish: fn(&mut Step, Value) -> Value) -> Vec<&'static str> {
        let mut step = Step::new();
        let x = step.input("x", SHAPE);
        let y = step.softmax(x, logarithm);
        let z = finish(&mut step, y);
        step.output("z", z);
        step.run()
    }

    #[test]
    fn the_logarithm_of_a_softmax_is_one_kernel() {
        assert_eq!(step(false, |step, y| step.unary(Log, y)), ["log-softmax"]);
    }

    #[test]
    fn look_alikes_stay() {
        let shown = |step: &mut Step, y| {
            step.output("y", y);
            step.unary(Log, y)
        };
        let read_twice = |step: &mut Step, y| {
            let log = step.unary(Log, y);
            step.binary(Add, log, y)
        };
        let summed = |step: &mut Step, y| {
            let sum = step.sum(y, 0);
            step.output("sum", sum);
            step.unary(Log, y)
        };
        let shifted = |step: &mut Step, y| {
            let above = step.times(y, 1.5);
            step.unary(Log, above)
        };
        let of_part = |step: &mut Step, y| step.logarithm_of_last_row(y);
        for finish in [shown, read_twice, summed, shifted, of_part] {
            assert!(step(false, finish).is_empty());
        }
        for other in [|step: &mut Step, y| step.unary(Exp, y), |step: &mut Step, y| step.unary(Square, y)] {
            assert!(step(false, other).is_empty());
        }
        // Of a log-softmax there is nothing to join.
        let of_logarithm = |step: &mut Step, y| {
            let above = step.times(y, -1.0);
            step.unary(Log, above)
        };
        assert!(step(true, of_logarithm).is_empty());
    }
}
