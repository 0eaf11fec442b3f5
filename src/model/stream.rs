//! Streams: their configuration and state, as JetStream's JSON has them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;
use super::time::Timestamp;

/// The highest sequence that may be asked for, of a stream to begin with, or of one that is restored: far from
/// where sequences end, which is 2^62 in claudebus's own protocol.
pub const MAX_FIRST_SEQ: u64 = (1 << 61) - 1;

/// When messages leave a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// When a limit is exceeded.
    #[default]
    Limits,
    /// When every consumer that wants it has acknowledged it.
    Interest,
    /// When its one consumer has acknowledged it.
    WorkQueue,
}

/// What happens when a stream is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest message makes room.
    #[default]
    Old,
    /// The new message is refused.
    New,
}

/// Where a stream is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory.
    Memory,
}

/// JetStream's compression setting, kept and echoed. How blocks are compressed is
/// [`BlockCompression`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreCompression {
    /// Not asked for.
    #[default]
    None,
    /// Asked for.
    S2,
}

/// How the blocks of a stream's segment files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockCompression {
    /// Not at all.
    Off,
    /// LZ4: fast.
    #[default]
    Lz4,
    /// Zstandard: dense.
    Zstd,
}

/// Limits a stream sets for its consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerLimits {
    /// Longest inactive threshold; zero for none.
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub inactive_threshold: Duration,
    /// Highest `max_ack_pending`; zero for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_ack_pending: i64,
}

/// What happens to messages that a stream's consumers give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetters {
    /// Whether they are kept in `DLQ_<stream>`. On by default.
    pub enabled: bool,
    /// Most messages kept there; -1 for no limit.
    pub max_msgs: i64,
    /// Most bytes kept there; -1 for no limit.
    pub max_bytes: i64,
    /// How long they are kept; zero for ever.
    #[serde(with = "duration")]
    pub max_age: Duration,
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self { enabled: true, max_msgs: -1, max_bytes: -1, max_age: Duration::ZERO }
    }
}

/// What the subjects of messages become: of those that a stream stores, or copies from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectTransform {
    /// The pattern of the subjects concerned; empty for all.
    #[serde(deserialize_with = "null_is_default")]
    pub src: String,
    /// What they become, as [`Transform`](super::transform::Transform) has it; empty for what they are.
    #[serde(deserialize_with = "null_is_default")]
    pub dest: String,
}

/// Where a stream publishes what it has stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Republish {
    /// The pattern of the stored subjects concerned; empty for all.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// The subjects that they are published to.
    #[serde(deserialize_with = "null_is_default")]
    pub dest: String,
    /// Whether bodies are left out.
    #[serde(skip_serializing_if = "is_false")]
    pub headers_only: bool,
}

/// A stream of another server or account. There is none for this server; it is read to be refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalStream {
    /// What the subjects of its API begin with.
    #[serde(deserialize_with = "null_is_default")]
    pub api: String,
    /// What the subjects that it delivers to begin with.
    #[serde(deserialize_with = "null_is_default")]
    pub deliver: String,
}

/// A stream that messages are copied from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamSource {
    /// Its name. It need not be there yet.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The first sequence that is copied; zero for all.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub opt_start_seq: u64,
    /// Messages from then on are copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<Timestamp>,
    /// Which subjects are copied; empty for all.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// Which subjects are copied, and what they become.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub subject_transforms: Vec<SubjectTransform>,
    /// Where it is, if not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalStream>,
}

/// How far a stream has come with copying from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of JetStream's StreamSourceInfo, documented there")]
pub struct StreamSourceInfo {
    pub name: String,
    /// Messages that are still to be copied.
    pub lag: u64,
    /// Of a source: the sequence of the last message that was copied.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub seq: u64,
    /// Nanoseconds since it was heard of; -1 if it never was, or is not there.
    pub active: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_transforms: Vec<SubjectTransform>,
}

