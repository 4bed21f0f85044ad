//! What `npc devices` says.

use super::libraries;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

/// One GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuInfo {
    /// Number, as `--device cuda:N` takes it.
    pub ordinal: usize,
    /// Name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory, free and in all.
    pub memory: (usize, usize),
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of L2 cache.
    pub cache: i32,
}

/// A library and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Library {
    /// Name.
    pub name: &'static str,
    /// What needs it.
    pub purpose: &'static str,
    /// Whether it is there.
    pub is_present: bool,
    /// What to do when it is not.
    pub advice: &'static str,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// GPUs, or why there is none.
    pub gpus: Result<Vec<GpuInfo>, String>,
    /// Libraries.
    pub libraries: Vec<Library>,
}

/// The driver's answer to a call, as words.
pub(super) fn reason(error: cudarc::driver::DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{error:?}"),
    }
}

/// Whether the driver's library is installed.
pub(super) fn has_driver() -> bool {
    // SAFETY: loading the driver's library asks nothing of its caller.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Whether cuBLASLt is installed, where the loader or we find it.
pub(super) fn has_cublas() -> bool {
    libraries::load_cublas();
    // SAFETY: as for the driver.
    unsafe { cudarc::cublaslt::sys::is_culib_present() }
}

/// Whether cuDNN is installed, where the loader or we find it.
pub(super) fn has_cudnn() -> bool {
    libraries::load_cudnn();
    // SAFETY: as for the driver.
    unsafe { cudarc::cudnn::sys::is_culib_present() }
}

/// Looks for GPUs and libraries; never fails.
pub fn probe() -> Found {
    let driver = has_driver();
    let gpus = if driver { gpus() } else { Err("no NVIDIA driver is installed (libcuda.so was not found)".into()) };
    let libraries = vec![
        Library {
            name: "driver (libcuda)",
            purpose: "everything on NVIDIA GPUs",
            is_present: driver,
            advice: "install NVIDIA's driver",
        },
        Library {
            name: "cuBLASLt 12 or 13",
            purpose: "matrix products",
            is_present: has_cublas(),
            advice: "pip install nvidia-cublas (drivers from 580 on) or nvidia-cublas-cu12, or set NPC_CUDA_LIBS to the folder that holds libcublasLt.so.13 or .12",
        },
        Library {
            name: "cuDNN 9",
            purpose: "faster convolutions; npc's own kernels take its place",
            is_present: has_cudnn(),
            advice: "pip install nvidia-cudnn-cu13 or nvidia-cudnn-cu12, or set NPC_CUDA_LIBS to the folder that holds libcudnn.so.9",
        },
    ];
    Found { gpus, libraries }
}

fn gpus() -> Result<Vec<GpuInfo>, String> {
    cudarc::driver::result::init().map_err(reason)?;
    let count = cudarc::driver::result::device::get_count().map_err(reason)?;
    (0..usize::try_from(count).unwrap_or(0)).map(|ordinal| describe(ordinal).map_err(reason)).collect()
}

fn describe(ordinal: usize) -> Result<GpuInfo, cudarc::driver::DriverError> {
    let context = CudaContext::new(ordinal)?;
    Ok(GpuInfo {
        ordinal,
        name: context.name()?,
        capability: context.compute_capability()?,
        memory: context.mem_get_info()?,
        multiprocessors: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        cache: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
    })
}
