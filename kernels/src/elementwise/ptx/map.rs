//! Kernels without a reduction: every thread takes its lanes once.

use super::emitter::Value;
use super::frame::{BLOCK, Frame, Place, Spread};

/// Emits the kernel; returns its number of blocks.
pub(super) fn emit(frame: &mut Frame) -> Option<usize> {
    let (block, thread) = (frame.special("ctaid.x"), frame.special("tid.x"));
    let done = frame.e.label();
    let elements = frame.expression.elements();
    let per_block = BLOCK * frame.lanes;
    if frame.spread == Spread::Strided {
        let number = frame.width.multiply_add(&mut frame.e, block, per_block, thread);
        let numbers = lane_numbers(frame, number, BLOCK);
        let ragged = !elements.is_multiple_of(per_block);
        let guards: Option<Vec<Value>> =
            ragged.then(|| numbers.iter().map(|number| frame.compare("lt", *number, elements)).collect());
        let places = each_place(frame, &numbers, Place::Each(numbers.clone()));
        frame.run(&places, guards.as_deref())?;
    } else {
        let units = elements / frame.lanes;
        let number = frame.width.multiply_add(&mut frame.e, block, BLOCK, thread);
        if !units.is_multiple_of(BLOCK) {
            frame.leave_from(number, units, &done);
        }
        let places = if frame.spread == Spread::Flat {
            let first = frame.width.multiply_add(&mut frame.e, number, frame.lanes, Value::Integer(0));
            let numbers = lane_numbers(frame, first, 1);
            each_place(frame, &numbers, Place::Neighbours(first))
        } else {
            let coordinates = frame.coordinates(number, |_| true);
            let indices = frame.indices(&coordinates, None);
            frame.places(&indices)
        };
        frame.run(&places, None)?;
    }
    frame.e.place(&done);
    frame.e.line("ret;");
    Some(elements.div_ceil(per_block))
}

/// The numbers of all lanes' elements, `apart` from each other.
fn lane_numbers(frame: &mut Frame, first: Value, apart: usize) -> Vec<Value> {
    let (class, add) = (frame.width.class(), format!("add.{}", frame.width.ty()));
    let next = |lane: usize| frame.e.new_value(class, &add, &[first, Value::Integer((lane * apart) as i64)]);
    std::iter::once(first).chain((1..frame.lanes).map(next)).collect()
}

/// Places of lanes that have nothing but their numbers: `dense` in whatever has the outputs' shape.
fn each_place(frame: &mut Frame, numbers: &[Value], dense: Place) -> Vec<Place> {
    let coordinates: Vec<_> = numbers.iter().map(|number| frame.coordinates(*number, |_| true)).collect();
    let mut places = Vec::new();
    for input in 0..frame.expression.inputs.len() {
        places.push(if frame.is_dense(input) {
            dense.clone()
        } else if frame.is_single(input) {
            Place::Same(Value::Integer(0))
        } else {
            let index = |c: &Vec<_>| frame.index(c, |axis| axis.inputs[input], Value::Integer(0));
            Place::Each(coordinates.iter().map(index).collect())
        });
    }
    places.push(dense);
    places
}
