//! The library's C functions, under the names of NVIDIA's headers.
//!
//! # Safety
//! As the real ones: pointers that are read or written are valid. Everything else is checked.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

use super::check::{FLOAT, check, fingerprint, size};
use super::{Description, Layout, Preference, Product};
use crate::driver::{Driver, Handle, call_library};
use crate::objects::{destroy, object, object_mut};
use crate::refusal::{Answer, misuse, refuse};
use crate::work::Work;
use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatrixLayout_t, cublasStatus_t as Status, cudaStream_t,
};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

/// Workspace that the algorithms take, where they may.
const WORKSPACE: u64 = 1 << 20;
/// Marks an algorithm that the heuristic gave.
const MARK: u64 = 0x6e70_635f_616c_676f;
/// `CUBLASLT_REDUCTION_SCHEME_INPLACE`: its results depend on which block comes first.
const IN_PLACE: u32 = 1;

fn call(name: &str, body: impl FnOnce(&mut Driver) -> Answer<(), Status>) -> Status {
    call_library(name, Status::CUBLAS_STATUS_NOT_SUPPORTED, body).err().unwrap_or(Status::CUBLAS_STATUS_SUCCESS)
}

/// For objects that are not there.
const MISSING: Status = Status::CUBLAS_STATUS_INVALID_VALUE;

