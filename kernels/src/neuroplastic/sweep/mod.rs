//! The inner loops, over blocks of at most [`BLOCK`](super::tensors::BLOCK) elements. Each exists once, over [`Lanes`]; its
//! variants are monomorphised so that the loops are free of branches, and chosen once per step.
//!
//! A short last row is padded with zeros: every loop maps zeros to zeros and adds zero to every sum.

mod apply;
mod base;
mod combine;
mod traces;
mod update;

pub(super) use apply::{ApplyConstants, apply};
pub(super) use base::BaseConstants;
pub(super) use combine::{CombineBlock, CombineConstants, combine};
pub(super) use traces::{BETA1, BETA2, Base, DELTA, Memory, TraceBlock, TraceConstants, traces};
pub(super) use update::{Alpha, Form, UpdateBlock, UpdateConstants, update};

use super::lanes::{LANES, Lanes, Row};

/// Sums over one block, in `f64`; what each slot holds is said by the loop that fills it.
pub(super) type Sums = [f64; 4];

#[inline(always)]
fn total<L: Lanes>(lanes: L) -> f64 {
    let mut row = [0.0; LANES];
    lanes.store(&mut row);
    let [x0, x1, x2, x3, x4, x5, x6, x7] = row.map(f64::from);
    ((x0 + x4) + (x2 + x6)) + ((x1 + x5) + (x3 + x7))
}

#[inline(always)]
fn rows(values: &[f32], count: usize) -> &[Row] {
    &values.as_chunks().0[..count]
}

#[inline(always)]
fn rows_mut(values: &mut [f32], count: usize) -> &mut [Row] {
    &mut values.as_chunks_mut().0[..count]
}

fn padded(values: &[f32], count: usize) -> Row {
    let mut row = [0.0; LANES];
    let tail = &values[count * LANES..];
    row[..tail.len()].copy_from_slice(tail);
    row
}

fn put_tail(values: &mut [f32], count: usize, row: &Row) {
    let tail = &mut values[count * LANES..];
    tail.copy_from_slice(&row[..tail.len()]);
}

/// Defines `$name`, which picks the AVX2 or the portable build of `$body` with the given constant arguments.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident, $body:ident, $avx2:ident, <$($parameter:ident : $kind:ty),*>, ($($argument:ident : $type:ty),*) -> $output:ty) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn $avx2<$(const $parameter: $kind),*>($($argument: $type),*) -> $output {
            $body::<crate::neuroplastic::lanes::Avx2, $($parameter),*>($($argument),*)
        }

        $(#[$doc])*
        fn $name<$(const $parameter: $kind),*>(portable: bool) -> unsafe fn($($type),*) -> $output {
            #[cfg(target_arch = "x86_64")]
            if !portable && std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return $avx2::<$($parameter),*>;
            }
            let _ = portable;
            $body::<crate::neuroplastic::lanes::Portable, $($parameter),*>
        }
    };
}
use dispatch;
