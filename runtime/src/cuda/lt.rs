//! Matrix products by cuBLASLt, with epilogues.
//!
//! Types, as the table of `cublasLtMatmul` in NVIDIA's documentation has them: float32 A, B, C and D go with any of the compute types
//! `32F` and `32F_FAST_*`; A and B of 16 bits go with `32F` only, with C and D of the same 16 bits or of float32. A bias, its
//! gradient and what GELU keeps have D's type where nothing else is set, and for these types nothing else may be set; so every
//! product with an epilogue has a float32 result.

use super::blas::{self, Matrix};
use crate::plan::command::Extra;
use crate::plan::epilogue::{Activation, Epilogue};
use crate::plan::{Numbers, Precision};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtEpilogue_t as LtEpilogue,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasLtReductionScheme_t as Reduction,
};
use npc_kernels::cpu::contraction::Product;
use npc_kernels::cuda::DevicePointer;
use npc_kernels::elementwise::DType;
use std::collections::HashMap;
use std::ffi::c_void;

type Result<T> = std::result::Result<T, CublasError>;

/// Memory that products work in: what NVIDIA recommends for Hopper.
pub const WORKSPACE: u64 = 32 << 20;

/// Every buffer starts at a multiple of this, a product's operands perhaps behind it.
const ALIGNMENT: usize = crate::plan::arena::ALIGNMENT as usize;

/// `CUBLAS_OP_N` and `CUBLAS_OP_T`.
const STRAIGHT: i32 = 0;
const TRANSPOSED: i32 = 1;

type Key = (Product, Numbers, Option<Epilogue>);

/// The library, and the algorithms it has chosen. It is asked once for every kind of product; what it says depends on the
/// shapes and the GPU only, never on measured times, so that two runs give the same bits.
pub struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: DevicePointer,
    chosen: HashMap<Key, Option<sys::cublasLtMatmulAlgo_t>>,
}

/// A product, ready to start.
pub struct Ready {
    description: Description,
    algorithm: sys::cublasLtMatmulAlgo_t,
    x: DevicePointer,
    y: DevicePointer,
    c: DevicePointer,
    accumulate: bool,
}

/// The library's own objects that describe a product.
struct Description {
    product: sys::cublasLtMatmulDesc_t,
    /// X, Y, C.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: each was made by this object and is destroyed once.
        unsafe {
            let made = self.layouts.iter().filter(|layout| !layout.is_null());
            made.for_each(|layout| {
                let _ = result::destroy_matrix_layout(*layout);
            });
            let _ = result::destroy_matmul_desc(self.product);
        }
    }
}

