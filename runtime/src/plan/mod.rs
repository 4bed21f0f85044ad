//! A training step as a device runs it: buffers with places in one arena, and work in order.
//!
//! [`Plan::new`] goes from a typed graph of concrete shapes to the plan in nine passes:
//!
//! 1. [`lower`]: every node becomes a piece of work on buffers; what only renames elements (reshapes, transposes, slices)
//!    becomes a view of a buffer;
//! 2. [`recognise`]: what a hand-written kernel does as a whole becomes that kernel;
//! 3. [`fuse`]: neighbouring elementwise work becomes one expression, with a reduction at its end;
//! 4. [`epilogue`]: products do on the way out what follows them, where the device's library can;
//! 5. [`parts`]: products write their part of a concatenation themselves;
//! 6. [`factors`]: what products round when they read it is rounded where it is written, to 16 bits;
//! 7. [`in_place`]: scatters change what they start from, where nobody else reads it;
//! 8. [`schedule`]: one order, updates last, because they write parameters in place;
//! 9. [`arena`]: lifetimes, and an offset for every buffer that lives within the step.
//!
//! A plan knows no device. [`command`] puts addresses into it, a [`device::Device`] carries the commands out.

pub mod arena;
pub mod command;
#[cfg(test)]
mod conformance;
pub mod convolution;
pub mod device;
pub mod epilogue;
mod factors;
#[cfg(test)]
mod factors_tests;
mod fuse;
mod in_place;
mod lower;
mod maps;
mod parts;
mod recognise;
pub mod scaling;
#[cfg(test)]
mod scaling_tests;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod traffic;
mod updates;
mod view;

pub use convolution::Convolution;
pub use epilogue::Epilogue;
pub use lower::Names;
pub use lower::batches::{self, Resident, Scored};
pub use scaling::{LossScale, LossScaling, Scaling};
pub use view::View;

use npc_compiler::bindings::Bindings;
use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::contraction::Product;
use npc_kernels::cpu::loss::LossShape;
use npc_kernels::cpu::pool::Divisor;
use npc_kernels::cuda::arg::{Extreme, Ordered};
use npc_kernels::cuda::index::Picks;
use npc_kernels::cuda::norm::Channels;
use npc_kernels::cuda::window::Planes;
use npc_kernels::elementwise::{DType, Expression};
use npc_kernels::neuroplastic::Config;
use tract_onnx::prelude::TypedModel;

/// Number of a buffer in its plan.
pub type BufferId = usize;

/// Why a step cannot be planned; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An operator without a kernel.
    #[error("there is no GPU kernel for {op} (node '{node}'{why}); train it with --device cpu")]
    Unsupported {
        /// Operator.
        op: String,
        /// Node.
        node: String,
        /// What about it.
        why: String,
    },
    /// An element type without kernels.
    #[error("'{value}' has the type {dtype}, which the GPU kernels do not compute in; train it with --device cpu")]
    Type {
        /// Value.
        value: String,
        /// Element type.
        dtype: String,
    },
    /// A parameter read after its update.
    #[error("'{0}' is read again after its update, in the same step; train it with --device cpu")]
    ReadAfterUpdate(String),
    /// The graph library failed.
    #[error("the step cannot be planned: {0}")]
    Graph(String),
}

/// Where a buffer's elements come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Written by the host before every step.
    Fed,
    /// A parameter or state: stays from step to step.
    Kept,
    /// Little-endian elements that never change.
    Constant(Vec<u8>),
    /// Computed in every step; lives in the arena.
    Computed,
}

/// Memory for the elements of one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Input's name, or the name of the node that computes it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub elements: usize,
    /// Where they come from.
    pub source: Source,
    /// Offset in the arena in bytes, for computed ones.
    pub offset: u64,
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        (self.elements * self.dtype.bytes()) as u64
    }
}

