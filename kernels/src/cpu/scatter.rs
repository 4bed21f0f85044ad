//! `GatherElements`, `ScatterElements` and `ScatterND` of ONNX.
//!
//! Scattering runs in the order of the updates, so that what several updates of one element give is defined.

use super::KernelError;
use super::error::expect_len;

/// `index` with a negative one counted from the end.
fn resolve(index: i64, position: usize, size: usize) -> Result<usize, KernelError> {
    let resolved = if index < 0 { index.checked_add_unsigned(size as u64) } else { Some(index) };
    let inside = resolved.and_then(|i| usize::try_from(i).ok()).filter(|i| *i < size);
    inside.ok_or(KernelError::Index { index, position, size })
}

fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Calls `f(position in indices, position in data)` for every index, in order. `data` has shape `shape`; along `axis`
/// the index stands for the coordinate.
fn each(
    shape: &[usize],
    indices: &[i64],
    index_shape: &[usize],
    axis: usize,
    mut f: impl FnMut(usize, usize),
) -> Result<(), KernelError> {
    let fits = |a: usize| a == axis || index_shape[a] <= shape[a];
    if axis >= shape.len() || index_shape.len() != shape.len() || !(0..shape.len()).all(fits) {
        return Err(KernelError::Shape(format!(
            "indices of shape {index_shape:?} along axis {axis} do not fit data of shape {shape:?}"
        )));
    }
    expect_len("the index tensor", indices, volume(index_shape))?;
    if indices.is_empty() {
        return Ok(());
    }
    let strides: Vec<usize> = (0..shape.len()).map(|a| volume(&shape[a + 1..])).collect();
    let last = shape.len() - 1;
    let mut coordinates = vec![0; last];
    for (row, indices) in indices.chunks_exact(index_shape[last]).enumerate() {
        let base: usize = (0..last).filter(|a| *a != axis).map(|a| coordinates[a] * strides[a]).sum();
        for (column, index) in indices.iter().enumerate() {
            let position = row * index_shape[last] + column;
            let along = resolve(*index, position, shape[axis])? * strides[axis];
            f(position, if axis == last { base + along } else { base + along + column });
        }
        for a in (0..last).rev() {
            coordinates[a] += 1;
            if coordinates[a] < index_shape[a] {
                break;
            }
            coordinates[a] = 0;
        }
    }
    Ok(())
}

/// Writes `y[i…] = data[i… with the coordinate along axis replaced by indices[i…]]`; `y` has the indices' shape.
///
/// # Errors
/// When ranks differ, the indices are larger than the data off the axis, a slice does not have its shape's length, or
/// an index is outside `−size..size`.
pub fn gather_elements<T: Clone>(
    data: &[T],
    shape: &[usize],
    indices: &[i64],
    index_shape: &[usize],
    axis: usize,
    y: &mut [T],
) -> Result<(), KernelError> {
    expect_len("the data", data, volume(shape))?;
    expect_len("the output", y, indices.len())?;
    each(shape, indices, index_shape, axis, |position, at| y[position] = data[at].clone())
}

/// Sets `data[i… with the coordinate along axis replaced by indices[i…]]` to `combine(itself, updates[i…])`.
///
/// # Errors
/// Those of [`gather_elements`]; some updates may have been applied already.
pub fn scatter_elements<T: Clone>(
    data: &mut [T],
    shape: &[usize],
    indices: &[i64],
    index_shape: &[usize],
    updates: &[T],
    axis: usize,
    combine: impl Fn(T, T) -> T,
) -> Result<(), KernelError> {
    expect_len("the data", data, volume(shape))?;
    expect_len("the updates", updates, indices.len())?;
    each(shape, indices, index_shape, axis, |position, at| {
        data[at] = combine(data[at].clone(), updates[position].clone());
    })
}

