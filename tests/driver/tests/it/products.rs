//! cuBLASLt: what it computes, beside the formulas written out, and the descriptions it refuses.

use crate::support::*;
use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as E, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDescAttributes_t as A, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreferenceAttributes_t as P,
    cublasLtMatrixLayoutAttribute_t as L, cublasStatus_t as Status,
};
use cudarc::driver::sys::CUstream;
use npc_test_driver::alone;
use npc_test_driver::cuda::*;
use npc_test_driver::lt::*;
use std::ffi::c_void;
use std::ptr::null_mut;

const GOOD: Status = Status::CUBLAS_STATUS_SUCCESS;
const BAD: Status = Status::CUBLAS_STATUS_INVALID_VALUE;

/// A product of an m×k and a k×n matrix, and whatever is to be wrong with it.
#[derive(Clone)]
struct Case {
    compute: Compute,
    epilogue: E,
    /// Element types of A, B and D.
    dtypes: [u32; 3],
    transposes: [i32; 2],
    /// Rows, columns, leading dimension of A, B and D as they are stored.
    layouts: [(u64, u64, i64); 3],
    batch: i32,
    strides: [i64; 3],
    aux_leading: i64,
    promised: u32,
    beta: f32,
    has_bias: bool,
    has_aux: bool,
    /// Elements that A's address is off.
    shift: u64,
    workspace: usize,
    /// D lies where A does.
    in_place: bool,
}

const M: usize = 5;
const N: usize = 3;
const K: usize = 4;

fn plain() -> Case {
    Case {
        compute: Compute::CUBLAS_COMPUTE_32F,
        epilogue: E::CUBLASLT_EPILOGUE_DEFAULT,
        dtypes: [0; 3],
        transposes: [0, 1],
        layouts: [(M as u64, K as u64, 6), (N as u64, K as u64, 3), (M as u64, N as u64, 7)],
        batch: 1,
        strides: [0; 3],
        aux_leading: 128,
        promised: 256,
        beta: 0.0,
        has_bias: true,
        has_aux: true,
        shift: 0,
        workspace: 1 << 20,
        in_place: false,
    }
}

struct Results {
    d: Vec<f32>,
    bias: Vec<f32>,
    aux: Vec<u32>,
}

/// Numbers that products of which are exact.
fn value(seed: usize, i: usize) -> f32 {
    ((i * 7 + seed * 13) % 11) as f32 - 5.0
}

fn bits(values: impl Iterator<Item = f32>) -> Vec<u32> {
    values.map(f32::to_bits).collect()
}

unsafe fn set<T>(description: cudarc::cublaslt::sys::cublasLtMatmulDesc_t, attribute: A, value: &T) -> Status {
    // SAFETY: the value has as many bytes.
    unsafe { cublasLtMatmulDescSetAttribute(description, attribute as u32, (&raw const *value).cast(), size_of::<T>()) }
}

/// `CUDA_R_16F` and `CUDA_R_16BF`.
const F16: u32 = 2;
const BF16: u32 = 14;

/// Numbers as words of memory, two of 16 bits in one.
fn words(dtype: u32, values: impl Iterator<Item = f32>) -> Vec<u32> {
    let values: Vec<f32> = values.collect();
    let narrow = |x: f32| match dtype {
        BF16 => u32::from(half::bf16::from_f32(x).to_bits()),
        _ => u32::from(half::f16::from_f32(x).to_bits()),
    };
    match dtype {
        0 => bits(values.into_iter()),
        _ => values.chunks(2).map(|pair| narrow(pair[0]) | narrow(pair[1]) << 16).collect(),
    }
}

fn numbers(dtype: u32, words: Vec<u32>) -> Vec<f32> {
    let wide = |bits: u16| match dtype {
        BF16 => half::bf16::from_bits(bits).to_f32(),
        _ => half::f16::from_bits(bits).to_f32(),
    };
    match dtype {
        0 => words.into_iter().map(f32::from_bits).collect(),
        _ => words.into_iter().flat_map(|word| [wide(word as u16), wide((word >> 16) as u16)]).collect(),
    }
}

