//! Answers to API requests as NATS clients read them: JetStream's JSON, and messages of direct gets.
//!
//! Typed answers are what our own protocol sends. JetStream's differ in what surrounds them (a `type`,
//! what the server says of itself in `metadata`), and must not hold fields of ours, because some
//! clients refuse what they do not know.

use bytes::Bytes;
use claudebus_storage::Record;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::api::{ApiResponse, SUBJECTS_PAGE, SubjectsPage};
use super::consumer::{ConsumerConfig, ConsumerInfo, PriorityPolicy};
use super::error::ApiError;
use super::headers::{Block, names};
use super::stream::{StreamConfig, StreamInfo};
use super::time::Timestamp;

/// The version that NATS clients are told: what they may expect of a server of this version, and then ours.
pub const NATS_VERSION: &str = concat!("2.11.9+claudebus.", env!("CARGO_PKG_VERSION"));

/// The level of the API that NATS clients are told (ADR-44): TTL of messages, pauses, batches of direct gets.
pub const API_LEVEL: u32 = 1;

/// What a server calls itself in answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// Its name.
    pub server: String,
    /// The domain of its streams, if it has one: `$JS.<domain>.API` leads to it, too.
    pub domain: Option<String>,
}

impl ServerNames {
    /// Adds the domain to what is said, if there is one.
    pub fn put_domain(&self, fields: &mut Map<String, Value>) {
        if let Some(domain) = &self.domain {
            fields.insert("domain".to_owned(), domain.as_str().into());
        }
    }
}

/// Fields of stream configurations that NATS clients do not know.
const OWN_STREAM_FIELDS: &[&str] = &["block_compression", "dead_letters"];
/// Fields of consumer configurations that NATS clients do not know.
const OWN_CONSUMER_FIELDS: &[&str] = &["order_by", "replay_percent", "by_priority"];

/// Which kind of answer a request has: the middle of `io.nats.jetstream.api.v1.<kind>_response`, which
/// some clients choose by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerKind(&'static str);

impl AnswerKind {
    /// Answers by the message itself or a status, not by JSON.
    pub const DIRECT: Self = Self("direct");
    /// Answers to the end of what is to be restored.
    pub const RESTORED: Self = Self("stream_create");
    /// Answers to what is no operation.
    pub const SYSTEM: Self = Self("system");

    /// The kind of answer to an operation, such as `STREAM.CREATE.ORDERS`.
    #[must_use]
    pub fn of(operation: &str) -> Option<Self> {
        let mut tokens = operation.split('.');
        let first = tokens.next()?;
        let kind = match (first, tokens.next(), tokens.next()) {
            ("INFO", None, None) => "account_info",
            ("STREAM", Some("CREATE"), _) => "stream_create",
            ("STREAM", Some("UPDATE"), _) => "stream_update",
            ("STREAM", Some("INFO"), _) => "stream_info",
            ("STREAM", Some("NAMES"), None) => "stream_names",
            ("STREAM", Some("LIST"), None) => "stream_list",
            ("STREAM", Some("DELETE"), _) => "stream_delete",
            ("STREAM", Some("PURGE"), _) => "stream_purge",
            ("STREAM", Some("MSG"), Some("GET")) => "stream_msg_get",
            ("STREAM", Some("MSG"), Some("DELETE")) => "stream_msg_delete",
            ("STREAM", Some("SNAPSHOT"), _) => "stream_snapshot",
            ("STREAM", Some("RESTORE"), _) => "stream_restore",
            ("STREAM", Some("PEER"), Some("REMOVE")) => "stream_remove_peer",
            ("STREAM", Some("LEADER"), Some("STEPDOWN")) => "stream_leader_stepdown",
            ("CONSUMER", Some("CREATE" | "DURABLE"), _) => "consumer_create",
            ("CONSUMER", Some("INFO"), _) => "consumer_info",
            ("CONSUMER", Some("NAMES"), _) => "consumer_names",
            ("CONSUMER", Some("LIST"), _) => "consumer_list",
            ("CONSUMER", Some("DELETE"), _) => "consumer_delete",
            ("CONSUMER", Some("PAUSE"), _) => "consumer_pause",
            ("CONSUMER", Some("RESET"), _) => "consumer_reset",
            ("CONSUMER", Some("UNPIN"), _) => "consumer_unpin",
            ("CONSUMER", Some("LEADER"), Some("STEPDOWN")) => "consumer_leader_stepdown",
            ("META", Some("LEADER"), Some("STEPDOWN")) => "meta_leader_stepdown",
            ("DIRECT", Some("GET"), Some(_)) => return Some(Self::DIRECT),
            _ => return None,
        };
        Some(Self(kind))
    }

