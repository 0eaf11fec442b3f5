//! How fast consumers follow each other in their turns to deliver while a crowd of them waits.
//!
//! A row of many messages costs little more than one message. While more consumers have something to deliver
//! than one turn serves, and that for long, each lets its messages gather for a moment, so that what it
//! sends is a row. A burst to many consumers, which passes, is served without any wait.
//!
//! Whoever gathers is waiting, so that pacing by itself would keep the crowd together for ever. Now and then
//! all are served as fast as it goes, and where the crowd melts then, it was no load worth pacing.

use std::time::Duration;

/// While consumers are paced each has its turn after so much time. 50 ms: at 600 messages a second each,
/// rows of 30. Twice as much brought nothing more.
///
/// For as long, consumers have to be a crowd before they are paced.
const CIRCLE: Duration = Duration::from_millis(50);

/// How long consumers are paced before it is seen again whether there is a crowd without that.
const PACED: Duration = Duration::from_secs(1);

/// How long that takes. As short as this, because a crowd that is not paced sends thousands of short rows
/// meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// There was a crowd if the broker, in [`CIRCLE`], had so many turns after which somebody was left waiting; and in
/// [`LOOK`] its part of them. Not all of its turns, for under load it often has nobody to serve while those
/// whom it has served take the processors.
const CROWDED_TURNS: u32 = 10;

/// Consumers that a turn serves at least while they are paced. Turns of 4 or 128 are both a little slower.
const LEAST: u32 = 16;

/// Who is served when.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    state: State,
    /// When some were served last.
    served: Duration,
    /// Before this moment nobody is served.
    next: Option<Duration>,
}

#[derive(Debug)]
enum State {
    /// All are served as fast as it goes.
    Free(Look),
    /// Each has its turn once in a circle.
    Paced {
        since: Duration,
        /// The most that waited at a time.
        size: usize,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Free(Look::default())
    }
}

/// Seeing whether there is a crowd while nobody is paced.
#[derive(Debug, Default)]
struct Look {
    since: Duration,
    length: Duration,
    /// Consumers that may be served before it counts: those that were paced until now.
    left: usize,
    /// Consumers that were served while more waited.
    crowded: usize,
    /// The most that waited at a time.
    size: usize,
}

impl Look {
    fn new(since: Duration, length: Duration, left: usize) -> Self {
        Self { since, length, left, ..Self::default() }
    }

    /// Whether there was a crowd, of which `most` were served in each turn.
    fn saw_crowd(&self, most: usize) -> bool {
        let turns = self.length.as_millis() * u128::from(CROWDED_TURNS) / CIRCLE.as_millis();
        self.crowded as u128 >= turns * most as u128
    }
}

impl Pacing {
    /// How many of `waiting` consumers have their turn at `now`: at most `most`.
    pub(super) fn admit(&mut self, now: Duration, waiting: usize, most: usize) -> usize {
        self.next = None;
        if let State::Paced { since, size } = &mut self.state {
            let time = now.saturating_sub(*since);
            *size = waiting.max(*size);
            // They are few at first: most were served just now.
            let is_over = waiting <= most && time >= CIRCLE;
            if time < PACED && !is_over {
                let size = *size;
                return self.admit_in_circle(now, waiting.min(most), size);
            }
            let length = if time < PACED { CIRCLE } else { LOOK };
            self.state = State::Free(Look::new(now, length, waiting));
        }
        self.served = now;
        self.admit_freely(now, waiting, most)
    }

    fn admit_freely(&mut self, now: Duration, waiting: usize, most: usize) -> usize {
        let State::Free(look) = &mut self.state else { return 0 };
        let count = waiting.min(most);
        let time = now.saturating_sub(look.since);
        if time >= look.length {
            self.state = match look.saw_crowd(most) && time < look.length * 2 {
                true => State::Paced { since: now, size: look.size.max(waiting) },
                false => State::Free(Look::new(now, CIRCLE, 0)),
            };
            return count;
        }
        let counted = count.saturating_sub(look.left);
        look.left = look.left.saturating_sub(count);
        look.size = look.size.max(waiting);
        if waiting > most {
            look.crowded += counted;
        }
        count
    }

    /// One consumer in each step comes to all of `size` in a circle, also when nobody joins them any more.
    fn admit_in_circle(&mut self, now: Duration, waiting: usize, size: usize) -> usize {
        let step = CIRCLE / u32::try_from(size).unwrap_or(u32::MAX);
        let due = now.saturating_sub(self.served).as_nanos() / step.as_nanos().max(1);
        if due < u128::from(LEAST) {
            self.next = Some(self.served + step * LEAST);
            return 0;
        }
        self.served = now;
        usize::try_from(due).unwrap_or(waiting).min(waiting)
    }

    /// Whether consumers let messages gather between their turns.
    pub(super) fn is_pacing(&self) -> bool {
        matches!(self.state, State::Paced { .. })
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
        for now in 0..=50 {
            assert_eq!(pacing.admit(ms(now), 1000, MOST), MOST);
        }
        let mut served = 0;
        for now in 51..151 {
            served += pacing.admit(ms(now), 1000, MOST);
        }
        assert!((1950..=2000).contains(&served), "{served} in two circles");
        let now = ms(150);
        assert_eq!(pacing.admit(now, 1000, MOST), 0);
        let next = pacing.next().expect("there is one");
        assert!(next > now && next < now + ms(1), "{next:?}");
        assert_eq!(pacing.admit(next, 1000, MOST), LEAST as usize);
    }

    #[test]
    fn whoever_is_left_when_the_crowd_is_gone_is_served_soon() {
        let mut pacing = Pacing::default();
        for now in 0..=50 {
            pacing.admit(ms(now), 1000, MOST);
        }
        assert!(pacing.is_pacing());
        assert_eq!(pacing.admit(ms(54), MOST, MOST), MOST);
        assert_eq!(pacing.admit(ms(101), MOST, MOST), MOST, "there were few for a whole circle");
        assert!(!pacing.is_pacing());
        assert_eq!(pacing.admit(ms(102), 1000, MOST), MOST, "a new crowd is a burst again");
    }

    /// Whether consumers are paced at the end of a second in which 1,000 of them wait, but for every second turn
    /// of the broker, and in which there are so many turns each millisecond.
    fn is_paced_with_holes(turns: u32) -> bool {
        let mut pacing = Pacing::default();
        for turn in 0..1000 * turns {
            let waiting = if turn % 2 == 0 { 1000 } else { 3 };
            pacing.admit(Duration::from_secs(1) * turn / (1000 * turns), waiting, MOST);
        }
        pacing.is_pacing()
    }

    #[test]
    fn a_crowd_that_is_served_in_bursts_is_one_all_the_same() {
        assert!(is_paced_with_holes(1));
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
}
