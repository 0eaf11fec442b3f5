//! Messages held back before their first delivery: behind an earlier one of the same key, or so that
//! the more urgent go first.
//!
//! It knows sequences, keys and priorities, and neither reads nor delivers. All it does costs the
//! same however many messages are held.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use claudebus_storage::Record;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::consumer::ConsumerConfig;
use crate::model::headers::{get, names};

/// Messages held back at most; past that reading stops until a key is free. Each costs about 200
/// bytes.
pub(in crate::broker) const MAX_HELD: usize = 16_384;
/// How far a consumer looks ahead for the most urgent message: about as many as one read brings.
pub(super) const PRIORITY_WINDOW: usize = 1024;
/// Every so many deliveries the oldest message goes first, however urgent others are.
const OLDEST_EVERY: u64 = 8;
/// Bytes of messages that are kept while they are held; others are read again.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// The priority of messages that bring none, and the lowest.
const MAX_PRIORITY: u8 = 9;

/// What decides about a message: its key's number, if it has one, and its priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) key: Option<u64>,
    pub(super) priority: u8,
}

#[derive(Debug)]
struct Held {
    traits: Traits,
    record: Option<Record>,
}

/// The messages of one key.
#[derive(Debug, Default)]
struct Line {
    /// The one that is in flight.
    busy: Option<u64>,
    /// Those that are held, ascending.
    waiting: VecDeque<u64>,
}

impl Line {
    /// The one that may be delivered.
    fn next(&self) -> Option<u64> {
        if self.busy.is_none() { self.waiting.front().copied() } else { None }
    }
}

/// The messages that are held back. See the module's text.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// `subject`, or the name of a header.
    order_by: Option<String>,
    by_priority: bool,
    held: BTreeMap<u64, Held>,
    lines: HashMap<u64, Line>,
    /// The keys of messages in flight, by sequence.
    in_flight: HashMap<u64, u64>,
    /// Those held that may be delivered, the most urgent first.
    ready: BTreeSet<(Reverse<u8>, u64)>,
    /// The same by sequence, with their priorities.
    oldest: BTreeMap<u64, u8>,
    kept_bytes: usize,
}

impl Holding {
    /// For a consumer that asks for it.
    pub(super) fn of(config: &ConsumerConfig) -> Option<Box<Self>> {
        let order_by = config.order_by.clone();
        let by_priority = config.by_priority;
        (order_by.is_some() || by_priority)
            .then(|| Box::new(Self { order_by, by_priority, ..Self::default() }))
    }

    /// Whether messages are chosen by priority.
    pub(super) fn is_by_priority(&self) -> bool {
        self.by_priority
    }

    /// What decides about a message.
    pub(super) fn traits(&self, record: &Record) -> Traits {
        let key = match self.order_by.as_deref() {
            None => None,
            Some("subject") => Some(record.subject()),
            Some(header) => get(record.headers(), header),
        };
        let priority = if self.by_priority {
            get(record.headers(), names::PRIORITY)
                .and_then(|text| text.parse().ok())
                .map_or(0, |priority: u8| priority.min(MAX_PRIORITY))
        } else {
            0
        };
        // Keys of equal numbers wait for each other, which is never wrong. Zero is no key.
        Traits { key: key.map(|key| xxh3_64(key.as_bytes()).max(1)), priority }
    }

    /// Whether nothing of the key is in flight or held.
    pub(super) fn is_free(&self, key: Option<u64>) -> bool {
        key.is_none_or(|key| !self.lines.contains_key(&key))
    }

