//! Header blocks: `NATS/1.0\r\n`, lines of `Key: Value\r\n`, and an empty line.
//!
//! A block travels and is stored byte for byte; these functions look into it or build a new one.

use std::borrow::Cow;

/// What every block begins with.
const VERSION: &[u8] = b"NATS/1.0";

/// First line of every block.
const VERSION_LINE: &[u8] = b"NATS/1.0\r\n";

/// Names that the broker reads or writes.
pub mod names {
    /// Message id for de-duplication.
    pub const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// The publisher's expected stream.
    pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
    /// The publisher's expected last sequence of the stream.
    pub const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
    /// The publisher's expected last sequence of the subject.
    pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
    /// The subject that the former is about, if it is not the message's own.
    pub const EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: &str =
        "Nats-Expected-Last-Subject-Sequence-Subject";
    /// The publisher's expected last message id.
    pub const EXPECTED_LAST_MESSAGE_ID: &str = "Nats-Expected-Last-Msg-Id";
    /// `sub` or `all`: replace what came before.
    pub const ROLLUP: &str = "Nats-Rollup";
    /// Time to live of the message.
    pub const TTL: &str = "Nats-TTL";
    /// When the message is due: the message itself is a schedule.
    pub const SCHEDULE: &str = "Nats-Schedule";
    /// Schedule: the subject of what is published when it is due.
    pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
    /// Schedule: time to live of what is published.
    pub const SCHEDULE_TTL: &str = "Nats-Schedule-TTL";
    /// Schedule: the time zone of a cron expression.
    pub const SCHEDULE_TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
    /// Schedule: a subject whose last message is published. Not supported.
    pub const SCHEDULE_SOURCE: &str = "Nats-Schedule-Source";
    /// Schedule: what the published message replaces.
    pub const SCHEDULE_ROLLUP: &str = "Nats-Schedule-Rollup";
    /// Published by a schedule: the schedule's subject.
    pub const SCHEDULER: &str = "Nats-Scheduler";
    /// Published by a schedule: when it is due again, or `purge` if it is done.
    pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
    /// The atomic batch that a message belongs to (ADR-50).
    pub const BATCH_ID: &str = "Nats-Batch-Id";
    /// Its number there, from 1.
    pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
    /// It is the last one: `1`; or the one before was: `eob`.
    pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";
    /// The level of the API that is needed to understand a message or a request.
    pub const REQUIRED_API_LEVEL: &str = "Nats-Required-Api-Level";
    /// What a counter grows by (ADR-49).
    pub const INCREMENT: &str = "Nats-Incr";
    /// Delivered to the client that a consumer is pinned to: what its pulls are to name (ADR-42).
    pub const PIN_ID: &str = "Nats-Pin-Id";
    /// What the counters were that a counter was copied from, in JSON.
    pub const COUNTER_SOURCES: &str = "Nats-Counter-Sources";
    /// Size of a payload that was left out.
    pub const MESSAGE_SIZE: &str = "Nats-Msg-Size";
    /// Why the server stored a marker.
    pub const MARKER_REASON: &str = "Nats-Marker-Reason";
    /// Direct get: the stream of the message.
    pub const STREAM: &str = "Nats-Stream";
    /// Direct get: where the message was published. No responders: where the request was published.
    pub const SUBJECT: &str = "Nats-Subject";
    /// Direct get: the message's sequence.
    pub const SEQUENCE: &str = "Nats-Sequence";
    /// Direct get: when the message was stored (RFC 3339).
    pub const TIME_STAMP: &str = "Nats-Time-Stamp";
    /// Republished: the sequence of the message before it on its subject.
    pub const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
    /// Copied from another stream: from which, and where it was there.
    pub const STREAM_SOURCE: &str = "Nats-Stream-Source";
    /// What the names of headers begin with that say what a publisher expects.
    pub const EXPECTED: &str = "Nats-Expected-";
    /// How urgent a message is, from 0 to 9.
    pub const PRIORITY: &str = "Claudebus-Priority";
    /// Dead letter: why.
    pub const DEAD_REASON: &str = "Claudebus-Dead-Reason";
    /// Dead letter: the stream it was in.
    pub const DEAD_STREAM: &str = "Claudebus-Dead-Stream";
    /// Dead letter: the consumer that gave it up.
    pub const DEAD_CONSUMER: &str = "Claudebus-Dead-Consumer";
    /// Dead letter: the subject it was published to.
    pub const DEAD_SUBJECT: &str = "Claudebus-Dead-Subject";
    /// Dead letter: its sequence in its stream.
    pub const DEAD_SEQUENCE: &str = "Claudebus-Dead-Sequence";
    /// Dead letter: how often it was delivered.
    pub const DEAD_ATTEMPTS: &str = "Claudebus-Dead-Attempts";
    /// Dead letter: when it was delivered first (RFC 3339).
    pub const DEAD_FIRST: &str = "Claudebus-Dead-First";
    /// Dead letter: when it was given up (RFC 3339).
    pub const DEAD_LAST: &str = "Claudebus-Dead-Last";
    /// Requeued message: how often it came back from the dead letters.
    pub const REQUEUED: &str = "Claudebus-Requeued";
}

