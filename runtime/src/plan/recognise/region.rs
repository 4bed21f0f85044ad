//! Part of a draft, computed on numbers.
//!
//! A rule's values are matrices of rows and columns, one number a row, one a column, or a single one, whatever axes a graph
//! has them in. Rows are many and alike, so a trial has a few of them; columns it has as many as the graph, whose constants
//! depend on their number.

use super::super::maps::{Map, Operand, What};
use super::super::{BufferId, DType, Draft, Kind, Node, Source, View};
use npc_kernels::elementwise::{Operation, Reduce, Scalar};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Numbers of rows that are tried, so that no constant is taken for their count.
pub const TRIALS: [usize; 2] = [5, 3];
/// More work than this belongs to nothing that a rule knows.
const LARGEST: usize = 64;

/// How many rows and columns a matrix has.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Where rows are channels: the samples, each of which has a part of every row.
    samples: Option<usize>,
}

/// Which part of a matrix a value has numbers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Single,
    /// One a row.
    Rows,
    /// One a column.
    Columns,
    Whole,
}

impl Grid {
    /// `None` where a value's size would not tell its form.
    pub fn new(rows: u64, columns: u64) -> Option<Self> {
        Grid::square(rows, columns).filter(|_| rows != columns)
    }

    /// One that may have as many rows as columns: a value of that many elements is taken to be one a row, until it is read
    /// otherwise.
    pub fn square(rows: u64, columns: u64) -> Option<Self> {
        let [rows, columns] = [rows, columns].map(|n| n as usize);
        (rows > 1 && columns > 1).then_some(Grid { rows, columns, samples: None })
    }

    /// The channels of (samples, channels, positions) as rows.
    pub fn channels(samples: u64, channels: u64, positions: u64) -> Option<Self> {
        Grid::new(channels, samples * positions).map(|grid| Grid { samples: Some(samples as usize), ..grid })
    }

    fn form(self, elements: usize) -> Option<Form> {
        match elements {
            1 => Some(Form::Single),
            n if n == self.rows => Some(Form::Rows),
            n if n == self.columns => Some(Form::Columns),
            n if n == self.rows * self.columns => Some(Form::Whole),
            _ => None,
        }
    }

    /// The form of what is left of `shape` when some of its extents are 1, where that is whole rows or columns of it.
    pub fn part(self, part: &[usize], shape: &[usize]) -> Option<Form> {
        let size = |extents: &[usize]| extents.iter().product::<usize>();
        let (form, whole) = (self.form(size(part))?, self.form(size(shape))?);
        if form == whole || form == Form::Single {
            return Some(form);
        }
        let is_one = |extents: &[usize]| extents.iter().all(|n| *n == 1);
        if let Some(samples) = self.samples {
            let ([s, c, ..], [n, d, rest @ ..]) = (shape, part) else { return None };
            let fits = whole == Form::Whole && [*s, *c, *n, *d] == [samples, self.rows, 1, self.rows];
            return (fits && is_one(rest)).then_some(Form::Rows);
        }
        let is = |form: &Form| {
            (0..=shape.len()).any(|k| {
                let ((p, q), (s, t)) = (part.split_at(k), shape.split_at(k));
                match form {
                    Form::Rows => size(s) == self.rows && p == s && is_one(q),
                    _ => size(t) == self.columns && q == t && is_one(p),
                }
            })
        };
        [Form::Rows, Form::Columns].into_iter().find(|form| whole == Form::Whole && is(form))
    }
}

/// What computes a value, and from what.
pub struct Region {
    /// Positions in the draft.
    pub inside: BTreeSet<usize>,
    /// Buffers that are not constant.
    pub leaves: BTreeSet<BufferId>,
}

/// A draft with its connections.
pub struct Graph<'a> {
    pub draft: &'a Draft,
    producers: HashMap<BufferId, usize>,
    readers: HashMap<BufferId, Vec<usize>>,
    exported: HashSet<BufferId>,
}

/// What a node reads.
pub fn reads(node: &Node) -> Vec<BufferId> {
    match &node.kind {
        Kind::Map(map) => {
            map.operands.iter().filter_map(|o| if let Operand::View(v) = o { Some(v.buffer) } else { None }).collect()
        }
        Kind::Work(work) => work.reads.clone(),
    }
}

/// The result of elementwise work.
pub fn result(node: &Node) -> Option<BufferId> {
    if let Kind::Map(map) = &node.kind { Some(map.output) } else { None }
}

