//! What NATS's monitoring tools read over HTTP: `/varz`, `/connz`, `/subsz`, `/jsz` and `/healthz`.
//!
//! Fields have nats-server's names and meanings. What this server does not know is left out: it has no
//! clusters, accounts or subscription cache to tell of. Nothing here changes anything, and nothing secret
//! is told.

mod connz;
mod given;
mod health;
mod inquiry;
mod jsz;
mod subsz;
mod varz;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use tokio::sync::Mutex;

use super::connection::Shared;
pub(super) use given::Given;
pub(super) use health::{health, wants_json};
use inquiry::AskError;

/// The one account that there is, as tools call it.
const ACCOUNT: &str = "$G";

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) nats: Option<SocketAddr>,
    pub(super) websocket: Option<SocketAddr>,
    pub(super) http: SocketAddr,
    /// Whether that of NATS is secured.
    pub(super) nats_tls: bool,
    /// Whether clients must show certificates there.
    pub(super) nats_verify: bool,
    /// Whether that of WebSocket is secured.
    pub(super) websocket_tls: bool,
}

/// What is told of.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    pub(super) addresses: Addresses,
    /// Held while streams are listed: one list at a time, so that lists keep the broker from nothing else.
    listing: Arc<Mutex<()>>,
}

impl Site {
    pub(super) fn new(shared: Arc<Shared>, addresses: Addresses) -> Self {
        Self { shared, addresses, listing: Arc::default() }
    }

    /// The server's id, as NATS clients are told it.
    fn server_id(&self) -> String {
        super::nats::server_id(&self.shared.welcome.server_id)
    }
}

/// Where they are found, but for `/healthz`.
pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/varz", get(varz::varz))
        .route("/connz", get(connz::connz))
        .route("/subsz", get(subsz::subsz))
        .route("/subscriptionsz", get(subsz::subsz))
        .route("/jsz", get(jsz::jsz))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// The broker did not say.
    #[error(transparent)]
    Broker(#[from] AskError),
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Option(_) => StatusCode::BAD_REQUEST,
            Self::Broker(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{self}\n")).into_response()
    }
}

type Answer = Result<Json<Value>, Unanswered>;

/// A duration as nats-server shows it: whole seconds, from `7s` to `1y2d3h4m5s`.
fn uptime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    let last = format!("{}s", seconds % 60);
    match (years, days, hours, minutes) {
        (0, 0, 0, 0) => last,
        (0, 0, 0, _) => format!("{minutes}m{last}"),
        (0, 0, _, _) => format!("{hours}h{}m{last}", minutes % 60),
        (0, _, _, _) => format!("{days}d{}h{}m{last}", hours % 24, minutes % 60),
        _ => format!("{years}y{}d{}h{}m{last}", days % 365, hours % 24, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_show_what_is_not_zero_and_all_below() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_661, "1h1m1s"),
            (86_400, "1d0h0m0s"),
            (366 * 86_400 + 7, "1y1d0h0m7s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }
}
