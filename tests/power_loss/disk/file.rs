//! The bytes of one file: those that programs see, and those that would be left.

use std::collections::BTreeMap;

use crate::lives::payload::next;

/// What a device writes as a whole, in bytes.
const SECTOR: usize = 512;

/// What survives of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survival {
    /// Nothing: the device had written none of it.
    Nothing,
    /// All: the device had just written everything.
    Everything,
    /// Some sectors, some lengths, the first of the names.
    Some,
}

impl Survival {
    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing that was not synced is left",
            Self::Everything => "everything is left",
            Self::Some => "some of it, torn and out of order",
        }
    }

    /// One by chance.
    pub fn draw(random: &mut u64) -> Self {
        match next(random) % 4 {
            0 => Self::Nothing,
            1 => Self::Everything,
            _ => Self::Some,
        }
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// What programs see.
    pub current: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors that differ or may, with the number of the write that changed them last.
    dirty: BTreeMap<usize, u64>,
    /// The write as of which the synced length is known.
    length_as_of: u64,
    /// How often it is open.
    pub open: u64,
}

/// What a sync that is under way will make durable: what was written before it began.
#[derive(Debug)]
pub struct Sync {
    node: u64,
    as_of: u64,
    len: usize,
    sectors: Vec<(usize, u64, Vec<u8>)>,
}

impl Sync {
    /// The file's number.
    pub fn node(&self) -> u64 {
        self.node
    }
}

impl File {
    fn touch(&mut self, start: usize, end: usize, number: u64) {
        self.dirty.extend((start / SECTOR..end.div_ceil(SECTOR)).map(|sector| (sector, number)));
    }

    /// Writes bytes, as the write of this number; the file grows if need be.
    pub fn write(&mut self, offset: usize, bytes: &[u8], number: u64) {
        let end = offset + bytes.len();
        let start = offset.min(self.current.len());
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        self.touch(start, end, number);
    }

    /// Cuts it or adds zeros, as the write of this number.
    pub fn set_len(&mut self, len: usize, number: u64) {
        let old = self.current.len();
        self.current.resize(len, 0);
        self.touch(old.min(len), old.max(len), number);
    }

    /// A sync of what the writes up to `as_of` have left begins.
    pub fn begin_sync(&self, node: u64, as_of: u64) -> Sync {
        let bytes = |sector: usize| {
            let start = (sector * SECTOR).min(self.current.len());
            self.current[start..(start + SECTOR).min(self.current.len())].to_vec()
        };
        let sectors = self.dirty.iter().map(|(s, number)| (*s, *number, bytes(*s))).collect();
        Sync { node, as_of, len: self.current.len(), sectors }
    }

    /// It is over.
    pub fn end_sync(&mut self, sync: Sync) {
        if self.length_as_of <= sync.as_of {
            self.synced.resize(sync.len, 0);
            self.length_as_of = sync.as_of;
        }
        for (sector, number, bytes) in sync.sectors {
            match self.dirty.get(&sector) {
                // A later sync was faster.
                None => continue,
                Some(last) if *last == number => self.dirty.remove(&sector),
                Some(_) => None,
            };
            let start = (sector * SECTOR).min(self.synced.len());
            let end = (start + bytes.len()).min(self.synced.len());
            self.synced[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }

    /// The power fails.
    pub fn lose_power(&mut self, survival: Survival, random: &mut u64) {
        let survives = |random: &mut u64| match survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some => next(random) % 2 == 1,
        };
        if self.current.len() != self.synced.len() && survives(random) {
            // The length is metadata of its own: it may survive without the bytes.
            self.synced.resize(self.current.len(), 0);
        }
        for (sector, _) in std::mem::take(&mut self.dirty) {
            if survives(random) {
                let len = self.current.len().min(self.synced.len());
                let start = (sector * SECTOR).min(len);
                let end = (start + SECTOR).min(len);
                self.synced[start..end].copy_from_slice(&self.current[start..end]);
            }
        }
        self.current.clone_from(&self.synced);
    }
}
