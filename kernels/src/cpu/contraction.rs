//! Sums of products over strided operands: matrix products in any layout, batched or not, without transposing anything.

use super::KernelError;
use gemm::Parallelism;
use rayon::prelude::*;

/// One index of `c[…] = Σ a[…]·b[…]`: its extent and the distance between neighbours in each operand it stands in.
///
/// An index in `a` and `b` only is summed over; one in all three is a batch index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Index {
    /// Extent.
    pub extent: usize,
    /// Distance in the left operand.
    pub a: Option<usize>,
    /// Distance in the right operand.
    pub b: Option<usize>,
    /// Distance in the result.
    pub c: Option<usize>,
}

impl Index {
    const UNIT: Index = Index { extent: 1, a: None, b: None, c: None };

    fn class(&self) -> (bool, bool, bool) {
        (self.a.is_some(), self.b.is_some(), self.c.is_some())
    }

    /// `self` around `inner` as one index, when they lie nested in every operand.
    fn around(&self, inner: &Index) -> Option<Index> {
        let nested = |o: Option<usize>, i: Option<usize>| match (o, i) {
            (Some(o), Some(i)) => o == i * inner.extent,
            (None, None) => true,
            _ => false,
        };
        let all = nested(self.a, inner.a) && nested(self.b, inner.b) && nested(self.c, inner.c);
        all.then_some(Index { extent: self.extent * inner.extent, ..*inner })
    }
}

/// A planned contraction: one matrix product, repeated over what does not fold into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contraction {
    rows: Index,
    columns: Index,
    inner: Index,
    /// Indices that choose another part of the result.
    outer: Vec<Index>,
    /// Indices summed over beside `inner`.
    sums: Vec<Index>,
    lengths: [usize; 3],
    empty: bool,
}

/// A matrix in a tensor, in elements: where it starts, the distance to the next row (`down`) and column (`along`), and to
/// the next matrix of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Operand {
    pub start: usize,
    pub down: usize,
    pub along: usize,
    pub batch: usize,
}

/// One (batched) matrix product `c[rows, columns] = a[rows, inner] · b[inner, columns]`, added to `c` with `accumulate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Product {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub batch: usize,
    pub a: Operand,
    pub b: Operand,
    pub c: Operand,
    pub accumulate: bool,
}

/// Products of at least this many multiplications are shared among threads.
const PARALLEL_WORK: usize = 1 << 17;

const ROWS: (bool, bool, bool) = (true, false, true);
const COLUMNS: (bool, bool, bool) = (false, true, true);
const INNER: (bool, bool, bool) = (true, true, false);
const BATCH: (bool, bool, bool) = (true, true, true);

impl Contraction {
    /// Plans a contraction.
    ///
    /// # Errors
    /// When an index stands in one operand only, or two combinations of indices share an element of the result.
    pub fn new(indices: &[Index]) -> Result<Self, KernelError> {
        let span = |stride: fn(&Index) -> Option<usize>| -> usize {
            indices.iter().filter_map(|i| Some(i.extent.saturating_sub(1) * stride(i)?)).sum::<usize>() + 1
        };
        let lengths = [span(|i| i.a), span(|i| i.b), span(|i| i.c)];
        if let Some(index) = indices.iter().find(|i| ![ROWS, COLUMNS, INNER, BATCH].contains(&i.class())) {
            return Err(KernelError::Shape(format!("an index of a contraction stands in one operand only: {index:?}")));
        }
        let mut written: Vec<(usize, usize)> =
            indices.iter().filter_map(|i| Some((i.c?, i.extent))).filter(|i| i.1 > 1).collect();
        written.sort_unstable();
        let empty = indices.iter().any(|i| i.extent == 0);
        let mut reach = 0;
        for (stride, extent) in written {
            if stride <= reach && !empty {
                return Err(KernelError::Shape(format!(
                    "the indices of a contraction overlap in its result: {indices:?}"
                )));
            }
            reach += stride * (extent - 1);
        }
        let class = |class| merged(indices.iter().filter(|i| i.class() == class && i.extent != 1).copied().collect());
        let (mut rows, mut columns, mut inner) = (class(ROWS), class(COLUMNS), class(INNER));
        let mut outer = class(BATCH);
        let plan = Contraction {
            rows: largest(&mut rows),
            columns: largest(&mut columns),
            inner: largest(&mut inner),
            outer: {
                outer.extend(rows);
                outer.extend(columns);
                outer
            },
            sums: inner,
            lengths,
            empty,
        };
        Ok(plan)
    }

