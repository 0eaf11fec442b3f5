//! Requests as text: an operation's name and a JSON body become an [`ApiRequest`].
//!
//! The names are JetStream's API subjects without `$JS.API.`, and a few of ours. Errors are found in
//! JetStream's order: the JSON, then names against the subject, then their characters; the rest is
//! the broker's to find.

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use super::fields::Strictness;
use super::fields::{
    check, fields_of, from_object, nearest, object, parse as body_as, parse_options,
};
use crate::model::api::{
    ApiRequest, BatchMessage, ConsumerAction, MessageGetOptions, PurgeOptions,
};
use crate::model::consumer::{ConsumerConfig, is_group_name};
use crate::model::error::ApiError;
use crate::model::stream::{ConsumerLimits, MAX_FIRST_SEQ, StreamConfig};
use crate::model::subject::{BAD_NAME, is_name};
use crate::model::time::Timestamp;

/// Field that clients add to configurations to have defaults refused; not needed here.
const PEDANTIC: &str = "pedantic";

/// All operations, for errors about unknown ones. `<>` stands for what follows.
const OPERATIONS: &[&str] = &[
    "INFO",
    "SERVER.INFO",
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.INFO",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.GET",
    "STREAM.MSG.DELETE",
    "DIRECT.GET",
    "CONSUMER.CREATE",
    "CONSUMER.DURABLE.CREATE",
    "CONSUMER.INFO",
    "CONSUMER.NAMES",
    "CONSUMER.LIST",
    "CONSUMER.DELETE",
    "CONSUMER.PAUSE",
    "CONSUMER.UNPIN",
    "CONSUMER.RESET",
    "BATCH.PUBLISH",
    "SCHEDULE.LIST",
    "SCHEDULE.DELETE",
    "DEAD.LIST",
    "DEAD.REQUEUE",
    "DEAD.DROP",
];

/// Body of `CONSUMER.CREATE`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ConsumerCreate {
    stream_name: Option<String>,
    config: Map<String, Value>,
    action: ConsumerAction,
}

/// Body of `STREAM.MSG.DELETE`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MessageDelete {
    seq: u64,
    no_erase: bool,
}

/// Body of `CONSUMER.PAUSE`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Pause {
    pause_until: Option<Timestamp>,
}

/// Body of `CONSUMER.UNPIN`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Unpin {
    group: String,
}

/// Body of `CONSUMER.RESET`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Reset {
    seq: u64,
}

/// Body of `BATCH.PUBLISH`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Batch {
    messages: Vec<InBatch>,
}

/// A message of [`Batch`]; headers and payload are base64.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InBatch {
    subject: String,
    hdrs: String,
    data: String,
}

/// Body of `SCHEDULE.DELETE`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ScheduleDelete {
    subject: String,
}

/// Reads a request: `operation` such as `STREAM.CREATE.ORDERS`, and its JSON body, which may be
/// empty.
///
/// # Errors
/// What the client is told: an unknown operation, a body that is not the JSON it must be, or names
/// that do not fit.
pub fn parse(operation: &str, body: &[u8], strictness: Strictness) -> Result<ApiRequest, ApiError> {
    let tokens: Vec<&str> = operation.split('.').collect();
    match tokens.as_slice() {
        ["INFO"] => Ok(ApiRequest::AccountInfo),
        ["SERVER", "INFO"] => Ok(ApiRequest::ServerInfo),
        ["STREAM", rest @ ..] => stream(operation, rest, body, strictness),
        ["DIRECT", "GET", name, subject @ ..] => direct_get(name, subject, body, strictness),
        ["CONSUMER", "CREATE", name, rest @ ..] => consumer_create(name, rest, body, strictness),
        ["CONSUMER", "DURABLE", "CREATE", rest @ ..] => {
            consumer_create_durable(rest, body, strictness)
        }
        ["CONSUMER", rest @ ..] => consumer(operation, rest, body, strictness),
        ["BATCH", "PUBLISH"] => batch(body, strictness),
        ["SCHEDULE", "LIST"] => {
            Ok(ApiRequest::ScheduleList { stream: None, options: body_as(body, &[], strictness)? })
        }
        ["SCHEDULE", "LIST", name] => Ok(ApiRequest::ScheduleList {
            stream: Some(stream_name(name)?),
            options: body_as(body, &[], strictness)?,
        }),
        ["SCHEDULE", "DELETE", name] => {
            let ScheduleDelete { subject } = body_as(body, &[], strictness)?;
            Ok(ApiRequest::ScheduleDelete { stream: stream_name(name)?, subject })
        }
        ["DEAD", verb @ ("LIST" | "REQUEUE" | "DROP"), name] => {
            let stream = stream_name(name)?;
            let options = body_as(body, &[], strictness)?;
            Ok(match *verb {
                "LIST" => ApiRequest::DeadList { stream, options },
                "REQUEUE" => ApiRequest::DeadRequeue { stream, options },
                _ => ApiRequest::DeadDrop { stream, options },
            })
        }
        _ => Err(unknown(operation)),
    }
}

