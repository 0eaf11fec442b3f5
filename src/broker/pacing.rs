//! How fast consumers follow each other in their turns to deliver while a crowd of them waits.
//!
//! A row of many messages costs little more than one message. While more consumers have something to deliver
//! than one turn serves, and that for long, each lets its messages gather for a moment, so that what it
//! sends is a row. A burst to many consumers, which passes, is served without any wait.
//!
//! Whoever gathers is waiting, so that pacing by itself would keep the crowd together for ever. Now and then
//! all are served as fast as it goes, and where the crowd melts then, it was no load worth pacing.

use std::time::Duration;

/// How long consumers have to be a crowd; then each has its turn after so much time. 50 ms: at 600 messages
/// a second each, rows of 30. Twice as much brought nothing more.
const CIRCLE: Duration = Duration::from_millis(50);

/// How long consumers are paced before it is seen again whether there is a crowd without that: one part in
/// twenty of the time is for looking.
const PACED: Duration = Duration::from_secs(1);

/// Consumers that a turn serves at least while there is a crowd. Turns of 4 or 128 are both a little slower.
const LEAST: u32 = 16;

/// Who is served when.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    crowd: Option<Crowd>,
    /// When some were served last.
    served: Duration,
    /// Before this moment nobody is served.
    next: Option<Duration>,
}

/// More consumers than one turn serves.
#[derive(Debug)]
struct Crowd {
    /// Since when they wait without being paced.
    since: Duration,
    /// The most that waited at a time.
    size: usize,
}

impl Pacing {
    /// How many of `waiting` consumers have their turn at `now`: at most `most`.
    pub(super) fn admit(&mut self, now: Duration, waiting: usize, most: usize) -> usize {
        self.next = None;
        if waiting <= most {
            self.crowd = None;
            self.served = now;
            return waiting;
        }
        let crowd = self.crowd.get_or_insert(Crowd { since: now, size: waiting });
        crowd.size = crowd.size.max(waiting);
        let time = now.saturating_sub(crowd.since);
        if time >= CIRCLE + PACED {
            *crowd = Crowd { since: now, size: waiting };
        }
        if !(CIRCLE..CIRCLE + PACED).contains(&time) {
            self.served = now;
            return most;
        }
        // One consumer in each such step comes to all of them in a circle, also when nobody joins them any more.
        let step = CIRCLE / u32::try_from(crowd.size).unwrap_or(u32::MAX);
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

    /// How long `count` consumers wait at most, of which each has a message `each` time, on a machine that can
    /// serve all: from `from` on, after a crowd of all of them that lasted until then.
    fn longest_wait(count: usize, each: Duration, from: Duration) -> Duration {
        let mut pacing = Pacing::default();
        let (mut since, mut longest) = (std::collections::VecDeque::new(), Duration::ZERO);
        let step = Duration::from_micros(200);
        let (mut now, mut joined) = (Duration::ZERO, 0.0);
        while now < from + Duration::from_secs(3) {
            if now < from {
                since.resize(count, now);
            }
            // A message for a consumer that waits already makes none of the others wait.
            let others = count - since.len();
            joined += others as f64 * step.as_secs_f64() / each.as_secs_f64();
            while joined >= 1.0 {
                since.push_back(now);
                joined -= 1.0;
            }
            for _ in 0..pacing.admit(now, since.len(), MOST) {
                let waited = now - since.pop_front().unwrap();
                longest = longest.max(if now > from + ms(1200) { waited } else { waited / 1000 });
            }
            now += step;
        }
        longest
    }

    #[test]
    fn a_crowd_that_pacing_alone_keeps_together_is_let_go() {
        for (count, each) in [(1000, 200), (1000, 50), (100, 5), (300, 20)] {
            let longest = longest_wait(count, ms(each), ms(200));
            assert!(
                longest < ms(5),
                "{longest:?} of {count} consumers with a message each {each} ms"
            );
        }
    }

    #[test]
    fn nobody_waits_for_longer_than_a_circle_when_nobody_joins() {
        for count in [100, 1000, 10_000] {
            let (mut pacing, mut now) = (Pacing::default(), Duration::ZERO);
            while now < ms(60) {
                pacing.admit(now, count, MOST);
                now += Duration::from_micros(100);
            }
            let (mut left, began) = (count, now);
            while left > 0 {
                left -= pacing.admit(now, left, MOST);
                now = pacing.next().unwrap_or(now + Duration::from_micros(100));
            }
            assert!(now - began <= CIRCLE + ms(2), "{:?} for {count}", now - began);
        }
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
