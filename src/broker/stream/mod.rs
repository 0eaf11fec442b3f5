//! A stream: its configuration, its consumers, and what the broker remembers of it beside the log.

pub(super) mod asked;
pub(super) mod config;
mod consumers;
pub(super) mod origins;
pub(super) mod sources;
pub(super) mod timetable;
pub(super) mod ttl;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::StreamId;
use claudebus_storage::log::{Compression, StreamOptions};
use claudebus_storage::record::StorageKind;

use crate::model::event::Gap;
use crate::model::stream::{BlockCompression, Discard, Retention, Storage, StreamConfig};
use crate::model::time::Timestamp;
use crate::model::transform::Transform;

use consumers::Consumers;
pub(super) use consumers::{Place, Seat, Wanting};
use sources::Source;
use timetable::Timetable;

/// A limit that -1 turns off.
fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) name: Arc<str>,
    pub(super) config: StreamConfig,
    pub(super) created: Timestamp,
    /// Made from the server's defaults, and no client has defined it.
    pub(super) provisional: bool,
    pub(super) consumers: Consumers,
    /// Whether the broker lists it as one that was appended to since the last commit.
    pub(super) in_appended: bool,
    /// Whether the broker lists it as one that may hold more than its limits allow.
    pub(super) in_grown: bool,
    /// Up to this sequence all records are durable.
    pub(super) durable_seq: u64,
    /// The message id of the last message; empty if it had none.
    pub(super) last_message_id: String,
    /// Sequence and time of the last message that nobody wanted, so that it was not kept; since the last
    /// restart.
    pub(super) last_unkept: (u64, u64),
    /// Sequence and time of the first record, as last read.
    pub(super) first_time: Option<(u64, u64)>,
    /// Subjects with more messages than `max_msgs_per_subject`, waiting for their oldest to go.
    pub(super) overflowing: BTreeSet<Box<str>>,
    /// One of these subjects, and the sequence below which no record of it is left.
    pub(super) overflow_from: (Box<str>, u64),
    /// Records below this that are still there are exempt from `max_age`.
    pub(super) age_cursor: u64,
    /// When something expires next, on the monotonic clock.
    pub(super) expiry_at: Option<Duration>,
    /// Messages that are schedules.
    pub(super) timetable: Timetable,
    /// Sequences that the log lost, ascending.
    pub(super) gaps: Vec<Arc<Gap>>,
    /// Kinds of jobs at work on the stream, of which there is one at a time.
    pub(super) busy: BTreeSet<Chore>,
    /// What is asked of every new message.
    pub(super) rules: Rules,
    /// What the subjects of its messages become.
    pub(super) transform: Option<Transform>,
    /// Where its messages are published once they are stored.
    pub(super) republish: Option<Transform>,
    /// The streams that it copies from. A mirror has one.
    pub(super) sources: Vec<Source>,
}

/// What a stream's configuration says of every new message, in the form in which it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// A message without headers needs no check but that of its size.
    pub(super) plain: bool,
    /// The largest message it takes, headers included, in bytes.
    pub(super) max_message: usize,
    /// It limits messages per subject.
    pub(super) per_subject: bool,
    /// Publishers get answers.
    pub(super) answers: bool,
    /// It takes atomic batches.
    pub(super) stages: bool,
    /// Its messages are counters.
    pub(super) counts: bool,
    /// It limits how many messages or bytes it has, or for how long it has them.
    pub(super) limits: bool,
}

impl Rules {
    /// Where there is no stream.
    pub(super) const NONE: Self = Self {
        plain: false,
        max_message: usize::MAX,
        per_subject: false,
        answers: false,
        stages: false,
        counts: false,
        limits: false,
    };
}

/// Kinds of jobs of which a stream has one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    /// Keeping `max_msgs` and `max_bytes`.
    Trim,
    /// Keeping `max_msgs_per_subject`.
    Overflow,
    /// Keeping `max_age`.
    Age,
    /// Deleting what expires by itself.
    Expire,
    /// Publishing what is due.
    Fire,
}

