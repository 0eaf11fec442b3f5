//! Requests for messages: `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, and `+NXT` acknowledgements.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::answer;
use crate::model::request::{Pull, ReplyTo, Request};

/// The body of a pull request. Durations in nanoseconds. Negative numbers mean nothing, but one that
/// expires is over at once.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    batch: i64,
    expires: i64,
    max_bytes: i64,
    no_wait: bool,
    idle_heartbeat: i64,
    /// These three are for consumers with priority groups, of which there are none.
    min_pending: i64,
    min_ack_pending: i64,
    id: String,
}

impl Body {
    /// What is wrong with a pull that can be read, in nats-server's words.
    fn wrong(&self) -> Option<&'static str> {
        if self.min_pending > 0 || self.min_ack_pending > 0 {
            return Some("Not a Overflow Priority consumer");
        }
        (!self.id.is_empty()).then_some("Not a Pinned Client Priority consumer")
    }
}

/// A pull request arrives.
pub(super) fn receive(
    stream: &str,
    consumer: &str,
    reply: &str,
    body: &[u8],
    requests: &mut Vec<Request>,
) {
    // Messages would have nowhere to go.
    if reply.is_empty() {
        return;
    }
    let text = body.trim_ascii();
    let parsed = parse(text).map_err(|error| in_go(text, &error));
    let checked = parsed.and_then(|body| body.wrong().map_or(Ok(body), |why| Err(why.to_owned())));
    let body = match checked {
        Ok(body) => body,
        Err(why) => {
            let headers = answer::status(400, &format!("Bad Request - {why}"));
            let subject = reply.to_owned();
            requests.push(Request::Tell { subject, headers, payload: Bytes::new() });
            return;
        }
    };
    let duration =
        |nanos: i64| u64::try_from(nanos).ok().filter(|n| *n > 0).map(Duration::from_nanos);
    requests.push(Request::Pull(Pull {
        reply: ReplyTo::Subject(reply.to_owned()),
        stream: stream.to_owned(),
        consumer: consumer.to_owned(),
        batch: u64::try_from(body.batch).unwrap_or(1).max(1),
        max_bytes: u64::try_from(body.max_bytes).unwrap_or(0),
        expires: if body.expires < 0 { Some(Duration::ZERO) } else { duration(body.expires) },
        no_wait: body.no_wait,
        heartbeat: duration(body.idle_heartbeat),
        renewable: false,
    }));
}

/// A bare number is short for an object, and what is neither is as good as nothing.
fn parse(text: &[u8]) -> Result<Body, serde_json::Error> {
    if text.first() == Some(&b'{') {
        return serde_json::from_slice(text);
    }
    let batch = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    Ok(Body { batch: batch.unwrap_or_default(), ..Body::default() })
}

/// Fields of a pull request, and the types that the real server says they have.
const FIELDS: &[(&str, &str)] = &[
    ("expires", "time.Duration"),
    ("batch", "int"),
    ("max_bytes", "int"),
    ("no_wait", "bool"),
    ("idle_heartbeat", "time.Duration"),
    ("min_pending", "int64"),
    ("min_ack_pending", "int64"),
];

/// Why a body cannot be read, in the real server's words where clients may meet them.
fn in_go(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let fields: Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    let wrong = FIELDS.iter().find_map(|(field, wanted)| {
        let found = match fields.get(*field)? {
            Value::Null => return None,
            Value::Bool(_) if *wanted == "bool" => return None,
            Value::Number(number) if *wanted != "bool" && number.is_i64() => return None,
            Value::Number(number) if *wanted != "bool" => format!("number {number}"),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Some(format!(
            "json: cannot unmarshal {found} into Go struct field .{field} of type {wanted}"
        ))
    });
    wrong.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(body: &str) -> Pull {
        let mut requests = Vec::new();
        receive("S", "c", "inbox", body.as_bytes(), &mut requests);
        match requests.pop() {
            Some(Request::Pull(pull)) => pull,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_of_pulls() {
        assert_eq!(pull("").batch, 1);
        assert_eq!(pull("5").batch, 5);
        assert_eq!(pull("-5").batch, 1);
        assert_eq!(pull("nonsense").batch, 1);
        assert_eq!(pull(r#"{"expires":-1}"#).expires, Some(Duration::ZERO));
        let full = pull(
            r#"{"batch":10,"expires":5000000000,"no_wait":true,"idle_heartbeat":1000000000,"max_bytes":99,"unknown":1}"#,
        );
        assert_eq!((full.batch, full.max_bytes, full.no_wait), (10, 99, true));
        assert_eq!(full.expires, Some(Duration::from_secs(5)));
        assert_eq!(full.heartbeat, Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let mut requests = Vec::new();
        let texts = [
            ("{", "unexpected end of JSON input"),
            (
                r#"{"batch":"two"}"#,
                "json: cannot unmarshal string into Go struct field .batch of type int",
            ),
            (
                r#"{"expires":1.5}"#,
                "json: cannot unmarshal number 1.5 into Go struct field .expires of type time.Duration",
            ),
            (r#"{"min_pending":1}"#, "Not a Overflow Priority consumer"),
            (r#"{"id":"x"}"#, "Not a Pinned Client Priority consumer"),
        ];
        for (body, text) in texts {
            receive("S", "c", "inbox", body.as_bytes(), &mut requests);
            let told = format!("NATS/1.0 400 Bad Request - {text}\r\n\r\n");
            assert!(
                matches!(&*requests, [Request::Tell { headers, .. }] if headers == told.as_bytes()),
                "{requests:?}"
            );
            requests.clear();
        }
        receive("S", "c", "", b"", &mut requests);
        assert!(requests.is_empty(), "there is nowhere to send messages");
    }
}
