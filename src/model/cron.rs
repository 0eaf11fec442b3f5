//! Cron expressions: which moments they name, in UTC or any other time zone.
//!
//! Five fields (minute, hour, day of month, month, day of week) as in `crontab(5)`, or six with
//! seconds in front as JetStream has them. It has no clock: it is asked for the first moment after
//! a given one.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// Days looked through for a moment. 29 February comes after eight years at the latest.
const MAX_DAYS: usize = 8 * 366 + 1;

/// Changes of a zone's offset passed by while looking for a moment; a zone has two a year.
const MAX_TRANSITIONS: usize = 64;

/// A cron expression is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Too few or too many fields.
    #[error(
        "\"{0}\" has {1} fields; a cron expression has five (minute, hour, day of month, month, day \
         of week), or six with seconds in front"
    )]
    Fields(String, usize),
    /// A field is not understood.
    #[error(
        "\"{value}\" is not a {field}; write numbers from {least} to {most}, *, a-b, a,b or */n"
    )]
    Field {
        /// What is written.
        value: String,
        /// Which field.
        field: &'static str,
        /// The lowest number.
        least: u8,
        /// The highest number.
        most: u8,
    },
    /// No day is like that.
    #[error("\"{0}\" never comes, like 30 February; correct the day or the month")]
    Never(String),
}

/// The moments a cron expression names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Bit `n` for second `n`; the others alike.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, the day of the week, are not restricted: if both are, either
    /// is enough.
    any_day: bool,
    any_weekday: bool,
}

/// What a field may hold.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", least: 0, most: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of the month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is 0, and 7 as well.
const WEEKDAY: Field = Field {
    name: "day of the week",
    least: 0,
    most: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Field {
    /// The bits of a list of ranges.
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        text.split(',')
            .try_fold(0, |bits, part| self.part(part).map(|more| bits | more))
            .ok_or_else(|| CronError::Field {
                value: text.to_owned(),
                field: self.name,
                least: self.least,
                most: self.most,
            })
    }

    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step.parse().ok().filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // `5/10` goes on from 5.
            None if step.is_some() => (self.value(range)?, self.most),
            None => (self.value(range)?, self.value(range)?),
        };
        if first > last {
            return None;
        }
        Some((first..=last).step_by(step.unwrap_or(1)).fold(0, |bits, n| bits | 1 << n))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        if let Some(at) = named {
            return Some(u8::try_from(at).ok()? + self.least);
        }
        // `+5` would be a number to Rust.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = text.parse().ok().filter(|_| digits)?;
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

