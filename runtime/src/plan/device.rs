//! What a plan asks of a device, and a session that steps a plan on one.

use super::arena::ALIGNMENT;
use super::command::{self, Commands, Memory};
use super::scaling::MASTER;
use super::{Libraries, Plan, PlanError, Source, Task};
use crate::{HostTensor, RuntimeError};
use npc_compiler::graph::DType as ModelType;
use npc_kernels::cuda::DevicePointer;
use npc_kernels::cuda::neuroplastic::Addresses;
use npc_kernels::elementwise::DType;
use std::collections::HashMap;

/// Why a device could not do what it was told; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not enough memory.
    #[error("the GPU has {free} MiB of memory free, {what} needs {needed} MiB; take a smaller batch")]
    Memory {
        /// For what.
        what: String,
        /// MiB.
        needed: u64,
        /// MiB.
        free: u64,
    },
    /// A call of the driver or a library failed.
    #[error("{call} failed{place}: {why}")]
    Call {
        /// What was called.
        call: String,
        /// At which node.
        place: String,
        /// What it said.
        why: String,
    },
    /// Something is not installed.
    #[error("{0}")]
    Missing(String),
    /// An index outside its tensor.
    #[error(
        "{0} indices of this step are outside the tensors they point into; check the labels and tokens of the data"
    )]
    Index(u32),
    /// The plan cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A tensor of another shape or type.
    #[error(transparent)]
    Tensor(#[from] RuntimeError),
}

type Result<T> = std::result::Result<T, DeviceError>;

/// A device that carries out commands. All calls are in order; `read` waits for what came before it.
pub trait Device: Libraries {
    /// Takes memory, at a multiple of 256 bytes; its content is undefined.
    ///
    /// # Errors
    /// When there is not enough.
    fn allocate(&mut self, bytes: u64, what: &str) -> Result<DevicePointer>;

