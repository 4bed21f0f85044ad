//! What steps a model through an epoch: the CPU engine, or a plan on a device.

use super::TrainError;
use super::evaluate::{Score, score};
use super::mixed::{Mixed, scaled};
use super::state::State;
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use crate::data::{Column, Split};
use crate::plan::batches::{CURSOR, LABELS, ORDER, TOTALS};
use crate::plan::command::memory_bytes;
use crate::plan::device::{Device, Scalars, Session};
use crate::plan::scaling::{MASTER, SCALE};
use crate::plan::{Plan, PlanOptions, Resident, Scored};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::{DType as ModelType, Model};
use npc_kernels::cuda::batch::Totals;
use npc_kernels::elementwise::DType;
use std::time::{Duration, Instant};

/// What an epoch's steps have in common.
pub struct Epoch<'a> {
    /// Number, from 1.
    pub number: u32,
    /// Samples.
    pub split: &'a Split,
    /// The samples' order in this epoch.
    pub order: &'a [usize],
    /// Samples of a batch.
    pub batch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Warm-up, phase, orthogonal.
    pub gates: [f32; 3],
}

/// A loss that is no number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    /// The loss.
    pub loss: f64,
    /// Batch of the epoch, from 1.
    pub batch: usize,
}

/// Steps a model whose parameters and states are a [`State`].
pub trait Engine {
    /// Runs the next batches of an epoch, one or more but not beyond `end`; counts them in the state and adds their score to
    /// it. Gives the first loss that is no number.
    ///
    /// # Errors
    /// A failed step.
    fn advance(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        epoch: &Epoch,
        end: usize,
    ) -> Result<Option<NotFinite>, TrainError>;

    /// Gives an initial state what the engine keeps beside the model's own.
    ///
    /// # Errors
    /// A parameter that cannot be converted.
    fn extend(&self, _state: &mut State) -> Result<(), TrainError> {
        Ok(())
    }

    /// Brings the state up to date: before it is saved or evaluated.
    ///
    /// # Errors
    /// A failed copy.
    fn fetch(&mut self, _state: &mut State) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Learning rate, step and gates of the next step. A step that was skipped does not count.
fn scalars(state: &State, bindings: &Bindings, epoch: &Epoch) -> Result<Vec<(String, HostTensor)>, TrainError> {
    let mut feeds = Vec::new();
    if let Some(rate) = &bindings.learning_rate {
        feeds.push((rate.name.clone(), HostTensor::f32(&[], &[epoch.lr as f32])?));
    }
    if let Some(step) = &bindings.step {
        let t = (state.steps - state.skipped) as f64 + step.first;
        let tensor = match step.dtype.as_str() {
            "i64" => HostTensor::i64(&[], &[t as i64])?,
            "i32" => HostTensor::i32(&[], &[t as i32])?,
            _ => HostTensor::f32(&[], &[t as f32])?,
        };
        feeds.push((step.name.clone(), tensor));
    }
    if let Some(name) = &bindings.gates {
        feeds.push((name.clone(), HostTensor::f32(&[3], &epoch.gates)?));
    }
    Ok(feeds)
}

fn labels<'a>(bindings: &Bindings, split: &'a Split) -> Option<&'a Column> {
    bindings.outputs.labels.as_deref().and_then(|name| split.column(name))
}

/// Counts a batch whose loss and logits the host has.
fn judge(
    state: &mut State,
    bindings: &Bindings,
    epoch: &Epoch,
    samples: &[usize],
    (loss, logits): (Option<f64>, Option<HostTensor>),
) -> Option<NotFinite> {
    let mut batch = match (&logits, labels(bindings, epoch.split)) {
        (Some(logits), Some(labels)) => score(logits, bindings.outputs.class_axis, labels, samples, samples.len()),
        _ => Score::default(),
    };
    // The graph's own loss is what is trained; the one from the logits only stands in for a graph without one.
    let loss = loss.unwrap_or_else(|| batch.loss());
    batch.set_loss(loss, samples.len());
    state.score.add(&batch);
    state.steps += 1;
    state.batch += 1;
    (!loss.is_finite()).then_some(NotFinite { loss, batch: state.batch })
}

