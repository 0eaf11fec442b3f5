//! A file's bytes, as they are and as they would be after a crash.

use std::collections::BTreeSet;

/// What a device writes as a whole, in bytes.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) current: Vec<u8>,
    pub(super) synced: Vec<u8>,
    pub(super) dirty: BTreeSet<usize>,
}

/// The same small generator for every choice of a crash (splitmix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    pub(super) fn crash(&mut self, chance: &mut Chance) {
        let mode = chance.below(3);
        if self.current.len() != self.synced.len() && chance.below(2) == 1 {
            // The length is metadata of its own: it may survive without the bytes.
            self.synced.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let survives = match mode {
                0 => false,
                1 => true,
                _ => chance.below(2) == 1,
            };
            if survives {
                self.keep(sector);
            }
        }
        self.current.clone_from(&self.synced);
    }

    /// Copies a sector into the durable image, as far as that image reaches.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.current.len()).min(self.synced.len());
        if let (Some(to), Some(from)) =
            (self.synced.get_mut(start..end), self.current.get(start..end))
        {
            to.copy_from_slice(from);
        }
    }

    pub(super) fn sync(&mut self) {
        self.synced.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        if let Some(target) = self.current.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.touch(offset, end);
    }

    pub(super) fn touch(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }
}
