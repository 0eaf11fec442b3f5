//! Deliveries that await acknowledgement, in order of stream sequence.

use std::collections::VecDeque;
use std::time::Duration;

use super::{DeadReason, Meta};

/// One message that was delivered and not settled.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// Number of the first delivery.
    pub(super) consumer_seq: u64,
    pub(super) attempts: u64,
    /// When it was first and last delivered, in nanoseconds since the Unix epoch.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) meta: Option<Meta>,
    pub(super) state: State,
}

/// What the message waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// For an acknowledgement, until it is delivered again.
    Until(Duration),
    /// For the time at which it was asked for again.
    Delayed(Duration),
    /// For a pull: its redelivery is due.
    Due,
    /// To become a dead letter.
    Dying(DeadReason),
}

impl State {
    /// When it ends by itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Until(at) | Self::Delayed(at) => Some(*at),
            Self::Due | Self::Dying(_) => None,
        }
    }
}

/// The entries. First deliveries come in ascending order and most acknowledgements in that order
/// too, so a queue with holes does what a tree would, at a fraction of the cost.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Ascending by sequence. `None` is a hole that remembers the sequence.
    slots: VecDeque<(u64, Option<Entry>)>,
    live: usize,
    redelivered: u64,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn redelivered(&self) -> u64 {
        self.redelivered
    }

    pub(super) fn first(&self) -> Option<&Entry> {
        // The front is never a hole: `remove` drops those.
        self.slots.front().and_then(|(_, entry)| entry.as_ref())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|(_, entry)| entry.as_ref())
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Entry> {
        let at = self.position(seq)?;
        self.slots.get(at)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        let at = self.position(seq)?;
        self.slots.get_mut(at)?.1.as_mut()
    }

    /// Adds an entry, or replaces the one of the same sequence.
    pub(super) fn insert(&mut self, entry: Entry) {
        let seq = entry.seq;
        if self.slots.back().is_none_or(|(last, _)| *last < seq) {
            self.count(&entry, true);
            self.slots.push_back((seq, Some(entry)));
            return;
        }
        self.remove(seq);
        self.count(&entry, true);
        match self.slots.binary_search_by_key(&seq, |(s, _)| *s) {
            Ok(at) => {
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.1 = Some(entry);
                }
            }
            Err(at) => self.slots.insert(at, (seq, Some(entry))),
        }
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let at = self.position(seq)?;
        let entry = self.slots.get_mut(at)?.1.take()?;
        self.count(&entry, false);
        while self.slots.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.slots.pop_front();
        }
        // A message that is never acknowledged must not make the holes behind it pile up.
        if self.slots.len() > 64 && self.slots.len() > 2 * self.live {
            self.slots.retain(|(_, entry)| entry.is_some());
        }
        Some(entry)
    }

    /// Records one more attempt of `seq`.
    pub(super) fn attempted(&mut self, seq: u64, wall: u64) -> Option<&mut Entry> {
        let at = self.position(seq)?;
        let entry = self.slots.get_mut(at)?.1.as_mut()?;
        entry.attempts += 1;
        entry.last = wall;
        if entry.attempts == 2 {
            self.redelivered += 1;
        }
        Some(entry)
    }

    fn count(&mut self, entry: &Entry, added: bool) {
        let again = u64::from(entry.attempts > 1);
        if added {
            self.live += 1;
            self.redelivered += again;
        } else {
            self.live -= 1;
            self.redelivered -= again;
        }
    }

    fn position(&self, seq: u64) -> Option<usize> {
        let (front, _) = self.slots.front()?;
        // Without holes in the stream the distance from the front is the place.
        let guess = usize::try_from(seq.checked_sub(*front)?).ok()?;
        if self.slots.get(guess).is_some_and(|(s, _)| *s == seq) {
            return Some(guess);
        }
        self.slots.binary_search_by_key(&seq, |(s, _)| *s).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64, attempts: u64) -> Entry {
        Entry { seq, consumer_seq: seq, attempts, first: 0, last: 0, meta: None, state: State::Due }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((0u8..4, 1u64..60), 1..200)) {
            let mut pending = Pending::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            for (operation, seq) in operations {
                match operation {
                    0 | 1 => {
                        let attempts = u64::from(operation) + 1;
                        pending.insert(entry(seq, attempts));
                        model.insert(seq, attempts);
                    }
                    2 => {
                        prop_assert_eq!(
                            pending.remove(seq).map(|e| e.attempts),
                            model.remove(&seq)
                        );
                    }
                    _ => {
                        let known = model.get_mut(&seq).map(|attempts| { *attempts += 1; *attempts });
                        prop_assert_eq!(pending.attempted(seq, 1).map(|e| e.attempts), known);
                    }
                }
                prop_assert_eq!(pending.len(), model.len());
                prop_assert_eq!(
                    pending.redelivered(),
                    model.values().filter(|attempts| **attempts > 1).count() as u64
                );
                prop_assert_eq!(pending.first().map(|e| e.seq), model.keys().next().copied());
                prop_assert!(pending.iter().map(|e| e.seq).eq(model.keys().copied()));
            }
        }
    }
}
