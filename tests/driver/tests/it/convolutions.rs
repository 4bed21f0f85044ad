//! cuDNN: what it computes, beside numbers worked out by hand and by other loops, and the use that it refuses.

use crate::support::*;
use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgoPerf_t, cudnnConvolutionBwdFilterAlgoPerf_t, cudnnConvolutionDescriptor_t,
    cudnnConvolutionFwdAlgoPerf_t, cudnnFilterDescriptor_t, cudnnHandle_t, cudnnMathType_t as Math,
    cudnnStatus_t as Status, cudnnTensorDescriptor_t,
};
use cudarc::driver::sys::{CUresult, CUstream, CUstreamCaptureMode as Mode};
use npc_test_driver::alone;
use npc_test_driver::cuda::*;
use npc_test_driver::dnn::*;
use std::ffi::c_void;
use std::ptr::null_mut;

const GOOD: Status = Status::CUDNN_STATUS_SUCCESS;
const BAD: Status = Status::CUDNN_STATUS_BAD_PARAM;
const EXACT: u32 = Math::CUDNN_FMA_MATH as u32;

/// A convolution, and whatever is to be wrong with it.
#[derive(Clone)]
struct Case {
    pass: Pass,
    x: ([i32; 4], [i32; 4]),
    w: [i32; 4],
    y: ([i32; 4], [i32; 4]),
    pads: [i32; 2],
    strides: [i32; 2],
    dilations: [i32; 2],
    groups: i32,
    math: u32,
    /// Of the algorithms, which one.
    pick: fn(&Offered) -> bool,
    factors: [f32; 2],
    /// Bytes of the workspace, if not as many as the algorithm needs.
    workspace: Option<usize>,
    /// Of x, w and y, which share their memory.
    shared: Option<[usize; 2]>,
    /// Elements that the memory of w is short of.
    missing: usize,
    /// Whether the convolution is described before it is used.
    is_set: bool,
}

#[derive(Clone, Copy, Debug)]
struct Offered {
    algorithm: u32,
    math: u32,
    memory: usize,
    works: bool,
    is_repeatable: bool,
}

/// Two samples of four channels of 4×5, six filters of two groups over 3×2, x with samples and channels exchanged.
fn plain(pass: Pass) -> Case {
    Case {
        pass,
        x: ([2, 4, 4, 5], [20, 40, 5, 1]),
        w: [6, 2, 3, 2],
        y: ([2, 6, 2, 5], [60, 10, 5, 1]),
        pads: [1, 1],
        strides: [2, 1],
        dilations: [1, 2],
        groups: 2,
        math: EXACT,
        pick: |o| o.works && o.is_repeatable && o.math == EXACT && o.memory < 1 << 30,
        factors: [1.0, 0.0],
        workspace: None,
        shared: None,
        missing: 0,
        is_set: true,
    }
}

/// Numbers whose sums of products are exact.
fn number(seed: usize, i: usize) -> f32 {
    ((i * 7 + seed * 13) % 11) as f32 - 5.0
}

fn span(extents: &[i32], strides: &[i32]) -> usize {
    1 + extents.iter().zip(strides).map(|(extent, stride)| (extent - 1) * stride).sum::<i32>() as usize
}

struct Descriptors(
    cudnnTensorDescriptor_t,
    cudnnFilterDescriptor_t,
    cudnnConvolutionDescriptor_t,
    cudnnTensorDescriptor_t,
);

fn check(status: Status) -> Result<(), Status> {
    if status == GOOD { Ok(()) } else { Err(status) }
}

/// Describes a case; the first status that is no success.
unsafe fn describe(case: &Case, d: &Descriptors) -> Result<(), Status> {
    // SAFETY: every array has as many elements as it is said to have.
    unsafe {
        for (place, (extents, strides)) in [(d.0, &case.x), (d.3, &case.y)] {
            check(cudnnSetTensorNdDescriptor(place, 0, 4, extents.as_ptr(), strides.as_ptr()))?;
        }
        check(cudnnSetFilterNdDescriptor(d.1, 0, 0, 4, case.w.as_ptr()))?;
        if case.is_set {
            let [pads, strides, dilations] = [&case.pads, &case.strides, &case.dilations].map(|all| all.as_ptr());
            check(cudnnSetConvolutionNdDescriptor(d.2, 2, pads, strides, dilations, 1, 0))?;
            check(cudnnSetConvolutionGroupCount(d.2, case.groups))?;
            check(cudnnSetConvolutionMathType(d.2, case.math))?;
        }
        Ok(())
    }
}

