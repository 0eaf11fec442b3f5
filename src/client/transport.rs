//! What carries the byte streams of a connection: QUIC, or memory within one process.
//!
//! Both ends use these types: the client opens streams, the server makes [`Reader`] and [`Writer`]
//! out of the streams it accepts. Nothing here knows frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// Bytes that one direction of an in-memory stream holds before its writer waits. 256 KiB: one
/// large frame; more would only hide that the reader is slow.
pub const MEMORY_STREAM_BYTES: usize = 256 << 10;

/// In-memory streams waiting to be accepted. 64: as many as a QUIC connection may have open.
pub const MEMORY_STREAM_BACKLOG: usize = 64;

/// An established connection that bidirectional streams can be opened on.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Over the network.
    Quic(quinn::Connection),
    /// Within the process: the accepting side gets the other half of each stream. One channel is
    /// one connection; it is over when the receiver is dropped.
    Memory(mpsc::Sender<DuplexStream>),
}

impl Transport {
    /// The two ends of a connection within the process: for the client, and for the server to
    /// receive streams from.
    #[must_use]
    pub fn memory() -> (Self, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(MEMORY_STREAM_BACKLOG);
        (Self::Memory(sender), receiver)
    }

    /// Opens a bidirectional stream. Waits while the peer allows no more streams.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn open(&self) -> io::Result<(Reader, Writer)> {
        match self {
            Self::Quic(connection) => {
                let (send, recv) = connection.open_bi().await.map_err(io::Error::other)?;
                Ok((Reader::Quic(recv), Writer::Quic(send)))
            }
            Self::Memory(streams) => {
                let (ours, theirs) = tokio::io::duplex(MEMORY_STREAM_BYTES);
                streams.send(theirs).await.map_err(|_| {
                    io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped")
                })?;
                Ok(split(ours))
            }
        }
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> String {
        match self {
            Self::Quic(connection) => connection.closed().await.to_string(),
            Self::Memory(streams) => {
                streams.closed().await;
                "the server has stopped".to_owned()
            }
        }
    }

    /// Ends the connection. Streams within the process end as their halves are dropped.
    pub fn close(&self, reason: &str) {
        if let Self::Quic(connection) = self {
            connection.close(quinn::VarInt::from_u32(0), reason.as_bytes());
        }
    }
}

/// Both halves of an in-memory stream.
#[must_use]
pub fn split(stream: DuplexStream) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(stream);
    (Reader::Memory(read), Writer::Memory(write))
}

/// The receiving half of a stream.
#[derive(Debug)]
pub enum Reader {
    /// Over the network.
    Quic(quinn::RecvStream),
    /// Within the process.
    Memory(ReadHalf<DuplexStream>),
}

/// The sending half of a stream.
#[derive(Debug)]
pub enum Writer {
    /// Over the network.
    Quic(quinn::SendStream),
    /// Within the process.
    Memory(WriteHalf<DuplexStream>),
}

impl Writer {
    /// Sends all of `bytes`, over QUIC without copying them.
    ///
    /// # Errors
    /// The stream or the connection is over.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Self::Quic(stream) => stream.write_chunk(bytes).await.map_err(io::Error::other),
            Self::Memory(stream) => stream.write_all(&bytes).await,
        }
    }

    /// Says that nothing more comes. What was written before is still delivered.
    pub async fn finish(&mut self) {
        // A stream that is gone already needs no end.
        let _ = match self {
            Self::Quic(stream) => stream.finish().map_err(io::Error::other),
            Self::Memory(stream) => stream.shutdown().await,
        };
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Quic(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn bytes_cross_memory_both_ways() {
        let (transport, mut accept) = Transport::memory();
        let (mut reader, mut writer) = transport.open().await.unwrap();
        let (mut their_reader, mut their_writer) = split(accept.recv().await.unwrap());
        writer.write_bytes(Bytes::from_static(b"ping")).await.unwrap();
        writer.finish().await;
        let mut seen = Vec::new();
        their_reader.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"ping");
        their_writer.write_bytes(Bytes::from_static(b"pong")).await.unwrap();
        their_writer.finish().await;
        seen.clear();
        reader.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"pong");
    }

    #[tokio::test]
    async fn a_dropped_server_ends_the_connection() {
        let (transport, accept) = Transport::memory();
        drop(accept);
        assert_eq!(transport.closed().await, "the server has stopped");
        assert!(transport.open().await.is_err());
    }
}