/// `BATCH.PUBLISH`.
fn batch(body: &[u8], strictness: Strictness) -> Result<ApiRequest, ApiError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let Batch { messages } = body_as(body, &[], strictness)?;
    let decode = |text: &str| STANDARD.decode(text).map_err(ApiError::invalid_json);
    let messages = messages.into_iter().map(|InBatch { subject, hdrs, data }| {
        Ok(BatchMessage { subject, headers: decode(&hdrs)?, payload: decode(&data)? })
    });
    Ok(ApiRequest::PublishBatch { messages: messages.collect::<Result<_, ApiError>>()? })
}

fn unknown(operation: &str) -> ApiError {
    let words =
        |count| -> String { operation.split('.').take(count).collect::<Vec<_>>().join(".") };
    let near = [3, 2, 1].into_iter().find_map(|n| nearest(&words(n), OPERATIONS.iter().copied()));
    let mut error = ApiError::unknown_operation(operation);
    if let Some(near) = near {
        error.description =
            format!("{error_text}; the nearest is {near}", error_text = error.description).into();
    }
    error
}

fn stream_name(name: &str) -> Result<String, ApiError> {
    if is_name(name) { Ok(name.to_owned()) } else { Err(ApiError::invalid_stream_name()) }
}

fn consumer_name(name: &str) -> Result<String, ApiError> {
    if name.len() > 255 {
        return Err(ApiError::consumer_name_too_long(255));
    }
    if is_name(name) { Ok(name.to_owned()) } else { Err(ApiError::consumer_bad_name()) }
}

fn stream(
    operation: &str,
    tokens: &[&str],
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    match tokens {
        ["CREATE", name] => {
            Ok(ApiRequest::StreamCreate(Box::new(stream_config(name, body, strictness)?)))
        }
        ["UPDATE", name] => {
            let config = stream_config(name, body, strictness);
            Ok(ApiRequest::StreamUpdate(Box::new(config.map_err(|why| of_update(why, body))?)))
        }
        ["INFO", name] => {
            let options = parse_options(body, strictness)?;
            Ok(ApiRequest::StreamInfo { stream: stream_name(name)?, options })
        }
        ["NAMES"] => Ok(ApiRequest::StreamNames(parse_options(body, strictness)?)),
        ["LIST"] => Ok(ApiRequest::StreamList(parse_options(body, strictness)?)),
        ["DELETE", name] => {
            if !says_nothing(body) {
                return Err(ApiError::not_empty_request());
            }
            Ok(ApiRequest::StreamDelete { stream: stream_name(name)? })
        }
        ["PURGE", name] => {
            let options: PurgeOptions = parse_options(body, strictness)?;
            if options.seq > 0 && options.keep > 0 {
                return Err(ApiError::bad_request());
            }
            if options.seq > MAX_FIRST_SEQ {
                return Err(ApiError::purge_failed(format_args!(
                    "seq can be {MAX_FIRST_SEQ} at most"
                )));
            }
            Ok(ApiRequest::StreamPurge { stream: stream_name(name)?, options })
        }
        ["MSG", "GET", name] => {
            let options: MessageGetOptions = body_as(body, &[], strictness)?;
            let stream = stream_name(name)?;
            Ok(ApiRequest::MessageGet { stream, options: one_way(options)?, direct: false })
        }
        ["MSG", "DELETE", name] => {
            let MessageDelete { seq, no_erase } = body_as(body, &[], strictness)?;
            if seq == 0 {
                return Err(match strictness {
                    Strictness::Strict => {
                        ApiError::bad_request_because("\"seq\" says which message")
                    }
                    Strictness::Lenient if says_nothing(body) => ApiError::bad_request(),
                    Strictness::Lenient => ApiError::message_delete_failed("no message found"),
                });
            }
            Ok(ApiRequest::MessageDelete { stream: stream_name(name)?, seq, no_erase })
        }
        _ => Err(unknown(operation)),
    }
}

