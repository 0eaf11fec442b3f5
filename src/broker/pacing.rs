//! How fast consumers follow each other in their turns to deliver while a crowd of them waits.
//!
//! A row of many messages costs little more than one message. While more consumers have something to deliver
//! than one turn serves, and that for long, each lets its messages gather for a moment, so that what it
//! sends is a row. A burst to many consumers, which passes, is served without any wait.

use std::time::Duration;

/// How long consumers have to be a crowd, and how often each of it then has its turn at most. 50 ms: at 600
/// messages a second each, rows of 30. Twice as much brought nothing more.
const CIRCLE: Duration = Duration::from_millis(50);

/// Consumers that a turn serves at least while there is a crowd. Turns of 4 or 128 are both a little slower.
const LEAST: u32 = 16;

/// Who is served when.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// Since when more consumers have waited than one turn serves.
    crowded_since: Option<Duration>,
    /// When some were served last.
    served: Duration,
    /// Before this moment nobody is served.
    next: Option<Duration>,
}

impl Pacing {
    /// How many of `waiting` consumers have their turn at `now`: at most `most`.
    pub(super) fn admit(&mut self, now: Duration, waiting: usize, most: usize) -> usize {
        self.next = None;
        if waiting <= most {
            self.crowded_since = None;
            self.served = now;
            return waiting;
        }
        let since = *self.crowded_since.get_or_insert(now);
        if now.saturating_sub(since) < CIRCLE {
            self.served = now;
            return most;
        }
        // One consumer in each such step comes to all of them in a circle.
        let step = CIRCLE / u32::try_from(waiting).unwrap_or(u32::MAX);
        let due = now.saturating_sub(self.served).as_nanos() / step.as_nanos().max(1);
        if due < u128::from(LEAST) {
            self.next = Some(self.served + step * LEAST);
            return 0;
        }
        self.served = now;
        usize::try_from(due).unwrap_or(most).min(most)
    }

    /// The moment before which nobody is served.
    pub(super) fn next(&self) -> Option<Duration> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_burst_is_served_without_a_wait() {
        let mut pacing = Pacing::default();
        for left in (0..1000).rev().step_by(MOST) {
            assert_eq!(pacing.admit(ms(7), left, MOST), left.min(MOST));
            assert_eq!(pacing.next(), None);
        }
    }

    #[test]
    fn a_crowd_that_lasts_is_served_once_in_a_circle() {
        let mut pacing = Pacing::default();
        for now in 0..50 {
            assert_eq!(pacing.admit(ms(now), 1000, MOST), MOST);
        }
        let mut served = 0;
        for now in 50..150 {
            served += pacing.admit(ms(now), 1000, MOST);
        }
        assert!((1950..=2000).contains(&served), "{served} in two circles");
        let now = ms(149);
        assert_eq!(pacing.admit(now, 1000, MOST), 0);
        let next = pacing.next().expect("there is one");
        assert!(next > now && next < now + ms(1), "{next:?}");
        assert_eq!(pacing.admit(next, 1000, MOST), LEAST as usize);
    }

    #[test]
    fn whoever_is_left_when_the_crowd_is_gone_is_served_at_once() {
        let mut pacing = Pacing::default();
        for now in 0..=60 {
            pacing.admit(ms(now), 1000, MOST);
        }
        assert_eq!(pacing.admit(ms(60), MOST, MOST), MOST);
        assert_eq!(pacing.admit(ms(60), 1000, MOST), MOST, "a new crowd is a burst again");
    }

    /// A server that stops serves all at once.
    #[test]
    fn a_turn_without_a_bound_serves_everybody() {
        let mut pacing = Pacing::default();
        for now in 0..=60 {
            pacing.admit(ms(now), 1000, MOST);
        }
        assert_eq!(pacing.admit(ms(60), 1000, usize::MAX), 1000);
    }
}
