//! A CUDA driver, a cuBLASLt and a cuDNN for tests: the C functions that npc's CUDA runtime calls, with the PTX interpreter as the GPU.
//!
//! As a `cdylib` under the names `libcuda.so`, `libcublasLt.so.12` and `libcudnn.so.9` in a folder of `LD_LIBRARY_PATH` it takes
//! the place of NVIDIA's libraries in a child process; [`install`] makes such a folder. Nothing else loads it.
//!
//! It is there to find wrong use, so it is stricter than the real ones. What it finds is written to the file that
//! `NPC_TEST_DRIVER_REPORT` names, a line each:
//!
//! * `misuse:` a call that must not be made so: an object that is not (or no more) there, a range outside its allocation,
//!   a thread without a context, a call that is illegal while a stream is captured, a description that contradicts itself.
//!   The call is answered with the error that the real library gives.
//! * `fault:` work that failed on the device; every later call fails as well.
//! * `leak:` what was not given back when the context or the process ended.
//! * `end:` how much was done. Without this line the process did not end by itself.
//!
//! Work is queued, and carried out when something waits for it, never before it has to be (`NPC_TEST_DRIVER_ORDER=lazy`, the
//! default). `oldest` and `newest` let the stream made first or last run at once, as far as events let it, `seed:N` a random
//! one now and then: a program that waits for what it needs gives the same results under all.
//!
//! `NPC_TEST_DRIVER_MEMORY_MIB` is the device's memory. `NPC_TEST_DRIVER_REFUSE` names a function that always fails,
//! `kernel:NAME` a kernel that does not start, `fault:NAME` one that fails while it runs (`fault:NAME:4` after four times),
//! `epilogues`, `factors of 16 bits` and `results of 16 bits` take those from cuBLASLt, `cudnn` all algorithms from cuDNN, `pools`
//! the memory pool from the device.
//!
//! What it cannot see, as no driver can: how many pointers the array of a launch's parameters has, and how large each
//! parameter was meant to be. What it does not have is refused with `not built` in the report.

pub mod cuda;
pub mod dnn;
mod driver;
mod graph;
mod installed;
pub mod lt;
mod objects;
mod ranges;
mod refusal;
mod report;
mod rounding;
mod settings;
mod stream;
mod work;

pub use driver::alone;
pub use installed::install;
