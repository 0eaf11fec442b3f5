//! How an HTTP request becomes the connection of a NATS client over WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::super::connection::Shared;
use super::super::hosts::Hosts;
use super::super::http_listener::{Bounded, Visitor};
use super::clients::{Place, Way};
use super::connection::Connection;
use super::websocket::{ByteStream, bounded};
use super::{Secured, Tls, info, most};
use crate::wire::nats::Info;

/// Bytes that a client may send before it has logged in. 16 KiB: a CONNECT of 4 KiB, and what clients send
/// with it. A WebSocket keeps what it has of a message, and one may have megabytes.
const MOST_BEFORE_LOGIN: usize = 16 << 10;

/// What lets clients in over WebSocket.
#[derive(Clone)]
pub(in crate::server) struct Gate {
    shared: Arc<Shared>,
    /// What they are told first.
    info: Arc<Info>,
    hosts: Arc<Hosts>,
    most: usize,
}

impl Gate {
    /// `address` is the one that INFO tells, `hosts` are those whose web pages may connect, and `tls` is
    /// what is around the WebSocket, of which INFO tells as nats-server's does.
    pub(in crate::server) fn new(
        shared: Arc<Shared>,
        address: SocketAddr,
        hosts: Arc<Hosts>,
        tls: Option<&Tls>,
    ) -> Self {
        let told = Info { tls_available: tls.is_some(), ..info(&shared, address, tls) };
        let (info, most) = (Arc::new(told), most(&shared));
        Self { shared, info, hosts, most }
    }
}

/// Answers the request for a WebSocket, and serves the connection that follows. 403 for web pages from
/// elsewhere, 503 while there are too many connections or the server is about to stop, and what HTTP says of requests that are for
/// something else.
pub(in crate::server) async fn upgrade(
    State(gate): State<Gate>,
    ConnectInfo(visitor): ConnectInfo<Visitor>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !gate.hosts.allow_origin(&headers) {
        let text = "web pages from this host may not connect; add it to the server's http_hosts\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let Gate { shared, info, most, .. } = gate;
    if *shared.leaving.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is about to stop\n").into_response();
    }
    let Some(place) = Place::take(&shared, most, visitor.address, Way::WebSocket) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "maximum connections exceeded\n").into_response();
    };
    let upgrade = bounded(upgrade, shared.limits.max_payload);
    let stopping = shared.stopping.clone();
    let is_open = shared.logins.is_open();
    let mut connection = Connection::new(shared, &info, place);
    upgrade.on_upgrade(move |socket| async move {
        visitor.let_go();
        if !is_open {
            visitor.bound(MOST_BEFORE_LOGIN);
            connection.set_visitor(visitor);
        }
        let (reader, writer) = tokio::io::split(ByteStream::new(socket));
        tokio::select! {
            () = connection.run(reader, writer) => {}
            () = cut_off(stopping) => {}
        }
    })
}

/// Waits until the server is gone without having stopped. When it stops, connections learn of it from the
/// broker.
async fn cut_off(mut stopping: watch::Receiver<bool>) {
    while stopping.changed().await.is_ok() {}
}

/// Serves NATS clients over WebSocket, at every path, until the server stops.
pub(in crate::server) async fn serve_websocket(
    listener: TcpListener,
    gate: Gate,
    tls: Option<Arc<Tls>>,
) {
    let (mut stopping, mut leaving) = (gate.shared.stopping.clone(), gate.shared.leaving.clone());
    let listener = Bounded::new(listener, &gate.shared.server_limits);
    let limit = gate.shared.server_limits.login_timeout;
    let app = Router::new().fallback(upgrade).with_state(gate);
    let app = app.into_make_service_with_connect_info::<Visitor>();
    let stop = async move {
        // Ends when told, and when the server is gone.
        tokio::select! {
            _ = stopping.changed() => {}
            _ = leaving.changed() => {}
        }
    };
    let served = match tls {
        Some(tls) => {
            let listener = Secured::new(listener, tls, limit);
            axum::serve(listener, app).with_graceful_shutdown(stop).await
        }
        None => axum::serve(listener, app).with_graceful_shutdown(stop).await,
    };
    if let Err(error) = served {
        tracing::error!(%error, "the WebSocket listener failed");
    }
}
