use gemm::Parallelism;

/// A matrix inside a slice: element (r, c) is `data[r·rows.1 + c·columns.1]`, for `rows.0` rows and `columns.0` columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Number of rows, and the distance between them.
    pub rows: (usize, usize),
    /// Number of columns, and the distance between them.
    pub columns: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Rows stored one after the other, `stride` elements apart.
    pub fn rows(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Matrix { data, rows: (rows, stride), columns: (columns, 1) }
    }

    pub fn transposed(self) -> Self {
        Matrix { data: self.data, rows: self.columns, columns: self.rows }
    }
}

fn span(rows: (usize, usize), columns: (usize, usize)) -> usize {
    if rows.0 == 0 || columns.0 == 0 { 0 } else { (rows.0 - 1) * rows.1 + (columns.0 - 1) * columns.1 + 1 }
}

/// `dst = a·b`, or `dst += a·b` when `accumulate`. `dst` has `a`'s rows, `stride` elements apart, and `b`'s columns.
/// One thread; the order of every sum depends on the three sizes only.
///
/// # Panics
/// When the sizes disagree or reach beyond the slices: callers in this crate have checked their shapes.
pub(crate) fn matmul(dst: &mut [f32], stride: usize, a: Matrix, b: Matrix, accumulate: bool) {
    let (m, n, k) = (a.rows.0, b.columns.0, a.columns.0);
    assert_eq!(k, b.rows.0);
    assert!(n <= stride || m <= 1);
    assert!(span((m, stride), (n, 1)) <= dst.len());
    assert!(span(a.rows, a.columns) <= a.data.len() && span(b.rows, b.columns) <= b.data.len());
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            dst.chunks_mut(stride.max(1)).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    // SAFETY: the asserts above keep every access of the three strided matrices inside its slice, rows of `dst` do not
    // overlap, and `dst` is borrowed mutably, so it aliases neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.columns.1 as isize,
            a.rows.1 as isize,
            b.data.as_ptr(),
            b.columns.1 as isize,
            b.rows.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
