//! The sections beside `server`: plain data, checked as it is read. Nothing here acts.
//!
//! `event_bus.streams` defines streams. `event_bus.connection` describes a NATS server that a
//! bridge would connect to; without a bridge it is kept and does nothing. `resilience`,
//! `observability` and `chaos` are read by the parts of those names.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::text;
use super::users::{UserSection, unique_users};
use crate::model::stream::{BlockCompression, Discard, Storage};
use crate::model::subject::{is_name, is_pattern, overlap};

/// The whole file but for its `server` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sections {
    /// Streams, and the NATS server a bridge would talk to.
    pub event_bus: EventBus,
    /// Who is let in.
    #[serde(deserialize_with = "unique_users")]
    pub users: Vec<UserSection>,
    /// How clients and parts of the server meet failures of others.
    pub resilience: Resilience,
    /// What is told about the server's work.
    pub observability: Observability,
    /// Faults on purpose.
    pub chaos: Chaos,
}

/// What kind of event bus a file describes. All are served by this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusType {
    /// This server.
    #[default]
    Claudebus,
    /// Files written for NATS JetStream mean the same streams.
    NatsJetstream,
}

/// `event_bus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventBus {
    /// What the file was written for.
    #[serde(rename = "type")]
    pub kind: BusType,
    /// The NATS server that a bridge would talk to.
    pub connection: Connection,
    /// Whether the streams CLAUDE_EVENTS, MCP_EVENTS, SYSTEM_EVENTS and AI_EVENTS come into being
    /// at their first message.
    pub default_streams: bool,
    /// Streams to have. One that is named as a default stream replaces it.
    #[serde(deserialize_with = "unique_streams")]
    pub streams: Vec<StreamSection>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            kind: BusType::default(),
            connection: Connection::default(),
            default_streams: true,
            streams: Vec::new(),
        }
    }
}

/// `event_bus.connection`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connection {
    /// Its address.
    pub url: Option<String>,
    /// Who logs in there.
    pub auth: ConnectionAuth,
}

/// `event_bus.connection.auth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionAuth {
    /// The user's name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// One of `event_bus.streams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSection {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Subjects it captures; at least one.
    #[serde(deserialize_with = "subjects")]
    pub subjects: Vec<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// How long messages are kept, or when else they leave.
    #[serde(default)]
    pub retention: Option<StreamRetention>,
    /// How long messages are kept, where `retention` says something else.
    #[serde(default, with = "text::as_optional_duration")]
    pub max_age: Option<Duration>,
    /// Most messages.
    #[serde(default, deserialize_with = "optional_count")]
    pub max_msgs: Option<u64>,
    /// Most bytes.
    #[serde(default, with = "text::as_optional_size")]
    pub max_bytes: Option<u64>,
    /// Largest message.
    #[serde(default, with = "text::as_optional_size")]
    pub max_msg_size: Option<u64>,
    /// Most messages of one subject.
    #[serde(default, deserialize_with = "optional_count")]
    pub max_msgs_per_subject: Option<u64>,
    /// What happens when it is full.
    #[serde(default)]
    pub discard: Discard,
    /// Where it is kept.
    #[serde(default)]
    pub storage: Storage,
    /// How its blocks are compressed.
    #[serde(default)]
    pub compression: BlockCompression,
    /// For how long a message id is remembered; 2 minutes if not given.
    #[serde(default, with = "text::as_optional_duration")]
    pub deduplication_window: Option<Duration>,
    /// Whether messages that consumers give up are kept.
    #[serde(default = "yes")]
    pub dead_letters: bool,
}

/// `retention` of a stream: a duration, or a policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRetention {
    /// Messages are kept for so long.
    Age(Duration),
    /// JetStream's policy.
    Policy(crate::model::stream::Retention),
}

impl Serialize for StreamRetention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Age(age) => serializer.serialize_str(&text::show_duration(*age)),
            Self::Policy(policy) => policy.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StreamRetention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::model::stream::Retention;
        let word = String::deserialize(deserializer)?;
        match word.as_str() {
            "limits" => Ok(Self::Policy(Retention::Limits)),
            "interest" => Ok(Self::Policy(Retention::Interest)),
            "workqueue" => Ok(Self::Policy(Retention::WorkQueue)),
            _ => text::positive_duration(&word).map(Self::Age).map_err(|_| {
                D::Error::custom(format_args!(
                    "`{word}` is neither a duration such as 7d nor one of limits, interest, workqueue"
                ))
            }),
        }
    }
}

/// `resilience`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resilience {
    /// Stops calling what keeps failing.
    pub circuit_breaker: CircuitBreaker,
    /// Calls again what failed.
    pub retry: Retry,
    /// Bounds what runs at a time.
    pub bulkhead: Bulkhead,
    /// Bounds what runs in a time.
    pub rate_limiter: RateLimiter,
}

/// `resilience.circuit_breaker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Failures in a row after which it opens.
    #[serde(deserialize_with = "count")]
    pub failure_threshold: u64,
    /// How long it stays open before it lets one call through.
    #[serde(with = "text::as_duration")]
    pub recovery_timeout: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failure_threshold: 5, recovery_timeout: Duration::from_secs(60) }
    }
}

/// `resilience.retry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, the first included.
    #[serde(deserialize_with = "count")]
    pub max_attempts: u64,
    /// Wait before the second attempt; doubled before each further one.
    #[serde(with = "text::as_duration")]
    pub initial_delay: Duration,
    /// Longest wait.
    #[serde(with = "text::as_duration")]
    pub max_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
        }
    }
}

/// `resilience.bulkhead`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bulkhead {
    /// Calls at a time.
    #[serde(deserialize_with = "count")]
    pub max_concurrent: u64,
}

impl Default for Bulkhead {
    fn default() -> Self {
        Self { max_concurrent: 10 }
    }
}

