//! Cross-entropy of class ids: what picks the labels' log-probabilities becomes the kernel for losses, and what is their gradient
//! comes from the same pass.
//!
//! The kernel gives the loss of every row and takes a factor for every row's gradient. Masks, weights, means and loss scales stay
//! as the graph has them, on either side of it. A label that is no class, and not the one that the graph puts a class in the
//! place of, the kernel counts as an index out of range, whatever the graph does with it.

use super::labels::{Labels, OneHot, uniform};
use super::region::{self, Form, Graph, Grid, Region, TRIALS};
use crate::plan::maps::{Map, Operand, What};
use crate::plan::{BufferId, DType, Draft, Factors, Kind, Node, Source, Task, View, Work};
use npc_kernels::cpu::loss::LossShape;
use npc_kernels::elementwise::{Operation, Reduce, Scalar};
use std::collections::HashSet;

/// Puts the kernel in the place of what amounts to it, one loss after the other.
pub fn join(draft: &mut Draft) {
    loop {
        let graph = Graph::new(draft);
        let found = (0..draft.work.len()).find_map(|at| Losses::of(&graph, at));
        let Some(found) = found else { break };
        found.put(draft);
    }
    loop {
        let graph = Graph::new(draft);
        let found = (0..draft.work.len()).find_map(|at| Gradient::of(&graph, at));
        let Some(found) = found else { break };
        found.put(draft);
    }
    super::settle(draft);
}

/// The labels' log-probabilities, or their sum.
struct Losses {
    /// Position of the log-softmax.
    at: usize,
    grid: Grid,
    labels: Labels,
    /// Position of what picks, its result, and the result's shape and form.
    picks: usize,
    target: BufferId,
    shape: Vec<usize>,
    form: Form,
    /// The result by the losses.
    factor: f32,
}

/// Whether what computes `id` needs a result of the work at `at`.
fn depends(graph: &Graph<'_>, id: BufferId, at: usize) -> bool {
    let (mut open, mut seen) = (vec![id], HashSet::new());
    while let Some(id) = open.pop() {
        if let Some(producer) = graph.producer(id)
            && seen.insert(producer)
        {
            if producer == at {
                return true;
            }
            open.extend(region::reads(&graph.draft.work[producer]));
        }
    }
    false
}

/// A row's label in a trial.
fn label(row: usize, columns: usize) -> usize {
    (7 * row + 2) % columns
}

/// A number at every row's label.
fn one_hot(on: f64, rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|i| if i % columns == label(i / columns, columns) { on } else { 0.0 }).collect()
}

/// Whether a region treats all columns alike.
fn is_symmetric(graph: &Graph<'_>, region: &Region) -> bool {
    let read = region.inside.iter().flat_map(|at| region::reads(&graph.draft.work[*at]));
    let mut constants = read.filter(|id| matches!(graph.draft.buffers[*id].source, Source::Constant(_)));
    constants.all(|id| uniform(graph, id).is_some())
}

/// One-hot rows in a draft.
fn one_hots(graph: &Graph<'_>, grid: Grid) -> Vec<(BufferId, OneHot)> {
    let maps = graph.draft.work.iter().filter_map(|node| match &node.kind {
        Kind::Map(map) => Some(map.output),
        Kind::Work(work) => work.writes.first().copied().filter(|_| matches!(work.task, Task::ScatterElements { .. })),
    });
    maps.filter_map(|id| Some((id, OneHot::of(graph, grid, id)?))).collect()
}

impl Losses {
    fn of(graph: &Graph<'_>, at: usize) -> Option<Self> {
        let Kind::Work(softmax) = &graph.draft.work[at].kind else { return None };
        let Task::Softmax { rows, columns, logarithm: true } = softmax.task else { return None };
        let (grid, y) = (Grid::square(rows, columns)?, *softmax.writes.first()?);
        let gathered = graph.readers(y).iter().find_map(|picks| {
            let Kind::Work(work) = &graph.draft.work[*picks].kind else { return None };
            let (Task::Gather { picks: p, each: true }, &[from, indices], &[target]) =
                (&work.task, work.reads.as_slice(), work.writes.as_slice())
            else {
                return None;
            };
            let fits = from == y && [p.outer, p.extent, p.inner, p.picks] == [rows, columns, 1, 1];
            let labels = Labels::of(graph, grid, indices).filter(|l| fits && !depends(graph, l.ids, at))?;
            // As its readers see it, so that they fuse with it.
            let views = graph.readers(target).iter().filter_map(|r| graph.map(*r)).flat_map(|map| &map.operands);
            let own = views.filter_map(|o| match o {
                Operand::View(v) if v.buffer == target && v.is_dense() => Some(v.shape.clone()),
                _ => None,
            });
            let shape = own.into_iter().next().unwrap_or_else(|| vec![grid.rows]);
            Some(Losses { at, grid, labels, picks: *picks, target, shape, form: Form::Rows, factor: -1.0 })
        });
        gathered.or_else(|| {
            let hots = one_hots(graph, grid);
            graph.behind(&[y]).into_iter().find_map(|target| Self::masked(graph, (at, y), grid, &hots, target))
        })
    }

