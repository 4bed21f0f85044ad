//! Which registers an instruction reads and writes, for whoever wants to know or to rename them.

use crate::program::{BarrierAction, Instruction, Operation, Register};

/// What an instruction does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    /// Read, then written.
    Update,
}

/// Visits every register of an instruction once in each place, its guard's included.
pub(super) fn visit(instruction: &mut Instruction, visit: &mut impl FnMut(&mut Register, Use)) {
    use Use::{Read, Update, Write};
    if let Some(guard) = &mut instruction.guard {
        visit(&mut guard.register, Read);
    }
    match &mut instruction.operation {
        Operation::Compute(compute) => {
            let arity = compute.function.arity();
            compute.sources[..arity].iter_mut().for_each(|source| visit(source, Read));
            visit(&mut compute.destination, Write);
        }
        Operation::Compare { sources, combine, destination, complement, .. } => {
            sources.iter_mut().for_each(|source| visit(source, Read));
            if let Some((_, predicate)) = combine {
                visit(&mut predicate.register, Read);
            }
            visit(destination, Write);
            visit(complement, Write);
        }
        Operation::Carry { carrying, sources, destination, carry } => {
            sources[..carrying.arity].iter_mut().for_each(|source| visit(source, Read));
            visit(destination, Write);
            visit(carry, if carrying.writes { Update } else { Read });
        }
        Operation::Pack { destination, parts, .. } => {
            parts.iter_mut().for_each(|part| visit(part, Read));
            visit(destination, Write);
        }
        Operation::Unpack { destinations, source, .. } => {
            visit(source, Read);
            destinations.iter_mut().for_each(|destination| visit(destination, Write));
        }
        Operation::Load { access, destinations } => {
            visit(&mut access.address.base, Read);
            let count = usize::from(access.count);
            destinations[..count].iter_mut().for_each(|destination| visit(destination, Write));
        }
        Operation::Store { access, sources } => {
            visit(&mut access.address.base, Read);
            sources[..usize::from(access.count)].iter_mut().for_each(|source| visit(source, Read));
        }
        Operation::Atomic(atomic) => {
            visit(&mut atomic.access.address.base, Read);
            let values = atomic.function.arity() - 1;
            atomic.sources[..values].iter_mut().for_each(|source| visit(source, Read));
            visit(&mut atomic.destination, Write);
        }
        Operation::CopyAsync { shared, global, source_bytes, .. } => {
            visit(&mut shared.base, Read);
            visit(&mut global.base, Read);
            visit(source_bytes, Read);
        }
        Operation::BranchTable { index, .. } => visit(index, Read),
        Operation::Barrier(barrier) => {
            visit(&mut barrier.number, Read);
            if let Some(threads) = &mut barrier.threads {
                visit(threads, Read);
            }
            match &mut barrier.action {
                BarrierAction::Wait | BarrierAction::Arrive => {}
                BarrierAction::Count { destination, source }
                | BarrierAction::All { destination, source }
                | BarrierAction::Any { destination, source } => {
                    visit(&mut source.register, Read);
                    visit(destination, Write);
                }
            }
        }
        Operation::WarpBarrier { mask } => visit(mask, Read),
        Operation::Shuffle { destination, valid, source, lane, clamp, mask, .. } => {
            [source, lane, clamp, mask].into_iter().for_each(|register| visit(register, Read));
            visit(destination, Write);
            visit(valid, Write);
        }
        Operation::Vote { destination, source, mask, .. } => {
            visit(&mut source.register, Read);
            visit(mask, Read);
            visit(destination, Write);
        }
        Operation::Match { destination, uniform, source, mask, .. } => {
            visit(source, Read);
            visit(mask, Read);
            visit(destination, Write);
            visit(uniform, Write);
        }
        Operation::Reduce { destination, source, mask, .. } => {
            visit(source, Read);
            visit(mask, Read);
            visit(destination, Write);
        }
        Operation::ActiveMask { destination } | Operation::Clock { destination } => visit(destination, Write),
        Operation::Branch { .. }
        | Operation::Call(_)
        | Operation::Return
        | Operation::Exit
        | Operation::Trap
        | Operation::Fence { .. }
        | Operation::Sleep
        | Operation::Nothing => {}
    }
}