impl<'a> Graph<'a> {
    pub fn new(draft: &'a Draft) -> Self {
        let (mut producers, mut readers) = (HashMap::new(), HashMap::<BufferId, Vec<usize>>::new());
        for (at, node) in draft.work.iter().enumerate() {
            match &node.kind {
                Kind::Map(map) => producers.extend([(map.output, at)]),
                Kind::Work(work) => producers.extend(work.writes.iter().map(|id| (*id, at))),
            }
            reads(node).into_iter().for_each(|id| readers.entry(id).or_default().push(at));
        }
        // What updates write in place was there before.
        producers.retain(|id, _| draft.buffers[*id].source == Source::Computed);
        let exported = draft.outputs.iter().map(|(_, id, _)| *id).collect();
        Graph { draft, producers, readers, exported }
    }

    /// Position of what computes a buffer.
    pub fn producer(&self, id: BufferId) -> Option<usize> {
        self.producers.get(&id).copied()
    }

    pub fn readers(&self, id: BufferId) -> &[usize] {
        self.readers.get(&id).map_or(&[], Vec::as_slice)
    }

    pub fn is_output(&self, id: BufferId) -> bool {
        self.exported.contains(&id)
    }

    pub fn map(&self, at: usize) -> Option<&Map> {
        if let Kind::Map(map) = &self.draft.work[at].kind { Some(map) } else { None }
    }

    /// The form of a float32 buffer.
    pub fn float(&self, grid: Grid, id: BufferId) -> Option<Form> {
        let buffer = &self.draft.buffers[id];
        grid.form(buffer.elements).filter(|_| buffer.dtype == DType::F32)
    }

    /// The sum of a value that leaves this form of it.
    pub fn sum_of(&self, grid: Grid, id: BufferId, form: Form) -> Option<BufferId> {
        self.readers(id).iter().filter_map(|at| self.map(*at)).find_map(|map| {
            let (What::Reduce(Reduce::Sum, axes), [Operand::View(view)]) = (&map.what, map.operands.as_slice()) else {
                return None;
            };
            let mut kept = map.shape.clone();
            axes.iter().for_each(|axis| kept[*axis] = 1);
            let fits = view.buffer == id && view.is_dense() && grid.part(&kept, &map.shape) == Some(form);
            fits.then_some(map.output)
        })
    }

    /// What depends on these buffers, near ones first.
    pub fn behind(&self, from: &[BufferId]) -> Vec<BufferId> {
        let (mut found, mut at) = (from.to_vec(), 0);
        while at < found.len() && found.len() < 2 * LARGEST {
            let next = self.readers(found[at]).iter().filter_map(|reader| result(&self.draft.work[*reader]));
            let next: Vec<BufferId> = next.collect();
            for id in next {
                if !found.contains(&id) {
                    found.push(id);
                }
            }
            at += 1;
        }
        found.split_off(from.len())
    }

    /// What computes `target`, up to buffers for which `is_leaf`.
    pub fn region(&self, target: BufferId, is_leaf: impl Fn(BufferId) -> bool) -> Option<Region> {
        let (mut inside, mut leaves, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![target]);
        while let Some(id) = open.pop() {
            let buffer = &self.draft.buffers[id];
            if matches!(buffer.source, Source::Constant(_)) {
                continue;
            }
            match self.producer(id).filter(|at| !is_leaf(id) && result(&self.draft.work[*at]) == Some(id)) {
                Some(at) if inside.insert(at) => open.extend(reads(&self.draft.work[at])),
                Some(_) => {}
                None => leaves.extend([id]),
            }
            if inside.len() > LARGEST {
                return None;
            }
        }
        Some(Region { inside, leaves })
    }

    /// Whether nobody else reads what regions compute on the way to `results`.
    pub fn is_closed(&self, regions: &[&Region], results: &[BufferId]) -> bool {
        let has = |at: &usize| regions.iter().any(|r| r.inside.contains(at));
        let inside = regions.iter().flat_map(|r| &r.inside).filter_map(|at| result(&self.draft.work[*at]));
        let is_own = |id: BufferId| !self.exported.contains(&id) && self.readers(id).iter().all(has);
        inside.filter(|id| !results.contains(id)).all(is_own)
    }

    /// Whether a region computes float32 values by analytic functions and sums alone, but for the work at `except`. A trial says
    /// nothing about numbers beyond a bound, a comparison or a choice.
    pub fn is_analytic(&self, region: &Region, except: Option<usize>) -> bool {
        use Operation::*;
        region.inside.iter().filter(|at| Some(**at) != except).all(|at| {
            let Some(map) = self.map(*at) else { return false };
            let has_formula = match &map.what {
                What::Apply(operation) => matches!(
                    operation,
                    Add | Subtract
                        | Multiply
                        | Divide
                        | Negate
                        | Square
                        | Power
                        | SquareRoot
                        | ReciprocalSquareRoot
                        | Reciprocal
                        | Exp
                        | Log
                ),
                What::Reduce(reduce, _) => matches!(reduce, Reduce::Sum | Reduce::Mean),
            };
            has_formula && self.draft.buffers[map.output].dtype == DType::F32
        })
    }

