//! The gradient of a softmax, `y · (dy − Σ y·dy)`, or of its logarithm, `dy − exp(y) · Σ dy`.

use super::Rewrite;
use super::region::{self, Form, Graph, Grid, TRIALS};
use crate::plan::{BufferId, Kind, Task};

pub fn rule(graph: &Graph<'_>, at: usize) -> Option<Rewrite> {
    let Kind::Work(softmax) = &graph.draft.work[at].kind else { return None };
    let (rows, columns, logarithm, y) = match softmax.task {
        Task::Softmax { rows, columns, logarithm } => (rows, columns, logarithm, *softmax.writes.first()?),
        // Losses give the logarithms last.
        Task::CrossEntropy { shape, logarithm: true, .. } if shape.positions == 1 => {
            (shape.batch as u64, shape.classes as u64, true, *softmax.writes.last()?)
        }
        _ => return None,
    };
    let grid = Grid::new(rows, columns)?;
    let behind = graph.behind(&[y]);
    behind.iter().find_map(|dx| {
        let dy = incoming(graph, grid, y, &behind, *dx, logarithm)?;
        // One kernel instead of two, besides what now has to be written out before and read again behind.
        let is_map = |at: &usize| graph.map(*at).is_some();
        let before = graph.producer(dy).is_some_and(|at| is_map(&at));
        let after = graph.readers(*dx).iter().any(is_map);
        if before && after {
            return None;
        }
        Rewrite::new(graph, Task::SoftmaxGradient { rows, columns, logarithm }, vec![y, dy], vec![*dx], vec![])
    })
}

/// What comes in, if `dx` is the gradient of `y`.
fn incoming(
    graph: &Graph<'_>,
    grid: Grid,
    y: BufferId,
    behind: &[BufferId],
    dx: BufferId,
    logarithm: bool,
) -> Option<BufferId> {
    if graph.float(grid, dx) != Some(Form::Whole) {
        return None;
    }
    let region = graph.region(dx, |id| !behind.contains(&id) && graph.float(grid, id) == Some(Form::Whole))?;
    let mut others = region.leaves.iter().filter(|id| **id != y);
    let (dy, None) = (*others.next()?, others.next()) else { return None };
    let fits = region.leaves.contains(&y) && graph.float(grid, dy) == Some(Form::Whole);
    if !fits || !graph.is_analytic(&region, None) || graph.row_sums(grid, &region) != Some(0) {
        return None;
    }
    let columns = grid.columns;
    let row = |(y, dy): (&[f64], &[f64])| {
        let weight = |y: f64| if logarithm { 1.0 } else { y };
        let sum: f64 = y.iter().zip(dy).map(|(y, dy)| weight(*y) * dy).sum();
        let one = |(y, dy): (&f64, &f64)| if logarithm { dy - y.exp() * sum } else { y * (dy - sum) };
        y.iter().zip(dy).map(one).collect::<Vec<f64>>()
    };
    let is_gradient = |rows: usize| {
        let values = region::softmax(&region::numbers(rows * columns, 0.3), columns, logarithm);
        let gradient = region::numbers(rows * columns, 0.7);
        let want: Vec<f64> = values.chunks_exact(columns).zip(gradient.chunks_exact(columns)).flat_map(row).collect();
        graph.trial(grid, rows, &[(y, &values), (dy, &gradient)]).is(dx, &want)
    };
    (graph.is_closed(&[&region], &[dx]) && TRIALS.into_iter().all(is_gradient)).then_some(dy)
}

#[cfg(test)]
mod tests {
    use super::super::region::TRIALS;
    use super::super::testing::{SHAPE, Step, Value};
    use npc_kernels::elementwise::Operation::{self, Add, Exp, Multiply, Subtract};

