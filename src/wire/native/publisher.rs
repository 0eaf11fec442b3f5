//! Frames of a publisher's stream, other than the messages themselves.

use super::error::FrameError;
use super::frame::ServerKind;
use super::output::Output;
use super::reader::Reader;
use super::server_frame::ServerFrame;
use crate::model::request::ProducerId;

/// Flag of PUBLISHED: the messages had been stored before.
const DUPLICATE: u8 = 1;

/// Ranges of one PUBLISHED, at most. 1,024: with the longest numbers they take less than half of what a
/// frame may hold beyond a payload.
pub const MAX_STORED_RANGES: usize = 1024;

/// Messages that are stored one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRange {
    /// How many.
    pub count: u64,
    /// Their stream, as STREAM_NAME said before.
    pub alias: u64,
    /// Sequence of the first; the others follow without gaps. Zero if no longer known.
    pub seq: u64,
    /// Whether they had been stored before.
    pub duplicate: bool,
}

pub(super) fn take_producer(mut reader: Reader) -> Result<ProducerId, FrameError> {
    let id = reader.bytes(16)?;
    let id: [u8; 16] =
        id.as_ref().try_into().map_err(|_| reader.malformed("a producer id has 16 bytes"))?;
    reader.end()?;
    Ok(ProducerId(u128::from_be_bytes(id)))
}

pub(super) fn put_published(first: u64, ranges: &[StoredRange], out: &mut Output) {
    out.frame(ServerKind::Published as u8, &[], |fields| {
        fields.varint(first);
        for StoredRange { count, alias, seq, duplicate } in ranges {
            fields.varint(*count).varint(*alias).varint(*seq);
            fields.u8(if *duplicate { DUPLICATE } else { 0 });
        }
    });
}

pub(super) fn take_published(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let first = reader.varint()?;
    let mut ranges = Vec::new();
    while ranges.is_empty() || reader.remaining() > 0 {
        if ranges.len() == MAX_STORED_RANGES {
            return Err(reader.malformed("more than 1,024 ranges"));
        }
        ranges.push(StoredRange {
            count: reader.varint()?,
            alias: reader.varint()?,
            seq: reader.varint()?,
            duplicate: reader.flags(DUPLICATE)? == DUPLICATE,
        });
    }
    Ok(ServerFrame::Published { first, ranges })
}

pub(super) fn take_stream_name(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let frame = ServerFrame::StreamName { alias: reader.varint()?, name: reader.text()? };
    reader.end()?;
    Ok(frame)
}

pub(super) fn take_refused_message(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let frame = ServerFrame::RefusedMessage { counter: reader.varint()?, error: reader.error()? };
    reader.end()?;
    Ok(frame)
}
