//! Kernels that end in a reduction.
//!
//! A group of threads works on one slice of the elements that one result is made of: each thread takes every n-th unit in
//! order, then the threads' totals are combined by a fixed tree. Where the innermost axis is reduced, a group is a warp or a
//! block; where it is kept, neighbouring threads work for neighbouring results and a group is a column of eight threads.

use super::emitter::{Class, Emitter, Value};
use super::frame::{BLOCK, Coordinate, Frame};
use super::lower::{apply, class, constant};
use super::memory::store;
use crate::elementwise::dtype::DType;
use crate::elementwise::expression::Reduction;
use crate::elementwise::machine::Machine;
use crate::elementwise::operation::{Operation, Reduce};

const WARP: usize = 32;
const WARPS: usize = BLOCK / WARP;
/// Reductions of at most this many units are left to a warp.
const WARP_UNITS: usize = 512;
/// Blocks that fill any GPU of today; a reduction with fewer is cut into slices.
const BLOCKS: usize = 528;
/// Fewest units that a slice leaves to each thread.
const SLICE_UNITS: usize = 8;

/// How a reduction is cut.
pub(super) struct Cut {
    /// Whether the innermost axis is reduced.
    rows: bool,
    /// Threads of a group.
    threads: usize,
    /// Results that a block works on at a time: rows, or units of columns.
    per_block: usize,
    /// Units to reduce.
    units: usize,
    /// Results: rows, or units of columns.
    results: usize,
    /// Slices that the units are cut into; with more than one, the results are partial.
    pub slices: usize,
}

impl Cut {
    pub fn new(frame: &Frame, may_slice: bool) -> Cut {
        let product = |reduced: bool| -> usize {
            (0..frame.axes.len()).filter(|a| frame.axes[*a].kept.is_none() == reduced).map(|a| frame.units(a)).product()
        };
        let (units, results) = (product(true), product(false));
        let rows = frame.axes.last().is_none_or(|axis| axis.kept.is_none());
        let (threads, per_block) = match rows {
            true if units <= WARP_UNITS => (WARP, WARPS),
            true => (BLOCK, 1),
            false => (WARPS, WARP),
        };
        let blocks = results.div_ceil(per_block).max(1);
        let wanted = BLOCKS.div_ceil(blocks).min(units / (threads * SLICE_UNITS)).max(1);
        let slices = if may_slice && blocks < BLOCKS / 2 { wanted } else { 1 };
        // No slice is left without units.
        let slices = units.div_ceil(units.div_ceil(slices).max(1)).max(1);
        Cut { rows, threads, per_block, units, results, slices }
    }
}

/// Emits the kernel; returns its number of blocks. A partial result is stored in the accumulator's type at
/// `slice · results + result`.
pub(super) fn emit(frame: &mut Frame, reduction: &Reduction, cut: &Cut) -> Option<usize> {
    let dtype = reduction.dtype.accumulator();
    let (block, thread) = (frame.special("ctaid.x"), frame.special("tid.x"));
    let done = frame.e.label();
    let width = frame.width;
    let (warp, lane) = width.divide(&mut frame.e, thread, WARP);
    let (number, slice, member) = if cut.rows {
        let group = if cut.threads == WARP { width.multiply_add(&mut frame.e, block, WARPS, warp) } else { block };
        if cut.threads == WARP && !(cut.results * cut.slices).is_multiple_of(WARPS) {
            frame.leave_from(group, cut.results * cut.slices, &done);
        }
        let (number, slice) = split(frame, group, cut.slices);
        (number, slice, if cut.threads == WARP { lane } else { thread })
    } else {
        let (column, slice) = split(frame, block, cut.slices);
        (width.multiply_add(&mut frame.e, column, WARP, lane), slice, warp)
    };
    let totals = accumulate(frame, reduction, cut, number, slice, member)?;
    let (totals, owner) = if cut.rows {
        let total = tree(&mut frame.e, reduction, dtype, totals)?;
        let total = across_warp(&mut frame.e, reduction, dtype, total)?;
        let totals = if cut.threads == WARP {
            vec![total]
        } else {
            across_block(frame, reduction, dtype, vec![total], warp, lane, false)?
        };
        (totals, member)
    } else {
        (across_block(frame, reduction, dtype, totals, warp, lane, true)?, warp)
    };
    let first = frame.compare("eq", owner, 0);
    frame.e.branch(first, &done, true);
    if !cut.rows {
        frame.leave_from(number, cut.results, &done);
    }
    write(frame, reduction, cut, number, slice, totals)?;
    frame.e.place(&done);
    frame.e.line("ret;");
    Some(if cut.rows {
        (cut.results * cut.slices).div_ceil(cut.per_block)
    } else {
        cut.results.div_ceil(WARP) * cut.slices
    })
}

