//! The HTTP listener: health and counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use claudebus_storage::Pressure;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::broker_thread::Input;
use super::clock::Clock;
use super::connection::Shared;
use super::error::StartError;
use super::http_listener::Bounded;

/// How long the broker may take to answer before the server counts as ill.
const PROBE: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Monitor {
    shared: Arc<Shared>,
    clock: Clock,
    /// Host names that are answered, in lower case and without port.
    hosts: Arc<[String]>,
}

/// Binds the listener.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind {
        what: "HTTP",
        address,
        source,
    })
}

/// Serves until the server stops.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    clock: Clock,
    extra_hosts: Vec<String>,
) {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
    if let Ok(address) = listener.local_addr() {
        hosts.push(match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
    }
    hosts.extend(extra_hosts.into_iter().map(|host| host.to_ascii_lowercase()));
    let mut stopping = shared.stopping.clone();
    let monitor = Monitor { shared, clock, hosts: hosts.into() };
    // Most open files are for data.
    let files = claudebus_storage::disk::file_limit();
    let limit = monitor.shared.server_limits.max_http_connections.min(files / 4).max(1);
    let listener = Bounded::new(listener, limit);
    let app = Router::new()
        .route("/", get(index))
        .route("/healthz", get(health))
        .route("/stats", get(stats))
        .layer(middleware::from_fn_with_state(monitor.clone(), check_host))
        .with_state(monitor);
    let stop = async move {
        // Ends when told, and when the server is gone.
        let _ = stopping.changed().await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the HTTP listener failed");
    }
}

/// Refuses requests under host names that are not ours: a web page could otherwise reach a server
/// on its visitor's machine by having its own name resolve to 127.0.0.1.
async fn check_host(State(monitor): State<Monitor>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| monitor.hosts.iter().any(|known| *known == without_port(host))) {
        return next.run(request).await;
    }
    let text = "this host name is not configured; use localhost, or start the server with it\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

fn without_port(host: &str) -> String {
    let end = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => colon,
        _ => host.len(),
    };
    host.get(..end).unwrap_or(host).to_ascii_lowercase()
}

async fn index() -> &'static str {
    "claudebus\n\n/healthz  ok, or 503 with the reason\n/stats    counters, as JSON\n"
}

async fn health(State(monitor): State<Monitor>) -> Response {
    match illness(&monitor.shared).await {
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

async fn stats(State(monitor): State<Monitor>) -> Json<Value> {
    let mut stats = monitor.shared.counters.to_json();
    if let Value::Object(stats) = &mut stats {
        let welcome = &monitor.shared.welcome;
        stats.insert("server_id".to_owned(), json!(welcome.server_id));
        stats.insert("name".to_owned(), json!(welcome.name));
        stats.insert("version".to_owned(), json!(welcome.version));
        stats.insert("durability".to_owned(), json!(welcome.durability));
        stats.insert("uptime_seconds".to_owned(), json!(monitor.clock.uptime().as_secs()));
    }
    Json(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_no_part_of_a_name() {
        for (host, name) in [
            ("localhost:8222", "localhost"),
            ("LOCALHOST", "localhost"),
            ("[::1]:8222", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
