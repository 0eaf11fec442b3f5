//! JetStream's advisories: messages of the server's own about what became of streams, consumers and
//! messages. They are only put together where somebody gets them.

use claudebus_storage::Log;
use rand::RngExt;
use serde_json::{Value, json};

use crate::model::consumer::ConsumerInfo;
use crate::model::event::ConsumerPath;
use crate::model::stream::StreamState;
use crate::model::time::Timestamp;

use super::Broker;
use super::consumer::{DeadReason, Delivered, Dying, PinChange};

/// Characters of identifiers.
const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What happened to a stream or a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Updated,
    Deleted,
}

impl Change {
    /// The token of the subject, and the word in the body.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Created => ("CREATED", "create"),
            Self::Updated => ("UPDATED", "modify"),
            Self::Deleted => ("DELETED", "delete"),
        }
    }
}

impl<L: Log> Broker<L> {
    /// Says what happened to a stream.
    pub(super) fn advise_stream(&mut self, change: Change, stream: &str) {
        let (token, action) = change.words();
        self.advise(
            &format!("STREAM.{token}.{stream}"),
            "stream_action",
            || json!({ "stream": stream, "action": action }),
        );
    }

    /// Says what happened to a consumer.
    pub(super) fn advise_consumer(&mut self, change: Change, stream: &str, consumer: &str) {
        let (token, action) = change.words();
        self.advise(
            &format!("CONSUMER.{token}.{stream}.{consumer}"),
            "consumer_action",
            || json!({ "stream": stream, "consumer": consumer, "action": action }),
        );
    }

    /// Says that a consumer was paused, or goes on.
    pub(super) fn advise_pause(&mut self, info: &ConsumerInfo) {
        let ConsumerInfo { stream_name, name, paused, .. } = info;
        let until = info.config.pause_until;
        self.advise(&format!("CONSUMER.PAUSE.{stream_name}.{name}"), "consumer_pause", || {
            let mut body = json!({ "stream": stream_name, "consumer": name, "paused": paused });
            if let (Some(until), Some(body)) = (until, body.as_object_mut()) {
                body.insert("pause_until".to_owned(), json!(until));
            }
            body
        });
    }

    /// Says which client a consumer is pinned to, or that it is to none.
    pub(super) fn advise_pin(&mut self, path: &ConsumerPath, change: &PinChange) {
        let ConsumerPath { stream, consumer } = path;
        let (token, kind, group, name, value) = match change {
            PinChange::Pinned { group, id } => {
                ("PINNED", "consumer_group_pinned", group, "pinned_id", &**id)
            }
            PinChange::Unpinned { group, reason } => {
                ("UNPINNED", "consumer_group_unpinned", group, "reason", *reason)
            }
        };
        // The account is the only one there is.
        self.advise(&format!("CONSUMER.{token}.{stream}.{consumer}"), kind, || {
            json!({
                "account": "$G", "stream": stream, "consumer": consumer, "group": group,
                name: value,
            })
        });
    }

    /// Says that a snapshot begins.
    pub(super) fn advise_snapshot(&mut self, stream: &str, state: &StreamState) {
        let subject = format!("STREAM.SNAPSHOT_CREATE.{stream}");
        self.advise(&subject, "snapshot_create", || json!({ "stream": stream, "state": state }));
    }

    /// Says that a snapshot is over.
    pub(super) fn advise_snapshot_end(&mut self, stream: &str, start: Timestamp) {
        let end = Timestamp(self.now.wall);
        let subject = format!("STREAM.SNAPSHOT_COMPLETE.{stream}");
        self.advise(
            &subject,
            "snapshot_complete",
            || json!({ "stream": stream, "start": start, "end": end }),
        );
    }

    /// Says that a restore begins.
    pub(super) fn advise_restore(&mut self, stream: &str) {
        let subject = format!("STREAM.RESTORE_CREATE.{stream}");
        self.advise(&subject, "restore_create", || json!({ "stream": stream }));
    }

    /// Says that a restore is over.
    pub(super) fn advise_restore_end(&mut self, stream: &str, start: Timestamp, bytes: u64) {
        let end = Timestamp(self.now.wall);
        let subject = format!("STREAM.RESTORE_COMPLETE.{stream}");
        self.advise(
            &subject,
            "restore_complete",
            || json!({ "stream": stream, "start": start, "end": end, "bytes": bytes }),
        );
    }