fn split(frame: &mut Frame, group: Value, slices: usize) -> (Value, Value) {
    if slices == 1 { (group, Value::Integer(0)) } else { frame.width.divide(&mut frame.e, group, slices) }
}

/// The loop of one thread over its units; a total for each lane.
fn accumulate(
    frame: &mut Frame,
    reduction: &Reduction,
    cut: &Cut,
    number: Value,
    slice: Value,
    member: Value,
) -> Option<Vec<Value>> {
    let dtype = reduction.dtype.accumulator();
    let ty = frame.width.ty();
    let per_slice = cut.units.div_ceil(cut.slices);
    let all = Value::Integer(cut.units as i64);
    let (mut begin, mut end) = (member, all);
    if cut.slices > 1 {
        let start = frame.width.multiply_add(&mut frame.e, slice, per_slice, Value::Integer(0));
        begin = frame.width.multiply_add(&mut frame.e, start, 1, member);
        let stop = frame.width.multiply_add(&mut frame.e, start, 1, Value::Integer(per_slice as i64));
        end = frame.e.new_value(frame.width.class(), &format!("min.{ty}"), &[stop, all]);
    }
    let at = frame.e.new_value(frame.width.class(), &format!("mov.{ty}"), &[begin]);
    let class = class(dtype);
    let identity = constant(&mut frame.e, reduction.reduce.identity(dtype));
    let mov = mov(dtype);
    let totals: Vec<Value> = (0..frame.lanes).map(|_| frame.e.new_value(class, mov, &[identity])).collect();
    let kept: Vec<Coordinate> = frame.coordinates(number, |axis| axis.kept.is_some());
    let starts = frame.indices(&kept, None);
    let (again, out) = (frame.e.label(), frame.e.label());
    if !cut.rows {
        // Columns beyond the last take part in the barrier only.
        frame.leave_from(number, cut.results, &out);
    }
    frame.e.place(&again);
    let beyond = frame.e.new_value(Class::Pred, &format!("setp.ge.{ty}"), &[at, end]);
    frame.e.branch(beyond, &out, false);
    let coordinates = frame.coordinates(at, |axis| axis.kept.is_none());
    let indices = frame.indices(&coordinates, Some(&starts));
    let places = frame.places(&indices);
    let values = frame.run(&places, None)?;
    for (total, value) in totals.iter().zip(values) {
        let sum = apply(&mut frame.e, reduction.reduce.combine(), dtype, &[*total, value])?;
        frame.e.run(mov, &[*total, sum]);
    }
    frame.e.run(&format!("add.{ty}"), &[at, at, Value::Integer(cut.threads as i64)]);
    frame.e.line(format_args!("bra {again};"));
    frame.e.place(&out);
    Some(totals)
}

fn mov(dtype: DType) -> &'static str {
    match dtype {
        DType::I64 => "mov.b64",
        DType::I32 => "mov.b32",
        _ => "mov.f32",
    }
}

/// Neighbours combined until one is left.
fn tree(e: &mut Emitter, reduction: &Reduction, dtype: DType, mut values: Vec<Value>) -> Option<Value> {
    while values.len() > 1 {
        let pairs = values.chunks(2).map(|pair| match pair {
            [a, b] => apply(e, reduction.reduce.combine(), dtype, &[*a, *b]),
            _ => pair.first().copied(),
        });
        values = pairs.collect::<Option<_>>()?;
    }
    values.pop()
}

/// The total of a warp, in all its threads.
fn across_warp(e: &mut Emitter, reduction: &Reduction, dtype: DType, mut total: Value) -> Option<Value> {
    for distance in [16, 8, 4, 2, 1] {
        let other = shuffle(e, dtype, total, distance);
        total = apply(e, reduction.reduce.combine(), dtype, &[total, other])?;
    }
    Some(total)
}

