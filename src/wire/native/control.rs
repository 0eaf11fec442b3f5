//! Frames of the control stream: the greeting, requests and their answers.

use bytes::Bytes;
use claudebus_storage::Record;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FrameError;
use super::output::{Output, varints_len};
use super::reader::Reader;
use crate::model::limits::Limits;

/// HELLO: who the client is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Newest minor version the client speaks.
    pub minor: u32,
    /// The client library or program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The secret that lets it in, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// WELCOME: who the server is, and what it allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Minor version that both sides use from here on.
    pub minor: u32,
    /// Differs from every other run of every server.
    pub server_id: String,
    /// The server's name, for people.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// When an acknowledgement is given: `group` (after the disk has it), or weaker.
    pub durability: String,
    /// What the client must keep to.
    pub limits: WireLimits,
}

/// The limits that a client must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireLimits {
    /// Longest frame (type and body), in bytes, in both directions.
    pub max_frame: usize,
    /// Largest message (headers and payload), in bytes.
    pub max_payload: usize,
    /// Largest header block, in bytes.
    pub max_headers: usize,
    /// Most messages in one frame.
    pub max_batch_messages: usize,
    /// Streams that may be open at once on one connection.
    pub max_streams: usize,
}

impl WireLimits {
    /// What follows from the server's limits and the streams it allows on a connection.
    #[must_use]
    pub fn of(limits: &Limits, max_streams: usize) -> Self {
        Self {
            max_frame: limits.max_payload + super::FRAME_OVERHEAD,
            max_payload: limits.max_payload,
            max_headers: limits.max_headers,
            max_batch_messages: limits.max_batch_messages,
            max_streams,
        }
    }
}

/// RESPONSE_MESSAGE: the answer to a direct get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectMessage {
    /// The request's number.
    pub id: u64,
    /// The stream's name.
    pub stream: String,
    /// The message.
    pub record: Record,
}

pub(super) fn json<T: DeserializeOwned>(body: &[u8], frame: &'static str) -> Result<T, FrameError> {
    serde_json::from_slice(body)
        .map_err(|error| FrameError::Json { frame, reason: error.to_string() })
}

/// Structs of text and numbers, whose serialization cannot fail.
pub(super) fn to_json<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// The lengths of a record's parts, and the parts: subject, headers, payload.
pub(super) fn put_record(record: &Record, without_headers: bool, out: &mut Output) {
    let subject = record.subject_len();
    let payload = record.payload().len();
    let headers = if without_headers { 0 } else { record.headers_len() };
    out.fields().len(subject).len(headers).len(payload);
    if without_headers {
        out.fields().raw(record.subject().as_bytes());
        out.put_shared(&record.payload_bytes());
    } else {
        out.put_shared(record.data());
    }
}

/// Bytes that [`put_record`] takes.
pub(super) fn record_len(record: &Record, without_headers: bool) -> usize {
    let headers = if without_headers { 0 } else { record.headers_len() };
    let payload = record.payload().len();
    let lengths = varints_len([record.subject_len() as u64, headers as u64, payload as u64]);
    lengths + record.subject_len() + headers + payload
}

/// Reads what [`put_record`] wrote.
pub(super) fn take_record(reader: &mut Reader, seq: u64, time: u64) -> Result<Record, FrameError> {
    let subject = reader.len()?;
    let headers = reader.len()?;
    let payload = reader.len()?;
    let data = reader.bytes(subject + headers + payload)?;
    let subject = u16::try_from(subject).map_err(|_| reader.malformed("a subject is too long"))?;
    let headers =
        u32::try_from(headers).map_err(|_| reader.malformed("a header block is too long"))?;
    Record::new(seq, time, None, data, subject, headers)
        .ok_or_else(|| reader.malformed("a subject is not UTF-8"))
}
