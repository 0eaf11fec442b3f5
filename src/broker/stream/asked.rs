//! What a publisher asks for in a message's headers.

use crate::model::error::ApiError;
use crate::model::headers::{self, names};
use crate::model::subject::is_publishable;

use super::ttl::Ttl;

/// What earlier messages a message replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Rollup {
    /// Those of its subject.
    Subject,
    /// All of the stream.
    All,
}

impl Rollup {
    /// Reads a header's value. `None` if it is neither `sub` nor `all`.
    pub(in crate::broker) fn parse(value: &str) -> Option<Self> {
        if value.eq_ignore_ascii_case("sub") {
            Some(Self::Subject)
        } else if value.eq_ignore_ascii_case("all") {
            Some(Self::All)
        } else {
            None
        }
    }
}

/// What a message says of itself as a schedule, or of one that it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct AskedSchedule<'a> {
    pub(in crate::broker) pattern: Option<&'a str>,
    pub(in crate::broker) time_zone: Option<&'a str>,
    pub(in crate::broker) target: Option<&'a str>,
    pub(in crate::broker) ttl: Option<&'a str>,
    pub(in crate::broker) source: Option<&'a str>,
    pub(in crate::broker) rollup: Option<&'a str>,
    pub(in crate::broker) scheduler: Option<&'a str>,
    pub(in crate::broker) next: Option<&'a str>,
}

impl<'a> AskedSchedule<'a> {
    fn read(&mut self, key: &str, value: &'a str) {
        let field = match key {
            names::SCHEDULE => &mut self.pattern,
            names::SCHEDULE_TIME_ZONE => &mut self.time_zone,
            names::SCHEDULE_TARGET => &mut self.target,
            names::SCHEDULE_TTL => &mut self.ttl,
            names::SCHEDULE_SOURCE => &mut self.source,
            names::SCHEDULE_ROLLUP => &mut self.rollup,
            names::SCHEDULER => &mut self.scheduler,
            names::SCHEDULE_NEXT => &mut self.next,
            _ => return,
        };
        field.get_or_insert(value);
    }

    /// The subject of the schedule that ends with this message.
    pub(in crate::broker) fn ends(&self) -> Option<&'a str> {
        self.next.and(self.scheduler)
    }

    /// Checks a message that is no schedule: it may end one, of another subject.
    ///
    /// # Errors
    /// 10212 if it says something else.
    pub(in crate::broker) fn check_end(&self, subject: &str) -> Result<(), ApiError> {
        match (self.next, self.scheduler) {
            (None, None) => Ok(()),
            (Some("purge"), Some(ended)) if ended != subject && is_publishable(ended) => Ok(()),
            _ => Err(ApiError::scheduler_invalid()),
        }
    }
}

/// The headers that mean something to a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Asked<'a> {
    pub(in crate::broker) message_id: Option<&'a str>,
    pub(in crate::broker) expected_stream: Option<&'a str>,
    pub(in crate::broker) expected_last: Option<u64>,
    pub(in crate::broker) expected_last_of_subject: Option<u64>,
    pub(in crate::broker) expected_subject: Option<&'a str>,
    pub(in crate::broker) expected_last_id: Option<&'a str>,
    pub(in crate::broker) rollup: Option<Rollup>,
    pub(in crate::broker) ttl: Option<Ttl>,
    pub(in crate::broker) schedule: AskedSchedule<'a>,
    /// It is of an atomic batch.
    pub(in crate::broker) is_in_batch: bool,
    /// What a counter is to grow by.
    pub(in crate::broker) increment: Option<&'a str>,
    /// It says that it is a copy, which only the server may.
    pub(in crate::broker) is_copy: bool,
}

