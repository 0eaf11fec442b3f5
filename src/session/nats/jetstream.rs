//! JetStream's subjects: `$JS.API.<operation>` becomes a typed request that carries its reply subject.

use bytes::Bytes;

use super::permissions::Permissions;
use super::{pulls, snapshots, unsupported};
use crate::model::answer::{self, AnswerKind};
use crate::model::api::{ApiRequest, DirectOptions};
use crate::model::batch::MessageView;
use crate::model::error::ApiError;
use crate::model::headers::names;
use crate::model::request::Request;
use crate::session::api::{self, Strictness};

/// Where all of the API is.
const PREFIX: &str = "$JS.API.";

/// The subject that one below `$JS.<domain>.API` stands for, if this is the domain. Only operations that there are
/// have such a name.
pub(super) fn mapped(subject: &str, domain: &str) -> Option<String> {
    let operation = subject.strip_prefix("$JS.")?.strip_prefix(domain)?.strip_prefix(".API.")?;
    let is_one = AnswerKind::of(operation).is_some() || operation.starts_with("CONSUMER.");
    is_one.then(|| format!("{PREFIX}{operation}"))
}

/// A request to the API arrives. Returns how many answers the session is to wait for.
pub(super) fn receive(
    message: &MessageView<'_>,
    permissions: &Permissions,
    requests: &mut Vec<Request>,
) -> usize {
    let Some(operation) = message.subject.strip_prefix(PREFIX) else { return 0 };
    if operation.split('.').any(str::is_empty) {
        // No subject, and so nobody's.
        requests.push(unheard(message));
        return 0;
    }
    if let Some(rest) = operation.strip_prefix("CONSUMER.MSG.NEXT.") {
        match rest.split_once('.') {
            Some((stream, consumer)) => {
                pulls::receive(stream, consumer, message.reply, message.payload, requests);
            }
            None => requests.push(unheard(message)),
        }
        return 0;
    }
    let mut kind = AnswerKind::of(operation).unwrap_or(AnswerKind::SYSTEM);
    if kind.is_direct() && message.reply.is_empty() {
        return 0;
    }
    if kind.is_direct()
        && let Some(wrong) = wrong_direct_get(operation, message.payload)
    {
        let subject = message.reply.to_owned();
        let headers = answer::status(408, wrong);
        requests.push(Request::Tell { subject, headers, payload: Bytes::new() });
        return 0;
    }
    let request = parse(kind, operation, message).map_err(|error| {
        if error.err_code != ApiError::unknown_operation("").err_code {
            return error;
        }
        // Such as one without the name of its stream. The words are for clients of our own.
        kind = AnswerKind::SYSTEM;
        ApiError::bad_request()
    });
    let request = request.and_then(|request| permissions.check_request(&request).map(|()| request));
    let subject = if kind.is_direct() { message.subject.to_owned() } else { String::new() };
    requests.push(Request::ApiTo { reply: message.reply.to_owned(), subject, kind, request });
    1
}

fn unheard(message: &MessageView<'_>) -> Request {
    Request::Unheard { subject: message.subject.to_owned(), reply: message.reply.to_owned() }
}

fn parse(
    kind: AnswerKind,
    operation: &str,
    message: &MessageView<'_>,
) -> Result<ApiRequest, ApiError> {
    if kind == AnswerKind::SYSTEM {
        return Err(ApiError::bad_request());
    }
    if let Some(level) = required_level(message.headers)
        && level > answer::API_LEVEL
    {
        return Err(ApiError::required_api_level());
    }
    if is_for_clusters(operation) {
        return Err(ApiError::clustering_required());
    }
    if let Some(request) = several_messages(operation, message.payload) {
        return request;
    }
    if let Some(request) = snapshots::parse(operation, message.payload) {
        return request;
    }
    let request = api::parse(operation, message.payload, Strictness::Lenient)?;
    unsupported::check(operation, message.payload)?;
    Ok(request)
}

/// What is wrong with a direct get that cannot be one, as nats-server says it.
fn wrong_direct_get(operation: &str, body: &[u8]) -> Option<&'static str> {
    let names_subject = operation.split('.').count() > 3;
    if names_subject {
        return (!body.is_empty()).then_some("Bad Request");
    }
    if body.is_empty() {
        return Some("Empty Request");
    }
    let Ok(fields) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body)
    else {
        return Some("Malformed Request");
    };
    let asks = ["seq", "last_by_subj", "next_by_subj", "multi_last", "start_time"];
    let is_set = |value: &serde_json::Value| !value.is_null() && value != 0 && value != "";
    let asks_nothing = !asks.iter().any(|field| fields.get(*field).is_some_and(is_set));
    asks_nothing.then_some("Empty Request")
}