    /// How often a region adds up rows, or joins them otherwise; `None` where that cannot be told. Without it every row is
    /// computed from that row alone, and what holds of some rows holds of any number.
    pub fn row_sums(&self, grid: Grid, region: &Region) -> Option<usize> {
        let has_rows = |form| matches!(form, Form::Rows | Form::Whole);
        let mut sums = 0;
        for map in region.inside.iter().filter_map(|at| self.map(*at)) {
            let What::Reduce(_, axes) = &map.what else { continue };
            let mut kept = map.shape.clone();
            axes.iter().for_each(|axis| kept[*axis] = 1);
            let (from, to) = (grid.form(map.shape.iter().product())?, grid.part(&kept, &map.shape)?);
            sums += usize::from(has_rows(from) && !has_rows(to));
        }
        Some(sums)
    }

    /// A trial of so many rows with these values.
    pub fn trial(&self, grid: Grid, rows: usize, known: &[(BufferId, &[f64])]) -> Trial<'_> {
        let values = known.iter().map(|(id, numbers)| (*id, numbers.to_vec())).collect();
        Trial { graph: self, grid, rows, values }
    }
}

/// Numbers for some values, from which others are computed in float64.
pub struct Trial<'a> {
    graph: &'a Graph<'a>,
    grid: Grid,
    rows: usize,
    values: HashMap<BufferId, Vec<f64>>,
}

