//! A TCP listener that holds so many connections at once and no more, and none that says nothing.
//!
//! A connection that becomes a WebSocket is let go: other limits bound those. Only how much it may send
//! before its client is known is bounded here, because a WebSocket collects whole messages.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        let terms = Arc::default();
        (Held { stream, patience: self.patience, silence, terms, permit }, from)
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
    terms: Arc<Terms>,
    permit: Option<OwnedSemaphorePermit>,
}

/// What holds for a connection, whatever it has become.
#[derive(Debug)]
struct Terms {
    /// Set by [`Visitor::let_go`].
    is_let_go: AtomicBool,
    /// Bytes that may still be received; [`NO_END`] if that is not bounded.
    left: AtomicUsize,
}

/// Any number of bytes.
const NO_END: usize = usize::MAX;

impl Default for Terms {
    fn default() -> Self {
        Self { is_let_go: AtomicBool::new(false), left: AtomicUsize::new(NO_END) }
    }
}

impl Held {
    /// What requests on this connection know of it.
    pub(super) fn visitor(&self, address: SocketAddr) -> Visitor {
        Visitor { address, terms: Arc::clone(&self.terms) }
    }

    /// Whether the time without an answer is over. Makes room once the connection was let go.
    fn is_too_silent(&mut self, cx: &mut Context<'_>) -> bool {
        if self.terms.is_let_go.load(Ordering::Relaxed) {
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
    terms: Arc<Terms>,
}

impl Visitor {
    /// Lifts the limits of this listener: the connection speaks something else than HTTP from now on,
    /// which has limits of its own.
    pub(super) fn let_go(&self) {
        self.terms.is_let_go.store(true, Ordering::Relaxed);
    }

    /// From now on no more than so many bytes are received; what comes beyond them ends the connection.
    pub(super) fn bound(&self, bytes: usize) {
        self.terms.left.store(bytes, Ordering::Relaxed);
    }

    /// Lifts the bound on bytes.
    pub(super) fn unbind(&self) {
        self.bound(NO_END);
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
        let left = self.terms.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if left != NO_END {
            // One read more than allowed does no harm.
            let count = buffer.filled().len() - before;
            self.terms.left.store(left.saturating_sub(count), Ordering::Relaxed);
        }
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
        Visitor { address: from, terms: Arc::clone(&held.terms) }.let_go();
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
