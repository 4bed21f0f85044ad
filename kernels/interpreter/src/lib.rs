//! Runs PTX on the CPU, so that kernels are tested without a GPU, and finds what a GPU would hide.
//!
//! ```
//! use npc_ptx_interpreter::{Argument, FaultKind, Launch, Memory, Module, Schedule, launch};
//!
//! let module = Module::parse(
//!     ".version 7.0
//!      .target sm_70
//!      .address_size 64
//!      .visible .entry twice(.param .u64 data) {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd1, [data];
//!          cvta.to.global.u64 %rd1, %rd1;
//!          mov.u32 %r1, %tid.x;
//!          mul.wide.u32 %rd2, %r1, 4;
//!          add.s64 %rd3, %rd1, %rd2;
//!          ld.global.u32 %r2, [%rd3];
//!          add.s32 %r2, %r2, %r2;
//!          st.global.u32 [%rd3], %r2;
//!          ret;
//!      }",
//! )?;
//! let mut memory = Memory::new();
//! let data = memory.alloc_from(&[1_u32, 2, 3]);
//! let arguments = [Argument::U64(data)];
//! let mut twice =
//!     Launch { kernel: "twice", grid: [1, 1, 1], block: [3, 1, 1], dynamic_shared: 0, arguments: &arguments };
//! let statistics = launch(&module, &mut memory, &twice, Schedule::InOrder)?;
//! assert_eq!(memory.read::<u32>(data, 3)?, [2, 4, 6]);
//! assert_eq!(statistics.global_loaded_bytes, 12);
//!
//! // A fourth thread finds nothing behind the array.
//! twice.block = [4, 1, 1];
//! let fault = launch(&module, &mut memory, &twice, Schedule::InOrder).unwrap_err();
//! assert!(matches!(fault.kind, FaultKind::OutOfBounds { .. }));
//! assert_eq!(fault.place.unwrap().thread, [3, 0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is watched: bounds, alignment, lifetime and initialisation of every access; data races in shared and global
//! memory; barriers and warp instructions that not all threads reach; launches that get nowhere. See [`FaultKind`].
//! An opcode, modifier or directive that is not known is an error when the module is parsed, never ignored.
//!
//! What differs from a device:
//!
//! * The fast functions (`ex2.approx`, `sin.approx`, `div.full` and the like) are exact results rounded once. All other
//!   arithmetic has the device's own bits.
//! * Blocks, warps and diverged threads take turns on one core, in an order that a [`Schedule`] decides. Threads of a
//!   warp are not in lock-step once they have diverged, and nothing but barriers and fences orders them.
//! * A shuffle that reads a lane which does not take part gets all ones; on a device it gets anything.
//! * A register that was not written holds anything. Local memory is zero at first.
//! * `cp.async` copies at once.
//! * Clusters, tensor cores, textures, `mbarrier` and bulk copies are not there.
//!
//! The way of a kernel: `parse` turns text into structure, `link` decodes each kernel with the functions it calls into
//! one list of instructions whose arithmetic is in `semantics`, and `machine` runs it over `memory`, telling `race` of
//! what it does.

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
