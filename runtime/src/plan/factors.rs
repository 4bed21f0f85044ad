//! Factors of products in 16 bits.
//!
//! With [`Precision::Bf16`] and [`Precision::F16`] a product rounds its factors when it reads them. Rounded once where they are
//! computed they give the same bits, take half the memory, and tensor cores multiply them as they are. So what products read
//! gets a twin of 16 bits, or becomes one where nobody else reads it: an expression has one more output, so have softmax and
//! layer norm and their gradients, a plain product rounds its own result, a copy copies 16 bits, and where nothing else does, a
//! cast of its own goes behind. Products whose libraries do not multiply such factors stay as they are, and so do those of a
//! convolution's columns, which are larger than what they are made of.
//!
//! Epilogues have been joined by now: they compare float32 values with their formulas, and a bias beside a result of 16 bits would
//! have to be of 16 bits itself.

use super::{
    BufferId, DType, Draft, Epilogue, Kind, Libraries, Node, Numbers, PlanError, Precision, Source, Task, Work,
};
use npc_kernels::cpu::KernelError;
use npc_kernels::cpu::contraction::Product;
use npc_kernels::elementwise::{Expression, Operand, Operation};
use std::collections::{HashMap, HashSet};

type Result<T> = std::result::Result<T, PlanError>;

fn graph(error: KernelError) -> PlanError {
    PlanError::Graph(error.to_string())
}

/// Lets products read factors of 16 bits where that changes no bit of their results. The draft holds work only.
pub(super) fn narrow(mut draft: Draft, precision: Precision, libraries: &mut dyn Libraries) -> Result<Draft> {
    let Some(to) = precision.narrow() else { return Ok(draft) };
    let nodes = std::mem::take(&mut draft.work);
    let work: Vec<Work> = nodes
        .into_iter()
        .filter_map(|node| match node.kind {
            Kind::Work(work) => Some(work),
            Kind::Map(_) => None,
        })
        .collect();
    let mut pass = Pass::new(draft, work, to);
    pass.choose(precision, libraries);
    for at in 0..pass.work.len() {
        for operand in 0..2 {
            if pass.chosen.contains(&at) {
                let twin = pass.twin(pass.work[at].reads[operand])?;
                pass.work[at].reads[operand] = twin;
            }
        }
    }
    let Pass { mut draft, work, .. } = pass;
    let is_left = |w: &Work| !matches!(w.task, Task::Expression(_)) || !w.writes.is_empty();
    let nodes = work.into_iter().filter(is_left).map(|work| Node { name: work.name.clone(), kind: Kind::Work(work) });
    draft.work = nodes.collect();
    Ok(draft)
}

/// The products of a piece of work, and what is done with their elements.
fn products(work: &Work) -> Option<(Vec<Product>, Option<Epilogue>)> {
    match &work.task {
        Task::Products(products) => Some((products.clone(), None)),
        Task::ProductWith { product, epilogue } => Some((vec![*product], Some(*epilogue))),
        _ => None,
    }
}

struct Pass {
    draft: Draft,
    work: Vec<Work>,
    /// What factors are rounded to.
    to: DType,
    exported: HashSet<BufferId>,
    readers: HashMap<BufferId, Vec<usize>>,
    writers: HashMap<BufferId, Vec<usize>>,
    /// Products whose factors become 16 bits, and those of them that can write such a result.
    chosen: HashSet<usize>,
    rounding: HashSet<usize>,
    /// What chosen products read.
    factors: HashSet<BufferId>,
    /// Which buffers somebody reads in float32, and which copies are of 16 bits: decided before anything is changed.
    wide: Vec<bool>,
    moving: HashSet<usize>,
    twins: HashMap<BufferId, BufferId>,
}

impl Pass {
    fn new(draft: Draft, work: Vec<Work>, to: DType) -> Self {
        let (mut readers, mut writers) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        for (at, one) in work.iter().enumerate() {
            one.reads.iter().for_each(|id| readers.entry(*id).or_default().push(at));
            one.writes.iter().for_each(|id| writers.entry(*id).or_default().push(at));
        }
        let exported = draft.outputs.iter().map(|(_, id, _)| *id).collect();
        let (chosen, rounding, factors, twins) = Default::default();
        let (wide, moving) = Default::default();
        Pass { draft, work, to, wide, moving, exported, readers, writers, chosen, rounding, factors, twins }
    }

    fn writers(&self, id: BufferId) -> &[usize] {
        self.writers.get(&id).map_or(&[], Vec::as_slice)
    }

    fn readers(&self, id: BufferId) -> &[usize] {
        self.readers.get(&id).map_or(&[], Vec::as_slice)
    }

