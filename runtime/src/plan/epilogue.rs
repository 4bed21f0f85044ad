//! Matrix products that do on the way out what would otherwise take a kernel of its own: a bias, an activation, an
//! activation's gradient, a bias's gradient.
//!
//! What an expression computes is not read off its operators, of which every exporter chooses others: it is computed at
//! points, among them everything around the expression's own constants, and compared with what the epilogue computes. A
//! gradient is tried together with the forward expression whose result it reads, so that any mask, kept derivative or
//! pre-activation will do.
//!
//! Where a pre-activation is NaN, the libraries' ReLU is 0; the plain kernels keep the NaN.

use super::{BufferId, DType, Draft, Kind, Node, Precision, Source, Task, Work};
use npc_kernels::cpu::contraction::Product;
use npc_kernels::elementwise::{Expression, Operand, Reduce, Scalar};
use std::collections::{HashMap, HashSet};

/// What a product does with its elements besides storing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Epilogue {
    /// Adds a bias of `[columns]`, then activates; `keeps` what the gradient needs in memory of [`Activation::kept_bytes`].
    Bias { activation: Option<Activation>, keeps: bool },
    /// Multiplies by the activation's derivative, from what the forward product kept; `sums` also adds up every column.
    Gradient { activation: Activation, sums: bool },
    /// Adds up the left operand's elements of every row, or the right one's of every column: the gradient of a bias beside
    /// that of its weight.
    Sums { of_right: bool },
}

/// A function of every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(z, 0)`; the derivative at 0 is 0.
    Relu,
    /// `z/2 · (1 + tanh(√(2/π)(z + 0.044715 z³)))`.
    Gelu,
}

/// Distance between rows of what is kept, in elements (bits for ReLU): what cuBLASLt asks for.
const BITS: usize = 128;
const FLOATS: usize = 8;

impl Activation {
    /// Distance between rows of what a forward product keeps, in bits for ReLU and in float32 values for GELU.
    pub fn kept_leading(self, columns: usize) -> usize {
        columns.next_multiple_of(match self {
            Activation::Relu => BITS,
            Activation::Gelu => FLOATS,
        })
    }

    /// Bytes that a forward product keeps.
    pub fn kept_bytes(self, rows: usize, columns: usize) -> usize {
        let leading = self.kept_leading(columns);
        rows * match self {
            Activation::Relu => leading / 8,
            Activation::Gelu => 4 * leading,
        }
    }

    /// Value and derivative at `z`.
    pub fn at(self, z: f64) -> (f64, f64) {
        match self {
            Activation::Relu if z > 0.0 => (z, 1.0),
            Activation::Relu => (0.0, 0.0),
            Activation::Gelu => {
                let slope = (2.0 / std::f64::consts::PI).sqrt();
                let t = (slope * (z + 0.044715 * z.powi(3))).tanh();
                let inner = slope * (1.0 + 3.0 * 0.044715 * z * z);
                (0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * inner)
            }
        }
    }

    /// Points outside are not tried: expressions overflow there in their own ways.
    fn largest(self) -> f32 {
        match self {
            Activation::Relu => 1e30,
            Activation::Gelu => 50.0,
        }
    }

    fn tolerance(self) -> f64 {
        match self {
            Activation::Relu => 0.0,
            Activation::Gelu => 1e-5,
        }
    }
}

/// Whether a device multiplies so.
pub type Has<'a> = dyn FnMut(&Product, Precision, Epilogue) -> bool + 'a;

