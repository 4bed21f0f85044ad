use crate::RuntimeError;
use half::{bf16, f16};
use npc_compiler::graph::{DType, Tensor as Constant};
use tract_onnx::prelude::{DatumType, Tensor};

/// An owned dense tensor on the host. Moving it in and out of a step does not copy its elements, unless they are bfloat16,
/// which the engine computes as float32.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// bfloat16 elements are uint16 here: the engine's library has no such type.
    tensor: Tensor,
    is_bfloat16: bool,
}

impl HostTensor {
    /// A float32 tensor, row-major. `data` must have as many elements as `dims` ask for.
    ///
    /// # Errors
    /// When it has not.
    pub fn f32(dims: &[usize], data: &[f32]) -> Result<Self, RuntimeError> {
        Self::of(dims, data)
    }

    /// An int64 tensor, row-major.
    ///
    /// # Errors
    /// When `data` does not fill `dims`.
    pub fn i64(dims: &[usize], data: &[i64]) -> Result<Self, RuntimeError> {
        Self::of(dims, data)
    }

    /// An int32 tensor, row-major.
    ///
    /// # Errors
    /// When `data` does not fill `dims`.
    pub fn i32(dims: &[usize], data: &[i32]) -> Result<Self, RuntimeError> {
        Self::of(dims, data)
    }

    fn of<T: tract_onnx::prelude::Datum + Copy>(dims: &[usize], data: &[T]) -> Result<Self, RuntimeError> {
        let tensor = Tensor::from_shape(dims, data).map_err(|_| RuntimeError::Input {
            name: "tensor".into(),
            got: format!("{} elements", data.len()),
            want: format!("{} for the shape {dims:?}", dims.iter().product::<usize>()),
        })?;
        Ok(tensor.into())
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// For an element type the CPU engine does not compute in.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Self, RuntimeError> {
        let is_bfloat16 = dtype == DType::BF16;
        let stored = if is_bfloat16 { Some(DatumType::U16) } else { datum_type(dtype) };
        let stored = stored.ok_or_else(|| RuntimeError::Type { value: "tensor".into(), dtype: dtype.to_string() })?;
        let tensor = Tensor::zero_dt(stored, dims).map_err(|e| RuntimeError::Prepare(e.to_string()))?;
        Ok(HostTensor { tensor, is_bfloat16 })
    }

    /// A model's constant.
    ///
    /// # Errors
    /// For an element type the CPU engine does not compute in.
    pub fn from_constant(constant: &Constant) -> Result<Self, RuntimeError> {
        let wrong = || RuntimeError::Type { value: constant.name.clone(), dtype: constant.dtype.to_string() };
        let mut tensor = Self::zeros(constant.dtype, &constant.dims)?;
        let bytes = constant.bytes().ok_or_else(wrong)?;
        tensor.tensor.as_plain_ram_mut().ok_or_else(wrong)?.as_bytes_mut().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// The same numbers in another element type.
    ///
    /// # Errors
    /// For an element type the CPU engine does not compute in.
    pub fn cast(&self, dtype: DType) -> Result<Self, RuntimeError> {
        if dtype == DType::BF16 {
            return Ok(self.cast(DType::F32)?.narrow());
        }
        if self.is_bfloat16 {
            return HostTensor::from(self.clone().into_engine()).cast(dtype);
        }
        let dt =
            datum_type(dtype).ok_or_else(|| RuntimeError::Type { value: "tensor".into(), dtype: dtype.to_string() })?;
        let tensor = self.tensor.cast_to_dt(dt).map_err(|e| RuntimeError::Prepare(e.to_string()))?;
        Ok(tensor.into_owned().into())
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        if self.is_bfloat16 {
            return DType::BF16;
        }
        match self.tensor.datum_type() {
            DatumType::F16 => DType::F16,
            DatumType::F32 => DType::F32,
            DatumType::F64 => DType::F64,
            DatumType::I8 => DType::I8,
            DatumType::I16 => DType::I16,
            DatumType::I32 => DType::I32,
            DatumType::I64 | DatumType::TDim => DType::I64,
            DatumType::U8 => DType::U8,
            DatumType::U16 => DType::U16,
            DatumType::U32 => DType::U32,
            DatumType::U64 => DType::U64,
            DatumType::Bool => DType::BOOL,
            _ => DType::UNDEFINED,
        }
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        self.tensor.shape()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tensor.len()
    }

    /// True when an axis has extent 0.
    pub fn is_empty(&self) -> bool {
        self.tensor.len() == 0
    }

    /// Elements, when they are float32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        self.tensor.as_plain_ram()?.as_slice().ok()
    }

