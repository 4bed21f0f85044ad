//! Everything that goes from one step to the next.

use super::checkpoint;
use super::evaluate::Score;
use super::{TrainError, TrainOptions};
use crate::HostTensor;
use crate::tensor::room;
use npc_compiler::analysis::Init;
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::{DType, Model, ValueId};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::HashMap;
use std::path::Path;

/// What the names of tensors begin with that are not the model's.
const OWN: &str = "npc.";
const OPTIONS: &str =
    "go on with the --device, --precision, --loss-scale and --no-master-weights that the run was started with";

/// Parameters, states and the place in the run.
pub struct State {
    tensors: HashMap<String, HostTensor>,
    /// Output name → input name.
    feedback: HashMap<String, String>,
    /// Epochs finished.
    pub epoch: u32,
    /// Batches finished in the current epoch.
    pub batch: usize,
    /// Steps taken.
    pub steps: u64,
    /// Of them those that overflowed and updated nothing.
    pub skipped: u64,
    /// The same when the current epoch began.
    pub skipped_before: u64,
    /// Sums of the current epoch.
    pub score: Score,
}

impl State {
    /// Initial values: the model's own, a weights file's, or drawn as the bindings say.
    pub fn initial(model: &Model, bindings: &Bindings, options: &TrainOptions) -> Result<Self, TrainError> {
        let mut tensors = HashMap::new();
        let mut feedback = HashMap::new();
        let given = match &options.weights {
            Some(path) => checkpoint::read(path)?.tensors,
            None => HashMap::new(),
        };
        let constant =
            |name: &str| model.graph.value_named(name).and_then(|v| model.graph.value(v).initializer.as_ref());
        for (index, p) in bindings.parameters.iter().enumerate() {
            room(&p.name, &p.shape)?;
            let tensor = match (given.get(&p.name), constant(&p.name)) {
                (Some(tensor), _) if tensor.dims() == p.shape => tensor.cast(dtype(&p.dtype))?,
                (Some(tensor), _) => {
                    let why = format!("'{}' has the shape {:?}, the model wants {:?}", p.name, tensor.dims(), p.shape);
                    return Err(TrainError::Checkpoint { path: options.weights.clone().unwrap_or_default(), why });
                }
                (None, Some(constant)) => HostTensor::from_constant(constant)?,
                (None, None) => drawn(p.init, dtype(&p.dtype), &p.shape, options.seed, index)?,
            };
            tensors.insert(p.name.clone(), tensor);
            feedback.insert(p.next.clone(), p.name.clone());
        }
        for s in bindings.parameters.iter().flat_map(|p| &p.states).chain(&bindings.state) {
            room(&s.name, &s.shape)?;
            let tensor = match constant(&s.name) {
                Some(constant) => HostTensor::from_constant(constant)?,
                None if s.role == "running_variance" => drawn(Init::Ones, dtype(&s.dtype), &s.shape, 0, 0)?,
                None => HostTensor::zeros(dtype(&s.dtype), &s.shape)?,
            };
            tensors.insert(s.name.clone(), tensor);
            feedback.insert(s.next.clone(), s.name.clone());
        }
        Ok(State {
            tensors,
            feedback,
            epoch: 0,
            batch: 0,
            steps: 0,
            skipped: 0,
            skipped_before: 0,
            score: Score::default(),
        })
    }

