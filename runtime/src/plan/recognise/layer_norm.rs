//! The gradient of a layer normalisation, with those of its scale and bias where they are computed.

use super::Rewrite;
use super::region::{self, Form, Graph, Grid, Region, TRIALS};
use crate::plan::{BufferId, DType, Kind, Task};
use npc_kernels::cuda::norm;

/// A normalisation and numbers for it.
struct Normal {
    grid: Grid,
    /// x, scale, mean, inverse deviation.
    given: [BufferId; 4],
    /// What depends on scale, mean or deviation.
    behind: Vec<BufferId>,
    trials: [Numbers; 2],
}

/// Numbers for what a gradient depends on, and the gradients.
struct Numbers {
    rows: usize,
    given: [Vec<f64>; 4],
    dy: Vec<f64>,
    dx: Vec<f64>,
    dscale: Vec<f64>,
}

pub fn rule(graph: &Graph<'_>, at: usize) -> Option<Rewrite> {
    let Kind::Work(normal) = &graph.draft.work[at].kind else { return None };
    let Task::LayerNorm { rows, columns, epsilon } = normal.task else { return None };
    let (grid, (x, scale)) = (Grid::new(rows, columns)?, (*normal.reads.first()?, *normal.reads.get(1)?));
    let (mean, inverse) = (*normal.writes.get(1)?, *normal.writes.get(2)?);
    let trials = TRIALS.map(|rows| Numbers::new(rows, grid.columns, f64::from(epsilon)));
    let behind = graph.behind(&[mean, inverse, scale]);
    let normal = Normal { grid, given: [x, scale, mean, inverse], behind, trials };
    let (dx, dy, way) = normal.behind.iter().find_map(|id| normal.data(graph, *id))?;
    let found = normal.behind.iter().find_map(|id| normal.scale(graph, *id, dy));
    let (dscale, sums) = found.map_or((None, None), |(id, region)| (Some(id), Some(region)));
    let regions: Vec<&Region> = [Some(&way), sums.as_ref()].into_iter().flatten().collect();
    let results: Vec<BufferId> = [Some(dx), dscale].into_iter().flatten().collect();
    if !graph.is_closed(&regions, &results) {
        return None;
    }
    let dbias = dscale.and_then(|_| graph.sum_of(grid, dy, Form::Columns));
    let results: Vec<BufferId> = results.into_iter().chain(dbias).collect();
    let width = columns as usize;
    let mut room = vec![(DType::F32, width); 3 - results.len()];
    room.push((DType::F32, norm::layer_norm_partial_bytes(rows, columns) as usize / 4));
    let reads = vec![dy, x, scale, mean, inverse];
    Rewrite::new(graph, Task::LayerNormGradient { rows, columns }, reads, results, room)
}

impl Numbers {
    fn new(rows: usize, columns: usize, epsilon: f64) -> Self {
        let n = columns as f64;
        let (values, dy) = (region::numbers(rows * columns, 0.2), region::numbers(rows * columns, 0.9));
        let factors = region::numbers(columns, 0.5);
        let average = |row: &[f64]| row.iter().sum::<f64>() / n;
        let means: Vec<f64> = values.chunks_exact(columns).map(average).collect();
        let (mut inverses, mut dx, mut dscale) = (Vec::new(), Vec::new(), vec![0.0; columns]);
        for ((x, dy), mean) in values.chunks_exact(columns).zip(dy.chunks_exact(columns)).zip(&means) {
            let square: Vec<f64> = x.iter().map(|x| (x - mean).powi(2)).collect();
            let inverse = (average(&square) + epsilon).sqrt().recip();
            let normal: Vec<f64> = x.iter().map(|x| (x - mean) * inverse).collect();
            let g: Vec<f64> = dy.iter().zip(&factors).map(|(dy, s)| dy * s).collect();
            let along: Vec<f64> = g.iter().zip(&normal).map(|(g, x)| g * x).collect();
            let (first, second) = (average(&g), average(&along));
            dx.extend(g.iter().zip(&normal).map(|(g, x)| (g - first - x * second) * inverse));
            dscale.iter_mut().zip(dy.iter().zip(&normal)).for_each(|(sum, (dy, x))| *sum += dy * x);
            inverses.push(inverse);
        }
        Numbers { rows, given: [values, factors, means, inverses], dy, dx, dscale }
    }
}

impl Normal {
    /// What computes a value from the normalisation's and one more.
    fn region(&self, graph: &Graph<'_>, id: BufferId) -> Option<(Region, BufferId)> {
        let is_given = |id: BufferId| self.given.contains(&id);
        let is_other = |id: BufferId| !self.behind.contains(&id) && graph.float(self.grid, id) == Some(Form::Whole);
        let region = graph.region(id, |id| is_given(id) || is_other(id))?;
        let mut others = region.leaves.iter().filter(|id| !is_given(**id));
        let (dy, None) = (*others.next()?, others.next()) else { return None };
        (graph.float(self.grid, dy) == Some(Form::Whole)).then_some((region, dy))
    }

    fn agrees(&self, graph: &Graph<'_>, id: BufferId, dy: BufferId, want: fn(&Numbers) -> &[f64]) -> bool {
        self.trials.iter().all(|numbers| {
            let given = self.given.iter().copied().zip(numbers.given.iter().map(Vec::as_slice));
            let known: Vec<(BufferId, &[f64])> = given.chain([(dy, numbers.dy.as_slice())]).collect();
            graph.trial(self.grid, numbers.rows, &known).is(id, want(numbers))
        })
    }

