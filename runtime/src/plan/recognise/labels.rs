//! Class ids as a graph makes indices and one-hot rows of them: wrapped, bounded, with one value left out.

use super::region::{Form, Graph, Grid};
use crate::plan::maps::{Map, Operand, What};
use crate::plan::{BufferId, DType, Kind, Source, Task};
use npc_kernels::elementwise::{Operation, Scalar};
use std::collections::HashMap;

/// Ids (one a row) from which indices are made that are the ids themselves wherever these are classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// int64 or int32.
    pub ids: BufferId,
    /// An id that is no class, and the class that stands in for it.
    pub ignored: Option<(i64, i64)>,
}

/// Rows of zeros but for one number at each row's label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneHot {
    pub labels: Labels,
    pub on: f64,
}

impl Labels {
    /// What the indices `id` are made of. Every class is tried, so that how they are made does not matter.
    pub fn of(graph: &Graph<'_>, grid: Grid, id: BufferId) -> Option<Self> {
        let buffers = &graph.draft.buffers;
        let region = graph.region(id, |_| false)?;
        let mut leaves = region.leaves.iter().copied();
        let (ids, None) = (leaves.next()?, leaves.next()) else { return None };
        let fits = buffers[ids].elements == grid.rows && matches!(buffers[ids].dtype, DType::I64 | DType::I32);
        let maps = region.inside.iter().map(|at| graph.map(*at)).collect::<Option<Vec<&Map>>>()?;
        let by_row = |map: &&Map| {
            let is_own = |o: &Operand| match o {
                Operand::View(v) => (v.is_dense() && v.len() == grid.rows) || whole_number(graph, o).is_some(),
                Operand::Constant(..) => true,
            };
            map.operands.iter().all(is_own)
        };
        if !fits || !maps.iter().all(by_row) {
            return None;
        }
        let index = |label: i64| {
            let mut known = HashMap::from([(ids, label)]);
            for map in &maps {
                let value = value(graph, map, &known)?;
                known.insert(map.output, value);
            }
            known.get(&id).copied()
        };
        let classes = 0..grid.columns as i64;
        if !classes.clone().all(|class| index(class) == Some(class)) {
            return None;
        }
        // Only an id that the graph asks for can be left out.
        let asks = |map: &&&Map| matches!(map.what, What::Apply(Operation::Equal));
        let named = maps.iter().filter(asks).flat_map(|map| &map.operands);
        let named = named.filter_map(|operand| whole_number(graph, operand));
        let mut ignored: Vec<(i64, i64)> = Vec::new();
        for label in named.filter(|label| !classes.contains(label)) {
            let stand_in = index(label).filter(|class| classes.contains(class));
            ignored.extend(stand_in.map(|class| (label, class)).filter(|pair| !ignored.contains(pair)));
        }
        (ignored.len() <= 1).then(|| Labels { ids, ignored: ignored.first().copied() })
    }
}

/// A constant that is one integer or truth value.
fn whole_number(graph: &Graph<'_>, operand: &Operand) -> Option<i64> {
    match operand {
        Operand::Constant(_, Scalar::I64(x)) => Some(*x),
        Operand::Constant(_, Scalar::I32(x)) => Some(i64::from(*x)),
        Operand::Constant(_, Scalar::Bool(x)) => Some(i64::from(*x)),
        Operand::Constant(..) => None,
        Operand::View(view) => {
            let buffer = &graph.draft.buffers[view.buffer];
            let Source::Constant(bytes) = &buffer.source else { return None };
            match buffer.dtype {
                DType::I64 => Some(i64::from_le_bytes(bytes.as_slice().try_into().ok()?)),
                DType::I32 => Some(i64::from(i32::from_le_bytes(bytes.as_slice().try_into().ok()?))),
                _ => None,
            }
        }
    }
}