impl<'a> Asked<'a> {
    /// Reads a header block, which may be empty. The first of several equal keys counts.
    ///
    /// # Errors
    /// The error of the first value that makes no sense.
    pub(in crate::broker) fn parse(block: &'a [u8]) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        for (key, value) in headers::iter(block).filter(|(key, _)| key.starts_with("Nats-")) {
            match key {
                names::MESSAGE_ID if !value.is_empty() => {
                    asked.message_id.get_or_insert(value);
                }
                names::EXPECTED_STREAM if !value.is_empty() => {
                    asked.expected_stream.get_or_insert(value);
                }
                names::EXPECTED_LAST_SEQUENCE if !value.is_empty() => {
                    asked.expected_last.get_or_insert(sequence(value));
                }
                names::EXPECTED_LAST_SUBJECT_SEQUENCE if !value.is_empty() => {
                    asked.expected_last_of_subject.get_or_insert(sequence(value));
                }
                names::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT => {
                    asked.expected_subject.get_or_insert(value);
                }
                names::EXPECTED_LAST_MESSAGE_ID if !value.is_empty() => {
                    asked.expected_last_id.get_or_insert(value);
                }
                names::ROLLUP if !value.is_empty() => {
                    asked.rollup.get_or_insert(rollup(value)?);
                }
                names::STREAM_SOURCE => asked.is_copy = true,
                names::TTL if !value.is_empty() && asked.ttl.is_none() => {
                    asked.ttl = Some(Ttl::parse(value).ok_or_else(ApiError::invalid_ttl)?);
                }
                names::BATCH_ID => asked.is_in_batch |= !value.is_empty(),
                // Spaces around a number are not left out.
                names::INCREMENT if !value.is_empty() => {
                    asked.increment.get_or_insert(value);
                }
                _ => asked.schedule.read(key, value),
            }
        }
        if asked.expected_subject.is_some() && asked.expected_last_of_subject.is_none() {
            return Err(ApiError::expected_subject_alone());
        }
        Ok(asked)
    }
}

/// The sequence that a publisher expects. What is no number is a sequence that no stream comes to, so
/// that the answer says which one it has, as in nats-server.
fn sequence(value: &str) -> u64 {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number).unwrap_or(u64::MAX)
}

fn rollup(value: &str) -> Result<Rollup, ApiError> {
    Rollup::parse(value).ok_or_else(|| ApiError::rollup_invalid(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn everything_that_can_be_asked() {
        let block = b"NATS/1.0\r\nX: y\r\nNats-Msg-Id: 7\r\nNats-Expected-Last-Sequence: 3\r\n\
            Nats-Rollup: SUB\r\nNats-TTL: 5\r\nNats-Expected-Last-Msg-Id: 6\r\n\r\n";
        let asked = Asked::parse(block).unwrap();
        assert_eq!((asked.message_id, asked.expected_last_id), (Some("7"), Some("6")));
        assert_eq!((asked.expected_last, asked.rollup), (Some(3), Some(Rollup::Subject)));
        assert_eq!(asked.ttl, Some(Ttl::For(std::time::Duration::from_secs(5))));
        assert_eq!(Asked::parse(b"").unwrap(), Asked::default());
    }

    #[test]
    fn what_is_no_sequence_is_one_that_never_comes() {
        for (value, expected) in [
            ("x", Some(u64::MAX)),
            ("-1", Some(u64::MAX)),
            ("+1", Some(u64::MAX)),
            ("99999999999999999999", Some(u64::MAX)),
            ("01", Some(1)),
            ("", None),
        ] {
            let block = format!(
                "NATS/1.0\r\nNats-Expected-Last-Sequence: {value}\r\n\
                 Nats-Expected-Last-Subject-Sequence: {value}\r\n\r\n"
            );
            let asked = Asked::parse(block.as_bytes()).unwrap();
            assert_eq!(
                (asked.expected_last, asked.expected_last_of_subject),
                (expected, expected),
                "{value:?}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (line, err_code) in [
            ("Nats-Rollup: some", 10111),
            ("Nats-TTL: 10ms", 10165),
            ("Nats-Expected-Last-Subject-Sequence-Subject: a", 10193),
        ] {
            let block = format!("NATS/1.0\r\n{line}\r\n\r\n");
            assert_eq!(Asked::parse(block.as_bytes()).unwrap_err().err_code, err_code, "{line}");
        }
    }
}