impl Engine for Program {
    fn advance(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        epoch: &Epoch,
        _end: usize,
    ) -> Result<Option<NotFinite>, TrainError> {
        let samples = &epoch.order[state.batch * epoch.batch..][..epoch.batch];
        let mut feeds = scalars(state, bindings, epoch)?;
        for column in &epoch.split.columns {
            feeds.push((column.name.clone(), column.batch(samples)?));
        }
        feeds.extend(state.take());
        let (mut loss, mut logits) = (None, None);
        for (name, tensor) in self.run(feeds)? {
            if bindings.outputs.loss.as_ref() == Some(&name) {
                loss = tensor.to_f64().first().copied();
            } else if bindings.outputs.logits.as_ref() == Some(&name) {
                logits = Some(tensor);
            } else {
                state.put(&name, tensor);
            }
        }
        Ok(judge(state, bindings, epoch, samples, (loss, logits)))
    }
}

/// A plan on a device; parameters and states stay there between the steps.
pub struct OnDevice<D> {
    session: Session<D>,
    /// Whether the device adds up loss and hits.
    is_scored: bool,
    /// Whether the dataset is on the device.
    is_resident: bool,
    /// Name and first value of the step input, where steps may be skipped.
    counter: Option<(String, f64)>,
    /// Epoch whose order and scalars are on the device.
    epoch: Option<u32>,
    /// Batches started before the host looks at what became of them.
    burst: usize,
}

/// A stretch of steps should take about this long: Ctrl-C and the progress bar wait for its end.
const STRETCH: Duration = Duration::from_millis(100);
/// Bytes that are left to libraries and the driver, for workspaces, kernels and graphs.
const LIBRARIES: u64 = 512 << 20;
/// Samples copied to the device at a time.
const UPLOAD: usize = 4096;

impl<D: Device> OnDevice<D> {
    /// Plans a model's step for a device and puts the training samples there, when they fit beside it.
    ///
    /// # Errors
    /// An operator without a kernel, too little memory, a loss that cannot be scaled.
    pub fn new(
        mut device: D,
        program: &Program,
        model: &Model,
        bindings: &Bindings,
        split: &Split,
        batch: usize,
        mixed: &Mixed,
    ) -> Result<Self, TrainError> {
        let with_scale = match mixed.loss_scale {
            Some(_) => {
                let model = scaled(model)?;
                Some((Program::new(&model, &ProgramOptions::default())?, model))
            }
            None => None,
        };
        let (program, model) = with_scale.as_ref().map_or((program, model), |(program, model)| (program, model));
        let graph = program.device_graph(model, batch)?;
        let &Mixed { precision, loss_scale, master_weights } = mixed;
        let mut options = PlanOptions { precision, loss_scale, master_weights, ..PlanOptions::default() };
        let mut plan = graph.plan(bindings, &options, &mut device)?;
        options.scored = scored(&plan, bindings, split, batch);
        if options.scored.is_some() {
            plan = graph.plan(bindings, &options, &mut device)?;
        }
        let mut inputs = Vec::new();
        let mut bytes = 16 * split.len as u64;
        for column in &split.columns {
            let one = column.batch(&[0])?;
            bytes += one.bytes().len() as u64 * split.len as u64;
            if plan.elements(&column.name) == Some(one.len() * batch) {
                inputs.push(column.name.clone());
            }
        }
        let free = device.free_bytes()?;
        let rest = (free / 10).max(LIBRARIES).min(free / 2);
        let is_resident = options.scored.is_some()
            && inputs.len() == split.columns.len()
            && memory_bytes(&plan) + bytes <= free - rest;
        if is_resident {
            options.resident = Some(Resident { samples: split.len, batch, inputs });
            plan = graph.plan(bindings, &options, &mut device)?;
        }
        let has_labels = plan.elements(LABELS).is_some();
        let mut session = Session::new(plan, device, &Scalars::of(bindings))?;
        if is_resident {
            let all: Vec<usize> = (0..split.len).collect();
            for samples in all.chunks(UPLOAD) {
                for column in &split.columns {
                    let rows = column.batch(samples)?;
                    let first = rows.len() / samples.len() * samples[0];
                    session.set_part(&column.name, first, &rows)?;
                }
                if let Some(column) = labels(bindings, split).filter(|_| has_labels) {
                    let ids = ids(column, samples)?;
                    session.set_part(LABELS, ids.len() / samples.len() * samples[0], &ids)?;
                }
            }
        }
        let counter = bindings.step.as_ref().filter(|_| loss_scale.is_some()).map(|s| (s.name.clone(), s.first));
        Ok(OnDevice { session, is_scored: options.scored.is_some(), is_resident, counter, epoch: None, burst: 1 })
    }

