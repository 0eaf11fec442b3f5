//! De-duplication by producer and counter: which counters of a producer were stored, and where.

use std::collections::{BTreeMap, VecDeque};

use claudebus_storage::StreamId;
use hashbrown::HashMap;

use crate::model::request::ProducerId;

/// Counters `first..first + count`, stored at `seq` and after in `stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) stream: StreamId,
    pub(super) seq: u64,
}

/// Bytes of a [`Stored`] in a state's base and notes.
const STORED_BYTES: usize = 32;

impl Stored {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// As bytes of a note.
    pub(super) fn encode(self) -> [u8; STORED_BYTES] {
        let mut bytes = [0; STORED_BYTES];
        for (place, value) in
            bytes.chunks_exact_mut(8).zip([self.first, self.count, self.stream.0, self.seq])
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words =
            bytes.chunks_exact(8).filter_map(|w| w.try_into().ok().map(u64::from_le_bytes));
        Some(Self {
            first: words.next()?,
            count: words.next()?,
            stream: StreamId(words.next()?),
            seq: words.next()?,
        })
    }
}

/// What is known about a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was not stored.
    New,
    /// It was, there.
    Stored(StreamId, u64),
    /// It is so old that it is no longer known whether it was.
    Forgotten,
}

/// One producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Producer {
    /// In order of counters, without overlaps.
    ranges: VecDeque<Stored>,
    /// Nothing is known about counters below.
    floor: u64,
    /// When it was last used, in ticks of [`Producers`].
    used: u64,
}

impl Producer {
    /// What is known about `counter`.
    pub(super) fn seen(&self, counter: u64) -> Seen {
        let Some(last) = self.ranges.back() else {
            return if counter < self.floor { Seen::Forgotten } else { Seen::New };
        };
        if counter >= last.end() {
            return Seen::New;
        }
        let at = self.ranges.partition_point(|range| range.end() <= counter);
        match self.ranges.get(at) {
            Some(range) if range.first <= counter => {
                Seen::Stored(range.stream, range.seq + (counter - range.first))
            }
            _ if counter < self.floor => Seen::Forgotten,
            _ => Seen::New,
        }
    }

    /// Remembers a range that was new, and forgets the oldest past `max_ranges`.
    pub(super) fn remember(&mut self, stored: Stored, max_ranges: usize) {
        // Counters mostly go up, and then nothing needs to be searched for its place.
        let is_next = self.ranges.back().is_none_or(|last| last.end() <= stored.first);
        let at = match is_next {
            true => self.ranges.len(),
            false => self.ranges.partition_point(|range| range.end() <= stored.first),
        };
        let before = at.checked_sub(1).and_then(|at| self.ranges.get_mut(at));
        match before {
            Some(range)
                if range.end() == stored.first
                    && range.stream == stored.stream
                    && range.seq + range.count == stored.seq =>
            {
                range.count += stored.count;
            }
            _ => {
                if self.ranges.is_empty() {
                    // Most producers have one range for good: those of clients that were here once.
                    self.ranges.reserve_exact(1);
                }
                match is_next {
                    true => self.ranges.push_back(stored),
                    false => self.ranges.insert(at, stored),
                }
            }
        }
        while self.ranges.len() > max_ranges {
            if let Some(range) = self.ranges.pop_front() {
                self.floor = self.floor.max(range.end());
            }
        }
    }

    /// As the base of its state.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.floor.to_le_bytes().to_vec();
        self.ranges.iter().for_each(|range| bytes.extend_from_slice(&range.encode()));
        bytes
    }

    /// From its state. `None` if the bytes are not of that form.
    pub(super) fn decode(base: &[u8], notes: &[u8], max_ranges: usize) -> Option<Self> {
        let (floor, ranges) = match base.split_first_chunk::<8>() {
            Some((floor, ranges)) => (u64::from_le_bytes(*floor), ranges),
            None if base.is_empty() => (0, base),
            None => return None,
        };
        if !ranges.len().is_multiple_of(STORED_BYTES) || !notes.len().is_multiple_of(STORED_BYTES) {
            return None;
        }
        let mut producer = Self { floor, ..Self::default() };
        for bytes in ranges.chunks_exact(STORED_BYTES).chain(notes.chunks_exact(STORED_BYTES)) {
            producer.remember(Stored::decode(bytes)?, max_ranges);
        }
        Some(producer)
    }
}

