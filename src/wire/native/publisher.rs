//! Frames of a publisher's stream, other than the messages themselves.

use super::error::FrameError;
use super::reader::Reader;
use super::server_frame::ServerFrame;
use crate::model::request::ProducerId;

/// Flag of PUBLISHED: the messages had been stored before.
pub(super) const DUPLICATE: u8 = 1;

pub(super) fn take_producer(mut reader: Reader) -> Result<ProducerId, FrameError> {
    let id = reader.bytes(16)?;
    let id: [u8; 16] =
        id.as_ref().try_into().map_err(|_| reader.malformed("a producer id has 16 bytes"))?;
    reader.end()?;
    Ok(ProducerId(u128::from_be_bytes(id)))
}

pub(super) fn take_published(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let first = reader.varint()?;
    let count = reader.varint()?;
    let alias = reader.varint()?;
    let seq = reader.varint()?;
    let duplicate = reader.flags(DUPLICATE)? == DUPLICATE;
    reader.end()?;
    Ok(ServerFrame::Published { first, count, alias, seq, duplicate })
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
