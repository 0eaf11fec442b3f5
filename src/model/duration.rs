//! Durations in JSON bodies: integers of nanoseconds, as JetStream writes them.

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

/// The same for lists of durations.
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
