//! Convolutions by cuDNN.

use crate::plan::Precision;
use crate::plan::convolution::{Convolution, Pass};
use cudarc::cudnn::CudnnError;
use cudarc::cudnn::result;
use cudarc::cudnn::sys::{self, cudnnDeterminism_t as Determinism, cudnnMathType_t as Math};
use npc_kernels::cuda::DevicePointer;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

type Result<T> = std::result::Result<T, CudnnError>;

/// Algorithms that need more memory to work in are not taken.
const LARGEST_WORKSPACE: usize = 256 << 20;
/// More than cuDNN has for any pass.
const ALGORITHMS: usize = 16;

/// One of the library's algorithms, and the memory it works in.
#[derive(Clone, Copy)]
struct Algorithm {
    which: Which,
    workspace: usize,
    math: Math,
}

#[derive(Clone, Copy)]
enum Which {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Data(sys::cudnnConvolutionBwdDataAlgo_t),
    Filter(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// The library, and the algorithms it has chosen: the fastest by its heuristics among those that give the same bits every
/// time. It is asked once for every shape; nothing is measured.
pub struct Dnn {
    handle: sys::cudnnHandle_t,
    chosen: HashMap<(Convolution, Precision), Option<Algorithm>>,
}

/// A convolution, ready to start.
pub struct Ready {
    description: Description,
    algorithm: Algorithm,
    a: DevicePointer,
    b: DevicePointer,
    c: DevicePointer,
}

impl Ready {
    /// Bytes of memory it works in.
    pub fn workspace(&self) -> usize {
        self.algorithm.workspace
    }
}

/// The library's own objects that describe a convolution.
struct Description {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: what is not null was made by this object and is destroyed once.
        unsafe {
            if !self.x.is_null() {
                let _ = result::destroy_tensor_descriptor(self.x);
            }
            if !self.y.is_null() {
                let _ = result::destroy_tensor_descriptor(self.y);
            }
            if !self.w.is_null() {
                let _ = result::destroy_filter_descriptor(self.w);
            }
            if !self.convolution.is_null() {
                let _ = result::destroy_convolution_descriptor(self.convolution);
            }
        }
    }
}

/// What is asked of the library for a precision: FMA for float32; cuDNN has no bfloat16 products of float32 tensors, TF32
/// rounds its factors less.
fn math(precision: Precision) -> Math {
    match precision {
        Precision::F32 => Math::CUDNN_FMA_MATH,
        Precision::Tf32 | Precision::Bf16 => Math::CUDNN_DEFAULT_MATH,
        Precision::F16 => Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    }
}

fn integers(values: impl IntoIterator<Item = usize>) -> Result<Vec<c_int>> {
    let too_large = CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED);
    values.into_iter().map(c_int::try_from).collect::<std::result::Result<_, _>>().map_err(|_| too_large)
}

impl Description {
    fn new(c: &Convolution, math: Math) -> Result<Self> {
        let pads = c.symmetric_pads().ok_or(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED))?;
        let g = &c.geometry;
        // The library takes two axes or three; one without extent is left out.
        let first = usize::from(g.input()[0] == 1 && g.output()[0] == 1 && g.kernel()[0] == 1 && pads[0] == 0);
        let axes = |all: [usize; 3]| all.into_iter().skip(first);
        let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let null = std::ptr::null_mut();
        let mut description = Description { x: null, y: null.cast(), w: null.cast(), convolution: null.cast() };
        let planes = [
            (&mut description.x, c.channels, g.input(), c.x_distances()),
            (&mut description.y, c.filters, g.output(), c.y_distances()),
        ];
        for (place, channels, extents, distances) in planes {
            *place = result::create_tensor_descriptor()?;
            let dims = integers([c.batch, channels].into_iter().chain(axes(extents)))?;
            let inner = [extents[1] * extents[2], extents[2], 1];
            let strides = integers(distances.into_iter().chain(axes(inner)))?;
            let rank = dims.len() as c_int;
            // SAFETY: the descriptor is alive, and both arrays have `rank` elements.
            unsafe { result::set_tensornd_descriptor(*place, float, rank, dims.as_ptr(), strides.as_ptr())? };
        }
        description.w = result::create_filter_descriptor()?;
        let dims = integers([c.filters, c.channels / c.groups].into_iter().chain(axes(g.kernel())))?;
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        // SAFETY: the descriptor is alive, and `dims` has as many elements as it is said to have.
        unsafe {
            result::set_filternd_descriptor(description.w, float, format, dims.len() as c_int, dims.as_ptr())?;
        }
        description.convolution = result::create_convolution_descriptor()?;
        let [pads, strides, dilations] = [pads, g.strides(), g.dilations()].map(|all| integers(axes(all)));
        let (pads, strides, dilations) = (pads?, strides?, dilations?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the descriptor is alive, and the arrays have as many elements as they are said to have.
        unsafe {
            let (rank, of) = (pads.len() as c_int, description.convolution);
            let (pads, strides, dilations) = (pads.as_ptr(), strides.as_ptr(), dilations.as_ptr());
            result::set_convolutionnd_descriptor(of, rank, pads, strides, dilations, mode, float)?;
            result::set_convolution_group_count(of, c.groups as i32)?;
            result::set_convolution_math_type(of, math)?;
        }
        Ok(description)
    }
}

