//! Who touched each word, as far as it still matters.

use super::{Event, View};
use crate::program::Scope;

/// At most so many accesses are remembered for a word. One that is forgotten can hide a race, never invent one.
const REMEMBERED: usize = 16;

/// An access of some lanes of a warp, all at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub event: Event,
    pub write: bool,
    pub atomic: bool,
    pub strong: Option<Scope>,
}

impl Entry {
    /// Whether a later access may come without being ordered behind this one.
    fn agrees(&self, later: &Entry) -> bool {
        if !self.write && !later.write {
            return true;
        }
        match (self.strong, later.strong) {
            (Some(a), Some(b)) => a.min(b) == Scope::Device || self.event.block == later.event.block,
            _ => false,
        }
    }

    fn same_kind(&self, other: &Entry) -> bool {
        let place = |entry: &Entry| (entry.event.block, entry.event.warp, entry.event.time);
        place(self) == place(other)
            && (self.write, self.atomic, self.strong) == (other.write, other.atomic, other.strong)
    }
}

#[derive(Clone, Debug, Default)]
struct Cell {
    first: Option<Entry>,
    more: Option<Box<Vec<Entry>>>,
}

/// The cells of a page of global memory, or of a block's shared memory. A cell stands for four bytes until something
/// smaller is touched, and then for one.
#[derive(Debug)]
pub(crate) struct Shadow {
    bytes: usize,
    shift: u32,
    cells: Vec<Cell>,
}

impl Shadow {
    /// A shadow of `bytes` untouched bytes, which takes no room until it is used.
    pub fn new(bytes: usize) -> Self {
        Shadow { bytes, shift: 2, cells: Vec::new() }
    }

    fn prepare(&mut self, bytes: usize) {
        if self.cells.is_empty() {
            self.cells.resize(self.bytes.div_ceil(4), Cell::default());
        }
        if bytes < 4 && self.shift == 2 {
            self.cells = self.cells.iter().flat_map(|cell| std::iter::repeat_n(cell, 4)).cloned().collect();
            self.shift = 0;
        }
    }

    /// Enters an access of aligned bytes that lie within the shadow, and finds an earlier one that it races with.
    pub fn enter(&mut self, offset: usize, bytes: usize, access: &Entry, view: &View) -> Option<Entry> {
        self.prepare(bytes);
        let cells = &mut self.cells[offset >> self.shift..(offset + bytes - 1 >> self.shift) + 1];
        let mut conflict = None;
        for cell in cells {
            conflict = cell.enter(access, view).or(conflict);
        }
        conflict
    }
}

impl Cell {
    fn enter(&mut self, access: &Entry, view: &View) -> Option<Entry> {
        let Some(first) = &mut self.first else {
            self.first = Some(*access);
            return None;
        };
        if self.more.is_none() {
            let known = view.knows(&first.event, access.strong.is_some());
            let conflict = (!known && !first.agrees(access)).then_some(*first);
            if first.same_kind(access) {
                first.event.mask |= access.event.mask;
            } else if known && replaces(access, first) {
                *first = *access;
            } else {
                self.more = Some(Box::new(vec![*access]));
            }
            return conflict;
        }
        self.enter_among_many(access, view)
    }

    fn enter_among_many(&mut self, access: &Entry, view: &View) -> Option<Entry> {
        let mut entries = self.more.take().unwrap_or_default();
        entries.extend(self.first.take());
        let mut conflict = None;
        let mut joined = false;
        entries.retain_mut(|entry| {
            let known = view.knows(&entry.event, access.strong.is_some());
            if !known && !entry.agrees(access) {
                conflict = Some(*entry);
            }
            if entry.same_kind(access) {
                entry.event.mask |= access.event.mask;
                joined = true;
                return true;
            }
            !(known && replaces(access, entry))
        });
        if !joined {
            if entries.len() >= REMEMBERED {
                entries.remove(0);
            }
            entries.push(*access);
        }
        self.first = entries.pop();
        self.more = (!entries.is_empty()).then_some(entries);
        conflict
    }
}

/// Whether whatever races with an entry behind this access races with the access, too, so that the entry can go.
fn replaces(access: &Entry, entry: &Entry) -> bool {
    (access.write || !entry.write) && (access.strong.is_none() || entry.strong.is_some())
}
