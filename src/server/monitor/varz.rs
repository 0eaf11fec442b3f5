//! `/varz`: the server itself.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::inquiry::Inquiry;
use super::{Answer, Site, uptime};
use crate::model::answer::NATS_VERSION;
use crate::model::time::Timestamp;
use crate::server::nats;
use crate::session::nats::MAX_PINGS;

/// Answers with the settings in force and with what was counted. The counts of messages and bytes are
/// those of NATS clients.
pub(super) async fn varz(State(site): State<Site>) -> Answer {
    let mut inquiry = Inquiry::open(&site.shared).await?;
    let account = inquiry.account().await?;
    let mut varz = settings(&site);
    counts(&site, &mut varz);
    if let Some(memory) = memory().await {
        varz.insert("mem".to_owned(), memory.into());
    }
    let field = |name: &str| account.get(name).cloned().unwrap_or_default();
    let stats = json!({
        "memory": field("memory"), "storage": field("storage"),
        "reserved_memory": field("reserved_memory"), "reserved_storage": field("reserved_storage"),
        "accounts": 1, "ha_assets": 0, "api": field("api"),
    });
    let config = super::jsz::config(&site, &account);
    varz.insert("jetstream".to_owned(), json!({ "config": config, "stats": stats }));
    Ok(Json(Value::Object(varz)))
}

fn settings(site: &Site) -> Map<String, Value> {
    let shared = &site.shared;
    let (limits, server_limits) = (&shared.limits, &shared.server_limits);
    let none = json!({});
    let mut varz = json!({
        "server_id": site.server_id(),
        "server_name": shared.welcome.name,
        "version": NATS_VERSION,
        "proto": 1,
        "max_connections": server_limits.max_nats_connections,
        "ping_interval": nanos(server_limits.ping_interval),
        "ping_max": MAX_PINGS,
        "http_host": site.addresses.http.ip().to_string(),
        "http_port": site.addresses.http.port(),
        "http_base_path": "",
        "https_port": 0,
        "auth_timeout": server_limits.login_timeout.as_secs_f64(),
        "max_control_line": nats::max_control_line(),
        "max_payload": limits.max_payload,
        "max_pending": limits.max_pending_bytes,
        "write_deadline": nanos(server_limits.write_timeout),
        "cluster": none, "gateway": none, "leaf": none, "mqtt": none, "websocket": none,
    });
    if let Value::Object(varz) = &mut varz {
        if let Some(address) = site.addresses.nats {
            varz.insert("host".to_owned(), address.ip().to_string().into());
            varz.insert("port".to_owned(), address.port().into());
        }
        if let Some(address) = site.addresses.websocket {
            let mut websocket = json!({ "host": address.ip().to_string(), "port": address.port() });
            if let (false, Some(fields)) = (site.addresses.websocket_tls, websocket.as_object_mut())
            {
                fields.insert("no_tls".to_owned(), true.into());
            }
            varz.insert("websocket".to_owned(), websocket);
        }
        for (name, is_so) in
            [("tls_required", site.addresses.nats_tls), ("tls_verify", site.addresses.nats_verify)]
        {
            if is_so {
                varz.insert(name.to_owned(), true.into());
            }
        }
        if !shared.logins.is_open() {
            varz.insert("auth_required".to_owned(), true.into());
        }
        if let Ok(cores) = std::thread::available_parallelism() {
            varz.insert("cores".to_owned(), cores.get().into());
        }
    }
    match varz {
        Value::Object(varz) => varz,
        _ => Map::new(),
    }
}

fn counts(site: &Site, varz: &mut Map<String, Value>) {
    let (shared, clients) = (&site.shared, &site.shared.nats_clients);
    let now = shared.clock.now();
    let up = shared.clock.uptime();
    let start = Timestamp(now.wall.saturating_sub(nanos(up)));
    let traffic = clients.traffic();
    let too_slow = shared.counters.sessions_too_slow.load(std::sync::atomic::Ordering::Relaxed);
    let counts = json!({
        "start": start,
        "config_load_time": start,
        "now": Timestamp(now.wall),
        "uptime": uptime(up),
        "connections": clients.open().len(),
        "total_connections": clients.total(),
        "routes": 0,
        "remotes": 0,
        "leafnodes": 0,
        "in_msgs": traffic.in_msgs,
        "in_bytes": traffic.in_bytes,
        "in_client_msgs": traffic.in_msgs,
        "in_client_bytes": traffic.in_bytes,
        "out_msgs": traffic.out_msgs,
        "out_bytes": traffic.out_bytes,
        "out_client_msgs": traffic.out_msgs,
        "out_client_bytes": traffic.out_bytes,
        "slow_consumers": too_slow,
        "subscriptions": clients.subscriptions(),
    });
    if let Value::Object(counts) = counts {
        varz.extend(counts);
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes of memory that the process has; nothing on systems that do not say so in a file.
async fn memory() -> Option<u64> {
    let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
