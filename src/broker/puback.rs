//! JetStream's answer to a publish, byte for byte as nats-server writes it: its fields in its order, with its
//! spaces. Who gets it, and when, is decided elsewhere.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use crate::model::error::ApiError;

use super::publish::{Outcome, Placed};
use super::staging::Staged;

/// The body of the answer, in a slice of `buffer`. An empty one says that a batch goes on.
pub(super) fn body(
    stream: &str,
    domain: Option<&str>,
    outcome: Result<Outcome, ApiError>,
    buffer: &mut BytesMut,
) -> Bytes {
    // Writing into memory does not fail.
    let _ = match outcome {
        Ok(Outcome::Stored(placed, None)) => put(buffer, stream, domain, placed, ""),
        Ok(Outcome::Stored(placed, Some(total))) => {
            put(buffer, stream, domain, placed, &format!(",\"val\":\"{total}\""))
        }
        Ok(Outcome::Staged(Staged::Committed { id, last, count })) => {
            let more = format!(",\"batch\":{},\"count\":{count}", json(&*id));
            put(buffer, stream, domain, last, &more)
        }
        Ok(Outcome::Staged(Staged::Waits)) => return Bytes::new(),
        Err(error) => {
            let (error, stream) = (json(&error), json(stream));
            write!(buffer, "{{\"error\":{error},\"stream\":{stream},\"seq\":0}}")
        }
    };
    buffer.split().freeze()
}

fn put(
    buffer: &mut BytesMut,
    stream: &str,
    domain: Option<&str>,
    placed: Placed,
    more: &str,
) -> std::fmt::Result {
    write!(buffer, "{{\"stream\":{}", json(stream))?;
    if let Some(domain) = domain {
        write!(buffer, ",\"domain\":\"{domain}\"")?;
    }
    let duplicate = if placed.duplicate { ",\"duplicate\": true" } else { "" };
    write!(buffer, ",\"seq\":{}{duplicate}{more}}}", placed.seq)
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