impl Description {
    fn new(p: &Product, numbers: Numbers, extra: Option<&Extra>) -> Result<Self> {
        let g = blas::gemm(p);
        let compute = match numbers.precision {
            _ if numbers.narrow_factors => Compute::CUBLAS_COMPUTE_32F,
            Precision::F32 => Compute::CUBLAS_COMPUTE_32F,
            Precision::Tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::Bf16 => Compute::CUBLAS_COMPUTE_32F_FAST_16BF,
            Precision::F16 => Compute::CUBLAS_COMPUTE_32F_FAST_16F,
        };
        let scale = sys::cudaDataType::CUDA_R_32F;
        let (factors, of_result) = (data_type(numbers.factors()), data_type(numbers.result()));
        let mut description =
            Description { product: result::create_matmul_desc(compute, scale)?, layouts: [std::ptr::null_mut(); 3] };
        let (x_batch, y_batch) = if g.is_swapped { (p.b.batch, p.a.batch) } else { (p.a.batch, p.b.batch) };
        let stored = |m: &Matrix, rows: usize, columns: usize| match m.is_transposed {
            true => (columns, rows, m.leading),
            false => (rows, columns, m.leading),
        };
        let shapes = [stored(&g.x, g.m, g.k), stored(&g.y, g.k, g.n), (g.m, g.n, g.leading)];
        let kinds = [(factors, x_batch), (factors, y_batch), (of_result, p.c.batch)];
        for ((layout, (rows, columns, leading)), (kind, distance)) in
            description.layouts.iter_mut().zip(shapes).zip(kinds)
        {
            *layout = result::create_matrix_layout(kind, rows as u64, columns as u64, leading as i64)?;
            if p.batch > 1 {
                set_layout(*layout, LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &(p.batch as i32))?;
                let offset = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                set_layout(*layout, offset, &(distance as i64))?;
            }
        }
        let turned = |m: &Matrix| match m.is_transposed {
            true => TRANSPOSED,
            false => STRAIGHT,
        };
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &turned(&g.x))?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &turned(&g.y))?;
        if let Some(extra) = extra {
            description.finish(p, extra)?;
        }
        Ok(description)
    }

    /// Sets the epilogue. By columns, what is a row to the plan is a column: a bias runs along the library's rows, the left
    /// operand is its B.
    fn finish(&mut self, p: &Product, extra: &Extra) -> Result<()> {
        let kind = kind(extra.epilogue);
        self.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(kind as u32))?;
        let (bias, kept) = match extra.epilogue {
            Epilogue::Bias { activation, keeps } => {
                (Some(extra.read), activation.filter(|_| keeps).map(|a| (a, extra.write)))
            }
            Epilogue::Gradient { activation, sums } => (sums.then_some(extra.write), Some((activation, extra.read))),
            Epilogue::Sums { .. } => (Some(extra.write), None),
        };
        if let Some(bias) = bias {
            self.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
        }
        if let Some((activation, kept)) = kept {
            self.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &kept.0)?;
            let leading = activation.kept_leading(p.columns) as i64;
            self.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading)?;
        }
        Ok(())
    }

    fn set<T: Copy>(&mut self, attribute: Attribute, value: &T) -> Result<()> {
        // SAFETY: the description is alive, and the attribute is as large as `T`.
        unsafe {
            result::set_matmul_desc_attribute(self.product, attribute, (&raw const *value).cast(), size_of::<T>())
        }
    }
}

fn set_layout<T: Copy>(layout: sys::cublasLtMatrixLayout_t, attribute: LayoutAttribute, value: &T) -> Result<()> {
    // SAFETY: the layout is alive, and the attribute is as large as `T`.
    unsafe { result::set_matrix_layout_attribute(layout, attribute, (&raw const *value).cast(), size_of::<T>()) }
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        _ => sys::cudaDataType::CUDA_R_32F,
    }
}

fn kind(epilogue: Epilogue) -> LtEpilogue {
    use Activation::{Gelu, Relu};
    match epilogue {
        Epilogue::Bias { activation: None, .. } => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
        Epilogue::Bias { activation: Some(Relu), keeps: false } => LtEpilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
        Epilogue::Bias { activation: Some(Relu), keeps: true } => LtEpilogue::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
        Epilogue::Bias { activation: Some(Gelu), keeps: false } => LtEpilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        Epilogue::Bias { activation: Some(Gelu), keeps: true } => LtEpilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        Epilogue::Gradient { activation: Relu, sums: false } => LtEpilogue::CUBLASLT_EPILOGUE_DRELU,
        Epilogue::Gradient { activation: Relu, sums: true } => LtEpilogue::CUBLASLT_EPILOGUE_DRELU_BGRAD,
        Epilogue::Gradient { activation: Gelu, sums: false } => LtEpilogue::CUBLASLT_EPILOGUE_DGELU,
        Epilogue::Gradient { activation: Gelu, sums: true } => LtEpilogue::CUBLASLT_EPILOGUE_DGELU_BGRAD,
        Epilogue::Sums { of_right: true } => LtEpilogue::CUBLASLT_EPILOGUE_BGRADA,
        Epilogue::Sums { of_right: false } => LtEpilogue::CUBLASLT_EPILOGUE_BGRADB,
    }
}

/// What the address of the element `start` of a buffer is a multiple of, in bytes.
fn alignment(start: usize, dtype: DType) -> u32 {
    let bytes = dtype.bytes() * start % ALIGNMENT;
    if bytes == 0 { ALIGNMENT as u32 } else { 1 << bytes.trailing_zeros() }
}

