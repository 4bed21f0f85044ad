//! Handles and descriptors: the library's C functions, under the names of NVIDIA's headers.
//!
//! # Safety
//! As the real ones: pointers that are read or written are valid. Everything else is checked.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use super::description::numbers;
use super::{Filter, Tables, Tensor, Window, shape};
use crate::driver::{Driver, Handle, call_library};
use crate::objects::{destroy, object, object_mut};
use crate::refusal::{Answer, misuse};
use cudarc::cudnn::sys::{
    cudaStream_t, cudnnConvolutionDescriptor_t, cudnnConvolutionMode_t as Mode, cudnnDataType_t as DataType,
    cudnnFilterDescriptor_t, cudnnHandle_t, cudnnStatus_t as Status, cudnnTensorDescriptor_t,
    cudnnTensorFormat_t as Format,
};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};

const BAD: Status = Status::CUDNN_STATUS_BAD_PARAM;
/// The last of `cudnnMathType_t`.
const LAST_MATH: u32 = 3;

pub fn call(name: &str, body: impl FnOnce(&mut Driver) -> Answer<(), Status>) -> Status {
    call_library(name, Status::CUDNN_STATUS_NOT_SUPPORTED, body).err().unwrap_or(Status::CUDNN_STATUS_SUCCESS)
}

/// What a descriptor holds.
pub fn held<T: Clone>(table: &BTreeMap<Handle, Option<T>>, handle: Handle, what: &str) -> Answer<T, Status> {
    match object(table, handle, what, BAD)? {
        Some(held) => Ok(held.clone()),
        None => misuse(BAD, format!("the {what} {handle:#x} was never set")),
    }
}

impl Driver {
    /// The stream of a handle.
    pub fn dnn_stream(&self, handle: cudnnHandle_t) -> Answer<Handle, Status> {
        object(&self.dnn.handles, handle as Handle, "cuDNN handle", Status::CUDNN_STATUS_NOT_INITIALIZED).copied()
    }
}

/// # Safety
/// `values` has `count` elements.
unsafe fn list<'a>(what: &str, values: *const c_int, count: c_int) -> Answer<&'a [c_int], Status> {
    if values.is_null() || !(0..=8).contains(&count) {
        return misuse(BAD, format!("{count} {what} at {values:p}"));
    }
    // SAFETY: the caller's.
    Ok(unsafe { std::slice::from_raw_parts(values, count as usize) })
}

/// Samples, channels, and the axes that are built: two or three.
fn has_axes(axes: usize) -> Answer<(), Status> {
    match axes {
        2 | 3 => Ok(()),
        other => misuse(BAD, format!("not built: {other} axes")),
    }
}

fn is_float(dtype: c_uint) -> Answer<(), Status> {
    match dtype == DataType::CUDNN_DATA_FLOAT as u32 {
        true => Ok(()),
        false => misuse(BAD, format!("not built: elements of type {dtype}")),
    }
}

/// It takes memory on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnCreate(handle: *mut cudnnHandle_t) -> Status {
    call("cudnnCreate", |driver| {
        driver.has_context().map_err(|r| r.with(Status::CUDNN_STATUS_NOT_INITIALIZED))?;
        driver.outside_captures("opening cuDNN").map_err(|r| r.with(Status::CUDNN_STATUS_INTERNAL_ERROR))?;
        if handle.is_null() {
            return misuse(BAD, "there is no room for the result");
        }
        let made = driver.handle();
        driver.dnn.handles.insert(made, 0);
        // SAFETY: the caller's, and not null.
        unsafe { handle.write(made as cudnnHandle_t) };
        Ok(())
    })
}

