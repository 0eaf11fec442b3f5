//! Requests about streams, consumers and messages, and their answers: JetStream's API as types.
//!
//! Both protocols name an operation by JetStream's subject without `$JS.API.`
//! (`STREAM.CREATE.ORDERS`) and send JetStream's JSON bodies; parsing that text is the session's
//! part.

use serde::{Deserialize, Serialize};

use super::consumer::{ConsumerConfig, ConsumerInfo};
use super::error::ApiError;
use super::stream::{StreamConfig, StreamInfo, StreamState};
use super::time::Timestamp;

/// Names of a page of `STREAM.NAMES` and `CONSUMER.NAMES`.
pub const NAMES_PAGE: usize = 1024;
/// Entries of a page of `STREAM.LIST` and `CONSUMER.LIST`.
pub const LIST_PAGE: usize = 256;
/// Subjects of a page of `STREAM.INFO`.
pub const SUBJECTS_PAGE: usize = 100_000;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiRequest {
    /// `INFO`: what the account uses and may use.
    AccountInfo,
    /// `SERVER.INFO` (ours): version, durability, counters.
    ServerInfo,
    /// `STREAM.CREATE.<stream>`.
    StreamCreate(Box<StreamConfig>),
    /// `STREAM.UPDATE.<stream>`.
    StreamUpdate(Box<StreamConfig>),
    /// `STREAM.INFO.<stream>`.
    StreamInfo {
        /// The stream.
        stream: String,
        /// What else is wanted.
        options: StreamInfoOptions,
    },
    /// `STREAM.NAMES`.
    StreamNames(ListOptions),
    /// `STREAM.LIST`.
    StreamList(ListOptions),
    /// `STREAM.DELETE.<stream>`.
    StreamDelete {
        /// The stream.
        stream: String,
    },
    /// `STREAM.PURGE.<stream>`.
    StreamPurge {
        /// The stream.
        stream: String,
        /// Which messages.
        options: PurgeOptions,
    },
    /// `STREAM.MSG.GET.<stream>`, and `DIRECT.GET.<stream>[.<subject>]` with `direct`.
    MessageGet {
        /// The stream.
        stream: String,
        /// Which message.
        options: MessageGetOptions,
        /// Whether the stream must allow direct access, and the answer is the message itself.
        direct: bool,
    },
    /// `DIRECT.GET.<stream>` for several messages. Only over NATS, where each goes to the reply subject.
    MessagesGet {
        /// The stream.
        stream: String,
        /// Which messages.
        options: Box<DirectOptions>,
    },
    /// `STREAM.MSG.DELETE.<stream>`.
    MessageDelete {
        /// The stream.
        stream: String,
        /// Which message.
        seq: u64,
        /// Whether its bytes may stay on disk until their space is used again.
        no_erase: bool,
    },
    /// `CONSUMER.CREATE.<stream>[.<consumer>[.<filter>]]` and
    /// `CONSUMER.DURABLE.CREATE.<stream>.<consumer>`.
    ConsumerCreate {
        /// The stream.
        stream: String,
        /// The configuration, its name already checked against the subject.
        config: Box<ConsumerConfig>,
        /// Whether it must or must not exist.
        action: ConsumerAction,
    },
    /// `CONSUMER.INFO.<stream>.<consumer>`.
    ConsumerInfo {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// `CONSUMER.NAMES.<stream>`.
    ConsumerNames {
        /// The stream.
        stream: String,
        /// Which page.
        options: ListOptions,
    },
    /// `CONSUMER.LIST.<stream>`.
    ConsumerList {
        /// The stream.
        stream: String,
        /// Which page.
        options: ListOptions,
    },
    /// `CONSUMER.DELETE.<stream>.<consumer>`.
    ConsumerDelete {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// `CONSUMER.RESET.<stream>.<consumer>`.
    ConsumerReset {
        /// The stream's name.
        stream: String,
        /// The consumer's name.
        consumer: String,
        /// The sequence it is to go on at; none for the first that is not acknowledged.
        seq: Option<u64>,
    },
    /// `CONSUMER.PAUSE.<stream>.<consumer>`.
    ConsumerPause {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Until when; nothing resumes it.
        until: Option<Timestamp>,
    },
    /// `CONSUMER.UNPIN.<stream>.<consumer>`.
    ConsumerUnpin {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// The priority group whose client is to be pinned no more.
        group: String,
    },
    /// `STREAM.SNAPSHOT.<stream>`. Only over NATS.
    StreamSnapshot {
        /// The stream.
        stream: String,
        /// How it is to be sent.
        options: SnapshotOptions,
    },
    /// `STREAM.RESTORE.<stream>`. Only over NATS.
    StreamRestore(Box<StreamConfig>),
    /// A part of what is to be restored, published to `$JS.SNAPSHOT.RESTORE.<stream>.<name>` (NATS).
    RestoreChunk {
        /// Names the restore.
        name: String,
        /// The part; empty at the end.
        payload: bytes::Bytes,
    },
    /// A request that makes no sense, which is told once the stream is found.
    Refused {
        /// The stream.
        stream: String,
        /// The answer.
        error: ApiError,
    },
    /// `DEAD.LIST.<stream>` (ours): dead letters, oldest first.
    DeadList {
        /// The stream they were in.
        stream: String,
        /// Which ones.
        options: DeadOptions,
    },
    /// `DEAD.REQUEUE.<stream>` (ours): publish dead letters to their stream again.
    DeadRequeue {
        /// The stream they were in.
        stream: String,
        /// Which ones.
        options: DeadOptions,
    },
    /// `BATCH.PUBLISH` (ours): store all messages, or none.
    PublishBatch {
        /// The messages, of any streams.
        messages: Vec<BatchMessage>,
    },
    /// `SCHEDULE.LIST[.<stream>]` (ours): messages that are to be published later.
    ScheduleList {
        /// The stream that keeps them; none for all.
        stream: Option<String>,
        /// Which page.
        options: ScheduleListOptions,
    },
    /// `SCHEDULE.DELETE.<stream>` (ours).
    ScheduleDelete {
        /// The stream that keeps it.
        stream: String,
        /// The schedule's subject.
        subject: String,
    },
    /// `DEAD.DROP.<stream>` (ours): delete dead letters.
    DeadDrop {
        /// The stream they were in.
        stream: String,
        /// Which ones.
        options: DeadOptions,
    },
}

/// One message of `BATCH.PUBLISH`. In JSON `hdrs` and `data` are base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchMessage {
    /// Where it is published.
    pub subject: String,
    /// The header block, or empty.
    pub headers: Vec<u8>,
    /// The message body.
    pub payload: Vec<u8>,
}

/// Where a message of a batch is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPlace {
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    pub seq: u64,
}

