//! A thread's clock and knowledge, the words through which threads speak, and the meeting of threads at a barrier.

use std::rc::Rc;

use super::knowledge::{BlockView, Event, Knowledge};
use crate::program::Scope;

/// One thread's side of the order.
#[derive(Clone, Debug)]
pub(crate) struct View {
    block: u32,
    warp: u16,
    lane: u8,
    time: u32,
    /// Its own block.
    own: BlockView,
    /// Other blocks.
    others: Rc<Knowledge>,
    /// Learnt by strong reads since the last fence: strong accesses are ordered by it already.
    pending: Option<Rc<Knowledge>>,
    /// What strong writes pass on: known at the last fence, of this scope or a wider one.
    released: [Option<Rc<Knowledge>>; 2],
}

/// What a word that threads speak through passes on to its readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Word {
    device: Option<Rc<Knowledge>>,
    block: Option<(u32, Rc<Knowledge>)>,
}

impl View {
    pub fn new(block: u32, warp: u16, lane: u8) -> Self {
        let others = Rc::default();
        View { block, warp, lane, time: 1, own: BlockView::default(), others, pending: None, released: [None, None] }
    }

    /// Something that the thread does now.
    pub fn event(&self) -> Event {
        Event { block: self.block, warp: self.warp, mask: 1 << self.lane, time: self.time }
    }

    /// Whether an event lies behind the thread; `strong` is for its strong accesses.
    pub fn knows(&self, event: &Event, strong: bool) -> bool {
        let mut event = *event;
        if event.block == self.block {
            if event.warp == self.warp {
                event.mask &= !(1 << self.lane);
            }
            event.mask = self.own.unknown(&event);
        } else {
            event.mask = self.others.unknown(&event);
        }
        if let (true, true, Some(pending)) = (event.mask != 0, strong, &self.pending) {
            event.mask = pending.unknown(&event);
        }
        event.mask == 0
    }

    /// Everything known, the thread's own past included.
    fn snapshot(&self) -> Rc<Knowledge> {
        let mut knowledge = Knowledge::clone(&self.others);
        let mut own = self.own.clone();
        own.learn(self.warp, 1 << self.lane, self.time);
        knowledge.merge_block(self.block, &own);
        Rc::new(knowledge)
    }

    /// What strong reads have learnt now orders all accesses.
    pub fn absorb(&mut self) {
        if let Some(pending) = self.pending.take() {
            if let Some(own) = pending.block(self.block) {
                self.own.merge(own);
            }
            self.others = Knowledge::join(&self.others, &pending);
        }
    }

    /// What is known now is passed on by strong writes to come.
    pub fn publish(&mut self, scope: Scope) {
        let snapshot = self.snapshot();
        if scope == Scope::Device {
            self.released[Scope::Device as usize] = Some(Rc::clone(&snapshot));
        }
        self.released[Scope::Block as usize] = Some(snapshot);
        self.time += 1;
    }

    /// A strong read of a word.
    pub fn read(&mut self, word: &Word) {
        self.pending = Knowledge::join_options(self.pending.as_ref(), word.device.as_ref());
        if let Some((block, knowledge)) = &word.block
            && *block == self.block
        {
            self.pending = Knowledge::join_options(self.pending.as_ref(), Some(knowledge));
        }
    }

    /// A strong write of a word; an atomic one keeps what earlier writers passed on.
    pub fn write(&self, word: &mut Word, scope: Scope, atomic: bool) {
        let [for_block, for_device] = &self.released;
        let earlier = if atomic { std::mem::take(word) } else { Word::default() };
        let for_device = for_device.as_ref().filter(|_| scope == Scope::Device);
        word.device = Knowledge::join_options(earlier.device.as_ref(), for_device);
        let earlier = earlier.block.filter(|(block, _)| *block == self.block).map(|(_, knowledge)| knowledge);
        let joined = Knowledge::join_options(earlier.as_ref(), for_block.as_ref());
        word.block = joined.map(|knowledge| (self.block, knowledge));
    }
}

/// Threads of one block that meet at a barrier: what each knew, all know after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Join {
    time: u32,
    own: BlockView,
    others: Rc<Knowledge>,
    pending: Option<Rc<Knowledge>>,
    /// The last knowledge that was joined: most threads know the same.
    last: Option<Rc<Knowledge>>,
    present: Vec<(u16, u32)>,
}

impl Join {
    /// A thread brings what it knows.
    pub fn arrive(&mut self, view: &View) {
        self.time = self.time.max(view.time);
        self.own.merge(&view.own);
        if !self.last.as_ref().is_some_and(|last| Rc::ptr_eq(last, &view.others)) {
            self.others = Knowledge::join(&self.others, &view.others);
            self.last = Some(Rc::clone(&view.others));
        }
        if view.pending.is_some() {
            self.pending = Knowledge::join_options(self.pending.as_ref(), view.pending.as_ref());
        }
        match self.present.iter_mut().rev().find(|(warp, _)| *warp == view.warp) {
            Some((_, mask)) => *mask |= 1 << view.lane,
            None => self.present.push((view.warp, 1 << view.lane)),
        }
    }

    /// All have arrived; `everybody` where no thread of the block is missing.
    pub fn close(&mut self, everybody: bool) {
        if everybody {
            self.own = BlockView::up_to(self.time);
        } else {
            for &(warp, mask) in &self.present {
                self.own.learn(warp, mask, self.time);
            }
        }
    }

    /// A thread leaves with what all know.
    pub fn leave(&self, view: &mut View) {
        view.time = self.time + 1;
        view.own.clone_from(&self.own);
        view.others = Rc::clone(&self.others);
        view.pending.clone_from(&self.pending);
    }

    /// A thread goes on without waiting: what it does from now on is not part of the meeting.
    pub fn pass(view: &mut View) {
        view.time += 1;
    }
}
