//! Loss and accuracy from logits, exact for a last batch that is not full.

use super::TrainError;
use super::state::State;
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use crate::data::{Column, Split};
use crate::plan::device::{Device, Scalars, Session};
use crate::plan::{PlanOptions, Precision};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::Model;

/// Sums of a number of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    pub loss_sum: f64,
    pub loss_count: f64,
    pub right: f64,
    pub judged: f64,
}

impl Score {
    /// Mean loss; 0 before the first sample.
    pub fn loss(&self) -> f64 {
        if self.loss_count > 0.0 { self.loss_sum / self.loss_count } else { 0.0 }
    }

    /// Share classified right; `None` where nothing could be judged.
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged > 0.0).then(|| self.right / self.judged)
    }

    pub fn add(&mut self, other: &Score) {
        self.loss_sum += other.loss_sum;
        self.loss_count += other.loss_count;
        self.right += other.right;
        self.judged += other.judged;
    }

    /// Takes a batch's mean loss as given.
    pub fn set_loss(&mut self, mean: f64, count: usize) {
        (self.loss_sum, self.loss_count) = (mean * count as f64, count as f64);
    }
}

/// Cross-entropy and hits of the first `count` of a batch's samples. `axis` of the logits runs over the classes; the other axes hold one
/// row or several a sample, in the labels' order.
pub fn score(logits: &HostTensor, axis: i64, labels: &Column, samples: &[usize], count: usize) -> Score {
    let mut score = Score::default();
    let dims = logits.dims();
    let axis = axis.rem_euclid(dims.len().max(1) as i64) as usize;
    let (Some(values), Some(classes)) = (logits.as_f32(), dims.get(axis).copied()) else { return score };
    if classes == 0 || samples.is_empty() {
        return score;
    }
    let inner: usize = dims[axis + 1..].iter().product();
    let per_sample = values.len() / classes / samples.len();
    let mut row = vec![0.0f32; classes];
    for (i, sample) in samples.iter().take(count).enumerate() {
        for (at, id) in (i * per_sample..(i + 1) * per_sample).zip(labels.labels(*sample)) {
            let Some(id) = usize::try_from(id).ok().filter(|id| *id < classes) else { continue };
            let first = at / inner * inner * classes + at % inner;
            row.iter_mut().enumerate().for_each(|(c, x)| *x = values[first + c * inner]);
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
            score.loss_sum += sum.ln() - f64::from(row[id] - top);
            score.loss_count += 1.0;
            let best = row.iter().enumerate().fold(0, |best, (j, x)| if *x > row[best] { j } else { best });
            score.right += f64::from(u8::from(best == id));
            score.judged += 1.0;
        }
    }
    score
}

/// What computes an evaluation's output.
enum Forward {
    Cpu(Box<Program>),
    Device(Box<dyn OnePass>),
}

/// A forward pass on some device.
trait OnePass {
    fn load(&mut self, state: &State) -> Result<(), TrainError>;
    fn run(&mut self, feeds: Vec<(String, HostTensor)>, output: &str) -> Result<HostTensor, TrainError>;
}

impl<D: Device> OnePass for Session<D> {
    fn load(&mut self, state: &State) -> Result<(), TrainError> {
        Ok(state.tensors().try_for_each(|(name, tensor)| self.set(name, tensor))?)
    }

    fn run(&mut self, feeds: Vec<(String, HostTensor)>, output: &str) -> Result<HostTensor, TrainError> {
        for (name, tensor) in &feeds {
            self.set(name, tensor)?;
        }
        self.step()?;
        self.check()?;
        Ok(self.get(output, None)?)
    }
}

/// Runs the forward pass alone.
pub struct Evaluator {
    forward: Option<Forward>,
    /// Inputs that it reads.
    wanted: Vec<String>,
    output: String,
    labels: Option<String>,
    from_logits: bool,
    class_axis: i64,
    batch: usize,
}

impl Evaluator {
    pub fn new(model: &Model, bindings: &Bindings, batch: usize, threads: usize) -> Result<Self, TrainError> {
        let o = &bindings.outputs;
        let from_logits = o.logits.is_some() && o.labels.is_some();
        let output = if from_logits { o.logits.clone() } else { o.loss.clone() };
        let program = match &output {
            Some(name) => Some(Program::new(model, &ProgramOptions { outputs: Some(vec![name.clone()]), threads })?),
            None => None,
        };
        let wanted = program.iter().flat_map(Program::inputs).map(str::to_string).collect();
        let (output, forward) = (output.unwrap_or_default(), program.map(|program| Forward::Cpu(Box::new(program))));
        Ok(Evaluator {
            forward,
            wanted,
            output,
            labels: o.labels.clone(),
            from_logits,
            class_axis: o.class_axis,
            batch,
        })
    }

    /// Runs the forward pass on a device from now on.
    ///
    /// # Errors
    /// An operator without a kernel, too little memory.
    pub fn move_to<D: Device + 'static>(
        &mut self,
        mut device: D,
        model: &Model,
        bindings: &Bindings,
        precision: Precision,
    ) -> Result<(), TrainError> {
        if let Some(Forward::Cpu(program)) = &self.forward {
            let options = PlanOptions { precision, ..PlanOptions::default() };
            let plan = program.device_graph(model, self.batch)?.plan(bindings, &options, &mut device)?;
            self.forward = Some(Forward::Device(Box::new(Session::new(plan, device, &Scalars::of(bindings))?)));
        }
        Ok(())
    }

    pub fn run(&mut self, state: &State, split: &Split) -> Result<Score, TrainError> {
        let mut total = Score::default();
        let Some(forward) = &mut self.forward else { return Ok(total) };
        if let Forward::Device(device) = forward {
            device.load(state)?;
        }
        let mut at = 0;
        while at < split.len {
            let count = self.batch.min(split.len - at);
            // A last batch that is not full is filled with samples that are not counted.
            let samples: Vec<usize> =
                (0..self.batch).map(|i| if i < count { at + i } else { (at + i) % split.len }).collect();
            at += count;
            if !self.from_logits && count < self.batch && total.loss_count > 0.0 {
                break;
            }
            let mut feeds = Vec::new();
            for column in split.columns.iter().filter(|c| self.wanted.contains(&c.name)) {
                feeds.push((column.name.clone(), column.batch(&samples)?));
            }
            let tensor = match forward {
                Forward::Device(device) => device.run(feeds, &self.output)?,
                Forward::Cpu(program) => {
                    feeds.extend(state.borrow(&self.wanted));
                    let results = program.run(feeds)?;
                    let Some((_, tensor)) = results.into_iter().find(|(name, _)| *name == self.output) else {
                        continue;
                    };
                    tensor
                }
            };
            match self.labels.as_deref().and_then(|name| split.column(name)).filter(|_| self.from_logits) {
                Some(labels) => total.add(&score(&tensor, self.class_axis, labels, &samples, count)),
                None => {
                    let mut batch = Score::default();
                    batch.set_loss(tensor.to_f64().first().copied().unwrap_or(f64::NAN), count);
                    total.add(&batch);
                }
            }
        }
        Ok(total)
    }
}