/// Body of `SCHEDULE.LIST`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleListOptions {
    /// Skip so many.
    pub offset: u64,
}

/// A message that is published when it is due, as lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledMessage {
    /// The stream that keeps it.
    pub stream: String,
    /// Its sequence there.
    pub seq: u64,
    /// Its subject, which names it: a subject has one schedule at most.
    pub subject: String,
    /// When it is due, as it was published: `@at`, `@after`, `@every`, or a cron expression.
    pub schedule: String,
    /// The time zone of a cron expression; UTC if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Where it publishes to.
    pub target: String,
    /// How long what it publishes lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// When it is due.
    pub next: Timestamp,
    /// Why it could not be published; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whether a consumer must exist already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsumerAction {
    /// Create it, or change it if it exists.
    #[default]
    #[serde(rename = "")]
    CreateOrUpdate,
    /// It must not exist, unless with the same configuration.
    Create,
    /// It must exist.
    Update,
}

/// Body of `STREAM.INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInfoOptions {
    /// List deleted sequences.
    pub deleted_details: bool,
    /// List subjects matched by this, with their counts.
    pub subjects_filter: String,
    /// Skip so many subjects.
    #[serde(deserialize_with = "negative_is_zero")]
    pub offset: u64,
}

/// Which of the subjects that match an answer lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectsPage {
    /// Subjects that match, listed or not.
    pub total: usize,
    /// Those that were skipped.
    pub offset: usize,
}

/// Body of list requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListOptions {
    /// Skip so many.
    #[serde(deserialize_with = "negative_is_zero")]
    pub offset: u64,
    /// Only streams with a subject that overlaps this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// Body of `STREAM.PURGE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeOptions {
    /// Only subjects matched by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only sequences below this; zero for all.
    #[serde(skip_serializing_if = "super::stream::is_zero_u64")]
    pub seq: u64,
    /// Keep the newest so many.
    #[serde(skip_serializing_if = "super::stream::is_zero_u64")]
    pub keep: u64,
}

/// Body of `STREAM.MSG.GET` and `DIRECT.GET`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageGetOptions {
    /// This sequence, or the lowest from which to look for `next_by_subj`.
    #[serde(skip_serializing_if = "super::stream::is_zero_u64")]
    pub seq: u64,
    /// The last message of this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_by_subj: Option<String>,
    /// The first message matched by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_by_subj: Option<String>,
    /// The first message at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// Without headers.
    #[serde(skip_serializing_if = "super::stream::is_false")]
    pub no_hdr: bool,
}

/// Body of `DIRECT.GET` for several messages (ADR-31): a row, if there is no `multi_last`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DirectOptions {
    /// The lowest sequence.
    pub seq: u64,
    /// Only subjects matched by this, in a row.
    pub next_by_subj: Option<String>,
    /// A row begins with the first message at or after this time.
    pub start_time: Option<Timestamp>,
    /// Without headers.
    pub no_hdr: bool,
    /// At most so many messages; zero for no limit.
    pub batch: u64,
    /// No more after so many bytes; zero for the server's limit.
    pub max_bytes: u64,
    /// The last message of each subject matched by these.
    #[serde(deserialize_with = "super::stream::null_is_default")]
    pub multi_last: Vec<String>,
    /// As if the stream ended with this sequence; zero for all of it.
    pub up_to_seq: u64,
    /// As if the stream ended before this time.
    pub up_to_time: Option<Timestamp>,
}

