//! Values of the header `Nats-TTL`: seconds, a duration as Go writes it (`1h30m`), or `never`.

use std::time::Duration;

use crate::model::duration::from_go;

/// How long a message lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Ttl {
    /// So long, at least a second.
    For(Duration),
    /// For ever, whatever the stream's `max_age`.
    Never,
}

/// Such a record is exempt from `max_age`: the moment that never comes.
pub(in crate::broker) const NEVER: u64 = u64::MAX;

impl Ttl {
    /// When a record of `time` (nanoseconds since the Unix epoch) expires.
    pub(in crate::broker) fn expires(self, time: u64) -> u64 {
        match self {
            Self::For(ttl) => {
                time.saturating_add(u64::try_from(ttl.as_nanos()).unwrap_or(NEVER)).min(NEVER - 1)
            }
            Self::Never => NEVER,
        }
    }

    /// Reads a header's value. `None` if it is not a TTL, as one of less than a second is not.
    pub(in crate::broker) fn parse(text: &str) -> Option<Self> {
        if text == "never" {
            return Some(Self::Never);
        }
        let ttl = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => from_go(text)?,
        };
        (ttl >= Duration::from_secs(1)).then_some(Self::For(ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let some = |seconds| Some(Ttl::For(Duration::from_secs_f64(seconds)));
        assert_eq!(Ttl::parse("1"), some(1.0));
        assert_eq!(Ttl::parse("1h1.5m"), some(3690.0));
        assert_eq!(Ttl::parse("1s500ms"), some(1.5));
        assert_eq!(Ttl::parse("never"), Some(Ttl::Never));
        for bad in ["", "0", "-1", "x", "999ms", "1d", "5 s", "s"] {
            assert_eq!(Ttl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_long_ttl_is_not_for_ever() {
        let long = Ttl::For(Duration::from_secs(u64::MAX));
        assert_eq!(long.expires(5), NEVER - 1);
        assert_eq!(Ttl::Never.expires(5), NEVER);
    }
}