fn stream_config(
    name: &str,
    body: &[u8],
    strictness: Strictness,
) -> Result<StreamConfig, ApiError> {
    let mut value = match strictness {
        Strictness::Lenient if body.trim_ascii() == b"null" => Map::new(),
        _ => object(body)?,
    };
    if strictness == Strictness::Strict
        && let Some(Value::Object(limits)) = value.get("consumer_limits")
    {
        check(limits, fields_of::<ConsumerLimits>(), &[])?;
    }
    let negative = take_negative(&mut value);
    let mut config: StreamConfig = from_object(value, &[PEDANTIC], strictness)?;
    if config.name.is_empty() && strictness == Strictness::Strict {
        name.clone_into(&mut config.name);
    }
    if config.name != name {
        return Err(ApiError::stream_mismatch());
    }
    if name.contains(['*', '>']) {
        return Err(ApiError::stream_invalid_config(BAD_NAME));
    }
    stream_name(name)?;
    if let Some(error) = negative {
        return Err(error);
    }
    check_first_seq(&config)?;
    Ok(config)
}

/// Refuses a stream that would begin too near to where sequences end.
pub(super) fn check_first_seq(config: &StreamConfig) -> Result<(), ApiError> {
    if config.first_seq > MAX_FIRST_SEQ {
        let why = format!("first_seq can be {MAX_FIRST_SEQ} at most");
        return Err(ApiError::stream_invalid_config(why));
    }
    Ok(())
}

/// Takes numbers out of a stream's configuration that may not be negative and are. What is wrong with
/// the first of them, in nats-server's order.
fn take_negative(config: &mut Map<String, Value>) -> Option<ApiError> {
    let mut is_negative = |field: &str| {
        let found = config.get(field).and_then(Value::as_i64).is_some_and(|number| number < 0);
        found.then(|| config.remove(field)).is_some()
    };
    let replicas = is_negative("num_replicas").then(ApiError::negative_replicas);
    let times = [
        ("max_age", "max age can not be negative"),
        ("duplicate_window", "duplicates window can not be negative"),
        ("subject_delete_marker_ttl", "subject delete marker TTL must not be negative"),
    ];
    let mut wrong = times.map(|(field, why)| is_negative(field).then_some(why)).into_iter();
    replicas.or_else(|| wrong.find_map(|why| why).map(ApiError::stream_invalid_config))
}

/// nats-server looks at the name in an update's body before it compares it with that in the subject.
fn of_update(error: ApiError, body: &[u8]) -> ApiError {
    let name = object(body).ok().and_then(|mut fields| fields.remove("name"));
    let is_good = name.as_ref().and_then(Value::as_str).is_some_and(is_name);
    if error == ApiError::stream_mismatch() && !is_good {
        return ApiError::stream_invalid_config(BAD_NAME);
    }
    error
}

/// Whether a body is empty, or an empty object.
fn says_nothing(body: &[u8]) -> bool {
    object(body).is_ok_and(|fields| fields.is_empty())
}

/// Exactly one way to say which message. An empty subject is none.
fn one_way(mut options: MessageGetOptions) -> Result<MessageGetOptions, ApiError> {
    options.last_by_subj = options.last_by_subj.filter(|subject| !subject.is_empty());
    options.next_by_subj = options.next_by_subj.filter(|subject| !subject.is_empty());
    let MessageGetOptions { seq, last_by_subj, next_by_subj, start_time, .. } = &options;
    let named = match (last_by_subj, next_by_subj, start_time) {
        (None, None, None) => *seq > 0,
        (Some(_), None, None) | (None, None, Some(_)) => *seq == 0,
        (None, Some(_), None) => true,
        _ => false,
    };
    if named { Ok(options) } else { Err(ApiError::bad_request()) }
}

fn direct_get(
    name: &str,
    subject: &[&str],
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    let stream = stream_name(name)?;
    if subject.is_empty() {
        let options = one_way(body_as(body, &[], strictness)?)?;
        return Ok(ApiRequest::MessageGet { stream, options, direct: true });
    }
    let last_by_subj = Some(subject.join("."));
    let options = MessageGetOptions { last_by_subj, ..MessageGetOptions::default() };
    Ok(ApiRequest::MessageGet { stream, options, direct: true })
}

/// The body of a consumer's creation: its configuration, as yet unchecked, and the action.
fn consumer_body(
    stream: &str,
    body: &[u8],
    strictness: Strictness,
) -> Result<(ConsumerConfig, ConsumerAction), ApiError> {
    let create: ConsumerCreate = body_as(body, &[PEDANTIC], strictness)?;
    if strictness == Strictness::Lenient {
        check_signs(&create.config)?;
    }
    let config = from_object(create.config, &[], strictness)?;
    let is_of_stream = match (create.stream_name, strictness) {
        (Some(name), _) => name == stream,
        // NATS clients name the stream in the body too.
        (None, strictness) => strictness == Strictness::Strict,
    };
    if is_of_stream { Ok((config, create.action)) } else { Err(ApiError::stream_mismatch()) }
}