/// All producers, the longest unused of which make room for new ones.
#[derive(Debug, Default)]
pub(super) struct Producers {
    producers: HashMap<ProducerId, Producer>,
    by_use: BTreeMap<u64, ProducerId>,
    tick: u64,
}

impl Producers {
    /// Takes a producer out, to be put back.
    pub(super) fn take(&mut self, id: ProducerId) -> Producer {
        let producer = self.producers.remove(&id).unwrap_or_default();
        self.by_use.remove(&producer.used);
        producer
    }

    /// Puts a producer back as the last used. Returns one that had to make room.
    pub(super) fn put(
        &mut self,
        id: ProducerId,
        mut producer: Producer,
        max: usize,
    ) -> Option<ProducerId> {
        self.tick += 1;
        producer.used = self.tick;
        self.by_use.insert(self.tick, id);
        self.producers.insert(id, producer);
        if self.producers.len() <= max {
            return None;
        }
        let (_, oldest) = self.by_use.pop_first()?;
        self.producers.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    const S: StreamId = StreamId(1);

    fn stored(first: u64, count: u64, seq: u64) -> Stored {
        Stored { first, count, stream: S, seq }
    }

    #[test]
    fn contiguous_ranges_become_one() {
        let mut producer = Producer::default();
        producer.remember(stored(1, 10, 100), 2);
        producer.remember(stored(11, 5, 110), 2);
        assert_eq!(producer.ranges.len(), 1);
        assert_eq!(producer.seen(15), Seen::Stored(S, 114));
        assert_eq!(producer.seen(16), Seen::New);
        assert_eq!(producer.seen(0), Seen::New);
    }

    #[test]
    fn past_the_limit_the_oldest_is_forgotten_and_not_taken_for_new() {
        let mut producer = Producer::default();
        producer.remember(stored(1, 1, 100), 2);
        producer.remember(stored(3, 1, 105), 2);
        assert_eq!(producer.seen(1), Seen::Stored(S, 100));
        assert_eq!(producer.seen(2), Seen::New, "a refused counter may come again");
        producer.remember(stored(5, 1, 109), 2);
        assert_eq!(producer.seen(1), Seen::Forgotten);
        assert_eq!(producer.seen(2), Seen::New);
        assert_eq!(producer.seen(3), Seen::Stored(S, 105));
    }

    #[test]
    fn counters_may_come_late() {
        let mut producer = Producer::default();
        producer.remember(stored(5, 2, 10), 9);
        producer.remember(stored(1, 2, 12), 9);
        assert_eq!(producer.seen(2), Seen::Stored(S, 13));
        assert_eq!(producer.seen(3), Seen::New);
        assert_eq!(producer.seen(6), Seen::Stored(S, 11));
    }

    #[test]
    fn state_comes_back() {
        let mut producer = Producer::default();
        producer.remember(stored(1, 1, 100), 2);
        producer.remember(stored(3, 1, 105), 2);
        let base = producer.encode();
        let note = stored(7, 3, 200);
        producer.remember(note, 2);
        let again = Producer::decode(&base, &note.encode(), 2).unwrap();
        assert_eq!((again.floor, &again.ranges), (producer.floor, &producer.ranges));
        assert!(Producer::decode(&base[1..], &[], 2).is_none());
        assert!(Producer::decode(&base, &[0], 2).is_none());
    }

    #[test]
    fn the_longest_unused_makes_room() {
        let mut producers = Producers::default();
        let ids: Vec<_> = (0..3).map(ProducerId).collect();
        assert_eq!(producers.put(ids[0], Producer::default(), 2), None);
        assert_eq!(producers.put(ids[1], Producer::default(), 2), None);
        let first = producers.take(ids[0]);
        assert_eq!(producers.put(ids[0], first, 2), None);
        assert_eq!(producers.put(ids[2], Producer::default(), 2), Some(ids[1]));
    }
}