/// It waits for the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnDestroy(handle: cudnnHandle_t) -> Status {
    call("cudnnDestroy", |driver| {
        driver.has_context().map_err(|r| r.with(Status::CUDNN_STATUS_EXECUTION_FAILED))?;
        driver.outside_captures("closing cuDNN").map_err(|r| r.with(Status::CUDNN_STATUS_INTERNAL_ERROR))?;
        let missing = Status::CUDNN_STATUS_NOT_INITIALIZED;
        destroy(&mut driver.dnn.handles, handle as Handle, "cuDNN handle", missing)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetStream(handle: cudnnHandle_t, stream: cudaStream_t) -> Status {
    call("cudnnSetStream", |driver| {
        driver.dnn_stream(handle)?;
        driver.stream(stream as Handle).map_err(|r| r.with(BAD))?;
        driver.dnn.handles.insert(handle as Handle, stream as Handle);
        Ok(())
    })
}

/// Makes a descriptor that holds nothing.
unsafe fn make<T, D>(
    name: &str,
    table: impl FnOnce(&mut Tables) -> &mut BTreeMap<Handle, Option<T>>,
    to: *mut *mut D,
) -> Status {
    call(name, |driver| {
        if to.is_null() {
            return misuse(BAD, "there is no room for the result");
        }
        let made = driver.handle();
        table(&mut driver.dnn).insert(made, None);
        // SAFETY: the caller's, and not null.
        unsafe { to.write(made as *mut D) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnCreateTensorDescriptor(to: *mut cudnnTensorDescriptor_t) -> Status {
    // SAFETY: the caller's.
    unsafe { make("cudnnCreateTensorDescriptor", |tables| &mut tables.tensors, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnCreateFilterDescriptor(to: *mut cudnnFilterDescriptor_t) -> Status {
    // SAFETY: the caller's.
    unsafe { make("cudnnCreateFilterDescriptor", |tables| &mut tables.filters, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnCreateConvolutionDescriptor(to: *mut cudnnConvolutionDescriptor_t) -> Status {
    // SAFETY: the caller's.
    unsafe { make("cudnnCreateConvolutionDescriptor", |tables| &mut tables.windows, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnDestroyTensorDescriptor(descriptor: cudnnTensorDescriptor_t) -> Status {
    call("cudnnDestroyTensorDescriptor", |driver| {
        destroy(&mut driver.dnn.tensors, descriptor as Handle, "tensor descriptor", BAD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnDestroyFilterDescriptor(descriptor: cudnnFilterDescriptor_t) -> Status {
    call("cudnnDestroyFilterDescriptor", |driver| {
        destroy(&mut driver.dnn.filters, descriptor as Handle, "filter descriptor", BAD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnDestroyConvolutionDescriptor(descriptor: cudnnConvolutionDescriptor_t) -> Status {
    call("cudnnDestroyConvolutionDescriptor", |driver| {
        destroy(&mut driver.dnn.windows, descriptor as Handle, "convolution descriptor", BAD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetTensorNdDescriptor(
    descriptor: cudnnTensorDescriptor_t,
    dtype: c_uint,
    rank: c_int,
    extents: *const c_int,
    strides: *const c_int,
) -> Status {
    call("cudnnSetTensorNdDescriptor", |driver| {
        let place = object_mut(&mut driver.dnn.tensors, descriptor as Handle, "tensor descriptor", BAD)?;
        // SAFETY: the caller's arrays have so many elements.
        let (extents, strides) = unsafe { (list("extents", extents, rank)?, list("distances", strides, rank)?) };
        is_float(dtype)?;
        has_axes(extents.len().saturating_sub(2))?;
        *place = Some(Tensor::new(extents, strides)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetFilterNdDescriptor(
    descriptor: cudnnFilterDescriptor_t,
    dtype: c_uint,
    format: c_uint,
    rank: c_int,
    extents: *const c_int,
) -> Status {
    call("cudnnSetFilterNdDescriptor", |driver| {
        let place = object_mut(&mut driver.dnn.filters, descriptor as Handle, "filter descriptor", BAD)?;
        // SAFETY: the caller's array has so many elements.
        let extents = unsafe { list("extents", extents, rank)? };
        is_float(dtype)?;
        if format != Format::CUDNN_TENSOR_NCHW as u32 {
            return misuse(BAD, format!("not built: filters of format {format}"));
        }
        has_axes(extents.len().saturating_sub(2))?;
        *place = Some(Filter::new(extents)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetConvolutionNdDescriptor(
    descriptor: cudnnConvolutionDescriptor_t,
    axes: c_int,
    pads: *const c_int,
    strides: *const c_int,
    dilations: *const c_int,
    mode: c_uint,
    dtype: c_uint,
) -> Status {
    call("cudnnSetConvolutionNdDescriptor", |driver| {
        let place = object_mut(&mut driver.dnn.windows, descriptor as Handle, "convolution descriptor", BAD)?;
        is_float(dtype)?;
        if mode != Mode::CUDNN_CROSS_CORRELATION as u32 {
            return misuse(BAD, format!("not built: convolutions of mode {mode}"));
        }
        // SAFETY: the caller's arrays have so many elements.
        let [pads, strides, dilations] = unsafe {
            let [pads, strides, dilations] = [("pads", pads, 0), ("strides", strides, 1), ("dilations", dilations, 1)]
                .map(|(what, values, least)| numbers(what, list(what, values, axes)?, least));
            [pads?, strides?, dilations?]
        };
        has_axes(pads.len())?;
        *place = Some(Window { pads, strides, dilations, groups: 1, math: 0 });
        Ok(())
    })
}

/// Changes a convolution that was described.
fn change(
    name: &str,
    descriptor: cudnnConvolutionDescriptor_t,
    change: impl FnOnce(&mut Window) -> Answer<(), Status>,
) -> Status {
    call(name, |driver| {
        match object_mut(&mut driver.dnn.windows, descriptor as Handle, "convolution descriptor", BAD)? {
            Some(window) => change(window),
            None => misuse(BAD, "npc: the convolution is described afterwards"),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetConvolutionGroupCount(
    descriptor: cudnnConvolutionDescriptor_t,
    groups: c_int,
) -> Status {
    change("cudnnSetConvolutionGroupCount", descriptor, |window| {
        window.groups = numbers("groups", &[groups], 1)?[0];
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnSetConvolutionMathType(descriptor: cudnnConvolutionDescriptor_t, math: c_uint) -> Status {
    change("cudnnSetConvolutionMathType", descriptor, |window| {
        window.math = math;
        match math {
            0..=LAST_MATH => Ok(()),
            _ => misuse(BAD, format!("math type {math}")),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetConvolutionNdForwardOutputDim(
    descriptor: cudnnConvolutionDescriptor_t,
    x: cudnnTensorDescriptor_t,
    w: cudnnFilterDescriptor_t,
    rank: c_int,
    extents: *mut c_int,
) -> Status {
    call("cudnnGetConvolutionNdForwardOutputDim", |driver| {
        let window = held(&driver.dnn.windows, descriptor as Handle, "convolution descriptor")?;
        let x = held(&driver.dnn.tensors, x as Handle, "tensor descriptor")?;
        let w = held(&driver.dnn.filters, w as Handle, "filter descriptor")?;
        let found = shape::result(&x, &w, &window)?;
        if extents.is_null() || rank != found.len() as c_int {
            return misuse(BAD, format!("{rank} extents are asked for, there are {}", found.len()));
        }
        let found: Vec<c_int> = found.into_iter().map(|extent| extent as c_int).collect();
        // SAFETY: the caller has room for so many.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), extents, found.len()) };
        Ok(())
    })
}
