//! A TCP listener that holds so many connections at once and no more, and none that says nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// A connection ends when it is not answered for so long: it asks for nothing, or too slowly. 15 s:
/// longer than anyone takes to send a request, shorter than a supervisor waits for a restart.
const PATIENCE: Duration = Duration::from_secs(15);

/// The listener.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Bounded {
    /// Accepts from `listener` while fewer than `limit` connections are open.
    pub(super) fn new(listener: TcpListener, limit: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(limit)) }
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        // As axum does it: tries again after errors that pass, such as too many open files.
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let silence = Box::pin(tokio::time::sleep(PATIENCE));
        (Held { stream, silence, _permit: permit }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that makes room when it ends.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    /// Over when nothing was answered for too long.
    silence: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() && self.silence.as_mut().poll(cx).is_ready() {
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
            self.silence.as_mut().reset(Instant::now() + PATIENCE);
        } else if self.silence.as_mut().poll(cx).is_ready() {
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

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_ends() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, 1);
        let _silent = TcpStream::connect(address).await.expect("connected");
        let (mut held, _) = listener.accept().await;
        held.write_all(b"hello").await.expect("written");
        let began = Instant::now();
        let error = held.read_u8().await.expect_err("it has waited long enough");
        assert_eq!((error.kind(), began.elapsed() >= PATIENCE), (io::ErrorKind::TimedOut, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_take_its_answers_ends() {
        use tokio::io::AsyncWriteExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, 1);
        let _deaf = TcpStream::connect(address).await.expect("connected");
        let (mut held, _) = listener.accept().await;
        let answers = vec![7; 64 << 20];
        let error = held.write_all(&answers).await.expect_err("nobody reads them");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_more_than_allowed_waits_for_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = Bounded::new(listener, 1);
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
