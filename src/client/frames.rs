//! Frames over one stream of a transport.

use std::io;

use tokio::io::AsyncReadExt;

use super::transport::{Reader, Transport, Writer};
use crate::model::error::ApiError;
use crate::wire::native::{ClientFrame, Decoder, FRAME_OVERHEAD, FrameError, Output, ServerFrame};

/// Room made for each read. 64 KiB: several datagrams at once, while messages that are kept pin
/// little else.
const READ_ROOM: usize = 64 << 10;

/// Longest frame accepted before WELCOME has told the limit: the largest default message.
const FIRST_FRAME_LIMIT: usize = (1 << 20) + FRAME_OVERHEAD;

/// A stream is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the server sent {0} where it may not")]
    Unexpected(&'static str),
    #[error("the server ended the stream")]
    Ended,
    #[error("{0}")]
    Refused(ApiError),
}

/// Receives frames. Dropping a pending `next` loses nothing.
#[derive(Debug)]
pub(super) struct FrameReader {
    reader: Reader,
    decoder: Decoder,
}

impl FrameReader {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, decoder: Decoder::new(FIRST_FRAME_LIMIT) }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// The next frame. A refusal is an error: it is the last frame of its stream.
    pub(super) async fn next(&mut self) -> Result<ServerFrame, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return match ServerFrame::decode(frame)? {
                    ServerFrame::Refused(error) => Err(StreamError::Refused(error)),
                    frame => Ok(frame),
                };
            }
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < READ_ROOM / 4 {
                buffer.reserve(READ_ROOM);
            }
            if self.reader.read_buf(buffer).await? == 0 {
                self.decoder.finish()?;
                return Err(StreamError::Ended);
            }
        }
    }
}

/// Sends frames.
#[derive(Debug)]
pub(super) struct FrameWriter {
    writer: Writer,
    output: Output,
}

impl FrameWriter {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, output: Output::new() }
    }

    /// Where frames are encoded before [`Self::flush`] sends them.
    pub(super) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Adds a frame.
    pub(super) fn put(&mut self, frame: &ClientFrame) {
        frame.encode(&mut self.output);
    }

    /// Sends all that was added.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        for chunk in self.output.take() {
            self.writer.write_bytes(chunk).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(super) async fn finish(&mut self) {
        self.writer.finish().await;
    }
}

/// Opens a stream, sends what it is for, and waits for the server to be ready.
pub(super) async fn open(
    transport: &Transport,
    limit: usize,
    first: &ClientFrame,
    ready: &ServerFrame,
) -> Result<(FrameReader, FrameWriter), StreamError> {
    let (reader, writer) = transport.open().await?;
    let mut reader = FrameReader::new(reader);
    reader.set_limit(limit);
    let mut writer = FrameWriter::new(writer);
    writer.put(first);
    writer.flush().await?;
    let frame = reader.next().await?;
    if frame != *ready {
        return Err(StreamError::Unexpected(frame.name()));
    }
    Ok((reader, writer))
}