    /// Copies from the host.
    ///
    /// # Errors
    /// A failed call.
    fn write(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<()>;

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// A failed call.
    fn clear(&mut self, at: DevicePointer, bytes: u64) -> Result<()>;

    /// Copies to the host.
    ///
    /// # Errors
    /// A failed call, of this or of work before it.
    fn read(&mut self, from: DevicePointer, bytes: &mut [u8]) -> Result<()>;

    /// Makes the commands of a step ready to be run again and again.
    ///
    /// # Errors
    /// A kernel that does not load, a library that is missing.
    fn prepare(&mut self, commands: Commands) -> Result<()>;

    /// Runs the prepared commands.
    ///
    /// # Errors
    /// A failed launch.
    fn step(&mut self) -> Result<()>;

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// A failed call.
    fn free_bytes(&self) -> Result<u64>;

    /// Bytes of its L2 cache that a step may count on.
    fn cache_bytes(&self) -> u64;

    /// How many multiprocessors it has.
    fn multiprocessors(&self) -> u64;
}

/// A plan on a device, with its memory.
pub struct Session<D> {
    device: D,
    plan: Plan,
    memory: Memory,
    inputs: HashMap<String, usize>,
    counts_steps: bool,
}

impl<D: Device> Session<D> {
    /// Places a plan on a device. `scalars`: names of the learning-rate, step and gates inputs; the device counts the steps.
    ///
    /// # Errors
    /// Not enough memory, a kernel that does not load.
    pub fn new(plan: Plan, mut device: D, scalars: &Scalars) -> Result<Self> {
        let arena = device.allocate(plan.arena_bytes.max(ALIGNMENT), "the step's arena")?;
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            buffers.push(match &buffer.source {
                Source::Computed => arena.offset(buffer.offset),
                Source::Constant(bytes) => {
                    let at = device.allocate(buffer.bytes().max(1), &buffer.name)?;
                    device.write(at, bytes)?;
                    at
                }
                Source::Fed | Source::Kept => {
                    let at = device.allocate(buffer.bytes().max(1), &buffer.name)?;
                    device.clear(at, buffer.bytes())?;
                    at
                }
            });
        }
        let bad_indices = device.allocate(4, "a counter")?;
        device.write(bad_indices, &[0; 4])?;
        let scratch = device.allocate(command::scratch_bytes(&plan)?, "partial sums")?;
        let memory = Memory { buffers, bad_indices, scratch };
        let inputs: HashMap<String, usize> = plan.inputs.iter().cloned().collect();
        let (mut inverse_scale, mut overflow) = (DevicePointer::NULL, DevicePointer::NULL);
        if let Some(scaling) = &plan.scaling {
            let at = memory.buffers[scaling.scale];
            device.write(at, &scaling.rule.state().map(f32::to_le_bytes).concat())?;
            (inverse_scale, overflow) = (at.offset(4), memory.buffers[scaling.overflow]);
        }
        let mut groups = Vec::new();
        for group in command::groups(&plan, &memory.buffers, device.cache_bytes())? {
            let scalar = |name: &Option<String>| {
                let id = name.as_ref().and_then(|n| inputs.get(n));
                id.map(|id| memory.buffers[*id])
                    .ok_or_else(|| PlanError::Graph("an update lacks its learning rate, step or gates".into()))
            };
            let mut table = |bytes: &[u8]| -> Result<DevicePointer> {
                let at = device.allocate(bytes.len().max(1) as u64, "the tables of the updates")?;
                device.write(at, bytes)?;
                Ok(at)
            };
            let addresses = Addresses {
                descriptors: table(&group.tables.descriptors)?,
                chunks: table(&group.tables.chunks)?,
                tickets: table(&group.tables.tickets)?,
                working: table(&vec![0; group.tables.working_bytes() as usize])?,
                learning_rate: scalar(&scalars.learning_rate)?,
                step: scalar(&scalars.step)?,
                gates: scalar(&scalars.gates)?,
                inverse_scale,
                overflow,
            };
            groups.push((group, addresses));
        }
        let commands = command::commands(&plan, &memory, &groups, true, device.multiprocessors())?;
        device.prepare(commands)?;
        let counts_steps = groups.iter().any(|(g, _)| matches!(plan.work[g.work].task, Task::NeuroPlastic { .. }));
        Ok(Session { device, plan, memory, inputs, counts_steps })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives an input its value: a batch, a scalar, a parameter or a state. Inputs that the step does not need are ignored;
    /// a parameter's float32 copy gets the parameter's value.
    ///
    /// # Errors
    /// A tensor of another size or type, a failed copy.
    pub fn set(&mut self, name: &str, tensor: &HostTensor) -> Result<()> {
        let Some(id) = self.inputs.get(name) else { return Ok(()) };
        let buffer = &self.plan.buffers[*id];
        if tensor.dtype() != model_type(buffer.dtype) || tensor.len() != buffer.elements {
            let got = format!("{}{:?}", tensor.dtype(), tensor.dims());
            let want = format!("{} of {} elements", model_type(buffer.dtype), buffer.elements);
            return Err(RuntimeError::Input { name: name.into(), got, want }.into());
        }
        self.device.write(self.memory.buffers[*id], tensor.bytes())?;
        match self.inputs.contains_key(&format!("{MASTER}{name}")) {
            true => self.set_master(name, 0, tensor),
            false => Ok(()),
        }
    }

    fn set_master(&mut self, parameter: &str, first: usize, tensor: &HostTensor) -> Result<()> {
        self.set_part(&format!("{MASTER}{parameter}"), first, &tensor.cast(ModelType::F32)?)
    }

    /// Gives elements of an input from the element `first` on their values.
    ///
    /// # Errors
    /// A tensor of another type or one that reaches beyond the input, a failed copy.
    pub fn set_part(&mut self, name: &str, first: usize, tensor: &HostTensor) -> Result<()> {
        let Some(id) = self.inputs.get(name) else { return Ok(()) };
        let buffer = &self.plan.buffers[*id];
        if tensor.dtype() != model_type(buffer.dtype) || first + tensor.len() > buffer.elements {
            let got = format!("{}{:?} at {first}", tensor.dtype(), tensor.dims());
            let want = format!("{} of {} elements", model_type(buffer.dtype), buffer.elements);
            return Err(RuntimeError::Input { name: name.into(), got, want }.into());
        }
        let at = self.memory.buffers[*id].offset((first * buffer.dtype.bytes()) as u64);
        self.device.write(at, tensor.bytes())?;
        match self.inputs.contains_key(&format!("{MASTER}{name}")) {
            true => self.set_master(name, first, tensor),
            false => Ok(()),
        }
    }