/// Carries out a case: the first status that is no success, or the results.
fn run(case: &Case, handle: cublasLtHandle_t, stream: CUstream) -> Result<Results, Status> {
    let fill = |seed: usize, count: usize, dtype: u32| {
        let words = words(dtype, (0..count).map(|i| value(seed, i)));
        let at = allocate(4 * words.len());
        is_ok(upload(at, &words, stream));
        at
    };
    let [of_a, of_b, of_d] = case.dtypes;
    let (a, b, d, bias) = (fill(1, 64, of_a), fill(2, 64, of_b), fill(3, 64, of_d), fill(4, 8, 0));
    let aux = allocate(4 * 128);
    is_ok(upload(aux, &bits((0..128).map(|i| value(5, i))), stream));
    let workspace = allocate(1 << 20);
    let (mut description, mut preference, mut layouts) = (null_mut(), null_mut(), [null_mut(); 3]);
    let check = |status: Status| if status == GOOD { Ok(()) } else { Err(status) };
    // SAFETY: every result has room, every object was made here.
    let outcome = unsafe {
        cublasLtMatmulDescCreate(&raw mut description, case.compute as u32, 0);
        cublasLtMatmulPreferenceCreate(&raw mut preference);
        let kinds = case.strides.into_iter().zip(case.dtypes);
        for ((layout, (rows, columns, leading)), (stride, dtype)) in layouts.iter_mut().zip(case.layouts).zip(kinds) {
            cublasLtMatrixLayoutCreate(layout, dtype, rows, columns, leading);
            let (count, offset) =
                (L::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, L::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
            cublasLtMatrixLayoutSetAttribute(*layout, count as u32, (&raw const case.batch).cast(), 4);
            cublasLtMatrixLayoutSetAttribute(*layout, offset as u32, (&raw const stride).cast(), 8);
        }
        set(description, A::CUBLASLT_MATMUL_DESC_TRANSA, &case.transposes[0]);
        set(description, A::CUBLASLT_MATMUL_DESC_TRANSB, &case.transposes[1]);
        set(description, A::CUBLASLT_MATMUL_DESC_EPILOGUE, &(case.epilogue as u32));
        if case.has_bias {
            set(description, A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias);
        }
        if case.has_aux {
            set(description, A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux);
        }
        set(description, A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &case.aux_leading);
        let prefer = |attribute: P, value: &[u8]| {
            let status =
                cublasLtMatmulPreferenceSetAttribute(preference, attribute as u32, value.as_ptr().cast(), value.len());
            assert_eq!(status, GOOD);
        };
        prefer(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(1u64 << 20).to_ne_bytes());
        prefer(P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &6u32.to_ne_bytes());
        prefer(P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &case.promised.to_ne_bytes());
        let (mut result, mut count): (cublasLtMatmulHeuristicResult_t, _) = (std::mem::zeroed(), 0);
        let [x, y, z] = layouts;
        check(cublasLtMatmulAlgoGetHeuristic(
            handle,
            description,
            x,
            y,
            z,
            z,
            preference,
            1,
            &raw mut result,
            &raw mut count,
        ))
        .and_then(|()| {
            let (one, algorithm): (f32, cublasLtMatmulAlgo_t) = (1.0, result.algo);
            let size = if of_a == 0 { 4 } else { 2 };
            let (from, to) = (a + size * case.shift, if case.in_place { a } else { d });
            let (c, to) = (to as *const c_void, to as *mut c_void);
            let (one, beta) = ((&raw const one).cast(), (&raw const case.beta).cast());
            let (from, b) = (from as *const c_void, b as *const c_void);
            let (algorithm, space) = (&raw const algorithm, workspace as *mut c_void);
            check(cublasLtMatmul(
                handle,
                description,
                one,
                from,
                x,
                b,
                y,
                beta,
                c,
                z,
                to,
                z,
                algorithm,
                space,
                case.workspace,
                stream.cast(),
            ))
        })
    };
    let floats =
        |at: u64, count: usize| download(at, count, stream).map(|v| v.into_iter().map(f32::from_bits).collect());
    let result = |count: usize| download(d, count, stream).map(|words| numbers(of_d, words));
    let d_words = if of_d == 0 { 64 } else { 32 };
    let results = outcome.and_then(|()| match (result(d_words), floats(bias, 8), download(aux, 128, stream)) {
        (Ok(d), Ok(bias), Ok(aux)) => Ok(Results { d, bias, aux }),
        _ => Err(Status::CUBLAS_STATUS_EXECUTION_FAILED),
    });
    let _ = wait(stream);
    // SAFETY: each was made above.
    unsafe {
        cublasLtMatmulDescDestroy(description);
        cublasLtMatmulPreferenceDestroy(preference);
        layouts.into_iter().for_each(|layout| assert_eq!(cublasLtMatrixLayoutDestroy(layout), GOOD));
    }
    [a, b, d, bias, aux, workspace].into_iter().for_each(|at| {
        let _ = free(at);
    });
    results
}

/// Runs `body` with the library open.
fn with(body: impl FnOnce(cublasLtHandle_t, CUstream)) -> Vec<String> {
    alone(&[], || {
        open();
        let (mut handle, stream) = (null_mut(), stream());
        // SAFETY: the result has room; both are made once.
        unsafe {
            assert_eq!(cublasLtCreate(&raw mut handle), GOOD);
            body(handle, stream);
            assert_eq!(cublasLtDestroy(handle), GOOD);
            let _ = cuStreamDestroy_v2(stream);
        }
        close();
    })
}

/// A·Bᵀ of the plain case.
fn product(i: usize, j: usize) -> f32 {
    (0..K).map(|k| value(1, i + 6 * k) * value(2, j + 3 * k)).sum()
}

fn gelu(z: f32) -> (f32, f32) {
    let f = |z: f64| 0.5 * z * (1.0 + (0.797_884_560_802_865_4 * (z + 0.044715 * z.powi(3))).tanh());
    let z = f64::from(z);
    (f(z) as f32, ((f(z + 1e-6) - f(z - 1e-6)) / 2e-6) as f32)
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * (1.0 + b.abs())
}

#[test]
fn products_are_the_formulas() {
    let lines = with(|handle, stream| {
        let each = |epilogue: E, aux_leading: i64, want: &dyn Fn(&Results, usize, usize) -> f32| {
            let results = run(&Case { epilogue, aux_leading, ..plain() }, handle, stream).unwrap();
            for (i, j) in (0..M).flat_map(|i| (0..N).map(move |j| (i, j))) {
                let (got, want) = (results.d[i + 7 * j], want(&results, i, j));
                assert!(near(got, want), "{epilogue:?} ({i}, {j}): {got} for {want}");
            }
            // What lies between the columns stays as it was.
            assert_eq!((results.d[5], results.d[13]), (value(3, 5), value(3, 13)));
            results
        };
        let bias = |i: usize| value(4, i);
        each(E::CUBLASLT_EPILOGUE_DEFAULT, 0, &|_, i, j| product(i, j));
        each(E::CUBLASLT_EPILOGUE_BIAS, 0, &|_, i, j| product(i, j) + bias(i));
        each(E::CUBLASLT_EPILOGUE_RELU_BIAS, 0, &|_, i, j| (product(i, j) + bias(i)).max(0.0));
        each(E::CUBLASLT_EPILOGUE_GELU_BIAS, 0, &|_, i, j| gelu(product(i, j) + bias(i)).0);
        each(E::CUBLASLT_EPILOGUE_RELU_AUX_BIAS, 128, &|r, i, j| {
            assert_eq!(r.aux[4 * j] >> i & 1 == 1, product(i, j) + bias(i) > 0.0);
            (product(i, j) + bias(i)).max(0.0)
        });
        each(E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, 8, &|r, i, j| {
            assert_eq!(f32::from_bits(r.aux[i + 8 * j]), product(i, j) + bias(i));
            gelu(product(i, j) + bias(i)).0
        });
        let bit = |i: usize, j: usize| value(5, 4 * j).to_bits() >> i & 1 == 1;
        let relu = |i: usize, j: usize| if bit(i, j) { product(i, j) } else { 0.0 };
        let slope = |i: usize, j: usize| product(i, j) * gelu(value(5, i + 8 * j)).1;
        each(E::CUBLASLT_EPILOGUE_DRELU, 128, &|_, i, j| relu(i, j));
        each(E::CUBLASLT_EPILOGUE_DGELU, 8, &|_, i, j| slope(i, j));
        let sums = each(E::CUBLASLT_EPILOGUE_DRELU_BGRAD, 128, &|_, i, j| relu(i, j)).bias;
        assert!((0..M).all(|i| near(sums[i], (0..N).map(|j| relu(i, j)).sum())) && sums[5] == bias(5));
        let sums = each(E::CUBLASLT_EPILOGUE_DGELU_BGRAD, 8, &|_, i, j| slope(i, j)).bias;
        assert!((0..M).all(|i| near(sums[i], (0..N).map(|j| slope(i, j)).sum())) && sums[5] == bias(5));
        let sums = each(E::CUBLASLT_EPILOGUE_BGRADA, 0, &|_, i, j| product(i, j)).bias;
        assert!((0..M).all(|i| sums[i] == (0..K).map(|k| value(1, i + 6 * k)).sum::<f32>()) && sums[5] == bias(5));
        let sums = each(E::CUBLASLT_EPILOGUE_BGRADB, 0, &|_, i, j| product(i, j)).bias;
        assert!((0..N).all(|j| sums[j] == (0..K).map(|k| value(2, j + 3 * k)).sum::<f32>()) && sums[3] == bias(3));
    });
    is_clean(&lines);
}

#[test]
fn products_of_16_bits_are_the_formulas() {
    for dtype in [F16, BF16] {
        for result in [0, dtype] {
            let lines = with(|handle, stream| {
                let case = Case { dtypes: [dtype, dtype, result], ..plain() };
                // Small whole numbers are exact in all types.
                let d = run(&case, handle, stream).unwrap().d;
                for (i, j) in (0..M).flat_map(|i| (0..N).map(move |j| (i, j))) {
                    assert_eq!(d[i + 7 * j], product(i, j));
                }
                assert_eq!((d[5], d[13]), (value(3, 5), value(3, 13)));
                let d = run(&Case { beta: 1.0, ..case }, handle, stream).unwrap().d;
                assert_eq!(d[2], product(2, 0) + value(3, 2));
                // A bias and its sums are float32 beside a float32 result.
                let epilogue = E::CUBLASLT_EPILOGUE_BIAS;
                let biased = Case { epilogue, dtypes: [dtype, dtype, 0], ..plain() };
                assert_eq!(run(&biased, handle, stream).unwrap().d[8], product(1, 1) + value(4, 1));
            });
            is_clean(&lines);
        }
    }
}

#[test]
fn types_that_contradict_each_other() {
    for dtypes in [[BF16, F16, 0], [BF16, 0, 0], [0, BF16, BF16], [0, 0, BF16], [F16, F16, BF16]] {
        refused(|c| c.dtypes = dtypes, "are of the types");
    }
    for compute in [Compute::CUBLAS_COMPUTE_32F_FAST_16BF, Compute::CUBLAS_COMPUTE_32F_FAST_TF32] {
        refused(|c| (c.dtypes, c.compute) = ([BF16, BF16, 0], compute), "factors of 16 bits in the compute type");
    }
    for epilogue in [E::CUBLASLT_EPILOGUE_BIAS, E::CUBLASLT_EPILOGUE_DRELU, E::CUBLASLT_EPILOGUE_BGRADA] {
        refused(|c| (c.dtypes, c.epilogue) = ([BF16; 3], epilogue), "are of D's type");
    }
    // Half of what is promised is too little for an element.
    refused(|c| c.promised = 2, "alignment");
    refused(|c| (c.dtypes, c.promised) = ([BF16; 3], 1), "alignment");
    refused(|c| (c.dtypes, c.shift) = ([BF16; 3], 1), "as was promised");
}

#[test]
fn transposes_batches_and_sums_with_the_old_value() {
    let lines = with(|handle, stream| {
        // Aᵀ as it is stored, B straight; two of each, the second B the first again.
        let layouts = [(K as u64, M as u64, 4), (K as u64, N as u64, 5), (M as u64, N as u64, 5)];
        let case = Case { transposes: [1, 0], layouts, batch: 2, strides: [20, 0, 16], beta: 1.0, ..plain() };
        let d = run(&case, handle, stream).unwrap().d;
        for (batch, i, j) in (0..2 * M * N).map(|x| (x / (M * N), x / N % M, x % N)) {
            let sum: f32 = (0..K).map(|k| value(1, 20 * batch + k + 4 * i) * value(2, k + 5 * j)).sum();
            let at = 16 * batch + i + 5 * j;
            assert_eq!(d[at], sum + value(3, at));
        }
    });
    is_clean(&lines);
}

/// What is wrong with a case, and what is said of it.
fn refused(change: impl FnOnce(&mut Case), words: &str) {
    let mut case = plain();
    change(&mut case);
    let mut found = Err(GOOD);
    let lines = with(|handle, stream| found = run(&case, handle, stream).map(|_| ()));
    assert_eq!(found, Err(BAD), "{words}");
    is_one(&lines, words);
}

#[test]
fn descriptions_that_contradict_themselves() {
    refused(|c| c.layouts[0].2 = 4, "columns longer than the distance between them");
    refused(|c| c.transposes = [0, 0], "is not");
    refused(|c| c.layouts[2].0 = 4, "is not");
    refused(|c| c.transposes[0] = 3, "transposes");
    refused(|c| (c.batch, c.strides) = (2, [0, 0, 3]), "the results of a batch overlap");
    refused(|c| (c.epilogue, c.has_bias) = (E::CUBLASLT_EPILOGUE_BIAS, false), "needs a bias");
    refused(|c| (c.epilogue, c.has_aux) = (E::CUBLASLT_EPILOGUE_DRELU, false), "needs an auxiliary buffer");
    refused(|c| (c.epilogue, c.aux_leading) = (E::CUBLASLT_EPILOGUE_DRELU, 64), "in multiples of 128");
    refused(|c| (c.epilogue, c.aux_leading) = (E::CUBLASLT_EPILOGUE_DGELU, 12), "in multiples of 8");
    refused(|c| (c.epilogue, c.aux_leading) = (E::CUBLASLT_EPILOGUE_GELU_AUX, 0), "are kept 0 apart");
    refused(|c| c.shift = 1, "as was promised");
    refused(|c| c.workspace = 4, "bytes to work in");
}

#[test]
fn products_that_read_what_they_write_or_reach_too_far() {
    let failed = |change: fn(&mut Case), words: &str| {
        let mut case = plain();
        change(&mut case);
        let lines = with(|handle, stream| {
            assert!(run(&case, handle, stream).is_err());
        });
        assert!(lines[0].starts_with("fault: ") && lines[0].contains(words), "{lines:#?}");
    };
    failed(|c| c.in_place = true, "writes at");
    failed(|c| c.layouts[1].2 = 40, "is outside every global variable");
}

#[test]
fn factors_are_rounded_as_asked() {
    let third = 1.0f32 / 3.0;
    for (compute, unit) in [
        (Compute::CUBLAS_COMPUTE_32F, 0.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, 1.0 / 2048.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16F, 1.0 / 2048.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16BF, 1.0 / 256.0),
    ] {
        let lines = with(|handle, stream| {
            let case = Case { compute, ..plain() };
            assert!(run(&case, handle, stream).is_ok());
            let rounded = npc_test_driver::lt::rounded(compute as u32, third);
            let error = (rounded - third).abs() / third;
            assert!(error <= unit && (unit == 0.0) == (error == 0.0), "{compute:?}: {error}");
            assert_eq!(npc_test_driver::lt::rounded(compute as u32, 1.5), 1.5);
        });
        is_clean(&lines);
    }
}
