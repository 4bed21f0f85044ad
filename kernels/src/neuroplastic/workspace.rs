use std::sync::{Mutex, PoisonError};

use super::sweep::Sums;

/// Scratch memory that steps share: for each tensor being updated at one time, 4 bytes an element (8 with base AdamW).
///
/// It grows to the largest tensor seen by each thread and is kept for the next step.
#[derive(Default)]
pub struct Workspace {
    free: Mutex<Vec<Buffers>>,
}

impl Workspace {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Buffers) -> R) -> R {
        let lock = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut buffers = taken.unwrap_or_default();
        let result = f(&mut buffers);
        lock().push(buffers);
        result
    }
}

#[derive(Default)]
pub(super) struct Buffers {
    scratch: Vec<f32>,
    base: Vec<f32>,
    sums: Vec<Sums>,
}

impl Buffers {
    pub fn sized(&mut self, scratch: usize, base: usize, sums: usize) -> (&mut [f32], &mut [f32], &mut [Sums]) {
        fn grown<E: Clone + Default>(vector: &mut Vec<E>, length: usize) -> &mut [E] {
            if vector.len() < length {
                // Replaced, not resized: the old contents need not be copied.
                *vector = vec![E::default(); length];
            }
            vector
        }
        /// A row that crosses a cache line costs twice.
        fn aligned(vector: &mut Vec<f32>, length: usize) -> &mut [f32] {
            const LINE: usize = 64;
            let buffer = grown(vector, length + LINE / size_of::<f32>());
            let start = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
            &mut buffer[start..start + length]
        }
        let sums = &mut grown(&mut self.sums, sums)[..sums];
        (aligned(&mut self.scratch, scratch), aligned(&mut self.base, base), sums)
    }
}