/// Joins products with what follows them, where the device `has` that epilogue. The draft holds work only.
pub(super) fn join(mut draft: Draft, precision: Precision, has: &mut Has<'_>) -> Draft {
    let work: Vec<Work> = std::mem::take(&mut draft.work)
        .into_iter()
        .filter_map(|node| match node.kind {
            Kind::Work(work) => Some(work),
            Kind::Map(_) => None,
        })
        .collect();
    let mut graph = Graph::new(&draft, &work);
    let forwards: Vec<Forward> = (0..work.len()).filter_map(|at| graph.forward(at)).collect();
    for forward in &forwards {
        graph.join_forward(&mut draft, forward, precision, has);
    }
    // A library may add up factors as it rounds them; sums of what is rounded for the product only are another number.
    if precision.narrow().is_none() {
        (0..work.len()).for_each(|at| graph.join_sums(at, precision, has));
    }
    let Graph { mut replaced, gone, .. } = graph;
    let kept = (work.into_iter().enumerate()).filter(|(at, _)| !gone.contains(at));
    let kept: Vec<Work> = kept.map(|(at, work)| replaced.remove(&at).unwrap_or(work)).collect();
    draft.work = kept.into_iter().map(|work| Node { name: work.name.clone(), kind: Kind::Work(work) }).collect();
    draft
}

/// A product, and the expression of its result and a bias that follows it.
struct Forward {
    product: usize,
    expression: usize,
    bias: BufferId,
    activation: Option<Activation>,
    /// Which output of the expression is the activated value.
    result: usize,
}

/// A product, and the expression that multiplies it by a derivative.
struct Gradient {
    product: usize,
    expression: usize,
    /// Whether the expression adds up the columns, too.
    sums: bool,
}

struct Graph<'a> {
    work: &'a [Work],
    elements: Vec<usize>,
    exported: HashSet<BufferId>,
    producer: HashMap<BufferId, usize>,
    readers: HashMap<BufferId, Vec<usize>>,
    /// New work by the position of the product it takes the place of.
    replaced: HashMap<usize, Work>,
    gone: HashSet<usize>,
}

impl<'a> Graph<'a> {
    fn new(draft: &Draft, work: &'a [Work]) -> Self {
        let (mut producer, mut readers) = (HashMap::new(), HashMap::<usize, Vec<usize>>::new());
        for (at, one) in work.iter().enumerate() {
            producer.extend(one.writes.iter().map(|id| (*id, at)));
            one.reads.iter().for_each(|id| readers.entry(*id).or_default().push(at));
        }
        Graph {
            work,
            elements: draft.buffers.iter().map(|b| b.elements).collect(),
            exported: draft.outputs.iter().map(|(_, id, _)| *id).collect(),
            producer,
            readers,
            replaced: HashMap::new(),
            gone: HashSet::new(),
        }
    }

    /// A plain product whose result lies by rows and fills its buffer.
    fn product(&self, at: usize) -> Option<Product> {
        let Task::Products(products) = &self.work[at].task else { return None };
        let [p] = products.as_slice() else { return None };
        let is_plain = p.batch == 1 && !p.accumulate && p.rows > 1 && p.columns > 1;
        let is_dense = p.c.start == 0 && p.c.along == 1 && p.c.down == p.columns;
        let fills = self.elements[self.work[at].writes[0]] == p.rows * p.columns;
        (is_plain && is_dense && fills && !self.replaced.contains_key(&at)).then_some(*p)
    }