/// A map of integers and truth values at one row.
fn value(graph: &Graph<'_>, map: &Map, known: &HashMap<BufferId, i64>) -> Option<i64> {
    use Operation::*;
    let at = |operand: &Operand| match operand {
        Operand::View(view) if known.contains_key(&view.buffer) => known.get(&view.buffer).copied(),
        constant => whole_number(graph, constant),
    };
    let operands = map.operands.iter().map(at).collect::<Option<Vec<i64>>>()?;
    let What::Apply(operation) = &map.what else { return None };
    Some(match (operation, operands.as_slice()) {
        (Equal, [a, b]) => i64::from(a == b),
        (Less, [a, b]) => i64::from(a < b),
        (LessOrEqual, [a, b]) => i64::from(a <= b),
        (And, [a, b]) => a & b,
        (Or, [a, b]) => a | b,
        (Not, [a]) => 1 - a,
        (Select, [condition, a, b]) => *if *condition != 0 { a } else { b },
        (Add, [a, b]) => a.checked_add(*b)?,
        (Subtract, [a, b]) => a.checked_sub(*b)?,
        (Maximum, [a, b]) => *a.max(b),
        (Minimum, [a, b]) => *a.min(b),
        (Cast(DType::I64), [a]) => *a,
        (Cast(DType::I32), [a]) => i64::from(i32::try_from(*a).ok()?),
        _ => return None,
    })
}

/// The one number that all elements of a constant buffer have.
pub fn uniform(graph: &Graph<'_>, id: BufferId) -> Option<f64> {
    let buffer = &graph.draft.buffers[id];
    let Source::Constant(bytes) = &buffer.source else { return None };
    let width = buffer.dtype.bytes();
    let first = bytes.get(..width).filter(|_| buffer.dtype == DType::F32)?;
    let same = bytes.chunks_exact(width).all(|other| other == first);
    same.then(|| f64::from(f32::from_le_bytes([first[0], first[1], first[2], first[3]])))
}

impl OneHot {
    /// What the rows `id` are made of: a comparison of indices with all classes, or a number scattered into zeros.
    pub fn of(graph: &Graph<'_>, grid: Grid, id: BufferId) -> Option<Self> {
        if graph.float(grid, id) != Some(Form::Whole) {
            return None;
        }
        let at = graph.producer(id)?;
        let (indices, on) = match &graph.draft.work[at].kind {
            Kind::Work(work) => {
                let (Task::ScatterElements { picks, .. }, &[zeros, indices, numbers]) = (&work.task, &work.reads[..])
                else {
                    return None;
                };
                let own = [picks.outer, picks.extent, picks.inner, picks.picks];
                let fits = own == [grid.rows as u64, grid.columns as u64, 1, 1] && uniform(graph, zeros) == Some(0.0);
                (indices, uniform(graph, numbers).filter(|_| fits)?)
            }
            Kind::Map(map) => match (&map.what, map.operands.as_slice()) {
                (
                    What::Apply(Operation::Select),
                    [
                        Operand::View(hit),
                        Operand::Constant(_, Scalar::Float(on)),
                        Operand::Constant(_, Scalar::Float(off)),
                    ],
                ) if *off == 0.0 && hit.is_dense() => (compared(graph, grid, hit.buffer)?, f64::from(*on)),
                (What::Apply(Operation::Cast(DType::F32)), [Operand::View(hit)]) if hit.is_dense() => {
                    (compared(graph, grid, hit.buffer)?, 1.0)
                }
                _ => return None,
            },
        };
        Labels::of(graph, grid, indices).map(|labels| OneHot { labels, on })
    }
}

/// The indices (one a row) that a value compares with every column's number.
fn compared(graph: &Graph<'_>, grid: Grid, id: BufferId) -> Option<BufferId> {
    let map = graph.map(graph.producer(id)?)?;
    let (What::Apply(Operation::Equal), [Operand::View(a), Operand::View(b)]) = (&map.what, map.operands.as_slice())
    else {
        return None;
    };
    let form = |view: &crate::plan::View| {
        let part = view.broadcast_shape()?;
        let whole = part.iter().product::<usize>() == graph.draft.buffers[view.buffer].elements;
        grid.part(&part, &map.shape).filter(|_| whole)
    };
    let (indices, columns) = match (form(a)?, form(b)?) {
        (Form::Rows, Form::Columns) => (a.buffer, b.buffer),
        (Form::Columns, Form::Rows) => (b.buffer, a.buffer),
        _ => return None,
    };
    let Source::Constant(bytes) = &graph.draft.buffers[columns].source else { return None };
    let counts = match graph.draft.buffers[columns].dtype {
        DType::I64 => bytes.chunks_exact(8).zip(0i64..).all(|(b, n)| b == n.to_le_bytes()),
        DType::I32 => bytes.chunks_exact(4).zip(0i32..).all(|(b, n)| b == n.to_le_bytes()),
        _ => false,
    };
    (counts && map.shape.iter().product::<usize>() == grid.rows * grid.columns).then_some(indices)
}