/// The lines of a block as (key, value), values without surrounding white space. Lines that are not
/// of that form, and lines that are not text, give nothing; the others still count.
pub fn iter(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    lines(block).skip(1).filter_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        Some((key, value.trim()))
    })
}

/// The lines of a block, without their ends.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let ends = memchr::memmem::find_iter(block, b"\r\n").chain([block.len()]);
    ends.filter_map(move |end| block.get(std::mem::replace(&mut start, end + 2)..end))
}

/// The first value under `key`, which is compared exactly, as nats-server does.
#[must_use]
pub fn get<'a>(block: &'a [u8], key: &str) -> Option<&'a str> {
    if block.is_empty() {
        return None;
    }
    iter(block).find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// A block without the status on its first line, if it has one: nothing is left of a block that had
/// nothing else.
#[must_use]
pub fn without_status(block: &[u8]) -> Cow<'_, [u8]> {
    let rest = block.strip_prefix(VERSION).filter(|rest| !rest.starts_with(b"\r"));
    let end = rest.and_then(|rest| memchr::memchr(b'\r', rest));
    match rest.zip(end).and_then(|(rest, end)| rest.get(end..)) {
        None => Cow::Borrowed(block),
        Some(b"\r\n\r\n") => Cow::Borrowed(b""),
        Some(lines) => Cow::Owned([VERSION, lines].concat()),
    }
}

/// Whether a block is well formed: version line, lines of key and value, empty line, no status.
#[must_use]
pub fn is_well_formed(block: &[u8]) -> bool {
    let Some(rest) = block.strip_prefix(VERSION_LINE) else {
        return false;
    };
    let Some(lines) = rest.strip_suffix(b"\r\n") else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(lines) else {
        return false;
    };
    text.is_empty()
        || (text.ends_with("\r\n")
            && text.split_terminator("\r\n").all(|line| {
                line.split_once(':').is_some_and(|(key, value)| is_key(key) && is_value(value))
            }))
}

/// Whether `key` can be a header's key: visible ASCII without a colon.
#[must_use]
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Whether `value` can be a header's value: no line breaks or other control characters.
#[must_use]
pub fn is_value(value: &str) -> bool {
    value.bytes().all(|b| (b >= b' ' && b != 0x7f) || b == b'\t')
}

/// A block under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    bytes: Vec<u8>,
}

impl Default for Block {
    fn default() -> Self {
        Self { bytes: VERSION_LINE.to_vec() }
    }
}

impl Block {
    /// A block that starts with the lines of `block`, which may be empty.
    #[must_use]
    pub fn from_existing(block: &[u8]) -> Self {
        match block.strip_suffix(b"\r\n") {
            Some(lines) if lines.starts_with(VERSION_LINE) => Self { bytes: lines.to_vec() },
            _ => Self::default(),
        }
    }