    /// Says that an atomic batch was given up.
    pub(super) fn advise_batch_abandoned(&mut self, stream: &str, batch: &str, reason: &str) {
        self.advise(
            &format!("STREAM.BATCH_ABANDONED.{stream}"),
            "stream_batch_abandoned",
            || json!({ "stream": stream, "batch": batch, "reason": reason }),
        );
    }

    /// Says that a delivery was refused.
    pub(super) fn advise_refused(&mut self, path: &ConsumerPath, delivery: &Delivered) {
        let ConsumerPath { stream, consumer } = path;
        let Delivered { seq, consumer_seq, attempts: deliveries, .. } = delivery;
        self.advise(&format!("CONSUMER.MSG_NAKED.{stream}.{consumer}"), "nak", || {
            json!({
                "stream": stream, "consumer": consumer, "consumer_seq": consumer_seq,
                "stream_seq": seq, "deliveries": deliveries,
            })
        });
    }

    /// Says how long it took to acknowledge a delivery.
    pub(super) fn tell_ack(&mut self, path: &ConsumerPath, delivery: &Delivered) {
        let ConsumerPath { stream, consumer } = path;
        let Delivered { seq, consumer_seq, attempts, last } = delivery;
        let ack_time = self.now.wall.saturating_sub(last.0);
        let subject = format!("$JS.EVENT.METRIC.CONSUMER.ACK.{stream}.{consumer}");
        self.tell(&subject, "io.nats.jetstream.metric.v1.consumer_ack", || {
            json!({
                "stream": stream, "consumer": consumer, "consumer_seq": consumer_seq,
                "stream_seq": seq, "ack_time": ack_time, "deliveries": attempts,
            })
        });
    }

    /// Whether there is somebody to get an advisory.
    pub(super) fn is_advised(&self, subject: &str) -> bool {
        self.is_heard(&format!("$JS.EVENT.ADVISORY.{subject}"))
    }

    fn is_heard(&self, subject: &str) -> bool {
        let route = self.router.find(subject);
        route.stream.is_some() || !route.has_no_subscriptions()
    }

    /// Publishes an advisory, if there is somebody to get it.
    fn advise(&mut self, subject: &str, kind: &str, body: impl FnOnce() -> Value) {
        let subject = format!("$JS.EVENT.ADVISORY.{subject}");
        self.tell(&subject, &format!("io.nats.jetstream.advisory.v1.{kind}"), body);
    }

    /// Publishes an event of this type, if there is somebody to get it.
    fn tell(&mut self, subject: &str, kind: &str, body: impl FnOnce() -> Value) {
        if !self.is_heard(subject) {
            return;
        }
        let mut body = body();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("type".to_owned(), kind.into());
            fields.insert("id".to_owned(), self.draw_name(22).into());
            fields.insert("timestamp".to_owned(), json!(Timestamp(self.now.wall)));
            self.names.put_domain(fields);
        }
        self.announce(subject, b"", body.to_string().as_bytes());
    }

    /// Says that a message was given up.
    pub(super) fn advise_given_up(&mut self, path: &ConsumerPath, dying: &Dying) {
        let ConsumerPath { stream, consumer } = path;
        let (kind, subject) = match &dying.reason {
            DeadReason::Terminated(_) => ("terminated", "MSG_TERMINATED"),
            _ => ("max_deliver", "MAX_DELIVERIES"),
        };
        let mut body = serde_json::json!({
            "type": format!("io.nats.jetstream.advisory.v1.{kind}"),
            "id": self.draw_name(22),
            "timestamp": Timestamp(self.now.wall),
            "stream": stream,
            "consumer": consumer,
            "stream_seq": dying.seq,
            "deliveries": dying.attempts,
        });
        if let Some(body) = body.as_object_mut() {
            self.names.put_domain(body);
        }
        if let (DeadReason::Terminated(words), Some(body)) = (&dying.reason, body.as_object_mut()) {
            body.insert("consumer_seq".to_owned(), dying.consumer_seq.into());
            if !words.is_empty() {
                body.insert("reason".to_owned(), words.as_str().into());
            }
        }
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.{subject}.{stream}.{consumer}");
        self.announce(&subject, b"", body.to_string().as_bytes());
    }

    /// A random name of so many characters.
    pub(super) fn draw_name(&mut self, length: usize) -> String {
        let draw = |_| ALPHABET.get(self.rng.random_range(0..ALPHABET.len())).copied();
        (0..length).filter_map(draw).map(char::from).collect()
    }
}
