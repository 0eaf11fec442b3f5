//! JetStream's advisories: messages of the server's own about what happened to a consumer's messages.

use claudebus_storage::Log;
use rand::RngExt;

use crate::model::event::ConsumerPath;
use crate::model::time::Timestamp;

use super::Broker;
use super::consumer::{DeadReason, Dying};

/// Characters of identifiers.
const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl<L: Log> Broker<L> {
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
        if let (DeadReason::Terminated(words), Some(body)) = (&dying.reason, body.as_object_mut()) {
            body.insert("consumer_seq".to_owned(), dying.consumer_seq.into());
            if !words.is_empty() {
                body.insert("reason".to_owned(), words.as_str().into());
            }
        }
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.{subject}.{stream}.{consumer}");
        self.announce(&subject, body.to_string().as_bytes());
    }

    /// A random name of so many characters.
    pub(super) fn draw_name(&mut self, length: usize) -> String {
        let draw = |_| ALPHABET.get(self.rng.random_range(0..ALPHABET.len())).copied();
        (0..length).filter_map(draw).map(char::from).collect()
    }
}
