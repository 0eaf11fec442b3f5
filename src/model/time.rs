//! Time as an argument: pure code is told what time it is.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since some fixed moment in the life of the process. Never goes back; deadlines use it.
    pub monotonic: Duration,
    /// Wall-clock time in nanoseconds since the Unix epoch. May jump; only stamps use it.
    pub wall: u64,
}

/// A moment on the wall clock, in nanoseconds since the Unix epoch. In JSON: RFC 3339 in UTC, with
/// `0001-01-01T00:00:00Z` for none, as JetStream writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// How Go, and so JetStream, writes "no time".
const NO_TIME: &str = "0001-01-01T00:00:00Z";

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 {
            return f.write_str(NO_TIME);
        }
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => f.write_str(NO_TIME),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("0001-01-01T00:00:00") {
            return Ok(Self(0));
        }
        let time: jiff::Timestamp = text.parse()?;
        Ok(Self(u64::try_from(time.as_nanosecond()).unwrap_or(0)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_rfc_3339_and_zero_is_gos_zero() {
        let time = Timestamp(1_700_000_000_123_456_789);
        let json = serde_json::to_string(&time).expect("a timestamp is a string");
        assert_eq!(json, "\"2023-11-14T22:13:20.123456789Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("round trip"), time);
        assert_eq!(Timestamp(0).to_string(), NO_TIME);
        assert_eq!(NO_TIME.parse::<Timestamp>().expect("zero"), Timestamp(0));
    }
}
