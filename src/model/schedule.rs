//! Schedules of messages: once at a time or after a while, every so often, or by a cron expression.
//! The text is that of the header `Nats-Schedule`; `@after` is ours, the others are JetStream's.
//!
//! It has no clock: it is told the time and says when a message is due. What happens then is the
//! broker's part.

use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::cron::{Cron, CronError};
use super::duration::from_go;
use super::time::Timestamp;

/// What the subjects of schedules begin with that may publish to any stream.
pub const PREFIX: &str = "$SCHEDULE.";

/// The stream of those, made at first use.
pub const STREAM: &str = "CLAUDEBUS_SCHEDULES";

/// The shortest interval of `@every`, as JetStream has it.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Words for common cron expressions.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
    ("@monthly", "0 0 0 1 * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@hourly", "0 0 * * * *"),
];

/// A text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The time after `@at`.
    #[error("\"{0}\" is not a time; write it as 2030-01-31T18:00:00Z")]
    Time(String),
    /// The interval after `@every`.
    #[error("\"{0}\" is not an interval of a second or more; write it as 30s, 5m or 1h30m")]
    Interval(String),
    /// The duration after `@after`.
    #[error("\"{0}\" is not a duration; write it as 500ms, 30s, 5m or 1h30m")]
    Wait(String),
    /// Another word after `@`.
    #[error(
        "\"{0}\" is not known; there are @at, @after, @every, @yearly, @monthly, @weekly, @daily and \
         @hourly"
    )]
    Word(String),
    /// A cron expression.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The time zone's name.
    #[error("\"{0}\" is not a time zone; write it as Europe/Berlin")]
    Zone(String),
    /// A time zone, and no cron expression.
    #[error("a time zone is for cron expressions only; @at and @every have no use for it")]
    ZoneWithoutCron,
}

impl ScheduleError {
    /// Whether the time zone is what is wrong.
    #[must_use]
    pub fn is_about_zone(&self) -> bool {
        matches!(self, Self::Zone(_) | Self::ZoneWithoutCron)
    }
}

/// When a message is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pattern: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// Once, at this time.
    At(u64),
    /// Once, so many nanoseconds after it is stored.
    After(u64),
    /// Every so many nanoseconds.
    Every(u64),
    /// As a cron expression says, in a time zone.
    Cron(Box<(Cron, TimeZone)>),
}

impl Schedule {
    /// Reads `@at <RFC 3339>`, `@after <duration>`, `@every <duration>`, `@hourly` and the like, or a cron expression,
    /// which may be in the time zone of a name; without one it is in UTC.
    ///
    /// # Errors
    /// [`ScheduleError`]: what is wrong, and how it is written.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let pattern = if let Some(time) = text.strip_prefix("@at ") {
            let time: Timestamp =
                time.trim().parse().map_err(|_| ScheduleError::Time(time.trim().to_owned()))?;
            Pattern::At(time.0)
        } else if let Some(wait) = text.strip_prefix("@after ") {
            let after = from_go(wait.trim()).and_then(|wait| u64::try_from(wait.as_nanos()).ok());
            Pattern::After(after.ok_or_else(|| ScheduleError::Wait(wait.trim().to_owned()))?)
        } else if let Some(interval) = text.strip_prefix("@every ") {
            let wrong = || ScheduleError::Interval(interval.trim().to_owned());
            let every = from_go(interval.trim()).filter(|every| *every >= MIN_INTERVAL);
            let every = every.and_then(|every| u64::try_from(every.as_nanos()).ok());
            Pattern::Every(every.ok_or_else(wrong)?)
        } else {
            let cron = match WORDS.iter().find(|(word, _)| *word == text) {
                Some((_, cron)) => cron,
                None if text.starts_with('@') => return Err(ScheduleError::Word(text.to_owned())),
                None => text,
            };
            let zone = match zone {
                Some(name) => TimeZoneDatabase::bundled()
                    .get(name)
                    .map_err(|_| ScheduleError::Zone(name.to_owned()))?,
                None => TimeZone::UTC,
            };
            return Ok(Self { pattern: Pattern::Cron(Box::new((Cron::parse(cron)?, zone))) });
        };
        if zone.is_some() { Err(ScheduleError::ZoneWithoutCron) } else { Ok(Self { pattern }) }
    }

    /// When it is due for the first time, told at `now` (nanoseconds since the Unix epoch). A time
    /// that has passed means at once; nothing, that it never is.
    #[must_use]
    pub fn first(&self, now: u64) -> Option<u64> {
        match &self.pattern {
            Pattern::At(time) => Some(*time),
            Pattern::After(wait) | Pattern::Every(wait) => now.checked_add(*wait),
            Pattern::Cron(cron) => cron.0.after(now, &cron.1),
        }
    }

    /// When it is due again, after it was due at `due` and it is `now`. Times that have passed
    /// meanwhile are left out.
    #[must_use]
    pub fn next(&self, due: u64, now: u64) -> Option<u64> {
        match &self.pattern {
            Pattern::At(_) | Pattern::After(_) => None,
            Pattern::Every(every) => {
                let passed = now.saturating_sub(due) / every + 1;
                due.checked_add(passed.checked_mul(*every)?)
            }
            Pattern::Cron(cron) => cron.0.after(now.max(due), &cron.1),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn parse(text: &str) -> Schedule {
        Schedule::parse(text, None).unwrap()
    }

    #[test]
    fn once() {
        let once = parse("@at 1970-01-01T01:00:00+01:00");
        assert_eq!((once.first(5), once.next(0, 5)), (Some(0), None));
        let after = parse("@after 1m");
        assert_eq!((after.first(5), after.next(5, 5)), (Some(60 * SECOND + 5), None));
    }

    #[test]
    fn intervals_keep_their_beat_and_leave_out_what_passed() {
        let every = parse("@every 1m30s");
        assert_eq!(every.first(5), Some(90 * SECOND + 5));
        assert_eq!(every.next(100, 100), Some(90 * SECOND + 100));
        assert_eq!(every.next(100, 90 * SECOND + 99), Some(90 * SECOND + 100));
        assert_eq!(every.next(100, 90 * SECOND + 100), Some(180 * SECOND + 100));
        assert_eq!(every.next(100, 50), Some(90 * SECOND + 100), "the clock went back");
    }

    #[test]
    fn cron_in_a_zone() {
        let midnight = Schedule::parse("0 0 * * *", Some("Asia/Tokyo")).unwrap();
        assert_eq!(midnight.first(0), Some(15 * 3600 * SECOND));
        assert_eq!(parse("@daily").first(0), Some(24 * 3600 * SECOND));
        assert_eq!(parse("@hourly").next(0, 9000 * SECOND), Some(10_800 * SECOND));
    }

    #[test]
    fn what_is_no_schedule() {
        for bad in
            ["", "@at", "@at tomorrow", "@every 5", "@every 999ms", "@after x", "@often", "* * *"]
        {
            assert!(Schedule::parse(bad, None).is_err(), "{bad}");
        }
        let zone = |text, zone| Schedule::parse(text, Some(zone)).unwrap_err().is_about_zone();
        assert!(zone("0 0 * * *", "Mars/Phobos") && zone("@every 5m", "UTC"));
        assert!(!zone("x", "UTC"));
    }
}