    /// Whether a step counts itself: the step input then holds the number of the next one.
    pub fn counts_steps(&self) -> bool {
        self.counts_steps
    }

    /// Runs one step.
    ///
    /// # Errors
    /// A failed launch.
    pub fn step(&mut self) -> Result<()> {
        self.device.step()
    }

    /// An output of the last step, or the present value of a parameter, state or scalar (with `dims` as its shape).
    ///
    /// # Errors
    /// No such value, a failed copy.
    pub fn get(&mut self, name: &str, dims: Option<&[usize]>) -> Result<HostTensor> {
        let output = self.plan.outputs.iter().find(|(n, _, _)| n == name);
        let (id, shape) = match (output, self.inputs.get(name)) {
            (Some((_, id, shape)), _) => (*id, shape.clone()),
            (None, Some(id)) => (*id, dims.map_or_else(|| vec![self.plan.buffers[*id].elements], <[usize]>::to_vec)),
            (None, None) => return Err(RuntimeError::Output(name.into()).into()),
        };
        self.fetch(id, 0, shape)
    }

    fn fetch(&mut self, id: usize, first: usize, shape: Vec<usize>) -> Result<HostTensor> {
        let dtype = self.plan.buffers[id].dtype;
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.bytes()];
        self.device.read(self.memory.buffers[id].offset((first * dtype.bytes()) as u64), &mut bytes)?;
        let mut tensor = npc_compiler::graph::Tensor::raw(model_type(dtype), shape, Vec::new());
        tensor.payload = npc_compiler::graph::Payload::Raw(bytes.into());
        Ok(HostTensor::from_constant(&tensor)?)
    }

    /// Elements of an output, parameter or state from the element `first` on.
    ///
    /// # Errors
    /// No such value, elements beyond its end, a failed copy.
    pub fn get_part(&mut self, name: &str, first: usize, count: usize) -> Result<HostTensor> {
        let output = self.plan.outputs.iter().find(|(n, _, _)| n == name).map(|(_, id, _)| *id);
        let id = output.or_else(|| self.inputs.get(name).copied());
        let id = id.filter(|id| first + count <= self.plan.buffers[*id].elements);
        let id = id.ok_or_else(|| DeviceError::Tensor(RuntimeError::Output(name.into())))?;
        self.fetch(id, first, vec![count])
    }

    /// Waits for the steps so far and checks their indices.
    ///
    /// # Errors
    /// A step that failed on the device; indices that were out of range, after which the count starts anew.
    pub fn check(&mut self) -> Result<()> {
        let mut bad = [0; 4];
        self.device.read(self.memory.bad_indices, &mut bad)?;
        match u32::from_le_bytes(bad) {
            0 => Ok(()),
            count => {
                self.device.write(self.memory.bad_indices, &[0; 4])?;
                Err(DeviceError::Index(count))
            }
        }
    }
}

/// Names of the inputs that the updates read.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Scalars {
    pub learning_rate: Option<String>,
    pub step: Option<String>,
    pub gates: Option<String>,
}

impl Scalars {
    /// Those of a compiled model.
    pub fn of(bindings: &npc_compiler::bindings::Bindings) -> Self {
        Scalars {
            learning_rate: bindings.learning_rate.as_ref().map(|r| r.name.clone()),
            step: bindings.step.as_ref().map(|s| s.name.clone()),
            gates: bindings.gates.clone(),
        }
    }
}

/// The model's name for an element type.
pub fn model_type(dtype: DType) -> ModelType {
    match dtype {
        DType::F32 => ModelType::F32,
        DType::F16 => ModelType::F16,
        DType::BF16 => ModelType::BF16,
        DType::I32 => ModelType::I32,
        DType::I64 => ModelType::I64,
        DType::Bool => ModelType::BOOL,
    }
}