impl Lt {
    /// Opens the library. `workspace`: [`WORKSPACE`] bytes.
    pub fn new(workspace: DevicePointer) -> Result<Self> {
        Ok(Lt { handle: result::create_handle()?, workspace, chosen: HashMap::new() })
    }

    /// The algorithm for a product; `None` when there is none.
    fn algorithm(&mut self, p: &Product, numbers: Numbers, extra: Option<&Extra>) -> Option<sys::cublasLtMatmulAlgo_t> {
        let key = (*p, numbers, extra.map(|e| e.epilogue));
        if let Some(known) = self.chosen.get(&key) {
            return *known;
        }
        let found = self.ask(p, numbers, extra);
        if let Err(error) = &found {
            tracing::debug!("cuBLASLt has no algorithm for {key:?}: {error}");
        }
        *self.chosen.entry(key).or_insert(found.ok())
    }

    fn ask(&self, p: &Product, numbers: Numbers, extra: Option<&Extra>) -> Result<sys::cublasLtMatmulAlgo_t> {
        let description = Description::new(p, numbers, extra)?;
        let (x, y) = if blas::gemm(p).is_swapped { (p.b.start, p.a.start) } else { (p.a.start, p.b.start) };
        let preference = result::create_matmul_pref()?;
        let set = |attribute, bytes: &[u8]| {
            // SAFETY: the preference is alive until below; `bytes` are as many as the attribute has.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, bytes.as_ptr().cast(), bytes.len()) }
        };
        // Sums in place depend on which block comes first.
        let schemes = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | Reduction::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let starts = [(x, numbers.factors()), (y, numbers.factors()), (p.c.start, numbers.result())];
        let [px, py, pc] = starts.map(|(start, dtype)| alignment(start, dtype).to_ne_bytes());
        let found = set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as usize).to_ne_bytes())
            .and_then(|()| set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes.to_ne_bytes()))
            .and_then(|()| set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &px))
            .and_then(|()| set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &py))
            .and_then(|()| set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &pc))
            .and_then(|()| set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &pc))
            .and_then(|()| {
                let [x, y, c] = description.layouts;
                // SAFETY: handle, description, layouts and preference are alive.
                unsafe { result::get_matmul_algo_heuristic(self.handle, description.product, x, y, c, c, preference) }
            });
        // SAFETY: made above and not used any more.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        found.map(|found| found.algo)
    }

    /// Whether there is an algorithm for a product, with an epilogue or without.
    pub fn has(&mut self, p: &Product, numbers: Numbers, epilogue: Option<Epilogue>) -> bool {
        // The library looks at whether there is an address, and how it is aligned, before it chooses; nothing is read there.
        let stand_in = DevicePointer(ALIGNMENT as u64);
        let extra = epilogue.map(|epilogue| Extra { epilogue, read: stand_in, write: stand_in });
        let fits = extra.is_none() || blas::gemm(p).is_swapped && !numbers.narrow_result;
        fits && self.algorithm(p, numbers, extra.as_ref()).is_some()
    }

    /// The algorithm for a product; where the GPU does not round its factors so, one that rounds none.
    fn settled(
        &mut self,
        p: &Product,
        numbers: Numbers,
        extra: Option<&Extra>,
    ) -> Result<(Numbers, sys::cublasLtMatmulAlgo_t)> {
        if let Some(algorithm) = self.algorithm(p, numbers, extra) {
            return Ok((numbers, algorithm));
        }
        let none = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        let exact = Numbers::wide(Precision::F32);
        let is_wide = !numbers.narrow_factors && !numbers.narrow_result;
        let algorithm = self.algorithm(p, exact, extra).filter(|_| is_wide).ok_or(none)?;
        let precision = numbers.precision;
        tracing::warn!("cuBLASLt has no {precision:?} algorithm for {p:?} on this GPU; its factors stay float32");
        Ok((exact, algorithm))
    }

    /// Makes a product ready to be started again and again.
    pub fn prepare(
        &mut self,
        p: &Product,
        numbers: Numbers,
        [a, b, c]: [DevicePointer; 3],
        extra: Option<&Extra>,
    ) -> Result<Ready> {
        let (numbers, algorithm) = self.settled(p, numbers, extra)?;
        let (factors, of_result) = (numbers.factors(), numbers.result());
        let at = |base: DevicePointer, start: usize, dtype: DType| base.offset((dtype.bytes() * start) as u64);
        let (a, b, c) = (at(a, p.a.start, factors), at(b, p.b.start, factors), at(c, p.c.start, of_result));
        let (x, y) = if blas::gemm(p).is_swapped { (b, a) } else { (a, b) };
        let description = Description::new(p, numbers, extra)?;
        Ok(Ready { description, algorithm, x, y, c, accumulate: p.accumulate })
    }

    /// Starts a product on a stream.
    pub fn start(&self, ready: &Ready, stream: sys::cudaStream_t) -> Result<()> {
        let (one, old) = (1.0f32, if ready.accumulate { 1.0f32 } else { 0.0 });
        let [x, y, c] = ready.description.layouts;
        // SAFETY: addresses and distances are those of allocated buffers of the plan; everything else is alive.
        unsafe {
            result::matmul(
                self.handle,
                ready.description.product,
                (&raw const one).cast(),
                (&raw const old).cast(),
                ready.x.0 as *const c_void,
                x,
                ready.y.0 as *const c_void,
                y,
                ready.c.0 as *const c_void,
                c,
                ready.c.0 as *mut c_void,
                c,
                &raw const ready.algorithm,
                self.workspace.0 as *mut c_void,
                WORKSPACE as usize,
                stream,
            )
        }
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: made by this object and destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_aligned_as_their_elements() {
        assert_eq!([0, 64, 128].map(|start| alignment(start, DType::F32)), [256; 3]);
        assert_eq!([1, 3, 2, 4, 96, 65].map(|start| alignment(start, DType::F32)), [4, 4, 8, 16, 128, 4]);
        assert_eq!([0, 1, 2, 64, 768].map(|start| alignment(start, DType::BF16)), [256, 2, 4, 128, 256]);
    }

    /// Descriptions live on the host: the library itself says whether it understands them.
    #[test]
    #[ignore = "needs cuBLASLt, no GPU: set NPC_CUDA_LIBS"]
    fn with_the_library_every_product_is_described() {
        use npc_kernels::cpu::contraction::Operand;
        assert!(crate::cuda::probe::has_cublas(), "cuBLASLt was not found");
        let by_rows = |along: usize| Operand { start: 0, down: along, along: 1, batch: 77 };
        let (a, b, c) = (by_rows(5), by_rows(19), by_rows(19));
        let plain = |batch| Product { rows: 6, columns: 19, inner: 5, batch, a, b, c, accumulate: false };
        let activations = [Activation::Relu, Activation::Gelu];
        let mut epilogues = vec![Epilogue::Bias { activation: None, keeps: false }];
        for (activation, flag) in activations.into_iter().flat_map(|a| [(a, false), (a, true)]) {
            epilogues.push(Epilogue::Bias { activation: Some(activation), keeps: flag });
            epilogues.push(Epilogue::Gradient { activation, sums: flag });
            epilogues.push(Epilogue::Sums { of_right: flag });
        }
        let at = DevicePointer(256);
        let all = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];
        let narrow = all[2..].iter().flat_map(|precision| {
            let numbers = |narrow_result| Numbers { precision: *precision, narrow_factors: true, narrow_result };
            [false, true].map(numbers)
        });
        for numbers in all.into_iter().map(Numbers::wide).chain(narrow) {
            for epilogue in epilogues.iter().filter(|_| !numbers.narrow_result) {
                let extra = Extra { epilogue: *epilogue, read: at, write: at };
                Description::new(&plain(1), numbers, Some(&extra)).unwrap_or_else(|e| panic!("{epilogue:?}: {e}"));
            }
            Description::new(&plain(1), numbers, None).unwrap();
            Description::new(&plain(4), numbers, None).unwrap();
        }
    }
}