/// Whether an algorithm of one math type may be taken where another was asked for: the library also lists those that round
/// factors further.
fn is_allowed(asked: Math, offered: Math) -> bool {
    match offered {
        Math::CUDNN_FMA_MATH => true,
        Math::CUDNN_DEFAULT_MATH | Math::CUDNN_TENSOR_OP_MATH => asked != Math::CUDNN_FMA_MATH,
        Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION => asked == Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    }
}

/// The first that works, gives the same bits every time, and stays within memory and precision.
macro_rules! first {
    ($found:expr, $count:expr, $asked:expr, $which:expr) => {
        $found.iter().take(usize::try_from($count).unwrap_or(0)).find_map(|p| {
            let fits = p.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && p.determinism == Determinism::CUDNN_DETERMINISTIC
                && p.memory <= LARGEST_WORKSPACE
                && is_allowed($asked, p.mathType);
            fits.then(|| Algorithm { which: $which(p.algo), workspace: p.memory, math: p.mathType })
        })
    };
}

impl Dnn {
    /// Opens the library for a stream.
    pub fn new(stream: sys::cudaStream_t) -> Result<Self> {
        let dnn = Dnn { handle: result::create_handle()?, chosen: HashMap::new() };
        // SAFETY: handle and stream are alive.
        unsafe { result::set_stream(dnn.handle, stream)? };
        Ok(dnn)
    }

    fn algorithm(&mut self, c: &Convolution, precision: Precision) -> Option<Algorithm> {
        if let Some(known) = self.chosen.get(&(*c, precision)) {
            return *known;
        }
        let found = self.ask(c, precision);
        if let Err(error) = &found {
            tracing::debug!("cuDNN has no algorithm for {c:?}: {error:?}");
        }
        *self.chosen.entry((*c, precision)).or_insert(found.ok().flatten())
    }

    fn ask(&self, c: &Convolution, precision: Precision) -> Result<Option<Algorithm>> {
        let asked = math(precision);
        let Description { x, y, w, convolution } = &Description::new(c, asked)?;
        let (x, y, w, convolution) = (*x, *y, *w, *convolution);
        let mut count: c_int = 0;
        let most = ALGORITHMS as c_int;
        // SAFETY: handle and descriptors are alive; the arrays hold as many results as are asked for, plain numbers for which
        // zeros are valid, and only those that were returned are read.
        unsafe {
            match c.pass {
                Pass::Forward => {
                    let mut found = [std::mem::zeroed::<sys::cudnnConvolutionFwdAlgoPerf_t>(); ALGORITHMS];
                    let to = found.as_mut_ptr();
                    result::get_convolution_forward_algorithm(self.handle, x, w, convolution, y, most, &mut count, to)?;
                    Ok(first!(found, count, asked, Which::Forward))
                }
                Pass::Data => {
                    let mut found = [std::mem::zeroed::<sys::cudnnConvolutionBwdDataAlgoPerf_t>(); ALGORITHMS];
                    let to = found.as_mut_ptr();
                    result::get_convolution_backward_data_algorithm(
                        self.handle,
                        w,
                        y,
                        convolution,
                        x,
                        most,
                        &mut count,
                        to,
                    )?;
                    Ok(first!(found, count, asked, Which::Data))
                }
                Pass::Filter => {
                    let mut found = [std::mem::zeroed::<sys::cudnnConvolutionBwdFilterAlgoPerf_t>(); ALGORITHMS];
                    let to = found.as_mut_ptr();
                    result::get_convolution_backward_filter_algorithm(
                        self.handle,
                        x,
                        y,
                        convolution,
                        w,
                        most,
                        &mut count,
                        to,
                    )?;
                    Ok(first!(found, count, asked, Which::Filter))
                }
            }
        }
    }

    /// Whether there is an algorithm for a convolution.
    pub fn has(&mut self, c: &Convolution, precision: Precision) -> bool {
        self.algorithm(c, precision).is_some()
    }

