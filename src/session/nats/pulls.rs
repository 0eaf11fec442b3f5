//! Requests for messages: `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, and `+NXT` acknowledgements.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::answer;
use crate::model::request::{Pull, PullGroup, ReplyTo, Request};
use crate::model::stream::null_is_default;

/// The body of a pull request; clients write `null` for what they leave out. Durations in nanoseconds.
/// Negative numbers mean nothing, but one that expires is over at once.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "null_is_default")]
    batch: i64,
    #[serde(deserialize_with = "null_is_default")]
    expires: i64,
    #[serde(deserialize_with = "null_is_default")]
    max_bytes: i64,
    #[serde(deserialize_with = "null_is_default")]
    no_wait: bool,
    #[serde(deserialize_with = "null_is_default")]
    idle_heartbeat: i64,
    #[serde(deserialize_with = "null_is_default")]
    group: String,
    #[serde(deserialize_with = "null_is_default")]
    min_pending: i64,
    #[serde(deserialize_with = "null_is_default")]
    min_ack_pending: i64,
    #[serde(deserialize_with = "null_is_default")]
    priority: i64,
    #[serde(deserialize_with = "null_is_default")]
    id: String,
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
    // A bare number says nothing of groups.
    let names_group = text.first() == Some(&b'{');
    let body = match parse(text).map_err(|error| in_go(text, &error)) {
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
        group: names_group.then(|| {
            Box::new(PullGroup {
                group: body.group,
                min_pending: body.min_pending,
                min_ack_pending: body.min_ack_pending,
                priority: body.priority,
                id: body.id,
            })
        }),
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
    ("group", "string"),
    ("min_pending", "int64"),
    ("min_ack_pending", "int64"),
    ("priority", "int"),
    ("id", "string"),
];

/// Why a body cannot be read, in the real server's words where clients may meet them.
fn in_go(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let fields: Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    let wrong = FIELDS.iter().find_map(|(field, wanted)| {
        let is_number = !matches!(*wanted, "bool" | "string");
        let found = match fields.get(*field)? {
            Value::Null => return None,
            Value::Bool(_) if *wanted == "bool" => return None,
            Value::String(_) if *wanted == "string" => return None,
            Value::Number(number) if is_number && number.is_i64() => return None,
            Value::Number(number) if is_number => format!("number {number}"),
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
        assert_eq!(pull("5").group, None, "a number says nothing of groups");
        assert_eq!(pull("{}").group, Some(Box::default()));
        let grouped = pull(r#"{"group":"g","min_pending":2,"priority":3,"id":"x"}"#).group;
        let grouped = grouped.expect("a group");
        assert_eq!((grouped.group.as_str(), grouped.id.as_str()), ("g", "x"));
        assert_eq!((grouped.min_pending, grouped.min_ack_pending, grouped.priority), (2, 0, 3));
        assert_eq!(pull(r#"{"batch":2,"min_pending":null,"id":null}"#).batch, 2);
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
                r#"{"group":1}"#,
                "json: cannot unmarshal number into Go struct field .group of type string",
            ),
            (
                r#"{"min_pending":"x"}"#,
                "json: cannot unmarshal string into Go struct field .min_pending of type int64",
            ),
            (
                r#"{"expires":1.5}"#,
                "json: cannot unmarshal number 1.5 into Go struct field .expires of type time.Duration",
            ),
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