/// One parameter's update.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Update {
    pub parameter: BufferId,
    pub gradient: BufferId,
    /// Activity trace, momentum, variance, base momentum, base variance, as many as the base keeps.
    pub states: Vec<BufferId>,
    /// The float32 copy that is updated in the parameter's place; the parameter is its rounding.
    pub master: Option<BufferId>,
    /// The controller's multiplier, a scalar.
    pub multiplier: Option<BufferId>,
    pub target_rms: f64,
    pub modulation_strength: f64,
    /// Where the update is kept between the phases: the gradient's own buffer where that may be overwritten.
    pub scratch: BufferId,
}

/// What a piece of work does.
#[derive(Clone, Debug)]
pub enum Task {
    /// A fused elementwise expression; its inputs and outputs are [`Work::reads`] and [`Work::writes`] in order.
    Expression(Expression),
    /// Matrix products of `reads[0]` and `reads[1]` into `writes[0]`.
    Products(Vec<Product>),
    /// One product, and what happens to its elements. `reads` has the bias, or what the forward product kept, as its third;
    /// `writes` what is kept, or the sums, as its second.
    #[allow(missing_docs)]
    ProductWith { product: Product, epilogue: Epilogue },
    /// `reads[0]` through a view, densely.
    Copy(View),
    /// `reads[0]` densely into part of `writes[0]`, which is written by several.
    Place(View),
    /// `reads[0]` by the indices `reads[1]`; `each` says that every element has an index of its own.
    #[allow(missing_docs)]
    Gather { picks: Picks, each: bool },
    /// `writes[0]`, which is `reads[0]` or gets a copy of it, gets `reads[2]` at the indices `reads[1]`.
    #[allow(missing_docs)]
    ScatterElements { picks: Picks, add: bool },
    /// The same at tuples of indices into the leading axes; `writes[1]` is room for the rows they stand for.
    #[allow(missing_docs)]
    ScatterRows { picks: Picks, leading: Vec<u64>, add: bool },
    /// Softmax of every row of `reads[0]`, or its logarithm. Like [`Task::SoftmaxGradient`], [`Task::LayerNorm`] and its gradient it
    /// writes its first result in 16 bits instead where `writes[0]` is that, or besides where `writes` has one more at its end.
    #[allow(missing_docs)]
    Softmax { rows: u64, columns: u64, logarithm: bool },
    /// Layer normalisation of every row of `reads[0]` with the scale `reads[1]` and the bias `reads[2]`, if any; `writes` has
    /// the result, means and inverse deviations.
    #[allow(missing_docs)]
    LayerNorm { rows: u64, columns: u64, epsilon: f32 },
    /// Gradient of [`Task::Softmax`] from its result `reads[0]` and what comes in, `reads[1]`.
    #[allow(missing_docs)]
    SoftmaxGradient { rows: u64, columns: u64, logarithm: bool },
    /// Gradient of [`Task::LayerNorm`]: reads what comes in, `x`, scale, means and inverse deviations; writes the gradients of `x`,
    /// scale and bias, and has `writes[3]` as room for partial sums.
    #[allow(missing_docs)]
    LayerNormGradient { rows: u64, columns: u64 },
    /// Batch normalisation of `reads[0]` in training, with the scale `reads[1]` and the bias `reads[2]`; `writes` has the result, and
    /// every channel's mean and population variance.
    #[allow(missing_docs)]
    BatchNorm { shape: Channels, epsilon: f32 },
    /// Gradient of [`Task::BatchNorm`]: reads what comes in, `x`, scale, means and variances; writes the gradients of `x`, scale and
    /// bias.
    #[allow(missing_docs)]
    BatchNormGradient { shape: Channels, epsilon: f32 },
    /// The cross-entropy of scores (batch, classes, positions), `reads[0]`, with the class ids `reads[1]`. `writes` has the loss of
    /// every id, then the gradient with respect to the scores of those losses times the factors `reads[2]`, if asked for, then
    /// the logarithm of the probabilities, if asked for.
    #[allow(missing_docs)]
    CrossEntropy { shape: LossShape, gradient: Option<Factors>, logarithm: bool },
    /// A whole convolution: of `x` and `w`, of `w` and `dy`, or of `x` and `dy`.
    Convolution(Convolution),
    /// What a convolution's taps read of `reads[0]`.
    #[allow(missing_docs)]
    Columns { geometry: Geometry, planes: Planes },
    /// The adjoint of [`Task::Columns`]: the columns `reads[0]` added up where they were read.
    #[allow(missing_docs)]
    DataFromColumns { geometry: Geometry, batch: u64, channels: u64 },
    /// The largest elements of windows, and their indices where `writes` has a second.
    #[allow(missing_docs)]
    MaxPool { geometry: Geometry, planes: u64, column_major: bool },
    /// `reads[0]` at the indices `reads[1]`, zeros elsewhere.
    Unpool,
    /// The means of windows.
    #[allow(missing_docs)]
    AveragePool { geometry: Geometry, planes: u64, divisor: Divisor },
    /// `reads[0]` with elements dropped, at the generator's step `reads[1]`; the mask where `writes` has a second.
    #[allow(missing_docs)]
    Dropout { ratio: f32, seed: u64 },
    /// The generators' step `reads[0]` moves on.
    CountStep,
    /// Where along the middle of three axes the largest or smallest element is.
    #[allow(missing_docs)]
    Arg { dtype: Ordered, which: Extreme, shape: [u64; 3] },
    /// The next samples of the order `reads[0]`, from the position `reads[1]` on, which moves on.
    TakeBatch,
    /// Adds loss, and logits where there are any, to totals.
    #[allow(missing_docs)]
    Score { rows: u64, classes: u64 },
    /// `reads[0]` into `writes[0]`, both whole.
    Assign,
    /// The controller's signal of one tensor, from gates, gradient, activity trace, momentum and variance as they enter the
    /// step.
    #[allow(missing_docs)]
    Signal { config: Config },
    /// The updates of a group: reads learning rate, step and gates.
    #[allow(missing_docs)]
    NeuroPlastic { config: Config, updates: Vec<Update> },
}

