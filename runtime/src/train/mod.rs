//! The training loop: batches, gates, metrics, checkpoints.

mod checkpoint;
mod engine;
#[cfg(test)]
mod engine_tests;
mod evaluate;
mod mixed;
#[cfg(test)]
mod mixed_tests;
mod state;

use crate::RuntimeError;
use crate::cpu::{Program, ProgramOptions};
use crate::cuda::Gpu;
use crate::data::{self, DataError, Dataset, batch_size};
use crate::plan::device::DeviceError;
use crate::plan::scaling::SCALE;
use crate::plan::{LossScaling, PlanError, Precision};
use engine::NotFinite;
pub use engine::{Engine, OnDevice};
pub use mixed::Mixed;
use npc_compiler::analysis::loss_scale::LossScaleError;
use npc_compiler::bindings::{Axis, Bindings};
use npc_compiler::files::{self, WriteError};
use npc_compiler::graph::Model;
use npc_compiler::onnx::SaveError;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
pub use state::State;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// On this machine's processor.
    #[default]
    Cpu,
    /// On the NVIDIA GPU of this number.
    Cuda(usize),
}

/// Options of [`train`].
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Data, as [`data::load`] takes it.
    pub data: String,
    /// Passes over the training data.
    pub epochs: u32,
    /// Samples a batch; `None` takes the model's.
    pub batch_size: Option<usize>,
    /// Learning rate; `None` takes the model's, or the settings'.
    pub lr: Option<f64>,
    /// Seed of initial values and shuffling.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Where to train.
    pub device: Target,
    /// Of matrix products on a GPU.
    pub precision: Precision,
    /// Of the loss on a GPU; `None` is dynamic for float16 and otherwise off.
    pub loss_scale: Option<LossScaling>,
    /// Whether 16-bit parameters have a float32 copy on the GPU that updates go to.
    pub master_weights: bool,
    /// Train on the processor where the GPU cannot.
    pub allow_cpu_fallback: bool,
    /// Run the steps on a GPU node by node, so that a failure names its node.
    pub check_nodes: bool,
    /// Folder for metrics, checkpoint and trained model.
    pub out: PathBuf,
    /// Go on from the checkpoint in `out`.
    pub resume: bool,
    /// Initial values (safetensors) by parameter name.
    pub weights: Option<PathBuf>,
}

/// One epoch on one thread of the processor, seed 0, float32, batch and learning rate as the model has them, float32 master
/// weights, no fallback, nothing to go on from. `data` and `out` are empty: whoever calls [`train`] names them.
impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            data: String::new(),
            epochs: 1,
            batch_size: None,
            lr: None,
            seed: 0,
            threads: 1,
            device: Target::default(),
            precision: Precision::default(),
            loss_scale: None,
            master_weights: true,
            allow_cpu_fallback: false,
            check_nodes: false,
            out: PathBuf::new(),
            resume: false,
            weights: None,
        }
    }
}

/// One epoch's line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Epoch {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Mean loss over the epoch's batches.
    pub train_loss: f64,
    /// Share of training samples classified right during the epoch.
    pub train_accuracy: Option<f64>,
    /// Mean loss on the test split.
    pub test_loss: f64,
    /// Share of test samples classified right.
    pub test_accuracy: Option<f64>,
    /// Seconds of training (without the evaluation).
    pub seconds: f64,
    /// Training samples a second.
    pub samples_per_second: f64,
    /// The loss scale at the epoch's end, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps of the epoch that overflowed and updated nothing, where there is a loss scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
}

/// Progress within an epoch.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Batches done in this epoch.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Mean loss so far in this epoch.
    pub loss: f64,
    /// Accuracy so far in this epoch.
    pub accuracy: Option<f64>,
    /// Samples a second so far in this epoch.
    pub samples_per_second: f64,
}

