//! Kernels without a reduction: one unit a thread.

use super::frame::{BLOCK, Frame};

/// Emits the kernel; returns its number of blocks.
pub(super) fn emit(frame: &mut Frame) -> Option<usize> {
    let units: usize = (0..frame.axes.len()).map(|axis| frame.units(axis)).product();
    let (block, thread) = (frame.special("ctaid.x"), frame.special("tid.x"));
    let number = frame.width.multiply_add(&mut frame.e, block, BLOCK, thread);
    let done = frame.e.label();
    if !units.is_multiple_of(BLOCK) {
        frame.leave_from(number, units, &done);
    }
    let coordinates = frame.coordinates(number, |_| true);
    let indices = frame.indices(&coordinates, None);
    frame.unit(&indices)?;
    frame.e.place(&done);
    frame.e.line("ret;");
    Some(units.div_ceil(BLOCK))
}