impl Trial<'_> {
    /// Whether a value is what is wanted, as nearly as float32 constants let it.
    pub fn is(&mut self, id: BufferId, wanted: &[f64]) -> bool {
        let size = wanted.iter().fold(0f64, |m, x| m.max(x.abs()));
        let near = |(got, want): (&f64, &f64)| (got - want).abs() <= 2e-6 * size;
        self.compute(id).is_some()
            && self.values[&id].len() == wanted.len()
            && self.values[&id].iter().zip(wanted).all(near)
    }

    /// What `wanted` is multiplied by to be a value, if it is a multiple of it, and the one found `before` if there is one.
    pub fn multiple(&mut self, id: BufferId, wanted: &[f64], before: Option<f64>) -> Option<f64> {
        self.compute(id)?;
        let (at, size) = wanted.iter().enumerate().max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()))?;
        let factor = before.unwrap_or(self.values[&id].get(at)? / size);
        let multiple: Vec<f64> = wanted.iter().map(|x| x * factor).collect();
        (factor != 0.0 && factor.is_finite() && self.is(id, &multiple)).then_some(factor)
    }

    fn compute(&mut self, id: BufferId) -> Option<()> {
        if self.values.contains_key(&id) {
            return Some(());
        }
        let graph = self.graph;
        let numbers = match &graph.draft.buffers[id].source {
            Source::Constant(bytes) => self.constant(id, bytes)?,
            _ => {
                let node = &graph.draft.work[graph.producer(id)?];
                reads(node).into_iter().try_for_each(|read| self.compute(read))?;
                let Kind::Map(map) = &node.kind else { return None };
                self.map(map)?
            }
        };
        self.values.insert(id, numbers);
        Some(())
    }

    /// A constant's numbers; those of all rows must be the same.
    fn constant(&self, id: BufferId, bytes: &[u8]) -> Option<Vec<f64>> {
        let buffer = &self.graph.draft.buffers[id];
        let (form, width) = (self.grid.form(buffer.elements)?, buffer.dtype.bytes());
        if buffer.dtype != DType::F32 {
            return None;
        }
        let number = |b: &[u8]| Some(f64::from(f32::from_le_bytes(b.try_into().ok()?)));
        let row = match form {
            Form::Whole => self.grid.columns * width,
            Form::Rows => width,
            _ => return bytes.chunks_exact(width).map(number).collect(),
        };
        let first = bytes.get(..row)?;
        if !bytes.chunks_exact(row).all(|other| other == first) {
            return None;
        }
        let first = first.chunks_exact(width).map(number).collect::<Option<Vec<f64>>>()?;
        Some(first.repeat(self.rows))
    }

    fn index(&self, form: Form, row: usize, column: usize) -> usize {
        match form {
            Form::Single => 0,
            Form::Rows => row,
            Form::Columns => column,
            Form::Whole => row * self.grid.columns + column,
        }
    }

    fn extents(&self, form: Form) -> (usize, usize) {
        match form {
            Form::Single => (1, 1),
            Form::Rows => (self.rows, 1),
            Form::Columns => (1, self.grid.columns),
            Form::Whole => (self.rows, self.grid.columns),
        }
    }

    fn form_of(&self, view: &View, shape: &[usize]) -> Option<Form> {
        let part = view.broadcast_shape()?;
        let (size, known) = (part.iter().product::<usize>(), self.values.get(&view.buffer)?.len());
        let form = self.grid.part(&part, shape)?;
        let (rows, columns) = self.extents(form);
        // All of it, in the form that its numbers were made in; or the one number that is known of it.
        let whole = size == self.graph.draft.buffers[view.buffer].elements || known == 1;
        (whole && known == rows * columns).then_some(form)
    }

    fn map(&self, map: &Map) -> Option<Vec<f64>> {
        let form = self.grid.form(map.shape.iter().product())?;
        let mut operands = Vec::new();
        for operand in &map.operands {
            operands.push(match operand {
                Operand::Constant(_, Scalar::Float(x)) => (Form::Single, vec![f64::from(*x)]),
                Operand::Constant(..) => return None,
                Operand::View(view) => (self.form_of(view, &map.shape)?, self.values.get(&view.buffer)?.clone()),
            });
        }
        let (rows, columns) = self.extents(form);
        let places = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
        match &map.what {
            What::Apply(operation) => {
                let value = |(r, c)| {
                    let at: Vec<f64> = operands.iter().map(|(form, x)| x[self.index(*form, r, c)]).collect();
                    apply(*operation, &at)
                };
                places.map(value).collect()
            }
            What::Reduce(reduce, axes) => {
                let mut kept = map.shape.clone();
                axes.iter().for_each(|axis| kept[*axis] = 1);
                let to = self.grid.part(&kept, &map.shape)?;
                let (start, join): (f64, fn(f64, f64) -> f64) = match reduce {
                    Reduce::Sum | Reduce::Mean => (0.0, |a, b| a + b),
                    Reduce::Product => (1.0, |a, b| a * b),
                    Reduce::Maximum => (f64::NEG_INFINITY, f64::max),
                    Reduce::Minimum => (f64::INFINITY, f64::min),
                };
                let (kept_rows, kept_columns) = self.extents(to);
                let mut results = vec![start; kept_rows * kept_columns];
                for (r, c) in places {
                    let at = self.index(to, r, c);
                    results[at] = join(results[at], operands[0].1[self.index(operands[0].0, r, c)]);
                }
                if *reduce == Reduce::Mean {
                    // Over rows it would depend on how many a trial has.
                    if kept_rows != rows {
                        return None;
                    }
                    results.iter_mut().for_each(|x| *x /= (columns / kept_columns) as f64);
                }
                Some(results)
            }
        }
    }
}

/// Softmax of rows, or its logarithm.
pub fn softmax(x: &[f64], columns: usize, logarithm: bool) -> Vec<f64> {
    let row = |x: &[f64]| {
        let largest = x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
        let total: f64 = x.iter().map(|x| (x - largest).exp()).sum();
        let log = x.iter().map(|x| x - largest - total.ln());
        log.map(|l| if logarithm { l } else { l.exp() }).collect::<Vec<f64>>()
    };
    x.chunks_exact(columns).flat_map(row).collect()
}

/// Numbers between −2 and 2 that follow no pattern.
pub fn numbers(count: usize, seed: f64) -> Vec<f64> {
    (0..count).map(|i| 2.0 * ((i as f64 + 1.0) * (1.618_033_988_7 + seed) + seed * seed).sin()).collect()
}

fn apply(operation: Operation, x: &[f64]) -> Option<f64> {
    use Operation::*;
    Some(match (operation, x) {
        (Add, [a, b]) => a + b,
        (Subtract, [a, b]) => a - b,
        (Multiply, [a, b]) => a * b,
        (Divide, [a, b]) => a / b,
        (Power, [a, b]) => a.powf(*b),
        (Negate, [a]) => -a,
        (Square, [a]) => a * a,
        (SquareRoot, [a]) => a.sqrt(),
        (ReciprocalSquareRoot, [a]) => a.sqrt().recip(),
        (Reciprocal, [a]) => a.recip(),
        (Exp, [a]) => a.exp(),
        (Log, [a]) => a.ln(),
        _ => return None,
    })
}
