//! What the broker tells sessions. Typed and free of any protocol.

use std::sync::Arc;

use bytes::Bytes;
use claudebus_storage::{Record, StreamId};
use serde::{Deserialize, Serialize};

use super::api::ApiResponse;
use super::error::ApiError;
use super::request::Token;

/// Once a session was told the names of so many streams, they are all forgotten before it is told of another.
pub const MAX_NAMED_STREAMS: usize = 65_536;

/// Numbered messages that are stored: counters `first..first + count` in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Counter of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Their stream.
    pub stream: StreamId,
    /// Sequence of the first; the others follow without gaps. Zero if they were stored so long
    /// ago that it is no longer known.
    pub seq: u64,
    /// Whether they had been stored before.
    pub duplicate: bool,
}

/// One event for one session.
#[derive(Clone, Debug)]
pub enum Event {
    /// Numbered messages are stored, durably.
    Published {
        /// The names of streams that the session was not told before; see [`MAX_NAMED_STREAMS`].
        named: Vec<(StreamId, Arc<str>)>,
        /// Which, by their counters. At least one.
        ranges: Vec<Published>,
    },
    /// A numbered message was refused.
    Refused {
        /// Its counter.
        counter: u64,
        /// Why.
        error: ApiError,
    },
    /// A message for a core subscription.
    Message {
        /// The subscription.
        token: Token,
        /// The message.
        message: CoreMessage,
    },
    /// Messages for a pull, oldest first.
    Deliver {
        /// The pull.
        token: Token,
        /// Who delivers.
        consumer: Arc<ConsumerPath>,
        /// The messages. At least one.
        deliveries: Vec<Delivery>,
    },
    /// Something else about a pull.
    PullStatus {
        /// The pull.
        token: Token,
        /// What.
        status: PullStatus,
    },
    /// The consumer of a pull passes over sequences that are lost.
    Gap {
        /// The pull.
        token: Token,
        /// What is lost.
        gap: Arc<Gap>,
    },
    /// Acknowledgements are durable.
    AckConfirmed {
        /// What was given to confirm.
        token: Token,
        /// An error if there is no such consumer.
        result: Result<(), ApiError>,
    },
    /// The answer to a request.
    Answer {
        /// The request.
        token: Token,
        /// The answer.
        result: Result<ApiResponse, ApiError>,
    },
    /// A request of [`Request::ApiTo`](super::request::Request::ApiTo) was answered.
    Answered,
    /// All before [`Request::Barrier`](super::request::Request::Barrier) was handled.
    Barrier {
        /// What it was given.
        token: Token,
    },
    /// A subscription ended as the session has asked: no message for it comes behind this.
    Unsubscribed {
        /// The subscription.
        token: Token,
    },
    /// The session must end: it is too slow, or the server stops.
    Close {
        /// Why, for the client.
        reason: ApiError,
    },
}

/// A message that is not from a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreMessage {
    /// Where it was published.
    pub subject: Bytes,
    /// Where an answer is expected, or empty.
    pub reply: Bytes,
    /// The header block, or empty.
    pub headers: Bytes,
    /// The message body.
    pub payload: Bytes,
}

/// A consumer's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerPath {
    /// The stream's name.
    pub stream: String,
    /// The consumer's name.
    pub consumer: String,
}

/// One attempt to hand a message to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub record: Record,
    /// Number of this delivery among all of the consumer, from 1.
    pub consumer_seq: u64,
    /// How often the message was delivered, this time included.
    pub attempts: u64,
    /// Messages that the consumer has still to deliver for the first time after this one.
    pub pending: u64,
    /// Whether the payload is left out, `headers_only`.
    pub headers_only: bool,
    /// Which client the consumer is pinned to, for a header of NATS clients; empty if to none.
    pub pin: Option<Arc<str>>,
}

impl Delivery {
    /// Bytes it counts towards
    /// [`Limits::max_session_deliveries`](super::limits::Limits::max_session_deliveries), and what
    /// [`Request::Sent`](super::request::Request::Sent) gives back for it: subject, headers and
    /// payload, and 64 for what surrounds them.
    #[must_use]
    pub fn charge(&self) -> usize {
        Self::charge_of(&self.record)
    }

    /// [`charge`](Self::charge) of a delivery of `record`.
    #[must_use]
    pub fn charge_of(record: &Record) -> usize {
        record.data().len() + 64
    }

    /// Bytes that this delivery counts towards the `max_bytes` of a session's pull: subject,
    /// headers, and payload as stored. Both sides use this one, so that credit that is raised by
    /// what was consumed is never lost or gained on the way. (NATS pulls count the reply subject
    /// too, as JetStream does.)
    #[must_use]
    pub fn pull_bytes(record: &Record) -> u64 {
        (record.subject_len() + record.headers_len() + record.payload().len()) as u64
    }
}

/// Sequences of a stream that cannot be delivered, because the disk lost them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The stream's name.
    pub stream: String,
    /// First sequence concerned.
    pub first: u64,
    /// Last sequence concerned.
    pub last: u64,
    /// The damaged file, below the data directory.
    pub file: String,
    /// Where the damage starts in it.
    pub offset: u64,
    /// Whether messages with these sequences are lost for certain. Otherwise there may have been some,
    /// and the sequences were left out for that.
    pub is_certain: bool,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, first, last, file, offset, is_certain } = self;
        let are = if *is_certain { "are lost" } else { "may be lost" };
        write!(
            f,
            "sequences {first} to {last} of {stream} {are}: {file} is damaged at byte {offset}"
        )
    }
}

/// The state of a pull, other than deliveries. Codes and texts are JetStream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullStatus {
    /// 100, 404, 408, 409, 400, 423 or 503.
    pub code: u16,
    /// JetStream's text.
    pub text: std::borrow::Cow<'static, str>,
    /// Messages the pull still asked for.
    pub pending_messages: u64,
    /// Bytes the pull still asked for.
    pub pending_bytes: u64,
    /// Sequences of the last delivery: the consumer's and the stream's. With heartbeats.
    pub last: (u64, u64),
    /// Whether the pull is over.
    pub ended: bool,
    /// With heartbeats of a flow that has stopped: where the client is to publish, so that it goes on (NATS).
    pub stalled: Option<Arc<str>>,
    /// The subject it is sent to, if the pull named one (NATS).
    pub reply: Option<Arc<str>>,
}
