//! What sessions ask of the broker. Typed and free of any protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::AnswerKind;
use super::api::ApiRequest;
use super::batch::MessageBatch;
use super::error::ApiError;
use crate::access::Grant;

/// One session of the server: the protocol state of one QUIC stream or one NATS connection. The
/// broker addresses its events to sessions; numbers are never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One connection of a client. All sessions of the streams of a QUIC connection have the same. Numbers are
/// never reused while the server runs; 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names a subscription, pull or request within its session. Chosen by the session; answers repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A publisher that numbers its messages, so that resending them after a lost connection stores
/// them once. Chosen at random by the client; 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub u128);

/// Where messages for a pull or an answer go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReplyTo {
    /// To the session itself, under this token.
    Session(Token),
    /// To whoever is subscribed to this subject (NATS inboxes).
    Subject(String),
}

/// One request of a session.
#[derive(Clone, Debug)]
pub enum Request {
    /// The session begins. Sent once, first.
    Opened {
        /// Whose session it is.
        connection: ConnectionId,
    },
    /// The session is over: subscriptions, waiting pulls and core interest go with it.
    Closed,
    /// Numbered messages of a producer: message i has counter `first + i`. Each is answered, as
    /// part of a range, by [`Event::Published`](super::event::Event::Published) or
    /// [`Event::Refused`](super::event::Event::Refused).
    Publish {
        /// Who numbers them.
        producer: ProducerId,
        /// Counter of the first.
        first: u64,
        /// The messages.
        batch: MessageBatch,
    },
    /// Messages without numbers, for streams and core subscribers. A message with a reply that a
    /// stream stores is answered there with JetStream's JSON (NATS); `echo` tells whether the
    /// session's own subscriptions get them too.
    Send {
        /// The messages.
        batch: MessageBatch,
        /// Whether the sender gets its own messages.
        echo: bool,
    },
    /// Messages that ask something of the server, which does it by other requests: for core subscribers, who
    /// may want to see what is asked. Neither a stream nor the sender learns whether anybody does.
    Overhear {
        /// The messages.
        batch: MessageBatch,
        /// Whether the sender gets its own messages.
        echo: bool,
    },
    /// Subscribe to a core subject. Not durable: messages published meanwhile.
    Subscribe {
        /// Names the subscription.
        token: Token,
        /// Subject pattern.
        subject: String,
        /// Members of a queue group share its messages.
        queue: Option<String>,
    },
    /// End a subscription, at once or after `max` messages since it began.
    Unsubscribe {
        /// The subscription.
        token: Token,
        /// Messages after which it ends.
        max: Option<u64>,
    },
    /// Ask a consumer for messages.
    Pull(Pull),
    /// Allow `more` messages and `more_bytes` bytes to a waiting pull of this session, reviving it
    /// if it was used up. Only for pulls with [`Pull::renewable`].
    Raise {
        /// The pull.
        token: Token,
        /// Messages.
        more: u64,
        /// Bytes.
        more_bytes: u64,
    },
    /// Withdraw a waiting pull of this session. What was delivered stays pending.
    Cancel {
        /// The pull.
        token: Token,
    },
    /// Bytes of deliveries that the session has sent on, so that more may come. The broker
    /// stops at [`Limits::max_session_deliveries`](super::limits::Limits::max_session_deliveries).
    Sent {
        /// Bytes.
        bytes: usize,
    },
    /// Acknowledge deliveries.
    Ack(Ack),
    /// A request about streams and consumers. Answered by
    /// [`Event::Answer`](super::event::Event::Answer) with the same token.
    Api {
        /// Names the request.
        token: Token,
        /// What is asked.
        request: ApiRequest,
    },
    /// A request whose answer goes to whoever is subscribed to a subject (NATS), as JetStream's JSON
    /// or as the message itself. The session learns that it is done by
    /// [`Event::Answered`](super::event::Event::Answered).
    ApiTo {
        /// Where the answer goes; empty if none is wanted.
        reply: String,
        /// The subject of the request, of those that nobody may be behind; empty otherwise.
        subject: String,
        /// Which kind of answer it is.
        kind: AnswerKind,
        /// What is asked, or what is wrong with how it was asked.
        request: Result<ApiRequest, ApiError>,
    },
    /// A message from the session itself to whoever is subscribed to a subject (NATS): an answer that
    /// needs no broker, in order with those that do.
    Tell {
        /// The subject.
        subject: String,
        /// The header block, or empty.
        headers: Bytes,
        /// The message body.
        payload: Bytes,
    },
    /// A part of a snapshot has arrived (NATS).
    SnapshotAck {
        /// The subject that it named.
        subject: String,
    },
    /// A client of a push consumer has received what was sent before it was asked to publish to this
    /// subject (NATS).
    FlowAnswer {
        /// The subject.
        subject: String,
    },
    /// A request to a subject that nobody is behind.
    Unheard {
        /// The subject.
        subject: String,
        /// Where the answer was expected.
        reply: String,
    },
    /// Whether the session wants to be told when nobody got a request of it, which it is unless it
    /// says otherwise.
    NoResponders {
        /// Whether it wants to.
        tell: bool,
    },
    /// What the session's client may do, for what only the broker can see to: that nothing it may not get
    /// is delivered to its subscriptions, and that answers to what it publishes go nowhere else. What it
    /// asks is checked by the session. Everything is permitted before; a second one counts for
    /// subscriptions that begin from then on.
    Grant(Arc<Grant>),
    /// Answered by [`Event::Barrier`](super::event::Event::Barrier) with the same token once all before it
    /// was handled. Does not wait for the disk.
    Barrier {
        /// Names it.
        token: Token,
    },
}

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Where deliveries and statuses go.
    pub reply: ReplyTo,
    /// The stream's name.
    pub stream: String,
    /// The consumer's name.
    pub consumer: String,
    /// Most messages; at least 1.
    pub batch: u64,
    /// Most bytes of deliveries (as JetStream counts them); zero for no limit.
    pub max_bytes: u64,
    /// How long to wait; none for ever (bounded by the server).
    pub expires: Option<Duration>,
    /// Answer with what is there now.
    pub no_wait: bool,
    /// Send a sign of life so often without deliveries.
    pub heartbeat: Option<Duration>,
    /// Whether the pull stays when it is used up, to be raised.
    pub renewable: bool,
    /// What it says of its priority, if anything. Pulls of sessions and those of a number alone say nothing.
    pub group: Option<Box<PullGroup>>,
}