impl Stream {
    pub(super) fn new(id: StreamId, config: StreamConfig, created: Timestamp) -> Self {
        let mut stream = Self {
            id,
            name: Arc::from(config.name.as_str()),
            config,
            created,
            provisional: false,
            consumers: Consumers::default(),
            in_appended: false,
            in_grown: false,
            durable_seq: 0,
            last_message_id: String::new(),
            last_unkept: (0, 0),
            first_time: None,
            overflowing: BTreeSet::new(),
            overflow_from: (Box::from(""), 0),
            age_cursor: 0,
            expiry_at: None,
            timetable: Timetable::default(),
            gaps: Vec::new(),
            busy: BTreeSet::new(),
            rules: Rules::NONE,
            transform: None,
            republish: None,
            sources: Vec::new(),
        };
        stream.take_rules();
        stream
    }

    /// Replaces its configuration. Returns the one before, and the sources that it has no longer.
    pub(super) fn replace_config(&mut self, config: StreamConfig) -> (StreamConfig, Vec<Source>) {
        let old = std::mem::replace(&mut self.config, config);
        let left = self.take_rules();
        (old, left)
    }

    /// Derives what follows from its configuration, which was checked. Returns sources it has no longer.
    fn take_rules(&mut self) -> Vec<Source> {
        let read = |src: &str, dest: &str| Transform::new(src, dest).ok().flatten();
        let config = &self.config;
        self.transform = config.subject_transform.as_ref().and_then(|t| read(&t.src, &t.dest));
        self.republish = config.republish.as_ref().and_then(|r| read(&r.src, &r.dest));
        self.rules = Rules {
            plain: config.discard == Discard::Old
                && config.retention != Retention::Interest
                && !config.sealed
                && !config.allow_msg_schedules
                && !config.allow_msg_counter
                && self.transform.is_none()
                && self.republish.is_none(),
            max_message: usize::try_from(config.max_msg_size).unwrap_or(usize::MAX),
            per_subject: limit(config.max_msgs_per_subject).is_some(),
            answers: !config.no_ack,
            stages: config.allow_atomic,
            counts: config.allow_msg_counter,
            limits: limit(config.max_msgs).is_some()
                || limit(config.max_bytes).is_some()
                || !config.max_age.is_zero(),
        };
        let mut before = std::mem::take(&mut self.sources);
        for wanted in config.mirror.iter().chain(&config.sources) {
            let source = Source::new(wanted);
            let known = before.iter().position(|kept| kept.is_like(&source));
            self.sources.push(known.map_or(source, |at| before.swap_remove(at)));
        }
        before
    }

    /// Whether it is a copy of another stream, with the same sequences.
    pub(super) fn is_mirror(&self) -> bool {
        self.config.mirror.is_some()
    }

    /// The source of this key.
    pub(super) fn source(&self, key: &str) -> Option<&Source> {
        self.sources.iter().find(|source| *source.key == *key)
    }

    /// The source of this key.
    pub(super) fn source_mut(&mut self, key: &str) -> Option<&mut Source> {
        self.sources.iter_mut().find(|source| *source.key == *key)
    }

    /// How storage keeps it.
    pub(super) fn options(&self) -> StreamOptions {
        StreamOptions {
            storage: self.storage(),
            compression: match self.config.block_compression {
                BlockCompression::Off => Compression::Off,
                BlockCompression::Lz4 => Compression::Lz4,
                BlockCompression::Zstd => Compression::Zstd,
            },
        }
    }

    /// How sizes are counted.
    pub(super) fn storage(&self) -> StorageKind {
        match self.config.storage {
            Storage::File => StorageKind::File,
            Storage::Memory => StorageKind::Memory,
        }
    }

    /// When the last message came, if that was one that was not kept; 0 otherwise. `last_seq` is the
    /// stream's last sequence.
    pub(super) fn last_unkept_at(&self, last_seq: u64) -> u64 {
        let (seq, time) = self.last_unkept;
        if seq == last_seq { time } else { 0 }
    }

    /// Whether acknowledged messages are deleted.
    pub(super) fn deletes_settled(&self) -> bool {
        self.config.retention != Retention::Limits
    }

    pub(super) fn max_msgs(&self) -> Option<u64> {
        limit(self.config.max_msgs)
    }

    pub(super) fn max_bytes(&self) -> Option<u64> {
        limit(self.config.max_bytes)
    }

    pub(super) fn max_per_subject(&self) -> Option<u64> {
        limit(self.config.max_msgs_per_subject)
    }
}
