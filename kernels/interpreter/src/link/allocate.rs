//! Puts a program's thousands of virtual registers into few: those whose lifetimes do not overlap share one.
//!
//! A lifetime here is a range of instructions from the first to the last at which the value may still be wanted. Every
//! lane has its own copy of each register, so that divergence changes nothing. Functions share no register with their
//! callers, and constants keep theirs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::visit::{Use, visit};
use crate::program::{Instruction, Operation, Register};

/// Renames the registers of `code`, whose functions begin at `entries` (the kernel itself at 0). Registers for which
/// `fixed` holds stay as they are. Returns how many registers there are now.
pub(super) fn allocate(
    code: &mut [Instruction],
    entries: &[u32],
    registers: u32,
    fixed: impl Fn(Register) -> bool,
) -> (u32, Vec<Register>) {
    let mut names = vec![Register::MAX; registers as usize];
    let mut next = 0;
    for register in (0..registers).filter(|&register| fixed(register)) {
        names[register as usize] = next;
        next += 1;
    }
    let mut starts: Vec<usize> = entries.iter().map(|&entry| entry as usize).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(code.len());
        next = function(code, start..end, next, &mut names);
    }
    for instruction in code {
        visit(instruction, &mut |register, _| *register = names[*register as usize]);
    }
    (next, names)
}

/// Names the registers of one function, from `first` on; returns the next free name.
fn function(code: &mut [Instruction], range: Range<usize>, first: Register, names: &mut [Register]) -> Register {
    let lifetimes = lifetimes(code, range, names);
    let mut free = BinaryHeap::new();
    let mut active: BinaryHeap<Reverse<(usize, Register)>> = BinaryHeap::new();
    let mut next = first;
    for (start, end, register) in lifetimes {
        while let Some(&Reverse((until, name))) = active.peek()
            && until < start
        {
            active.pop();
            free.push(Reverse(name));
        }
        let name = free.pop().map_or_else(
            || {
                next += 1;
                next - 1
            },
            |Reverse(name)| name,
        );
        names[register as usize] = name;
        active.push(Reverse((end, name)));
    }
    next
}

/// The lifetimes of all registers without a name, by their beginnings. At instruction `i` values are read at time
/// `2 i` and written at `2 i + 1`.
fn lifetimes(code: &mut [Instruction], range: Range<usize>, names: &[Register]) -> Vec<(usize, usize, Register)> {
    let blocks = blocks(code, range.clone());
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; names.len()];
    let mut extend = |register: Register, time: usize| {
        let span = spans[register as usize].get_or_insert((time, time));
        *span = (span.0.min(time), span.1.max(time));
    };
    // Only the function's own registers take part; they are numbered densely for the sets.
    let mut own: Vec<Register> = Vec::new();
    let mut dense = vec![usize::MAX; names.len()];
    let mut accesses: Vec<Vec<(usize, Use)>> = Vec::with_capacity(range.len());
    for (offset, instruction) in code[range.clone()].iter_mut().enumerate() {
        let guarded = instruction.guard.is_some();
        let mut found = Vec::new();
        visit(instruction, &mut |register, access| {
            if names[*register as usize] != Register::MAX {
                return;
            }
            let number = &mut dense[*register as usize];
            if *number == usize::MAX {
                *number = own.len();
                own.push(*register);
            }
            let at = 2 * (range.start + offset);
            // Where a guard does not hold the old value lives on, as if it were read.
            let kept = guarded || access != Use::Write;
            extend(*register, if kept { at } else { at + 1 });
            extend(*register, if access == Use::Read { at } else { at + 1 });
            found.push((*number, if kept { Use::Read } else { Use::Write }));
        });
        accesses.push(found);
    }
    let words = own.len().div_ceil(64);
    let mut live_in = vec![vec![0_u64; words]; blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate().rev() {
            let mut live = vec![0_u64; words];
            for &successor in &block.successors {
                live.iter_mut().zip(&live_in[successor]).for_each(|(live, more)| *live |= more);
            }
            for at in block.range.clone().rev() {
                let accesses = &accesses[at - range.start];
                let of = |wanted| accesses.iter().filter(move |(_, access)| *access == wanted);
                of(Use::Write).for_each(|&(number, _)| live[number / 64] &= !(1 << (number % 64)));
                of(Use::Read).for_each(|&(number, _)| live[number / 64] |= 1 << (number % 64));
            }
            if live != live_in[index] {
                live_in[index] = live;
                changed = true;
            }
        }
    }
    for (index, block) in blocks.iter().enumerate() {
        members(&live_in[index]).for_each(|number| extend(own[number], 2 * block.range.start));
        for &successor in &block.successors {
            members(&live_in[successor]).for_each(|number| extend(own[number], 2 * block.range.end - 1));
        }
    }
    let mut lifetimes: Vec<_> = own
        .iter()
        .filter_map(|&register| spans[register as usize].map(|(start, end)| (start, end, register)))
        .collect();
    lifetimes.sort_unstable();
    lifetimes
}

fn members(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
    set.iter().enumerate().flat_map(move |(index, &word)| bits(word).map(move |bit| index * 64 + bit))
}

/// Instructions that follow each other without a branch in or out.
struct Block {
    range: Range<usize>,
    successors: Vec<usize>,
}

fn blocks(code: &[Instruction], range: Range<usize>) -> Vec<Block> {
    let mut leads = vec![false; range.len() + 1];
    leads[0] = true;
    for at in range.clone() {
        let targets = targets(&code[at]);
        for target in targets.clone() {
            leads[target - range.start] = true;
        }
        if targets.len() > 0 || ends(&code[at]) {
            leads[at + 1 - range.start] = true;
        }
    }
    let starts: Vec<usize> = range.clone().filter(|at| leads[at - range.start]).collect();
    let number = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let mut blocks = Vec::with_capacity(starts.len());
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(range.end);
        let last = &code[end - 1];
        let mut successors: Vec<usize> = targets(last).map(number).collect();
        if end < range.end && (last.guard.is_some() || !ends(last)) {
            successors.push(index + 1);
        }
        blocks.push(Block { range: start..end, successors });
    }
    blocks
}

/// Where an instruction may jump within its function.
fn targets(instruction: &Instruction) -> impl ExactSizeIterator<Item = usize> + Clone + '_ {
    let targets = match &instruction.operation {
        Operation::Branch { target } => std::slice::from_ref(target),
        Operation::BranchTable { targets, .. } => targets,
        _ => &[],
    };
    targets.iter().map(|&target| target as usize)
}

/// Whether the next instruction is not reached from this one, guards aside.
fn ends(instruction: &Instruction) -> bool {
    matches!(
        instruction.operation,
        Operation::Branch { .. }
            | Operation::BranchTable { .. }
            | Operation::Return
            | Operation::Exit
            | Operation::Trap
    )
}