/// A direct get that asks for several messages; nothing if it is for one, or for none that can be read.
fn several_messages(operation: &str, body: &[u8]) -> Option<Result<ApiRequest, ApiError>> {
    let stream = operation.strip_prefix("DIRECT.GET.").filter(|rest| !rest.contains('.'))?;
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    if !["batch", "multi_last"].iter().any(|field| fields.contains_key(*field)) {
        return None;
    }
    let last_by_subj = fields.get("last_by_subj").is_some_and(|value| value != "");
    let options: DirectOptions = match serde_json::from_value(fields.into()) {
        Ok(options) => options,
        Err(error) => return Some(Err(ApiError::invalid_json(error))),
    };
    let DirectOptions { seq, next_by_subj, start_time, multi_last, up_to_seq, up_to_time, .. } =
        &options;
    if options.batch == 0 && multi_last.is_empty() {
        return None;
    }
    let contradicts = last_by_subj
        || (*seq > 0 && start_time.is_some())
        || (next_by_subj.is_some() && !multi_last.is_empty())
        || (*up_to_seq > 0 && up_to_time.is_some());
    if contradicts {
        return Some(Err(ApiError::bad_request()));
    }
    let options = Box::new(options);
    Some(Ok(ApiRequest::MessagesGet { stream: stream.to_owned(), options }))
}

/// The API level that a request asks for, where it does. What is no number asks for more than there is.
fn required_level(headers: &[u8]) -> Option<u32> {
    let text = crate::model::headers::get(headers, names::REQUIRED_API_LEVEL)?;
    Some(text.parse().unwrap_or(u32::MAX))
}

/// Operations that make no sense on one machine.
fn is_for_clusters(operation: &str) -> bool {
    ["STREAM.LEADER.STEPDOWN.", "CONSUMER.LEADER.STEPDOWN.", "STREAM.PEER.REMOVE.", "META."]
        .iter()
        .any(|prefix| operation.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subject: &str, headers: &[u8], payload: &[u8]) -> Request {
        let mut requests = Vec::new();
        let message = MessageView { subject, reply: "r", headers, payload };
        receive(&message, &Permissions::of_everything(), &mut requests);
        requests.pop().expect("one request")
    }

    #[test]
    fn errors_go_to_the_reply_subject_too() {
        let Request::ApiTo { request, reply, .. } = request("$JS.API.STREAM.CREATE.S", b"", b"{")
        else {
            panic!("not an API request");
        };
        assert_eq!(reply, "r");
        assert_eq!(request.expect_err("no JSON").err_code, 10025);
    }

    #[test]
    fn a_level_beyond_ours_is_refused() {
        let headers = b"NATS/1.0\r\nNats-Required-Api-Level: 99\r\n\r\n";
        let Request::ApiTo { request, .. } = request("$JS.API.INFO", headers, b"") else {
            panic!("not an API request");
        };
        assert_eq!(request.expect_err("too high").err_code, 10185);
    }

    #[test]
    fn what_a_cluster_would_do_is_refused() {
        let Request::ApiTo { request, .. } = request("$JS.API.STREAM.LEADER.STEPDOWN.S", b"", b"")
        else {
            panic!("not an API request");
        };
        assert_eq!(request.expect_err("no cluster").err_code, 10010);
    }

    #[test]
    fn what_is_no_operation_is_a_bad_request() {
        for subject in ["$JS.API.NONSENSE", "$JS.API.STREAM.CREATE", "$JS.API.CONSUMER.INFO.S"] {
            let Request::ApiTo { kind, request, .. } = request(subject, b"", b"{}") else {
                panic!("{subject} is not an API request");
            };
            assert_eq!((kind, request), (AnswerKind::SYSTEM, Err(ApiError::bad_request())));
        }
        assert!(matches!(request("$JS.API.STREAM.INFO..S", b"", b""), Request::Unheard { .. }));
    }

    #[test]
    fn the_api_has_the_domain_in_its_name_too() {
        let inside = |subject| mapped(subject, "hub");
        assert_eq!(inside("$JS.hub.API.INFO").as_deref(), Some("$JS.API.INFO"));
        let next = inside("$JS.hub.API.CONSUMER.MSG.NEXT.S.c");
        assert_eq!(next.as_deref(), Some("$JS.API.CONSUMER.MSG.NEXT.S.c"));
        for other in ["$JS.hub.API.FOO", "$JS.hubs.API.INFO", "$JS.API.INFO", "$JS.hub.ACK.S"] {
            assert_eq!(inside(other), None, "{other}");
        }
    }

    #[test]
    fn pulls_name_a_stream_and_a_consumer() {
        assert!(matches!(
            request("$JS.API.CONSUMER.MSG.NEXT.S.c", b"", b""),
            Request::Pull(pull) if pull.stream == "S" && pull.consumer == "c"
        ));
        assert!(matches!(
            request("$JS.API.CONSUMER.MSG.NEXT.S", b"", b""),
            Request::Unheard { .. }
        ));
    }
}