    /// Whether the training samples are on the device.
    pub fn is_resident(&self) -> bool {
        self.is_resident
    }

    fn begin(&mut self, state: &State, bindings: &Bindings, epoch: &Epoch) -> Result<(), TrainError> {
        if self.epoch.is_none() {
            // A parameter's own value goes to its copy as well, and then the copy's.
            let (copies, others): (Vec<_>, Vec<_>) = state.tensors().partition(|(name, _)| name.starts_with(MASTER));
            for (name, tensor) in others.into_iter().chain(copies) {
                self.session.set(name, tensor)?;
            }
        }
        // Which steps were skipped only the device knows: after the first epoch its own count stands.
        let step = self.counter.as_ref().filter(|_| self.epoch.is_some()).map(|(name, _)| name.clone());
        for (name, tensor) in scalars(state, bindings, epoch)? {
            if step.as_ref() != Some(&name) {
                self.session.set(&name, &tensor)?;
            }
        }
        if self.is_resident {
            let order: Vec<i64> = epoch.order.iter().map(|i| *i as i64).collect();
            self.session.set(ORDER, &HostTensor::i64(&[order.len()], &order)?)?;
            self.session.set(CURSOR, &HostTensor::i64(&[], &[(state.batch * epoch.batch) as i64])?)?;
        }
        self.epoch = Some(epoch.number);
        Ok(())
    }

    /// Gives the device what the next step reads from the host.
    fn feed(&mut self, state: &State, bindings: &Bindings, epoch: &Epoch, samples: &[usize]) -> Result<(), TrainError> {
        // A step with updates of ours counts itself.
        if !self.session.counts_steps() {
            for (name, tensor) in scalars(state, bindings, epoch)? {
                self.session.set(&name, &tensor)?;
            }
        }
        if self.is_resident {
            return Ok(());
        }
        for column in &epoch.split.columns {
            self.session.set(&column.name, &column.batch(samples)?)?;
        }
        if let Some(column) = labels(bindings, epoch.split).filter(|_| self.is_scored) {
            self.session.set(LABELS, &ids(column, samples)?)?;
        }
        Ok(())
    }
}

