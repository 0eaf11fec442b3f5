//! A WebSocket as the stream of bytes that NATS is: messages in, binary frames out.
//!
//! Where a message or a frame ends means nothing. What the bytes mean is the connection's part, and who
//! may connect is decided before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use bytes::{Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of a frame to the client. 64 KiB: what is copied into a frame at once, and what a slow
/// client must take before it counts as having taken something.
const MOST_FRAME: usize = 64 << 10;

/// Bytes of messages that a client may collect in one WebSocket message beside the largest one. 4 MiB:
/// clients send what they have when there are 32 KiB to 2 MiB.
const MOST_COLLECTED: usize = 4 << 20;

/// Bytes that are read at once, which each connection holds while it is idle too.
const READ: usize = 8 << 10;

/// Room for answers to pings beside a frame. Clients that send more before they take the answers do
/// not get all of them.
const PONGS: usize = 4 << 10;

/// Sets the limits of a WebSocket, for messages of at most `max_payload` bytes.
pub(super) fn bounded(upgrade: WebSocketUpgrade, max_payload: usize) -> WebSocketUpgrade {
    let most = max_payload.saturating_add(MOST_COLLECTED);
    upgrade
        .max_message_size(most)
        .max_frame_size(most)
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_write_buffer_size(MOST_FRAME + PONGS)
}

/// The stream of bytes. Who writes and has to wait must come again with the same bytes, as writers do
/// that lose nothing: they may have left meanwhile.
#[derive(Debug)]
pub(super) struct ByteStream {
    socket: WebSocket,
    /// What was received and is not read yet.
    received: Bytes,
    /// Bytes of the frame on its way out. They count as written when all of it has left, so that no
    /// more than one frame waits here.
    leaving: usize,
    /// Nothing more will be received.
    is_over: bool,
}

impl ByteStream {
    pub(super) fn new(socket: WebSocket) -> Self {
        Self { socket, received: Bytes::new(), leaving: 0, is_over: false }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() && !this.is_over {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.received = bytes,
                Some(Ok(Message::Text(text))) => this.received = text.into(),
                // The library answers pings when it is asked for the next message.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) => {
                    this.is_over = true;
                    // Sends the client's goodbye back if that is possible at once.
                    let _ = this.flush(cx);
                }
                Some(Err(error)) => {
                    this.is_over = true;
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                None => this.is_over = true,
            }
        }
        let count = this.received.len().min(buffer.remaining());
        buffer.put_slice(&this.received.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.leaving == 0 {
            // Answers to pings leave first, so that the frame finds room.
            ready!(this.flush(cx))?;
            ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(io::Error::other)?;
            let frame = first_of(slices);
            let length = frame.len();
            if length > 0 {
                let message = Message::Binary(frame);
                Pin::new(&mut this.socket).start_send(message).map_err(io::Error::other)?;
                this.leaving = length;
            }
        }
        ready!(this.flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.leaving)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx).map_err(io::Error::other)
    }
}

/// As much as a frame holds, copied together.
fn first_of(slices: &[IoSlice<'_>]) -> Bytes {
    let length = slices.iter().map(|slice| slice.len()).sum::<usize>().min(MOST_FRAME);
    let mut frame = BytesMut::with_capacity(length);
    for slice in slices {
        let room = length - frame.len();
        frame.extend_from_slice(slice.get(..room).unwrap_or(slice));
    }
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Both ends of an open WebSocket for messages of at most 1,000 bytes.
    async fn pair() -> (ByteStream, TcpStream) {
        let (opened, mut open) = mpsc::channel(1);
        let app = Router::new().route(
            "/",
            get(|upgrade: WebSocketUpgrade| async move {
                bounded(upgrade, 1000).on_upgrade(|socket| async move {
                    opened.send(ByteStream::new(socket)).await.expect("it is waited for");
                })
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut client = TcpStream::connect(address).await.expect("connected");
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.expect("an answer"));
        }
        (open.recv().await.expect("a WebSocket"), client)
    }

    /// The head of a client's last binary frame, with a mask that changes nothing.
    fn head(length: u64) -> Vec<u8> {
        [&[0x82, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat()
    }

    #[tokio::test]
    async fn messages_are_read_in_pieces_up_to_their_limit() {
        let (mut stream, mut client) = pair().await;
        let most = 1000 + MOST_COLLECTED;
        let (told, read) = oneshot::channel();
        tokio::spawn(async move {
            let mut bytes = vec![0; most];
            told.send(stream.read_exact(&mut bytes).await.is_ok()).expect("it is waited for");
            told_end(stream).await;
        });
        client.write_all(&head(most as u64)).await.expect("written");
        client.write_all(&vec![7; most]).await.expect("written");
        assert!(read.await.expect("told"), "at the limit");
        client.write_all(&head(most as u64 + 1)).await.expect("written");
        assert!(client.read_u8().await.is_err(), "one past the limit ends it");
    }

    /// Reads until that is over.
    async fn told_end(mut stream: ByteStream) {
        let error = stream.read_u8().await.expect_err("too long a message");
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_holds_the_writer_up() {
        /// More than the system takes for a connection.
        const MOST: usize = 256 << 20;
        let (mut stream, _client) = pair().await;
        let chunk = vec![7; MOST_FRAME + 1];
        let mut written = 0;
        let waits = loop {
            let write = stream.write(&chunk);
            match tokio::time::timeout(Duration::from_millis(200), write).await {
                Ok(count) => written += count.expect("an open connection"),
                Err(_) => break true,
            }
            if written > MOST {
                break false;
            }
        };
        assert!(waits, "{written} bytes were taken without a reader");
        assert_eq!(stream.leaving, MOST_FRAME, "one frame waits");
    }
}
