//! Loss scaling on the device.
//!
//! The step multiplies by a scale where its model says so ([`npc_compiler::analysis::loss_scale`]), so that small gradients
//! keep their bits in 16-bit arithmetic. Before the first update every gradient is looked through; where one is not finite, no
//! group updates anything and the step is not counted. Updates take gradients times the inverse. Then the scale adapts, all
//! of it in device memory, so that the host waits for nothing and a captured graph replays.

use super::{BufferId, PlanError};
use std::str::FromStr;

/// Input of the scale: float32 × 3, the scale, its inverse, and the steps since it last changed.
pub const SCALE: &str = npc_compiler::analysis::loss_scale::INPUT;
/// What the names of float32 copies of parameters begin with; the parameter's name follows.
pub const MASTER: &str = "npc.master.";

/// How a scale starts and changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// The first scale.
    pub initial: f32,
    /// What the scale is multiplied by after `interval` steps without an overflow.
    pub growth: f32,
    /// What it is multiplied by after a step that overflowed.
    pub backoff: f32,
    /// In steps.
    pub interval: f32,
}

impl LossScale {
    /// The usual one: 65,536 at first, halved after an overflow, doubled after 2,000 steps without.
    pub const DYNAMIC: LossScale = LossScale { initial: 65_536.0, growth: 2.0, backoff: 0.5, interval: 2000.0 };

    /// One that stays; steps that overflow are skipped all the same.
    pub fn fixed(scale: f32) -> Self {
        LossScale { initial: scale, growth: 1.0, backoff: 1.0, interval: f32::INFINITY }
    }

    /// What [`SCALE`] holds before the first step.
    pub fn state(&self) -> [f32; 3] {
        [self.initial, 1.0 / self.initial, 0.0]
    }
}

/// What a user asks for: `off`, `dynamic` or a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScaling {
    /// Gradients as they are.
    Off,
    /// [`LossScale::DYNAMIC`].
    Dynamic,
    /// [`LossScale::fixed`].
    Fixed(f32),
}

impl FromStr for LossScaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f32>()) {
            ("off", _) => Ok(LossScaling::Off),
            ("dynamic", _) => Ok(LossScaling::Dynamic),
            // The inverse is to be a normal number as well.
            (_, Ok(scale)) if scale >= 2f32.powi(-126) && scale <= 2f32.powi(126) => Ok(LossScaling::Fixed(scale)),
            _ => Err("it is off, dynamic or a positive number".into()),
        }
    }
}

impl LossScaling {
    /// Its scale, if any.
    pub fn scale(self) -> Option<LossScale> {
        match self {
            LossScaling::Off => None,
            LossScaling::Dynamic => Some(LossScale::DYNAMIC),
            LossScaling::Fixed(scale) => Some(LossScale::fixed(scale)),
        }
    }
}

/// A plan's scale and where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// How it changes.
    pub rule: LossScale,
    /// The buffer of [`SCALE`].
    pub scale: BufferId,
    /// int32, not 0 where a gradient of this step is not finite.
    pub overflow: BufferId,
}

/// A plan that was to be scaled is.
pub(super) fn check(asked: Option<LossScale>, found: Option<Scaling>) -> Result<(), PlanError> {
    match (asked, found) {
        (Some(_), None) => Err(PlanError::Graph(format!("it has no input '{SCALE}' to multiply by"))),
        _ => Ok(()),
    }
}
