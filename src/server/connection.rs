//! One connection: its first stream says hello, then it opens further ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::broker_thread::BrokerHandle;
use super::clock::Clock;
use super::counters::{Counters, Gauge};
use super::limits::ServerLimits;
use super::login::Logins;
use super::nats::Clients;
use super::stream::{Over, Stream};
use crate::client::transport::{Reader, Writer, split};
use crate::model::limits::Limits;
use crate::model::request::{ConnectionId, SessionId};
use crate::wire::native::{ErrorCode, Welcome};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) broker: BrokerHandle,
    pub(super) limits: Arc<Limits>,
    pub(super) server_limits: ServerLimits,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    /// Connections of NATS clients.
    pub(super) nats_clients: Arc<Clients>,
    pub(super) logins: Logins,
    /// What every client is told.
    pub(super) welcome: Welcome,
    /// The domain of the streams, for NATS clients.
    pub(super) domain: Option<Arc<str>>,
    pub(super) stopping: watch::Receiver<bool>,
    /// The server takes no new connections, and is going to stop.
    pub(super) leaving: watch::Receiver<bool>,
    pub(super) sessions: AtomicU64,
    pub(super) connections: AtomicU64,
    /// Held by every connection, so that the last to end can be waited for.
    pub(super) alive: mpsc::Sender<()>,
}

impl Shared {
    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where a connection's streams come from.
#[derive(Debug)]
pub(super) enum Peer {
    /// The network.
    Quic(quinn::Connection),
    /// This process.
    Memory(mpsc::Receiver<DuplexStream>),
}

impl Peer {
    /// The next stream; none once the connection is over.
    async fn accept(&mut self) -> Option<(Reader, Writer)> {
        match self {
            Self::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some((Reader::Quic(recv), Writer::Quic(send)))
            }
            Self::Memory(streams) => streams.recv().await.map(split),
        }
    }

    fn close(&mut self, code: ErrorCode, reason: &str) {
        match self {
            Self::Quic(connection) => {
                connection.close(quinn::VarInt::from_u32(code.number()), reason.as_bytes());
            }
            Self::Memory(streams) => streams.close(),
        }
    }
}

/// What all streams of a connection have in common.
#[derive(Clone, Copy, Debug)]
struct Who {
    id: ConnectionId,
    /// Whether the peer needs no secret.
    trusted: bool,
}

/// Serves a connection to its end. Peers within the process are trusted.
pub(super) async fn serve(shared: Arc<Shared>, mut peer: Peer) {
    let _alive = shared.alive.clone();
    let _gauge = Gauge::new(&shared.counters, |counters| &counters.connections);
    let who = Who { id: shared.next_connection(), trusted: matches!(peer, Peer::Memory(_)) };
    let mut streams = JoinSet::new();
    let (code, reason) = match greet(&shared, &mut peer, who, &mut streams).await {
        Ok(()) => serve_streams(&shared, &mut peer, who, &mut streams).await,
        Err(over) => over,
    };
    peer.close(code, &reason);
    streams.shutdown().await;
}

type Closing = (ErrorCode, String);

/// Waits for the first stream and its HELLO.
async fn greet(
    shared: &Arc<Shared>,
    peer: &mut Peer,
    who: Who,
    streams: &mut JoinSet<Over>,
) -> Result<(), Closing> {
    let (told, mut welcomed) = oneshot::channel();
    let limit = tokio::time::sleep(shared.server_limits.hello_timeout);
    tokio::pin!(limit);
    let late = || (ErrorCode::HelloTimeout, "no HELLO came in time".to_owned());
    let (reader, writer) = tokio::select! {
        stream = peer.accept() => stream.ok_or((ErrorCode::Done, String::new()))?,
        () = &mut limit => return Err(late()),
    };
    let first = Stream::first(Arc::clone(shared), who.id, who.trusted, told);
    streams.spawn(first.run(reader, writer));
    tokio::select! {
        Ok(()) = &mut welcomed => Ok(()),
        Some(over) = streams.join_next() => {
            Err(closing(over).unwrap_or((ErrorCode::Done, String::new())))
        }
        () = &mut limit => Err(late()),
    }
}

/// Serves streams until the connection is over, and says how to close it.
async fn serve_streams(
    shared: &Arc<Shared>,
    peer: &mut Peer,
    who: Who,
    streams: &mut JoinSet<Over>,
) -> Closing {
    let mut stopping = shared.stopping.clone();
    let mut accepting = true;
    loop {
        tokio::select! {
            stream = peer.accept(), if accepting => match stream {
                Some((reader, writer)) => {
                    let stream = Stream::further(Arc::clone(shared), who.id, who.trusted);
                    streams.spawn(stream.run(reader, writer));
                }
                None if streams.is_empty() => return (ErrorCode::Done, String::new()),
                // What the client has sent before it went is still taken.
                None => accepting = false,
            },
            Some(over) = streams.join_next() => match closing(over) {
                // The other streams end in their own time.
                Some((ErrorCode::Shutdown, _)) if !streams.is_empty() => accepting = false,
                Some(closing) => return closing,
                None if !accepting && streams.is_empty() => return end(shared),
                None => {}
            },
            _ = stopping.changed(), if accepting => {
                accepting = false;
                if streams.is_empty() {
                    return end(shared);
                }
            }
        }
    }
}

/// How a connection without streams is closed.
fn end(shared: &Shared) -> Closing {
    if *shared.stopping.borrow() {
        (ErrorCode::Shutdown, "the server is shutting down".to_owned())
    } else {
        (ErrorCode::Done, String::new())
    }
}

/// Whether, and how, a stream's end closes its connection.
fn closing(over: Result<Over, tokio::task::JoinError>) -> Option<Closing> {
    match over {
        Ok(Over::Stream) => None,
        Ok(Over::Broken(error)) => Some((error.code(), error.to_string())),
        Ok(Over::NotAdmitted) => Some((ErrorCode::Refused, "not admitted".to_owned())),
        Ok(Over::Stopping) => Some((ErrorCode::Shutdown, "the server is shutting down".to_owned())),
        Err(error) => {
            tracing::error!(%error, "a stream's task failed");
            Some((ErrorCode::Internal, "the server failed".to_owned()))
        }
    }
}