/// What gradients of losses are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factors {
    /// Every loss by its own.
    Each,
    /// All by the first.
    Shared,
}

/// A piece of work.
#[derive(Clone, Debug)]
pub struct Work {
    /// Name of the (last) node it comes from.
    pub name: String,
    /// What is done.
    pub task: Task,
    /// Buffers it reads.
    pub reads: Vec<BufferId>,
    /// Buffers it writes.
    pub writes: Vec<BufferId>,
}

/// A step ready to be given addresses.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All memory.
    pub buffers: Vec<Buffer>,
    /// In order.
    pub work: Vec<Work>,
    /// (input's name, buffer): batch inputs, learning rate, step, gates, parameters and states.
    pub inputs: Vec<(String, BufferId)>,
    /// (output's name, buffer, shape): everything that is not fed back.
    pub outputs: Vec<(String, BufferId, Vec<usize>)>,
    /// Of matrix products.
    pub precision: Precision,
    /// Of the loss, if any.
    pub scaling: Option<Scaling>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes that are alive at once at least; no arena can be smaller.
    pub live_bytes: u64,
}

impl Plan {
    /// Plans a step: a typed graph of concrete shapes whose feedback `bindings` describe. `libraries`: what the device it is
    /// for has beyond our kernels and plain products.
    ///
    /// # Errors
    /// What no kernel can do, with operator and node.
    pub fn new(
        model: &TypedModel,
        names: &Names,
        bindings: &Bindings,
        options: &PlanOptions,
        libraries: &mut dyn Libraries,
    ) -> Result<Self, PlanError> {
        let draft = lower::lower(model, names, bindings, options, libraries)?;
        scaling::check(options.loss_scale, draft.scaling)?;
        let draft = updates::group(recognise::recognise(draft));
        let draft = fuse::fuse(draft)?;
        let draft = epilogue::join(draft, options.precision, &mut |p, q, e| libraries.has_epilogue(p, q, e));
        let draft = parts::place(draft);
        let draft = factors::narrow(draft, options.precision, libraries)?;
        let draft = in_place::scatter(draft);
        let mut plan = schedule::schedule(draft)?;
        plan.precision = options.precision;
        arena::place(&mut plan);
        Ok(plan)
    }
}

