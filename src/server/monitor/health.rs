//! `/healthz` as nats-server answers it.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::inquiry::{AskError, Inquiry};
use super::{ACCOUNT, Given, Site, Unanswered};
use crate::model::api::{ApiRequest, StreamInfoOptions};

/// Options that are true or false. All are accepted; streams are looked at only if they are named.
const FLAGS: [&str; 4] = ["js-enabled", "js-enabled-only", "js-server-only", "details"];
/// Options that name what is to be looked at.
const NAMES: [&str; 3] = ["account", "stream", "consumer"];

/// Whether whoever asks expects nats-server's answer, and not ours.
pub(in crate::server) fn wants_json(headers: &HeaderMap, given: &Given) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().any(|accepted| {
        accepted.to_str().is_ok_and(|accepted| accepted.contains("application/json"))
    });
    accepts || FLAGS.iter().chain(&NAMES).any(|name| given.has(name))
}

/// Answers as nats-server: `{"status":"ok"}`, or why not. `illness` is what is wrong with the server.
pub(in crate::server) async fn health(
    site: &Site,
    given: &Given,
    illness: Option<&'static str>,
) -> Response {
    if let Some(error) = FLAGS.iter().find_map(|flag| given.flag(flag).err()) {
        return error.into_response();
    }
    let [account, stream, consumer] = NAMES.map(|name| given.text(name));
    let missing = |what: &str, of: &str| {
        let text = format!("{what:?} must not be empty when checking {of} health");
        bad(StatusCode::BAD_REQUEST, "error", &text)
    };
    if account.is_empty() && !stream.is_empty() {
        return missing("account", "stream");
    }
    if stream.is_empty() && !consumer.is_empty() {
        return missing("stream", "consumer");
    }
    if let Some(reason) = illness {
        return bad(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason);
    }
    let unavailable = |text: String| bad(StatusCode::NOT_FOUND, "unavailable", &text);
    if !account.is_empty() && account != ACCOUNT {
        return unavailable(format!("JetStream account {account:?} not found"));
    }
    match missing_part(site, stream, consumer).await {
        Ok(None) => Json(json!({ "status": "ok" })).into_response(),
        Ok(Some(text)) => unavailable(text),
        Err(error) => Unanswered::from(error).into_response(),
    }
}

fn bad(code: StatusCode, status: &str, error: &str) -> Response {
    (code, Json(json!({ "status": status, "error": error }))).into_response()
}

/// What is not there of a stream and a consumer; empty names ask for nothing.
async fn missing_part(
    site: &Site,
    stream: &str,
    consumer: &str,
) -> Result<Option<String>, AskError> {
    if stream.is_empty() {
        return Ok(None);
    }
    let mut inquiry = Inquiry::open(&site.shared).await?;
    let options = StreamInfoOptions::default();
    let request = ApiRequest::StreamInfo { stream: stream.to_owned(), options };
    if !exists(&mut inquiry, request).await? {
        let text = format!("JetStream stream {stream:?} not found on account {ACCOUNT:?}");
        return Ok(Some(text));
    }
    if consumer.is_empty() {
        return Ok(None);
    }
    let (stream, consumer) = (stream.to_owned(), consumer.to_owned());
    let text = format!(
        "JetStream consumer {consumer:?} not found for stream {stream:?} on account {ACCOUNT:?}"
    );
    let request = ApiRequest::ConsumerInfo { stream, consumer };
    Ok((!exists(&mut inquiry, request).await?).then_some(text))
}

async fn exists(inquiry: &mut Inquiry, request: ApiRequest) -> Result<bool, AskError> {
    match inquiry.ask(request).await {
        Ok(_) => Ok(true),
        Err(AskError::Refused(error)) if error.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