/// Refuses negative times to acknowledge, which are nothing once they are durations.
fn check_signs(config: &Map<String, Value>) -> Result<(), ApiError> {
    let is_negative = |value: &Value| value.as_i64().is_some_and(|nanos| nanos < 0);
    if config.get("ack_wait").is_some_and(is_negative) {
        return Err(ApiError::negative_ack_wait());
    }
    match config.get("backoff") {
        Some(Value::Array(steps)) if steps.iter().any(is_negative) => {
            Err(ApiError::negative_backoff())
        }
        _ => Ok(()),
    }
}

/// `CONSUMER.CREATE.<stream>[.<consumer>[.<filter>]]`.
fn consumer_create(
    stream: &str,
    tokens: &[&str],
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    let (mut config, action) = consumer_body(stream, body, strictness)?;
    let Some((name, filter)) = tokens.split_first() else {
        if config.durable_name.is_some() {
            return Err(ApiError::consumer_ephemeral_with_durable());
        }
        let stream = stream_name(stream)?;
        return Ok(ApiRequest::ConsumerCreate { stream, config: Box::new(config), action });
    };
    let name = consumer_name(name)?;
    if config.durable_name.as_ref().is_some_and(|durable| *durable != name) {
        return Err(ApiError::consumer_durable_mismatch());
    }
    config.name = Some(name);
    if !filter.is_empty() {
        if !config.filter_subjects.is_empty() {
            return Err(ApiError::consumer_multiple_filters_in_subject());
        }
        if config.filter_subject.as_deref() != Some(filter.join(".").as_str()) {
            return Err(ApiError::consumer_filter_mismatch());
        }
    }
    Ok(ApiRequest::ConsumerCreate {
        stream: stream_name(stream)?,
        config: Box::new(config),
        action,
    })
}

/// `CONSUMER.DURABLE.CREATE.<stream>.<consumer>`.
fn consumer_create_durable(
    tokens: &[&str],
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    let [stream, name] = tokens else {
        return Err(ApiError::consumer_durable_not_in_subject());
    };
    let (mut config, action) = consumer_body(stream, body, strictness)?;
    let name = consumer_name(name)?;
    match &config.durable_name {
        None => return Err(ApiError::consumer_durable_not_set()),
        Some(durable) if *durable != name => return Err(ApiError::consumer_durable_mismatch()),
        Some(_) => {}
    }
    config.name = Some(name);
    Ok(ApiRequest::ConsumerCreate {
        stream: stream_name(stream)?,
        config: Box::new(config),
        action,
    })
}

fn consumer(
    operation: &str,
    tokens: &[&str],
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    match tokens {
        ["INFO", stream, consumer] => Ok(ApiRequest::ConsumerInfo {
            stream: stream_name(stream)?,
            consumer: consumer_name(consumer)?,
        }),
        ["NAMES", stream] => {
            let options = parse_options(body, strictness)?;
            Ok(ApiRequest::ConsumerNames { stream: stream_name(stream)?, options })
        }
        ["LIST", stream] => {
            let options = parse_options(body, strictness)?;
            Ok(ApiRequest::ConsumerList { stream: stream_name(stream)?, options })
        }
        ["DELETE", stream, consumer] => {
            if strictness == Strictness::Lenient && !says_nothing(body) {
                return Err(ApiError::not_empty_request());
            }
            Ok(ApiRequest::ConsumerDelete {
                stream: stream_name(stream)?,
                consumer: consumer_name(consumer)?,
            })
        }
        ["PAUSE", stream, consumer] => {
            let Pause { pause_until } = parse_options(body, strictness)?;
            Ok(ApiRequest::ConsumerPause {
                stream: stream_name(stream)?,
                consumer: consumer_name(consumer)?,
                until: pause_until.filter(|until| until.0 > 0),
            })
        }
        ["UNPIN", stream, consumer] => unpin(stream, consumer, body, strictness),
        ["RESET", stream, consumer] => {
            let Reset { seq } =
                if body.is_empty() { Reset::default() } else { body_as(body, &[], strictness)? };
            Ok(ApiRequest::ConsumerReset {
                stream: stream_name(stream)?,
                consumer: consumer_name(consumer)?,
                seq: Some(seq).filter(|seq| *seq > 0),
            })
        }
        _ => Err(unknown(operation)),
    }
}

/// `CONSUMER.UNPIN.<stream>.<consumer>`.
fn unpin(
    stream: &str,
    consumer: &str,
    body: &[u8],
    strictness: Strictness,
) -> Result<ApiRequest, ApiError> {
    let Unpin { group } = body_as(body, &[], strictness)?;
    if group.is_empty() {
        return Err(ApiError::invalid_json("consumer group not specified"));
    }
    if !is_group_name(&group) {
        return Err(ApiError::invalid_group_name());
    }
    Ok(ApiRequest::ConsumerUnpin {
        stream: stream_name(stream)?,
        consumer: consumer_name(consumer)?,
        group,
    })
}
