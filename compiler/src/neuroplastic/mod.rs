//! The NeuroPlastic operator: settings, scopes, ONNX schema and its body in standard operators.
//!
//! Source of the method: "NeuroPlastic: A Plasticity-Modulated Optimizer for Biologically Inspired Learning Dynamics",
//! arXiv 2604.26297, and its authors' PyTorch implementation.

mod body;
mod model;
mod schema;
mod scopes;
mod settings;

pub use body::{OPSET, Shape, letters, neuroplastic_function, signal_function};
pub use model::step_model;
pub use schema::{DOMAIN, OP, SIGNAL, State, VERSION, node_attributes, states};
pub use scopes::{Group, Third, controller_group, layer_gate, third};
pub use settings::{
    ControllerMode, HybridBase, LayerScope, Mode, ModulationTarget, OrthogonalNormalization, OrthogonalSchedule,
    PhaseScope, Settings, SettingsError,
};