/// What a device's libraries can do beyond plain matrix products. What they say stays true.
pub trait Libraries {
    /// Whether they multiply so.
    fn has_epilogue(&mut self, product: &Product, precision: Precision, epilogue: Epilogue) -> bool;

    /// Whether they multiply factors that are stored in 16 bits so.
    fn has_narrow(&mut self, product: &Product, numbers: Numbers, epilogue: Option<Epilogue>) -> bool;

    /// Whether they have a kernel for the whole of a convolution.
    fn has_convolution(&mut self, convolution: &Convolution, precision: Precision) -> bool;
}

/// What matrix products and convolutions round their factors to before they multiply them. Sums and everything else stay float32;
/// what nothing but products reads may be stored as they round it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// TF32: 10 bits of mantissa, float32's range.
    Tf32,
    /// bfloat16: 7 bits of mantissa, float32's range.
    Bf16,
    /// float16: 10 bits of mantissa, up to 65,504; what is larger becomes infinite.
    F16,
}

impl Precision {
    /// A factor as it is multiplied.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::Tf32 if x.is_finite() => {
                let bits = x.to_bits();
                f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
            }
            Precision::Tf32 => x,
            Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
            Precision::F16 => half::f16::from_f32(x).to_f32(),
        }
    }

    /// The type of 16 bits that rounded factors can be stored in without loss.
    pub fn narrow(self) -> Option<DType> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(DType::BF16),
            Precision::F16 => Some(DType::F16),
        }
    }
}

/// How a product rounds its factors, and in which types they and its result are stored. Its sums and whatever an epilogue
/// reads and writes are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// What factors are rounded to.
    pub precision: Precision,
    /// Whether both factors are stored as [`Precision::narrow`] says; otherwise both are float32.
    pub narrow_factors: bool,
    /// Whether the result is, rounded once; otherwise it is float32.
    pub narrow_result: bool,
}

impl Numbers {
    /// Everything in float32.
    pub fn wide(precision: Precision) -> Self {
        Numbers { precision, narrow_factors: false, narrow_result: false }
    }

    /// Type of both factors.
    pub fn factors(self) -> DType {
        self.precision.narrow().filter(|_| self.narrow_factors).unwrap_or(DType::F32)
    }

    /// Type of the result.
    pub fn result(self) -> DType {
        self.precision.narrow().filter(|_| self.narrow_result).unwrap_or(DType::F32)
    }
}

/// How a plan is made. By default the host writes the batches and reads the outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanOptions {
    /// A dataset on the device that batches are taken from; otherwise the host writes them.
    pub resident: Option<Resident>,
    /// Whether loss and hits are added up on the device.
    pub scored: Option<Scored>,
    /// Of matrix products.
    pub precision: Precision,
    /// Of a model that [`npc_compiler::analysis::loss_scale::insert`] has given the input for it.
    pub loss_scale: Option<LossScale>,
    /// Whether 16-bit parameters have a float32 copy that updates go to.
    pub master_weights: bool,
}

/// A plan in the making: work in an order in which it could run, the updates among it.
#[derive(Default)]
struct Draft {
    buffers: Vec<Buffer>,
    work: Vec<Node>,
    inputs: Vec<(String, BufferId)>,
    outputs: Vec<(String, BufferId, Vec<usize>)>,
    scaling: Option<Scaling>,
}

/// A piece of work before fusion.
struct Node {
    name: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// Elementwise: its operands broadcast to `shape`.
    Map(maps::Map),
    Work(Work),
}

impl Draft {
    fn buffer(&mut self, name: &str, dtype: DType, elements: usize, source: Source) -> BufferId {
        self.buffers.push(Buffer { name: name.to_string(), dtype, elements, source, offset: 0 });
        self.buffers.len() - 1
    }

    fn push(&mut self, name: &str, task: Task, reads: Vec<BufferId>, writes: Vec<BufferId>) {
        let name = name.to_string();
        self.work.push(Node { name: name.clone(), kind: Kind::Work(Work { name, task, reads, writes }) });
    }
}
