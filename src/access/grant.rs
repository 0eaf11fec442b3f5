//! What one client may do, as a whole.

use std::time::Duration;

use super::rules::{PublishRules, SubscribeRules};

/// Answers that may be published to the reply subject of a message that was received, wherever that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responses {
    /// Answers to one message; without limit if none.
    pub max: Option<u64>,
    /// Time for them since the message came; without limit if none.
    pub expires: Option<Duration>,
}

/// One answer within two minutes, as in nats-server.
impl Default for Responses {
    fn default() -> Self {
        Self { max: Some(1), expires: Some(Duration::from_secs(120)) }
    }
}

/// What a client may do. By default everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    publish: PublishRules,
    subscribe: SubscribeRules,
    responses: Option<Responses>,
}

impl Grant {
    /// A grant by rules. Who may answer and has no list of subjects to publish to may do nothing but
    /// answer, as in nats-server.
    #[must_use]
    pub fn new(
        mut publish: PublishRules,
        subscribe: SubscribeRules,
        responses: Option<Responses>,
    ) -> Self {
        if responses.is_some() && publish.allow.is_none() {
            publish.allow = Some(Vec::new());
        }
        Self { publish, subscribe, responses }
    }

    /// Whether nothing is forbidden.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.publish.is_everything() && self.subscribe.is_everything()
    }

    /// Whether messages may be published to `subject` at any time. Answers are permitted beside, by
    /// [`Replies`](super::Replies).
    #[must_use]
    pub fn may_publish(&self, subject: &str) -> bool {
        self.publish.permit(subject)
    }

    /// Whether messages may be published to everything that `pattern` matches.
    #[must_use]
    pub fn may_publish_all(&self, pattern: &str) -> bool {
        self.publish.permit_all(pattern)
    }

    /// Whether a subscription may begin: [`SubscribeRules::permit`].
    #[must_use]
    pub fn may_subscribe(&self, pattern: &str, queue: Option<&str>) -> bool {
        self.subscribe.permit(pattern, queue)
    }

    /// Whether a subscription may get a message: [`SubscribeRules::may_receive`].
    #[must_use]
    pub fn may_receive(&self, subject: &str, queue: Option<&str>) -> bool {
        self.subscribe.may_receive(subject, queue)
    }

    /// Whether a subscription may match messages that it may not get: [`SubscribeRules::filter`].
    #[must_use]
    pub fn filters(&self, pattern: &str, queue: Option<&str>) -> bool {
        self.subscribe.filter(pattern, queue)
    }

    /// Whether the server may be asked to send something to `subject`: where the client may publish
    /// itself, or where it may listen, as it does at its inbox. Otherwise requests would lead messages
    /// to where their sender cannot.
    #[must_use]
    pub fn may_direct_to(&self, subject: &str) -> bool {
        self.may_publish(subject) || self.may_subscribe(subject, None)
    }

    /// The answers that are permitted beside what may be published at any time.
    #[must_use]
    pub fn responses(&self) -> Option<&Responses> {
        self.responses.as_ref()
    }
}
