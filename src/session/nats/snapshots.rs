//! Requests for snapshots and restores of streams, and the parts of what is to be restored.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::answer::AnswerKind;
use crate::model::api::{ApiRequest, SnapshotOptions};
use crate::model::batch::MessageView;
use crate::model::error::ApiError;
use crate::model::request::Request;
use crate::model::stream::StreamConfig;
use crate::session::api::check_first_seq;

/// Body of `STREAM.RESTORE`. What it says of the stream's state stands in the archive too.
#[derive(Deserialize)]
struct Restore {
    #[serde(default)]
    config: Map<String, Value>,
}

/// A request for a snapshot or a restore; nothing if it is another one.
pub(super) fn parse(operation: &str, body: &[u8]) -> Option<Result<ApiRequest, ApiError>> {
    let tokens: Vec<&str> = operation.split('.').collect();
    match tokens.as_slice() {
        ["STREAM", "SNAPSHOT", stream] => Some(Ok(snapshot(stream, body))),
        ["STREAM", "RESTORE", stream] => Some(restore(stream, body)),
        _ => None,
    }
}

/// What is wrong with the body is told after whether there is such a stream.
fn snapshot(stream: &str, body: &[u8]) -> ApiRequest {
    let stream = stream.to_owned();
    let options = check_empty(body).and_then(|()| {
        serde_json::from_slice::<SnapshotOptions>(body).map_err(ApiError::invalid_json)
    });
    match options {
        Ok(options) => ApiRequest::StreamSnapshot { stream, options },
        Err(error) => ApiRequest::Refused { stream, error },
    }
}

fn restore(stream: &str, body: &[u8]) -> Result<ApiRequest, ApiError> {
    check_empty(body)?;
    let Restore { mut config } = serde_json::from_slice(body).map_err(ApiError::invalid_json)?;
    config.retain(|_, value| !value.is_null());
    let mut config: StreamConfig =
        serde_json::from_value(Value::Object(config)).map_err(ApiError::invalid_json)?;
    if config.name.is_empty() {
        stream.clone_into(&mut config.name);
    }
    if config.name != stream {
        return Err(ApiError::stream_mismatch());
    }
    check_first_seq(&config)?;
    Ok(ApiRequest::StreamRestore(Box::new(config)))
}

/// Refuses a body that says nothing.
fn check_empty(body: &[u8]) -> Result<(), ApiError> {
    let says_nothing = body.trim_ascii().is_empty()
        || serde_json::from_slice::<Map<String, Value>>(body).is_ok_and(|fields| fields.is_empty());
    if says_nothing { Err(ApiError::bad_request()) } else { Ok(()) }
}

/// A part of what is to be restored: `$JS.SNAPSHOT.RESTORE.<stream>.<name>`. All but the last are confirmed
/// with an empty message.
pub(super) fn chunk(message: &MessageView<'_>) -> Request {
    let name = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
    let payload = Bytes::copy_from_slice(message.payload);
    let kind = if payload.is_empty() { AnswerKind::RESTORED } else { AnswerKind::DIRECT };
    Request::ApiTo {
        reply: message.reply.to_owned(),
        subject: message.subject.to_owned(),
        kind,
        request: Ok(ApiRequest::RestoreChunk { name, payload }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_checked_as_nats_server_does() {
        let code = |operation: &str, body: &str| match parse(operation, body.as_bytes()) {
            Some(Err(error) | Ok(ApiRequest::Refused { error, .. })) => error.err_code,
            other => panic!("{other:?}"),
        };
        for body in ["", "{}", " "] {
            assert_eq!(code("STREAM.SNAPSHOT.S", body), 10003);
            assert_eq!(code("STREAM.RESTORE.S", body), 10003);
        }
        assert_eq!(code("STREAM.SNAPSHOT.S", "{"), 10025);
        assert_eq!(code("STREAM.RESTORE.S", "{"), 10025);
        assert_eq!(code("STREAM.RESTORE.S", r#"{"config":{"name":"T"}}"#), 10056);
        let last = r#"{"config":{"first_seq":18446744073709551615}}"#;
        assert_eq!(code("STREAM.RESTORE.S", last), 10052);
        assert_eq!(parse("STREAM.INFO.S", b""), None);
        let Some(Ok(ApiRequest::StreamRestore(config))) =
            parse("STREAM.RESTORE.S", br#"{"config":{"subjects":["s"],"mirror":null},"state":{}}"#)
        else {
            panic!("no restore");
        };
        assert_eq!(config.name, "S");
    }
}
