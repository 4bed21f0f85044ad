//! What a thread knows of others' past: up to which time each block, and in it each warp, is behind it.

use std::rc::Rc;

use rustc_hash::FxHashMap;

/// Lanes of a warp at a time of their clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The block's number in the order of starting.
    pub block: u32,
    pub warp: u16,
    pub mask: u32,
    pub time: u32,
}

/// What is known of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockView {
    /// Everything up to this time is known.
    floor: u32,
    /// Lanes of which more is known: the warp, the lanes, the time.
    extras: Vec<(u16, u32, u32)>,
}

impl BlockView {
    /// The whole block is known up to a time.
    pub fn up_to(floor: u32) -> Self {
        BlockView { floor, extras: Vec::new() }
    }

    /// Of an event's lanes, those that are not known.
    pub fn unknown(&self, event: &Event) -> u32 {
        if event.time <= self.floor {
            return 0;
        }
        let reaches = |&&(warp, _, time): &&(u16, u32, u32)| warp == event.warp && time >= event.time;
        self.extras.iter().filter(reaches).fold(event.mask, |left, &(_, mask, _)| left & !mask)
    }

    /// Learns of lanes up to a time.
    pub fn learn(&mut self, warp: u16, mask: u32, time: u32) {
        if time <= self.floor {
            return;
        }
        let covered = |&(other, lanes, until): &(u16, u32, u32)| other == warp && lanes & !mask == 0 && until <= time;
        self.extras.retain(|extra| !covered(extra));
        self.extras.push((warp, mask, time));
    }

    pub fn merge(&mut self, other: &BlockView) {
        if other.floor > self.floor {
            self.floor = other.floor;
            self.extras.retain(|&(_, _, time)| time > other.floor);
        }
        for &(warp, mask, time) in &other.extras {
            if self.unknown(&Event { block: 0, warp, mask, time }) != 0 {
                self.learn(warp, mask, time);
            }
        }
    }
}

/// What is known of many blocks. Shared by all who know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    blocks: FxHashMap<u32, BlockView>,
}

impl Knowledge {
    pub fn unknown(&self, event: &Event) -> u32 {
        self.blocks.get(&event.block).map_or(event.mask, |view| view.unknown(event))
    }

    pub fn merge_block(&mut self, block: u32, view: &BlockView) {
        self.blocks.entry(block).or_default().merge(view);
    }

    pub fn block(&self, block: u32) -> Option<&BlockView> {
        self.blocks.get(&block)
    }

    /// Both together, without a copy where one holds nothing or is the other.
    pub fn join(first: &Rc<Knowledge>, second: &Rc<Knowledge>) -> Rc<Knowledge> {
        if second.blocks.is_empty() || Rc::ptr_eq(first, second) {
            return Rc::clone(first);
        }
        if first.blocks.is_empty() {
            return Rc::clone(second);
        }
        let mut joined = Knowledge::clone(first);
        for (&block, view) in &second.blocks {
            joined.merge_block(block, view);
        }
        Rc::new(joined)
    }

    pub fn join_options(first: Option<&Rc<Knowledge>>, second: Option<&Rc<Knowledge>>) -> Option<Rc<Knowledge>> {
        match (first, second) {
            (Some(first), Some(second)) => Some(Knowledge::join(first, second)),
            (first, second) => first.or(second).cloned(),
        }
    }
}