    /// Σ over the columns, or over all, of the logarithms times one-hot rows.
    fn masked(
        graph: &Graph<'_>,
        (at, y): (usize, BufferId),
        grid: Grid,
        hots: &[(BufferId, OneHot)],
        target: BufferId,
    ) -> Option<Self> {
        let form = graph.float(grid, target).filter(|form| matches!(form, Form::Rows | Form::Single))?;
        let is_hot = |id: &BufferId| hots.iter().find(|(hot, _)| hot == id);
        let region = graph.region(target, |id| id == y || is_hot(&id).is_some())?;
        let mut others = region.leaves.iter().filter(|id| **id != y);
        let ((hot, OneHot { labels, on }), None) = (others.next().and_then(is_hot)?, others.next()) else {
            return None;
        };
        let sums = usize::from(form == Form::Single);
        let fits = region.leaves.contains(&y) && graph.is_analytic(&region, None) && is_symmetric(graph, &region);
        let is_own = graph.is_closed(&[&region], &[target]) && graph.row_sums(grid, &region) == Some(sums);
        if !fits || !is_own || depends(graph, labels.ids, at) {
            return None;
        }
        let columns = grid.columns;
        let mut factor = None;
        for rows in TRIALS {
            let values = region::softmax(&region::numbers(rows * columns, 0.4), columns, true);
            let losses: Vec<f64> = (0..rows).map(|r| -values[r * columns + label(r, columns)]).collect();
            let losses = if form == Form::Single { vec![losses.iter().sum()] } else { losses };
            let known = [(y, values.as_slice()), (*hot, &one_hot(*on, rows, columns))];
            factor = Some(graph.trial(grid, rows, &known).multiple(target, &losses, factor)?);
        }
        let picks = graph.producer(target)?;
        let map = graph.map(picks)?;
        let mut shape = map.shape.clone();
        if let What::Reduce(_, axes) = &map.what {
            axes.iter().for_each(|axis| shape[*axis] = 1);
        }
        Some(Losses { at, grid, labels: *labels, picks, target, shape, form, factor: factor? as f32 })
    }

    fn put(self, draft: &mut Draft) {
        let Losses { at, grid, labels, picks, target, shape, form, factor } = self;
        let name = draft.work[picks].name.clone();
        let ids = self::ids(draft, &name, labels, grid.rows);
        let Kind::Work(softmax) = &draft.work[at].kind else { return };
        let (x, y) = (softmax.reads[0], softmax.writes[0]);
        let terms = draft.buffer(&name, DType::F32, grid.rows, Source::Computed);
        let loss_shape = LossShape { batch: grid.rows, classes: grid.columns, positions: 1 };
        let task = Task::CrossEntropy { shape: loss_shape, gradient: None, logarithm: true };
        let work = Work { name: name.clone(), task, reads: vec![x, ids], writes: vec![terms, y] };
        draft.work[at] = Node { name: name.clone(), kind: Kind::Work(work) };
        let is_single = form == Form::Single;
        let rows = if is_single { vec![grid.rows] } else { shape };
        let scaled = if is_single { draft.buffer(&name, DType::F32, grid.rows, Source::Computed) } else { target };
        let terms = Operand::View(View::dense(terms, &rows));
        let (what, operands) = if factor == -1.0 {
            (Operation::Negate, vec![terms])
        } else {
            (Operation::Multiply, vec![terms, Operand::Constant(DType::F32, Scalar::Float(factor))])
        };
        let apply = Map { shape: rows.clone(), operands, what: What::Apply(what), output: scaled };
        draft.work[picks] = Node { name: name.clone(), kind: Kind::Map(apply) };
        if is_single {
            let operands = vec![Operand::View(View::dense(scaled, &rows))];
            let sum = Map { shape: rows, operands, what: What::Reduce(Reduce::Sum, vec![0]), output: target };
            draft.work.insert(picks + 1, Node { name, kind: Kind::Map(sum) });
        }
        super::settle(draft);
    }
}

