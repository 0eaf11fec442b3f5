//! Durations as Go writes them: `2s`, `1m30s`, `1.5h`, `250ms`.

use std::time::Duration;

use super::super::text::MAX_DURATION;

/// Units and their lengths in seconds. Those that begin like others come first.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
];

/// Reads a duration; a bare number is seconds.
///
/// # Errors
/// Text that says what was expected.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration; write for example \"250ms\", \"2s\" or \"1m30s\"");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if let Ok(bare) = rest.parse::<f64>() {
        seconds = bare;
        rest = "";
    } else if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at_checked(end).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit =
            UNITS.iter().find_map(|(unit, length)| Some((after.strip_prefix(unit)?, length)));
        let (after, length) = unit.ok_or_else(wrong)?;
        seconds += number * length;
        rest = after;
    }
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(wrong());
    }
    let found = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    if found > MAX_DURATION {
        return Err(format!("`{text}` is too long a time; the most is 1000 years"));
    }
    Ok(found)
}
