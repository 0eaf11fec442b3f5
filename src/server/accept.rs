//! Accepts connections, and bounds how many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::connection::{Peer, Shared, serve};
use super::counters::add;

/// Time for a handshake. 10 s: several losses on a bad network.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections until the endpoint is closed or the server stops.
pub(super) async fn accept(shared: Arc<Shared>, endpoint: quinn::Endpoint) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    let mut stopping = shared.stopping.clone();
    let leaving = shared.leaving.clone();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stopping.changed() => return,
        };
        let Some(incoming) = incoming else { return };
        let limits = &shared.server_limits;
        let open = shared.counters.connections.load(Ordering::Relaxed);
        let waiting = handshakes.load(Ordering::Relaxed);
        // Each handshake may become a connection.
        let all = open.saturating_add(waiting as u64);
        let is_full = all >= limits.max_connections as u64 || waiting >= limits.max_handshakes;
        if is_full || *leaving.borrow() {
            add(&shared.counters.connections_refused, 1);
            incoming.refuse();
        } else if waiting >= limits.retry_above && incoming.may_retry() {
            // Fails only for connections that have been through it.
            let _ = incoming.retry();
        } else {
            handshakes.fetch_add(1, Ordering::Relaxed);
            let (shared, handshakes) = (Arc::clone(&shared), Arc::clone(&handshakes));
            tokio::spawn(async move {
                let connection = shake_hands(incoming).await;
                handshakes.fetch_sub(1, Ordering::Relaxed);
                if let Some(connection) = connection {
                    add(&shared.counters.connections_total, 1);
                    serve(shared, Peer::Quic(connection)).await;
                }
            });
        }
    }
}

async fn shake_hands(incoming: quinn::Incoming) -> Option<quinn::Connection> {
    let from = incoming.remote_address();
    let connecting = incoming.accept().ok()?;
    match tokio::time::timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "a handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%from, "a handshake took too long");
            None
        }
    }
}