/// Watches a run. Returning true from `stop` ends it after the current step.
pub trait Observer {
    /// After each step.
    fn step(&mut self, progress: &Progress);
    /// After each epoch.
    fn epoch(&mut self, epoch: &Epoch);
    /// Asked after each step.
    fn stop(&mut self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Epochs' metrics of this run.
    pub epochs: Vec<Epoch>,
    /// True when the observer ended it early; the checkpoint holds everything.
    pub interrupted: bool,
    /// Folder with the results.
    pub out: PathBuf,
}

/// Why a run failed; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Engine.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// GPU.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A step without a place for a loss scale.
    #[error("the loss cannot be scaled: {0}; train with --loss-scale off")]
    LossScale(#[from] LossScaleError),
    /// A step that the GPU has no kernels for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A batch size the model was not exported with.
    #[error(
        "the model was exported with a fixed batch of {model}, so --batch-size {asked} cannot be used; leave the option out, or export with a symbolic batch axis"
    )]
    BatchSize {
        /// The model's.
        model: usize,
        /// What was asked for.
        asked: usize,
    },
    /// A learning rate for a model that has its own.
    #[error(
        "the learning rate is a constant inside this model, so --lr {0} cannot be used; leave the option out, or train with --optimizer neuroplastic"
    )]
    FixedRate(f64),
    /// A batch of nothing.
    #[error("the model was exported with a batch of 0 samples, which trains nothing; export it again")]
    EmptyBatch,
    /// No batch size anywhere.
    #[error("the model's batch axis is symbolic: give --batch-size")]
    NoBatchSize,
    /// Too little data.
    #[error("{samples} training samples do not fill one batch of {batch}")]
    TooFew {
        /// Samples.
        samples: usize,
        /// Batch.
        batch: usize,
    },
    /// The loss is no number any more.
    #[error("the loss became {loss} at step {step} of epoch {epoch}; lower --lr (it is {lr}); {saved}")]
    NotFinite {
        /// Loss.
        loss: f64,
        /// Batch, from 1.
        step: usize,
        /// Epoch, from 1.
        epoch: u32,
        /// Learning rate.
        lr: f64,
        /// Where the last good state is.
        saved: &'static str,
    },
    /// Results cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The trained model cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A checkpoint or weights file cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Checkpoint {
        /// File.
        path: PathBuf,
        /// Cause.
        why: String,
    },
}

