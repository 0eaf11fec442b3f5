//! Message ids that are still remembered: for each stream, which sequence was stored under which id,
//! and until when.
//!
//! Entries live by time and not by record: deleting or purging records leaves them. It has no
//! clock; expired entries are dropped when the caller says what time it is.

use std::collections::{HashMap, VecDeque};

use hashbrown::HashTable;

use crate::ids::{Fingerprint, StreamId};

/// Memory of one entry: 32 bytes in the queue and about 10 in the table.
pub(crate) const ENTRY_BYTES: usize = 44;

/// A remembered id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) id: Fingerprint,
    pub(crate) seq: u64,
    /// Nanoseconds since the Unix epoch.
    pub(crate) until: u64,
}

/// The ids of one stream, in the order they came.
#[derive(Debug, Default)]
struct StreamWindow {
    /// Number of the first entry in `queue`; wraps.
    base: u32,
    queue: VecDeque<Remembered>,
    /// Entry numbers, by fingerprint.
    table: HashTable<u32>,
    /// How many entries at the end of the queue no checkpoint has seen.
    unsaved: usize,
}

/// The broker's fingerprints are keyed hashes, so their bits serve as they are.
fn hash_of(id: Fingerprint) -> u64 {
    id.0 as u64
}

impl StreamWindow {
    fn entry(&self, number: u32) -> Option<&Remembered> {
        self.queue.get(number.wrapping_sub(self.base) as usize)
    }

    fn find(&self, id: Fingerprint) -> Option<&Remembered> {
        let is_it = |number: &u32| self.entry(*number).is_some_and(|entry| entry.id == id);
        self.table.find(hash_of(id), is_it).and_then(|number| self.entry(*number))
    }

    fn push(&mut self, entry: Remembered) {
        let (base, queue) = (self.base, &self.queue);
        let at = |number: u32| queue.get(number.wrapping_sub(base) as usize);
        let number = base.wrapping_add(queue.len() as u32);
        let is_it = |other: &u32| at(*other).is_some_and(|known| known.id == entry.id);
        if let Some(known) = self.table.find_mut(hash_of(entry.id), is_it) {
            // The old entry has expired; it leaves the queue in its turn.
            *known = number;
        } else {
            self.table.insert_unique(hash_of(entry.id), number, |other| {
                at(*other).map_or(0, |known| hash_of(known.id))
            });
        }
        self.queue.push_back(entry);
        self.unsaved += 1;
    }

    fn expire(&mut self, now: u64) -> usize {
        let mut dropped = 0;
        while let Some(oldest) = self.queue.front().filter(|entry| entry.until <= now) {
            let number = self.base;
            let entry = self.table.find_entry(hash_of(oldest.id), |other| *other == number);
            if let Ok(entry) = entry {
                entry.remove();
            }
            self.queue.pop_front();
            self.base = self.base.wrapping_add(1);
            dropped += 1;
        }
        self.unsaved = self.unsaved.min(self.queue.len());
        if self.queue.is_empty() && self.queue.capacity() > 1024 {
            self.queue = VecDeque::new();
            self.table = HashTable::new();
        }
        dropped
    }
}

/// The message ids of all streams.
#[derive(Debug, Default)]
pub(crate) struct Window {
    streams: HashMap<StreamId, StreamWindow>,
    entries: usize,
}

impl Window {
    /// Bytes of memory that are charged for the entries.
    pub(crate) fn bytes(&self) -> usize {
        self.entries * ENTRY_BYTES
    }

    /// Entries in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// The sequence stored under `id`, if it is still remembered.
    pub(crate) fn recall(&self, stream: StreamId, id: Fingerprint, now: u64) -> Option<u64> {
        let entry = self.streams.get(&stream)?.find(id)?;
        (entry.until > now).then_some(entry.seq)
    }

    pub(crate) fn remember(&mut self, stream: StreamId, entry: Remembered) {
        self.streams.entry(stream).or_default().push(entry);
        self.entries += 1;
    }

    /// Drops what is no longer remembered.
    pub(crate) fn expire(&mut self, now: u64) {
        for window in self.streams.values_mut() {
            self.entries -= window.expire(now);
        }
        self.streams.retain(|_, window| !window.queue.is_empty());
    }

    /// Drops what one stream no longer remembers; cheap enough for every append.
    pub(crate) fn expire_stream(&mut self, stream: StreamId, now: u64) {
        if let Some(window) = self.streams.get_mut(&stream) {
            self.entries -= window.expire(now);
        }
    }

    pub(crate) fn drop_stream(&mut self, stream: StreamId) {
        if let Some(window) = self.streams.remove(&stream) {
            self.entries -= window.queue.len();
        }
    }

    /// What no checkpoint has seen yet.
    pub(crate) fn take_unsaved(&mut self) -> Vec<(StreamId, Remembered)> {
        let mut unsaved = Vec::new();
        for (stream, window) in &mut self.streams {
            let start = window.queue.len() - window.unsaved;
            unsaved.extend(window.queue.range(start..).map(|entry| (*stream, *entry)));
            window.unsaved = 0;
        }
        unsaved
    }

    /// Everything was read from id files.
    pub(crate) fn mark_saved(&mut self) {
        for window in self.streams.values_mut() {
            window.unsaved = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    const STREAM: StreamId = StreamId(1);

    fn entry(id: u128, seq: u64, until: u64) -> Remembered {
        Remembered { id: Fingerprint(id), seq, until }
    }

    #[test]
    fn ids_are_remembered_until_their_time() {
        let mut window = Window::default();
        window.remember(STREAM, entry(7, 1, 100));
        assert_eq!(window.recall(STREAM, Fingerprint(7), 99), Some(1));
        assert_eq!(window.recall(STREAM, Fingerprint(7), 100), None);
        assert_eq!(window.recall(StreamId(2), Fingerprint(7), 99), None);
        window.expire(100);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn an_id_may_come_back_before_its_old_entry_left() {
        let mut window = Window::default();
        window.remember(STREAM, entry(1, 1, 200));
        window.remember(STREAM, entry(7, 2, 100));
        window.remember(STREAM, entry(7, 3, 300));
        assert_eq!(window.recall(STREAM, Fingerprint(7), 150), Some(3));
        window.expire(250);
        assert_eq!(window.recall(STREAM, Fingerprint(7), 250), Some(3));
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn each_entry_is_saved_once() {
        let mut window = Window::default();
        window.remember(STREAM, entry(1, 1, 100));
        window.remember(STREAM, entry(2, 2, 200));
        assert_eq!(window.take_unsaved().len(), 2);
        window.remember(STREAM, entry(3, 3, 300));
        window.expire(150);
        assert_eq!(window.take_unsaved(), [(STREAM, entry(3, 3, 300))]);
        assert!(window.take_unsaved().is_empty());
    }
}
