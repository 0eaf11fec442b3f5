//! A listener for HTTP inside TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::super::http_listener::{Bounded, Held, Visitor};
use super::tls::Tls;

/// The listener. A handshake keeps nobody waiting but its own client; how many there are at once is bounded
/// by the connections that the listener inside accepts.
pub(in crate::server) struct Secured {
    inner: Bounded,
    tls: Arc<Tls>,
    limit: Duration,
    handshakes: JoinSet<Option<(TlsStream<Held>, SocketAddr)>>,
}

impl Secured {
    /// Handshakes take no longer than `limit`, unless `tls` has a limit of its own.
    pub(super) fn new(inner: Bounded, tls: Arc<Tls>, limit: Duration) -> Self {
        let limit = tls.timeout().unwrap_or(limit);
        Self { inner, tls, limit, handshakes: JoinSet::new() }
    }

    fn shake_hands(&mut self, stream: Held, from: SocketAddr) {
        let accept = self.tls.acceptor().accept(stream);
        let limit = self.limit;
        self.handshakes.spawn(async move {
            match tokio::time::timeout(limit, accept).await {
                Ok(Ok(stream)) => Some((stream, from)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake for a WebSocket failed");
                    None
                }
                Err(_) => {
                    tracing::debug!("a TLS handshake for a WebSocket took too long");
                    None
                }
            }
        });
    }
}

impl Listener for Secured {
    type Io = TlsStream<Held>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
                (stream, from) = self.inner.accept() => self.shake_hands(stream, from),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl Connected<IncomingStream<'_, Secured>> for Visitor {
    fn connect_info(stream: IncomingStream<'_, Secured>) -> Self {
        stream.io().get_ref().0.visitor(*stream.remote_addr())
    }
}