/// The buffer of the ids as the kernel reads them.
fn ids(draft: &mut Draft, name: &str, Labels { ids, ignored }: Labels, rows: usize) -> BufferId {
    let Some((from, to)) = ignored else { return ids };
    let dtype = draft.buffers[ids].dtype;
    let number = |x: i64| match dtype {
        DType::I32 => Operand::Constant(dtype, Scalar::I32(x as i32)),
        _ => Operand::Constant(dtype, Scalar::I64(x)),
    };
    let view = |id: BufferId| Operand::View(View::dense(id, &[rows]));
    let [is_ignored, result] = [DType::Bool, dtype].map(|t| draft.buffer(name, t, rows, Source::Computed));
    let steps = [
        (Operation::Equal, vec![view(ids), number(from)], is_ignored),
        (Operation::Select, vec![view(is_ignored), number(to), view(ids)], result),
    ];
    for (operation, operands, output) in steps {
        let map = Map { shape: vec![rows], operands, what: What::Apply(operation), output };
        draft.work.push(Node { name: name.to_string(), kind: Kind::Map(map) });
    }
    result
}

/// The gradient of losses times factors.
struct Gradient {
    /// Position of the losses.
    at: usize,
    grid: Grid,
    target: BufferId,
    /// Values whose product the factors are, and what that is multiplied by.
    factors: Vec<BufferId>,
    by: f32,
}

impl Gradient {
    fn of(graph: &Graph<'_>, at: usize) -> Option<Self> {
        let Kind::Work(losses) = &graph.draft.work[at].kind else { return None };
        let Task::CrossEntropy { shape, gradient: None, logarithm } = losses.task else { return None };
        if shape.positions != 1 {
            return None;
        }
        let grid = Grid::square(shape.batch as u64, shape.classes as u64)?;
        let y = losses.writes.get(1).copied().filter(|_| logarithm);
        let labels = Labels::of(graph, grid, losses.reads[1])?;
        let hots: Vec<(BufferId, OneHot)> = one_hots(graph, grid);
        let hots: Vec<(BufferId, f64)> =
            hots.iter().filter(|(_, h)| h.labels == labels).map(|(id, h)| (*id, h.on)).collect();
        // The probabilities themselves may be there, too.
        let softmaxes =
            graph.readers(losses.reads[0]).iter().filter_map(|reader| match &graph.draft.work[*reader].kind {
                Kind::Work(Work { task: Task::Softmax { rows, columns, logarithm: false }, writes, .. })
                    if [*rows, *columns] == [shape.batch as u64, shape.classes as u64] =>
                {
                    writes.first().copied()
                }
                _ => None,
            });
        let probabilities: Vec<BufferId> = softmaxes.collect();
        let from: Vec<BufferId> =
            y.into_iter().chain(probabilities.iter().copied()).chain(hots.iter().map(|(id, _)| *id)).collect();
        let behind = graph.behind(&from);
        let search = Search { graph, at, grid, y, hots: &hots, probabilities: &probabilities, behind: &behind };
        // The last of those that differ by factors alone.
        let found = behind.iter().filter_map(|id| search.gradient(*id));
        found.max_by_key(|(length, _)| *length).map(|(_, gradient)| gradient)
    }

    fn put(self, draft: &mut Draft) {
        let Gradient { at, grid, target, factors, by } = self;
        let name = draft.buffers[target].name.clone();
        let mut of = factors.iter().map(|id| (*id, draft.buffers[*id].elements == grid.rows)).collect::<Vec<_>>();
        // Numbers for all rows before those of each.
        of.sort_by_key(|(_, each)| *each);
        let mut of = of.into_iter();
        let constant = |x: f32| Operand::Constant(DType::F32, Scalar::Float(x));
        let first = of.next();
        let is_each = factors.iter().any(|id| draft.buffers[*id].elements == grid.rows);
        let (mut factor, mut each) = first.unwrap_or_else(|| {
            (draft.buffer(&name, DType::F32, 1, Source::Constant(by.to_le_bytes().to_vec())), false)
        });
        let mut maps: Vec<Map> = Vec::new();
        let mut multiply = |draft: &mut Draft, factor: (BufferId, bool), by: Operand, each: bool| {
            let shape = if each { vec![grid.rows] } else { vec![1] };
            let own = View::dense(factor.0, if factor.1 { &shape } else { &[1] }).broadcast(&shape);
            let output = draft.buffer(&name, DType::F32, shape.iter().product(), Source::Computed);
            let operands = vec![Operand::View(own), by];
            maps.push(Map { shape, operands, what: What::Apply(Operation::Multiply), output });
            (output, each)
        };
        if first.is_some() && by != 1.0 {
            (factor, each) = multiply(draft, (factor, each), constant(by), each);
        }
        for (next, is_each) in of {
            let shape = if is_each { vec![grid.rows] } else { vec![1] };
            (factor, each) = multiply(draft, (factor, each), Operand::View(View::dense(next, &shape)), is_each);
        }
        let gradient = Some(if is_each { Factors::Each } else { Factors::Shared });
        if let Kind::Work(work) = &mut draft.work[at].kind
            && let Task::CrossEntropy { gradient: own, .. } = &mut work.task
        {
            *own = gradient;
            work.reads.push(factor);
            work.writes.insert(1, target);
        }
        draft.work.retain(|node| region::result(node) != Some(target));
        let node = |map: Map| Node { name: name.clone(), kind: Kind::Map(map) };
        let nodes: Vec<Node> = maps.into_iter().map(node).collect();
        draft.work.extend(nodes);
        super::settle(draft);
    }
}

