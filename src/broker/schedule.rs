//! Deadlines on the monotonic clock, one for each thing that has one.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Deadlines by key.
#[derive(Debug)]
pub(super) struct Schedule<K> {
    by_key: HashMap<K, Duration>,
    by_time: BTreeSet<(Duration, K)>,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    /// Sets or removes the deadline of `key`.
    pub(super) fn set(&mut self, key: K, at: Option<Duration>) {
        if self.by_key.get(&key).copied() == at {
            return;
        }
        if let Some(before) = self.by_key.remove(&key) {
            self.by_time.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.by_key.insert(key.clone(), at);
            self.by_time.insert((at, key));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that has passed at `now`.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_deadline() {
        let mut schedule = Schedule::default();
        let at = Duration::from_secs;
        schedule.set("a", Some(at(5)));
        schedule.set("b", Some(at(3)));
        schedule.set("a", Some(at(1)));
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.take_due(at(2)), Some("a"));
        assert_eq!(schedule.take_due(at(2)), None);
        assert_eq!(schedule.take_due(at(3)), Some("b"));
        schedule.set("c", Some(at(4)));
        schedule.set("c", None);
        assert_eq!(schedule.next(), None);
    }
}
