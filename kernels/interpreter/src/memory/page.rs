//! A page of global memory: its bytes, and for each byte whether it was ever written and who touched it.

use crate::race::Shadow;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// One bit for each byte of a page.
pub(crate) type Bitmap = [u64; PAGE / 64];

pub(crate) struct Page {
    data: [u8; PAGE],
    initialised: Bitmap,
    /// The launch that the following belong to.
    launch: u32,
    loaded: Bitmap,
    stored: Bitmap,
    pub shadow: Option<Box<Shadow>>,
}

impl Page {
    /// A page of zeros that count as written or not.
    pub fn new(initialised: bool) -> Box<Page> {
        let mark = if initialised { u64::MAX } else { 0 };
        Box::new(Page {
            data: [0; PAGE],
            initialised: [mark; PAGE / 64],
            launch: 0,
            loaded: [0; PAGE / 64],
            stored: [0; PAGE / 64],
            shadow: None,
        })
    }

    /// Forgets what belongs to an earlier launch.
    pub fn enter(&mut self, launch: u32) {
        if self.launch != launch {
            self.launch = launch;
            self.loaded = [0; PAGE / 64];
            self.stored = [0; PAGE / 64];
            self.shadow = None;
        }
    }

    /// Up to 16 bytes that lie within an aligned group of 64.
    pub fn load(&self, offset: usize, bytes: usize) -> u128 {
        read_bytes(&self.data, offset, bytes)
    }

    pub fn store(&mut self, offset: usize, bytes: usize, value: u128) {
        write_bytes(&mut self.data, offset, bytes, value);
        self.initialised[offset / 64] |= mask(offset, bytes);
    }

    pub fn is_initialised(&self, offset: usize, bytes: usize) -> bool {
        let mask = mask(offset, bytes);
        self.initialised[offset / 64] & mask == mask
    }

    pub fn was_stored(&self, offset: usize, bytes: usize) -> bool {
        self.stored[offset / 64] & mask(offset, bytes) != 0
    }

    /// Marks bytes as loaded in this launch: how many of them are so for the first time.
    pub fn mark_loaded(&mut self, offset: usize, bytes: usize) -> u32 {
        mark(&mut self.loaded[offset / 64], mask(offset, bytes))
    }

    pub fn mark_stored(&mut self, offset: usize, bytes: usize) -> u32 {
        mark(&mut self.stored[offset / 64], mask(offset, bytes))
    }

    /// A host's copy out; `None` where a byte was never written.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> Option<()> {
        out.copy_from_slice(&self.data[offset..offset + out.len()]);
        let written = |at: usize| self.initialised[at / 64] >> (at % 64) & 1 == 1;
        (offset..offset + out.len()).all(written).then_some(())
    }

    /// A host's copy in.
    pub fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        self.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        for at in offset..offset + bytes.len() {
            self.initialised[at / 64] |= 1 << (at % 64);
        }
    }
}

fn mask(offset: usize, bytes: usize) -> u64 {
    ((1_u64 << bytes) - 1) << (offset % 64)
}

fn mark(word: &mut u64, mask: u64) -> u32 {
    let new = (mask & !*word).count_ones();
    *word |= mask;
    new
}

/// A little-endian number of 1 to 16 bytes.
pub(crate) fn read_bytes(data: &[u8], offset: usize, bytes: usize) -> u128 {
    let mut value = [0; 16];
    match bytes {
        4 => value[..4].copy_from_slice(&data[offset..offset + 4]),
        16 => value.copy_from_slice(&data[offset..offset + 16]),
        _ => value[..bytes].copy_from_slice(&data[offset..offset + bytes]),
    }
    u128::from_le_bytes(value)
}

pub(crate) fn write_bytes(data: &mut [u8], offset: usize, bytes: usize, value: u128) {
    let value = value.to_le_bytes();
    match bytes {
        4 => data[offset..offset + 4].copy_from_slice(&value[..4]),
        _ => data[offset..offset + bytes].copy_from_slice(&value[..bytes]),
    }
}