    fn data(&self, graph: &Graph<'_>, id: BufferId) -> Option<(BufferId, BufferId, Region)> {
        if graph.float(self.grid, id) != Some(Form::Whole) {
            return None;
        }
        let (region, dy) = self.region(graph, id)?;
        let has_formula = graph.is_analytic(&region, None) && graph.row_sums(self.grid, &region) == Some(0);
        (has_formula && self.agrees(graph, id, dy, |n| &n.dx)).then_some((id, dy, region))
    }

    fn scale(&self, graph: &Graph<'_>, id: BufferId, dy: BufferId) -> Option<(BufferId, Region)> {
        if graph.float(self.grid, id) != Some(Form::Columns) {
            return None;
        }
        let (region, from) = self.region(graph, id)?;
        let has_formula =
            from == dy && graph.is_analytic(&region, None) && graph.row_sums(self.grid, &region) == Some(1);
        (has_formula && self.agrees(graph, id, dy, |n| &n.dscale)).then_some((id, region))
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::TRIALS;
    use super::super::testing::{SHAPE, Step, Value};
    use crate::plan::Task;
    use npc_kernels::elementwise::Operation::{Add, Multiply, Subtract};

    const ROW: [usize; 2] = [1, SHAPE[1]];
    const COLUMN: [usize; 2] = [SHAPE[0], 1];

    /// What a gradient may differ in.
    #[derive(Default)]
    struct Spelling {
        /// x̂ without the mean taken off.
        is_uncentred: bool,
        /// Sums along the other axis.
        is_turned: bool,
        /// Without the part of the mean.
        lacks_mean: bool,
        /// x̂ is an output, too.
        shows: bool,
        /// Divides by one column more.
        is_off: bool,
        /// What the sums of rows are is an output, too.
        shows_sum: bool,
        /// Bounded where no number of a trial comes near.
        is_bounded: bool,
        /// What is summed up for the scale's gradient is multiplied by how many rows there are, and divided by this.
        rows: Option<usize>,
        /// The gradient of x alone.
        is_alone: bool,
    }

    fn step(how: &Spelling) -> Vec<&'static str> {
        let mut step = Step::new();
        let [x, dy] = ["x", "dy"].map(|name| step.input(name, SHAPE));
        let [scale, bias] = ["scale", "bias"].map(|name| step.input(name, ROW));
        let [rows, columns] = SHAPE.map(|n| n as u64);
        let task = Task::LayerNorm { rows, columns, epsilon: 1e-3 };
        let found: Vec<Value> = step.work(task, &[x, scale, bias], &[SHAPE, COLUMN, COLUMN]);
        step.output("y", found[0]);
        let (mean, inverse) = (found[1], found[2]);
        let n = SHAPE[1] as f32 + if how.is_off { 1.0 } else { 0.0 };
        let centred = if how.is_uncentred { x } else { step.binary(Subtract, x, mean) };
        let normal = step.binary(Multiply, centred, inverse);
        let g = step.binary(Multiply, dy, scale);
        let along = step.binary(Multiply, g, normal);
        let axis = usize::from(!how.is_turned);
        let (first, second) = (step.sum(g, axis), step.sum(along, axis));
        let (first, second) = (step.times(first, 1.0 / n), step.times(second, 1.0 / n));
        let taken = step.binary(Multiply, normal, second);
        let mut dx = step.binary(Subtract, g, taken);
        if !how.lacks_mean {
            dx = step.binary(Subtract, dx, first);
        }
        if how.is_bounded {
            dx = step.at_least(dx, -1e6);
        }
        let dx = step.binary(Multiply, dx, inverse);
        let dx = step.binary(Add, dx, x);
        step.output("dx", dx);
        if how.shows {
            step.output("normal", normal);
        }
        if how.shows_sum {
            step.output("first", first);
        }
        if !how.is_alone {
            let mut product = step.binary(Multiply, dy, normal);
            if let Some(rows) = how.rows {
                product = step.shared(product, rows);
            }
            let (dscale, dbias) = (step.sum(product, 0), step.sum(dy, 0));
            step.output("dscale", dscale);
            step.output("dbias", dbias);
        }
        step.run()
    }

    #[test]
    fn three_gradients_are_one_piece_of_work() {
        assert_eq!(step(&Spelling::default()), ["layer norm gradient"]);
        assert_eq!(step(&Spelling { is_alone: true, ..Spelling::default() }), ["layer norm gradient"]);
    }

    #[test]
    fn look_alikes_stay() {
        for how in [
            Spelling { is_uncentred: true, ..Spelling::default() },
            Spelling { is_turned: true, ..Spelling::default() },
            Spelling { lacks_mean: true, ..Spelling::default() },
            Spelling { shows: true, ..Spelling::default() },
            Spelling { shows_sum: true, ..Spelling::default() },
            Spelling { is_bounded: true, ..Spelling::default() },
            Spelling { rows: Some(TRIALS[0]), ..Spelling::default() },
            Spelling { rows: Some(TRIALS[1]), ..Spelling::default() },
            Spelling { is_off: true, ..Spelling::default() },
        ] {
            assert!(step(&how).is_empty());
        }
    }
}
