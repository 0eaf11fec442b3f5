//! What the client of a session may do, and what it is told when it tries more. The texts are
//! nats-server's; after them the connection goes on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Grant, Replies};
use crate::model::api::ApiRequest;
use crate::model::batch::MessageView;
use crate::model::error::ApiError;
use crate::model::headers::{self, names};
use crate::model::subject::has_wildcard;

/// Headers that make the server publish to, or remove from, a subject that is not the message's own.
const SUBJECTS_IN_HEADERS: [&str; 2] = [names::SCHEDULE_TARGET, names::SCHEDULER];

#[derive(Debug)]
pub(super) struct Permissions {
    grant: Arc<Grant>,
    /// Whether nothing is forbidden.
    is_everything: bool,
    replies: Replies,
    /// On a clock that never goes back.
    now: Duration,
}

impl Permissions {
    pub(super) fn new(grant: Arc<Grant>, now: Duration) -> Self {
        Self { is_everything: grant.is_everything(), grant, replies: Replies::default(), now }
    }

    /// Permissions of those who may do everything.
    pub(super) fn of_everything() -> Self {
        Self::new(Arc::default(), Duration::ZERO)
    }

    pub(super) fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    pub(super) fn is_everything(&self) -> bool {
        self.is_everything
    }

    pub(super) fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Whether a message may be published, and whatever it asks of the server done.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn check_publish(
        &mut self,
        message: &MessageView<'_>,
        asks_server: bool,
    ) -> Result<(), String> {
        if !self.may_publish(message.subject) {
            return Err(publish_violation(message.subject));
        }
        // A literal wildcard stands for all that it matches once it rolls that up.
        if has_wildcard(message.subject)
            && headers::get(message.headers, names::ROLLUP).is_some()
            && !self.grant.may_publish_all(message.subject)
        {
            return Err(publish_violation(message.subject));
        }
        if let Some(subject) = self.forbidden_in_headers(message.headers) {
            return Err(publish_violation(subject));
        }
        if asks_server && !message.reply.is_empty() && !self.grant.may_direct_to(message.reply) {
            return Err(format!(
                "Permissions Violation for Publish with Reply of {}",
                quoted(message.reply)
            ));
        }
        Ok(())
    }

    fn may_publish(&mut self, subject: &str) -> bool {
        if self.grant.may_publish(subject) {
            return true;
        }
        let responses = self.grant.responses();
        responses.is_some_and(|responses| self.replies.answer(subject, self.now, responses))
    }

