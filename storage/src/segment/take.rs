//! Taking records out of a decoded block: those that a read wants, until it has enough.

use super::block::{Block, BlockEntry};
use crate::log::{Filter, ReadRequest};
use crate::record::Record;

/// A block is asked for deleted sequences one by one only if it spans no more than this, so that a
/// wide gap in the sequences costs nothing.
const ASKED_MAX: u64 = 64 * 1024;

/// Records that are less than this part of their block are copied out of it, so that a reader of a
/// few records among many does not hold all of them in memory.
const SPARSE: usize = 8;

/// A read on its way: what it wants and what it has.
pub(super) struct Taking<'a> {
    pub(super) request: &'a ReadRequest,
    pub(super) filter: &'a Filter,
    pub(super) is_deleted: &'a dyn Fn(u64) -> bool,
    pub(super) out: &'a mut Vec<Record>,
    pub(super) bytes: usize,
    pub(super) count: usize,
}

impl Taking<'_> {
    pub(super) fn has_room(&self) -> bool {
        self.count < self.request.max_records
            && (self.count == 0 || self.bytes < self.request.max_bytes)
    }

    /// Whether it can be told without reading the block that nothing of it, from sequence `at`, is
    /// wanted: all too old, or all deleted.
    pub(super) fn wants_nothing_of(&self, place: &BlockEntry, at: u64) -> bool {
        let (first, last) = (place.first_seq.max(at), place.last_seq);
        let asks = last - first <= ASKED_MAX;
        place.last_time < self.request.since
            || asks && (first..=last).all(|seq| (self.is_deleted)(seq))
    }

    /// Takes what is wanted of the block, from sequence `at`. Returns where to go on; on an error
    /// nothing of the block is taken.
    pub(super) fn take(&mut self, block: &Block, at: u64) -> Result<u64, &'static str> {
        let (first, count, before) = (self.out.len(), self.count, self.bytes);
        let next = self.take_slices(block, at).inspect_err(|_| {
            self.out.truncate(first);
            (self.count, self.bytes) = (count, before);
        })?;
        let taken = self.bytes.saturating_sub(before);
        if taken.saturating_mul(SPARSE) <= block.memory() {
            self.out.iter_mut().skip(first).for_each(Record::unshare);
        }
        Ok(next)
    }

    fn take_slices(&mut self, block: &Block, at: u64) -> Result<u64, &'static str> {
        let skipped = block.entries.partition_point(|entry| entry.seq < at);
        let mut before: Option<(&[u8], bool)> = None;
        let mut next = at;
        for entry in block.entries.get(skipped..).unwrap_or_default() {
            if entry.seq > self.request.to {
                return Ok(self.request.to.saturating_add(1));
            }
            if !self.has_room() {
                return Ok(next);
            }
            next = entry.seq.saturating_add(1);
            if entry.time < self.request.since || (self.is_deleted)(entry.seq) {
                continue;
            }
            // Neighbours often share a subject; its text is then compared with the filter once.
            let subject = block.subject(entry);
            let wanted = match before {
                _ if self.filter.is_all() => true,
                Some((text, wanted)) if text == subject => wanted,
                _ => {
                    let text = std::str::from_utf8(subject).map_err(|_| "a subject is no text")?;
                    self.filter.matches(text)
                }
            };
            before = Some((subject, wanted));
            if wanted {
                let record = block.record(entry)?;
                self.bytes = self.bytes.saturating_add(record.data().len());
                self.count += 1;
                self.out.push(record);
            }
        }
        Ok(next)
    }
}