    fn is_float(&self, id: BufferId) -> bool {
        self.draft.buffers[id].dtype == DType::F32
    }

    /// Both factors of a product get the same type: where one cannot, neither does.
    fn choose(&mut self, precision: Precision, libraries: &mut dyn Libraries) {
        for (at, work) in self.work.iter().enumerate() {
            let Some((products, epilogue)) = products(work) else { continue };
            let can = |id: &BufferId| {
                let is_columns = |at: &usize| matches!(self.work[*at].task, Task::Columns { .. });
                self.is_float(*id) && !self.writers(*id).iter().any(is_columns)
            };
            // The sums would be of rounded numbers.
            let adds_factors = matches!(epilogue, Some(Epilogue::Sums { .. }));
            if adds_factors || !work.reads[..2].iter().all(can) {
                continue;
            }
            let mut has = |narrow_result| {
                let numbers = Numbers { precision, narrow_factors: true, narrow_result };
                products.iter().all(|p| libraries.has_narrow(p, numbers, epilogue))
            };
            if has(false) {
                self.chosen.insert(at);
                self.factors.extend(&work.reads[..2]);
                // What is added to must not be rounded before.
                if epilogue.is_none() && !products.iter().any(|p| p.accumulate) && has(true) {
                    self.rounding.insert(at);
                }
            }
        }
        self.wide = (0..self.draft.buffers.len()).map(|id| self.is_wide(id)).collect();
        self.moving = (0..self.work.len()).filter(|at| self.moves(*at)).collect();
    }

    /// Whether somebody reads a value in float32.
    fn is_wide(&self, id: BufferId) -> bool {
        let needs = |at: &usize| match self.work[*at].task {
            Task::Copy(_) | Task::Place(_) => !self.moves(*at),
            _ => !self.chosen.contains(at) || self.work[*at].reads[2..].contains(&id),
        };
        self.exported.contains(&id) || self.readers(id).is_empty() || self.readers(id).iter().any(needs)
    }

    /// Whether a copy, or a part's way into a larger value, is of 16 bits, because products alone read what comes out.
    fn moves(&self, at: usize) -> bool {
        let work = &self.work[at];
        let (from, to) = (work.reads[0], work.writes[0]);
        let is_float = self.is_float(from) && self.is_float(to);
        match &work.task {
            // Less is rounded behind the copy than before it where it leaves most out.
            Task::Copy(view) => {
                let whole = view.len() >= self.draft.buffers[from].elements || self.factors.contains(&from);
                is_float && whole && !self.is_wide(to)
            }
            Task::Place(_) => is_float && !self.is_wide(to) && self.writers(to).iter().all(|at| self.fills(*at)),
            _ => false,
        }
    }

    /// Whether a writer of one part of a value can write it in 16 bits.
    fn fills(&self, at: usize) -> bool {
        matches!(self.work[at].task, Task::Place(_)) || self.rounding.contains(&at)
    }

    /// The buffer in which products find a float32 value rounded.
    fn twin(&mut self, id: BufferId) -> Result<BufferId> {
        if let Some(known) = self.twins.get(&id) {
            return Ok(*known);
        }
        if self.draft.buffers[id].dtype != DType::F32 {
            return Ok(id);
        }
        let twin = match &self.draft.buffers[id].source {
            Source::Constant(bytes) => {
                let source = Source::Constant(rounded(bytes, self.to));
                let (name, elements) = (self.draft.buffers[id].name.clone(), self.draft.buffers[id].elements);
                self.draft.buffer(&name, self.to, elements, source)
            }
            Source::Fed | Source::Kept => self.cast(id)?,
            Source::Computed => self.computed(id)?,
        };
        self.twins.insert(id, twin);
        Ok(twin)
    }

    /// Where a computed value goes: the buffer itself where only products read it.
    fn room(&mut self, id: BufferId, is_wide: bool) -> BufferId {
        if is_wide {
            let (name, elements) = (self.draft.buffers[id].name.clone(), self.draft.buffers[id].elements);
            return self.draft.buffer(&name, self.to, elements, Source::Computed);
        }
        self.draft.buffers[id].dtype = self.to;
        id
    }

