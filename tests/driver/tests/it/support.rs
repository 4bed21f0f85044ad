//! A program in the driver's own words.

use cudarc::driver::sys::{CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUresult, CUstream};
use npc_test_driver::cuda::*;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;

pub const OK: CUresult = CUresult::CUDA_SUCCESS;
pub const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
pub const HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;

/// Doubles as many 32-bit numbers as there are threads in a block.
const TWICE: &str = ".version 7.0
.target sm_70
.address_size 64
.visible .entry twice(.param .u64 data) {
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r2, [%rd3];
    add.s32 %r2, %r2, %r2;
    st.global.u32 [%rd3], %r2;
    ret;
}";

pub fn is_ok(result: CUresult) {
    assert_eq!(result, OK);
}

/// Opens the device; the context is the thread's.
pub fn open() {
    let mut context = null_mut();
    // SAFETY: the result has room.
    unsafe {
        is_ok(cuInit(0));
        is_ok(cuDevicePrimaryCtxRetain(&raw mut context, 0));
        is_ok(cuCtxSetCurrent(context));
    }
}

pub fn close() {
    // SAFETY: takes nothing.
    is_ok(unsafe { cuDevicePrimaryCtxRelease_v2(0) });
}

pub fn allocate(bytes: usize) -> u64 {
    let mut pointer = 0;
    // SAFETY: the result has room.
    is_ok(unsafe { cuMemAlloc_v2(&raw mut pointer, bytes) });
    pointer
}

pub fn free(pointer: u64) -> CUresult {
    // SAFETY: the driver checks the pointer.
    unsafe { cuMemFree_v2(pointer) }
}

pub fn pinned(bytes: usize) -> *mut u8 {
    let mut pointer = null_mut();
    // SAFETY: the result has room.
    is_ok(unsafe { cuMemHostAlloc(&raw mut pointer, bytes, 0) });
    pointer.cast()
}

pub fn stream() -> CUstream {
    let mut stream = null_mut();
    // SAFETY: the result has room.
    is_ok(unsafe { cuStreamCreate(&raw mut stream, 1) });
    stream
}

pub fn event() -> CUevent {
    let mut event = null_mut();
    // SAFETY: the result has room.
    is_ok(unsafe { cuEventCreate(&raw mut event, 2) });
    event
}

pub fn upload(to: u64, values: &[u32], stream: CUstream) -> CUresult {
    // SAFETY: as many bytes as there are.
    unsafe { cuMemcpyHtoDAsync_v2(to, values.as_ptr().cast(), size_of_val(values), stream) }
}

pub fn download(from: u64, count: usize, stream: CUstream) -> Result<Vec<u32>, CUresult> {
    let mut values = vec![0u32; count];
    // SAFETY: as many bytes as there are.
    match unsafe { cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), from, 4 * count, stream) } {
        OK => Ok(values),
        error => Err(error),
    }
}

pub fn wait(stream: CUstream) -> CUresult {
    // SAFETY: the driver checks the stream.
    unsafe { cuStreamSynchronize(stream) }
}

pub fn module() -> (CUmodule, CUfunction) {
    let (mut module, mut function) = (null_mut(), null_mut());
    let (text, name) = (CString::new(TWICE).unwrap(), c"twice");
    // SAFETY: both texts end with a zero.
    unsafe {
        is_ok(cuModuleLoadData(&raw mut module, text.as_ptr().cast()));
        is_ok(cuModuleGetFunction(&raw mut function, module, name.as_ptr()));
    }
    (module, function)
}

pub struct Launch {
    pub grid: u32,
    pub block: u32,
    pub shared: u32,
}

pub fn launch(function: CUfunction, how: &Launch, data: u64, stream: CUstream) -> CUresult {
    let mut data = data;
    let mut parameters: [*mut c_void; 1] = [(&raw mut data).cast()];
    let Launch { grid, block, shared } = *how;
    // SAFETY: the kernel takes one pointer.
    unsafe { cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, parameters.as_mut_ptr(), null_mut()) }
}

pub fn twice(function: CUfunction, data: u64, stream: CUstream) -> CUresult {
    launch(function, &Launch { grid: 1, block: 4, shared: 0 }, data, stream)
}

pub fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut executable = null_mut();
    // SAFETY: the result has room.
    is_ok(unsafe { cuGraphInstantiateWithFlags(&raw mut executable, graph, 0) });
    executable
}

/// That the report has exactly one line, with these words.
pub fn is_one(lines: &[String], words: &str) {
    let rest: Vec<&String> = lines.iter().filter(|line| !line.starts_with("end:")).collect();
    assert!(rest.len() == 1 && rest[0].contains(words), "{words}: {lines:#?}");
}

/// That nothing was found.
pub fn is_clean(lines: &[String]) {
    assert!(lines.len() == 1 && lines[0].starts_with("end:"), "{lines:#?}");
}