    /// The matrix products it consists of, in order: where several write the same part of `c`, all but the first add to it.
    pub fn products(&self) -> Vec<Product> {
        if self.empty {
            return Vec::new();
        }
        let stride = |s: Option<usize>| s.unwrap_or(0);
        // The longest run of equal products becomes one batched product.
        let mut outer = self.outer.clone();
        let batch = largest(&mut outer);
        let repeats: usize = outer.iter().map(|i| i.extent).product();
        let sums: usize = self.sums.iter().map(|i| i.extent).product();
        let each = (0..repeats).flat_map(|at| (0..sums).map(move |sum| (at, sum)));
        let product = |(at, sum)| {
            let ([a, b, c], [a_sum, b_sum, _]) = (offset(&outer, at), offset(&self.sums, sum));
            Product {
                rows: self.rows.extent,
                columns: self.columns.extent,
                inner: self.inner.extent,
                batch: batch.extent,
                a: Operand {
                    start: a + a_sum,
                    down: stride(self.rows.a),
                    along: stride(self.inner.a),
                    batch: stride(batch.a),
                },
                b: Operand {
                    start: b + b_sum,
                    down: stride(self.inner.b),
                    along: stride(self.columns.b),
                    batch: stride(batch.b),
                },
                c: Operand {
                    start: c,
                    down: stride(self.rows.c),
                    along: stride(self.columns.c),
                    batch: stride(batch.c),
                },
                accumulate: sum > 0,
            }
        };
        each.map(product).collect()
    }

    /// How many matrix products it takes.
    pub fn product_count(&self) -> usize {
        self.outer.iter().chain(&self.sums).map(|i| i.extent).product()
    }