    /// A softmax of `x` that is an output, and what `gradient` makes of it and of what comes in.
    fn step(logarithm: bool, gradient: impl Fn(&mut Step, Value, Value) -> Value) -> Vec<&'static str> {
        let mut step = Step::new();
        let (x, dy) = (step.input("x", SHAPE), step.input("dy", SHAPE));
        let y = step.softmax(x, logarithm);
        step.output("y", y);
        let dx = gradient(&mut step, y, dy);
        step.output("dx", dx);
        step.run()
    }

    /// What y · (dy − Σ y·dy) may differ in.
    struct Spelling {
        /// Along which axis is added up.
        axis: usize,
        /// What is added up lacks y.
        is_unweighted: bool,
        /// How the sums' part is joined.
        last: Operation,
        /// Whether the product, or the sums, are an output, too.
        shows: [bool; 2],
        /// The sums are multiplied by how many rows there are, and divided by this.
        rows: Option<usize>,
        /// What comes in and goes out is multiplied by numbers.
        factors: Option<[f32; 2]>,
    }

    const PLAIN: Spelling =
        Spelling { axis: 1, is_unweighted: false, last: Subtract, shows: [false; 2], rows: None, factors: None };

    fn spelled(how: &Spelling) -> Vec<&'static str> {
        step(false, |step, y, mut dy| {
            if let Some([before, _]) = how.factors {
                dy = step.times(dy, before);
            }
            let product = step.binary(Multiply, dy, y);
            let mut sum = step.sum(if how.is_unweighted { dy } else { product }, how.axis);
            for (name, value, _) in [("product", product, 0), ("sum", sum, 1)].iter().filter(|(_, _, i)| how.shows[*i])
            {
                step.output(name, *value);
            }
            if let Some(rows) = how.rows {
                sum = step.shared(sum, rows);
            }
            let taken = step.binary(Multiply, y, sum);
            let dx = step.binary(how.last, product, taken);
            how.factors.map_or(dx, |[_, behind]| step.times(dx, behind))
        })
    }

    #[test]
    fn a_gradient_is_one_kernel_however_it_is_spelled() {
        assert_eq!(spelled(&PLAIN), ["softmax gradient"]);
        let difference_first = |step: &mut Step, y, dy| {
            let product = step.binary(Multiply, y, dy);
            let sum = step.sum(product, 1);
            let below = step.times(sum, -1.0);
            let apart = step.binary(Add, below, dy);
            step.binary(Multiply, apart, y)
        };
        assert_eq!(step(false, difference_first), ["softmax gradient"]);
        let of_logarithm = |step: &mut Step, y, dy| {
            let (sum, p) = (step.sum(dy, 1), step.unary(Exp, y));
            let taken = step.binary(Multiply, p, sum);
            step.binary(Subtract, dy, taken)
        };
        assert_eq!(step(true, of_logarithm), ["log-softmax gradient"]);
        // Of a softmax itself the same is something else.
        assert!(step(false, of_logarithm).is_empty());
    }

    #[test]
    fn look_alikes_stay() {
        for how in [
            Spelling { axis: 0, ..PLAIN },
            Spelling { last: Add, ..PLAIN },
            Spelling { is_unweighted: true, ..PLAIN },
            Spelling { shows: [true, false], ..PLAIN },
            Spelling { shows: [false, true], ..PLAIN },
            // Fused on both sides, two kernels are as good as three.
            Spelling { factors: Some([3.0, 0.25]), ..PLAIN },
            // A constant is no number of rows.
            Spelling { rows: Some(TRIALS[0]), ..PLAIN },
            Spelling { rows: Some(TRIALS[1]), ..PLAIN },
        ] {
            assert!(spelled(&how).is_empty());
        }
        // As a trial's numbers would not tell.
        let bounded = |step: &mut Step, y, dy| {
            let product = step.binary(Multiply, dy, y);
            let sum = step.sum(product, 1);
            let apart = step.binary(Subtract, dy, sum);
            let apart = step.at_least(apart, -1e4);
            step.binary(Multiply, apart, y)
        };
        assert!(step(false, bounded).is_empty());
    }
}