    /// Takes up a run where its checkpoint left it.
    pub fn resume(folder: &Path, initial: State, bindings: &Bindings) -> Result<Self, TrainError> {
        let path = folder.join(checkpoint::FILE);
        if !path.exists() {
            let why =
                "there is none, so nothing can be resumed; start without --resume, or name the run's folder with --out";
            return Err(TrainError::Checkpoint { path, why: why.into() });
        }
        let saved = checkpoint::read(&path)?;
        let mut state = initial;
        let names = bindings.parameters.iter().flat_map(|p| p.states.iter().map(|s| &s.name).chain([&p.name]));
        let own = state.tensors.keys().filter(|name| name.starts_with(OWN)).cloned().collect::<Vec<_>>();
        if let Some(name) = saved.tensors.keys().find(|n| n.starts_with(OWN) && !state.tensors.contains_key(*n)) {
            let why = format!("it holds '{name}', which this run does not keep; {OPTIONS}");
            return Err(TrainError::Checkpoint { path, why });
        }
        for name in names.chain(bindings.state.iter().map(|s| &s.name)).chain(&own) {
            let mine = state.tensors.get(name).map(|t| (t.dtype(), t.dims()));
            let fits = |t: &&HostTensor| mine == Some((t.dtype(), t.dims()));
            let Some(tensor) = saved.tensors.get(name).filter(fits) else {
                let why = if name.starts_with(OWN) {
                    format!("it does not hold '{name}', which this run keeps; {OPTIONS}")
                } else {
                    format!("it does not hold '{name}' as this model has it; it belongs to another model")
                };
                return Err(TrainError::Checkpoint { path, why });
            };
            state.tensors.insert(name.clone(), tensor.clone());
        }
        let no_place =
            || "it does not say where its run stood, so it is no checkpoint of npc's; start without --resume";
        let place = saved.place.ok_or_else(|| TrainError::Checkpoint { path, why: no_place().into() })?;
        (state.epoch, state.batch, state.steps, state.score) = place;
        [state.skipped, state.skipped_before] = saved.skipped;
        Ok(state)
    }

    /// Writes checkpoint and trained model.
    pub fn save(&self, folder: &Path, model: &Model, bindings: &Bindings) -> Result<(), TrainError> {
        checkpoint::write(
            &folder.join(checkpoint::FILE),
            &self.tensors,
            (self.epoch, self.batch, self.steps, self.score),
            [self.skipped, self.skipped_before],
        )?;
        let mut model = model.clone();
        let running = bindings.state.iter().filter(|s| s.role.starts_with("running_")).map(|s| &s.name);
        for name in bindings.parameters.iter().map(|p| &p.name).chain(running) {
            if let (Some(value), Some(tensor)) = (model.graph.value_named(name), self.tensors.get(name)) {
                set(&mut model, value, tensor);
            }
        }
        let path = folder.join("model.onnx");
        Ok(npc_compiler::onnx::save(&model, &path, &Default::default())?)
    }

    /// Adds a tensor that is not the model's, for checkpoints; its name begins with `npc.`.
    pub fn keep(&mut self, name: &str, tensor: HostTensor) {
        self.tensors.insert(name.to_string(), tensor);
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// Moves every tensor out, as feeds of a step.
    pub fn take(&mut self) -> Vec<(String, HostTensor)> {
        self.tensors.drain().collect()
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Every tensor by name.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = (&str, &mut HostTensor)> {
        self.tensors.iter_mut().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Puts a step's output back in.
    pub fn put(&mut self, output: &str, tensor: HostTensor) {
        if let Some(input) = self.feedback.get(output) {
            self.tensors.insert(input.clone(), tensor);
        }
    }

    /// Copies of the tensors that an evaluation needs.
    pub fn borrow(&self, names: &[String]) -> Vec<(String, HostTensor)> {
        names.iter().filter_map(|n| Some((n.clone(), self.tensors.get(n)?.clone()))).collect()
    }

    pub fn next_epoch(&mut self) {
        self.epoch += 1;
        self.batch = 0;
        self.skipped_before = self.skipped;
        self.score = Score::default();
    }
}

fn set(model: &mut Model, value: ValueId, tensor: &HostTensor) {
    model.graph.value_mut(value).initializer = Some(tensor.to_constant());
}

fn dtype(name: &str) -> DType {
    match name {
        "f16" => DType::F16,
        "f64" => DType::F64,
        "bf16" => DType::BF16,
        "i64" => DType::I64,
        "i32" => DType::I32,
        _ => DType::F32,
    }
}

/// Draws a parameter; the stream depends on seed and index only.
fn drawn(init: Init, dtype: DType, dims: &[usize], seed: u64, index: usize) -> Result<HostTensor, TrainError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream((1 << 32) + index as u64);
    let mut uniform = || (random.next_u32() as f64 + 0.5) / f64::from(u32::MAX);
    let count = dims.iter().product();
    let mut value = || match init {
        Init::Ones => 1.0,
        Init::Zeros | Init::Initializer => 0.0,
        Init::Uniform { bound } => bound * (2.0 * uniform() - 1.0),
        Init::Normal { std } => std * (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos(),
    };
    let values: Vec<f32> = (0..count).map(|_| value() as f32).collect();
    let tensor = HostTensor::f32(dims, &values)?;
    Ok(if dtype == DType::F32 { tensor } else { tensor.cast(dtype)? })
}