    /// Whether more messages may be looked at.
    pub(super) fn has_room(&self) -> bool {
        let ahead = if self.by_priority { PRIORITY_WINDOW } else { 1 };
        self.ready.len() < ahead && self.held.len() < MAX_HELD
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether something that is held may be delivered.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn is_held(&self, seq: u64) -> bool {
        self.held.contains_key(&seq)
    }

    /// Whether any sequence from `first` to `last` is held.
    pub(super) fn holds_any(&self, first: u64, last: u64) -> bool {
        first <= last && self.held.range(first..=last).next().is_some()
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.held.last_key_value().map(|(seq, _)| *seq)
    }

    /// The message itself, if it was kept.
    pub(super) fn record(&self, seq: u64) -> Option<&Record> {
        self.held.get(&seq)?.record.as_ref()
    }

    /// What is delivered as number `consumer_seq`: the most urgent, or now and then the oldest.
    pub(super) fn next(&self, consumer_seq: u64) -> Option<u64> {
        if self.by_priority && !consumer_seq.is_multiple_of(OLDEST_EVERY) {
            return self.ready.first().map(|(_, seq)| *seq);
        }
        self.oldest.first_key_value().map(|(seq, _)| *seq)
    }

    /// Holds a message back.
    pub(super) fn hold(&mut self, seq: u64, traits: Traits, record: Option<&Record>) {
        if self.held.contains_key(&seq) {
            return;
        }
        // Those behind a key may stay for long and are not worth memory.
        let record = record
            .filter(|_| self.by_priority && self.is_free(traits.key))
            .filter(|record| self.kept_bytes + record.data().len() <= MAX_KEPT_BYTES)
            .cloned();
        self.kept_bytes += record.as_ref().map_or(0, |record| record.data().len());
        self.held.insert(seq, Held { traits, record });
        match traits.key {
            None => self.make_ready(seq),
            Some(key) => self.change(key, |line| {
                let at = line.waiting.partition_point(|other| *other < seq);
                line.waiting.insert(at, seq);
            }),
        }
    }

    /// A message of this key is in flight, as was noted before a restart.
    pub(super) fn set_in_flight(&mut self, seq: u64, key: u64) {
        self.in_flight.insert(seq, key);
        self.change(key, |line| line.busy = Some(seq));
    }

    /// The keys of messages in flight, ascending by sequence.
    pub(super) fn in_flight(&self) -> Vec<(u64, u64)> {
        let mut all: Vec<_> = self.in_flight.iter().map(|(seq, key)| (*seq, *key)).collect();
        all.sort_unstable();
        all
    }

    /// All that are held, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Traits)> {
        self.held.iter().map(|(seq, held)| (*seq, held.traits))
    }

    /// A message that was held is delivered for the first time.
    pub(super) fn delivered(&mut self, seq: u64) {
        let Some(held) = self.take(seq) else { return };
        if let Some(key) = held.traits.key {
            self.set_in_flight(seq, key);
        }
    }

    /// A message will not be delivered again: its key is free.
    pub(super) fn settled(&mut self, seq: u64) {
        if let Some(key) = self.in_flight.remove(&seq) {
            self.change(key, |line| {
                line.busy.take_if(|busy| *busy == seq);
            });
        }
    }

    /// A message that was held will not be delivered. Returns whether it was held.
    pub(super) fn release(&mut self, seq: u64) -> bool {
        self.take(seq).is_some()
    }

    fn take(&mut self, seq: u64) -> Option<Held> {
        let traits = self.held.get(&seq)?.traits;
        match traits.key {
            None => self.make_unready(seq),
            Some(key) => self.change(key, |line| {
                if let Ok(at) = line.waiting.binary_search(&seq) {
                    line.waiting.remove(at);
                }
            }),
        }
        let held = self.held.remove(&seq)?;
        self.kept_bytes -= held.record.as_ref().map_or(0, |record| record.data().len());
        Some(held)
    }

    /// Changes a key's line, and what of it may be delivered.
    fn change(&mut self, key: u64, change: impl FnOnce(&mut Line)) {
        let line = self.lines.entry(key).or_default();
        let before = line.next();
        change(line);
        let after = line.next();
        if line.busy.is_none() && line.waiting.is_empty() {
            self.lines.remove(&key);
        }
        if before != after {
            before.into_iter().for_each(|seq| self.make_unready(seq));
            after.into_iter().for_each(|seq| self.make_ready(seq));
        }
    }

