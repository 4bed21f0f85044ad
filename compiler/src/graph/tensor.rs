use super::DType;
use memmap2::Mmap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// Immutable bytes, either owned or a window into a memory-mapped file; cloning is cheap.
#[derive(Clone)]
pub enum Bytes {
    /// A window into a buffer on the heap.
    Owned(Arc<Vec<u8>>, Range<usize>),
    /// A window into a mapped file.
    Mapped(Arc<MappedFile>, Range<usize>),
}

/// A file mapped into memory, read-only.
pub struct MappedFile {
    map: Mmap,
    file: Mutex<File>,
}

impl MappedFile {
    /// Maps a whole file.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(file: File) -> io::Result<Self> {
        // SAFETY: the map is read-only; a file truncated by someone else while mapped is outside our control.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(MappedFile { map, file: Mutex::new(file) })
    }

    /// Copies a range into another file at its cursor, inside the kernel where the system can do that, so that the
    /// range need not pass through this process.
    ///
    /// # Errors
    /// What the system says; a file that has become shorter.
    pub fn copy_to(&self, range: Range<usize>, mut target: &File) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start as u64))?;
        let copied = io::copy(&mut (&*file).take(range.len() as u64), &mut target)?;
        if copied == range.len() as u64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl From<MappedFile> for Bytes {
    fn from(file: MappedFile) -> Self {
        let len = file.len();
        Bytes::Mapped(Arc::new(file), 0..len)
    }
}

impl Bytes {
    /// A window into these bytes; nothing is copied.
    ///
    /// # Panics
    /// When `range` does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len(), "window {range:?} of {} bytes", self.len());
        let moved = |outer: &Range<usize>| outer.start + range.start..outer.start + range.end;
        match self {
            Bytes::Owned(bytes, outer) => Bytes::Owned(bytes.clone(), moved(outer)),
            Bytes::Mapped(map, outer) => Bytes::Mapped(map.clone(), moved(outer)),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes, range) => &bytes[range.clone()],
            Bytes::Mapped(map, range) => &map[range.clone()],
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Bytes::Owned(Arc::new(bytes), 0..len)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// Payload of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Little-endian elements in row-major order, laid out as in `TensorProto.raw_data`.
    Raw(Bytes),
    /// Elements of a string tensor.
    Strings(Vec<Vec<u8>>),
}

/// A constant tensor: an initializer or a tensor attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Extent of each axis; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements.
    pub payload: Payload,
    /// `TensorProto.name` of a tensor attribute; an initializer is named by its value.
    pub name: String,
    /// `TensorProto.doc_string`.
    pub doc: String,
    /// `TensorProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

impl Tensor {
    /// A tensor over little-endian bytes.
    pub fn raw(dtype: DType, dims: impl Into<Vec<usize>>, bytes: impl Into<Bytes>) -> Self {
        Tensor {
            dtype,
            dims: dims.into(),
            payload: Payload::Raw(bytes.into()),
            name: String::new(),
            doc: String::new(),
            metadata: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// A float32 tensor; `data` in row-major order.
    pub fn f32(dims: impl Into<Vec<usize>>, data: &[f32]) -> Self {
        Tensor::raw(DType::F32, dims, data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// An int64 tensor; `data` in row-major order.
    pub fn i64(dims: impl Into<Vec<usize>>, data: &[i64]) -> Self {
        Tensor::raw(DType::I64, dims, data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A scalar of a float type, int32 or int64, rounded to it; `None` for other types.
    pub fn scalar(dtype: DType, x: f64) -> Option<Self> {
        let bytes = match dtype {
            DType::F64 => x.to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f64(x).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f64(x).to_le_bytes().to_vec(),
            DType::I64 => (x as i64).to_le_bytes().to_vec(),
            DType::I32 => (x as i32).to_le_bytes().to_vec(),
            DType::F32 => (x as f32).to_le_bytes().to_vec(),
            _ => return None,
        };
        Some(Tensor::raw(dtype, [], bytes))
    }

    /// Number of elements (product of `dims`; 1 for a scalar).
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True when an axis has extent 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Raw bytes; `None` for a string tensor.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.payload {
            Payload::Raw(bytes) => Some(bytes),
            Payload::Strings(_) => None,
        }
    }

    /// Elements of a float, integer or bool tensor converted to float64 (exact up to 2⁵³); `None` for other types.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let bytes = self.bytes()?;
        macro_rules! read {
            ($t:ty) => {
                bytes.chunks_exact(size_of::<$t>()).map(|b| <$t>::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            };
        }
        Some(match self.dtype {
            DType::F32 => read!(f32),
            DType::F64 => read!(f64),
            DType::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
            DType::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
            DType::I8 => read!(i8),
            DType::I16 => read!(i16),
            DType::I32 => read!(i32),
            DType::I64 => read!(i64),
            DType::U8 => read!(u8),
            DType::U16 => read!(u16),
            DType::U32 => read!(u32),
            DType::U64 => read!(u64),
            DType::BOOL => bytes.iter().map(|b| f64::from(u8::from(*b != 0))).collect(),
            _ => return None,
        })
    }

    /// Elements of an int64 tensor.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        if self.dtype != DType::I64 {
            return None;
        }
        Some(self.bytes()?.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// The only element as float64, for tensors of exactly one element.
    pub fn scalar_f64(&self) -> Option<f64> {
        if self.len() != 1 {
            return None;
        }
        self.to_f64()?.first().copied()
    }
}
