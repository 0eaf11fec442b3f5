//! `/subsz`: how many subscriptions NATS clients have.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::json;

use super::{Answer, Given, Site};
use crate::model::time::Timestamp;

/// Answers with their number. They are not listed, and there is no cache to tell of.
pub(super) async fn subsz(State(site): State<Site>, Query(given): Query<Given>) -> Answer {
    let (offset, limit) = given.page()?;
    Ok(Json(json!({
        "server_id": site.server_id(),
        "now": Timestamp(site.shared.clock.now().wall),
        "num_subscriptions": site.shared.nats_clients.subscriptions(),
        "total": 0,
        "offset": offset,
        "limit": limit,
    })))
}
