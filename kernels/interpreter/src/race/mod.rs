//! Data races, found by what is ordered and not by what happens to go wrong.
//!
//! Two accesses race if they touch the same byte, at least one writes, nothing orders them, and they are not both
//! strong (volatile, relaxed, atomic) in a scope that holds both threads. What orders two accesses:
//!
//! * the program, within a thread;
//! * a barrier of the block or of the warp, between those who take part in it;
//! * a fence, then a strong write of a word, and in another thread a strong read of what was written, then a fence.
//!   Until that second fence only strong accesses of the reading thread are ordered: an ordinary load may still be
//!   answered by its own cache.
//!
//! Each thread has a clock that ticks whenever others may learn of what it did ([`View`]). Each word of memory
//! remembers the latest accesses with the clocks of their threads ([`Shadow`]). A later access looks whether its thread
//! knows those times ([`Knowledge`]). Nothing depends on the schedule, but for the paths that the kernel takes.
//!
//! Two ordinary stores of the same value do not count as a race: that is how a block's threads set a flag.

mod knowledge;
mod shadow;
mod view;

pub(crate) use knowledge::Event;
pub(crate) use shadow::{Entry, Shadow};
pub(crate) use view::{Join, View, Word};
