//! Values as people write them: durations, sizes, counts. Every parser refuses what it cannot
//! represent with a sentence that says what was found and what is expected.

use std::time::Duration;

/// Longest duration: 1,000 years. More is a slip of the keyboard, and sums of durations must not
/// overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);

/// `7d`, `2m 30s`, `250ms`; a bare number is seconds.
///
/// # Errors
/// Text that says what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 250ms, 30s, 2m or 7d");
    let found = if let Ok(seconds) = text.parse::<f64>() {
        if !seconds.is_finite() || seconds < 0.0 {
            return Err(wrong());
        }
        Duration::try_from_secs_f64(seconds).map_err(|_| too_long(text))?
    } else {
        humantime::parse_duration(text).map_err(|_| wrong())?
    };
    if found > MAX_DURATION { Err(too_long(text)) } else { Ok(found) }
}

fn too_long(text: &str) -> String {
    format!("`{text}` is too long a time; the most is 1000 years")
}

/// A duration that is not zero.
///
/// # Errors
/// Text that says what was expected.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("`{text}` must be longer than zero")),
        found => Ok(found),
    }
}

/// The shortest text that [`duration`] reads back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 && seconds > 0 {
        for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
            if seconds.is_multiple_of(length) {
                return format!("{}{unit}", seconds / length);
            }
        }
    }
    humantime::format_duration(duration).to_string()
}

/// A size in bytes: `64MiB`, `1.5 GB`, `4096`.
///
/// # Errors
/// Text that says what was expected.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size; write for example 512KiB, 64MiB or a number of bytes");
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let size = text.parse::<bytesize::ByteSize>().map_err(|_| wrong())?.as_u64();
    // Sizes become signed numbers in stream configurations, and a float that is too large becomes
    // the largest integer on the way here.
    if i64::try_from(size).is_err() {
        return Err(format!("`{text}` is too large a size; the most is 8EiB"));
    }
    Ok(size)
}

/// A size that fits this machine's memory addresses.
///
/// # Errors
/// Text that says what was expected.
pub fn memory_size(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("`{text}` is too large for this machine"))
}

/// The shortest text that [`size`] reads back exactly.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, power) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << power && bytes.is_multiple_of(1 << power) {
            return format!("{}{unit}", bytes >> power);
        }
    }
    bytes.to_string()
}

/// A whole number of at least 1. Underscores may group digits.
///
/// # Errors
/// Text that says what was expected.
pub fn count(text: &str) -> Result<usize, String> {
    let digits = text.replace('_', "");
    match digits.parse::<usize>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a whole number from 1 to {}", usize::MAX)),
        Ok(count) => Ok(count),
    }
}

/// `true` or `false`.
///
/// # Errors
/// Text that says what was expected.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Serde: durations as text.
pub mod as_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes what [`show_duration`](super::show_duration) shows.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::show_duration(*value))
    }

    /// Reads a duration longer than zero.
    ///
    /// # Errors
    /// Text that is no such duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::positive_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Serde: a duration as text, or none.
pub mod as_optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// Writes what [`show_duration`](super::show_duration) shows.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(super::show_duration).serialize(to)
    }

    /// Reads a duration longer than zero, or null.
    ///
    /// # Errors
    /// Text that is no such duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| super::positive_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// Serde: a size as text, or none.
pub mod as_optional_size {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// Writes what [`show_size`](super::show_size) shows.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    #[allow(clippy::ref_option, reason = "the shape serde calls")]
    pub fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(super::show_size).serialize(to)
    }

    /// Reads a size, or null.
    ///
    /// # Errors
    /// Text that is no size.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| super::size(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, seconds) in [("7d", 604_800.0), ("2m 30s", 150.0), ("300", 300.0), ("0.5", 0.5)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["7d", "250ms", "2m", "36h", "90s", "1h", "1500ms"] {
            let read = duration(text).unwrap();
            assert_eq!(duration(&show_duration(read)), Ok(read), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!(positive_duration("0").unwrap_err(), "`0` must be longer than zero");
    }

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1.5 KB", 1500), ("4096", 4096), ("1 GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bytes in [0, 1, 1023, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{bytes}");
        }
    }

    #[test]
    fn absurd_values_are_refused_in_words() {
        for text in
            ["-1", "1e308", "NaN", "inf", "-inf", "", "much", "99999999999999999999d", "\u{0}"]
        {
            assert!(duration(text).unwrap_err().contains(text), "duration {text:?}");
            assert!(size(text).unwrap_err().contains(text), "size {text:?}");
            assert!(count(text).unwrap_err().contains(text), "count {text:?}");
            assert!(boolean(text).unwrap_err().contains(text), "boolean {text:?}");
        }
        assert!(size("99999999 TiB").is_err());
        assert!(count("0").is_err());
    }
}