    fn make_ready(&mut self, seq: u64) {
        let priority = self.held.get(&seq).map_or(0, |held| held.traits.priority);
        self.ready.insert((Reverse(priority), seq));
        self.oldest.insert(seq, priority);
    }

    fn make_unready(&mut self, seq: u64) {
        if let Some(priority) = self.oldest.remove(&seq) {
            self.ready.remove(&(Reverse(priority), seq));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn keyed(key: u64) -> Traits {
        Traits { key: Some(key), priority: 0 }
    }

    #[test]
    fn one_of_a_key_at_a_time() {
        let mut holding = Holding { order_by: Some("subject".into()), ..Holding::default() };
        for (seq, key) in [(1, 7), (2, 7), (3, 8)] {
            holding.hold(seq, keyed(key), None);
        }
        assert_eq!(holding.next(1), Some(1));
        holding.delivered(1);
        assert_eq!(holding.next(2), Some(3));
        holding.delivered(3);
        assert_eq!(holding.next(3), None);
        assert!(holding.release(2) && !holding.is_free(Some(7)));
        holding.settled(1);
        assert!(holding.is_free(Some(7)) && !holding.is_free(Some(8)));
        holding.settled(3);
        assert_eq!((holding.len(), holding.lines.len(), holding.in_flight.len()), (0, 0, 0));
    }

    #[test]
    fn the_most_urgent_first_and_each_eighth_time_the_oldest() {
        let mut holding = Holding { by_priority: true, ..Holding::default() };
        for seq in 1..=20 {
            holding.hold(seq, Traits { key: None, priority: u8::from(seq > 1) }, None);
        }
        let order: Vec<u64> = (1..=9)
            .map(|turn| {
                let seq = holding.next(turn).unwrap();
                holding.delivered(seq);
                seq
            })
            .collect();
        assert_eq!(order, [2, 3, 4, 5, 6, 7, 8, 1, 9]);
    }

    proptest! {
        /// Whatever is done, what may be delivered is the lowest held of each key without a message
        /// in flight.
        #[test]
        fn ready_is_the_first_of_each_free_key(
            steps in prop::collection::vec((0u8..4, 1u64..30, 0u64..4), 1..200)
        ) {
            let mut holding = Holding { by_priority: true, ..Holding::default() };
            let mut held: BTreeMap<u64, Traits> = BTreeMap::new();
            let mut flying: BTreeMap<u64, u64> = BTreeMap::new();
            for (step, seq, key) in steps {
                match step {
                    0 if !flying.contains_key(&seq) && !held.contains_key(&seq) => {
                        let traits = Traits { key: (key > 0).then_some(key), priority: (seq % 3) as u8 };
                        holding.hold(seq, traits, None);
                        held.insert(seq, traits);
                    }
                    1 => {
                        if let Some(seq) = holding.next(1) {
                            holding.delivered(seq);
                            let key = held.remove(&seq).unwrap().key;
                            flying.extend(key.map(|key| (seq, key)));
                        }
                    }
                    2 => {
                        holding.settled(seq);
                        flying.remove(&seq);
                    }
                    _ => prop_assert_eq!(holding.release(seq), held.remove(&seq).is_some()),
                }
                let mut taken: BTreeSet<u64> = flying.values().copied().collect();
                let ready: Vec<u64> = held
                    .iter()
                    .filter(|(_, traits)| traits.key.is_none_or(|key| taken.insert(key)))
                    .map(|(seq, _)| *seq)
                    .collect();
                prop_assert_eq!(holding.oldest.keys().copied().collect::<Vec<_>>(), ready);
                prop_assert_eq!(holding.ready.len(), holding.oldest.len());
            }
        }
    }
}
