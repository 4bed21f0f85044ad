//! What recognition finds, in the graph's own terms.

use crate::graph::{NodeId, ValueId};
use indexmap::IndexMap;

/// A known optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Kind {
    Sgd,
    Momentum,
    Nesterov,
    Adam,
    AdamW,
    Adamax,
    NAdam,
    AmsGrad,
    Adagrad,
    RmsProp,
    Adadelta,
    Lion,
    Lamb,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sgd => "SGD",
            Kind::Momentum => "Momentum",
            Kind::Nesterov => "Nesterov",
            Kind::Adam => "Adam",
            Kind::AdamW => "AdamW",
            Kind::Adamax => "Adamax",
            Kind::NAdam => "NAdam",
            Kind::AmsGrad => "AMSGrad",
            Kind::Adagrad => "Adagrad",
            Kind::RmsProp => "RMSprop",
            Kind::Adadelta => "Adadelta",
            Kind::Lion => "Lion",
            Kind::Lamb => "LAMB",
        }
    }
}

/// What a state is to its optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum StateRole {
    FirstMoment,
    SecondMoment,
    Velocity,
    MaxSecondMoment,
    InfinityNorm,
    GradientAverage,
    DeltaAccumulator,
}

/// A hyperparameter: a number, or a scalar graph input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// A scalar input of the graph.
    Input(ValueId),
}

/// η = scale · value, or just `scale` when it is folded into constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Scalar value of the graph.
    pub value: Option<ValueId>,
    /// Factor.
    pub scale: f64,
}

/// A state of a recognised update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Graph input.
    pub value: ValueId,
    /// Graph output.
    pub next: ValueId,
    /// What it is.
    pub role: StateRole,
}

/// The scalar that counts updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInput {
    /// Graph input.
    pub value: ValueId,
    /// What it holds at the first update (0 or 1).
    pub first: f64,
}

/// One recognised and validated update.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Graph input θ.
    pub parameter: ValueId,
    /// Graph output θ'.
    pub next: ValueId,
    /// The value taken for the gradient (already clipped, averaged or unscaled where the graph does so); shape of θ.
    pub gradient: ValueId,
    /// States in the order of the graph's inputs.
    pub states: Vec<State>,
    /// Which optimizer.
    pub kind: Kind,
    /// Learning rate.
    pub learning_rate: Rate,
    /// Hyperparameters: `beta1, beta2, epsilon, weight_decay, momentum, dampening, alpha, rho, lr_decay, centered`, ….
    pub settings: IndexMap<&'static str, Setting>,
    /// Weight decay acts on the parameter, not through the gradient.
    pub decoupled_weight_decay: bool,
    /// The exporter dropped epsilon: a zero gradient gives 0/0.
    pub epsilon_missing: bool,
    /// The step counter, where the update depends on it.
    pub step: Option<StepInput>,
    /// The node that computes θ'.
    pub node: NodeId,
}

/// A parameter-like pair no rule accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct Unmatched {
    /// Name of the graph input.
    pub parameter: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Name of the node (or of its output) where it shows.
    pub node: String,
}

/// Options of [`recognise`].
#[derive(Clone, Debug, Default)]
pub struct RecogniseOptions {
    /// Pairs the user insists on: (output, input).
    pub bind: Vec<(String, String)>,
}

/// What [`recognise`] found.
#[derive(Clone, Debug, Default)]
pub struct Recognition {
    /// Recognised updates in the order of the graph's inputs.
    pub matches: Vec<Match>,
    /// Updates left alone.
    pub unmatched: Vec<Unmatched>,
    /// Other fed-back values (running statistics, counters): (input, output).
    pub carried: Vec<(ValueId, ValueId)>,
    /// Remarks for the user.
    pub warnings: Vec<String>,
}

/// Why recognition could not start.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    /// The graph has a cycle.
    #[error("the graph has a cycle through node {0}")]
    Cyclic(String),
    /// A `--bind` name that the graph does not have.
    #[error("--bind {0}={1}: the graph has no {2} called {3}")]
    Bind(String, String, &'static str, String),
}
