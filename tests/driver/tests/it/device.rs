//! Contexts, memory, modules, launches, leaks.

use crate::support::*;
use cudarc::driver::sys::{CUresult, CUstream};
use npc_test_driver::alone;
use npc_test_driver::cuda::*;
use std::ptr::null_mut;

#[test]
fn right_use_passes_and_is_counted() {
    let lines = alone(&[], || {
        open();
        let (module, function) = module();
        let (data, stream) = (allocate(16), stream());
        is_ok(upload(data, &[1, 2, 3, 4], stream));
        is_ok(twice(function, data, stream));
        assert_eq!(download(data, 4, stream).unwrap(), [2, 4, 6, 8]);
        is_ok(free(data));
        // SAFETY: made above.
        unsafe {
            is_ok(cuModuleUnload(module));
            is_ok(cuStreamDestroy_v2(stream));
        }
        close();
    });
    let counted =
        "end: 1 kernels, 0 products, 0 of 16-bit factors, 0 to 16 bits, 0 convolutions, 0 graph launches, 2 copies";
    assert_eq!(lines, [counted]);
}

#[test]
fn a_driver_that_was_not_initialised() {
    let lines = alone(&[], || {
        let mut count = 0;
        // SAFETY: the result has room.
        let result = unsafe { cuDeviceGetCount(&raw mut count) };
        assert_eq!(result, CUresult::CUDA_ERROR_NOT_INITIALIZED);
    });
    is_one(&lines, "cuInit was not called");
}