/// Body of `STREAM.SNAPSHOT`. Numbers that are not positive mean the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SnapshotOptions {
    /// Where the snapshot goes.
    pub deliver_subject: String,
    /// Whether consumers are left out.
    pub no_consumers: bool,
    /// Bytes of each message.
    pub chunk_size: i64,
    /// Bytes that may be on their way.
    pub window_size: i64,
}

/// Body of `DEAD.*`: which dead letters. All that are named must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadOptions {
    /// These sequences of `DLQ_<stream>`; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<u64>,
    /// Given up by this consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Published to a subject matched by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// From this sequence of `DLQ_<stream>`.
    #[serde(skip_serializing_if = "super::stream::is_zero_u64")]
    pub from: u64,
    /// At most so many; zero for all (lists: 256).
    #[serde(skip_serializing_if = "super::stream::is_zero_u64")]
    pub limit: u64,
}

/// A message as `STREAM.MSG.GET` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// Where it was published.
    pub subject: String,
    /// Its sequence.
    pub seq: u64,
    /// The header block, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hdrs: String,
    /// The payload, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// When it was stored.
    pub time: Timestamp,
}

/// A dead letter, as lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its sequence in `DLQ_<stream>`.
    pub seq: u64,
    /// The consumer that gave it up.
    pub consumer: String,
    /// The subject it was published to.
    pub subject: String,
    /// Its sequence in its stream.
    pub stream_seq: u64,
    /// Why it was given up.
    pub reason: String,
    /// How often it was delivered.
    pub attempts: u64,
    /// How often it was requeued before.
    pub requeued: u64,
    /// When it was delivered first.
    pub first: Timestamp,
    /// When it was given up.
    pub last: Timestamp,
    /// The message as stored, with its original headers and those about its death.
    pub message: StoredMessage,
}

/// The answer to a request that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the bodies of JetStream's API answers, documented there")]
pub enum ApiResponse {
    /// To `INFO` and `SERVER.INFO`: a body made by whoever answers.
    Json(serde_json::Value),
    Stream {
        #[serde(flatten)]
        info: Box<StreamInfo>,
        #[serde(skip_serializing_if = "super::stream::is_false")]
        did_create: bool,
        /// Where the subjects that were asked for stand among all of them. Only NATS clients are told.
        #[serde(skip)]
        subjects: SubjectsPage,
    },
    StreamNames {
        total: usize,
        offset: usize,
        limit: usize,
        streams: Vec<String>,
    },
    StreamList {
        total: usize,
        offset: usize,
        limit: usize,
        streams: Vec<StreamInfo>,
    },
    Deleted {
        success: bool,
    },
    Purged {
        success: bool,
        purged: u64,
    },
    Message {
        message: StoredMessage,
    },
    Consumer(Box<ConsumerInfo>),
    ConsumerReset {
        #[serde(flatten)]
        info: Box<ConsumerInfo>,
        reset_seq: u64,
    },
    ConsumerNames {
        total: usize,
        offset: usize,
        limit: usize,
        consumers: Vec<String>,
    },
    ConsumerList {
        total: usize,
        offset: usize,
        limit: usize,
        consumers: Vec<ConsumerInfo>,
    },
    Paused {
        paused: bool,
        pause_until: Timestamp,
        #[serde(with = "super::duration")]
        pause_remaining: std::time::Duration,
    },
    /// To `STREAM.SNAPSHOT`.
    Snapshot {
        config: Box<StreamConfig>,
        state: StreamState,
    },
    /// To `STREAM.RESTORE`: where the archive is to be published.
    Restore {
        deliver_subject: String,
    },
    /// To `CONSUMER.UNPIN`: done, and no more to say.
    Unpinned {},
    DeadLetters {
        total: usize,
        letters: Vec<DeadLetter>,
    },
    /// A batch: where each message is stored, in order; of a duplicate, where the first one is.
    Batch {
        duplicate: bool,
        stored: Vec<BatchPlace>,
    },
    Schedules {
        total: usize,
        offset: usize,
        limit: usize,
        schedules: Vec<ScheduledMessage>,
    },
    /// Dead letters requeued or dropped.
    Settled {
        settled: u64,
    },
    /// The message itself: the answer to a direct get.
    #[serde(skip)]
    Direct {
        stream: String,
        record: claudebus_storage::Record,
        no_headers: bool,
    },
}

/// Clients may write -1 for no offset.
fn negative_is_zero<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?;
    Ok(number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default())
}
