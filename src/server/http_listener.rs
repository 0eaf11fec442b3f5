//! A TCP listener that holds so many connections at once and no more, and none that says nothing.
//!
//! A connection that becomes a WebSocket is let go: other limits bound those.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::limits::ServerLimits;

/// The listener.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Bounded {
    /// Accepts from `listener` while fewer connections are open than the limits say, of which few may
    /// be open files: most of those are for data.
    pub(super) fn new(listener: TcpListener, limits: &ServerLimits) -> Self {
        let files = claudebus_storage::disk::file_limit();
        let most = limits.max_http_connections.min(files / 4).max(1);
        let room = Arc::new(Semaphore::new(most));
        Self { listener, room, patience: limits.http_patience }
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        // As axum does it: tries again after errors that pass, such as too many open files.
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let silence = Box::pin(tokio::time::sleep(self.patience));
        let is_let_go = Arc::default();
        (Held { stream, patience: self.patience, silence, is_let_go, permit }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that makes room when it ends.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    patience: Duration,
    /// Over when nothing was answered for too long.
    silence: Pin<Box<Sleep>>,
    /// Set by [`Visitor::let_go`].
    is_let_go: Arc<AtomicBool>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// What requests on this connection know of it.
    pub(super) fn visitor(&self, address: SocketAddr) -> Visitor {
        Visitor { address, is_let_go: Arc::clone(&self.is_let_go) }
    }

    /// Whether the time without an answer is over. Makes room once the connection was let go.
    fn is_too_silent(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_let_go.load(Ordering::Relaxed) {
            self.permit = None;
            return false;
        }
        self.silence.as_mut().poll(cx).is_ready()
    }
}

/// Whose connection a request came on.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) address: SocketAddr,
    is_let_go: Arc<AtomicBool>,
}

impl Visitor {
    /// Lifts the limits of this listener: the connection speaks something else than HTTP from now on,
    /// which has limits of its own.
    pub(super) fn let_go(&self) {
        self.is_let_go.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Visitor {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        stream.io().visitor(*stream.remote_addr())
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() && self.is_too_silent(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            let patience = self.patience;
            self.silence.as_mut().reset(Instant::now() + patience);
        } else if self.is_too_silent(cx) {
            // Who does not take its answers is silent too.
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ServerLimits {
        ServerLimits { max_http_connections: 1, ..ServerLimits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_ends() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, &limits());
        let _silent = TcpStream::connect(address).await.expect("connected");
        let (mut held, _) = listener.accept().await;
        held.write_all(b"hello").await.expect("written");
        let began = Instant::now();
        let error = held.read_u8().await.expect_err("it has waited long enough");
        assert_eq!(
            (error.kind(), began.elapsed() >= limits().http_patience),
            (io::ErrorKind::TimedOut, true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_take_its_answers_ends() {
        use tokio::io::AsyncWriteExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, &limits());
        let _deaf = TcpStream::connect(address).await.expect("connected");
        let (mut held, _) = listener.accept().await;
        let answers = vec![7; 64 << 20];
        let error = held.write_all(&answers).await.expect_err("nobody reads them");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_let_go_may_be_silent_and_takes_no_room() {
        use tokio::io::AsyncReadExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, &limits());
        let _silent = TcpStream::connect(address).await.expect("connected");
        let (mut held, from) = listener.accept().await;
        Visitor { address: from, is_let_go: Arc::clone(&held.is_let_go) }.let_go();
        let long = limits().http_patience * 10;
        assert!(tokio::time::timeout(long, held.read_u8()).await.is_err(), "it still waits");
        let _other = TcpStream::connect(address).await.expect("connected");
        listener.accept().await;
    }

    #[tokio::test]
    async fn one_more_than_allowed_waits_for_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, &limits());
        let _first = TcpStream::connect(address).await.expect("connected");
        let _second = TcpStream::connect(address).await.expect("connected");
        let (held, _) = listener.accept().await;
        tokio::select! {
            biased;
            _ = listener.accept() => panic!("accepted beyond the limit"),
            () = std::future::ready(()) => {}
        }
        drop(held);
        listener.accept().await;
    }
}