    /// A subject in headers that the client may not publish to itself.
    fn forbidden_in_headers<'m>(&self, block: &'m [u8]) -> Option<&'m str> {
        if block.is_empty() {
            return None;
        }
        headers::iter(block)
            .filter(|(key, _)| SUBJECTS_IN_HEADERS.contains(key))
            .map(|(_, subject)| subject)
            .find(|subject| !self.grant.may_publish(subject))
    }

    /// Whether a request to the server may be carried out: what it names in its body is no way around
    /// what is forbidden.
    ///
    /// # Errors
    /// What the client is answered.
    pub(super) fn check_request(&self, request: &ApiRequest) -> Result<(), ApiError> {
        if self.is_everything {
            return Ok(());
        }
        match request {
            ApiRequest::PublishBatch { messages } => {
                for message in messages {
                    let subject = Some(message.subject.as_str())
                        .filter(|subject| !self.grant.may_publish(subject))
                        .or_else(|| self.forbidden_in_headers(&message.headers));
                    if let Some(subject) = subject {
                        return Err(ApiError::bad_request_because(publish_violation(subject)));
                    }
                }
                Ok(())
            }
            ApiRequest::StreamSnapshot { options, .. }
                if !self.grant.may_direct_to(&options.deliver_subject) =>
            {
                let violation = publish_violation(&options.deliver_subject);
                Err(ApiError::bad_request_because(violation))
            }
            ApiRequest::ConsumerCreate { config, .. } => match &config.deliver_subject {
                Some(subject) if !self.grant.may_direct_to(subject) => {
                    Err(ApiError::consumer_create_failed(publish_violation(subject)))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether a subscription may begin.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn check_subscribe(&self, subject: &str, queue: Option<&str>) -> Result<(), String> {
        if self.grant.may_subscribe(subject, queue) {
            return Ok(());
        }
        let mut text = format!("Permissions Violation for Subscription to {}", quoted(subject));
        if let Some(queue) = queue {
            text += &format!(" using queue {}", quoted(queue));
        }
        Err(text)
    }

    /// Whether a message of this subject may be delivered to a subscription.
    pub(super) fn may_receive(&self, subject: &[u8], queue: Option<&str>) -> bool {
        self.is_everything
            || std::str::from_utf8(subject)
                .is_ok_and(|subject| self.grant.may_receive(subject, queue))
    }

    /// Whether the client may answer messages, so that their reply subjects are to be told by
    /// [`received`](Self::received).
    pub(super) fn notes_replies(&self) -> bool {
        self.grant.responses().is_some()
    }

    /// A message with this reply subject was delivered.
    pub(super) fn received(&mut self, reply: &[u8]) {
        if let (Some(responses), Ok(reply)) = (self.grant.responses(), std::str::from_utf8(reply)) {
            self.replies.received(reply, self.now, responses);
        }
    }
}

fn publish_violation(subject: &str) -> String {
    format!("Permissions Violation for Publish to {}", quoted(subject))
}

/// Text in quotation marks as Go writes it, so that none of it can end the line it stands in.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() && c.is_ascii() => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{PublishRules, Responses, SubscribeRules, Target};
    use crate::model::headers::Block;

    fn permissions(publish: &[&str], responses: Option<Responses>) -> Permissions {
        let allow = Some(publish.iter().map(|pattern| (*pattern).to_owned()).collect());
        let inbox = Some(vec![Target::subject("_INBOX.me.>")]);
        let grant = Grant::new(
            PublishRules { allow, deny: Vec::new() },
            SubscribeRules { allow: inbox, deny: Vec::new() },
            responses,
        );
        Permissions::new(Arc::new(grant), Duration::ZERO)
    }

    fn message<'a>(subject: &'a str, reply: &'a str, headers: &'a [u8]) -> MessageView<'a> {
        MessageView { subject, reply, headers, payload: b"" }
    }

    #[test]
    fn a_subject_cannot_break_out_of_its_quotation_marks() {
        assert_eq!(quoted("z\"qé\\"), "\"z\\\"qé\\\\\"");
        assert_eq!(quoted("a\r\n-ERR\u{1}\u{a0}"), "\"a\\r\\n-ERR\\x01\\u00a0\"");
    }

    #[test]
    fn what_is_violated_is_said_in_the_words_of_nats_server() {
        let mut permissions = permissions(&["a.>"], None);
        assert_eq!(permissions.check_publish(&message("a.b", "", b""), false), Ok(()));
        assert_eq!(
            permissions.check_publish(&message("b", "", b""), false).unwrap_err(),
            "Permissions Violation for Publish to \"b\""
        );
        assert_eq!(
            permissions.check_subscribe("b", None).unwrap_err(),
            "Permissions Violation for Subscription to \"b\""
        );
        assert_eq!(
            permissions.check_subscribe("b", Some("q")).unwrap_err(),
            "Permissions Violation for Subscription to \"b\" using queue \"q\""
        );
        assert_eq!(permissions.check_subscribe("_INBOX.me.*", None), Ok(()));
    }

    /// CVE-2026-33249 in nats-server: what is published led the server to publish elsewhere.
    #[test]
    fn a_request_does_not_lead_the_server_where_its_client_cannot_publish() {
        let mut permissions = permissions(&["$JS.API.>", "plans.>"], None);
        let request = |reply| message("$JS.API.INFO", reply, b"");
        assert_eq!(permissions.check_publish(&request("_INBOX.me.1"), true), Ok(()));
        assert_eq!(permissions.check_publish(&request("plans.x"), true), Ok(()));
        assert_eq!(
            permissions.check_publish(&request("_INBOX.other.1"), true).unwrap_err(),
            "Permissions Violation for Publish with Reply of \"_INBOX.other.1\""
        );
        for header in SUBJECTS_IN_HEADERS {
            let mut block = Block::default();
            block.add("Other", "x").add(header, "plans.y").add(header, "orders.paid");
            let block = block.finish();
            let refused = permissions.check_publish(&message("plans.x", "", &block), false);
            assert_eq!(
                refused.unwrap_err(),
                "Permissions Violation for Publish to \"orders.paid\"",
                "{header}"
            );
        }
    }

    #[test]
    fn a_message_that_was_received_may_be_answered_once() {
        let mut permissions = permissions(&["a"], Some(Responses::default()));
        let answer = message("_INBOX.other.1", "", b"");
        assert!(permissions.check_publish(&answer, false).is_err());
        permissions.received(b"_INBOX.other.1");
        assert_eq!(permissions.check_publish(&answer, false), Ok(()));
        assert!(permissions.check_publish(&answer, false).is_err());
        permissions.received(b"_INBOX.other.1");
        permissions.set_time(Duration::from_secs(121));
        assert!(permissions.check_publish(&answer, false).is_err(), "too late");
    }

    #[test]
    fn an_answer_does_not_lead_the_server_anywhere() {
        let mut permissions = permissions(&["$JS.API.>"], Some(Responses::default()));
        permissions.received(b"_INBOX.other.1");
        let request = message("$JS.API.INFO", "_INBOX.other.1", b"");
        assert!(permissions.check_publish(&request, true).is_err());
    }
}
