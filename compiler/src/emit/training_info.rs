//! A standard `TrainingInfoProto`.

use crate::bindings::Bindings;
use crate::compile::CompileError;
use crate::graph::Model;

/// Splits a step into an inference graph and the algorithm that updates it.
///
/// # Errors
/// A step that the standard cannot express.
pub fn training_info(_model: &mut Model, _bindings: &Bindings) -> Result<(), CompileError> {
    Err(CompileError::TrainingInfo("this version cannot split a step into an inference graph and a training algorithm; use --emit functions or --emit inline".into()))
}