impl<D: Device> Engine for OnDevice<D> {
    fn advance(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        epoch: &Epoch,
        end: usize,
    ) -> Result<Option<NotFinite>, TrainError> {
        if self.epoch != Some(epoch.number) {
            self.begin(state, bindings, epoch)?;
        }
        let samples = |batch: usize| &epoch.order[batch * epoch.batch..][..epoch.batch];
        if !self.is_scored {
            let samples = samples(state.batch);
            self.feed(state, bindings, epoch, samples)?;
            self.session.step()?;
            self.session.check()?;
            let loss = match &bindings.outputs.loss {
                Some(name) => self.session.get(name, None)?.to_f64().first().copied(),
                None => None,
            };
            let logits = bindings.outputs.logits.as_ref().map(|name| self.session.get(name, None)).transpose()?;
            return Ok(judge(state, bindings, epoch, samples, (loss, logits)));
        }
        let start = Instant::now();
        let count = self.burst.min(end - state.batch);
        let first = state.batch;
        self.session.set(TOTALS, &HostTensor::i64(&[Totals::BYTES / 8], &[0; Totals::BYTES / 8])?)?;
        for _ in 0..count {
            self.feed(state, bindings, epoch, samples(state.batch))?;
            self.session.step()?;
            state.steps += 1;
            state.batch += 1;
        }
        self.session.check()?;
        let totals = self.session.get(TOTALS, None)?;
        let totals = totals.bytes().try_into().map(Totals::read).unwrap_or_default();
        let rows = epoch.batch as f64;
        state.score.add(&Score {
            loss_sum: totals.loss * rows,
            loss_count: totals.batches as f64 * rows,
            right: totals.right as f64,
            judged: totals.judged as f64,
        });
        if start.elapsed() < STRETCH / 2 {
            self.burst = self.burst.saturating_mul(2).min(1 << 20);
        } else if start.elapsed() > STRETCH * 2 {
            self.burst = (self.burst / 2).max(1);
        }
        let bad = usize::try_from(totals.not_finite).unwrap_or(0);
        Ok((bad > 0).then_some(NotFinite { loss: totals.loss, batch: first + bad }))
    }

    fn extend(&self, state: &mut State) -> Result<(), TrainError> {
        let plan = self.session.plan();
        for (name, _) in &plan.inputs {
            let parameter = name.strip_prefix(MASTER).and_then(|parameter| state.tensor(parameter));
            if let Some(copy) = parameter.map(|tensor| tensor.cast(ModelType::F32)).transpose()? {
                state.keep(name, copy);
            }
        }
        if let Some(scaling) = &plan.scaling {
            let scale = scaling.rule.state();
            state.keep(SCALE, HostTensor::f32(&[scale.len()], &scale)?);
        }
        Ok(())
    }

    fn fetch(&mut self, state: &mut State) -> Result<(), TrainError> {
        if self.epoch.is_some() {
            if let Some((name, first)) = &self.counter {
                let counted = self.session.get(name, None)?.to_f64().first().copied().unwrap_or(*first) - first;
                state.skipped = state.steps.saturating_sub(counted as u64);
            }
            for (name, tensor) in state.tensors_mut() {
                *tensor = self.session.get(name, Some(tensor.dims()))?;
            }
        }
        Ok(())
    }
}

/// Class ids of samples, one a row of the logits.
fn ids(column: &Column, samples: &[usize]) -> Result<HostTensor, TrainError> {
    let ids: Vec<i64> = samples.iter().flat_map(|sample| column.labels(*sample)).collect();
    Ok(HostTensor::i64(&[ids.len()], &ids)?)
}

/// What the device can add up: the loss, and hits where every row of the logits has a label.
fn scored(plan: &Plan, bindings: &Bindings, split: &Split, batch: usize) -> Option<Scored> {
    let outputs = &bindings.outputs;
    let floats = |name: &str| {
        let (_, id, shape) = plan.outputs.iter().find(|(n, _, _)| n == name)?;
        (plan.buffers[*id].dtype == DType::F32).then_some(shape)
    };
    let loss = outputs.loss.clone().filter(|name| floats(name).is_some_and(|s| s.iter().product::<usize>() == 1))?;
    let rows_fit = |name: &String| {
        let shape = floats(name)?;
        let axis = outputs.class_axis.rem_euclid(shape.len().max(1) as i64) as usize;
        let rows: usize = shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, n)| n).product();
        (rows == labels(bindings, split)?.labels(0).len() * batch).then_some(())
    };
    let logits = outputs.logits.clone().filter(|name| rows_fit(name).is_some());
    Some(Scored { loss, logits: logits.map(|name| (name, outputs.class_axis)) })
}