/// The algorithms of a pass.
fn offered(pass: Pass, handle: cudnnHandle_t, d: &Descriptors) -> Result<Vec<Offered>, Status> {
    macro_rules! ask {
        ($function:ident, $kind:ty, $a:expr, $b:expr, $c:expr) => {{
            let (mut found, mut count) = ([unsafe { std::mem::zeroed::<$kind>() }; 16], 0);
            let (count_at, to) = (&raw mut count, found.as_mut_ptr());
            check(unsafe { $function(handle, $a, $b, d.2, $c, 16, count_at, to) })?;
            let one = |p: &$kind| Offered {
                algorithm: p.algo as u32,
                math: p.mathType as u32,
                memory: p.memory,
                works: p.status == GOOD,
                is_repeatable: p.determinism as u32 == 1,
            };
            found[..count as usize].iter().map(one).collect()
        }};
    }
    // SAFETY: there is room for as many results as are asked for, plain numbers that may be zero.
    Ok(match pass {
        Pass::Forward => ask!(cudnnGetConvolutionForwardAlgorithm_v7, cudnnConvolutionFwdAlgoPerf_t, d.0, d.1, d.3),
        Pass::Data => {
            ask!(cudnnGetConvolutionBackwardDataAlgorithm_v7, cudnnConvolutionBwdDataAlgoPerf_t, d.1, d.3, d.0)
        }
        Pass::Filter => {
            ask!(cudnnGetConvolutionBackwardFilterAlgorithm_v7, cudnnConvolutionBwdFilterAlgoPerf_t, d.0, d.3, d.1)
        }
    })
}

/// Carries out a case: the first status that is no success, or the result's memory.
fn run(case: &Case, handle: cudnnHandle_t, stream: CUstream) -> Result<Vec<f32>, Status> {
    let counts = [span(&case.x.0, &case.x.1), case.w.iter().product::<i32>() as usize, span(&case.y.0, &case.y.1)];
    let mut at = [0u64; 3];
    for i in 0..3 {
        let room = counts[i] - if i == 1 { case.missing } else { 0 };
        at[i] = allocate(4 * if case.shared.is_some() { 256 } else { room });
        let values: Vec<u32> = (0..room).map(|e| number(i, e).to_bits()).collect();
        // The result is written by nobody where its old value does not count.
        if i != case.pass.result() || case.factors[1] != 0.0 {
            is_ok(upload(at[i], &values, stream));
        }
    }
    let made = at;
    if let Some([from, to]) = case.shared {
        at[to] = at[from];
    }
    let mut d = Descriptors(null_mut(), null_mut(), null_mut(), null_mut());
    // SAFETY: the results have room; every object was made here.
    let (outcome, room) = unsafe {
        cudnnCreateTensorDescriptor(&raw mut d.0);
        cudnnCreateFilterDescriptor(&raw mut d.1);
        cudnnCreateConvolutionDescriptor(&raw mut d.2);
        cudnnCreateTensorDescriptor(&raw mut d.3);
        let chosen = describe(case, &d).and_then(|()| offered(case.pass, handle, &d));
        let chosen = chosen.map(|all| *all.iter().find(|o| (case.pick)(o)).unwrap());
        let bytes = case.workspace.or(chosen.ok().map(|o| o.memory)).unwrap_or(0);
        let room = if bytes > 0 && bytes < 1 << 30 { allocate(bytes) } else { 0 };
        let outcome = chosen.and_then(|o| {
            check(cudnnSetConvolutionMathType(d.2, o.math))?;
            let [alpha, beta] = case.factors.each_ref().map(|factor| (&raw const *factor).cast::<c_void>());
            let [x, w, y] = at.map(|at| at as *mut c_void);
            let work = room as *mut c_void;
            let algorithm = o.algorithm;
            check(match case.pass {
                Pass::Forward => {
                    cudnnConvolutionForward(handle, alpha, d.0, x, d.1, w, d.2, algorithm, work, bytes, beta, d.3, y)
                }
                Pass::Data => cudnnConvolutionBackwardData(
                    handle, alpha, d.1, w, d.3, y, d.2, algorithm, work, bytes, beta, d.0, x,
                ),
                Pass::Filter => cudnnConvolutionBackwardFilter(
                    handle, alpha, d.0, x, d.3, y, d.2, algorithm, work, bytes, beta, d.1, w,
                ),
            })
        });
        cudnnDestroyTensorDescriptor(d.0);
        cudnnDestroyFilterDescriptor(d.1);
        cudnnDestroyConvolutionDescriptor(d.2);
        cudnnDestroyTensorDescriptor(d.3);
        (outcome, room)
    };
    let result = case.pass.result();
    let values = outcome.map(|()| download(made[result], counts[result], stream).unwrap());
    is_ok(wait(stream));
    made.into_iter().chain([room]).for_each(|at| is_ok(free(at)));
    values.map(|values| values.into_iter().map(f32::from_bits).collect())
}