    /// Whether the answer is the message itself.
    #[must_use]
    pub fn is_direct(self) -> bool {
        self == Self::DIRECT
    }
}

/// The body of an answer in JSON.
#[must_use]
pub fn body(
    kind: AnswerKind,
    result: &Result<ApiResponse, ApiError>,
    names: &ServerNames,
) -> Bytes {
    let mut answer = match result {
        Ok(response) => fields(kind, response, names),
        Err(error) => {
            let mut fields = nothing(kind);
            fields.insert("error".to_owned(), json!(error));
            fields
        }
    };
    answer
        .insert("type".to_owned(), format!("io.nats.jetstream.api.v1.{}_response", kind.0).into());
    // A map of plain values, whose serialization cannot fail.
    serde_json::to_vec(&answer).unwrap_or_default().into()
}

/// What an error is accompanied by, because the real server leaves it out of no answer of the kind.
fn nothing(kind: AnswerKind) -> Map<String, Value> {
    let list = match kind.0 {
        "stream_info" => None,
        "stream_names" => Some(("streams", Value::Null)),
        "stream_list" => Some(("streams", json!([]))),
        "consumer_names" | "consumer_list" => Some(("consumers", json!([]))),
        "consumer_pause" => {
            let zero = Timestamp::default();
            return object(&json!({ "paused": false, "pause_until": zero }));
        }
        "consumer_reset" => return object(&json!({ "reset_seq": 0 })),
        "stream_purge" => return object(&json!({ "purged": 0 })),
        "stream_restore" => return object(&json!({ "deliver_subject": "" })),
        _ => return Map::new(),
    };
    let mut fields = object(&json!({ "total": 0, "offset": 0, "limit": 0 }));
    fields.extend(list.map(|(name, none)| (name.to_owned(), none)));
    fields
}

