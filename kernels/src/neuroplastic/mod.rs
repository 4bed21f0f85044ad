//! The fused NeuroPlastic step on the CPU.
//!
//! Source of the method: "NeuroPlastic: A Plasticity-Modulated Optimizer for Biologically Inspired Learning Dynamics"
//! (arXiv 2604.26297) and its authors' public implementation. Names and settings are those of the ONNX operator
//! `ai.neuroplastic::NeuroPlastic`, version 1.
//!
//! One step reads gradient, parameter and state, and updates parameter and state in place, in three sweeps:
//! the traces with the sums that the means need; the update u with Σu²; θ. Between the sweeps there are only scalars. A norm
//! clip that turns out to be active adds a sweep, the orthogonal residual adds two.
//!
//! ```
//! use npc_kernels::neuroplastic::{Config, Inputs, Tensors, Workspace, step};
//!
//! let (mut parameter, gradient) = (vec![0.5f32; 8], vec![0.1f32; 8]);
//! let (mut activity_trace, mut momentum, mut variance) = (vec![0.0; 8], vec![0.0; 8], vec![0.0; 8]);
//! let tensors = Tensors {
//!     parameter: &mut parameter,
//!     gradient: &gradient,
//!     activity_trace: &mut activity_trace,
//!     momentum: &mut momentum,
//!     variance: &mut variance,
//!     base_momentum: &mut [],
//!     base_variance: &mut [],
//! };
//! step(&Config::default(), &Inputs::new(0.1, 0), tensors, &Workspace::new(), None)?;
//! assert!(parameter[0] < 0.5);
//! # Ok::<(), npc_kernels::neuroplastic::StepError>(())
//! ```

mod config;
mod diagnostics;
mod error;
mod lanes;
mod plan;
pub mod reference;
mod signal;
mod step;
mod sweep;
mod tensors;
mod view;
mod workspace;

#[cfg(test)]
mod tests;

pub use config::{Config, Gates, HybridBase, Inputs, Mode, ModulationTarget, OrthogonalNormalization, widen};
pub use diagnostics::{Diagnostics, HISTOGRAM_BINS, Summary};
pub use error::StepError;
pub use signal::{Traces, plasticity_signal};
pub use step::{Job, step, step_many};
pub use tensors::{AnyTensors, Element, Tensors};
pub use workspace::Workspace;