/// # Safety
/// `value` has `bytes` bytes.
unsafe fn bytes<'a>(value: *const c_void, bytes: usize) -> &'a [u8] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(value.cast(), bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut cublasLtHandle_t) -> Status {
    call("cublasLtCreate", |driver| {
        driver.has_context().map_err(|r| r.with(Status::CUBLAS_STATUS_NOT_INITIALIZED))?;
        let made = driver.handle();
        driver.lt.handles.insert(made);
        // SAFETY: the caller's.
        unsafe { handle.write(made as cublasLtHandle_t) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: cublasLtHandle_t) -> Status {
    call("cublasLtDestroy", |driver| match driver.lt.handles.remove(&(handle as Handle)) {
        true => Ok(()),
        false => misuse(Status::CUBLAS_STATUS_NOT_INITIALIZED, "there is no such handle"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut cublasLtMatrixLayout_t,
    dtype: c_uint,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    call("cublasLtMatrixLayoutCreate", |driver| {
        let made = driver.handle();
        driver.lt.layouts.insert(made, Layout { dtype, rows, columns, leading, batch: 1, stride: 0 });
        // SAFETY: the caller's.
        unsafe { layout.write(made as cublasLtMatrixLayout_t) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: cublasLtMatrixLayout_t,
    attribute: c_uint,
    value: *const c_void,
    size: usize,
) -> Status {
    call("cublasLtMatrixLayoutSetAttribute", |driver| {
        let layout = object_mut(&mut driver.lt.layouts, layout as Handle, "layout", MISSING)?;
        // SAFETY: the caller's value has so many bytes.
        layout.set(attribute, unsafe { bytes(value, size) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: cublasLtMatrixLayout_t) -> Status {
    call("cublasLtMatrixLayoutDestroy", |driver| destroy(&mut driver.lt.layouts, layout as Handle, "layout", MISSING))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    description: *mut cublasLtMatmulDesc_t,
    compute: c_uint,
    scale: c_uint,
) -> Status {
    call("cublasLtMatmulDescCreate", |driver| {
        let made = driver.handle();
        let (transposes, epilogue) = ([0; 2], 1);
        let new = Description { compute, scale, transposes, epilogue, bias: 0, aux: 0, aux_leading: 0 };
        driver.lt.descriptions.insert(made, new);
        // SAFETY: the caller's.
        unsafe { description.write(made as cublasLtMatmulDesc_t) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: cublasLtMatmulDesc_t,
    attribute: c_uint,
    value: *const c_void,
    size: usize,
) -> Status {
    let handle = description as Handle;
    call("cublasLtMatmulDescSetAttribute", |driver| {
        let description = object_mut(&mut driver.lt.descriptions, handle, "description", MISSING)?;
        // SAFETY: the caller's value has so many bytes.
        description.set(attribute, unsafe { bytes(value, size) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(description: cublasLtMatmulDesc_t) -> Status {
    let handle = description as Handle;
    call("cublasLtMatmulDescDestroy", |driver| destroy(&mut driver.lt.descriptions, handle, "description", MISSING))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut cublasLtMatmulPreference_t) -> Status {
    call("cublasLtMatmulPreferenceCreate", |driver| {
        let made = driver.handle();
        driver.lt.preferences.insert(made, Preference::default());
        // SAFETY: the caller's.
        unsafe { preference.write(made as cublasLtMatmulPreference_t) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: cublasLtMatmulPreference_t,
    attribute: c_uint,
    value: *const c_void,
    size: usize,
) -> Status {
    let handle = preference as Handle;
    call("cublasLtMatmulPreferenceSetAttribute", |driver| {
        let preference = object_mut(&mut driver.lt.preferences, handle, "preference", MISSING)?;
        // SAFETY: the caller's value has so many bytes.
        preference.set(attribute, unsafe { bytes(value, size) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t) -> Status {
    let handle = preference as Handle;
    call("cublasLtMatmulPreferenceDestroy", |driver| destroy(&mut driver.lt.preferences, handle, "preference", MISSING))
}

impl Driver {
    fn described(
        &self,
        handle: cublasLtHandle_t,
        description: cublasLtMatmulDesc_t,
        layouts: [cublasLtMatrixLayout_t; 4],
    ) -> Answer<(Description, [Layout; 4]), Status> {
        if !self.lt.handles.contains(&(handle as Handle)) {
            return misuse(Status::CUBLAS_STATUS_NOT_INITIALIZED, "there is no such handle");
        }
        let found = *object(&self.lt.descriptions, description as Handle, "description", MISSING)?;
        let layout = |at: usize| object(&self.lt.layouts, layouts[at] as Handle, "layout", MISSING).copied();
        Ok((found, [layout(0)?, layout(1)?, layout(2)?, layout(3)?]))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: cublasLtHandle_t,
    description: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    preference: cublasLtMatmulPreference_t,
    wanted: c_int,
    results: *mut cublasLtMatmulHeuristicResult_t,
    count: *mut c_int,
) -> Status {
    call("cublasLtMatmulAlgoGetHeuristic", |driver| {
        let (description, layouts) = driver.described(handle, description, [a, b, c, d])?;
        let preference = *object(&driver.lt.preferences, preference as Handle, "preference", MISSING)?;
        if wanted < 1 {
            return misuse(Status::CUBLAS_STATUS_INVALID_VALUE, "no results are wanted");
        }
        // SAFETY: the caller's.
        unsafe { count.write(0) };
        check(&description, &layouts)?;
        let refused = [
            ("epilogues", description.epilogue != 1),
            ("factors of 16 bits", layouts[0].dtype != FLOAT),
            ("results of 16 bits", layouts[3].dtype != FLOAT),
        ];
        if refused.into_iter().any(|(what, is_it)| is_it && driver.settings().refuses(what)) {
            return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, "as was asked for");
        }
        let sizes = layouts.map(|layout| size(layout.dtype));
        let is_wrong = |(bytes, size): (&u32, &u64)| !bytes.is_power_of_two() || u64::from(*bytes) < *size;
        if preference.alignment.iter().zip(&sizes).any(is_wrong) {
            return misuse(Status::CUBLAS_STATUS_INVALID_VALUE, format!("{preference:?}"));
        }
        if preference.reductions & IN_PLACE != 0 {
            let why = "npc: an algorithm may be chosen whose results are not the same every time";
            return misuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why);
        }
        let workspace = WORKSPACE.min(preference.workspace);
        let [a, b, c, d] = preference.alignment.map(u64::from);
        let data = [fingerprint(&description, &layouts), a, b, c, d, workspace, 0, MARK];
        // SAFETY: the caller has room for `wanted` results, at least one; every field may be zero.
        unsafe {
            let mut result: cublasLtMatmulHeuristicResult_t = std::mem::zeroed();
            result.algo = cublasLtMatmulAlgo_t { data };
            result.workspaceSize = workspace as usize;
            results.write(result);
            count.write(1);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: cublasLtHandle_t,
    description: cublasLtMatmulDesc_t,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: cublasLtMatrixLayout_t,
    b: *const c_void,
    b_layout: cublasLtMatrixLayout_t,
    beta: *const c_void,
    c: *const c_void,
    c_layout: cublasLtMatrixLayout_t,
    d: *mut c_void,
    d_layout: cublasLtMatrixLayout_t,
    algorithm: *const cublasLtMatmulAlgo_t,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: cudaStream_t,
) -> Status {
    call("cublasLtMatmul", |driver| {
        driver.has_context().map_err(|r| r.with(Status::CUBLAS_STATUS_EXECUTION_FAILED))?;
        let wrong = |why: String| misuse(Status::CUBLAS_STATUS_INVALID_VALUE, why);
        let (description, layouts) = driver.described(handle, description, [a_layout, b_layout, c_layout, d_layout])?;
        let shape = check(&description, &layouts)?;
        if alpha.is_null() || beta.is_null() || algorithm.is_null() {
            return wrong("alpha, beta or the algorithm is null".into());
        }
        // SAFETY: not null; factors of a float product are floats on the host.
        let (alpha, beta, algorithm) = unsafe { (*alpha.cast::<f32>(), *beta.cast::<f32>(), (*algorithm).data) };
        let addresses = [a as u64, b as u64, c as u64, d as u64];
        let [number, promised @ .., needed, _, mark] = algorithm;
        if mark != MARK || number != fingerprint(&description, &layouts) {
            return wrong("the algorithm was chosen for another product".into());
        }
        if let Some((at, to)) = addresses.iter().zip(promised).find(|(at, to)| !at.is_multiple_of(*to)) {
            return wrong(format!("{at:#x} is no multiple of {to}, as was promised"));
        }
        if (workspace_bytes as u64) < needed {
            return wrong(format!("the algorithm needs {needed} bytes to work in, not {workspace_bytes}"));
        }
        let work_at = workspace as u64;
        if workspace_bytes > 0 && (!work_at.is_multiple_of(256) || !driver.holds(work_at, workspace_bytes as u64)) {
            return wrong(format!("the workspace at {work_at:#x} is not there, or no multiple of 256"));
        }
        if beta != 0.0 && addresses[2] == addresses[3] && layouts[2] != layouts[3] {
            return wrong("C and D are the same memory, and their layouts differ".into());
        }
        let product = Product { shape, description, layouts, addresses, alpha, beta };
        driver
            .push(stream as u64, Work::Product(Arc::new(product)))
            .map_err(|r| r.with(Status::CUBLAS_STATUS_EXECUTION_FAILED))
    })
}