/// Runs `body` with the library open.
fn with(variables: &[(&str, &str)], body: impl FnOnce(cudnnHandle_t, CUstream)) -> Vec<String> {
    alone(variables, || {
        open();
        let (mut handle, stream) = (null_mut(), stream());
        // SAFETY: the result has room; both are made once.
        unsafe {
            assert_eq!(cudnnCreate(&raw mut handle), GOOD);
            assert_eq!(cudnnSetStream(handle, stream.cast()), GOOD);
            body(handle, stream);
            assert_eq!(cudnnDestroy(handle), GOOD);
            is_ok(cuStreamDestroy_v2(stream));
        }
        close();
    })
}

/// What the plain case of a pass gives: for every element of the result, the sum over all pairs of the others' elements that
/// the definition `y[n, f, o] += w[f, c, k] · x[n, c, o·stride + k·dilation − pad]` brings together with it.
fn wanted(pass: Pass, factors: [f32; 2]) -> Vec<f32> {
    let counts = [160, 72, 120];
    let mut out: Vec<f32> = (0..counts[pass.result()]).map(|e| factors[1] * number(pass.result(), e)).collect();
    for (n, f, oh, ow) in (0..2 * 6 * 2 * 5).map(|i| (i / 60, i / 10 % 6, i / 5 % 2, i % 5)) {
        for (c, kh, kw) in (0..2 * 3 * 2).map(|i| (i / 6, i / 2 % 3, i % 2)) {
            let (ih, iw) = ((2 * oh + kh) as i32 - 1, (ow + 2 * kw) as i32 - 1);
            if !(0..4).contains(&ih) || !(0..5).contains(&iw) {
                continue;
            }
            let channel = c + if f < 3 { 0 } else { 2 };
            let x = n * 20 + channel * 40 + ih as usize * 5 + iw as usize;
            let (w, y) = (((f * 2 + c) * 3 + kh) * 2 + kw, ((n * 6 + f) * 2 + oh) * 5 + ow);
            match pass {
                Pass::Forward => out[y] += factors[0] * number(0, x) * number(1, w),
                Pass::Data => out[x] += factors[0] * number(1, w) * number(2, y),
                Pass::Filter => out[w] += factors[0] * number(0, x) * number(2, y),
            }
        }
    }
    out
}

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Data, Pass::Filter];

#[test]
fn convolutions_are_their_definition() {
    let lines = with(&[], |handle, stream| {
        for pass in PASSES {
            for factors in [[1.0, 0.0], [0.5, 2.0]] {
                let case = Case { factors, ..plain(pass) };
                assert_eq!(run(&case, handle, stream).unwrap(), wanted(pass, factors), "{pass:?} {factors:?}");
            }
        }
    });
    is_clean(&lines);
}

