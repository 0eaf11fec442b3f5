//! Which consumers send to which subjects: push consumers to their own, pulls to inboxes.
//!
//! When a subscription begins or ends, the consumers it concerns are found here without a look at all
//! others. It does not know who is subscribed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::subject;

use super::sessions::ConsumerKey;

/// Entries that are kept at least before those are swept out whose pulls are over.
const SWEEP_FROM: usize = 1024;

/// Consumers by the subjects they send to.
#[derive(Debug, Default)]
pub(super) struct Listened {
    /// The entry of a pull stays when the pull is over, until it is swept out.
    by_subject: BTreeMap<Box<str>, BTreeSet<ConsumerKey>>,
    entries: usize,
    /// How many there were after the last sweep.
    swept: usize,
}

impl Listened {
    /// A consumer sends to a subject from now on.
    pub(super) fn add(&mut self, subject: &str, consumer: &ConsumerKey) {
        if let Some(consumers) = self.by_subject.get_mut(subject) {
            if !consumers.contains(consumer) {
                consumers.insert(consumer.clone());
                self.entries += 1;
            }
            return;
        }
        self.by_subject.insert(Box::from(subject), BTreeSet::from([consumer.clone()]));
        self.entries += 1;
    }

    /// The consumers that send to a subject which `pattern` matches.
    pub(super) fn concerned(&self, pattern: &str) -> BTreeSet<ConsumerKey> {
        if !subject::has_wildcard(pattern) {
            return self.by_subject.get(pattern).cloned().unwrap_or_default();
        }
        // What comes before the first wildcard is what all matching subjects begin with.
        let begin = pattern.split(['*', '>']).next().unwrap_or_default();
        let from = (Bound::Included(begin), Bound::Unbounded);
        self.by_subject
            .range::<str, _>(from)
            .take_while(|(subject, _)| subject.starts_with(begin))
            .filter(|(subject, _)| subject::matches(pattern, subject))
            .flat_map(|(_, consumers)| consumers.iter().cloned())
            .collect()
    }

    /// Whether so many entries were added that a sweep is worth its time.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.entries >= SWEEP_FROM + 2 * self.swept
    }

    /// Forgets what no longer holds.
    pub(super) fn sweep(&mut self, sends_to: impl Fn(&ConsumerKey, &str) -> bool) {
        self.by_subject.retain(|subject, consumers| {
            consumers.retain(|consumer| sends_to(consumer, subject));
            !consumers.is_empty()
        });
        self.entries = self.by_subject.values().map(BTreeSet::len).sum();
        self.swept = self.entries;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use std::sync::Arc;

    use claudebus_storage::StreamId;
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize) -> ConsumerKey {
        (StreamId(1), Arc::from(number.to_string()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// It finds what comparing with each subject finds.
        #[test]
        fn finds_what_matching_one_by_one_finds(
            subjects in prop::collection::vec("[ab](\\.[ab*]){0,2}", 0..12),
            pattern in "[ab*](\\.[ab*]){0,2}(\\.>)?|>",
        ) {
            let mut listened = Listened::default();
            for (number, subject) in subjects.iter().enumerate() {
                listened.add(subject, &key(number));
            }
            let expected: BTreeSet<_> = subjects
                .iter()
                .enumerate()
                .filter(|(_, subject)| subject::matches(&pattern, subject))
                .map(|(number, _)| key(number))
                .collect();
            prop_assert_eq!(listened.concerned(&pattern), expected);
        }
    }

    #[test]
    fn what_is_over_is_swept_out_once_it_is_much() {
        let mut listened = Listened::default();
        listened.add("push", &key(0));
        for number in 1..SWEEP_FROM {
            assert!(!listened.is_sweep_due());
            listened.add(&format!("inbox.{number}"), &key(number));
        }
        assert!(listened.is_sweep_due());
        listened.sweep(|consumer, subject| (consumer, subject) == (&key(0), "push"));
        assert!(!listened.is_sweep_due());
        assert_eq!(listened.concerned(">"), BTreeSet::from([key(0)]));
    }
}