    fn expression(&self, at: usize) -> Option<&'a Expression> {
        match &self.work[at].task {
            Task::Expression(expression) if !self.gone.contains(&at) => Some(expression),
            _ => None,
        }
    }

    /// The plain product that computes `buffer` for nobody but the work at `reader`, which reads it as rows of the product's
    /// columns.
    fn product_for(&self, buffer: BufferId, reader: usize) -> Option<(usize, Product)> {
        let at = *self.producer.get(&buffer)?;
        let p = self.product(at)?;
        let alone = self.readers.get(&buffer).is_some_and(|all| all == &[reader]) && !self.exported.contains(&buffer);
        let expression = self.expression(reader)?;
        let fits = expression.shape().last() == Some(&p.columns)
            && expression.shape().iter().product::<usize>() == p.rows * p.columns;
        (alone && fits).then_some((at, p))
    }

    /// The work at `at` as a bias and perhaps an activation of a product.
    fn forward(&self, at: usize) -> Option<Forward> {
        let expression = self.expression(at)?;
        let (&[first, second], [one, two]) = (self.work[at].reads.as_slice(), expression.inputs()) else { return None };
        if expression.reduction().is_some() || one.dtype != DType::F32 || two.dtype != DType::F32 {
            return None;
        }
        let is_bias = |shape: &[usize]| {
            let (last, rest) = shape.split_last().unwrap_or((&1, &[]));
            Some(last) == expression.shape().last() && rest.iter().all(|n| *n == 1)
        };
        let (value, bias, is_swapped) = match (is_bias(&one.shape), is_bias(&two.shape)) {
            (false, true) if one.shape == expression.shape() => (first, second, false),
            (true, false) if two.shape == expression.shape() => (second, first, true),
            _ => return None,
        };
        let (product, _) = self.product_for(value, at)?;
        for activation in [Some(Activation::Relu), Some(Activation::Gelu), None] {
            let points = Points::of(&[expression], activation);
            let results = points.run(expression, is_swapped)?;
            let tolerance = activation.map_or(0.0, Activation::tolerance);
            let want = |z: f32| activation.map_or(f64::from(z), |a| a.at(z.into()).0);
            let is_it = |values: &Values| values.agree(points.z.iter().map(|z| want(*z)), tolerance);
            if let Some(result) = results.iter().position(is_it) {
                return Some(Forward { product, expression: at, bias, activation, result });
            }
        }
        None
    }

    /// The work at `at` as a product times the derivative of what `forward` computes, known by its output `gate`.
    fn gradient(&self, at: usize, forward: &Forward, gate: BufferId) -> Option<Gradient> {
        let activation = forward.activation?;
        let expression = self.expression(at)?;
        let &[first, second] = self.work[at].reads.as_slice() else { return None };
        let (value, is_swapped) = if second == gate { (first, false) } else { (second, true) };
        let (product, _) = self.product_for(value, at)?;
        let whole = expression.inputs().iter().all(|i| i.shape == expression.shape());
        if !whole || expression.outputs().len() != 1 + usize::from(expression.reduction().is_some()) {
            return None;
        }
        if expression.reduction().is_some_and(|(reduce, axes)| reduce != Reduce::Sum || !is_over_rows(axes)) {
            return None;
        }
        let ahead = self.expression(forward.expression)?;
        let points = Points::of(&[ahead, expression], Some(activation));
        let is_bias_first = self.work[forward.expression].reads[0] == forward.bias;
        let kept = points.run(ahead, is_bias_first)?;
        let gates = &kept[self.work[forward.expression].writes.iter().position(|id| *id == gate)?];
        // Every pre-activation with every incoming gradient, by turning the list of these.
        let turns = points.gradients.len();
        (0..turns)
            .all(|turn| {
                let incoming: Vec<f32> = (0..points.z.len()).map(|i| points.gradients[(i + turn) % turns]).collect();
                let slope = |z: f32| activation.at(z.into()).1;
                let want: Vec<f64> = points.z.iter().zip(&incoming).map(|(z, dy)| f64::from(*dy) * slope(*z)).collect();
                let bytes = floats(&incoming);
                let inputs = if is_swapped { [&gates.bytes, &bytes] } else { [&bytes, &gates.bytes] };
                let results = run(expression, incoming.len(), &inputs.map(Vec::as_slice));
                results.is_some_and(|r| r.iter().all(|v| v.agree(want.iter().copied(), activation.tolerance())))
            })
            .then_some(Gradient { product, expression: at, sums: expression.reduction().is_some() })
    }

    fn join_forward(&mut self, draft: &mut Draft, forward: &Forward, precision: Precision, has: &mut Has<'_>) {
        let Some(product) = self.product(forward.product) else { return };
        let ahead = &self.work[forward.expression];
        let mut gradients: Vec<Gradient> = Vec::new();
        let mut is_complete = true;
        for (output, gate) in ahead.writes.iter().enumerate() {
            let readers = self.readers.get(gate).map_or(&[][..], Vec::as_slice);
            for reader in readers {
                let taken = |g: &&Gradient| g.expression == *reader;
                match self.gradient(*reader, forward, *gate) {
                    Some(gradient) if gradients.iter().find(taken).is_none() => gradients.push(gradient),
                    Some(_) => {}
                    // The activated value itself stays.
                    None => is_complete &= output == forward.result,
                }
            }
            is_complete &= output == forward.result || !self.exported.contains(gate);
        }
        let mut can = |g: &Gradient, activation: Activation| {
            let epilogue = Epilogue::Gradient { activation, sums: g.sums };
            self.product(g.product).is_some_and(|p| has(&p, precision, epilogue))
        };
        let mut keeps = forward.activation.filter(|a| !gradients.is_empty() && gradients.iter().all(|g| can(g, *a)));
        let with = |keeps: bool| Epilogue::Bias { activation: forward.activation, keeps };
        keeps = keeps.filter(|_| is_complete && has(&product, precision, with(true)));
        // What else the expression computed nobody may need any more.
        let needs_gradients = ahead.writes.len() > 1;
        if keeps.is_none() && (needs_gradients || !has(&product, precision, with(false))) {
            return;
        }
        let mut reads = self.work[forward.product].reads.clone();
        reads.push(forward.bias);
        let mut writes = vec![ahead.writes[forward.result]];
        if let Some(activation) = keeps {
            let bytes = activation.kept_bytes(product.rows, product.columns);
            let kept = draft.buffer(&ahead.name, DType::Bool, bytes, Source::Computed);
            self.elements.push(bytes);
            writes.push(kept);
            for gradient in &gradients {
                let Some(p) = self.product(gradient.product) else { continue };
                let epilogue = Epilogue::Gradient { activation, sums: gradient.sums };
                let behind = &self.work[gradient.expression];
                let mut reads = self.work[gradient.product].reads.clone();
                reads.push(kept);
                let (name, writes) = (behind.name.clone(), behind.writes.clone());
                let task = Task::ProductWith { product: p, epilogue };
                self.replaced.insert(gradient.product, Work { name, task, reads, writes });
                self.gone.insert(gradient.expression);
            }
        }
        let task = Task::ProductWith { product, epilogue: with(keeps.is_some()) };
        self.replaced.insert(forward.product, Work { name: ahead.name.clone(), task, reads, writes });
        self.gone.insert(forward.expression);
    }

    /// The work at `at` as the sums over the rows of what a product multiplies anyway.
    fn join_sums(&mut self, at: usize, precision: Precision, has: &mut Has<'_>) {
        let Some(expression) = self.expression(at) else { return };
        let (&[value], [input]) = (self.work[at].reads.as_slice(), expression.inputs()) else { return };
        let is_sum = expression.reduction().is_some_and(|(reduce, axes)| reduce == Reduce::Sum && is_over_rows(axes));
        if !is_sum || input.dtype != DType::F32 || !expression.instructions().is_empty() {
            return;
        }
        let (&[columns], &[sum]) =
            (&expression.shape()[expression.shape().len() - 1..], self.work[at].writes.as_slice())
        else {
            return;
        };
        let rows = self.elements[value] / columns.max(1);
        let found = self.readers[&value].iter().find_map(|reader| {
            let p = self.product(*reader)?;
            let reads = &self.work[*reader].reads;
            let is_left = reads[0] == value && (p.a.start, p.a.down, p.a.along) == (0, 1, columns) && p.rows == columns;
            let is_right =
                reads[1] == value && (p.b.start, p.b.down, p.b.along) == (0, columns, 1) && p.columns == columns;
            let epilogue = Epilogue::Sums { of_right: !is_left };
            let fits = (is_left || is_right) && p.inner == rows && has(&p, precision, epilogue);
            fits.then_some((*reader, p, epilogue))
        });
        let Some((product, p, epilogue)) = found else { return };
        let old = &self.work[product];
        let task = Task::ProductWith { product: p, epilogue };
        let (name, reads, writes) = (old.name.clone(), old.reads.clone(), vec![old.writes[0], sum]);
        self.replaced.insert(product, Work { name, task, reads, writes });
        self.gone.insert(at);
    }
}

