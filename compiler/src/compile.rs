//! The whole line: recognise, rewrite, verify, emit.

use crate::bindings::Bindings;
use crate::graph::Model;
use crate::neuroplastic::SettingsError;
use crate::report::Report;
use std::path::PathBuf;

/// What happens to the optimizers that are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optimizer {
    /// Each becomes one NeuroPlastic node.
    #[default]
    NeuroPlastic,
    /// They stay as they are (a dropped epsilon is restored); the model gets bindings, so that it can be trained.
    Keep,
}

/// Base of the NeuroPlastic update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// By the optimizer that was found.
    #[default]
    Auto,
    /// The method's own form.
    Classic,
    /// On momentum.
    SgdMomentum,
    /// On AdamW.
    AdamW,
}

/// A published set of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The paper's working point.
    Paper,
}

/// Form of the emitted model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// NeuroPlastic nodes with their body as a model-local function.
    #[default]
    Functions,
    /// Standard operators only.
    Inline,
    /// A standard `TrainingInfoProto` beside the inference graph.
    TrainingInfo,
}

/// Options of [`compile`].
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// What happens to the optimizers.
    pub optimizer: Optimizer,
    /// Base of the update.
    pub base: Base,
    /// Start from a preset instead of the settings that were found.
    pub preset: Option<Preset>,
    /// Settings by name, applied last.
    pub set: Vec<(String, String)>,
    /// Epsilon where the exporter dropped it, or instead of the one found.
    pub eps: Option<f64>,
    /// (output, input) pairs that data flow is not asked about.
    pub bind: Vec<(String, String)>,
    /// Form of the result.
    pub emit: Emit,
    /// Folder for a text print after each pass.
    pub dump_passes: Option<PathBuf>,
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The model, its bindings in `metadata_props`.
    pub model: Model,
    /// What was found and done.
    pub report: Report,
    /// The bindings.
    pub bindings: Bindings,
}

/// Why a model cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No update of any parameter.
    #[error(
        "no optimizer in this model: none of its {nodes} nodes computes a next value for an input; export the whole training step (parameters in, updated parameters out)"
    )]
    NoOptimizer {
        /// Nodes of the graph.
        nodes: usize,
    },
    /// Updates, but none that a rule accepts.
    #[error(
        "no optimizer was recognised: {count} values look updated, but '{parameter}' was refused because {reason} (at {node}); --optimizer keep cannot train it either"
    )]
    Unrecognised {
        /// Updates refused.
        count: usize,
        /// The first one's parameter.
        parameter: String,
        /// Why.
        reason: String,
        /// Where.
        node: String,
    },
    /// The model has been through here before.
    #[error("the model is compiled already (it holds NeuroPlastic updates); compile the model it was made from")]
    Compiled,
    /// The model is no valid graph.
    #[error("the model is not valid: {0}")]
    Input(crate::graph::verify::VerifyError),
    /// Recognition failed.
    #[error(transparent)]
    Recognise(#[from] crate::optimizers::RecogniseError),
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A pass made an illegal change: a bug of npc's.
    #[error("a rewrite would break the graph: {0}; please report this model")]
    Patch(#[from] crate::graph::patch::PatchError),
    /// The result is no valid graph.
    #[error("the rewritten graph is not valid: {0}; please report this model")]
    Verify(#[from] crate::graph::verify::VerifyError),
    /// One function body cannot serve all nodes.
    #[error(
        "'{0}' and '{1}' need different NeuroPlastic bodies (different betas, epsilon or base), which one model-local function cannot express; use --emit inline"
    )]
    Mixed(String, String),
    /// An opset too old for what is emitted.
    #[error("the model imports opset {0}; {1} needs {2} or later: convert the model with onnx.version_converter")]
    Opset(i64, &'static str, i64),
    /// The result cannot be written as a TrainingInfoProto.
    #[error("--emit training-info: {0}")]
    TrainingInfo(String),
    /// Expanding functions failed.
    #[error(transparent)]
    Inline(#[from] crate::onnx::InlineError),
    /// `--dump-passes` cannot write.
    #[error(transparent)]
    Dump(#[from] crate::files::WriteError),
}

/// Compiles a training step.
///
/// # Errors
/// No recognisable optimizer, wrong settings, a form that cannot be emitted.
pub fn compile(model: Model, options: &CompileOptions) -> Result<Compiled, CompileError> {
    crate::passes::run(model, options)
}
