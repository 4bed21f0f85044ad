//! Offsets for the buffers that live within a step.
//!
//! A buffer lives from the work that first writes it to the work that last touches it. Buffers are placed one after the other
//! where nothing that is alive at the same time lies: largest first ("greedy by size", Pisarchyk and Lee, arXiv 2001.03288),
//! and in a few other orders; what ends up highest is then tried earlier, some rounds. The smallest arena is taken.

use super::{Plan, Source};

/// Every buffer starts at a multiple of this many bytes: what vector accesses and libraries want.
pub const ALIGNMENT: u64 = 256;

/// When and how large: the first and the last piece of work, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Lifetime {
    pub first: usize,
    pub last: usize,
    pub bytes: u64,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Gives every computed buffer its offset.
pub fn place(plan: &mut Plan) {
    let mut lives: Vec<Option<Lifetime>> = vec![None; plan.buffers.len()];
    for (at, work) in plan.work.iter().enumerate() {
        for &id in work.reads.iter().chain(&work.writes) {
            let bytes = plan.buffers[id].bytes().next_multiple_of(ALIGNMENT).max(ALIGNMENT);
            lives[id].get_or_insert(Lifetime { first: at, last: at, bytes }).last = at;
        }
    }
    // The host reads outputs after the last piece of work.
    for (_, id, _) in &plan.outputs {
        if let Some(life) = &mut lives[*id] {
            life.last = plan.work.len();
        }
    }
    let computed: Vec<usize> = (0..plan.buffers.len())
        .filter(|i| plan.buffers[*i].source == Source::Computed && lives[*i].is_some())
        .collect();
    let lives: Vec<Lifetime> = computed.iter().filter_map(|i| lives[*i]).collect();
    for (id, offset) in computed.iter().zip(offsets(&lives)) {
        plan.buffers[*id].offset = offset;
    }
    plan.arena_bytes = computed.iter().zip(&lives).map(|(i, l)| plan.buffers[*i].offset + l.bytes).max().unwrap_or(0);
    plan.live_bytes = peak(&lives);
}

/// Offsets under which no two lifetimes that meet overlap.
pub fn offsets(lives: &[Lifetime]) -> Vec<u64> {
    let span = |l: &Lifetime| (l.last - l.first + 1) as u64;
    type Key<'a> = &'a dyn Fn(&Lifetime) -> (u64, u64);
    let orders: [Key<'_>; 4] = [
        &|l| (u64::MAX - l.bytes, l.first as u64),
        &|l| (u64::MAX - l.bytes.saturating_mul(span(l)), l.first as u64),
        &|l| (u64::MAX - span(l), u64::MAX - l.bytes),
        &|l| (l.first as u64, u64::MAX - l.bytes),
    ];
    let (bound, mut best) = (peak(lives), (u64::MAX, Vec::new()));
    let rounds = (WORK / (lives.len() * lives.len()).max(1)).clamp(1, ROUNDS);
    for key in orders {
        let mut order: Vec<usize> = (0..lives.len()).collect();
        order.sort_by_key(|i| key(&lives[*i]));
        for _ in 0..rounds {
            let offsets = in_order(lives, &order);
            let end = |i: &usize| offsets[*i] + lives[*i].bytes;
            let Some(highest) = (0..order.len()).max_by_key(|at| end(&order[*at])) else { break };
            let size = end(&order[highest]);
            if size < best.0 {
                best = (size, offsets);
            }
            if best.0 <= bound {
                return best.1;
            }
            let moved = order.remove(highest);
            order.insert(highest / 2, moved);
        }
    }
    best.1
}

/// How often an order is changed; for many buffers less often, since placing them takes the square of their number.
const ROUNDS: usize = 32;
const WORK: usize = 16 << 20;

/// Places lifetimes in an order, each in the lowest gap.
fn in_order(lives: &[Lifetime], order: &[usize]) -> Vec<u64> {
    let mut offsets = vec![0; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    for &i in order {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|j| lives[**j].meets(&lives[i]))
            .map(|j| (offsets[*j], offsets[*j] + lives[*j].bytes))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + lives[i].bytes <= start {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        placed.push(i);
    }
    offsets
}

/// Most bytes alive at once.
pub fn peak(lives: &[Lifetime]) -> u64 {
    let mut changes: Vec<(usize, i128)> =
        lives.iter().flat_map(|l| [(l.first, i128::from(l.bytes)), (l.last + 1, -i128::from(l.bytes))]).collect();
    // At one point in time what ends goes before what starts.
    changes.sort_unstable();
    let mut alive = 0;
    changes.iter().fold(0, |peak, (_, change)| {
        alive += change;
        peak.max(alive)
    }) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_lives_at_once_lies_apart(lives in proptest::collection::vec((0usize..60, 0usize..20, 1u64..40), 0..80)) {
            let lives: Vec<Lifetime> = lives
                .into_iter()
                .map(|(first, length, units)| Lifetime { first, last: first + length, bytes: units * ALIGNMENT })
                .collect();
            let offsets = offsets(&lives);
            for i in 0..lives.len() {
                for j in 0..i {
                    let apart = offsets[i] + lives[i].bytes <= offsets[j] || offsets[j] + lives[j].bytes <= offsets[i];
                    prop_assert!(apart || !lives[i].meets(&lives[j]));
                }
                prop_assert!(offsets[i].is_multiple_of(ALIGNMENT));
            }
            let end = lives.iter().zip(&offsets).map(|(l, o)| o + l.bytes).max().unwrap_or(0);
            prop_assert!(end >= peak(&lives));
        }
    }

    #[test]
    fn a_chain_needs_two_places() {
        let lives: Vec<Lifetime> = (0..10).map(|i| Lifetime { first: i, last: i + 1, bytes: 1024 }).collect();
        assert_eq!(peak(&lives), 2048);
        assert_eq!(offsets(&lives).into_iter().max(), Some(1024));
    }
}