    fn computed(&mut self, id: BufferId) -> Result<BufferId> {
        let (writers, is_wide) = (self.writers(id).to_vec(), self.wide[id]);
        if let &[at] = writers.as_slice() {
            if let Task::Expression(expression) = &self.work[at].task {
                let expression = expression.clone();
                return match self.work[at].writes.iter().position(|w| *w == id) {
                    Some(output) if output < expression.values().len() => self.output(expression, at, output, is_wide),
                    // What a reduction gives is rounded behind it.
                    _ => self.cast(id),
                };
            }
            // These kernels write 16 bits beside their float32 result or in its place; nothing reads the large matrix again.
            let is_rows = matches!(
                self.work[at].task,
                Task::Softmax { .. }
                    | Task::SoftmaxGradient { .. }
                    | Task::LayerNorm { .. }
                    | Task::LayerNormGradient { .. }
            );
            if is_rows && self.work[at].writes[0] == id {
                let twin = self.room(id, is_wide);
                if is_wide {
                    self.work[at].writes.push(twin);
                }
                return Ok(twin);
            }
            if matches!(self.work[at].task, Task::Copy(_)) && self.moving.contains(&at) {
                let from = self.twin(self.work[at].reads[0])?;
                self.work[at].reads[0] = from;
                if let Task::Copy(view) = &mut self.work[at].task {
                    view.buffer = from;
                }
                return Ok(self.room(id, false));
            }
        }
        if !is_wide
            && !writers.is_empty()
            && writers.iter().all(|at| self.rounding.contains(at) || self.moving.contains(at))
        {
            for at in writers {
                if !self.rounding.contains(&at) {
                    self.work[at].reads[0] = self.twin(self.work[at].reads[0])?;
                }
            }
            return Ok(self.room(id, false));
        }
        self.cast(id)
    }

    /// An output of an expression as 16 bits: beside the float32 one, or in its place.
    fn output(&mut self, expression: Expression, at: usize, output: usize, is_wide: bool) -> Result<BufferId> {
        let value = expression.values()[output];
        // A value that was widened is there in 16 bits already.
        let narrow = widened(&expression, value, self.to);
        let stored = match narrow {
            Some(Operand::Input(i)) if expression.inputs()[i].shape == expression.shape() => {
                Some(self.work[at].reads[i])
            }
            Some(value) => (expression.values().iter().position(|v| *v == value)).map(|i| self.work[at].writes[i]),
            None => None,
        };
        if let Some(stored) = stored {
            if !is_wide {
                self.work[at].writes.remove(output);
                self.work[at].task = Task::Expression(expression.without(output));
            }
            return Ok(stored);
        }
        let id = self.work[at].writes[output];
        let end = expression.values().len();
        let mut wider = expression.with_cast(value, self.to).map_err(graph)?;
        let twin = self.room(id, is_wide);
        self.work[at].writes.insert(end, twin);
        if !is_wide {
            self.work[at].writes.remove(output);
            wider = wider.without(output);
        }
        self.work[at].task = Task::Expression(wider);
        Ok(twin)
    }

    /// A value rounded by work that reads it: an expression of nothing else, such as a bias's gradient, or one of its own.
    fn cast(&mut self, id: BufferId) -> Result<BufferId> {
        let twin = self.room(id, true);
        let elements = self.draft.buffers[id].elements;
        for at in self.readers(id).to_vec() {
            let Task::Expression(expression) = &self.work[at].task else { continue };
            let is_whole = |e: &Expression| e.inputs().len() == 1 && e.inputs()[0].shape == e.shape();
            if self.work[at].reads != [id] || !is_whole(expression) {
                continue;
            }
            let end = expression.values().len();
            let wider = expression.clone().with_cast(Operand::Input(0), self.to).map_err(graph)?;
            self.work[at].task = Task::Expression(wider);
            self.work[at].writes.insert(end, twin);
            return Ok(twin);
        }
        let mut builder = Expression::builder(&[elements]);
        let x = builder.input(DType::F32, &[elements]).map_err(graph)?;
        let cast = builder.apply(Operation::Cast(self.to), &[x]).map_err(graph)?;
        builder.output(cast).map_err(graph)?;
        let task = Task::Expression(builder.finish().map_err(graph)?);
        let name = self.draft.buffers[id].name.clone();
        self.work.push(Work { name, task, reads: vec![id], writes: vec![twin] });
        Ok(twin)
    }
}

/// The value of the type `to` that a float32 one was widened from.
fn widened(expression: &Expression, value: Operand, to: DType) -> Option<Operand> {
    let Operand::Result(at) = value else { return None };
    let instruction = &expression.instructions()[at];
    let &[from] = instruction.operands.as_slice() else { return None };
    let dtype = match from {
        Operand::Input(i) => expression.inputs()[i].dtype,
        Operand::Result(i) => expression.instructions()[i].dtype,
        Operand::Constant(dtype, _) => dtype,
    };
    (instruction.operation == Operation::Cast(DType::F32) && dtype == to).then_some(from)
}

/// Little-endian float32 values rounded to 16 bits.
fn rounded(bytes: &[u8], to: DType) -> Vec<u8> {
    let values = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
    match to {
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}
