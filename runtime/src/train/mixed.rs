//! What mixed precision takes: scaled losses, and float32 copies of 16-bit parameters.

use super::{TrainError, TrainOptions};
use crate::plan::{LossScale, LossScaling, Precision};
use npc_compiler::analysis::loss_scale;
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::Model;

/// How a device trains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mixed {
    /// Of matrix products.
    pub precision: Precision,
    /// Of the loss, if any.
    pub loss_scale: Option<LossScale>,
    /// Whether 16-bit parameters have a float32 copy that updates go to.
    pub master_weights: bool,
}

impl Mixed {
    /// What the options ask for. Where they leave the loss scale open it is dynamic for float16 products or parameters, off
    /// for a step that cannot be scaled (with a warning) and for all else.
    pub fn of(options: &TrainOptions, model: &Model, bindings: &Bindings) -> Self {
        let has_f16 = bindings.parameters.iter().any(|p| p.dtype == "f16");
        let asked = match options.loss_scale {
            Some(asked) => asked,
            None if options.precision == Precision::F16 || has_f16 => match scaled(model) {
                Ok(_) => LossScaling::Dynamic,
                Err(error) => {
                    tracing::warn!("float16 without a loss scale: {error}");
                    LossScaling::Off
                }
            },
            None => LossScaling::Off,
        };
        Mixed { precision: options.precision, loss_scale: asked.scale(), master_weights: options.master_weights }
    }
}

/// The model with an input for the loss scale.
///
/// # Errors
/// A step in which there is no place for it.
pub fn scaled(model: &Model) -> Result<Model, TrainError> {
    let mut model = model.clone();
    loss_scale::insert(&mut model)?;
    Ok(model)
}
