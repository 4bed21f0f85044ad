//! Products that write their part of a larger value themselves.
//!
//! A concatenation places its parts into one buffer. Where a part is a product's result and nobody else reads it, the product's
//! distances become those of its place there, if they are still a matrix's.

use super::lower::is_matrix;
use super::{Draft, Kind, Source, Task, View, Work};
use npc_kernels::cpu::contraction::{Operand, Product};
use std::collections::{HashMap, HashSet};

/// Lets products take the place of [`Task::Place`] where they can.
pub(super) fn place(mut draft: Draft) -> Draft {
    let (mut readers, mut writers) = (HashMap::<usize, usize>::new(), HashMap::<usize, Vec<usize>>::new());
    for (at, node) in draft.work.iter().enumerate() {
        let Kind::Work(work) = &node.kind else { continue };
        work.reads.iter().for_each(|id| *readers.entry(*id).or_default() += 1);
        work.writes.iter().for_each(|id| writers.entry(*id).or_default().push(at));
    }
    draft.outputs.iter().for_each(|(_, id, _)| *readers.entry(*id).or_default() += 1);
    let mut gone: HashSet<usize> = HashSet::new();
    for at in 0..draft.work.len() {
        let Kind::Work(Work { task: Task::Place(view), reads, .. }) = &draft.work[at].kind else { continue };
        let (part, view) = (reads[0], view.clone());
        let [from, to] = [part, view.buffer].map(|id| &draft.buffers[id]);
        let is_own = from.source == Source::Computed && readers.get(&part) == Some(&1);
        let Some(&[maker]) = writers.get(&part).map(Vec::as_slice) else { continue };
        if !is_own || from.dtype != to.dtype || from.elements != view.len() || view.len() == 0 {
            continue;
        }
        let Kind::Work(Work { task: Task::Products(products), writes, .. }) = &mut draft.work[maker].kind else {
            continue;
        };
        if let Some(moved) = products.iter().map(|p| moved(p, &view)).collect() {
            *products = moved;
            *writes = vec![view.buffer];
            gone.insert(at);
        }
    }
    let mut at = 0;
    draft.work.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    draft
}

/// Neighbouring axes of a view that are one: (extent, distance where the view's elements lie densely, distance in its buffer).
fn axes(view: &View) -> Vec<(usize, usize, usize)> {
    let mut axes: Vec<(usize, usize, usize)> = Vec::new();
    let mut dense = 1;
    for (&extent, &stride) in view.shape.iter().zip(&view.strides).rev().filter(|(extent, _)| **extent != 1) {
        match axes.last_mut() {
            Some((inner, _, distance)) if stride == *inner * *distance => *inner *= extent,
            _ => axes.push((extent, dense, stride)),
        }
        dense *= extent;
    }
    axes.reverse();
    axes
}

/// A product into a dense buffer of a view's elements, as one into the view.
fn moved(p: &Product, view: &View) -> Option<Product> {
    let axes = axes(view);
    let mut highest: Vec<usize> = axes.iter().map(|(extent, dense, _)| p.c.start / dense % extent).collect();
    let start = view.start + highest.iter().zip(&axes).map(|(digit, (_, _, stride))| digit * stride).sum::<usize>();
    let mut turned = |distance: usize, count: usize| {
        if count == 1 {
            return Some(distance);
        }
        // A distance lies within one axis, the outermost that it is a multiple of.
        let at =
            axes.iter().position(|(extent, dense, _)| distance.is_multiple_of(*dense) && distance / dense < *extent)?;
        let steps = distance / axes[at].1;
        highest[at] += steps * (count - 1);
        Some(steps * axes[at].2)
    };
    let c = Operand {
        start,
        batch: turned(p.c.batch, p.batch)?,
        down: turned(p.c.down, p.rows)?,
        along: turned(p.c.along, p.columns)?,
    };
    // No sum of steps may run over its axis's end.
    let stays = highest.iter().zip(&axes).all(|(digit, (extent, _, _))| digit < extent);
    (stays && is_matrix((c.down, c.along, p.rows, p.columns))).then_some(Product { c, ..*p })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(p: &Product) -> Vec<usize> {
        let at = |b: usize, r: usize, c: usize| p.c.start + b * p.c.batch + r * p.c.down + c * p.c.along;
        let rows = |b: usize| (0..p.rows).flat_map(move |r| (0..p.columns).map(move |c| at(b, r, c)));
        (0..p.batch).flat_map(rows).collect()
    }

    fn into(start: usize, [batch, down, along]: [usize; 3], [count, rows, columns]: [usize; 3]) -> Product {
        let any = Operand { start: 0, batch: 0, down: 1, along: 1 };
        let c = Operand { start, batch, down, along };
        Product { rows, columns, inner: 3, batch: count, a: any, b: any, c, accumulate: false }
    }

    #[test]
    fn every_element_goes_where_the_copy_put_it() {
        // Five rows of 8 as the middle third of rows of 24: heads of 4 columns are the batch.
        let view = View::dense(0, &[5, 24]).sliced(1, 8, 16);
        for p in [into(0, [4, 8, 1], [2, 5, 4]), into(16, [0, 8, 1], [1, 3, 8]), into(0, [0, 1, 8], [1, 8, 5])] {
            let copied: Vec<usize> = elements(&p).iter().map(|e| view.start + e / 8 * 24 + e % 8).collect();
            assert_eq!(elements(&moved(&p, &view).unwrap()), copied, "{p:?}");
        }
        // Along the first axis nothing changes but the start.
        let below = View::dense(0, &[9, 8]).sliced(0, 4, 9);
        let p = into(0, [0, 8, 1], [1, 5, 8]);
        assert_eq!(moved(&p, &below).unwrap().c, Operand { start: 32, ..p.c });
        // Rows of 4 do not lie evenly in rows of 8 with a gap between them.
        assert_eq!(moved(&into(0, [0, 4, 1], [1, 10, 4]), &view), None);
        // Columns apart from each other and rows apart from each other are no matrix.
        let sparse = View { buffer: 0, start: 0, shape: vec![5, 8], strides: vec![40, 2] };
        assert_eq!(moved(&into(0, [0, 8, 1], [1, 5, 8]), &sparse), None);
    }
}