#[test]
fn factors_are_rounded_as_the_math_type_says() {
    // One product: x = w = y of one element, whose values are set apart by f16's and TF32's last bits.
    let one = ([1, 1, 1, 1], [1, 1, 1, 1]);
    let lines = with(&[], |handle, stream| {
        let (mut d, x) = (Descriptors(null_mut(), null_mut(), null_mut(), null_mut()), allocate(12));
        let case = Case { x: one, y: one, w: [1; 4], pads: [0; 2], groups: 1, ..plain(Pass::Forward) };
        // SAFETY: the results have room; every object was made here.
        unsafe {
            cudnnCreateTensorDescriptor(&raw mut d.0);
            cudnnCreateFilterDescriptor(&raw mut d.1);
            cudnnCreateConvolutionDescriptor(&raw mut d.2);
            cudnnCreateTensorDescriptor(&raw mut d.3);
            describe(&case, &d).unwrap();
            let room = allocate(1 << 12);
            for offer in offered(Pass::Forward, handle, &d).unwrap() {
                if !offer.works || !offer.is_repeatable || offer.memory > 1 << 12 {
                    continue;
                }
                // 1 + 2⁻¹² is lost to ten bits of fraction, 2¹⁷ is beyond f16.
                for (value, tf32, half) in [(1.0 + 1.0 / 4096.0, 1.0, 1.0), (131_072.0, 131_072.0, f32::INFINITY)] {
                    is_ok(upload(x, &[f32::to_bits(value), 1.0f32.to_bits(), 0], stream));
                    assert_eq!(cudnnSetConvolutionMathType(d.2, offer.math), GOOD);
                    let (alpha, beta) = (1.0f32, 0.0f32);
                    let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
                    let (w, y) = ((x + 4) as *const c_void, (x + 8) as *mut c_void);
                    let (from, room) = (x as *const c_void, room as *mut c_void);
                    let (algorithm, bytes) = (offer.algorithm, offer.memory);
                    let status = cudnnConvolutionForward(
                        handle, alpha, d.0, from, d.1, w, d.2, algorithm, room, bytes, beta, d.3, y,
                    );
                    assert_eq!(status, GOOD);
                    let want = [tf32, tf32, half, value][offer.math as usize];
                    assert_eq!(f32::from_bits(download(x + 8, 1, stream).unwrap()[0]), want, "{offer:?}");
                }
            }
            [room, x].into_iter().for_each(|at| is_ok(free(at)));
            cudnnDestroyTensorDescriptor(d.0);
            cudnnDestroyFilterDescriptor(d.1);
            cudnnDestroyConvolutionDescriptor(d.2);
            cudnnDestroyTensorDescriptor(d.3);
        }
    });
    is_clean(&lines);
}

/// What is wrong with a case of each pass, and what is said of it.
fn refused(change: impl Fn(&mut Case), words: &str) {
    for pass in PASSES {
        let mut case = plain(pass);
        change(&mut case);
        let mut found = Err(GOOD);
        let lines = with(&[], |handle, stream| found = run(&case, handle, stream).map(|_| ()));
        assert_eq!(found, Err(BAD), "{pass:?}: {words}");
        is_one(&lines, words);
    }
}

#[test]
fn descriptors_that_contradict_themselves_or_each_other() {
    refused(|c| c.y.0[3] = 4, "the convolution's result is [2, 6, 2, 5], y is described as [2, 6, 2, 4]");
    refused(|c| c.y.0[0] = 1, "the convolution's result is");
    refused(|c| c.y.0[1] = 5, "the convolution's result is");
    refused(|c| c.groups = 4, "4 channels and filters");
    refused(|c| c.groups = 1, "4 channels and filters");
    refused(|c| c.groups = 0, "groups [0]");
    refused(|c| c.dilations = [4, 2], "a kernel that reaches over 9 of 6 elements");
    refused(|c| c.strides = [0, 1], "strides [0, 1]");
    refused(|c| c.pads = [-1, 1], "pads [-1, 1]");
    refused(|c| c.x.1[3] = 0, "distances of elements [20, 40, 5, 0]");
    refused(|c| c.y.1[0] = 59, "share memory");
    refused(|c| c.math = 4, "math type 4");
    refused(|c| c.is_set = false, "was never set");
}