fn fields(kind: AnswerKind, response: &ApiResponse, names: &ServerNames) -> Map<String, Value> {
    match response {
        ApiResponse::Stream { info, did_create, subjects } => {
            let mut fields = stream(info);
            if *did_create {
                fields.insert("did_create".to_owned(), true.into());
            }
            if kind == AnswerKind("stream_info") {
                let SubjectsPage { total, offset } = *subjects;
                let limit = if total > 0 { SUBJECTS_PAGE } else { 0 };
                fields.insert("total".to_owned(), total.into());
                fields.insert("offset".to_owned(), offset.into());
                fields.insert("limit".to_owned(), limit.into());
                fields.insert("cluster".to_owned(), json!({ "leader": names.server }));
            }
            // nats-server leaves it out of the answer to a create.
            if kind != AnswerKind("stream_create") {
                names.put_domain(&mut fields);
            }
            fields
        }
        ApiResponse::StreamList { streams, .. } => {
            let entry = |info: &StreamInfo| {
                let mut fields = listed(stream(info));
                names.put_domain(&mut fields);
                Value::Object(fields)
            };
            let streams = streams.iter().map(entry).collect();
            replaced(response, "streams", Value::Array(streams))
        }
        // nats-server writes no list at all here, and an empty one everywhere else.
        ApiResponse::StreamNames { streams, .. } if streams.is_empty() => {
            replaced(response, "streams", Value::Null)
        }
        ApiResponse::Snapshot { config, state } => {
            let mut fields = object(response);
            fields.insert("config".to_owned(), Value::Object(snapshot_config(config)));
            fields.insert("state".to_owned(), json!(state));
            fields
        }
        ApiResponse::Consumer(info) => consumer(info),
        ApiResponse::ConsumerReset { info, reset_seq } => {
            let mut fields = consumer(info);
            fields.insert("reset_seq".to_owned(), (*reset_seq).into());
            fields
        }
        ApiResponse::ConsumerList { consumers, .. } => {
            let consumers =
                consumers.iter().map(|info| Value::Object(listed(consumer(info)))).collect();
            replaced(response, "consumers", Value::Array(consumers))
        }
        ApiResponse::Paused { pause_remaining, .. } if pause_remaining.is_zero() => {
            let mut fields = object(response);
            fields.remove("pause_remaining");
            fields
        }
        other => {
            let mut fields = object(other);
            if kind == AnswerKind("account_info") {
                names.put_domain(&mut fields);
            }
            fields
        }
    }
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn replaced(response: &ApiResponse, field: &str, value: Value) -> Map<String, Value> {
    let mut fields = object(response);
    fields.insert(field.to_owned(), value);
    fields
}

/// A stream as NATS clients know it.
#[must_use]
pub fn stream(info: &StreamInfo) -> Map<String, Value> {
    let mut fields = object(info);
    // Nothing is lost: what is ours has its default, or was set over our own protocol.
    if let Some(Value::Object(config)) = fields.get_mut("config") {
        OWN_STREAM_FIELDS.iter().for_each(|field| _ = config.remove(*field));
        describe(config, stream_level(&info.config));
    }
    fields
}

/// The configuration of a stream in a snapshot, in which the server says nothing of itself.
fn snapshot_config(config: &StreamConfig) -> Map<String, Value> {
    let mut fields = object(config);
    OWN_STREAM_FIELDS.iter().for_each(|field| _ = fields.remove(*field));
    describe(&mut fields, stream_level(config));
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.remove("_nats.ver");
        metadata.remove("_nats.level");
    }
    fields
}

/// A consumer as NATS clients know it.
#[must_use]
pub fn consumer(info: &ConsumerInfo) -> Map<String, Value> {
    let mut fields = object(info);
    fields.remove("idle");
    if let Some(Value::Object(config)) = fields.get_mut("config") {
        OWN_CONSUMER_FIELDS.iter().for_each(|field| _ = config.remove(*field));
        describe(config, consumer_level(&info.config));
    }
    fields
}

/// An entry of a list, where the server says nothing of itself.
fn listed(mut fields: Map<String, Value>) -> Map<String, Value> {
    let config = fields.get_mut("config").and_then(|config| config.get_mut("metadata"));
    if let Some(Value::Object(metadata)) = config {
        metadata.remove("_nats.ver");
        metadata.remove("_nats.level");
    }
    fields
}

/// The API level that a stream needs (ADR-44).
fn stream_level(config: &StreamConfig) -> u32 {
    if config.allow_msg_schedules || config.allow_atomic || config.allow_msg_counter {
        2
    } else {
        u32::from(config.allow_msg_ttl || !config.subject_delete_marker_ttl.is_zero())
    }
}

/// The API level that a consumer needs (ADR-44).
fn consumer_level(config: &ConsumerConfig) -> u32 {
    let is_new = config.pause_until.is_some() || config.priority_policy != PriorityPolicy::None;
    u32::from(is_new)
}

/// Adds to the metadata what the server says of itself, and the API level that is needed.
fn describe(config: &mut Map<String, Value>, level: u32) {
    let metadata = config.entry("metadata").or_insert_with(|| json!({}));
    if let Value::Object(metadata) = metadata {
        metadata.insert("_nats.ver".to_owned(), NATS_VERSION.into());
        metadata.insert("_nats.level".to_owned(), API_LEVEL.to_string().into());
        metadata.insert("_nats.req.level".to_owned(), level.to_string().into());
    }
}

/// A message in answer to a direct get: its own headers, and what they are followed by; and its body.
#[must_use]
pub fn direct(stream: &str, record: &Record, no_headers: bool) -> (Bytes, Bytes) {
    if no_headers {
        return (Bytes::new(), record.payload_bytes());
    }
    (direct_headers(stream, record).finish().into(), record.payload_bytes())
}

