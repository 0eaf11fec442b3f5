//! Frames over one stream of a transport.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::transport::{Reader, Transport, Writer};
use crate::model::error::ApiError;
use crate::wire::native::{
    ClientFrame, Decoder, FRAME_OVERHEAD, FrameError, Output, ServerFrame, WireLimits,
};

/// Least and most room made for each read, in bytes. Much at once where much comes, while messages that are
/// kept pin little else; and little where little comes: a thousand consumers would write to 64 MiB in
/// turn, and each to memory that no cache holds any more.
const LEAST_ROOM: usize = 8 << 10;
const MOST_ROOM: usize = 64 << 10;

/// Longest frame accepted before WELCOME has told the limit: the largest default message.
const FIRST_FRAME_LIMIT: usize = (1 << 20) + FRAME_OVERHEAD;

/// A stream that is not open after so long waits for others to end, and the log says so. 1 s: no network
/// takes that long, as opening a stream asks nobody.
const SLOW_OPENING: Duration = Duration::from_secs(1);

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
    /// Room for the next read.
    room: usize,
}

impl FrameReader {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, decoder: Decoder::new(FIRST_FRAME_LIMIT), room: LEAST_ROOM }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// The next frame, if it is here already.
    pub(super) fn next_received(&mut self) -> Result<Option<ServerFrame>, StreamError> {
        let Some(frame) = self.decoder.next_frame()? else { return Ok(None) };
        match ServerFrame::decode(frame)? {
            ServerFrame::Refused(error) => Err(StreamError::Refused(error)),
            frame => Ok(Some(frame)),
        }
    }

    /// The next frame. A refusal is an error: it is the last frame of its stream.
    pub(super) async fn next(&mut self) -> Result<ServerFrame, StreamError> {
        loop {
            if let Some(frame) = self.next_received()? {
                return Ok(frame);
            }
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < self.room / 2 {
                buffer.reserve(self.room);
            }
            let read = self.reader.read_buf(buffer).await?;
            if read == 0 {
                self.decoder.finish()?;
                return Err(StreamError::Ended);
            }
            self.room = next_room(self.room, read);
        }
    }
}

/// The room for a read after one of `read` bytes with room for `room`.
fn next_room(room: usize, read: usize) -> usize {
    match read {
        _ if read >= room => (room * 2).min(MOST_ROOM),
        _ if read < room / 8 => (room / 2).max(LEAST_ROOM),
        _ => room,
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

/// Waits for `awaited`, and tells once if it takes longer than `patience`.
async fn patiently<T>(
    awaited: impl Future<Output = T>,
    patience: Duration,
    tell: impl FnOnce(),
) -> T {
    let mut awaited = std::pin::pin!(awaited);
    match tokio::time::timeout(patience, awaited.as_mut()).await {
        Ok(result) => result,
        Err(_) => {
            tell();
            awaited.await
        }
    }
}

/// Opens a stream, sends what it is for, and waits for the server to be ready.
pub(super) async fn open(
    transport: &Transport,
    limits: WireLimits,
    first: &ClientFrame,
    ready: &ServerFrame,
) -> Result<(FrameReader, FrameWriter), StreamError> {
    let opening = patiently(transport.open(), SLOW_OPENING, || {
        tracing::warn!(
            stream = first.name(),
            max_streams = limits.max_streams,
            "this connection has as many publishers and consumers open as the server allows; a further one \
             waits until one of them is dropped. Connect a second client for more, or raise \
             `server.connections.max_streams`"
        );
    });
    let (reader, writer) = opening.await?;
    let mut reader = FrameReader::new(reader);
    reader.set_limit(limits.max_frame);
    let mut writer = FrameWriter::new(writer);
    writer.put(first);
    writer.flush().await?;
    let frame = reader.next().await?;
    if frame != *ready {
        return Err(StreamError::Unexpected(frame.name()));
    }
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn room_follows_what_comes() {
        let after = |reads: &[usize]| reads.iter().copied().fold(LEAST_ROOM, next_room);
        assert_eq!(after(&[100, 3000]), LEAST_ROOM);
        assert_eq!(after(&[LEAST_ROOM; 9]), 2 * LEAST_ROOM);
        assert_eq!(after(&[MOST_ROOM; 9]), MOST_ROOM);
        assert_eq!(after(&[MOST_ROOM, MOST_ROOM, MOST_ROOM, 100, 100, 100]), LEAST_ROOM);
    }

    #[tokio::test]
    async fn only_a_long_wait_is_told_and_only_once() {
        let told = Cell::new(0);
        let tell = || told.set(told.get() + 1);
        assert_eq!(patiently(std::future::ready(1), Duration::MAX, tell).await, 1);
        assert_eq!(told.get(), 0);
        let is_told = std::future::poll_fn(|_| match told.get() {
            0 => std::task::Poll::Pending,
            _ => std::task::Poll::Ready(2),
        });
        assert_eq!(patiently(is_told, Duration::from_millis(1), tell).await, 2);
        assert_eq!(told.get(), 1);
    }
}
