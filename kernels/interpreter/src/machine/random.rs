//! The schedule's dice.

use crate::launch::Schedule;

/// A counter, mixed: enough to shuffle turns with, and the same on every machine.
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub fn new(schedule: Schedule) -> Self {
        Random { state: if let Schedule::Random(seed) = schedule { seed } else { 0 } }
    }

    /// A number below `limit`, or zero where that is zero.
    pub fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x81da_def4_bc2d_d44d);
        ((mixed >> 33) as usize).checked_rem(limit).unwrap_or(0)
    }
}
