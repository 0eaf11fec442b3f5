//! Core messaging: messages to whoever is subscribed now. Nothing here is stored or promised.

use bytes::Bytes;
use claudebus_storage::Log;

use crate::model::batch::{MessageBatch, MessageView};
use crate::model::event::{CoreMessage, Event};
use crate::model::request::SessionId;

use super::Broker;
use super::router::Route;

impl<L: Log> Broker<L> {
    /// Gives a message to the core subscriptions of its route, at once. Returns whether there
    /// were any.
    pub(super) fn deliver_core(
        &mut self,
        from: SessionId,
        route: &Route,
        batch: &MessageBatch,
        message: &MessageView<'_>,
        echo: bool,
    ) -> bool {
        if route.has_no_subscriptions() {
            return false;
        }
        let mut chosen = Vec::new();
        self.router.receivers(route, from, echo, &mut self.rng, &mut chosen);
        let heard = !chosen.is_empty();
        for id in chosen {
            if let Some((session, token)) = self.router.count_delivery(id, 1) {
                let message = CoreMessage {
                    subject: batch.slice(message.subject.as_bytes()),
                    reply: batch.slice(message.reply.as_bytes()),
                    headers: batch.slice(message.headers),
                    payload: batch.slice(message.payload),
                };
                self.outbox.send_at_once(session, Event::Message { token, message });
            }
        }
        heard
    }

    /// Tells the sender that nobody got its request, if it listens to the reply itself.
    pub(super) fn no_responders(
        &mut self,
        from: SessionId,
        batch: &MessageBatch,
        message: &MessageView<'_>,
    ) {
        let route = self.router.find(message.reply);
        let own = route.plain.iter().copied().find(|id| {
            self.router.get(*id).is_some_and(|subscription| subscription.session == from)
        });
        let Some((session, token)) = own.and_then(|id| self.router.count_delivery(id, 1)) else {
            return;
        };
        let headers = format!("NATS/1.0 503\r\nNats-Subject: {}\r\n\r\n", message.subject);
        let message = CoreMessage {
            subject: batch.slice(message.reply.as_bytes()),
            headers: Bytes::from(headers),
            ..CoreMessage::default()
        };
        self.outbox.send_in_order(session, Event::Message { token, message });
    }

    /// Sends a message to whoever is subscribed to `subject`, once everything decided so far is
    /// durable.
    pub(super) fn answer_subject(&mut self, subject: Bytes, payload: Bytes) {
        let text = std::str::from_utf8(&subject).unwrap_or_default();
        let route = self.router.find(text);
        let mut chosen = Vec::new();
        self.router.receivers(&route, super::sessions::SERVER, true, &mut self.rng, &mut chosen);
        let message = CoreMessage { subject, payload, ..CoreMessage::default() };
        for id in chosen {
            if let Some((session, token)) = self.router.count_delivery(id, 1) {
                let message = message.clone();
                self.outbox.send_when_durable(session, Event::Message { token, message });
            }
        }
    }

    /// Publishes a message of the server's own: to core subscriptions once everything decided so
    /// far is durable, and to the stream that captures it.
    pub(super) fn announce(&mut self, subject: &str, payload: &[u8]) {
        let batch = MessageBatch::of_one(subject, "", b"", payload);
        if let Some(message) = batch.iter().next() {
            let mut run = self.begin_run(message.subject, None);
            // An advisory that a stream refuses was still announced to who listens.
            let _ = self.store(&mut run, &message);
            self.end_run(Some(&run));
        }
        self.answer_subject(
            Bytes::copy_from_slice(subject.as_bytes()),
            Bytes::copy_from_slice(payload),
        );
    }
}
