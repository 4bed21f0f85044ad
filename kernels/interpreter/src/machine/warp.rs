//! A warp: registers, and groups of threads that are at the same instruction.

use super::LANES;
use crate::race::View;

/// What a group of threads waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It can go on.
    Nothing,
    /// The barrier of this number, reached by that many threads if a count was given.
    Barrier { number: u8, threads: Option<u32> },
    /// Other lanes of its mask.
    Lanes { mask: u32 },
}

/// Threads at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// 32 threads, or fewer in a block's last warp.
#[derive(Default)]
pub(super) struct Warp {
    pub number: u32,
    pub registers: Vec<[u64; LANES]>,
    pub groups: Vec<Group>,
    /// Lanes that have not ended.
    pub live: u32,
    /// Where each lane's calls return to: the calling instruction. Empty until there is a call.
    pub stacks: Vec<Vec<u32>>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    pub local_size: usize,
    pub turns: u32,
    /// Each lane's side of the order, where races are watched for.
    pub views: Vec<View>,
}

impl Warp {
    pub fn new(number: u32, registers: Vec<[u64; LANES]>, mask: u32, local_size: usize) -> Self {
        Warp {
            number,
            registers,
            groups: vec![Group { pc: 0, mask, wait: Wait::Nothing }],
            live: mask,
            stacks: Vec::new(),
            local: vec![0; local_size * LANES],
            local_size,
            turns: 0,
            views: Vec::new(),
        }
    }

    pub fn can_run(&self) -> bool {
        self.groups.iter().any(|group| group.wait == Wait::Nothing)
    }

    /// Joins groups that can go on from the same instruction.
    pub fn merge(&mut self) {
        let mut kept = 0;
        for index in 0..self.groups.len() {
            let group = self.groups[index];
            let same = self.groups[..kept].iter_mut().find(|other| other.pc == group.pc && other.joins(&group));
            match same {
                Some(other) => {
                    other.mask |= group.mask;
                    // Whoever waited for these lanes looks again.
                    other.wait = Wait::Nothing;
                }
                None => {
                    self.groups[kept] = group;
                    kept += 1;
                }
            }
        }
        self.groups.truncate(kept);
    }

    /// Lets every group that waits for lanes look again, because a lane has ended.
    pub fn recheck(&mut self) {
        for group in &mut self.groups {
            if matches!(group.wait, Wait::Lanes { .. }) {
                group.wait = Wait::Nothing;
            }
        }
    }

    /// The mask of lanes in which a predicate holds.
    pub fn predicate(&self, register: u32, negated: bool) -> u32 {
        let values = &self.registers[register as usize];
        let mask = (0..LANES).fold(0, |mask, lane| mask | (values[lane] as u32 & 1) << lane);
        if negated { !mask } else { mask }
    }
}

impl Group {
    fn joins(&self, other: &Group) -> bool {
        let free = |group: &Group| matches!(group.wait, Wait::Nothing | Wait::Lanes { .. });
        let both_wait = self.wait != Wait::Nothing && other.wait != Wait::Nothing;
        free(self) && free(other) && !both_wait
    }
}