#[test]
fn a_thread_without_a_context() {
    let lines = alone(&[], || {
        open();
        let other = std::thread::spawn(|| {
            let mut pointer = 0;
            // SAFETY: the result has room.
            unsafe { cuMemAlloc_v2(&raw mut pointer, 4) }
        });
        assert_eq!(other.join().unwrap(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        close();
    });
    is_one(&lines, "cuMemAlloc_v2: the thread has no context");
}

#[test]
fn a_context_that_is_gone() {
    let lines = alone(&[], || {
        open();
        close();
        assert_eq!(free(256), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
    is_one(&lines, "the thread has no context");
}

#[test]
fn memory_freed_twice() {
    let lines = alone(&[], || {
        open();
        let data = allocate(16);
        is_ok(free(data));
        assert_eq!(free(data), INVALID);
        close();
    });
    is_one(&lines, "cuMemFree_v2: no live allocation begins at");
}

#[test]
fn memory_that_is_not_there() {
    let lines = alone(&[("MEMORY_MIB", "1")], || {
        open();
        let mut pointer = 0;
        // SAFETY: the result has room.
        let result = unsafe { cuMemAlloc_v2(&raw mut pointer, (1 << 20) + 1) };
        assert_eq!(result, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let data = allocate(1 << 19);
        let (mut free_bytes, mut total) = (0, 0);
        // SAFETY: the results have room.
        is_ok(unsafe { cuMemGetInfo_v2(&raw mut free_bytes, &raw mut total) });
        assert_eq!((free_bytes, total), (1 << 19, 1 << 20));
        is_ok(free(data));
        close();
    });
    is_clean(&lines);
}

#[test]
fn copies_out_of_bounds_and_after_the_end() {
    let lines = alone(&[], || {
        open();
        let (data, stream) = (allocate(16), stream());
        assert_eq!(upload(data, &[0; 5], stream), INVALID);
        assert_eq!(upload(data + 4, &[0; 4], stream), INVALID);
        assert_eq!(download(data - 4, 1, stream), Err(INVALID));
        is_ok(free(data));
        assert_eq!(upload(data, &[0; 1], stream), INVALID);
        // SAFETY: made above.
        is_ok(unsafe { cuStreamDestroy_v2(stream) });
        close();
    });
    assert_eq!(lines.iter().filter(|line| line.contains("do not lie in one live allocation")).count(), 4, "{lines:#?}");
}

#[test]
fn memory_freed_before_its_kernel_runs() {
    let lines = alone(&[], || {
        open();
        let (_, function) = module();
        let (data, stream) = (allocate(16), stream());
        is_ok(upload(data, &[0; 4], stream));
        is_ok(twice(function, data, stream));
        is_ok(free(data));
        // The copy comes first.
        assert_eq!(wait(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        // Everything fails from then on.
        assert_eq!(wait(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    assert!(lines[0].starts_with("fault: a copy from the host") && lines[0].contains("which was freed"), "{lines:#?}");
}

#[test]
fn a_kernel_out_of_bounds() {
    let lines = alone(&[], || {
        open();
        let (_, function) = module();
        let (data, stream) = (allocate(12), stream());
        is_ok(upload(data, &[0; 3], stream));
        is_ok(twice(function, data, stream));
        assert_eq!(wait(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    assert!(lines[0].starts_with("fault: ") && lines[0].contains("kernel `twice`"), "{lines:#?}");
}

#[test]
fn memory_read_before_it_is_written() {
    let lines = alone(&[], || {
        open();
        let (data, stream) = (allocate(16), stream());
        assert!(download(data, 4, stream).is_err());
    });
    assert!(lines[0].contains("never written"), "{lines:#?}");
}

#[test]
fn launches_that_no_device_takes() {
    let lines = alone(&[], || {
        open();
        let (_, function) = module();
        let (data, stream) = (allocate(16), stream());
        let wrong = [(0, 4, 0), (1, 0, 0), (1, 1025, 0), (1, 4, (48 << 10) + 1)];
        for (grid, block, shared) in wrong {
            assert_eq!(launch(function, &Launch { grid, block, shared }, data, stream), INVALID);
        }
        let mut parameters = [null_mut()];
        // SAFETY: the array has as many pointers as the kernel takes.
        let missing =
            unsafe { cuLaunchKernel(function, 1, 1, 1, 4, 1, 1, 0, stream, parameters.as_mut_ptr(), null_mut()) };
        assert_eq!(missing, INVALID);
        // Asked for, it is there.
        // SAFETY: the driver checks the kernel.
        is_ok(unsafe { cuFuncSetAttribute(function, 8, 64 << 10) });
        is_ok(upload(data, &[0; 4], stream));
        is_ok(launch(function, &Launch { grid: 1, block: 4, shared: 64 << 10 }, data, stream));
        is_ok(wait(stream));
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("misuse: cuLaunchKernel")).count(), 5, "{lines:#?}");
}

#[test]
fn a_module_unloaded_too_early() {
    let lines = alone(&[], || {
        open();
        let (module, function) = module();
        let (data, stream) = (allocate(16), stream());
        is_ok(upload(data, &[0; 4], stream));
        is_ok(twice(function, data, stream));
        // SAFETY: made above.
        is_ok(unsafe { cuModuleUnload(module) });
        assert_eq!(twice(function, data, stream), HANDLE);
        assert_ne!(wait(stream), OK);
    });
    assert!(lines.iter().any(|line| line.contains("runs after its module was unloaded")), "{lines:#?}");
}

#[test]
fn what_is_not_given_back() {
    let lines = alone(&[], || {
        open();
        let (_, _) = module();
        let (_, _, _, _) = (allocate(16), pinned(32), stream(), event());
        close();
    });
    let leaks = ["16 bytes of device memory", "32 bytes of pinned memory", "1 streams", "1 events", "1 modules"];
    assert!(leaks.iter().all(|what| lines.iter().any(|line| line.contains(what))), "{lines:#?}");
    let lines = alone(&[], open);
    is_one(&lines, "leak: the context");
}

/// Memory of the pool, in order with a stream's work.
fn taken(bytes: usize, stream: CUstream) -> u64 {
    let mut pointer = 0;
    // SAFETY: the result has room.
    is_ok(unsafe { cuMemAllocAsync(&raw mut pointer, bytes, stream) });
    pointer
}

fn given_back(pointer: u64, stream: CUstream) -> CUresult {
    // SAFETY: the driver checks both.
    unsafe { cuMemFreeAsync(pointer, stream) }
}

#[test]
fn memory_of_the_pool_comes_and_goes_with_a_streams_work() {
    let lines = alone(&[("MEMORY_MIB", "1")], || {
        open();
        let stream = stream();
        for _ in 0..3 {
            let data = taken(1 << 20, stream);
            is_ok(upload(data, &[1, 2], stream));
            assert_eq!(download(data, 2, stream).unwrap(), [1, 2]);
            is_ok(given_back(data, stream));
            let mut pointer = 0;
            // SAFETY: the result has room.
            let more = unsafe { cuMemAllocAsync(&raw mut pointer, 4, stream) };
            assert_eq!(more, CUresult::CUDA_ERROR_OUT_OF_MEMORY, "nothing has waited for what was freed");
            is_ok(wait(stream));
        }
        // SAFETY: made above.
        is_ok(unsafe { cuStreamDestroy_v2(stream) });
        close();
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

#[test]
fn memory_of_the_pool_that_is_misused() {
    let lines = alone(&[], || {
        open();
        let (mine, other) = (stream(), stream());
        let data = taken(8, mine);
        assert_eq!(free(data), INVALID);
        is_ok(given_back(data, mine));
        assert_eq!(given_back(data, mine), INVALID);
        assert_eq!(upload(data, &[1], mine), INVALID);
        // Nothing lets the other stream wait until the memory is there.
        let data = taken(8, mine);
        is_ok(upload(data, &[1], other));
        assert_eq!(wait(other), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    for (line, words) in lines.iter().zip([
        "misuse: cuMemFree_v2: not built: memory of the pool",
        "misuse: cuMemFreeAsync: no memory of the pool begins",
        "do not lie in one live allocation",
        "is not taken yet: nothing orders the streams",
    ]) {
        assert!(line.contains(words), "{words}: {lines:#?}");
    }
}
