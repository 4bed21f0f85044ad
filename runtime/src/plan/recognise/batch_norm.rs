//! The gradient of a batch normalisation in training, with those of its scale and bias where they are computed.

use super::Rewrite;
use super::region::{self, Form, Graph, Grid, Region};
use crate::plan::{BufferId, DType, Kind, Task};

/// Numbers of channels that are tried: a channel has as many elements as the graph's.
const TRIALS: [usize; 2] = [3, 2];

/// A normalisation and numbers for it. A channel is a row.
struct Normal {
    grid: Grid,
    /// x, scale, mean, variance.
    given: [BufferId; 4],
    /// What depends on them.
    behind: Vec<BufferId>,
    epsilon: f64,
}

/// Numbers for what a gradient depends on, and the gradients.
struct Numbers {
    given: [Vec<f64>; 4],
    dy: Vec<f64>,
    dx: Vec<f64>,
    dscale: Vec<f64>,
}

pub fn rule(graph: &Graph<'_>, at: usize) -> Option<Rewrite> {
    let Kind::Work(normal) = &graph.draft.work[at].kind else { return None };
    let Task::BatchNorm { shape, epsilon } = normal.task else { return None };
    let grid = Grid::channels(shape.batch, shape.channels, shape.positions)?;
    let (&[x, scale, _], &[_, mean, variance]) = (normal.reads.as_slice(), normal.writes.as_slice()) else {
        return None;
    };
    let given = [x, scale, mean, variance];
    let normal = Normal { grid, given, behind: graph.behind(&given), epsilon: f64::from(epsilon) };
    let (dx, dy, way) = normal.behind.iter().find_map(|id| normal.data(graph, *id))?;
    let found = normal.behind.iter().find_map(|id| normal.scale(graph, *id, dy));
    let (dscale, sums) = found.map_or((None, None), |(id, region)| (Some(id), Some(region)));
    let dbias = graph.sum_of(grid, dy, Form::Rows);
    let regions: Vec<&Region> = [Some(&way), sums.as_ref()].into_iter().flatten().collect();
    let mut results: Vec<BufferId> = [Some(dx), dscale, dbias].into_iter().flatten().collect();
    if !graph.is_closed(&regions, &results) {
        return None;
    }
    // What is not found takes its place as room behind what is.
    if dscale.is_none() {
        results.truncate(1);
    }
    let room = vec![(DType::F32, shape.channels as usize); 3 - results.len()];
    let reads = vec![dy, x, scale, mean, variance];
    Rewrite::new(graph, Task::BatchNormGradient { shape, epsilon }, reads, results, room)
}

impl Numbers {
    fn new(channels: usize, elements: usize, epsilon: f64) -> Self {
        let n = elements as f64;
        let (values, dy) = (region::numbers(channels * elements, 0.2), region::numbers(channels * elements, 0.9));
        let scale = region::numbers(channels, 0.5);
        let (mut means, mut variances, mut dx, mut dscale) = (vec![], vec![], vec![], vec![]);
        for ((x, dy), scale) in values.chunks_exact(elements).zip(dy.chunks_exact(elements)).zip(&scale) {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let inverse = (variance + epsilon).sqrt().recip();
            let normal: Vec<f64> = x.iter().map(|x| (x - mean) * inverse).collect();
            let along: f64 = dy.iter().zip(&normal).map(|(dy, x)| dy * x).sum();
            let sum: f64 = dy.iter().sum();
            dx.extend(dy.iter().zip(&normal).map(|(dy, x)| scale * inverse * (dy - sum / n - x * along / n)));
            dscale.push(along);
            means.push(mean);
            variances.push(variance);
        }
        Numbers { given: [values, scale, means, variances], dy, dx, dscale }
    }
}

impl Normal {
    /// What computes a value from the normalisation's and one more.
    fn region(&self, graph: &Graph<'_>, id: BufferId) -> Option<(Region, BufferId)> {
        let is_given = |id: BufferId| self.given.contains(&id);
        let is_other = |id: BufferId| !self.behind.contains(&id) && graph.float(self.grid, id) == Some(Form::Whole);
        let nearest = graph.region(id, |id| is_given(id) || is_other(id))?;
        // What else comes in may be made of it.
        nearest.leaves.iter().filter(|id| is_other(**id)).find_map(|dy| {
            let region = graph.region(id, |id| is_given(id) || id == *dy)?;
            let is_whole = region.leaves.iter().all(|id| is_given(*id) || id == dy) && region.leaves.contains(dy);
            let has_formula = is_whole && graph.is_analytic(&region, None);
            (has_formula && graph.row_sums(self.grid, &region) == Some(0)).then_some((region, *dy))
        })
    }

    fn agrees(&self, graph: &Graph<'_>, id: BufferId, dy: BufferId, want: fn(&Numbers) -> &[f64]) -> bool {
        TRIALS.into_iter().all(|channels| {
            let numbers = Numbers::new(channels, self.grid.columns, self.epsilon);
            let given = self.given.iter().copied().zip(numbers.given.iter().map(Vec::as_slice));
            let known: Vec<(BufferId, &[f64])> = given.chain([(dy, numbers.dy.as_slice())]).collect();
            graph.trial(self.grid, channels, &known).is(id, want(&numbers))
        })
    }

    fn data(&self, graph: &Graph<'_>, id: BufferId) -> Option<(BufferId, BufferId, Region)> {
        if graph.float(self.grid, id) != Some(Form::Whole) {
            return None;
        }
        let (region, dy) = self.region(graph, id)?;
        self.agrees(graph, id, dy, |n| &n.dx).then_some((id, dy, region))
    }

    fn scale(&self, graph: &Graph<'_>, id: BufferId, dy: BufferId) -> Option<(BufferId, Region)> {
        if graph.float(self.grid, id) != Some(Form::Rows) {
            return None;
        }
        let (region, from) = self.region(graph, id)?;
        (from == dy && self.agrees(graph, id, dy, |n| &n.dscale)).then_some((id, region))
    }
}

#[cfg(test)]
mod tests;
