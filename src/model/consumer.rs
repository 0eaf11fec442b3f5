//! Consumers: their configuration and state, as JetStream's JSON has them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::duration;
use super::stream::{is_false, is_zero, is_zero_u64, null_is_default};
use super::time::Timestamp;

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// With the first message.
    #[default]
    All,
    /// With the last message.
    Last,
    /// With what comes after its creation.
    New,
    /// At `opt_start_seq`.
    ByStartSequence,
    /// At `opt_start_time`.
    ByStartTime,
    /// With the last message of each subject.
    LastPerSubject,
}

/// What an acknowledgement covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckPolicy {
    /// Nothing is acknowledged.
    #[default]
    None,
    /// The message and all before it.
    All,
    /// The message.
    Explicit,
}

/// How fast stored messages are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPolicy {
    /// As fast as they are wanted.
    #[default]
    Instant,
    /// With the gaps in time they were published with.
    Original,
}

/// Which of several pulls that wait at the same time have messages (ADR-42).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityPolicy {
    /// All, in turn.
    #[default]
    None,
    /// Those alone whose own thresholds are reached: so much is pending, or so much unacknowledged.
    Overflow,
    /// Those of one client, until it is silent for too long.
    PinnedClient,
    /// Those of the lowest number.
    Prioritized,
}

impl PriorityPolicy {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Longest name of a priority group, in bytes.
const MAX_GROUP_NAME: usize = 16;

/// Whether a priority group can have this name.
#[must_use]
pub fn is_group_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/=".contains(&byte);
    (1..=MAX_GROUP_NAME).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// A consumer's configuration. Zero or absent means JetStream's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of JetStream's ConsumerConfig, documented there")]
pub struct ConsumerConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub deliver_policy: DeliverPolicy,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub opt_start_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<Timestamp>,
    pub ack_policy: AckPolicy,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub ack_wait: Duration,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_deliver: i64,
    #[serde(with = "duration::list", skip_serializing_if = "Vec::is_empty")]
    pub backoff: Vec<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_subject: Option<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    pub replay_policy: ReplayPolicy,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_waiting: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_ack_pending: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub headers_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_batch: i64,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub max_expires: Duration,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_bytes: i64,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub inactive_threshold: Duration,
    pub num_replicas: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub mem_storage: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_group: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub flow_control: bool,
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub idle_heartbeat: Duration,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub rate_limit_bps: u64,
    #[serde(deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub sample_freq: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_until: Option<Timestamp>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<String>,
    #[serde(skip_serializing_if = "PriorityPolicy::is_none")]
    pub priority_policy: PriorityPolicy,
    /// How long a pinned client may be silent.
    #[serde(with = "duration", skip_serializing_if = "duration::is_zero")]
    pub priority_timeout: Duration,
    /// Ours: one message of a key is in flight at a time. `subject`, or the name of the header whose
    /// value is the key; messages without it wait for nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
    /// Ours: the speed of replay, in percent of the original's: 1,000 is ten times as fast.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub replay_percent: u64,
    /// Ours: of the next messages, those with the highest `Claudebus-Priority` (0 to 9) come first.
    #[serde(skip_serializing_if = "is_false")]
    pub by_priority: bool,
}

/// Clients that know a field and do not use it may send it without a value.
fn none_if_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

impl ConsumerConfig {
    /// The share of acknowledgements that are sampled, in percent. What is no number was refused.
    #[must_use]
    pub fn sampled_percent(&self) -> u32 {
        let share = self.sample_freq.as_deref().unwrap_or_default();
        let percent: i64 = share.strip_suffix('%').unwrap_or(share).parse().unwrap_or(0);
        u32::try_from(percent.clamp(0, 100)).unwrap_or(0)
    }

    /// All filters, from whichever field they were given in.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.filter_subject
            .iter()
            .chain(&self.filter_subjects)
            .map(String::as_str)
            .filter(|filter| !filter.is_empty())
    }
}

/// A pair of sequences that belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencePair {
    /// Deliveries are numbered from 1, redeliveries included.
    pub consumer_seq: u64,
    /// The message's sequence in its stream.
    pub stream_seq: u64,
    /// When that happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<Timestamp>,
}

/// Why a consumer delivers nothing at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// It has delivered all there is, acknowledged or not.
    EndOfStream,
    /// There are messages, and no pull waits for them.
    NoPullWaiting,
    /// All pulls that wait stand by: by their priority group others come first, or none does now.
    Standby,
    /// As many deliveries as allowed await acknowledgement.
    MaxAckPending,
    /// What is left does not match its filters.
    FilterMatchesNothing,
    /// It is paused.
    Paused {
        /// Until then.
        until: Timestamp,
    },
    /// All that is left are messages that were refused and asked for again later.
    BackingOff {
        /// When the first of them comes.
        until: Timestamp,
    },
    /// It keeps the gaps in time that messages were published with.
    Replaying {
        /// When the next one comes.
        until: Timestamp,
    },
    /// The limited rate allows no more.
    RateLimited {
        /// Until then.
        until: Timestamp,
    },
    /// What is left waits for earlier messages of the same key to be acknowledged.
    KeysInFlight,
    /// It reads from disk.
    Reading,
    /// The receiving session has not sent what it was given.
    SlowSession,
    /// The dead-letter stream cannot take a message that must go there.
    DeadLettersFull,
    /// A damaged part of the stream cannot be read.
    Damaged(String),
}

/// A priority group of a consumer, and who is pinned. There is one pin for all groups, and JetStream
/// shows it with the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorityGroupState {
    /// The group's name.
    pub group: String,
    /// What the pinned client's pulls name; none if nobody is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_client_id: Option<String>,
    /// Since when.
    #[serde(default)]
    pub pinned_ts: Timestamp,
}

/// Everything about a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of JetStream's ConsumerInfo, documented there")]
pub struct ConsumerInfo {
    pub stream_name: String,
    pub name: String,
    pub created: Timestamp,
    pub config: ConsumerConfig,
    pub delivered: SequencePair,
    pub ack_floor: SequencePair,
    pub num_ack_pending: u64,
    pub num_redelivered: u64,
    pub num_waiting: u64,
    pub num_pending: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub push_bound: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    #[serde(default, with = "duration", skip_serializing_if = "duration::is_zero")]
    pub pause_remaining: Duration,
    pub ts: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<PriorityGroupState>,
    /// Ours: why it delivers nothing at this moment. Not sent to NATS clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}