/// What a pull says of its priority (ADR-42). What it does not say is zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullGroup {
    /// The priority group.
    pub group: String,
    /// Overflow: messages that must be pending before it has one.
    pub min_pending: i64,
    /// Overflow: deliveries that must await acknowledgement before it has one.
    pub min_ack_pending: i64,
    /// Prioritized: 0 comes first, 9 last.
    pub priority: i64,
    /// Pinned: what the client was told when it was pinned.
    pub id: String,
}

/// Acknowledgements of one kind for one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The stream's name.
    pub stream: String,
    /// The consumer's name.
    pub consumer: String,
    /// Inclusive ranges of stream sequences. Those not pending are ignored.
    pub sequences: Vec<(u64, u64)>,
    /// What they say.
    pub kind: AckKind,
    /// If given, answered by [`Event::AckConfirmed`](super::event::Event::AckConfirmed) once durable; a
    /// subject gets an empty message.
    pub confirm: Option<ReplyTo>,
    /// The subject it was published to (NATS), to say that no consumer is behind it. Empty if nobody
    /// waits for that.
    pub subject: String,
}

/// What an acknowledgement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// Done.
    Ack,
    /// Deliver again, after the delay.
    Nak {
        /// How long to wait.
        delay: Duration,
    },
    /// Still at work: the time to acknowledge starts anew.
    InProgress,
    /// Never deliver again; it becomes a dead letter with this reason.
    Terminate {
        /// Why.
        reason: String,
    },
}