    /// Adds a line. Control characters in the value become spaces, so that no value can end the
    /// line or the block.
    pub fn add(&mut self, key: &str, value: &str) -> &mut Self {
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend(value.bytes().map(|b| if b < b' ' || b == 0x7f { b' ' } else { b }));
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// Gives `key` this value: where it stands first, or at the end.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        let old = std::mem::take(self);
        let lines = old.bytes.get(VERSION_LINE.len()..).unwrap_or_default();
        let mut is_set = false;
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let rest = line.strip_prefix(key.as_bytes());
            if rest.is_none_or(|rest| rest.first() != Some(&b':')) {
                self.bytes.extend_from_slice(line);
            } else if !is_set {
                is_set = true;
                self.add(key, value);
            }
        }
        if !is_set {
            self.add(key, value);
        }
        self
    }

    /// Removes all lines under `key`.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        let mut kept = VERSION_LINE.to_vec();
        for line in self
            .bytes
            .get(VERSION_LINE.len()..)
            .unwrap_or_default()
            .split_inclusive(|b| *b == b'\n')
        {
            let same =
                line.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'));
            if !same {
                kept.extend_from_slice(line);
            }
        }
        self.bytes = kept;
        self
    }

    /// Keeps the lines whose key `wanted` says yes to. Lines that are not text, or have no key, stay.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) -> &mut Self {
        let mut kept = VERSION_LINE.to_vec();
        let lines = self.bytes.get(VERSION_LINE.len()..).unwrap_or_default();
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let key = std::str::from_utf8(line).ok().and_then(|text| text.split_once(':'));
            if key.is_none_or(|(key, _)| wanted(key)) {
                kept.extend_from_slice(line);
            }
        }
        self.bytes = kept;
        self
    }

    /// The finished block.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_left_out() {
        for (block, left) in [
            ("", ""),
            ("NATS/1.0\r\n\r\n", "NATS/1.0\r\n\r\n"),
            ("NATS/1.0\r\nA: 1\r\n\r\n", "NATS/1.0\r\nA: 1\r\n\r\n"),
            ("NATS/1.0 503\r\n\r\n", ""),
            ("NATS/1.0 503 No\r\nA: 1\r\n\r\n", "NATS/1.0\r\nA: 1\r\n\r\n"),
            ("NATS/1.0 503", "NATS/1.0 503"),
            ("something else", "something else"),
        ] {
            assert_eq!(&*without_status(block.as_bytes()), left.as_bytes(), "{block:?}");
        }
    }

    #[test]
    fn a_block_goes_out_and_comes_back() {
        let mut block = Block::default();
        block.add("A", "1").add("B", "two words").add("A", "3");
        let bytes = block.finish();
        assert_eq!(bytes, b"NATS/1.0\r\nA: 1\r\nB: two words\r\nA: 3\r\n\r\n");
        assert!(is_well_formed(&bytes));
        assert_eq!(get(&bytes, "B"), Some("two words"));
        assert_eq!(get(&bytes, "b"), None);
        let mut again = Block::from_existing(&bytes);
        again.remove("A").add("C", "x");
        assert_eq!(again.finish(), b"NATS/1.0\r\nB: two words\r\nC: x\r\n\r\n");
    }

    #[test]
    fn a_value_is_set_where_it_stands() {
        let mut block = Block::from_existing(b"NATS/1.0\r\nA: x\r\nB: y\r\nA: z\r\n\r\n");
        block.set("A", "1").set("C", "2");
        assert_eq!(block.finish(), b"NATS/1.0\r\nA: 1\r\nB: y\r\nC: 2\r\n\r\n");
    }

    #[test]
    fn lines_go_by_their_keys() {
        let mut block = Block::from_existing(b"NATS/1.0\r\nA-1: x\r\nB: \xff\r\nA-2: y\r\n\r\n");
        block.retain(|key| !key.starts_with("A-") && key != "B");
        assert_eq!(block.finish(), b"NATS/1.0\r\nB: \xff\r\n\r\n");
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        let mut block = Block::default();
        block.add("A", "x\r\nNats-Rollup: all");
        assert_eq!(get(&block.finish(), "Nats-Rollup"), None);
    }

    #[test]
    fn a_line_that_is_no_text_hides_no_other() {
        let block = b"NATS/1.0\r\nNote: \xff\r\nNats-Msg-Id: 7\r\n\r\n";
        assert_eq!(get(block, "Nats-Msg-Id"), Some("7"));
        assert_eq!(get(block, "Note"), None);
    }

    #[test]
    fn malformed_blocks() {
        for bad in [
            &b""[..],
            b"NATS/1.0\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n: v\r\n\r\n",
            b"NATS/1.0\r\nA: \x01\r\n\r\n",
        ] {
            assert!(!is_well_formed(bad), "{}", bad.escape_ascii());
        }
        assert!(is_well_formed(b"NATS/1.0\r\n\r\n"));
    }
}
