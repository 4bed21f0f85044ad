//! Loss and accuracy from logits, exact for a last batch that is not full.

use super::TrainError;
use super::state::State;
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use crate::data::{Column, Split};
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

/// Runs the forward pass alone.
pub struct Evaluator {
    program: Option<Program>,
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
        Ok(Evaluator { program, output: output.unwrap_or_default(), labels: o.labels.clone(), from_logits, class_axis: o.class_axis, batch })
    }

    pub fn run(&mut self, state: &State, split: &Split) -> Result<Score, TrainError> {
        let mut total = Score::default();
        let Some(program) = &mut self.program else { return Ok(total) };
        let wanted: Vec<String> = program.inputs().map(str::to_string).collect();
        let mut at = 0;
        while at < split.len {
            let count = self.batch.min(split.len - at);
            // A last batch that is not full is filled with samples that are not counted.
            let samples: Vec<usize> = (0..self.batch).map(|i| if i < count { at + i } else { (at + i) % split.len }).collect();
            at += count;
            if !self.from_logits && count < self.batch && total.loss_count > 0.0 {
                break;
            }
            let mut feeds = state.borrow(&wanted);
            for column in split.columns.iter().filter(|c| wanted.contains(&c.name)) {
                feeds.push((column.name.clone(), column.batch(&samples)?));
            }
            let results = program.run(feeds)?;
            let Some((_, tensor)) = results.into_iter().find(|(name, _)| *name == self.output) else { continue };
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
