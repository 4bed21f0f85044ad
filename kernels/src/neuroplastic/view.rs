use std::ops::Range;

use super::sweep::Sums;
use super::tensors::{BLOCK, Tensors};
use super::workspace::Buffers;

/// A run of whole blocks of one tensor (the last may be short), with its scratch and one slot of sums per block.
pub(super) struct View<'a, T> {
    pub parameter: &'a mut [T],
    pub gradient: &'a [T],
    pub activity_trace: &'a mut [f32],
    pub momentum: &'a mut [f32],
    pub variance: &'a mut [f32],
    pub base_momentum: &'a mut [f32],
    pub base_variance: &'a mut [f32],
    pub scratch: &'a mut [f32],
    pub base: &'a mut [f32],
    pub sums: &'a mut [Sums],
}

/// Blocks that even a backward sweep takes in their order: memory is fetched ahead only along rising addresses.
const RUN: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Forward,
    /// Beginning with what the sweep before has left in the caches.
    Backward,
}

impl<'a, T: Send + Sync> View<'a, T> {
    /// `has_base`: whether AdamW's base update is kept between the sweeps.
    pub fn new(tensors: &'a mut Tensors<'_, T>, buffers: &'a mut Buffers, has_base: bool) -> Self {
        let n = tensors.parameter.len();
        let (scratch, base, sums) =
            buffers.sized(n, if has_base { tensors.base_variance.len() } else { 0 }, n.div_ceil(BLOCK));
        View {
            parameter: tensors.parameter,
            gradient: tensors.gradient,
            activity_trace: tensors.activity_trace,
            momentum: tensors.momentum,
            variance: tensors.variance,
            base_momentum: tensors.base_momentum,
            base_variance: tensors.base_variance,
            scratch,
            base,
            sums,
        }
    }

    fn reborrow(&mut self) -> View<'_, T> {
        View {
            parameter: self.parameter,
            gradient: self.gradient,
            activity_trace: self.activity_trace,
            momentum: self.momentum,
            variance: self.variance,
            base_momentum: self.base_momentum,
            base_variance: self.base_variance,
            scratch: self.scratch,
            base: self.base,
            sums: self.sums,
        }
    }

    fn split(self, block: usize) -> (Self, Self) {
        fn cut<E>(slice: &mut [E], at: usize) -> (&mut [E], &mut [E]) {
            let at = at.min(slice.len());
            slice.split_at_mut(at)
        }
        let at = block * BLOCK;
        let parameter = cut(self.parameter, at);
        let gradient = self.gradient.split_at(at);
        let activity_trace = cut(self.activity_trace, at);
        let momentum = cut(self.momentum, at);
        let variance = cut(self.variance, at);
        let base_momentum = cut(self.base_momentum, at);
        let base_variance = cut(self.base_variance, at);
        let scratch = cut(self.scratch, at);
        let base = cut(self.base, at);
        let sums = cut(self.sums, block);
        macro_rules! side {
            ($side:tt) => {
                View {
                    parameter: parameter.$side,
                    gradient: gradient.$side,
                    activity_trace: activity_trace.$side,
                    momentum: momentum.$side,
                    variance: variance.$side,
                    base_momentum: base_momentum.$side,
                    base_variance: base_variance.$side,
                    scratch: scratch.$side,
                    base: base.$side,
                    sums: sums.$side,
                }
            };
        }
        (side!(0), side!(1))
    }

    /// Runs `f` on every block, with at most `leaf` blocks per task, and adds what it returns in the blocks' order.
    ///
    /// Neither `leaf` nor `order` changes the result: a block's sums go to its own slot.
    pub fn sweep<F>(&mut self, leaf: usize, order: Order, f: F) -> Sums
    where
        F: Fn(&mut View<'_, T>, Range<usize>) -> Sums + Sync,
    {
        if self.sums.len() > leaf {
            halves(self.reborrow(), leaf, order, &f);
        } else {
            blocks(self, order, &f);
        }
        let mut total = [0.0; 4];
        for sums in self.sums.iter() {
            for (total, value) in total.iter_mut().zip(sums) {
                *total += value;
            }
        }
        total
    }
}

fn halves<T: Send + Sync, F>(mut view: View<'_, T>, leaf: usize, order: Order, f: &F)
where
    F: Fn(&mut View<'_, T>, Range<usize>) -> Sums + Sync,
{
    let count = view.sums.len();
    if count > leaf {
        let (left, right) = view.split(count / 2);
        rayon::join(|| halves(left, leaf, order, f), || halves(right, leaf, order, f));
    } else {
        blocks(&mut view, order, f);
    }
}

fn blocks<T, F>(view: &mut View<'_, T>, order: Order, f: &F)
where
    F: Fn(&mut View<'_, T>, Range<usize>) -> Sums,
{
    let (count, n) = (view.sums.len(), view.gradient.len());
    let mut one = |block: usize| {
        let sums = f(view, block * BLOCK..n.min((block + 1) * BLOCK));
        view.sums[block] = sums;
    };
    match order {
        Order::Forward => (0..count).for_each(one),
        Order::Backward => {
            let mut end = count;
            while end > 0 {
                let start = (end - 1) / RUN * RUN;
                (start..end).for_each(&mut one);
                end = start;
            }
        }
    }
}

/// The part of a state that may not be kept.
pub(super) fn part(slice: &[f32], range: Range<usize>) -> &[f32] {
    if slice.is_empty() { slice } else { &slice[range] }
}

/// As [`part`].
pub(super) fn part_mut(slice: &mut [f32], range: Range<usize>) -> &mut [f32] {
    if slice.is_empty() { slice } else { &mut slice[range] }
}
