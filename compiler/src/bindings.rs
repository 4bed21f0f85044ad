//! What feeds what from step to step: `metadata_props["npc.bindings"]` of a compiled model, as JSON.

use crate::analysis::Init;
use crate::graph::{DType, Dim, Model};
use crate::neuroplastic::Settings;
use serde::{Deserialize, Serialize};

/// Key of the metadata entry.
pub const KEY: &str = "npc.bindings";

/// The whole contract between a compiled model and whoever steps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bindings {
    /// Format version (1).
    pub version: u32,
    /// `neuroplastic` or `keep`.
    pub optimizer: String,
    /// Batch inputs in the graph's order.
    pub inputs: Vec<BatchInput>,
    /// Learning-rate input; `None` when the rate is folded into a kept optimizer.
    pub learning_rate: Option<RateInput>,
    /// Step counter input.
    pub step: Option<StepInput>,
    /// Gates input: float32 [3], warm-up, phase, orthogonal.
    pub gates: Option<String>,
    /// Outputs of interest.
    pub outputs: Outputs,
    /// Trained tensors in the model's order.
    pub parameters: Vec<Parameter>,
    /// Everything else that is fed back: states of optimizers left alone, running statistics, counters.
    pub state: Vec<State>,
    /// Settings of the run (gates follow them from epoch to epoch).
    pub settings: Settings,
}

/// A batch input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchInput {
    /// Name.
    pub name: String,
    /// Element type (`f32`, `i64`, …).
    pub dtype: String,
    /// Axes; a symbolic one is its name, an unknown one `null`.
    pub shape: Vec<Axis>,
}

/// One axis of a batch input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Axis {
    /// A number.
    Known(usize),
    /// A symbol.
    Symbol(String),
    /// Nothing is said.
    Unknown(()),
}

impl From<&Dim> for Axis {
    fn from(dim: &Dim) -> Self {
        match dim {
            Dim::Known(n) => Axis::Known(*n),
            Dim::Symbol(name) => Axis::Symbol(name.clone()),
            Dim::Unknown => Axis::Unknown(()),
        }
    }
}

/// The learning-rate input: float32 scalar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateInput {
    /// Name.
    pub name: String,
    /// The rate found in the original graph, where it was a number.
    pub default: Option<f64>,
}

/// The step input: a scalar holding `first` at the first update and one more at each further one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepInput {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Value at the first update.
    pub first: f64,
}

/// Outputs of interest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// Mean loss of the batch, a scalar.
    pub loss: Option<String>,
    /// Unnormalised log-probabilities [..., classes].
    pub logits: Option<String>,
    /// The batch input that holds the labels.
    pub labels: Option<String>,
    /// `class` (integers) or `one_hot`.
    pub label_kind: Option<String>,
    /// Axis of `logits` that runs over the classes.
    pub class_axis: i64,
}

/// One trained tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Input.
    pub name: String,
    /// Output with its next value.
    pub next: String,
    /// Value taken for its gradient; shape of the parameter.
    pub gradient: Option<String>,
    /// How to start it when no value is given.
    pub init: Init,
    /// Element type.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Its optimizer states; all start at zero unless the model gives a value.
    pub states: Vec<State>,
}

/// A value fed back from step to step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Input.
    pub name: String,
    /// Output with its next value.
    pub next: String,
    /// What it is (`activity_trace`, `first_moment`, `running_variance`, `other`, …).
    pub role: String,
    /// Element type.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<usize>,
}

/// Bindings that are missing or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BindingsError {
    /// Not a compiled model.
    #[error("the model has no npc.bindings; compile it first: npc compile MODEL -o OUT")]
    Missing,
    /// Damaged or from another version.
    #[error("the model's npc.bindings cannot be read ({0}); compile the original model again")]
    Invalid(String),
}

/// The bindings of a compiled model.
///
/// # Errors
/// When there are none, or they are damaged or of another version.
pub fn read(model: &Model) -> Result<Bindings, BindingsError> {
    let text = model.metadata(KEY).ok_or(BindingsError::Missing)?;
    let bindings: Bindings = serde_json::from_str(text).map_err(|e| BindingsError::Invalid(e.to_string()))?;
    match bindings.version {
        1 => Ok(bindings),
        v => Err(BindingsError::Invalid(format!("format version {v}, this npc reads 1"))),
    }
}

/// Spelling of an element type in bindings.
pub fn dtype_name(dtype: Option<DType>) -> String {
    dtype.map_or_else(|| "f32".into(), |d| d.to_string())
}
