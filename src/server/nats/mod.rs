//! The listeners for NATS clients: accept connections, over TCP and WebSocket, and bound how many there
//! are.
//!
//! What clients say is the session's part; here it is known who listens where, and who the server is.

mod clients;
mod connection;
mod secured;
mod tls;
mod upgrade;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::connection::Shared;
use crate::model::answer::{API_LEVEL, NATS_VERSION};
use crate::wire::nats::Info;

pub(super) use clients::{Client, Clients, Way};
pub(super) use secured::Secured;
pub(super) use tls::Tls;
pub use tls::{ClientCertificates, HandshakeFirst, NatsCertificate, NatsTls};
pub(super) use upgrade::{Gate, serve_websocket, upgrade};

use clients::Place;
use connection::{Connection, MAX_CONTROL_LINE};

/// How long accepting rests when the system has no more files, so that a full table costs no processor.
const REST: Duration = Duration::from_millis(100);

/// How long a client that is one too many may take to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Files that are left to everything else: 256 segments, as many HTTP connections, the journal, and some.
const OTHER_FILES: usize = 1024;

/// How many connections there may be.
fn most(shared: &Shared) -> usize {
    let files = claudebus_storage::disk::file_limit();
    shared.server_limits.max_nats_connections.min(files - OTHER_FILES.min(files / 2))
}

/// What every client is told first, but for who it is itself.
fn info(shared: &Shared, address: SocketAddr, tls: Option<&Tls>) -> Info {
    Info {
        server_id: server_id(&shared.welcome.server_id),
        server_name: shared.welcome.name.clone(),
        version: NATS_VERSION.to_owned(),
        host: address.ip().to_string(),
        port: address.port(),
        auth_required: shared.logins.must_be_presented(),
        tls_required: tls.is_some(),
        tls_verify: tls.is_some_and(Tls::verifies),
        max_payload: shared.limits.max_payload as u64,
        domain: shared.domain.as_deref().map(str::to_owned),
        api_lvl: API_LEVEL,
        ..Info::default()
    }
}

/// Longest line without a payload, in bytes.
pub(super) fn max_control_line() -> usize {
    MAX_CONTROL_LINE
}

/// A server's id in the form that NATS's have: `N` and 55 letters and digits of base 32.
pub(super) fn server_id(id: &str) -> String {
    let digits = id.bytes().map(|byte| char::from(byte.to_ascii_uppercase()));
    let base32 = digits.map(|digit| match digit {
        '0' => 'G',
        '1' => 'H',
        '8' => 'I',
        '9' => 'J',
        other => other,
    });
    std::iter::once('N').chain(base32.cycle().take(55)).collect()
}

/// Accepts connections until the server stops, and waits for those that are open.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<Arc<Tls>>) {
    let Ok(address) = listener.local_addr() else { return };
    let info = Arc::new(info(&shared, address, tls.as_deref()));
    let most = most(&shared);
    let mut stopping = shared.stopping.clone();
    let mut leaving = shared.leaving.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.changed() => break,
            _ = leaving.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => match Place::take(&shared, most, peer, Way::Tcp) {
                Some(place) => {
                    // Only delays small answers; a connection without it works as well.
                    let _ = stream.set_nodelay(true);
                    let connection = Connection::new(Arc::clone(&shared), &info, place);
                    connections.spawn(serve_one(connection, stream, tls.clone()));
                }
                None => _ = connections.spawn(turn_away(stream)),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a NATS connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
    // Whoever comes now is refused at once.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves a connection to its end.
async fn serve_one(mut connection: Box<Connection>, stream: TcpStream, tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else {
        let (reader, writer) = stream.into_split();
        return connection.run(reader, writer).await;
    };
    // In a box, so that connections without TLS do not make room for its handshake.
    if let Some(stream) = Box::pin(shake_hands(&tls, stream, &mut connection)).await {
        let (reader, writer) = tokio::io::split(stream);
        Box::pin(connection.run(reader, writer)).await;
    }
}

/// The handshake of TLS, after INFO unless it comes first.
async fn shake_hands(
    tls: &Tls,
    mut stream: TcpStream,
    connection: &mut Connection,
) -> Option<TlsStream<TcpStream>> {
    let limit = tls.timeout().unwrap_or(connection.login_timeout());
    let waits = !begins(&stream, tls.first()).await;
    let work = async {
        if waits {
            for chunk in connection.take_greeting() {
                stream.write_all(&chunk).await?;
            }
        }
        tls.acceptor().accept(stream).await
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            connection.set_certified(certificate.map(tls::names).unwrap_or_default());
            Some(stream)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with a NATS client failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake with a NATS client took too long");
            None
        }
    }
}

/// Whether the client begins, instead of waiting for INFO. Takes no longer than it may.
async fn begins(stream: &TcpStream, first: HandshakeFirst) -> bool {
    match first {
        HandshakeFirst::Never => false,
        HandshakeFirst::Always => true,
        // What it sends is nothing but the handshake, or the handshake fails.
        HandshakeFirst::Within(time) => {
            tokio::time::timeout(time, stream.peek(&mut [0])).await.is_ok()
        }
    }
}

/// Tells a client that there are too many.
async fn turn_away(mut stream: TcpStream) {
    let text = b"-ERR 'maximum connections exceeded'\r\n";
    // One that does not listen is not waited for.
    let _ = tokio::time::timeout(FAREWELL, stream.write_all(text)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_those_of_nats() {
        let id = server_id("0189abcdef0123456789abcdef012345");
        assert_eq!(id.len(), 56);
        assert!(id.starts_with('N'));
        assert!(id.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7')), "{id}");
    }
}