/// Trains a compiled model.
///
/// # Errors
/// Data that does not fit, an operator the engine lacks, a loss that is no number, an unwritable folder.
pub fn train(
    model: &Model,
    bindings: &Bindings,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let dataset = data::load(&options.data, bindings)?;
    let batch = match (batch_size(bindings), options.batch_size) {
        (Some(model), Some(asked)) if model != asked => return Err(TrainError::BatchSize { model, asked }),
        (Some(0), _) | (None, Some(0)) => return Err(TrainError::EmptyBatch),
        (Some(n), _) | (None, Some(n)) => n,
        (None, None) => return Err(TrainError::NoBatchSize),
    };
    if let (Some(lr), None) = (options.lr, &bindings.learning_rate) {
        return Err(TrainError::FixedRate(lr));
    }
    if dataset.train.len < batch {
        return Err(TrainError::TooFew { samples: dataset.train.len, batch });
    }
    check_classes(model, bindings, &dataset)?;
    let program = Program::new(model, &ProgramOptions { outputs: None, threads: options.threads })?;
    let mut evaluator = evaluate::Evaluator::new(model, bindings, batch, options.threads)?;
    let mut engine: Option<Box<dyn Engine>> = None;
    if let Target::Cuda(ordinal) = options.device {
        let mut on_gpu = || -> Result<_, TrainError> {
            let mixed = Mixed::of(options, model, bindings);
            let gpu = || Gpu::new(ordinal).map(|gpu| gpu.checking_nodes(options.check_nodes));
            // First, so that the training samples are put beside it only where there is room for both.
            evaluator.move_to(gpu()?, model, bindings, options.precision)?;
            let train = OnDevice::new(gpu()?, &program, model, bindings, &dataset.train, batch, &mixed)?;
            Ok(train)
        };
        match on_gpu() {
            Ok(gpu) => engine = Some(Box::new(gpu)),
            Err(error) if options.allow_cpu_fallback => {
                tracing::warn!("training on the CPU: {error}");
                evaluator = evaluate::Evaluator::new(model, bindings, batch, options.threads)?;
            }
            Err(error) => return Err(error),
        }
    }
    let mut engine = engine.unwrap_or_else(|| Box::new(program));
    let mut state = State::initial(model, bindings, options)?;
    engine.extend(&mut state)?;
    let metrics = options.out.join("metrics.jsonl");
    let writing = |path: &Path| {
        let path = path.to_path_buf();
        move |source: std::io::Error| WriteError { path: path.clone(), source }
    };
    std::fs::create_dir_all(&options.out).map_err(writing(&options.out))?;
    if options.resume {
        state = State::resume(&options.out, state, bindings)?;
        keep_lines(&metrics, state.epoch)?;
    } else {
        std::fs::File::create(&metrics).map_err(writing(&metrics))?;
    }
    let lr = options.lr.or_else(|| bindings.learning_rate.as_ref()?.default).unwrap_or(bindings.settings.lr);
    let batches = dataset.train.len / batch;
    let mut summary = Summary { epochs: Vec::new(), interrupted: false, out: options.out.clone() };
    while state.epoch < options.epochs {
        let epoch = state.epoch + 1;
        let order = shuffled(dataset.train.len, options.seed, epoch);
        let gates = bindings.settings.gates(epoch, options.epochs);
        let steps = engine::Epoch { number: epoch, split: &dataset.train, order: &order, batch, lr, gates };
        let start = Instant::now();
        let first = state.batch;
        while state.batch < batches {
            if let Some(NotFinite { loss, batch: step }) = engine.advance(&mut state, bindings, &steps, batches)? {
                let saved = if state.epoch > 0 {
                    "the state after the epoch before is in the checkpoint"
                } else {
                    "nothing was saved yet"
                };
                return Err(TrainError::NotFinite { loss, step, epoch, lr, saved });
            }
            let done = (state.batch - first) * batch;
            observer.step(&Progress {
                epoch,
                batch: state.batch,
                batches,
                loss: state.score.loss(),
                accuracy: state.score.accuracy(),
                samples_per_second: done as f64 / start.elapsed().as_secs_f64().max(1e-9),
            });
            if observer.stop() {
                engine.fetch(&mut state)?;
                state.save(&options.out, model, bindings)?;
                summary.interrupted = true;
                return Ok(summary);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        engine.fetch(&mut state)?;
        let loss_scale = state.tensor(SCALE).and_then(|t| t.to_f64().first().copied());
        let skipped = state.skipped - state.skipped_before;
        if skipped as usize == batches {
            let scale = loss_scale.unwrap_or(1.0);
            tracing::warn!(
                "every step of epoch {epoch} was skipped, because its gradients are not finite at a loss scale of {scale}"
            );
        }
        let test = evaluator.run(&state, &dataset.test)?;
        let line = Epoch {
            epoch,
            train_loss: state.score.loss(),
            train_accuracy: state.score.accuracy(),
            test_loss: test.loss(),
            test_accuracy: test.accuracy(),
            seconds,
            samples_per_second: ((batches - first) * batch) as f64 / seconds.max(1e-9),
            loss_scale,
            skipped_steps: loss_scale.map(|_| skipped),
        };
        state.next_epoch();
        let text = serde_json::to_string(&line).unwrap_or_default();
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(&metrics).map_err(writing(&metrics))?;
        writeln!(file, "{text}").map_err(writing(&metrics))?;
        state.save(&options.out, model, bindings)?;
        observer.epoch(&line);
        summary.epochs.push(line);
    }
    Ok(summary)
}

/// Drops the lines of epochs that the checkpoint does not hold: the run ended between writing the one and the other.
fn keep_lines(metrics: &Path, epochs: u32) -> Result<(), WriteError> {
    let text = match std::fs::read_to_string(metrics) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|source| WriteError { path: metrics.to_path_buf(), source })?,
    };
    let kept: String = text.split_inclusive('\n').take(epochs as usize).collect();
    if kept == text { Ok(()) } else { files::write(metrics, kept.as_bytes()) }
}

/// Labels must be classes of the model before the first step: engines do not agree on what happens otherwise.
fn check_classes(model: &Model, bindings: &Bindings, dataset: &Dataset) -> Result<(), TrainError> {
    let classes = bindings.outputs.logits.as_deref().and_then(|name| {
        let dims = model.graph.value(model.graph.value_named(name)?).dims()?;
        let axis = bindings.outputs.class_axis.rem_euclid(dims.len().max(1) as i64) as usize;
        dims.get(axis).copied()
    });
    let one_hot = || {
        let label = bindings.inputs.iter().find(|i| Some(&i.name) == bindings.outputs.labels.as_ref())?;
        match label.shape.last() {
            Some(Axis::Known(n)) if bindings.outputs.label_kind.as_deref() == Some("one_hot") => Some(*n),
            _ => None,
        }
    };
    if let (Some(classes), Some(name)) = (classes.or_else(one_hot), &bindings.outputs.labels) {
        for split in [&dataset.train, &dataset.test] {
            if let Some(column) = split.column(name) {
                column.check_labels(classes)?;
            }
        }
    }
    Ok(())
}

/// A permutation of 0..n that depends on seed and epoch only, so that a resumed run sees the same batches.
fn shuffled(n: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::from(epoch));
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
    }
    order
}