/// `resilience.rate_limiter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimiter {
    /// Calls in an interval.
    #[serde(deserialize_with = "count")]
    pub rate: u64,
    /// The interval.
    #[serde(with = "text::as_duration")]
    pub interval: Duration,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { rate: 100, interval: Duration::from_secs(1) }
    }
}

/// `observability`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observability {
    /// Spans.
    pub tracing: Tracing,
    /// Counters.
    pub metrics: Metrics,
}

/// `observability.tracing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// Whether spans are exported.
    pub enabled: bool,
    /// Where to.
    pub backend: TracingBackend,
    /// Share of traces that are exported, from 0 to 1.
    #[serde(deserialize_with = "fraction")]
    pub sampling_rate: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { enabled: false, backend: TracingBackend::default(), sampling_rate: 1.0 }
    }
}

/// Who receives spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TracingBackend {
    /// Any OpenTelemetry collector.
    #[default]
    Otlp,
    /// Jaeger, which takes OpenTelemetry's protocol too.
    Jaeger,
}

/// `observability.metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether metrics are exported.
    pub enabled: bool,
    /// How often.
    #[serde(with = "text::as_duration")]
    pub export_interval: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, export_interval: Duration::from_secs(10) }
    }
}

/// `chaos`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chaos {
    /// Whether the experiments run, on a server that allows it.
    pub enabled: bool,
    /// What to try.
    pub experiments: Vec<Experiment>,
}

/// One of `chaos.experiments`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// When it starts, as five fields of cron in UTC; by hand if not given.
    #[serde(default, deserialize_with = "schedule")]
    pub schedule: Option<String>,
    /// How long it runs.
    #[serde(with = "text::as_duration")]
    pub duration: Duration,
    /// Share of operations hit, from 0 to 1.
    #[serde(deserialize_with = "fraction")]
    pub probability: f64,
    /// What happens to them; at least one.
    #[serde(deserialize_with = "not_empty")]
    pub fault_types: Vec<FaultType>,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultType {
    /// It is late.
    Latency,
    /// It fails.
    Error,
    /// The process ends.
    Crash,
    /// Memory, disk or time run short.
    ResourceExhaustion,
    /// The network is cut.
    NetworkPartition,
}

fn yes() -> bool {
    true
}

/// A number of at least 1 that JetStream's signed fields can hold.
fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    if number == 0 || i64::try_from(number).is_err() {
        return Err(D::Error::custom(format_args!(
            "found `{number}`, expected a whole number from 1 to {}",
            i64::MAX
        )));
    }
    Ok(number)
}

/// The same, or nothing.
fn optional_count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Count(#[serde(deserialize_with = "count")] u64);
    Ok(Option::<Count>::deserialize(from)?.map(|count| count.0))
}

/// A number from 0 to 1.
fn fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    // NaN lies in no range.
    if (0.0..=1.0).contains(&number) {
        return Ok(number);
    }
    Err(D::Error::custom(format_args!("found `{number:?}`, expected a number from 0 to 1")))
}

/// A stream's name.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if is_name(&name) {
        return Ok(name);
    }
    Err(D::Error::custom(format_args!(
        "`{name}` cannot name a stream; a name has no white space, dots, wildcards or slashes"
    )))
}

/// At least one subject pattern.
fn subjects<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    struct Subject(#[serde(deserialize_with = "subject")] String);
    let subjects: Vec<Subject> = not_empty(from)?;
    Ok(subjects.into_iter().map(|subject| subject.0).collect())
}

/// One subject pattern.
fn subject<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let subject = String::deserialize(from)?;
    if is_pattern(&subject) {
        return Ok(subject);
    }
    Err(D::Error::custom(format_args!(
        "`{subject}` is not a subject; write tokens between dots, `*` for any one token, \
         `>` at the end for all that follow"
    )))
}

/// A list with something in it.
fn not_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::<T>::deserialize(from)?;
    if list.is_empty() {
        return Err(D::Error::custom("the list is empty, expected at least one entry"));
    }
    Ok(list)
}

/// Streams, no two of one name.
fn unique_streams<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<StreamSection>, D::Error> {
    let streams = Option::<Vec<StreamSection>>::deserialize(from)?.unwrap_or_default();
    let mut names = HashSet::new();
    for stream in &streams {
        if !names.insert(stream.name.as_str()) {
            return Err(D::Error::custom(format_args!("two streams are named `{}`", stream.name)));
        }
    }
    for (number, stream) in streams.iter().enumerate() {
        for other in streams.iter().take(number) {
            if let Some(subject) = shared_subject(stream, other) {
                return Err(D::Error::custom(format_args!(
                    "the streams `{}` and `{}` would both store what goes to `{subject}`; each \
                     subject belongs to one stream",
                    other.name, stream.name
                )));
            }
        }
    }
    Ok(streams)
}

/// A subject pattern of `stream` that `other` captures something of.
fn shared_subject<'a>(stream: &'a StreamSection, other: &StreamSection) -> Option<&'a str> {
    let claimed = |own: &&String| other.subjects.iter().any(|theirs| overlap(own, theirs));
    stream.subjects.iter().find(claimed).map(String::as_str)
}

/// Five fields of cron, each of digits and `*`, `/`, `-`, `,` or names of days and months.
fn schedule<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let Some(schedule) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let fields = schedule.split_whitespace().count();
    let legal = |c: char| c.is_ascii_alphanumeric() || " \t*/-,".contains(c);
    if fields != 5 || !schedule.chars().all(legal) {
        return Err(D::Error::custom(format_args!(
            "`{schedule}` is not a schedule; write five fields: minute hour day month weekday, \
             for example `0 0 * * 0`"
        )));
    }
    Ok(Some(schedule))
}
