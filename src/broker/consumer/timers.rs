//! When pending messages have waited long enough.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Deadlines by sequence. One deadline may be set several times for a sequence; whoever takes a due
/// one checks that it is the deadline in force.
///
/// With one `ack_wait` for all, deadlines come in ascending order: those cost a push and a pop. The
/// others go to a tree.
#[derive(Debug, Default)]
pub(super) struct Timers {
    ascending: VecDeque<(Duration, u64)>,
    others: BTreeSet<(Duration, u64)>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Duration, seq: u64) {
        if self.ascending.back().is_none_or(|(last, _)| *last <= at) {
            self.ascending.push_back((at, seq));
        } else {
            self.others.insert((at, seq));
        }
    }

    /// The earliest deadline that `in_force` confirms. Others met on the way are dropped.
    pub(super) fn next(&mut self, in_force: impl Fn(u64, Duration) -> bool) -> Option<Duration> {
        while self.ascending.front().is_some_and(|(at, seq)| !in_force(*seq, *at)) {
            self.ascending.pop_front();
        }
        while self.others.first().is_some_and(|(at, seq)| !in_force(*seq, *at)) {
            self.others.pop_first();
        }
        let first = self.ascending.front().map(|(at, _)| *at);
        let other = self.others.first().map(|(at, _)| *at);
        first.into_iter().chain(other).min()
    }

    /// Takes one deadline that has passed.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<(Duration, u64)> {
        if self.ascending.front().is_some_and(|(at, _)| *at <= now) {
            return self.ascending.pop_front();
        }
        if self.others.first().is_some_and(|(at, _)| *at <= now) {
            return self.others.pop_first();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_out_of_order_are_found() {
        let mut timers = Timers::default();
        for (at, seq) in [(5, 1), (3, 2), (9, 3), (3, 4)] {
            timers.set(Duration::from_secs(at), seq);
        }
        assert_eq!(timers.next(|_, _| true), Some(Duration::from_secs(3)));
        assert_eq!(timers.next(|seq, _| seq == 3), Some(Duration::from_secs(9)));
        assert!(timers.pop_due(Duration::from_secs(8)).is_none());
        assert_eq!(timers.pop_due(Duration::from_secs(9)), Some((Duration::from_secs(9), 3)));
    }
}