fn shuffle(e: &mut Emitter, dtype: DType, value: Value, distance: i64) -> Value {
    let word = |e: &mut Emitter, value: Value| {
        let operands = [value, Value::Integer(distance), Value::Integer(31), Value::Integer(-1)];
        e.new_value(Class::B32, "shfl.sync.bfly.b32", &operands)
    };
    match dtype {
        DType::I64 => {
            let (low, high) = (e.register(Class::B32), e.register(Class::B32));
            e.line(format_args!("mov.b64 {{{low}, {high}}}, {value};"));
            let (low, high) = (word(e, low), word(e, high));
            let whole = e.register(Class::B64);
            e.line(format_args!("mov.b64 {whole}, {{{low}, {high}}};"));
            whole
        }
        DType::I32 => word(e, value),
        _ => {
            let bits = e.bits(value);
            let bits = word(e, bits);
            e.with_bits(bits)
        }
    }
}

/// The totals of the block's eight warps, in the first warp's threads: lane by lane (`columns`), or one for all.
fn across_block(
    frame: &mut Frame,
    reduction: &Reduction,
    dtype: DType,
    totals: Vec<Value>,
    warp: Value,
    lane: Value,
    columns: bool,
) -> Option<Vec<Value>> {
    let bytes = dtype.bytes();
    let per_thread = totals.len() * bytes;
    let row = if columns { WARP * per_thread } else { per_thread };
    frame.e.line(format_args!(".shared .align 16 .b8 totals[{}];", WARPS * row));
    let suffix = if dtype == DType::I64 {
        "b64"
    } else if dtype == DType::I32 {
        "b32"
    } else {
        "f32"
    };
    let base = frame.e.register(Class::B32);
    frame.e.line(format_args!("mov.u32 {base}, totals;"));
    let narrow = |e: &mut Emitter, value: Value| match value {
        Value::Register(Class::B64, _) => e.new_value(Class::B32, "cvt.u32.u64", &[value]),
        _ => value,
    };
    let (warp, lane) = (narrow(&mut frame.e, warp), narrow(&mut frame.e, lane));
    let mad = |e: &mut Emitter, a: Value, b: usize, c: Value| {
        e.new_value(Class::B32, "mad.lo.u32", &[a, Value::Integer(b as i64), c])
    };
    let column = if columns { mad(&mut frame.e, lane, per_thread, base) } else { base };
    let place = mad(&mut frame.e, warp, row, column);
    let ready = frame.e.label();
    if !columns {
        let first = frame.e.new_value(Class::Pred, "setp.eq.u32", &[lane, Value::Integer(0)]);
        frame.e.branch(first, &ready, true);
    }
    for (at, total) in totals.iter().enumerate() {
        frame.e.line(format_args!("st.shared.{suffix} [{place}+{}], {total};", at * bytes));
    }
    frame.e.place(&ready);
    frame.e.line("bar.sync 0;");
    let class = class(dtype);
    let load = |e: &mut Emitter, warp: usize, at: usize| {
        let value = e.register(class);
        e.line(format_args!("ld.shared.{suffix} {value}, [{column}+{}];", warp * row + at * bytes));
        value
    };
    let mut combined = Vec::with_capacity(totals.len());
    for at in 0..totals.len() {
        let values = (0..WARPS).map(|warp| load(&mut frame.e, warp, at)).collect();
        combined.push(tree(&mut frame.e, reduction, dtype, values)?);
    }
    Some(combined)
}

/// Stores the results, or the partial ones.
fn write(
    frame: &mut Frame,
    reduction: &Reduction,
    cut: &Cut,
    number: Value,
    slice: Value,
    mut totals: Vec<Value>,
) -> Option<()> {
    let accumulator = reduction.dtype.accumulator();
    let last = *frame.bases.last()?;
    let mut index = frame.width.multiply_add(&mut frame.e, number, totals.len(), Value::Integer(0));
    let mut dtype = reduction.dtype;
    if cut.slices > 1 {
        index = frame.width.multiply_add(&mut frame.e, slice, cut.results * totals.len(), index);
        dtype = accumulator;
    } else if reduction.reduce == Reduce::Mean {
        let count = match accumulator {
            DType::F32 => Value::Float(reduction.count as f32),
            _ => Value::Integer(reduction.count as i64),
        };
        let divide = |total| apply(&mut frame.e, Operation::Divide, accumulator, &[total, count]);
        totals = totals.into_iter().map(divide).collect::<Option<_>>()?;
    }
    let address = frame.width.address(&mut frame.e, last, index, dtype.bytes());
    store(&mut frame.e, dtype, address, &totals, None);
    Some(())
}