/// The lowest bit from `from` on.
fn bit_from(bits: u64, from: i8) -> Option<i8> {
    let from = u32::try_from(from).ok()?;
    let left = bits.checked_shr(from)?.checked_shl(from)?;
    if left == 0 { None } else { i8::try_from(left.trailing_zeros()).ok() }
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`CronError`]: which field is wrong, and what it may be.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest) = match fields.as_slice() {
            [second, rest @ ..] if rest.len() == 5 => (*second, rest),
            rest if rest.len() == 5 => ("0", rest),
            other => return Err(CronError::Fields(text.to_owned(), other.len())),
        };
        let [minute, hour, day, month, weekday] = rest else {
            return Err(CronError::Fields(text.to_owned(), rest.len()));
        };
        let mut weekdays = WEEKDAY.parse(weekday)?;
        weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let cron = Self {
            seconds: SECOND.parse(second)?,
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays,
            any_day: day.contains('*'),
            any_weekday: weekday.contains('*'),
        };
        // Any eight years without 29 February omitted would do.
        match cron.first_from(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never(text.to_owned())),
        }
    }

    /// The first moment after `after` (nanoseconds since the Unix epoch) in a zone.
    ///
    /// An hour that clocks skip or repeat: expressions for every hour go by real time, so that they
    /// neither pause nor hurry; the others come once a day, a skipped moment by as much later as
    /// the clocks jump.
    #[must_use]
    pub fn after(&self, after: u64, zone: &TimeZone) -> Option<u64> {
        let second = i64::try_from(after / 1_000_000_000).ok()? + 1;
        let from = Timestamp::from_second(second).ok()?;
        let found = if self.hours == 0xff_ffff {
            self.steady(from, zone)
        } else {
            self.by_the_clock(from, zone)
        };
        u64::try_from(found?.as_nanosecond()).ok()
    }

    /// The first moment from `from` on, hour after real hour: clocks run evenly between two changes
    /// of the offset.
    fn steady(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut from = from;
        for _ in 0..MAX_TRANSITIONS {
            let offset = zone.to_offset(from);
            let found = offset.to_timestamp(self.first_from(offset.to_datetime(from))?).ok()?;
            match zone.following(from).next() {
                Some(change) if change.timestamp() <= found => from = change.timestamp(),
                _ => return Some(found),
            }
        }
        None
    }

    /// The first moment from `from` on, each reading of the clock once.
    fn by_the_clock(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // A reading that was skipped comes later than readings after it.
        let changed = zone.preceding(from).next();
        let is_recent = changed.is_some_and(|change| from < change.timestamp() + 3.hours());
        let back = if is_recent { 3.hours() } else { 0.hours() };
        let mut clock = zone.to_datetime(from).checked_sub(back).ok()?;
        loop {
            let reading = self.first_from(clock)?;
            let found = zone.to_ambiguous_timestamp(reading).compatible().ok()?;
            if found >= from {
                return Some(found);
            }
            clock = reading.checked_add(1.second()).ok()?;
        }
    }

    /// The first reading of a clock from `from` on.
    fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let (mut date, mut time) = (from.date(), from.time());
        for _ in 0..MAX_DAYS {
            if self.has_day(date)
                && let Some(found) = self.time_from(time)
            {
                return Some(date.to_datetime(found));
            }
            date = date.tomorrow().ok()?;
            time = Time::midnight();
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let has = |bits: u64, n: i8| bit_from(bits, n) == Some(n);
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        has(self.months, date.month()) && either
    }

    fn time_from(&self, from: Time) -> Option<Time> {
        let mut hour = bit_from(self.hours, from.hour());
        while let Some(h) = hour {
            let begun = h == from.hour();
            let mut minute = bit_from(self.minutes, if begun { from.minute() } else { 0 });
            while let Some(m) = minute {
                let second = if begun && m == from.minute() { from.second() } else { 0 };
                if let Some(s) = bit_from(self.seconds, second) {
                    return Time::new(h, m, s, 0).ok();
                }
                minute = bit_from(self.minutes, m + 1);
            }
            hour = bit_from(self.hours, h + 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn next(cron: &str, after: &str, zone: &str) -> String {
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(zone).unwrap();
        let found = Cron::parse(cron).unwrap().after(nanos(after), &zone).unwrap();
        Timestamp::from_nanosecond(i128::from(found)).unwrap().to_string()
    }

    #[test]
    fn moments_come_in_their_order() {
        for (cron, after, expected) in [
            ("0 * * * *", "2025-01-01T00:00:00Z", "2025-01-01T01:00:00Z"),
            ("0 * * * *", "2025-01-01T00:59:59.9Z", "2025-01-01T01:00:00Z"),
            ("*/20 5,7 * * *", "2025-01-01T05:40:00Z", "2025-01-01T07:00:00Z"),
            ("30 0 0 1 1 *", "2025-01-01T00:00:30Z", "2026-01-01T00:00:30Z"),
            ("0 0 29 2 *", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 9 * * mon-fri", "2025-08-01T09:00:00Z", "2025-08-04T09:00:00Z"),
            ("0 0 13 * fri", "2025-06-10T00:00:00Z", "2025-06-13T00:00:00Z"),
            ("0 0 13 * 5", "2025-06-13T00:00:00Z", "2025-06-20T00:00:00Z"),
            ("0 0 * * 7", "2025-06-13T00:00:00Z", "2025-06-15T00:00:00Z"),
            ("10/25 * * * *", "2025-06-13T00:10:00Z", "2025-06-13T00:35:00Z"),
        ] {
            assert_eq!(next(cron, after, "UTC"), expected, "{cron}");
        }
    }

    #[test]
    fn hours_that_clocks_skip_or_repeat() {
        for (cron, after, expected) in [
            // On 30 March clocks in Berlin went from 2 to 3.
            ("30 2 * * *", "2025-03-29T12:00:00Z", "2025-03-30T01:30:00Z"),
            ("30 2 * * *", "2025-03-30T01:15:00Z", "2025-03-30T01:30:00Z"),
            ("30 2 * * *", "2025-03-30T01:30:00Z", "2025-03-31T00:30:00Z"),
            ("30 * * * *", "2025-03-30T00:30:00Z", "2025-03-30T01:30:00Z"),
            // On 26 October they went from 3 to 2.
            ("30 2 * * *", "2025-10-25T12:00:00Z", "2025-10-26T00:30:00Z"),
            ("30 2 * * *", "2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"),
            ("30 * * * *", "2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z"),
        ] {
            assert_eq!(next(cron, after, "Europe/Berlin"), expected, "{cron} after {after}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for bad in [
            "",
            "* * * *",
            "* * * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-3 * * * *",
            "*/0 * * * *",
            "+5 * * * *",
            "* * * foo *",
            "a,b * * * *",
            "0 0 30 2 *",
            "1- * * * *",
            ", * * * *",
        ] {
            assert!(Cron::parse(bad).is_err(), "{bad}");
        }
        let error = Cron::parse("61 * * * *").unwrap_err().to_string();
        assert!(error.contains("\"61\" is not a minute"), "{error}");
    }

    /// Whether the expression names a second of UTC, as slowly and plainly as can be.
    fn names(fields: &[Option<(u8, u8)>; 6], at: DateTime) -> bool {
        let within = |field: Option<(u8, u8)>, value: i8| {
            field.is_none_or(|(a, b)| (a..=b).contains(&u8::try_from(value).unwrap()))
        };
        let [second, minute, hour, day, month, weekday] = *fields;
        let sunday_based = at.date().weekday().to_sunday_zero_offset();
        let (by_day, by_weekday) = (within(day, at.day()), within(weekday, sunday_based));
        let either = if day.is_some() && weekday.is_some() {
            by_day || by_weekday
        } else {
            by_day && by_weekday
        };
        within(second, at.second())
            && within(minute, at.minute())
            && within(hour, at.hour())
            && within(month, at.month())
            && either
    }

    fn field(least: u8, most: u8) -> impl Strategy<Value = Option<(u8, u8)>> {
        prop::option::weighted(0.6, (least..=most, least..=most))
            .prop_map(|range| range.map(|(a, b)| (a.min(b), a.max(b))))
    }

    proptest! {
        #[test]
        fn no_moment_is_missed_and_none_invented(
            fields in (field(0, 59), field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)),
            start in 1_700_000_000_i64..1_800_000_000,
        ) {
            let fields = [fields.0, fields.1, fields.2, fields.3, fields.4, fields.5];
            let text = fields.map(|f| f.map_or("*".to_owned(), |(a, b)| format!("{a}-{b}"))).join(" ");
            let cron = Cron::parse(&text).unwrap();
            let found = cron.after(start.unsigned_abs() * 1_000_000_000, &TimeZone::UTC).unwrap();
            let found = i64::try_from(found / 1_000_000_000).unwrap();
            let clock = |second| TimeZone::UTC.to_datetime(Timestamp::from_second(second).unwrap());
            prop_assert!(names(&fields, clock(found)));
            // A day before it second by second would take long; an hour shows as much.
            for second in (start + 1).max(found - 3600)..found {
                prop_assert!(!names(&fields, clock(second)), "{text} at {second}");
            }
        }
    }
}
