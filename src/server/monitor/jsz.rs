//! `/jsz`: streams and consumers.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Map, Value, json};

use super::inquiry::{AskError, Inquiry};
use super::{ACCOUNT, Answer, Given, Site, Unanswered};
use crate::model::answer;
use crate::model::stream::StreamInfo;
use crate::model::time::Timestamp;

/// What is told beside sums.
struct Details {
    accounts: bool,
    streams: bool,
    consumers: bool,
    config: bool,
}

impl Details {
    /// Each kind of detail brings those that it is part of.
    fn of(given: &Given) -> Result<Self, Unanswered> {
        let consumers = given.flag("consumers")?;
        let streams = given.flag("streams")? || consumers;
        let accounts = given.flag("accounts")? || streams || !given.text("acc").is_empty();
        Ok(Self { accounts, streams, consumers, config: given.flag("config")? })
    }
}

/// Answers with sums over all streams; `accounts`, `streams`, `consumers` and `config` add details, of the
/// one account that there is.
pub(super) async fn jsz(State(site): State<Site>, Query(given): Query<Given>) -> Answer {
    let details = Details::of(&given)?;
    let (offset, _) = given.page()?;
    let _listing = site.listing.lock().await;
    let mut inquiry = Inquiry::open(&site.shared).await?;
    let info = inquiry.account().await?;
    let streams = inquiry.streams().await?;
    let mut jsz = stats(&info);
    jsz.insert("accounts".to_owned(), 1.into());
    let sum = |of: fn(&StreamInfo) -> u64| streams.iter().map(of).sum::<u64>();
    let own = json!({
        "server_id": site.server_id(),
        "now": Timestamp(site.shared.clock.now().wall),
        "config": config(&site, &info),
        "streams": streams.len(),
        "consumers": sum(|stream| stream.state.consumer_count as u64),
        "messages": sum(|stream| stream.state.messages),
        "bytes": sum(|stream| stream.state.bytes),
        "total": 1,
    });
    jsz.extend(fields(own));
    let is_ours = matches!(given.text("acc"), "" | ACCOUNT);
    if details.accounts && is_ours && offset == 0 {
        let mut account = stats(&info);
        account.extend(fields(json!({ "name": ACCOUNT, "id": ACCOUNT, "accounts": 0 })));
        if details.streams {
            let list = stream_details(&site, &mut inquiry, &streams, &details).await?;
            account.insert("stream_detail".to_owned(), list.into());
        }
        jsz.insert("account_details".to_owned(), json!([account]));
    }
    Ok(Json(Value::Object(jsz)))
}

/// The settings of storage, as far as they are nats-server's too.
pub(super) fn config(site: &Site, account: &Value) -> Value {
    let limit = |name: &str| account.pointer(&format!("/limits/{name}")).cloned();
    let mut config = Map::new();
    for name in ["max_memory", "max_storage"] {
        config.extend(limit(name).map(|value| (name.to_owned(), value)));
    }
    if site.shared.welcome.durability == "sync" {
        config.insert("sync_always".to_owned(), true.into());
    }
    Value::Object(config)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn stats(account: &Value) -> Map<String, Value> {
    let names = ["memory", "storage", "reserved_memory", "reserved_storage", "api"];
    let mut stats: Map<_, _> = names
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), account.get(name)?.clone())))
        .collect();
    stats.insert("ha_assets".to_owned(), 0.into());
    stats
}

async fn stream_details(
    site: &Site,
    inquiry: &mut Inquiry,
    streams: &[StreamInfo],
    details: &Details,
) -> Result<Vec<Value>, AskError> {
    let leader = json!({ "leader": site.shared.welcome.name });
    let mut list = Vec::new();
    for stream in streams {
        let mut shown = answer::stream(stream);
        shown.remove("ts");
        shown.insert("name".to_owned(), stream.config.name.clone().into());
        shown.insert("cluster".to_owned(), leader.clone());
        if !details.config {
            shown.remove("config");
        }
        if details.consumers {
            let consumers = inquiry.consumers(&stream.config.name).await?;
            let consumers = consumers.iter().map(|consumer| {
                let mut shown = answer::consumer(consumer);
                if !details.config {
                    shown.remove("config");
                }
                Value::Object(shown)
            });
            shown.insert("consumer_detail".to_owned(), consumers.collect());
        }
        list.push(Value::Object(shown));
    }
    Ok(list)
}
