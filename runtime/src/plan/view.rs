//! A value as a part of a buffer.

use super::BufferId;

/// Elements of a buffer in another arrangement; extents and distances in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First element.
    pub start: usize,
    /// Extents.
    pub shape: Vec<usize>,
    /// Distances between neighbours along each axis; 0 repeats.
    pub strides: Vec<usize>,
}

/// Row-major distances.
pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

impl View {
    /// A whole buffer, row-major.
    pub fn dense(buffer: BufferId, shape: &[usize]) -> Self {
        View { buffer, start: 0, shape: shape.to_vec(), strides: dense_strides(shape) }
    }

    /// Number of elements, repeated ones counted.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when the elements lie one after the other from the buffer's start.
    pub fn is_dense(&self) -> bool {
        self.start == 0 && self.broadcast_shape().as_deref() == Some(&self.shape[..])
    }

    /// The shape, with 1 for every axis along which the view repeats, when what is left is dense from the buffer's start:
    /// what an elementwise kernel can read directly.
    pub fn broadcast_shape(&self) -> Option<Vec<usize>> {
        let mut expected = 1;
        let mut shape = self.shape.clone();
        for (extent, stride) in shape.iter_mut().zip(&self.strides).rev() {
            if *stride == 0 {
                *extent = 1;
            } else if *extent != 1 {
                if *stride != expected {
                    return None;
                }
                expected *= *extent;
            }
        }
        (self.start == 0).then_some(shape)
    }

    /// The view with an axis of extent 1 at `axis`.
    pub fn with_axis(mut self, axis: usize) -> Self {
        self.shape.insert(axis, 1);
        self.strides.insert(axis, 0);
        self
    }

    /// The view without the axis `axis` of extent 1.
    pub fn without_axis(mut self, axis: usize) -> Self {
        self.shape.remove(axis);
        self.strides.remove(axis);
        self
    }

    /// The view with an axis taken elsewhere.
    pub fn moved(mut self, from: usize, to: usize) -> Self {
        let (extent, stride) = (self.shape.remove(from), self.strides.remove(from));
        self.shape.insert(to, extent);
        self.strides.insert(to, stride);
        self
    }

    /// The axes from `at` that have the extents `from` as axes of the extents `to`; `None` when that takes a copy.
    pub fn reshaped(&self, at: usize, from: &[usize], to: &[usize]) -> Option<Self> {
        let end = at + from.len();
        // The axes are one run of elements when each starts where the one inside it ends.
        let mut inner: Option<(usize, usize)> = None;
        for (extent, stride) in self.shape[at..end].iter().zip(&self.strides[at..end]).rev() {
            if *extent == 1 {
                continue;
            }
            match inner {
                Some((n, s)) if *stride == n * s => inner = Some((n * extent, s)),
                Some(_) => return None,
                None => inner = Some((*extent, *stride)),
            }
        }
        let unit = inner.map_or(0, |(_, stride)| stride);
        let mut result = self.clone();
        let strides: Vec<usize> = dense_strides(to).iter().map(|s| s * unit).collect();
        result.shape.splice(at..end, to.iter().copied());
        result.strides.splice(at..end, strides);
        Some(result)
    }

    /// The elements from `start` to `end` along `axis`.
    pub fn sliced(mut self, axis: usize, start: usize, end: usize) -> Self {
        self.start += start * self.strides[axis];
        self.shape[axis] = end.saturating_sub(start);
        self
    }

    /// Broadcast to `shape`, which has as many axes.
    pub fn broadcast(mut self, shape: &[usize]) -> Self {
        for ((extent, stride), to) in self.shape.iter_mut().zip(&mut self.strides).zip(shape) {
            if *extent != *to {
                (*extent, *stride) = (*to, 0);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_compose() {
        let v = View::dense(0, &[4, 6]);
        assert!(v.is_dense());
        let t = v.clone().moved(0, 1);
        assert_eq!((t.shape.clone(), t.strides.clone()), (vec![6, 4], vec![1, 6]));
        assert!(!t.is_dense() && t.reshaped(0, &[6, 4], &[24]).is_none());
        assert_eq!(t.moved(1, 0), v);
        let r = v.reshaped(1, &[6], &[2, 3]).unwrap();
        assert_eq!((r.shape.clone(), r.strides.clone()), (vec![4, 2, 3], vec![6, 3, 1]));
        assert!(r.reshaped(0, &[4, 2, 3], &[8, 3]).unwrap().is_dense());
        let s = v.clone().sliced(1, 2, 5);
        assert_eq!((s.start, s.shape.clone(), s.is_dense()), (2, vec![4, 3], false));
        // Inside a row the elements still run on; across rows they do not.
        assert!(s.reshaped(1, &[3], &[3, 1]).is_some() && s.reshaped(0, &[4, 3], &[12]).is_none());
        let b = View::dense(1, &[1, 6]).broadcast(&[4, 6]);
        assert_eq!(b.broadcast_shape().unwrap(), [1, 6]);
        assert!(!b.is_dense());
        assert_eq!(View::dense(1, &[3]).with_axis(0).without_axis(0), View::dense(1, &[3]));
    }
}
