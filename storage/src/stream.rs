//! What the engine knows of one stream: counters, subjects, which sequences are gone, and where the
//! rest is.
//!
//! The same methods apply an effect when it is decided and when it is replayed. Nothing here
//! touches a disk.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

use crate::ids::SubjectId;
use crate::log::{StreamOptions, StreamSummary};
use crate::record::{Record, StorageKind};
use crate::subjects::SubjectTable;
use crate::tail::Tail;

/// A stream in memory.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) options: StreamOptions,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) last_time: u64,
    pub(crate) subjects: SubjectTable,
    pub(crate) gone: Gone,
    /// Records that expire by themselves: when, and which. The first one can always be read.
    pub(crate) expiries: BTreeSet<(u64, u64)>,
    /// Records not yet in segments. Unused for a stream in memory.
    pub(crate) tail: Tail,
    /// All records of a stream in memory.
    pub(crate) volatile: BTreeMap<u64, (Record, SubjectId)>,
    /// Where sealed records lie, ascending and disjoint.
    pub(crate) sealed: Vec<SealedRange>,
    /// Raised by every clear, so that older subjects on disk no longer count.
    pub(crate) epoch: u64,
    pub(crate) is_dirty: bool,
    pub(crate) gone_is_dirty: bool,
    /// Records were deleted since sealed ones were last counted.
    pub(crate) sealed_is_dirty: bool,
}

/// Records of this stream in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealedRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) segment: u64,
    /// How many of them could be read when that was last counted.
    pub(crate) live: u64,
}

/// Sequences between the first and the last that cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gone {
    /// Deleted one by one.
    pub(crate) deleted: RoaringTreemap,
    /// Never used: first to last, inclusive.
    pub(crate) skipped: BTreeMap<u64, u64>,
}

impl Gone {
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.skipped_to(seq).is_some() || (!self.deleted.is_empty() && self.deleted.contains(seq))
    }

    /// The end of the skipped range that `seq` lies in.
    fn skipped_to(&self, seq: u64) -> Option<u64> {
        let (_, last) = self.skipped.range(..=seq).next_back()?;
        (*last >= seq).then_some(*last)
    }

    /// How many sequences from `from` to `to` are gone.
    pub(crate) fn count(&self, from: u64, to: u64) -> u64 {
        if from > to {
            return 0;
        }
        let skipped = self.skipped.range(..=to).rev().take_while(|(_, last)| **last >= from);
        let skipped: u64 =
            skipped.map(|(first, last)| (*last).min(to) - (*first).max(from) + 1).sum();
        skipped + self.deleted.range_cardinality(from..=to)
    }

    /// Forgets everything below `first`.
    fn trim(&mut self, first: u64) {
        if !self.deleted.is_empty() {
            self.deleted.remove_range(..first);
        }
        while let Some((start, last)) = self.skipped.first_key_value().map(|(s, l)| (*s, *l)) {
            if start >= first {
                break;
            }
            self.skipped.pop_first();
            if last >= first {
                self.skipped.insert(first, last);
            }
        }
    }

    fn clear(&mut self) {
        self.deleted.clear();
        self.skipped.clear();
    }
}

impl Stream {
    pub(crate) fn new(options: StreamOptions) -> Self {
        Self { options, first_seq: 1, is_dirty: true, ..Self::default() }
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.options.storage == StorageKind::Memory
    }

    pub(crate) fn summary(&self) -> StreamSummary {
        StreamSummary {
            messages: self.messages,
            bytes: self.bytes,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            last_time: self.last_time,
            subjects: self.subjects.len() as u64,
        }
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        seq >= self.first_seq && seq <= self.last_seq && !self.gone.contains(seq)
    }

    /// Counts a record under `seq`, which is higher than all before.
    pub(crate) fn appended(
        &mut self,
        seq: u64,
        subject: &str,
        time: u64,
        expires: Option<u64>,
        size: u64,
    ) -> SubjectId {
        if seq > self.last_seq + 1 {
            self.skipped(seq - 1);
        }
        if self.messages == 0 {
            self.first_seq = seq;
        }
        self.messages += 1;
        self.bytes += size;
        self.last_seq = seq;
        self.last_time = self.last_time.max(time);
        self.is_dirty = true;
        if let Some(expires) = expires {
            self.expiries.insert((expires, seq));
        }
        self.subjects.appended(subject, seq)
    }

    /// Uses up sequences to `last` without records.
    pub(crate) fn skipped(&mut self, last: u64) {
        if last <= self.last_seq {
            return;
        }
        if self.messages > 0 {
            self.gone.skipped.insert(self.last_seq + 1, last);
            self.gone_is_dirty = true;
        }
        self.last_seq = last;
        self.is_dirty = true;
        if self.messages == 0 {
            self.first_seq = last + 1;
        }
    }

