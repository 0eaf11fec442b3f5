//! `/connz`: the connections of NATS clients.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::{Answer, Given, Site, Unanswered, uptime};
use crate::model::time::{Now, Timestamp};
use crate::server::nats::{Client, Way};

/// Answers with the open connections, some of them with `offset` and `limit`, one with `cid`, in the order
/// that `sort` names. Those that are closed are not remembered.
pub(super) async fn connz(State(site): State<Site>, Query(given): Query<Given>) -> Answer {
    let (mut offset, mut limit) = given.page()?;
    let mut clients = match given.text("state") {
        "" | "open" | "any" | "all" => site.shared.nats_clients.open(),
        "closed" => Vec::new(),
        other => return Err(Unanswered::Option(format!("state={other} is no state"))),
    };
    sort(&mut clients, given.text("sort"))?;
    let cid = given.number("cid")? as u64;
    if cid > 0 {
        clients.retain(|client| client.id.0 == cid);
        (offset, limit) = (0, 1);
    }
    let total = clients.len();
    let now = site.shared.clock.now();
    let shown = clients.iter().skip(offset).take(limit);
    let connections: Vec<_> = shown.map(|client| connection(client, now)).collect();
    Ok(Json(json!({
        "server_id": site.server_id(),
        "now": Timestamp(now.wall),
        "num_connections": connections.len(),
        "total": total,
        "offset": offset,
        "limit": limit,
        "connections": connections,
    })))
}

/// Numbers that clients are sorted by: least first.
type Key = fn(&Client) -> u128;

/// Sorts as nats-server does: counts from the largest, times from the oldest.
fn sort(clients: &mut [Arc<Client>], by: &str) -> Result<(), Unanswered> {
    let last = |client: &Client| (client.opened.monotonic + client.last()).as_nanos();
    let (is_descending, key): (bool, Key) = match by {
        "" | "cid" | "start" => (false, |client| client.id.0.into()),
        "uptime" => (false, |client| client.opened.monotonic.as_nanos()),
        "subs" => (true, |client| client.subscriptions().into()),
        "pending" => (true, |client| client.pending().into()),
        "msgs_to" => (true, |client| client.traffic().out_msgs.into()),
        "msgs_from" => (true, |client| client.traffic().in_msgs.into()),
        "bytes_to" => (true, |client| client.traffic().out_bytes.into()),
        "bytes_from" => (true, |client| client.traffic().in_bytes.into()),
        "last" => (true, last),
        "idle" => (false, last),
        other => return Err(Unanswered::Option(format!("invalid sorting option: {other}"))),
    };
    if is_descending {
        clients.sort_by_cached_key(|client| Reverse(key(client)));
    } else {
        clients.sort_by_cached_key(|client| key(client));
    }
    Ok(())
}

fn connection(client: &Client, now: Now) -> Value {
    let last = client.last();
    let since = |moment: Duration| now.monotonic.saturating_sub(moment);
    let after = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
    let traffic = client.traffic();
    let mut connection = json!({
        "cid": client.id.0,
        "kind": "Client",
        "type": match client.way {
            Way::Tcp => "nats",
            Way::WebSocket => "websocket",
        },
        "ip": client.address.ip().to_string(),
        "port": client.address.port(),
        "start": Timestamp(client.opened.wall),
        "last_activity": Timestamp(client.opened.wall.saturating_add(after)),
        "uptime": uptime(since(client.opened.monotonic)),
        "idle": uptime(since(client.opened.monotonic + last)),
        "pending_bytes": client.pending(),
        "in_msgs": traffic.in_msgs,
        "out_msgs": traffic.out_msgs,
        "in_bytes": traffic.in_bytes,
        "out_bytes": traffic.out_bytes,
        "subscriptions": client.subscriptions(),
    });
    let who = client.who();
    if let Value::Object(connection) = &mut connection {
        for (field, text) in [("name", who.name), ("lang", who.lang), ("version", who.version)] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                connection.insert(field.to_owned(), text.into());
            }
        }
    }
    connection
}
