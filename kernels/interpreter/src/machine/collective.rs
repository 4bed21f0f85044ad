//! Instructions that the lanes of a mask carry out together.

use super::step::{Flow, first};
use super::warp::{Wait, Warp};
use super::{LANES, LaneFault, Machine, lanes};
use crate::fault::FaultKind;
use crate::program::{Operation, ShuffleMode, VoteMode};
use crate::semantics::Function;

/// What a lane gets from a lane that does not take part: all ones, which no float arithmetic survives.
const NOBODY: u64 = 0xffff_ffff;

impl Machine<'_> {
    /// Carries the instruction out if all lanes of its masks are here, and waits for them otherwise.
    pub(super) fn collective(
        &mut self,
        warp: &mut Warp,
        operation: &Operation,
        mask: u32,
    ) -> Result<Flow, LaneFault> {
        let register = match *operation {
            Operation::WarpBarrier { mask }
            | Operation::Shuffle { mask, .. }
            | Operation::Vote { mask, .. }
            | Operation::Match { mask, .. }
            | Operation::Reduce { mask, .. } => mask,
            _ => return Ok(Flow::Next),
        };
        let members = warp.registers[register as usize].map(|members| members as u32);
        // Elsewhere, too, lanes may wait at a barrier of the warp; the others must be at this very instruction.
        let here = match operation {
            Operation::WarpBarrier { .. } => mask | self.waiting_at_warp_barriers(warp),
            _ => mask,
        };
        for lane in lanes(mask) {
            let wanted = members[lane];
            if wanted >> lane & 1 == 0 {
                return Err(LaneFault { lane, kind: FaultKind::NotInMask { mask: wanted } });
            }
            if wanted & warp.live & !here != 0 {
                return Ok(Flow::Wait { mask, wait: Wait::Lanes { mask: wanted } });
            }
        }
        match *operation {
            Operation::Shuffle { mode, destination, valid, source, lane, clamp, .. } => {
                let [values, lane_values, clamps] = [source, lane, clamp].map(|register| warp.registers[register as usize]);
                for lane in lanes(mask) {
                    let (from, inside) = shuffle_source(mode, lane as u32, lane_values[lane] as u32, clamps[lane] as u32);
                    let value = if mask >> from & 1 == 1 { values[from as usize] } else { NOBODY };
                    warp.registers[valid as usize][lane] = u64::from(inside);
                    warp.registers[destination as usize][lane] = value;
                }
            }
            Operation::Vote { mode, destination, source, .. } => {
                let set = warp.predicate(source.register, source.negated);
                for lane in lanes(mask) {
                    let taking_part = members[lane] & mask;
                    let set = set & taking_part;
                    warp.registers[destination as usize][lane] = match mode {
                        VoteMode::All => u64::from(set == taking_part),
                        VoteMode::Any => u64::from(set != 0),
                        VoteMode::Uniform => u64::from(set == taking_part || set == 0),
                        VoteMode::Ballot => u64::from(set),
                    };
                }
            }
            Operation::Match { all, bits, destination, uniform, source, .. } => {
                let values = warp.registers[source as usize].map(|value| value << (64 - bits));
                for lane in lanes(mask) {
                    let taking_part = members[lane] & mask;
                    let same = lanes(taking_part).filter(|&other| values[other] == values[lane]);
                    let same = same.fold(0_u32, |mask, other| mask | 1 << other);
                    let everybody = same == taking_part;
                    warp.registers[uniform as usize][lane] = u64::from(everybody);
                    warp.registers[destination as usize][lane] = if all && !everybody { 0 } else { u64::from(same) };
                }
            }
            Operation::Reduce { function: Function::Two(function), destination, source, .. } => {
                let values = warp.registers[source as usize];
                for lane in lanes(mask) {
                    let taking_part = lanes(members[lane] & mask).map(|other| values[other]);
                    warp.registers[destination as usize][lane] = taking_part.reduce(function).unwrap_or(0);
                }
            }
            _ => return Ok(self.pass_warp_barrier(warp, mask, &members)),
        }
        Ok(Flow::Next)
    }

    fn waiting_at_warp_barriers(&self, warp: &Warp) -> u32 {
        let waiting = warp.groups.iter().filter(|group| {
            matches!(group.wait, Wait::Lanes { .. })
                && matches!(self.kernel.code[group.pc as usize].operation, Operation::WarpBarrier { .. })
        });
        waiting.fold(0, |mask, group| mask | group.mask)
    }

    /// The lanes go on, and so do those that wait for them at another barrier of the warp.
    fn pass_warp_barrier(&mut self, warp: &mut Warp, mask: u32, members: &[u32; LANES]) -> Flow {
        let mut passed = 0;
        for lane in lanes(mask) {
            if passed >> lane & 1 == 0 {
                self.order_warp(warp, members[lane] & warp.live);
                passed |= members[lane];
            }
        }
        for group in &mut warp.groups {
            let at_barrier = matches!(self.kernel.code[group.pc as usize].operation, Operation::WarpBarrier { .. });
            if at_barrier && matches!(group.wait, Wait::Lanes { .. }) && group.mask & passed == group.mask {
                group.pc += 1;
                group.wait = Wait::Nothing;
            }
        }
        Flow::Next
    }

    /// What to say when the lanes of a group wait for others that never come.
    pub(super) fn never_come(&self, warp: &Warp, waiting: u32, wanted: u32) -> LaneFault {
        first(waiting, FaultKind::DivergentWarp { mask: wanted, missing: wanted & warp.live & !waiting })
    }
}

/// The lane that a shuffle reads, and whether it lies within the segment.
fn shuffle_source(mode: ShuffleMode, lane: u32, offset: u32, packed: u32) -> (u32, bool) {
    let (clamp, segment, offset) = (packed & 31, packed >> 8 & 31, offset & 31);
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let (from, inside) = match mode {
        ShuffleMode::Up => (lane.wrapping_sub(offset), lane as i32 - offset as i32 >= most as i32),
        ShuffleMode::Down => (lane + offset, lane + offset <= most),
        ShuffleMode::Butterfly => (lane ^ offset, lane ^ offset <= most),
        ShuffleMode::Index => (least | offset & !segment, least | offset & !segment <= most),
    };
    if inside { (from, true) } else { (lane, false) }
}
