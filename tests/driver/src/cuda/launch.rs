//! Modules, kernels and their launches.

use super::give;
use crate::driver::{Function, Loaded, Needs, call};
use crate::refusal::{Answer, misuse, refuse};
use crate::work::{Kernel, Work};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUmodule, CUresult, CUstream};
use npc_ptx_interpreter as ptx;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared memory that a block may have without asking for more, and the most that it may ask for.
const SHARED: u32 = 48 << 10;
const SHARED_LIMIT: u32 = 163 << 10;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> CUresult {
    call("cuModuleLoadData", Needs::Context, |driver| {
        driver.outside_captures("loading a module")?;
        if image.is_null() {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "there is no image");
        }
        // SAFETY: the caller's image is PTX that ends with a zero.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
        match ptx::Module::parse(&text) {
            Ok(parsed) => {
                let handle = driver.handle();
                let loaded = Loaded { module: parsed, unloaded: AtomicBool::new(false) };
                driver.modules.insert(handle, Arc::new(loaded));
                // SAFETY: the caller's.
                unsafe { give(module, handle as CUmodule) }
            }
            Err(error) => misuse(CUresult::CUDA_ERROR_INVALID_PTX, error.to_string()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    call("cuModuleUnload", Needs::Context, |driver| {
        driver.outside_captures("unloading a module")?;
        let Some(loaded) = driver.modules.remove(&(module as u64)) else {
            return misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no module {module:p}"));
        };
        loaded.unloaded.store(true, Ordering::Relaxed);
        driver.functions.retain(|_, function| function.of != module as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    call("cuModuleGetFunction", Needs::Context, |driver| {
        let Some(loaded) = driver.modules.get(&(module as u64)).cloned() else {
            return misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no module {module:p}"));
        };
        // SAFETY: the caller's name ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        if loaded.module.kernel(&name).is_none() {
            return misuse(CUresult::CUDA_ERROR_NOT_FOUND, format!("the module has no kernel `{name}`"));
        }
        let handle = driver.handle();
        driver.functions.insert(handle, Function { module: loaded, of: module as u64, name, dynamic_shared: 0 });
        // SAFETY: the caller's.
        unsafe { give(function, handle as CUfunction) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: CUfunction, attribute: c_uint, value: c_int) -> CUresult {
    call("cuFuncSetAttribute", Needs::Context, |driver| {
        let Some(found) = driver.functions.get_mut(&(function as u64)) else {
            return misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no kernel {function:p}"));
        };
        if attribute != Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_uint {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("not built: attribute {attribute}"));
        }
        let shared = found.module.module.kernel(&found.name).map_or(0, ptx::Kernel::shared_bytes);
        match u32::try_from(value).ok().filter(|bytes| bytes.saturating_add(shared) <= SHARED_LIMIT) {
            Some(bytes) => {
                found.dynamic_shared = bytes;
                Ok(())
            }
            None => misuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{value} bytes of shared memory")),
        }
    })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    call("cuLaunchKernel", Needs::Context, |driver| {
        let Some(found) = driver.functions.get(&(function as u64)) else {
            return misuse(CUresult::CUDA_ERROR_INVALID_HANDLE, format!("there is no kernel {function:p}"));
        };
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let kernel = found.module.module.kernel(&found.name);
        let kernel = kernel.ok_or(()).or_else(|()| misuse(CUresult::CUDA_ERROR_NOT_FOUND, "the kernel is gone"))?;
        if driver.settings().refuses(&format!("kernel:{}", found.name)) {
            return refuse(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "as was asked for");
        }
        fits(kernel, grid, block)?;
        let static_shared = kernel.shared_bytes();
        if static_shared.saturating_add(shared) > SHARED && shared > found.dynamic_shared {
            let why =
                format!("{shared} bytes of dynamic shared memory beside {static_shared}, and no more was asked for");
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        if !extra.is_null() {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, "not built: parameters in one buffer");
        }
        // SAFETY: the caller's array has a pointer for each parameter, and each points to as many bytes as that takes.
        let arguments = unsafe { copied(kernel, parameters) }?;
        let (module, name) = (found.module.clone(), found.name.clone());
        let kernel_of = (found.of, name.clone());
        let is_loaded = driver.started.contains(&kernel_of);
        match &mut driver.stream(stream as u64)?.capture {
            Some(capture) if !is_loaded => {
                capture.is_valid = false;
                let why = format!(
                    "`{name}` starts for the first time, and may have to be loaded, while a stream is captured"
                );
                return misuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, why);
            }
            Some(_) => {}
            None => {
                driver.started.insert(kernel_of);
            }
        }
        driver.push(stream as u64, Work::Kernel(Arc::new(Kernel { module, name, grid, block, shared, arguments })))
    })
}

fn fits(kernel: &ptx::Kernel, grid: [u32; 3], block: [u32; 3]) -> Answer {
    let limits = [0x7fff_ffff, 0xffff, 0xffff, 1024, 1024, 64];
    let sizes = grid.into_iter().chain(block);
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    let most = kernel.max_threads().unwrap_or(1024).min(1024);
    if sizes.clone().zip(limits).any(|(size, limit)| size == 0 || size > limit) || threads > most {
        let why = format!("`{}` with a grid of {grid:?} blocks of {block:?} threads", kernel.name());
        return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
    }
    Ok(())
}

unsafe fn copied(kernel: &ptx::Kernel, parameters: *mut *mut c_void) -> Answer<Vec<ptx::Argument>> {
    let sizes: Vec<usize> = kernel.parameter_sizes().collect();
    let missing =
        |index: usize| format!("`{}` takes {} parameters; number {index} is null", kernel.name(), sizes.len());
    if parameters.is_null() && !sizes.is_empty() {
        return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, missing(0));
    }
    let one = |(index, bytes): (usize, &usize)| {
        // SAFETY: the caller's array has so many pointers.
        let pointer = unsafe { *parameters.add(index) }.cast::<u8>();
        if pointer.is_null() {
            return misuse(CUresult::CUDA_ERROR_INVALID_VALUE, missing(index));
        }
        // SAFETY: the caller's parameter has so many bytes.
        Ok(ptx::Argument::Bytes(unsafe { std::slice::from_raw_parts(pointer, *bytes) }.to_vec()))
    };
    sizes.iter().enumerate().map(one).collect()
}
