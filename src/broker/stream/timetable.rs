//! The schedules of a stream: which message is due when.
//!
//! It is told when things are due and has no clock. What it holds is kept in the log's state by
//! [`scheduling`](crate::broker::scheduling), which also publishes.

use std::collections::{BTreeSet, HashMap};

use crate::broker::state::KeptSchedule;
use crate::model::schedule::Schedule;

/// Never: of schedules that cannot be read.
const NEVER: u64 = u64::MAX;

/// A message that is a schedule.
#[derive(Clone, Debug)]
pub(in crate::broker) struct Entry {
    pub(in crate::broker) kept: KeptSchedule,
    pub(in crate::broker) schedule: Schedule,
    /// Why it could not be published, at the last attempt.
    pub(in crate::broker) problem: Option<String>,
    /// Its place among those that are due, in nanoseconds since the Unix epoch: when it is due, or
    /// when it is tried again.
    place: u64,
}

impl Entry {
    pub(in crate::broker) fn new(kept: KeptSchedule, schedule: Schedule) -> Self {
        Self { place: kept.due, kept, schedule, problem: None }
    }
}

/// Schedules by sequence, by subject, and by when they are due.
#[derive(Debug, Default)]
pub(in crate::broker) struct Timetable {
    entries: HashMap<u64, Entry>,
    subjects: HashMap<String, u64>,
    places: BTreeSet<(u64, u64)>,
}

impl Timetable {
    pub(in crate::broker) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::broker) fn contains(&self, seq: u64) -> bool {
        self.entries.contains_key(&seq)
    }

    pub(in crate::broker) fn get(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(&seq)
    }

    /// The schedule of a subject: there is one at most.
    pub(in crate::broker) fn of_subject(&self, subject: &str) -> Option<u64> {
        self.subjects.get(subject).copied()
    }

    /// Adds the schedule at `seq`. The caller has removed another one of its subject.
    pub(in crate::broker) fn insert(&mut self, seq: u64, entry: Entry) {
        self.subjects.insert(entry.kept.subject.clone(), seq);
        self.places.insert((entry.place, seq));
        self.entries.insert(seq, entry);
    }

    pub(in crate::broker) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.places.remove(&(entry.place, seq));
        if self.subjects.get(&entry.kept.subject) == Some(&seq) {
            self.subjects.remove(&entry.kept.subject);
        }
        Some(entry)
    }

    /// Removes all, and returns where they were.
    pub(in crate::broker) fn clear(&mut self) -> Vec<u64> {
        let cleared = std::mem::take(self);
        cleared.entries.into_keys().collect()
    }

    /// It is due at `due` from now on. Returns what is to be kept.
    pub(in crate::broker) fn set_due(&mut self, seq: u64, due: u64) -> Option<&KeptSchedule> {
        self.put_at(seq, due, None)?.due = due;
        self.entries.get(&seq).map(|entry| &entry.kept)
    }

    /// It could not be published, and is tried again at `again`.
    pub(in crate::broker) fn postpone(&mut self, seq: u64, again: u64, problem: String) {
        self.put_at(seq, again, Some(problem));
    }

    /// It cannot be read, and is not tried again.
    pub(in crate::broker) fn give_up(&mut self, seq: u64, problem: String) {
        self.put_at(seq, NEVER, Some(problem));
    }

    fn put_at(
        &mut self,
        seq: u64,
        place: u64,
        problem: Option<String>,
    ) -> Option<&mut KeptSchedule> {
        let entry = self.entries.get_mut(&seq)?;
        self.places.remove(&(entry.place, seq));
        self.places.insert((place, seq));
        entry.place = place;
        entry.problem = problem;
        Some(&mut entry.kept)
    }

    /// When something is to be done next.
    pub(in crate::broker) fn next(&self) -> Option<u64> {
        self.places.first().map(|(at, _)| *at).filter(|at| *at != NEVER)
    }

    /// The schedule that is due at `now`, the longest first.
    pub(in crate::broker) fn due(&self, now: u64) -> Option<u64> {
        self.places.first().filter(|(at, _)| *at <= now && *at != NEVER).map(|(_, seq)| *seq)
    }

    /// All, those that are due first coming first.
    pub(in crate::broker) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.places.iter().filter_map(|(_, seq)| Some((*seq, self.entries.get(seq)?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(subject: &str, due: u64) -> Entry {
        let kept = KeptSchedule {
            subject: subject.into(),
            schedule: "@every 1s".into(),
            time_zone: None,
            target: "t".into(),
            ttl: None,
            due,
        };
        Entry::new(kept, Schedule::parse("@every 1s", None).unwrap())
    }

    #[test]
    fn the_longest_due_comes_first_and_what_cannot_be_read_never() {
        let mut table = Timetable::default();
        for (seq, subject, due) in [(1, "a", 30), (2, "b", 10), (3, "c", 20)] {
            table.insert(seq, entry(subject, due));
        }
        assert_eq!((table.next(), table.due(9), table.due(10)), (Some(10), None, Some(2)));
        assert_eq!(table.set_due(2, 40).unwrap().due, 40);
        table.postpone(3, 35, "full".into());
        assert_eq!(table.due(30), Some(1));
        assert!(table.remove(1).is_some() && table.of_subject("a").is_none());
        table.give_up(2, "damaged".into());
        assert_eq!(table.iter().map(|(seq, _)| seq).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(table.due(NEVER), Some(3));
        assert!(table.remove(3).is_some());
        assert_eq!((table.next(), table.due(NEVER), table.len()), (None, None, 1));
    }
}