#[test]
fn algorithms_that_do_not_do() {
    refused(|c| c.pick = |o| !o.works, "does not work for this");
    refused(|c| c.pick = |o| !o.is_repeatable, "are not the same every time");
}

#[test]
fn memory_that_is_not_there_or_shared() {
    refused(|c| c.workspace = Some(4), "bytes to work in, not 4");
    refused(|c| c.workspace = Some(1 << 30), "the workspace at 0x0 is not there");
    refused(|c| c.missing = 1, "w, 288 bytes at");
    for other in [1, 2] {
        refused(|c| c.shared = Some([(c.pass.result() + other) % 3, c.pass.result()]), "what it also reads");
    }
}

#[test]
fn handles_and_descriptors_that_are_gone() {
    let lines = with(&[], |handle, stream| {
        let mut other = null_mut();
        // SAFETY: the library checks its objects.
        unsafe {
            assert_eq!(cudnnCreate(&raw mut other), GOOD);
            assert_eq!(cudnnDestroy(other), GOOD);
            assert_eq!(cudnnSetStream(other, stream.cast()), Status::CUDNN_STATUS_NOT_INITIALIZED);
            assert_eq!(cudnnSetStream(handle, 0x77770 as *mut _), BAD);
            let mut tensor = null_mut();
            cudnnCreateTensorDescriptor(&raw mut tensor);
            assert_eq!(cudnnDestroyTensorDescriptor(tensor), GOOD);
            assert_eq!(cudnnDestroyTensorDescriptor(tensor), BAD);
            assert_eq!(cudnnDestroyFilterDescriptor(tensor.cast()), BAD);
        }
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("misuse: ")).count(), 4, "{lines:#?}");
    assert!(lines[0].contains("there is no cuDNN handle") && lines[1].contains("there is no stream"), "{lines:#?}");
    assert!(lines[2].contains("there is no tensor descriptor") && lines[3].contains("no filter descriptor"));
}

#[test]
fn a_library_without_a_context_or_in_a_capture() {
    let lines = alone(&[], || {
        let mut handle = null_mut();
        // SAFETY: the result has room.
        assert_eq!(unsafe { cudnnCreate(&raw mut handle) }, Status::CUDNN_STATUS_NOT_INITIALIZED);
    });
    is_one(&lines, "cudnnCreate: the thread has no context");
    let lines = alone(&[], || {
        open();
        let (stream, mut graph) = (stream(), null_mut());
        // SAFETY: the results have room.
        unsafe {
            is_ok(cuStreamBeginCapture_v2(stream, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
            let mut handle = null_mut();
            assert_eq!(cudnnCreate(&raw mut handle), Status::CUDNN_STATUS_INTERNAL_ERROR);
            let ended = cuStreamEndCapture(stream, &raw mut graph);
            assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            is_ok(cuStreamDestroy_v2(stream));
        }
        close();
    });
    assert!(lines[0].contains("opening cuDNN while a stream is captured"), "{lines:#?}");
}

#[test]
fn what_is_not_destroyed_is_reported() {
    let lines = alone(&[], || {
        open();
        let (mut handle, mut tensor, mut filter, mut window) = (null_mut(), null_mut(), null_mut(), null_mut());
        // SAFETY: the results have room.
        unsafe {
            cudnnCreate(&raw mut handle);
            cudnnCreateTensorDescriptor(&raw mut tensor);
            cudnnCreateFilterDescriptor(&raw mut filter);
            cudnnCreateConvolutionDescriptor(&raw mut window);
        }
        close();
    });
    let wanted = ["1 cuDNN handles", "1 tensor descriptors", "1 filter descriptors", "1 convolution descriptors"]
        .map(|what| format!("leak: {what}"));
    assert_eq!(lines[..4], wanted, "{lines:#?}");
}

#[test]
fn a_library_that_has_no_algorithm() {
    let lines = with(&[("REFUSE", "cudnn")], |handle, stream| {
        for pass in PASSES {
            assert_eq!(run(&plain(pass), handle, stream).unwrap_err(), Status::CUDNN_STATUS_NOT_SUPPORTED);
        }
    });
    is_clean(&lines);
}
