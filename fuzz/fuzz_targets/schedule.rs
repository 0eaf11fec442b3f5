//! Schedules as text: whatever is in one, it is understood or refused, never a panic; it is due after
//! the time that it is asked about, and no sooner than it said before.
#![no_main]

use claudebus::model::schedule::Schedule;
use libfuzzer_sys::fuzz_target;

/// The year 2470: times beyond are nobody's.
const LATEST: u64 = 500 * 365 * 86_400_000_000_000;

fuzz_target!(|input: (&str, Option<&str>, u64, u64)| {
    let (text, zone, due, now) = input;
    let (due, now) = (due % LATEST, now % LATEST);
    let Ok(schedule) = Schedule::parse(text, zone) else { return };
    let is_relative = !text.trim_start().starts_with("@at");
    if let Some(first) = schedule.first(now) {
        assert!(!is_relative || first >= now, "first at {first}, told at {now}");
    }
    let Some(next) = schedule.next(due, now) else { return };
    assert!(next > now && next > due, "due at {due}, now {now}, and again at {next}");
    // Nothing is due in between, so that asking later gives the same.
    let later = now.max(due).midpoint(next);
    if later < next {
        assert_eq!(schedule.next(due, later), Some(next), "asked at {now} and at {later}");
    }
});