/// All axes but the last.
fn is_over_rows(axes: &[bool]) -> bool {
    axes.split_last().is_some_and(|(last, rest)| !last && !rest.is_empty() && rest.iter().all(|reduced| *reduced))
}

/// One output at all points.
struct Values {
    dtype: DType,
    bytes: Vec<u8>,
}

impl Values {
    /// Whether these are float32 values within `tolerance`, absolute and relative, of what is wanted.
    fn agree(&self, wanted: impl Iterator<Item = f64>, tolerance: f64) -> bool {
        let near = |(four, want): (&[u8], f64)| {
            let value = <[u8; 4]>::try_from(four).map_or(f64::NAN, |b| f64::from(f32::from_le_bytes(b)));
            let want = f64::from(want as f32);
            value == want || (value - want).abs() <= tolerance * (1.0 + want.abs())
        };
        self.dtype == DType::F32 && self.bytes.chunks_exact(4).zip(wanted).all(near)
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn run(expression: &Expression, count: usize, inputs: &[&[u8]]) -> Option<Vec<Values>> {
    let expression = expression.at_points(count);
    let types = expression.outputs().into_iter().map(|(dtype, _)| dtype);
    Some(types.zip(expression.evaluate(inputs).ok()?).map(|(dtype, bytes)| Values { dtype, bytes }).collect())
}

/// Where expressions are tried.
struct Points {
    /// Products' results, biases, and their sums.
    values: Vec<f32>,
    biases: Vec<f32>,
    z: Vec<f32>,
    /// What comes in from behind.
    gradients: Vec<f32>,
}

impl Points {
    fn of(expressions: &[&Expression], activation: Option<Activation>) -> Self {
        let mut single = vec![0.0, 1e-30, 1e-8, 1e-3, 0.1, 0.3, 0.5, 0.75, 1.0, 1.7, 2.5, 3.2, 4.1, 6.5, 11.0, 30.0];
        single.extend([1e3f32, 1e6, 1e12, 1e29]);
        for operand in expressions.iter().flat_map(|e| e.instructions()).flat_map(|i| &i.operands) {
            if let Operand::Constant(_, Scalar::Float(x)) = operand {
                single.extend([x.abs(), x.abs().next_up(), x.abs().next_down().max(0.0)]);
            }
        }
        let largest = activation.map_or(1e30, Activation::largest);
        single.retain(|x| *x <= largest);
        let signed: Vec<f32> = single.iter().flat_map(|x| [*x, -*x]).collect();
        let offsets = [0.0, 0.25, -0.25, 1.5, -3.0, 20.0];
        let pairs = signed.iter().flat_map(|x| offsets.map(|b| (*x, b))).filter(|(x, b)| (x + b).abs() <= largest);
        let (values, biases): (Vec<f32>, Vec<f32>) = pairs.unzip();
        let z = values.iter().zip(&biases).map(|(x, b)| x + b).collect();
        // A derivative in float32 is off by some 1e-7, and so is its product by as much of what comes in.
        let gradients = [1.0f32, -0.6, 3e-5, -4.0, 0.0, -2e-20, 7e8].into_iter().filter(|dy| dy.abs() < largest);
        Points { values, biases, z, gradients: gradients.collect() }
    }

    /// A forward expression's outputs.
    fn run(&self, expression: &Expression, is_bias_first: bool) -> Option<Vec<Values>> {
        let (value, bias) = (floats(&self.values), floats(&self.biases));
        let inputs = if is_bias_first { [bias, value] } else { [value, bias] };
        run(expression, self.values.len(), &[&inputs[0], &inputs[1]])
    }
}

#[cfg(test)]
#[path = "epilogue_tests.rs"]
mod tests;
