//! Core messaging: messages to whoever is subscribed now. Nothing here is stored or promised.

use bytes::{Bytes, BytesMut};
use claudebus_storage::{Log, NewRecord, StreamId};
use rand::RngExt;

use crate::model::batch::{MessageBatch, MessageView};
use crate::model::event::{CoreMessage, Event};
use crate::model::headers::{Block, names};
use crate::model::request::SessionId;
use crate::model::time::Timestamp;

use super::Broker;
use super::router::Route;

/// Through how many streams a message goes that republish what others republished. Eight: a chain that
/// somebody means is shorter, and one that leads back to its beginning ends.
const MAX_HOPS: u32 = 8;
/// The status that nobody got a request, without the line that ends it.
const NO_RESPONDERS: &[u8] = b"NATS/1.0 503\r\n";

/// Shorter messages are copied for who is subscribed. 16 KiB: one that waits for a slow subscriber would keep
/// the whole buffer that it came in, up to some hundred kilobytes, for the few bytes that it counts for.
const COPY_BELOW: usize = 16 << 10;

/// A message as subscribers get it.
fn own_message(batch: &MessageBatch, message: &MessageView<'_>) -> CoreMessage {
    let MessageView { subject, reply, headers, payload } = message;
    let len = subject.len() + reply.len() + headers.len() + payload.len();
    if len >= COPY_BELOW {
        return CoreMessage {
            subject: batch.slice(subject.as_bytes()),
            reply: batch.slice(reply.as_bytes()),
            headers: batch.slice(headers),
            payload: batch.slice(payload),
        };
    }
    let mut bytes = BytesMut::with_capacity(len);
    let mut part = |part: &[u8]| {
        bytes.extend_from_slice(part);
        bytes.split().freeze()
    };
    CoreMessage {
        subject: part(subject.as_bytes()),
        reply: part(reply.as_bytes()),
        headers: part(headers),
        payload: part(payload),
    }
}

