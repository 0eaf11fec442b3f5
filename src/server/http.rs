//! The HTTP listener: health, counters, what NATS's monitoring tools read, and NATS over WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use claudebus_storage::Pressure;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::broker_thread::Input;
use super::connection::Shared;
use super::hosts::Hosts;
use super::http_listener::{Bounded, Visitor};
use super::monitor::{self, Given, Site};
use super::nats;

/// How long the broker may take to answer before the server counts as ill.
const PROBE: Duration = Duration::from_secs(2);

/// Where NATS clients connect.
const NATS_PATH: &str = "/nats";

/// Serves until the server stops. NATS clients are served if there is a listener for them elsewhere.
pub(super) async fn serve(listener: TcpListener, site: Site, hosts: Arc<Hosts>) {
    let shared = Arc::clone(&site.shared);
    let mut stopping = shared.stopping.clone();
    let listener = Bounded::new(listener, &shared.server_limits);
    let mut app = Router::new()
        .route("/", get(index))
        .route("/healthz", get(health))
        .route("/stats", get(stats))
        .merge(monitor::routes())
        .with_state(site.clone());
    if let Some(address) = site.addresses.nats {
        let gate = nats::Gate::new(shared, address, Arc::clone(&hosts), None);
        app = app.route(NATS_PATH, get(nats::upgrade).with_state(gate));
    }
    let app = app.layer(middleware::from_fn_with_state(hosts, check_host));
    let app = app.into_make_service_with_connect_info::<Visitor>();
    let stop = async move {
        // Ends when told, and when the server is gone.
        let _ = stopping.changed().await;
    };
    // What it holds is held by the listener's own parts, which end with it.
    drop(site);
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the HTTP listener failed");
    }
}

/// Refuses requests under host names that are not ours: a web page could otherwise reach a server
/// on its visitor's machine by having its own name resolve to 127.0.0.1.
async fn check_host(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    if hosts.is_for_us(request.headers()) {
        return next.run(request).await;
    }
    let text = "this host name is not configured; use localhost, or start the server with it\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

async fn index() -> &'static str {
    "claudebus\n\n\
     /healthz  ok, or 503 with the reason; as JSON with Accept: application/json\n\
     /stats    counters, as JSON\n\
     /nats     NATS over WebSocket, if there is a listener for NATS clients\n\n\
     As nats-server has them, as JSON:\n\
     /varz     the server\n\
     /connz    connections of NATS clients\n\
     /subsz    their subscriptions\n\
     /jsz      streams and consumers\n"
}

/// Whether the server is well. Answers `ok`, or the reason why it is not with 503. Who asks as NATS's tools
/// do, with one of their options or by `Accept: application/json`, is answered as nats-server does:
/// `{"status":"ok"}`.
async fn health(
    State(site): State<Site>,
    headers: HeaderMap,
    Query(given): Query<Given>,
) -> Response {
    let illness = illness(&site.shared).await;
    if monitor::wants_json(&headers, &given) {
        return monitor::health(&site, &given, illness).await;
    }
    match illness {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// What is wrong with the server, if anything.
async fn illness(shared: &Shared) -> Option<&'static str> {
    if *shared.stopping.borrow() {
        return Some("the server is shutting down");
    }
    let (answer, answered) = oneshot::channel();
    let probe = async {
        shared.broker.send(Input::Probe(answer)).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(PROBE, probe).await {
        Ok(Some(())) => match *shared.broker.pressure.borrow() {
            Pressure::Full => {
                Some("storage is behind: publishers are held back until it has caught up")
            }
            Pressure::NoSpace => {
                Some("the disk is full: publishing is refused until there is room again")
            }
            Pressure::Normal | Pressure::High => None,
        },
        Ok(None) => Some("the broker has stopped"),
        Err(_) => Some("the broker does not answer"),
    }
}

async fn stats(State(site): State<Site>) -> Json<Value> {
    let mut stats = site.shared.counters.to_json();
    if let Value::Object(stats) = &mut stats {
        let welcome = &site.shared.welcome;
        stats.insert("server_id".to_owned(), json!(welcome.server_id));
        stats.insert("name".to_owned(), json!(welcome.name));
        stats.insert("version".to_owned(), json!(welcome.version));
        stats.insert("durability".to_owned(), json!(welcome.durability));
        stats.insert("uptime_seconds".to_owned(), json!(site.shared.clock.uptime().as_secs()));
    }
    Json(stats)
}
