//! Durations as JetStream writes them: in JSON bodies integers of nanoseconds, in headers Go's form.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Writes nanoseconds.
///
/// # Errors
/// Whatever the serializer reports.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// Reads nanoseconds; a negative number means zero.
///
/// # Errors
/// Whatever the deserializer reports.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let nanos = Option::<i64>::deserialize(deserializer)?.unwrap_or(0);
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// Whether a duration is zero, to leave it out of JSON.
#[must_use]
pub fn is_zero(duration: &Duration) -> bool {
    duration.is_zero()
}

/// A duration as Go writes it: decimal numbers with units (`1h30m`). `None` for other text.
#[must_use]
pub fn from_go(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!text.is_empty() && nanos < 9.2e18).then(|| Duration::from_nanos(nanos as u64))
}

/// A duration as Go reads it: `1h30m`, `500ms`.
#[must_use]
pub fn to_go(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    let units = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    for (unit, nanos) in units {
        if rest >= nanos {
            text += &format!("{}{unit}", rest / nanos);
            rest %= nanos;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `2ms`.
#[must_use]
pub fn as_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return format!("{}µs", decimal(nanos, 3)),
        1_000_000..1_000_000_000 => return format!("{}ms", decimal(nanos, 6)),
        _ => {}
    }
    let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000);
    let seconds = decimal(nanos % 60_000_000_000, 9);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{}m{seconds}s", minutes % 60),
    }
}

/// A number with so many digits behind its point, but no zeros at the end.
fn decimal(number: u128, digits: u32) -> String {
    let unit = 10_u128.pow(digits);
    let text = format!("{}.{:0width$}", number / unit, number % unit, width = digits as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Lists of durations in JSON bodies.
pub mod list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes nanoseconds.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    pub fn serialize<S: Serializer>(list: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Reads nanoseconds; `null` means none.
    ///
    /// # Errors
    /// Whatever the deserializer reports.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Duration>, D::Error> {
        let nanos = Option::<Vec<i64>>::deserialize(d)?.unwrap_or_default();
        Ok(nanos.into_iter().map(|n| Duration::from_nanos(u64::try_from(n).unwrap_or(0))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_form_comes_back() {
        for (nanos, text) in
            [(0, "0s"), (5_400_000_000_000, "1h30m"), (1_500_000_000, "1s500ms"), (1_001, "1us1ns")]
        {
            assert_eq!(to_go(Duration::from_nanos(nanos)), text);
            assert_eq!(from_go(text), Some(Duration::from_nanos(nanos)));
        }
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_000_000_000, "1s"),
            (10_050_000_000, "10.05s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
        ] {
            assert_eq!(as_go(Duration::from_nanos(nanos)), text);
        }
        assert_eq!((from_go(""), from_go("5"), from_go("1d")), (None, None, None));
    }
}