    /// Elements, when they are float32.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        let len = self.tensor.len();
        let pointer = self.tensor.as_ptr_mut::<f32>().ok()?;
        // SAFETY: the pointer is the start of this tensor's `len` float32 elements, borrowed mutably for as long as `self` is.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }

    /// Elements, when they are int64.
    pub fn as_i64(&self) -> Option<&[i64]> {
        self.tensor.as_plain_ram()?.as_slice().ok()
    }

    /// Elements as float64, for float and integer tensors.
    pub fn to_f64(&self) -> Vec<f64> {
        let Some(view) = self.tensor.as_plain_ram() else { return Vec::new() };
        match self.tensor.datum_type() {
            DatumType::F32 => view.as_slice::<f32>().map(|s| s.iter().map(|x| f64::from(*x)).collect()),
            DatumType::F16 => view.as_slice::<f16>().map(|s| s.iter().map(|x| x.to_f64()).collect()),
            DatumType::F64 => view.as_slice::<f64>().map(<[f64]>::to_vec),
            DatumType::I64 => view.as_slice::<i64>().map(|s| s.iter().map(|x| *x as f64).collect()),
            DatumType::I32 => view.as_slice::<i32>().map(|s| s.iter().map(|x| f64::from(*x)).collect()),
            DatumType::U16 if self.is_bfloat16 => {
                view.as_slice::<u16>().map(|s| s.iter().map(|x| bf16::from_bits(*x).to_f64()).collect())
            }
            DatumType::Bool => view.as_slice::<bool>().map(|s| s.iter().map(|x| f64::from(u8::from(*x))).collect()),
            _ => Ok(Vec::new()),
        }
        .unwrap_or_default()
    }

    /// Raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        self.tensor.as_bytes()
    }

    /// What the engine computes with: itself, or its bfloat16 numbers as float32.
    pub(crate) fn into_engine(self) -> Tensor {
        match self.tensor.as_plain_ram().and_then(|view| view.as_slice::<u16>().ok()) {
            Some(bits) if self.is_bfloat16 => {
                let numbers: Vec<f32> = bits.iter().map(|x| bf16::from_bits(*x).to_f32()).collect();
                // The shape is the one these elements came with.
                Tensor::from_shape(self.tensor.shape(), &numbers).unwrap_or_default()
            }
            _ => self.tensor,
        }
    }

    /// float32 numbers as bfloat16; other tensors stay as they are.
    pub(crate) fn narrow(self) -> Self {
        match self.as_f32() {
            Some(numbers) => {
                let bits: Vec<u16> = numbers.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
                match Tensor::from_shape(self.tensor.shape(), &bits) {
                    Ok(tensor) => HostTensor { tensor, is_bfloat16: true },
                    Err(_) => self,
                }
            }
            None => self,
        }
    }

    /// As a constant of a model.
    pub fn to_constant(&self) -> Constant {
        Constant::raw(self.dtype(), self.dims(), self.bytes().to_vec())
    }
}

impl From<Tensor> for HostTensor {
    fn from(tensor: Tensor) -> Self {
        HostTensor { tensor, is_bfloat16: false }
    }
}

/// How many elements a tensor of these extents has, when there is room for them.
///
/// # Errors
/// More elements than can be counted, or than this machine can hold.
pub(crate) fn room(name: &str, dims: &[usize]) -> Result<usize, RuntimeError> {
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    // What is reserved but not touched costs nothing.
    let fits = |n: &usize| Vec::<f64>::new().try_reserve_exact(*n).is_ok();
    count.filter(fits).ok_or_else(|| RuntimeError::Memory(name.to_string(), dims.to_vec()))
}

/// tract's name for an element type; bfloat16 is computed as float32.
pub(crate) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::F16 => DatumType::F16,
        DType::F32 | DType::BF16 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::BOOL => DatumType::Bool,
        _ => return None,
    })
}
