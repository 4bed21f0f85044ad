//! Where along an axis the largest or smallest element is.

use super::{Argument, DevicePointer, Launch, Source};

/// Element types that have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Ordered {
    F32,
    I32,
    I64,
}

/// Which element is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extreme {
    /// The smallest instead of the largest.
    pub is_smallest: bool,
    /// The last of equals instead of the first.
    pub is_last: bool,
}

/// int64 `y[outer][inner]`: the position along the middle axis of `x[outer][extent][inner]`. A NaN is found before everything
/// else, as in NumPy.
pub fn arg(
    dtype: Ordered,
    which: Extreme,
    x: DevicePointer,
    y: DevicePointer,
    [outer, extent, inner]: [u64; 3],
) -> Launch {
    let kernel = match dtype {
        Ordered::F32 => "arg_f32",
        Ordered::I32 => "arg_i32",
        Ordered::I64 => "arg_i64",
    };
    let mut arguments: Vec<Argument> = [x, y].map(Argument::Pointer).into();
    arguments.extend([outer, extent, inner].map(Argument::U64));
    arguments.extend([which.is_smallest, which.is_last].map(|flag| Argument::U32(u32::from(flag))));
    Launch::threads(Source::Arg, kernel, outer * inner, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::Device;
    use npc_ptx_interpreter::{Pod, Schedule};

    fn check<T: Pod + PartialOrd + Copy>(dtype: Ordered, data: &[T], shape: [usize; 3]) {
        let [outer, extent, inner] = shape;
        for (is_smallest, is_last) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut device = Device::new(Schedule::Reversed);
            let (x, y) = (device.put(data), device.put(&vec![-1i64; outer * inner]));
            device.run(&arg(dtype, Extreme { is_smallest, is_last }, x, y, shape.map(|n| n as u64)));
            let found = device.get::<i64>(y, outer * inner);
            for (i, found) in found.into_iter().enumerate() {
                let line = |k: usize| data[(i / inner * extent + k) * inner + i % inner];
                let is_nan = |x: T| x.partial_cmp(&x).is_none();
                // Beaten by nothing, and the first or last of its equals.
                let beats = |a: T, b: T| if is_smallest { a < b } else { a > b } || (is_nan(a) && !is_nan(b));
                let best: Vec<usize> = (0..extent)
                    .filter(|k| !(0..extent).any(|j| beats(line(j), line(*k)) && !is_nan(line(*k))))
                    .collect();
                let nans: Vec<usize> = (0..extent).filter(|k| is_nan(line(*k))).collect();
                let of = if nans.is_empty() { best } else { nans };
                let want = if is_last { of.last() } else { of.first() };
                assert_eq!(Some(found as usize), want.copied(), "{shape:?} {i}");
            }
        }
    }

    #[test]
    fn finds_what_a_plain_search_finds() {
        for shape in [[1, 1, 1], [3, 7, 5], [2, 300, 1], [1, 4, 300]] {
            let count = shape.iter().product::<usize>();
            let numbers: Vec<i64> = (0..count as i64).map(|i| (i * 37 + i / 5) % 11 - 5).collect();
            check(Ordered::I64, &numbers, shape);
            check(Ordered::I32, &numbers.iter().map(|x| *x as i32).collect::<Vec<_>>(), shape);
            let floats: Vec<f32> = numbers.iter().map(|x| if *x == 5 { f32::NAN } else { *x as f32 }).collect();
            check(Ordered::F32, &floats, shape);
        }
    }
}
