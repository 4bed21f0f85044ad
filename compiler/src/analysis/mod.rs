//! What a training step is about: its loss, its labels, how its parameters start.

mod initialization;
pub mod loss_scale;
mod running;
mod task;

pub use initialization::{Init, initialization};
pub use running::{Statistic, running_statistics};
pub use task::{LabelKind, Task, loss, task};

#[cfg(test)]
mod tests;
