//! Matrix products in the words of a BLAS, whose matrices are stored by columns.

use npc_kernels::cpu::contraction::Product;

/// One operand: whether the stored matrix is to be transposed, and the distance between its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub is_transposed: bool,
    pub leading: usize,
}

/// `C[m, n] = X[m, k] · Y[k, n]` by columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub x: Matrix,
    pub y: Matrix,
    /// Distance between C's columns.
    pub leading: usize,
    /// X is the product's right operand and Y its left one: the result is stored by rows.
    pub is_swapped: bool,
}

/// The matrix whose element (i, j) lies at `i·down + j·along`.
fn matrix((rows, down): (usize, usize), (columns, along): (usize, usize)) -> Matrix {
    if down == 1 || rows == 1 {
        Matrix { is_transposed: false, leading: along.max(rows) }
    } else {
        Matrix { is_transposed: true, leading: down.max(columns) }
    }
}

/// How a BLAS is asked for `p`; each of its operands has a distance of 1 along rows or columns.
pub fn gemm(p: &Product) -> Gemm {
    let (rows, columns, inner) = (p.rows, p.columns, p.inner);
    if p.c.along == 1 || columns == 1 {
        // By rows: the transposed product, by columns.
        Gemm {
            m: columns,
            n: rows,
            k: inner,
            x: matrix((columns, p.b.along), (inner, p.b.down)),
            y: matrix((inner, p.a.along), (rows, p.a.down)),
            leading: p.c.down.max(columns),
            is_swapped: true,
        }
    } else {
        Gemm {
            m: rows,
            n: columns,
            k: inner,
            x: matrix((rows, p.a.down), (inner, p.a.along)),
            y: matrix((inner, p.b.down), (columns, p.b.along)),
            leading: p.c.along.max(rows),
            is_swapped: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npc_kernels::cpu::contraction::Operand;
    use proptest::prelude::*;

    fn operand(rows: usize, columns: usize, by_rows: bool, pad: usize) -> Operand {
        let (down, along) = if by_rows { (columns + pad, 1) } else { (1, rows + pad) };
        Operand { start: 0, down, along, batch: 0 }
    }

    /// What a BLAS does.
    fn run(g: &Gemm, x: &[i64], y: &[i64], c: &mut [i64]) {
        let at = |m: &Matrix, i: usize, j: usize| if m.is_transposed { j + i * m.leading } else { i + j * m.leading };
        for i in 0..g.m {
            for j in 0..g.n {
                c[i + j * g.leading] = (0..g.k).map(|k| x[at(&g.x, i, k)] * y[at(&g.y, k, j)]).sum();
            }
        }
    }

    proptest! {
        #[test]
        fn a_blas_gives_the_product(
            rows in 1usize..5, columns in 1usize..5, inner in 1usize..5,
            by_rows in prop::array::uniform3(any::<bool>()), pad in prop::array::uniform3(0usize..3),
        ) {
            let a = operand(rows, inner, by_rows[0], pad[0]);
            let b = operand(inner, columns, by_rows[1], pad[1]);
            let c = operand(rows, columns, by_rows[2], pad[2]);
            let p = Product { rows, columns, inner, batch: 1, a, b, c, accumulate: false };
            let data = |seed: i64| (0..100).map(|i| (i * 31 + seed) % 17 - 8).collect::<Vec<i64>>();
            let (left, right, mut result) = (data(1), data(5), vec![0; 100]);
            let g = gemm(&p);
            let (x, y) = if g.is_swapped { (&right, &left) } else { (&left, &right) };
            run(&g, x, y, &mut result);
            for i in 0..rows {
                for j in 0..columns {
                    let want: i64 =
                        (0..inner).map(|k| left[i * a.down + k * a.along] * right[k * b.down + j * b.along]).sum();
                    prop_assert_eq!(result[i * c.down + j * c.along], want);
                }
            }
            let stored = |m: &Matrix, r: usize, c: usize| m.leading >= if m.is_transposed { c } else { r };
            prop_assert!(stored(&g.x, g.m, g.k) && stored(&g.y, g.k, g.n) && g.leading >= g.m);
        }
    }
}
