//! Fields of JetStream's configurations that would change what a stream does, and that this server does
//! not act on. Others that it does not know are ignored, because clients may be newer than
//! the server; to ignore these would break what their users rely on.

use serde_json::{Map, Value};

use crate::model::error::ApiError;

/// Of streams.
const STREAM: &[&str] = &["allow_batched"];

/// Whether a configuration asks for what is not there.
///
/// # Errors
/// The first field that does.
pub(super) fn check(operation: &str, body: &[u8]) -> Result<(), ApiError> {
    let is_stream =
        operation.starts_with("STREAM.CREATE.") || operation.starts_with("STREAM.UPDATE.");
    if !is_stream {
        return Ok(());
    }
    // What cannot be read is refused for that.
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(body) else { return Ok(()) };
    match first(STREAM, &fields) {
        Some(field) => Err(ApiError::stream_invalid_config(text(field))),
        None => Ok(()),
    }
}

fn first(unsupported: &[&'static str], fields: &Map<String, Value>) -> Option<&'static str> {
    let is_set = |field: &&&str| fields.get(**field).is_some_and(|value| !is_nothing(value));
    unsupported.iter().find(is_set).copied()
}

/// Clients that know a field and do not use it may still send it.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(values) => values.is_empty(),
        Value::Object(_) => false,
    }
}

fn text(field: &str) -> String {
    format!("{field} is not supported by this server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let error = check("STREAM.CREATE.S", br#"{"name":"S","allow_batched":true}"#);
        assert!(error.expect_err("fast batches").description.contains("allow_batched"));
    }

    #[test]
    fn what_is_sent_without_use_does_no_harm() {
        let body = br#"{"name":"S","allow_batched":null}"#;
        assert!(check("STREAM.UPDATE.S", body).is_ok());
        assert!(check("STREAM.CREATE.S", b"{").is_ok());
        assert!(check("STREAM.INFO.S", br#"{"allow_batched":true}"#).is_ok());
    }
}