/// The headers of a message in answer to a direct get, to be added to.
#[must_use]
pub fn direct_headers(stream: &str, record: &Record) -> Block {
    let mut block = Block::from_existing(record.headers());
    block
        .add(names::STREAM, stream)
        .add(names::SUBJECT, record.subject())
        .add(names::SEQUENCE, &record.seq.to_string())
        .add(names::TIME_STAMP, &Timestamp(record.time).to_string());
    block
}

/// The header block of a status.
#[must_use]
pub fn status(code: u16, text: &str) -> Bytes {
    let space = if text.is_empty() { "" } else { " " };
    format!("NATS/1.0 {code}{space}{text}\r\n\r\n").into()
}

/// What answers a direct get that failed. `None` if nobody answers, as for a stream that is not there.
#[must_use]
pub fn direct_failure(error: &ApiError) -> Option<Bytes> {
    match error.err_code {
        10059 | 20003 => None,
        10037 => Some(status(404, "Message Not Found")),
        10003 => Some(status(408, "Bad Request")),
        10025 => Some(status(408, "Malformed Request")),
        _ => Some(status(error.code, &error.description)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: &str, result: &Result<ApiResponse, ApiError>) -> Value {
        let kind = AnswerKind::of(kind).expect("an operation");
        let names = ServerNames { server: "me".into(), domain: Some("hub".into()) };
        serde_json::from_slice(&body(kind, result, &names)).expect("JSON")
    }

    #[test]
    fn errors_have_the_type_of_what_was_asked() {
        let answer = json("CONSUMER.DURABLE.CREATE.S.c", &Err(ApiError::stream_not_found()));
        assert_eq!(
            answer,
            json!({
                "type": "io.nats.jetstream.api.v1.consumer_create_response",
                "error": { "code": 404, "err_code": 10059, "description": "stream not found" },
            })
        );
    }

    #[test]
    fn nothing_of_ours_is_shown() {
        let mut config = StreamConfig { name: "S".into(), ..StreamConfig::default() };
        config.dead_letters.enabled = false;
        let state = super::super::stream::StreamState::default();
        let (created, ts) = (Timestamp(1), Timestamp(2));
        let info =
            Box::new(StreamInfo { config, created, state, mirror: None, sources: Vec::new(), ts });
        let subjects = SubjectsPage { total: 3, offset: 2 };
        let response = ApiResponse::Stream { info, did_create: false, subjects };
        let answer = json("STREAM.INFO.S", &Ok(response));
        assert_eq!((&answer["total"], &answer["offset"]), (&json!(3), &json!(2)));
        assert_eq!(answer["limit"], 100_000);
        assert_eq!(answer["config"].get("dead_letters"), None);
        assert_eq!(answer["config"]["metadata"]["_nats.req.level"], "0");
        assert_eq!(answer["cluster"]["leader"], "me");
        assert_eq!(answer["domain"], "hub");
        assert_eq!(answer.get("did_create"), None);
    }

    #[test]
    fn errors_of_lists_hold_an_empty_list() {
        let answer = json("CONSUMER.NAMES.S", &Err(ApiError::stream_not_found()));
        assert_eq!(answer["consumers"], json!([]));
        assert_eq!((&answer["total"], &answer["limit"]), (&json!(0), &json!(0)));
        assert_eq!(answer["error"]["err_code"], 10059);
        let answer = json("CONSUMER.PAUSE.S.c", &Err(ApiError::consumer_not_found()));
        assert_eq!(answer["pause_until"], "0001-01-01T00:00:00Z");
        assert_eq!(answer["paused"], false);
    }

    #[test]
    fn no_names_are_no_list() {
        let none = ApiResponse::StreamNames { total: 0, offset: 0, limit: 1024, streams: vec![] };
        assert_eq!(json("STREAM.NAMES", &Ok(none))["streams"], Value::Null);
    }

    #[test]
    fn statuses_have_a_text_or_none() {
        assert_eq!(&status(503, "")[..], b"NATS/1.0 503\r\n\r\n");
        assert_eq!(&status(404, "No Messages")[..], b"NATS/1.0 404 No Messages\r\n\r\n");
    }
}
