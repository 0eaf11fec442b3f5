//! Where a consumer's next messages lie, as far as it was told when they were appended.
//!
//! A consumer that keeps up reads just those places, so that it costs nothing to have a thousand
//! consumers that each want one message in a thousand. What was appended before it began to watch,
//! or so long ago that it was forgotten, is looked for by reading everything.

use std::collections::VecDeque;

/// Places remembered. 512: with messages for it in each place, as many as a consumer reads at a time;
/// 8 KiB a consumer. One that is further behind reads everything between.
const MAX_SIGHTINGS: usize = 512;

/// Places so close to each other are one: passing over a few others costs less than another read.
const NEAR: u64 = 16;

/// Ranges of sequences that hold all wanted records from one sequence on.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings {
    /// From here on nothing wanted lies outside of the ranges; nothing is known if there is none.
    since: Option<u64>,
    /// Ascending and apart.
    ranges: VecDeque<(u64, u64)>,
}

impl Sightings {
    /// Records from `first` to `last` are wanted, and nothing between them and those told before.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        self.since.get_or_insert(first);
        if let Some((_, end)) = self.ranges.back_mut()
            && first <= end.saturating_add(NEAR)
        {
            *end = last.max(*end);
            return;
        }
        if self.ranges.len() == MAX_SIGHTINGS
            && let Some((_, end)) = self.ranges.pop_front()
        {
            self.since = Some(end.saturating_add(1));
        }
        self.ranges.push_back((first, last));
    }

    /// Forgets everything: other records are wanted now.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Nothing below `cursor` is asked for any more.
    pub(super) fn pass(&mut self, cursor: u64) {
        while self.ranges.front().is_some_and(|(_, last)| *last < cursor) {
            self.ranges.pop_front();
        }
    }

    /// The first range at or after `cursor` that may hold something wanted, up to `last`.
    pub(super) fn next(&self, cursor: u64, last: u64) -> Option<(u64, u64)> {
        match self.since {
            Some(since) if cursor >= since => {
                let next = self.ranges.iter().find(|(_, end)| *end >= cursor);
                next.map(|(first, end)| ((*first).max(cursor), *end))
            }
            Some(since) => Some((cursor, last.min(since.saturating_sub(1)))),
            None => Some((cursor, last)),
        }
    }

    /// The sequences from `cursor` on, `most` of them, that are wanted for certain: up to a range that may
    /// hold others.
    pub(super) fn known(&self, cursor: u64, most: usize) -> Vec<u64> {
        if self.since.is_none_or(|since| cursor < since) {
            return Vec::new();
        }
        let ranges = self.ranges.iter().skip_while(|(_, last)| *last < cursor);
        let mut known = Vec::with_capacity(most.min(self.ranges.len()));
        known
            .extend(ranges.map_while(|(first, last)| (first == last).then_some(*first)).take(most));
        known
    }

    /// Like [`next`](Self::next), but only where something wanted was seen.
    pub(super) fn next_seen(&self, cursor: u64, last: u64) -> Option<(u64, u64)> {
        let is_known = self.since.is_some_and(|since| cursor >= since);
        self.next(cursor, last).filter(|_| is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_where_to_look() {
        let mut sightings = Sightings::default();
        assert_eq!(sightings.next(5, 99), Some((5, 99)), "nothing is known yet");
        sightings.add(100, 101);
        sightings.add(102 + NEAR, 103 + NEAR);
        sightings.add(500, 500);
        assert_eq!(sightings.next(5, 600), Some((5, 99)), "what was there before");
        assert_eq!(sightings.next(100, 600), Some((100, 101)));
        assert_eq!(sightings.next(101, 600), Some((101, 101)));
        assert_eq!(sightings.next(102, 600), Some((102 + NEAR, 103 + NEAR)));
        assert!(sightings.known(5, 9).is_empty(), "what was there before");
        assert!(sightings.known(100, 9).is_empty(), "two, and others could be between them");
        assert_eq!(sightings.known(104 + NEAR, 9), [500]);
        sightings.pass(104 + NEAR);
        assert_eq!(sightings.next(104 + NEAR, 600), Some((500, 500)));
        assert_eq!(sightings.next(501, 600), None, "nothing else is wanted");
        sightings.add(501 + NEAR - 1, 502 + NEAR);
        assert_eq!(sightings.next(501, 600), Some((501, 502 + NEAR)), "neighbours are one");
        sightings.forget();
        assert_eq!(sightings.next(501, 600), Some((501, 600)));
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut sightings = Sightings::default();
        for n in 0..=MAX_SIGHTINGS as u64 {
            sightings.add(1000 * (n + 1), 1000 * (n + 1));
        }
        assert_eq!(sightings.ranges.len(), MAX_SIGHTINGS);
        assert_eq!(sightings.next(1, u64::MAX), Some((1, 1000)), "to be read again");
        assert_eq!(sightings.next(1001, u64::MAX), Some((2000, 2000)));
        assert_eq!(sightings.known(1001, 3), [2000, 3000, 4000]);
        assert_eq!(sightings.known(2001, 2), [3000, 4000]);
    }
}