    /// Computes `c`, overwriting it. Runs on the current rayon pool; the order of every sum depends on the extents only.
    ///
    /// # Errors
    /// When a slice is shorter than its indices reach; `c` is untouched then.
    pub fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), KernelError> {
        if self.empty {
            c.fill(0.0);
            return Ok(());
        }
        for (tensor, found, expected) in [
            ("the left operand", a.len(), self.lengths[0]),
            ("the right operand", b.len(), self.lengths[1]),
            ("the result", c.len(), self.lengths[2]),
        ] {
            if found < expected {
                return Err(KernelError::Length { tensor, expected, found });
            }
        }
        let one = self.rows.extent * self.columns.extent * self.inner.extent;
        let outer: usize = self.outer.iter().map(|i| i.extent).product();
        let sums: usize = self.sums.iter().map(|i| i.extent).product();
        let threads = rayon::current_num_threads();
        let work = one.saturating_mul(sums);
        let c = Destination(c.as_mut_ptr());
        let part = |at: usize, parallelism: Parallelism| {
            let [a_at, b_at, c_at] = offset(&self.outer, at);
            for sum in 0..sums {
                let [a_sum, b_sum, _] = offset(&self.sums, sum);
                // SAFETY: the lengths were checked above against the furthest element any index reaches, so all offsets and
                // strides stay inside the slices; `c` is borrowed mutably for the whole call, and different values of `at`
                // address disjoint elements of it.
                unsafe {
                    self.product(
                        a.as_ptr().add(a_at + a_sum),
                        b.as_ptr().add(b_at + b_sum),
                        c.at(c_at),
                        sum > 0,
                        parallelism,
                    )
                };
            }
        };
        if threads == 1 || work.saturating_mul(outer) < PARALLEL_WORK {
            (0..outer).for_each(|at| part(at, Parallelism::None));
        } else if outer >= threads {
            (0..outer)
                .into_par_iter()
                .with_min_len((PARALLEL_WORK / 4).div_ceil(work.max(1)))
                .for_each(|at| part(at, Parallelism::None));
        } else {
            (0..outer).for_each(|at| part(at, Parallelism::Rayon(threads)));
        }
        Ok(())
    }

    /// # Safety
    /// The pointers must be valid for all elements that `rows`, `columns` and `inner` reach from them, `c` for writing.
    unsafe fn product(&self, a: *const f32, b: *const f32, c: *mut f32, accumulate: bool, parallelism: Parallelism) {
        let stride = |s: Option<usize>| s.unwrap_or(0) as isize;
        // SAFETY: passed on to the caller.
        unsafe {
            gemm::gemm(
                self.rows.extent,
                self.columns.extent,
                self.inner.extent,
                c,
                stride(self.columns.c),
                stride(self.rows.c),
                accumulate,
                a,
                stride(self.inner.a),
                stride(self.rows.a),
                b,
                stride(self.columns.b),
                stride(self.inner.b),
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Start of the result, shared by tasks that write disjoint elements.
#[derive(Clone, Copy)]
struct Destination(*mut f32);

// SAFETY: `Contraction::run` hands disjoint elements to different tasks.
unsafe impl Sync for Destination {}
// SAFETY: as above.
unsafe impl Send for Destination {}

impl Destination {
    /// # Safety
    /// `offset` must lie inside the result.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: passed on to the caller.
        unsafe { self.0.add(offset) }
    }
}

/// Indices of one class, outermost first, those that lie nested joined into one.
fn merged(mut indices: Vec<Index>) -> Vec<Index> {
    indices.sort_by_key(|i| std::cmp::Reverse((i.c.or(i.a), i.a.or(i.b))));
    let mut result: Vec<Index> = Vec::new();
    for index in indices {
        if let Some(last) = result.last_mut()
            && let Some(joined) = last.around(&index)
        {
            *last = joined;
        } else {
            result.push(index);
        }
    }
    result
}

/// Takes out the index of the largest extent.
fn largest(indices: &mut Vec<Index>) -> Index {
    match (0..indices.len()).max_by_key(|i| indices[*i].extent) {
        Some(at) => indices.remove(at),
        None => Index::UNIT,
    }
}

/// Offsets in `a`, `b` and `c` of the `at`-th combination of `indices`.
fn offset(indices: &[Index], mut at: usize) -> [usize; 3] {
    let mut offsets = [0; 3];
    for index in indices.iter().rev() {
        let i = at % index.extent;
        at /= index.extent;
        for (sum, stride) in offsets.iter_mut().zip([index.a, index.b, index.c]) {
            *sum += i * stride.unwrap_or(0);
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Dense row-major strides for operands whose axes are permutations of the indices they hold.
    fn indices(classes: &[(bool, bool, bool)], extents: &[usize], seeds: [u64; 3]) -> Vec<Index> {
        let mut result: Vec<Index> = extents.iter().map(|e| Index { extent: *e, ..Index::UNIT }).collect();
        for operand in 0..3 {
            let held = |i: &usize| [classes[*i].0, classes[*i].1, classes[*i].2][operand];
            let mut order: Vec<usize> = (0..classes.len()).filter(held).collect();
            order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seeds[operand] | 1) % 7919);
            let mut stride = 1;
            for i in order {
                let index = &mut result[i];
                *[&mut index.a, &mut index.b, &mut index.c][operand] = Some(stride);
                stride *= extents[i];
            }
        }
        result
    }

    fn naive(indices: &[Index], a: &[f32], b: &[f32], c: &mut [f32]) {
        c.fill(0.0);
        for at in 0..indices.iter().map(|i| i.extent).product() {
            let [i, j, k] = offset(indices, at);
            c[k] += a[i] * b[j];
        }
    }

    fn length(indices: &[Index], stride: fn(&Index) -> Option<usize>) -> usize {
        indices.iter().filter(|i| stride(i).is_some()).map(|i| i.extent).product()
    }

    fn on(threads: usize, plan: &Contraction, a: &[f32], b: &[f32], n: usize) -> Vec<f32> {
        let mut c = vec![f32::NAN; n];
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| plan.run(a, b, &mut c))
            .unwrap();
        c
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_the_definition_in_every_layout(
            classes in prop::collection::vec(prop::sample::select(vec![ROWS, COLUMNS, INNER, BATCH]), 1..6),
            sizes in prop::collection::vec(0usize..6, 6),
            seeds in prop::array::uniform3(1u64..7919),
        ) {
            let indices = indices(&classes, &sizes[..classes.len()], seeds);
            let [na, nb, nc] = [length(&indices, |i| i.a), length(&indices, |i| i.b), length(&indices, |i| i.c)];
            let a: Vec<f32> = (0..na).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..nb).map(|i| (i as f32 * 1.3).cos()).collect();
            let (mut c, mut expected) = (vec![f32::NAN; nc], vec![0.0; nc]);
            Contraction::new(&indices).unwrap().run(&a, &b, &mut c).unwrap();
            naive(&indices, &a, &b, &mut expected);
            for (x, y) in c.iter().zip(&expected) {
                prop_assert!((x - y).abs() <= 1e-4, "{x} against {y}");
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for extents in [[1, 150, 300, 700], [6, 70, 50, 33], [3, 128, 100, 64]] {
            let indices = indices(&[BATCH, ROWS, COLUMNS, INNER], &extents, [3, 5, 11]);
            let a: Vec<f32> = (0..length(&indices, |i| i.a)).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..length(&indices, |i| i.b)).map(|i| (i as f32 * 1.3).cos()).collect();
            let plan = Contraction::new(&indices).unwrap();
            let n = length(&indices, |i| i.c);
            let one = on(1, &plan, &a, &b, n);
            for threads in [2, 3, 5] {
                assert!(
                    one.iter().zip(on(threads, &plan, &a, &b, n)).all(|(x, y)| x.to_bits() == y.to_bits()),
                    "{threads} threads"
                );
            }
        }
    }

    #[test]
    fn nested_indices_are_joined() {
        // (batch, position, feature) · (feature', feature)ᵀ is one matrix product.
        let index = |extent, a, b, c| Index { extent, a, b, c };
        let indices = [
            index(8, Some(32 * 64), None, Some(32 * 16)),
            index(32, Some(64), None, Some(16)),
            index(64, Some(1), Some(1), None),
            index(16, None, Some(64), Some(1)),
        ];
        let plan = Contraction::new(&indices).unwrap();
        assert_eq!(plan.rows.extent, 256);
        assert!(plan.outer.is_empty() && plan.sums.is_empty());
    }

    #[test]
    fn what_would_leave_the_slices_or_write_twice_is_refused() {
        let rows = Index { extent: 4, a: Some(1), b: None, c: Some(1) };
        let plan = Contraction::new(&[rows]).unwrap();
        assert!(matches!(
            plan.run(&[0.0; 3], &[0.0], &mut [0.0; 4]),
            Err(KernelError::Length { expected: 4, found: 3, .. })
        ));
        assert!(Contraction::new(&[Index { c: None, ..rows }]).is_err());
        let columns = Index { extent: 4, a: None, b: Some(1), c: Some(3) };
        assert!(Contraction::new(&[rows, columns]).is_err());
        assert!(Contraction::new(&[rows, Index { c: Some(4), ..columns }]).is_ok());
    }
}
