//! A stream: its configuration, its consumers, and what the broker remembers of it beside the log.

pub(super) mod asked;
pub(super) mod config;
mod consumers;
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

use consumers::Consumers;
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
    /// Up to this sequence all records are durable.
    pub(super) durable_seq: u64,
    /// The message id of the last message; empty if it had none.
    pub(super) last_message_id: String,
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
        Self {
            id,
            name: Arc::from(config.name.as_str()),
            config,
            created,
            provisional: false,
            consumers: Consumers::default(),
            durable_seq: 0,
            last_message_id: String::new(),
            first_time: None,
            overflowing: BTreeSet::new(),
            overflow_from: (Box::from(""), 0),
            age_cursor: 0,
            expiry_at: None,
            timetable: Timetable::default(),
            gaps: Vec::new(),
            busy: BTreeSet::new(),
        }
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

    /// Whether a message without headers is refused only for its size: nothing else to check
    /// before it is stored.
    pub(super) fn is_plain(&self) -> bool {
        self.config.discard == Discard::Old
            && self.config.retention != Retention::Interest
            && !self.config.sealed
            && !self.config.allow_msg_schedules
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

    /// The largest message it takes, headers included, in bytes.
    pub(super) fn max_message(&self) -> usize {
        usize::try_from(self.config.max_msg_size).unwrap_or(usize::MAX)
    }
}