    /// Takes one record out. False if it is not there.
    pub(crate) fn deleted(&mut self, seq: u64, subject: SubjectId, size: u64) -> bool {
        if !self.contains(seq) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.subjects.deleted(subject, seq);
        self.volatile.remove(&seq);
        self.is_dirty = true;
        self.sealed_is_dirty = true;
        if self.messages == 0 {
            self.first_seq = self.last_seq + 1;
            self.bytes = 0;
            self.gone_is_dirty |= !self.gone.skipped.is_empty() || !self.gone.deleted.is_empty();
            self.gone.clear();
        } else if seq == self.first_seq {
            self.advance();
        } else {
            self.gone.deleted.insert(seq);
            self.gone_is_dirty = true;
        }
        self.settle_expiries();
        true
    }

    /// Moves the first sequence past what is gone.
    fn advance(&mut self) {
        self.first_seq += 1;
        if self.gone.deleted.is_empty() && self.gone.skipped.is_empty() {
            return;
        }
        loop {
            if let Some(last) = self.gone.skipped_to(self.first_seq) {
                self.first_seq = last + 1;
            } else if self.gone.deleted.contains(self.first_seq) {
                self.first_seq += 1;
            } else {
                break;
            }
        }
        self.gone.trim(self.first_seq);
        self.gone_is_dirty = true;
    }

    /// Drops expiries of records that are gone from the front.
    fn settle_expiries(&mut self) {
        while let Some((_, seq)) = self.expiries.first() {
            if self.contains(*seq) {
                break;
            }
            self.expiries.pop_first();
        }
    }

    /// Takes all records out. Returns how many there were.
    pub(crate) fn cleared(&mut self) -> u64 {
        let count = self.messages;
        self.messages = 0;
        self.bytes = 0;
        self.first_seq = self.last_seq + 1;
        self.gone.clear();
        self.gone_is_dirty = true;
        self.subjects.clear();
        self.expiries.clear();
        self.tail.clear();
        self.volatile.clear();
        self.sealed.clear();
        self.epoch += 1;
        self.is_dirty = true;
        count
    }

    /// Records that can be read from `from` to `to`.
    pub(crate) fn count(&self, from: u64, to: u64) -> u64 {
        let (from, to) = (from.max(self.first_seq), to.min(self.last_seq));
        if from > to {
            return 0;
        }
        (to - from + 1) - self.gone.count(from, to)
    }

    /// The range at or after `seq` that holds sealed records, if any.
    pub(crate) fn sealed_at(&self, seq: u64) -> Option<&SealedRange> {
        self.sealed.get(self.sealed.partition_point(|range| range.last < seq))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn stream(records: u64) -> (Stream, SubjectId) {
        let mut stream = Stream::new(StreamOptions::default());
        let mut id = SubjectId { slot: 0, generation: 0 };
        for seq in 1..=records {
            id = stream.appended(seq, "a", seq, None, 10);
        }
        (stream, id)
    }

    #[test]
    fn the_first_sequence_passes_what_is_gone() {
        let (mut stream, id) = stream(5);
        assert!(stream.deleted(2, id, 10));
        assert!(!stream.deleted(2, id, 10));
        assert!(stream.deleted(1, id, 10));
        assert_eq!(stream.summary().first_seq, 3);
        stream.skipped(9);
        let id = stream.appended(10, "a", 10, None, 10);
        for seq in [3, 4, 5] {
            assert!(stream.deleted(seq, id, 10));
        }
        assert_eq!(stream.summary().first_seq, 10);
        assert!(stream.gone.skipped.is_empty());
        assert!(stream.deleted(10, id, 10));
        assert_eq!((stream.summary().first_seq, stream.summary().bytes), (11, 0));
    }

    #[test]
    fn counts_leave_out_what_is_gone() {
        let (mut stream, id) = stream(5);
        stream.skipped(1_000_000_000_000);
        let last = stream.last_seq + 1;
        stream.appended(last, "a", 9, None, 10);
        stream.deleted(3, id, 10);
        assert_eq!(stream.count(1, last), 5);
        assert_eq!(stream.count(2, 4), 2);
        assert_eq!(stream.count(6, last - 1), 0);
        assert!(!stream.contains(500) && stream.contains(last));
    }

    #[test]
    fn the_next_expiry_is_of_a_record_that_is_there() {
        let mut stream = Stream::new(StreamOptions::default());
        let id = stream.appended(1, "a", 1, Some(50), 10);
        stream.appended(2, "a", 1, Some(60), 10);
        stream.appended(3, "a", 1, None, 10);
        stream.deleted(1, id, 10);
        assert_eq!(stream.expiries.first(), Some(&(60, 2)));
        stream.deleted(2, id, 10);
        assert!(stream.expiries.is_empty());
    }
}
