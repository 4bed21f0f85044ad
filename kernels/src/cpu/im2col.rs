use std::cell::RefCell;
use std::ops::Range;

use super::Geometry;

/// Elements of a column block that stay in a core's L2 cache beside the operands they meet.
const BLOCK: usize = 56 * 1024;

/// Cuts a channel's output positions into blocks of whole rows where rows are short enough, so that a matrix of
/// `height` rows over one block stays in cache. Depends on the shape only.
pub(crate) fn blocks(geometry: &Geometry, height: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let total = geometry.output_len();
    let row = geometry.output[2].max(1);
    let fitting = (BLOCK / height.max(1)).max(48);
    let size = if row <= fitting { fitting / row * row } else { fitting };
    // Equal blocks: a short last one would run the matrix product at its edges.
    let count = total.div_ceil(size).max(1);
    let size = if row <= fitting { (total / row).div_ceil(count) * row } else { total.div_ceil(count) };
    (0..total).step_by(size.max(1)).map(move |start| start..(start + size).min(total))
}

/// The parts of output rows that a range of positions touches: (row number, columns of it, offset in the range).
fn segments(columns: &Range<usize>, width: usize) -> impl Iterator<Item = (usize, Range<usize>, usize)> + use<> {
    let Range { start, end } = *columns;
    (start / width..end.div_ceil(width)).map(move |row| {
        let low = start.max(row * width);
        (row, low - row * width..end.min((row + 1) * width) - row * width, low - start)
    })
}

/// Writes the column matrix of `channels` planes for the output positions `columns`: row `channel·taps + tap` of `out`
/// holds what that tap reads at each position, zero in the padding. Planes start `plane` elements apart in `x`.
pub(crate) fn im2col(
    x: &[f32],
    plane: usize,
    channels: usize,
    geometry: &Geometry,
    columns: Range<usize>,
    out: &mut [f32],
) {
    let (taps, count) = (geometry.taps(), columns.len());
    if count == 0 || channels == 0 {
        return;
    }
    let shifted = shifts(geometry, &columns);
    for (row, out) in out[..channels * taps * count].chunks_exact_mut(count).enumerate() {
        let source = &x[row / taps * plane..][..geometry.input_len()];
        let tap = geometry.tap(row % taps);
        if shifted { shift(source, geometry, tap, &columns, out) } else { gather(source, geometry, tap, &columns, out) }
    }
}

/// Stride 1 over equally wide rows: each tap's columns are one run of the input with its row ends cleared.
fn shifts(geometry: &Geometry, columns: &Range<usize>) -> bool {
    let width = geometry.output[2];
    geometry.strides == [1; 3]
        && geometry.input[2] == width
        && geometry.input[0] == 1
        && geometry.output[0] == 1
        && geometry.kernel[0] == 1
        && geometry.pads[0] == 0
        && columns.start.is_multiple_of(width)
        && columns.end.is_multiple_of(width)
}

fn shift(source: &[f32], geometry: &Geometry, tap: [usize; 3], columns: &Range<usize>, out: &mut [f32]) {
    let width = geometry.output[2];
    let offset = geometry.at(1, 0, tap[1]) * width as isize + geometry.at(2, 0, tap[2]);
    let (start, end) = (columns.start as isize + offset, columns.end as isize + offset);
    let (low, high) = (start.clamp(0, source.len() as isize), end.clamp(0, source.len() as isize));
    if low >= high {
        return out.fill(0.0);
    }
    let (before, after) = ((low - start) as usize, (high - start) as usize);
    out[..before].fill(0.0);
    out[before..after].copy_from_slice(&source[low as usize..high as usize]);
    out[after..].fill(0.0);
    let covered = geometry.covered(2, tap[2]);
    if covered.len() < width {
        for row in out.chunks_exact_mut(width) {
            row[..covered.start].fill(0.0);
            row[covered.end..].fill(0.0);
        }
    }
}

fn gather(source: &[f32], geometry: &Geometry, tap: [usize; 3], columns: &Range<usize>, out: &mut [f32]) {
    let [_, input_h, input_w] = geometry.input;
    let [_, output_h, output_w] = geometry.output;
    let stride = geometry.strides[2];
    let covered = geometry.covered(2, tap[2]);
    for (row, span, at) in segments(columns, output_w) {
        let out = &mut out[at..at + span.len()];
        let d = geometry.inside(0, row / output_h, tap[0]);
        let h = geometry.inside(1, row % output_h, tap[1]);
        let low = covered.start.clamp(span.start, span.end);
        let high = covered.end.clamp(low, span.end);
        let (Some(d), Some(h), true) = (d, h, low < high) else {
            out.fill(0.0);
            continue;
        };
        out[..low - span.start].fill(0.0);
        out[high - span.start..].fill(0.0);
        let out = &mut out[low - span.start..high - span.start];
        let source = &source[(d * input_h + h) * input_w..][..input_w];
        let first = geometry.at(2, low, tap[2]) as usize;
        if stride == 1 {
            out.copy_from_slice(&source[first..first + out.len()]);
        } else {
            out.iter_mut().zip(source[first..].iter().step_by(stride)).for_each(|(o, s)| *o = *s);
        }
    }
}

/// The adjoint of [`im2col`]: adds every element of `cols` to the input element it was read from. Planes of `x` lie one
/// after the other.
pub(crate) fn col2im(cols: &[f32], channels: usize, geometry: &Geometry, columns: Range<usize>, x: &mut [f32]) {
    let (taps, count, plane) = (geometry.taps(), columns.len(), geometry.input_len());
    if count == 0 || plane == 0 {
        return;
    }
    let [_, input_h, input_w] = geometry.input;
    let [_, output_h, output_w] = geometry.output;
    let stride = geometry.strides[2];
    for (row, cols) in cols[..channels * taps * count].chunks_exact(count).enumerate() {
        let target = &mut x[row / taps * plane..][..plane];
        let tap = geometry.tap(row % taps);
        let covered = geometry.covered(2, tap[2]);
        for (row, span, at) in segments(&columns, output_w) {
            let d = geometry.inside(0, row / output_h, tap[0]);
            let h = geometry.inside(1, row % output_h, tap[1]);
            let low = covered.start.clamp(span.start, span.end);
            let high = covered.end.clamp(low, span.end);
            let (Some(d), Some(h), true) = (d, h, low < high) else { continue };
            let cols = &cols[at + low - span.start..at + high - span.start];
            let target = &mut target[(d * input_h + h) * input_w..][..input_w];
            let first = geometry.at(2, low, tap[2]) as usize;
            if stride == 1 {
                target[first..first + cols.len()].iter_mut().zip(cols).for_each(|(t, c)| *t += c);
            } else {
                target[first..].iter_mut().step_by(stride).zip(cols).for_each(|(t, c)| *t += c);
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of `len` elements of unspecified content that this thread keeps for the next call.
///
/// `work` must not wait for other rayon tasks: a stolen task of the same kind would find the buffer taken.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.len() < len {
                buffer.resize(len, 0.0);
            }
            work(&mut buffer[..len])
        }
        Err(_) => work(&mut vec![0.0; len]),
    })
}