    /// Makes a convolution ready to be started again and again.
    pub fn prepare(&mut self, c: &Convolution, precision: Precision, [a, b, to]: [DevicePointer; 3]) -> Result<Ready> {
        let none = CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED);
        let algorithm = self.algorithm(c, precision).ok_or(none)?;
        Ok(Ready { description: Description::new(c, algorithm.math)?, algorithm, a, b, c: to })
    }

    /// Starts a convolution; `workspace` has as many bytes as it asked for.
    pub fn start(&self, ready: &Ready, workspace: DevicePointer) -> Result<()> {
        let (one, zero) = (1.0f32, 0.0f32);
        let (one, zero): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const zero).cast());
        let Description { x, y, w, convolution } = &ready.description;
        let (x, y, w, convolution) = (*x, *y, *w, *convolution);
        let (a, b, c) = (ready.a.0 as *const c_void, ready.b.0 as *const c_void, ready.c.0 as *mut c_void);
        let (room, bytes) = (workspace.0 as *mut c_void, ready.algorithm.workspace);
        let handle = self.handle;
        // SAFETY: addresses are those of allocated buffers of the plan, as large as the descriptors say.
        unsafe {
            match ready.algorithm.which {
                Which::Forward(algorithm) => result::convolution_forward(
                    handle,
                    one,
                    x,
                    a,
                    w,
                    b,
                    convolution,
                    algorithm,
                    room,
                    bytes,
                    zero,
                    y,
                    c,
                ),
                Which::Data(algorithm) => result::convolution_backward_data(
                    handle,
                    one,
                    w,
                    a,
                    y,
                    b,
                    convolution,
                    algorithm,
                    room,
                    bytes,
                    zero,
                    x,
                    c,
                ),
                Which::Filter(algorithm) => result::convolution_backward_filter(
                    handle,
                    one,
                    x,
                    a,
                    y,
                    b,
                    convolution,
                    algorithm,
                    room,
                    bytes,
                    zero,
                    w,
                    c,
                ),
            }
        }
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        // SAFETY: made by this object and destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npc_kernels::cpu::Geometry;

    fn convolution(pass: Pass, geometry: Geometry) -> Convolution {
        let (is_x_turned, is_y_turned) = (false, false);
        Convolution { pass, batch: 2, channels: 4, filters: 6, groups: 1, geometry, is_x_turned, is_y_turned }
    }

    #[test]
    #[ignore = "needs a GPU and cuDNN, or the test driver"]
    fn with_the_library_no_algorithm_rounds_further_than_was_asked() {
        assert!(crate::cuda::probe::has_cudnn(), "cuDNN was not found");
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut dnn = Dnn::new(stream.cu_stream().cast()).unwrap();
        let geometry = Geometry::new(&[9, 9], &[9, 9], &[3, 3], &[1, 1], &[1, 1], &[1, 1]).unwrap();
        for pass in [Pass::Forward, Pass::Data, Pass::Filter] {
            let c = convolution(pass, geometry);
            let mut chosen = |precision| dnn.algorithm(&c, precision).unwrap();
            assert_eq!(chosen(Precision::F32).math, Math::CUDNN_FMA_MATH, "{pass:?}");
            for precision in [Precision::Tf32, Precision::Bf16] {
                // Float16 has neither TF32's nor bfloat16's range.
                assert_ne!(chosen(precision).math, Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION, "{pass:?}");
            }
            for precision in [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16] {
                assert!(chosen(precision).workspace <= LARGEST_WORKSPACE, "{pass:?}");
            }
        }
    }

    /// Descriptions live on the host: the library itself says what size a described convolution's result has.
    #[test]
    #[ignore = "needs cuDNN, no GPU: set NPC_CUDA_LIBS"]
    fn with_the_library_every_convolution_is_described() {
        assert!(crate::cuda::probe::has_cudnn(), "cuDNN was not found");
        let geometries = [
            Geometry::new(&[28, 28], &[28, 28], &[3, 3], &[1, 1], &[1, 1], &[1, 1]),
            Geometry::new(&[17, 9], &[8, 4], &[3, 3], &[2, 2], &[1, 1], &[0, 0]),
            Geometry::new(&[20, 20], &[16, 16], &[3, 3], &[1, 1], &[2, 2], &[0, 0]),
            Geometry::new(&[31], &[16], &[5], &[2], &[1], &[2]),
            Geometry::new(&[6, 7, 8], &[6, 7, 8], &[3, 1, 3], &[1, 1, 1], &[1, 1, 1], &[1, 0, 1]),
            // The one window of the first axis lies on its padding.
            Geometry::new(&[1, 7, 8], &[1, 7, 8], &[1, 1, 3], &[3, 1, 1], &[1, 1, 1], &[1, 0, 1]),
        ];
        for (geometry, groups) in geometries.into_iter().flat_map(|g| [1, 4].map(|groups| (g.clone(), groups))) {
            for (is_x_turned, is_y_turned) in [(false, false), (true, false), (true, true)] {
                let geometry = *geometry.as_ref().unwrap();
                let (pass, batch, channels, filters) = (Pass::Forward, 3, 8, 12);
                let c = Convolution { pass, batch, channels, filters, groups, geometry, is_x_turned, is_y_turned };
                for precision in [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16] {
                    let d = Description::new(&c, math(precision)).unwrap_or_else(|e| panic!("{c:?}: {e:?}"));
                    let mut dims = [0; 5];
                    let has_two_axes = geometry.output()[0] == 1 && geometry.pads()[0] == 0;
                    // SAFETY: the descriptors are alive, and no convolution here has more than five extents.
                    let status = unsafe {
                        let rank = if has_two_axes { 4 } else { 5 };
                        sys::cudnnGetConvolutionNdForwardOutputDim(d.convolution, d.x, d.w, rank, dims.as_mut_ptr())
                    };
                    assert_eq!(status, sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS, "{c:?}");
                    let planes = geometry.output().into_iter().skip(usize::from(has_two_axes));
                    let want = integers([batch, filters].into_iter().chain(planes)).unwrap();
                    assert_eq!(dims[..want.len()], want, "{c:?}");
                }
            }
        }
    }
}