/// A message of the server's own that is not published yet.
#[derive(Debug)]
pub(super) struct Announcement {
    subject: String,
    headers: Vec<u8>,
    payload: Vec<u8>,
    /// Through how many streams that republish it has come.
    hops: u32,
}

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
        let message = if heard { own_message(batch, message) } else { CoreMessage::default() };
        for id in chosen {
            if let Some((session, token)) = self.router.count_delivery(id, 1) {
                let message = message.clone();
                self.outbox.send_at_once(session, Event::Message { token, message });
            }
        }
        heard
    }

    /// Gives messages to core subscriptions alone.
    pub(super) fn overhear(&mut self, from: SessionId, batch: &MessageBatch, echo: bool) {
        for message in batch.iter() {
            let route = self.router.route(message.subject);
            self.deliver_core(from, &route, batch, &message, echo);
        }
    }

    /// Tells a session that nobody got its request, if it wants to know and listens to the reply itself.
    pub(super) fn unheard(&mut self, from: SessionId, subject: &str, reply: &str) {
        if reply.is_empty() || !self.sessions.wants_unheard(from) {
            return;
        }
        let route = self.router.find(reply);
        let own = route.plain.iter().copied().find(|id| {
            self.router.get(*id).is_some_and(|subscription| subscription.session == from)
        });
        let Some((session, token)) = own.and_then(|id| self.router.count_delivery(id, 1)) else {
            return;
        };
        let mut headers = NO_RESPONDERS.to_vec();
        if !subject.is_empty() {
            headers.extend_from_slice(b"Nats-Subject: ");
            headers.extend_from_slice(subject.as_bytes());
            headers.extend_from_slice(b"\r\n");
        }
        headers.extend_from_slice(b"\r\n");
        let message = CoreMessage {
            subject: Bytes::copy_from_slice(reply.as_bytes()),
            headers: headers.into(),
            ..CoreMessage::default()
        };
        self.outbox.send_in_order(session, Event::Message { token, message });
    }

    /// Sends a message to whoever is subscribed to `subject`, once everything decided so far is
    /// durable.
    pub(super) fn answer_subject(&mut self, subject: Bytes, headers: Bytes, payload: Bytes) {
        self.tell_listeners(subject, Bytes::new(), headers, payload);
    }

    /// The same with a subject for an answer.
    pub(super) fn tell_listeners(
        &mut self,
        subject: Bytes,
        reply: Bytes,
        headers: Bytes,
        payload: Bytes,
    ) {
        let text = std::str::from_utf8(&subject).unwrap_or_default();
        let route = self.router.find(text);
        let mut chosen = Vec::new();
        self.router.receivers(&route, super::sessions::SERVER, true, &mut self.rng, &mut chosen);
        let message = CoreMessage { subject, reply, headers, payload };
        for id in chosen {
            if let Some((session, token)) = self.router.count_delivery(id, 1) {
                let message = message.clone();
                self.outbox.send_when_durable(session, Event::Message { token, message });
            }
        }
    }

    /// Publishes a message of the server's own: to core subscriptions once everything decided so
    /// far is durable, and to the stream that captures it.
    pub(super) fn announce(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        let hops = self.hops;
        if let Some(withheld) = &mut self.withheld {
            let (subject, headers) = (subject.to_owned(), headers.to_vec());
            withheld.push(Announcement { subject, headers, payload: payload.to_vec(), hops });
            return;
        }
        let batch = MessageBatch::of_one(subject, "", headers, payload);
        if let Some(message) = batch.iter().next() {
            let mut run = self.begin_run(message.subject, None);
            // An advisory that a stream refuses was still announced to who listens.
            let _ = self.store(&mut run, &message);
            self.end_run(Some(&run));
        }
        self.answer_subject(
            Bytes::copy_from_slice(subject.as_bytes()),
            Bytes::copy_from_slice(headers),
            Bytes::copy_from_slice(payload),
        );
    }

    /// Does `work`, and announces only then what it leads to being announced: that may be stored too, and
    /// would take the room that `work` has made sure of.
    pub(super) fn announcing_later<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.withheld = Some(Vec::new());
        let done = work(self);
        let hops = self.hops;
        for announcement in self.withheld.take().unwrap_or_default() {
            self.hops = announcement.hops;
            let Announcement { subject, headers, payload, .. } = &announcement;
            self.announce(subject, headers, payload);
        }
        self.hops = hops;
        done
    }

    /// The sequence of the last message of a subject; 0 if there is none.
    pub(super) fn last_of_subject(&self, id: StreamId, subject: &str) -> u64 {
        self.log.subject(id, subject).map_or(0, |summary| summary.last)
    }

    /// Publishes a message that a stream has just stored at `seq` where the stream's configuration
    /// says, if it does: once it is durable, with headers that say where it is. `before` is the last
    /// sequence of its subject before it.
    pub(super) fn republish(
        &mut self,
        id: StreamId,
        record: &NewRecord<'_>,
        seq: u64,
        before: u64,
    ) {
        let Some(stream) = self.catalog.get(id) else { return };
        let Some(transform) = &stream.republish else { return };
        let rng = &mut self.rng;
        let mapped = transform.apply(record.subject, &mut |below| rng.random_range(0..below));
        let Some(subject) = mapped else { return };
        if self.hops >= MAX_HOPS {
            tracing::warn!(stream = %stream.name, subject,
                "not republished: the message went through {MAX_HOPS} streams that republish");
            return;
        }
        let headers_only = stream.config.republish.as_ref().is_some_and(|to| to.headers_only);
        let mut block = Block::from_existing(record.headers);
        block
            .add(names::STREAM, &stream.name)
            .add(names::SUBJECT, record.subject)
            .add(names::SEQUENCE, &seq.to_string())
            .add(names::TIME_STAMP, &Timestamp(record.time).to_string())
            .add(names::LAST_SEQUENCE, &before.to_string());
        if headers_only {
            block.add(names::MESSAGE_SIZE, &record.payload.len().to_string());
        }
        self.hops += 1;
        let payload = if headers_only { b"".as_slice() } else { record.payload };
        self.announce(&subject, &block.finish(), payload);
        self.hops -= 1;
    }
}
