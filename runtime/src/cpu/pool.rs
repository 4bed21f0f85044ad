//! The thread pool of the step being run, where operators of our own find it.

use rayon::ThreadPool;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static CURRENT: RefCell<Option<Arc<ThreadPool>>> = const { RefCell::new(None) };
}

/// Runs `body` with `pool` as the step's pool.
pub fn with<R>(pool: &Arc<ThreadPool>, body: impl FnOnce() -> R) -> R {
    let previous = CURRENT.replace(Some(pool.clone()));
    let result = body();
    CURRENT.set(previous);
    result
}

/// Runs `body` on the step's pool, or where it is when there is none.
pub fn install<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    match CURRENT.with_borrow(Clone::clone) {
        Some(pool) => pool.install(body),
        None => body(),
    }
}