/// The same with whole index tuples: `indices` has shape (…, k), a tuple names a slice of `data` by its first k
/// coordinates, and `updates` (…, the data's axes from k on) holds one slice a tuple.
///
/// # Errors
/// When k exceeds the data's rank, a slice does not have its shape's length, or an index is outside `−size..size`.
pub fn scatter_nd<T: Clone>(
    data: &mut [T],
    shape: &[usize],
    indices: &[i64],
    k: usize,
    updates: &[T],
    combine: impl Fn(T, T) -> T,
) -> Result<(), KernelError> {
    expect_len("the data", data, volume(shape))?;
    if k > shape.len() || (k == 0 && !indices.is_empty()) || (k > 0 && !indices.len().is_multiple_of(k)) {
        return Err(KernelError::Shape(format!(
            "{} indices in tuples of {k} do not fit data of shape {shape:?}",
            indices.len()
        )));
    }
    let slice = volume(&shape[k..]);
    let tuples = indices.len().checked_div(k).unwrap_or_else(|| updates.len().checked_div(slice).unwrap_or(0));
    expect_len("the updates", updates, tuples * slice)?;
    for tuple in 0..tuples {
        let mut at = 0;
        for (a, size) in shape[..k].iter().enumerate() {
            at = at * size + resolve(indices[tuple * k + a], tuple * k + a, *size)?;
        }
        let pairs = data[at * slice..][..slice].iter_mut().zip(&updates[tuple * slice..]);
        pairs.for_each(|(data, update)| *data = combine(data.clone(), update.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::testing::noise;

    fn unravel(mut index: usize, shape: &[usize]) -> Vec<usize> {
        let mut at = vec![0; shape.len()];
        for (at, size) in at.iter_mut().zip(shape).rev() {
            (*at, index) = (index % size, index / size);
        }
        at
    }

    fn ravel(at: &[usize], shape: &[usize]) -> usize {
        at.iter().zip(shape).fold(0, |index, (at, size)| index * size + at)
    }

    proptest! {
        #[test]
        fn elements_follow_the_definition(
            sizes in prop::collection::vec((1usize..5, 0usize..5), 1..4), axis in any::<prop::sample::Index>(),
            long in 0usize..7, seed in 0u64..99,
        ) {
            let axis = axis.index(sizes.len());
            let shape: Vec<usize> = sizes.iter().map(|s| s.0).collect();
            let mut index_shape: Vec<usize> = sizes.iter().map(|s| s.1.min(s.0)).collect();
            index_shape[axis] = long;
            let size = shape[axis] as f32;
            let count = volume(&index_shape);
            let indices: Vec<i64> = noise(count, seed).iter().map(|r| (r * 2.0 * size).floor() as i64).collect();
            let (data, updates) = (noise(volume(&shape), seed + 1), noise(count, seed + 2));
            let mut summed: Vec<f32> = data.clone();
            let mut gathered = vec![];
            for (i, index) in indices.iter().enumerate() {
                let mut at = unravel(i, &index_shape);
                at[axis] = index.rem_euclid(shape[axis] as i64) as usize;
                gathered.push(data[ravel(&at, &shape)]);
                summed[ravel(&at, &shape)] += updates[i];
            }
            let mut y = vec![9.0; count];
            gather_elements(&data, &shape, &indices, &index_shape, axis, &mut y).unwrap();
            prop_assert_eq!(y, gathered);
            let mut scattered = data.clone();
            scatter_elements(&mut scattered, &shape, &indices, &index_shape, &updates, axis, |a, b| a + b).unwrap();
            prop_assert_eq!(scattered, summed);
        }
    }

    #[test]
    fn the_last_of_several_updates_stays() {
        let mut data = [0; 4];
        scatter_elements(&mut data, &[4], &[1, -3, 3], &[3], &[5, 6, 7], 0, |_, new| new).unwrap();
        assert_eq!(data, [0, 6, 0, 7]);
    }

    #[test]
    fn slices_are_scattered_by_tuples() {
        let mut data = [0, 1, 2, 3, 4, 5];
        scatter_nd(&mut data, &[3, 2], &[2, -3], 1, &[10, 20, 30, 40], |a, b| a + b).unwrap();
        assert_eq!(data, [30, 41, 2, 3, 14, 25]);
        scatter_nd(&mut data, &[3, 2], &[1, 1], 2, &[9], |_, new| new).unwrap();
        assert_eq!(data[3], 9);
        scatter_nd(&mut data, &[3, 2], &[], 0, &[1, 1, 1, 1, 1, 1], |_, new| new).unwrap();
        assert_eq!(data, [1; 6]);
    }

    #[test]
    fn indices_outside_are_errors() {
        let data = [0; 6];
        let gather = |indices: &[i64]| {
            gather_elements(&data, &[2, 3], indices, &[1, indices.len()], 1, &mut vec![0; indices.len()])
        };
        assert!(gather(&[2, -3]).is_ok());
        assert_eq!(gather(&[0, 3]), Err(KernelError::Index { index: 3, position: 1, size: 3 }));
        assert_eq!(gather(&[-4]), Err(KernelError::Index { index: -4, position: 0, size: 3 }));
        assert_eq!(gather(&[i64::MIN]), Err(KernelError::Index { index: i64::MIN, position: 0, size: 3 }));
        let mut data = [0; 6];
        assert!(scatter_nd(&mut data, &[2, 3], &[2, 0], 2, &[1], |_, n| n).is_err());
        assert!(scatter_nd(&mut data, &[2, 3], &[0, 0, 0], 3, &[1], |_, n| n).is_err());
        assert!(scatter_nd(&mut data, &[2, 3], &[0], 1, &[1], |_, n| n).is_err());
        assert!(scatter_elements(&mut data, &[2, 3], &[0; 9], &[3, 3], &[0; 9], 1, |_, n| n).is_err());
        assert!(scatter_elements(&mut data, &[2, 3], &[0; 2], &[2], &[0; 2], 0, |_, n| n).is_err());
    }
}