/// What a gradient may be made of.
struct Search<'a> {
    graph: &'a Graph<'a>,
    at: usize,
    grid: Grid,
    /// The logarithms, where anybody reads them.
    y: Option<BufferId>,
    /// One-hot rows with the number at the labels.
    hots: &'a [(BufferId, f64)],
    probabilities: &'a [BufferId],
    behind: &'a [BufferId],
}

impl Search<'_> {
    /// The gradient that `target` is, if it is one, and how much work computes it.
    fn gradient(&self, target: BufferId) -> Option<(usize, Gradient)> {
        let Search { graph, grid, at, .. } = *self;
        if graph.float(grid, target) != Some(Form::Whole) || self.is_part(target) {
            return None;
        }
        let region = graph.region(target, |id| self.is_part(id) || self.is_factor(id))?;
        let factors: Vec<BufferId> = region.leaves.iter().copied().filter(|id| !self.is_part(*id)).collect();
        let are_known = factors.iter().all(|id| self.is_factor(*id) && !depends(graph, *id, at));
        let has_formula = graph.is_analytic(&region, None) && graph.row_sums(grid, &region) == Some(0);
        if !are_known || !has_formula || !is_symmetric(graph, &region) || !graph.is_closed(&[&region], &[target]) {
            return None;
        }
        let mut by = None;
        for rows in TRIALS {
            by = Some(self.trial(target, &factors, rows, by)?);
        }
        Some((region.inside.len(), Gradient { at, grid, target, factors, by: by? as f32 }))
    }

    fn is_part(&self, id: BufferId) -> bool {
        Some(id) == self.y || self.probabilities.contains(&id) || self.hots.iter().any(|(hot, _)| *hot == id)
    }

    /// Numbers for all rows or for each that need no result of the losses. Of a longer buffer the first can be read.
    fn is_factor(&self, id: BufferId) -> bool {
        let buffer = &self.graph.draft.buffers[id];
        let is_given = buffer.source != Source::Computed && !matches!(buffer.source, Source::Constant(_));
        let form = self.graph.float(self.grid, id);
        let has_size = matches!(form, Some(Form::Rows | Form::Single)) || (is_given && form.is_none());
        buffer.dtype == DType::F32 && has_size && !self.behind.contains(&id)
    }

    /// What the product of the factors is multiplied by.
    fn trial(&self, target: BufferId, factors: &[BufferId], rows: usize, before: Option<f64>) -> Option<f64> {
        let columns = self.grid.columns;
        let values = region::softmax(&region::numbers(rows * columns, 0.3), columns, true);
        let exponentials: Vec<f64> = values.iter().map(|y| y.exp()).collect();
        let mut known: Vec<(BufferId, Vec<f64>)> = self.y.map(|y| (y, values)).into_iter().collect();
        known.extend(self.probabilities.iter().map(|id| (*id, exponentials.clone())));
        known.extend(self.hots.iter().map(|(id, on)| (*id, one_hot(*on, rows, columns))));
        let mut product = vec![1.0; rows];
        for (seed, id) in factors.iter().enumerate() {
            let is_each = self.graph.float(self.grid, *id) == Some(Form::Rows);
            let numbers = region::numbers(if is_each { rows } else { 1 }, 0.2 + seed as f64);
            product.iter_mut().enumerate().for_each(|(r, p)| *p *= numbers[if is_each { r } else { 0 }]);
            known.push((*id, numbers));
        }
        let at = |i: usize| exponentials[i] - f64::from(u8::from(i % columns == label(i / columns, columns)));
        let want: Vec<f64> = (0..rows * columns).map(|i| product[i / columns] * at(i)).collect();
        let known: Vec<(BufferId, &[f64])> = known.iter().map(|(id, x)| (*id, x.as_slice())).collect();
        self.graph.trial(self.grid, rows, &known).multiple(target, &want, before)
    }
}

#[cfg(test)]
mod tests;
