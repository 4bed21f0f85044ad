//! A softmax of rows, or its logarithm, spelled out from the rows' largest elements on.

use super::Rewrite;
use super::region::{self, Form, Graph, Grid, TRIALS};
use crate::plan::Task;
use crate::plan::maps::{Operand, What};
use npc_kernels::elementwise::Reduce;

pub fn rule(graph: &Graph<'_>, at: usize) -> Option<Rewrite> {
    let largest = graph.map(at)?;
    let (What::Reduce(Reduce::Maximum, axes), [Operand::View(x)]) = (&largest.what, largest.operands.as_slice()) else {
        return None;
    };
    let mut kept = largest.shape.clone();
    axes.iter().for_each(|axis| kept[*axis] = 1);
    let rows: usize = kept.iter().product();
    let columns = x.len().checked_div(rows)?;
    let grid = Grid::new(rows as u64, columns as u64)?;
    let is_whole = x.is_dense() && graph.float(grid, x.buffer) == Some(Form::Whole);
    if !is_whole || grid.part(&kept, &largest.shape) != Some(Form::Rows) {
        return None;
    }
    let behind = graph.behind(&[largest.output]);
    behind.iter().copied().filter(|id| graph.float(grid, *id) == Some(Form::Whole)).find_map(|y| {
        let region = graph.region(y, |id| id == x.buffer)?;
        let has_formula = graph.is_analytic(&region, Some(at)) && graph.row_sums(grid, &region) == Some(0);
        if !region.leaves.iter().eq([&x.buffer]) || !has_formula || !graph.is_closed(&[&region], &[y]) {
            return None;
        }
        let is = |logarithm: &bool| {
            TRIALS.into_iter().all(|rows| {
                let numbers = region::numbers(rows * columns, 0.6);
                let want = region::softmax(&numbers, columns, *logarithm);
                graph.trial(grid, rows, &[(x.buffer, &numbers)]).is(y, &want)
            })
        };
        let logarithm = [false, true].into_iter().find(is)?;
        let task = Task::Softmax { rows: rows as u64, columns: columns as u64, logarithm };
        Rewrite::new(graph, task, vec![x.buffer], vec![y], vec![])
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SHAPE, Step, Value};
    use npc_kernels::elementwise::Operation::{Add, Divide, Exp, Log, Subtract};
    use npc_kernels::elementwise::Reduce;

    /// Keeps what is below the largest element from falling further, as a trial's numbers would not tell.
    const BOUND: f32 = -60.0;
    const PLAIN: [bool; 2] = [false; 2];

    /// Along which axes the largest elements and the sums are taken, and what is made of `x` and them; whether the exponentials
    /// are an output, too, and whether what they are of is bounded.
    fn step(axes: [usize; 2], finish: fn(&mut Step, [Value; 4]) -> Value, how: [bool; 2]) -> Vec<&'static str> {
        let [shows, is_bounded] = how;
        let mut step = Step::new();
        let x = step.input("x", SHAPE);
        let largest = step.reduce(Reduce::Maximum, x, axes[0]);
        let mut below = step.binary(Subtract, x, largest);
        if is_bounded {
            below = step.at_least(below, BOUND);
        }
        let power = step.unary(Exp, below);
        let sum = step.reduce(Reduce::Sum, power, axes[1]);
        let y = finish(&mut step, [x, largest, power, sum]);
        step.output("y", y);
        if shows {
            step.output("power", power);
        }
        step.run()
    }

    fn quotient(step: &mut Step, [_, _, power, sum]: [Value; 4]) -> Value {
        step.binary(Divide, power, sum)
    }

    #[test]
    fn a_softmax_and_its_logarithm_are_one_kernel() {
        let logarithm = |step: &mut Step, [x, largest, _, sum]: [Value; 4]| {
            let log = step.unary(Log, sum);
            let taken = step.binary(Add, log, largest);
            step.binary(Subtract, x, taken)
        };
        assert_eq!(step([1, 1], quotient, PLAIN), ["softmax"]);
        assert_eq!(step([1, 1], logarithm, PLAIN), ["log-softmax"]);
    }

    #[test]
    fn look_alikes_stay() {
        let without_largest = |step: &mut Step, [x, _, _, sum]: [Value; 4]| {
            let log = step.unary(Log, sum);
            step.binary(Subtract, x, log)
        };
        let product = |step: &mut Step, [_, _, power, sum]: [Value; 4]| step.binary(Add, power, sum);
        assert!(step([1, 0], quotient, PLAIN).is_empty());
        assert!(step([0, 0], quotient, PLAIN).is_empty());
        assert!(step([0, 1], quotient, PLAIN).is_empty());
        assert!(step([1, 1], without_largest, PLAIN).is_empty());
        assert!(step([1, 1], product, PLAIN).is_empty());
        assert!(step([1, 1], quotient, [true, false]).is_empty());
        assert!(step([1, 1], quotient, [false, true]).is_empty());
    }
}
