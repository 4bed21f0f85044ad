//! Runs PTX on the CPU, so that kernels are tested without a GPU, and finds what a GPU would hide.

mod fault;
mod launch;
mod link;
mod machine;
mod memory;
mod module;
mod parse;
mod program;
mod race;
mod semantics;
mod types;

pub use fault::{AccessKind, Fault, FaultKind, MemorySpace, Place};
pub use launch::{Argument, Launch, Options, Schedule, Statistics, launch, launch_with};
pub use memory::{Memory, Pod};
pub use module::Module;
pub use parse::ParseError;
pub use program::Kernel;