/// A stream's configuration. Fields that clients leave out have JetStream's defaults; -1 means no
/// limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of JetStream's StreamConfig, documented there")]
pub struct StreamConfig {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    pub retention: Retention,
    pub max_consumers: i64,
    pub max_msgs: i64,
    pub max_bytes: i64,
    #[serde(with = "duration")]
    pub max_age: Duration,
    pub max_msgs_per_subject: i64,
    pub max_msg_size: i64,
    pub discard: Discard,
    #[serde(skip_serializing_if = "is_false")]
    pub discard_new_per_subject: bool,
    pub storage: Storage,
    pub num_replicas: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub no_ack: bool,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub duplicate_window: Duration,
    pub compression: StoreCompression,
    pub allow_direct: bool,
    pub mirror_direct: bool,
    pub sealed: bool,
    pub deny_delete: bool,
    pub deny_purge: bool,
    pub allow_rollup_hdrs: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub consumer_limits: ConsumerLimits,
    pub allow_msg_ttl: bool,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub subject_delete_marker_ttl: Duration,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_msg_schedules: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_atomic: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_msg_counter: bool,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub first_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_transform: Option<SubjectTransform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<Republish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<StreamSource>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<StreamSource>,
    #[serde(deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
    /// Ours: how segment blocks are compressed.
    #[serde(skip_serializing_if = "is_default")]
    pub block_compression: BlockCompression,
    /// Ours: dead letters.
    #[serde(skip_serializing_if = "is_default")]
    pub dead_letters: DeadLetters,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: None,
            subjects: Vec::new(),
            retention: Retention::default(),
            max_consumers: -1,
            max_msgs: -1,
            max_bytes: -1,
            max_age: Duration::ZERO,
            max_msgs_per_subject: -1,
            max_msg_size: -1,
            discard: Discard::default(),
            discard_new_per_subject: false,
            storage: Storage::default(),
            num_replicas: 1,
            no_ack: false,
            duplicate_window: Duration::ZERO,
            compression: StoreCompression::default(),
            allow_direct: false,
            mirror_direct: false,
            sealed: false,
            deny_delete: false,
            deny_purge: false,
            allow_rollup_hdrs: false,
            consumer_limits: ConsumerLimits::default(),
            allow_msg_ttl: false,
            subject_delete_marker_ttl: Duration::ZERO,
            allow_msg_schedules: false,
            allow_atomic: false,
            allow_msg_counter: false,
            first_seq: 0,
            subject_transform: None,
            republish: None,
            mirror: None,
            sources: Vec::new(),
            metadata: BTreeMap::new(),
            block_compression: BlockCompression::default(),
            dead_letters: DeadLetters::default(),
        }
    }
}

/// What a stream holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of JetStream's StreamState, documented there")]
pub struct StreamState {
    pub messages: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub first_ts: Timestamp,
    pub last_seq: u64,
    pub last_ts: Timestamp,
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub num_subjects: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subjects: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub num_deleted: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<u64>,
    pub consumer_count: usize,
}

/// Everything about a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of JetStream's StreamInfo, documented there")]
pub struct StreamInfo {
    pub config: StreamConfig,
    pub created: Timestamp,
    pub state: StreamState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<StreamSourceInfo>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<StreamSourceInfo>,
    pub ts: Timestamp,
}

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn is_zero(value: &i64) -> bool {
    *value == 0
}

pub(super) fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Clients write `null` for lists and maps they leave out.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_leave_out_has_jetstreams_defaults() {
        let config: StreamConfig = serde_json::from_str(
            r#"{"name":"S","subjects":null,"max_age":604800000000000,"unknown":1}"#,
        )
        .expect("clients newer than this server send fields it does not know");
        assert_eq!(config.max_age, Duration::from_secs(7 * 86400));
        assert_eq!(config.max_msgs, -1);
        assert_eq!(config.dead_letters, DeadLetters::default());
    }
}
