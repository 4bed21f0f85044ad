//! Copies beside work: what is right under every order, and what each mistake does under some.

use crate::support::*;
use cudarc::driver::sys::CUstream;
use npc_test_driver::alone;
use npc_test_driver::cuda::*;

const ORDERS: [&str; 6] = ["lazy", "oldest", "newest", "seed:1", "seed:2", "seed:3"];

/// What a program forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// The work stream does not wait for the copy stream.
    WorkDoesNotWait,
    /// The host does not wait for the slot to be emptied.
    HostDoesNotWait,
    /// The host waits for the slot to be filled only, not for it to be emptied.
    HostWaitsForTheWrongEvent,
}

/// Sends numbers through one pinned and one device slot, doubles each on the work stream, and fetches all at the end.
fn doubled(order: &str, mistake: Mistake) -> (Vec<u32>, Vec<String>) {
    let mut found = Vec::new();
    let lines = alone(&[("ORDER", order)], || {
        open();
        let (module, function) = module();
        let (work, copies) = (stream(), stream());
        let (slot, host) = (allocate(16), pinned(16));
        let results = allocate(16 * 8);
        let (filled, emptied) = (event(), event());
        // So that a slot which is read too early holds something.
        is_ok(upload(slot, &[7; 4], work));
        is_ok(wait(work));
        for i in 0..8u64 {
            // SAFETY: everything was made above.
            unsafe {
                match mistake {
                    Mistake::HostDoesNotWait => {}
                    Mistake::HostWaitsForTheWrongEvent => is_ok(cuEventSynchronize(filled)),
                    _ => is_ok(cuEventSynchronize(emptied)),
                }
                let values = [i as u32; 4];
                std::ptr::copy_nonoverlapping(values.as_ptr().cast(), host, 16);
                is_ok(cuMemcpyHtoDAsync_v2(slot, host.cast(), 16, copies));
                is_ok(cuEventRecord(filled, copies));
                if mistake != Mistake::WorkDoesNotWait {
                    is_ok(cuStreamWaitEvent(work, filled, 0));
                }
                is_ok(cuMemcpyDtoDAsync_v2(results + 16 * i, slot, 16, work));
                is_ok(cuEventRecord(emptied, work));
                is_ok(twice(function, results + 16 * i, work));
            }
        }
        found = download(results, 32, work).unwrap();
        end(work, copies, slot, results, host, [filled, emptied], module);
    });
    (found, lines)
}

fn end(
    work: CUstream,
    copies: CUstream,
    slot: u64,
    results: u64,
    host: *mut u8,
    events: [cudarc::driver::sys::CUevent; 2],
    module: cudarc::driver::sys::CUmodule,
) {
    is_ok(wait(copies));
    is_ok(free(slot));
    is_ok(free(results));
    // SAFETY: each was made once and is not used any more.
    unsafe {
        is_ok(cuMemFreeHost(host.cast()));
        events.into_iter().for_each(|event| is_ok(cuEventDestroy_v2(event)));
        is_ok(cuModuleUnload(module));
        is_ok(cuStreamDestroy_v2(work));
        is_ok(cuStreamDestroy_v2(copies));
    }
    close();
}

fn right() -> Vec<u32> {
    (0..32).map(|i| i / 4 * 2).collect()
}

#[test]
fn a_program_that_waits_gives_the_same_under_all() {
    for order in ORDERS {
        let (found, lines) = doubled(order, Mistake::None);
        assert_eq!(found, right(), "{order}");
        is_clean(&lines);
    }
}

#[test]
fn every_missing_wait_is_seen_under_some_order() {
    let seen =
        |mistake| ORDERS.iter().filter(|order| doubled(order, mistake).0 != right()).copied().collect::<Vec<_>>();
    // Nothing makes the copies run at all.
    assert!(seen(Mistake::WorkDoesNotWait).starts_with(&["lazy", "oldest"]));
    // The slots' contents are overwritten while the work lags behind.
    assert!(seen(Mistake::HostDoesNotWait).starts_with(&["lazy"]));
    // The copies run ahead of the work.
    assert!(seen(Mistake::HostWaitsForTheWrongEvent).contains(&"newest"));
}

#[test]
fn pinned_memory_freed_too_early() {
    let lines = alone(&[], || {
        open();
        let (stream, data, host) = (stream(), allocate(16), pinned(16));
        // SAFETY: made above.
        unsafe {
            is_ok(cuMemcpyHtoDAsync_v2(data, host.cast(), 16, stream));
            is_ok(cuMemFreeHost(host.cast()));
        }
        assert_ne!(wait(stream), OK);
    });
    assert!(lines[0].contains("its pinned memory") && lines[0].contains("was freed"), "{lines:#?}");
}

#[test]
fn a_copy_from_ordinary_memory_takes_what_is_there_at_the_call() {
    let lines = alone(&[], || {
        open();
        let (stream, data) = (stream(), allocate(16));
        let mut values = [1u32; 4];
        is_ok(upload(data, &values, stream));
        values.fill(2);
        assert_eq!(download(data, 4, stream).unwrap(), [1; 4]);
        assert_eq!(values, [2; 4]);
        is_ok(free(data));
        // SAFETY: made above.
        is_ok(unsafe { cuStreamDestroy_v2(stream) });
        close();
    });
    is_clean(&lines);
}

#[test]
fn destroyed_objects_are_known_to_be() {
    let lines = alone(&[], || {
        open();
        let (stream, event) = (stream(), event());
        // SAFETY: the driver checks both.
        unsafe {
            is_ok(cuEventDestroy_v2(event));
            is_ok(cuStreamDestroy_v2(stream));
            assert_eq!(cuEventRecord(event, stream), HANDLE);
            assert_eq!(cuStreamSynchronize(stream), HANDLE);
        }
        close();
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("misuse: ")).count(), 2, "{lines:#?}");
}
