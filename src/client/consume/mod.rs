//! Receiving stored messages from a consumer, and acknowledging them.
//!
//! A consumer has a QUIC stream of its own: a slow one holds up nobody else. Messages come only as
//! far as there is credit, so that memory is bounded; acknowledgements are collected into ranges
//! while the writer is at work.

mod acks;
mod fetch;
mod messages;
mod pull;
mod task;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use fetch::{Fetch, Fetched};
pub use messages::{Credit, Messages, Received};

use super::error::{AckError, RequestError};
use super::{Client, manage::StreamMessage};
use crate::model::consumer::{ConsumerConfig, ConsumerInfo};
use crate::model::event::Delivery as Delivered;
use crate::model::headers;
use crate::model::request::AckKind;
use crate::model::time::Timestamp;
use task::Shared;

/// A consumer, open to receive from. Clones share its stream.
///
/// ```
/// # #[cfg(feature = "server")]
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # use claudebus::client::{AckPolicy, ConsumerConfig, StreamConfig};
/// # let server = claudebus::server::Server::builder().start().await.unwrap();
/// # let transport = server.connect();
/// # let client =
/// #     claudebus::client::Client::builder().connect_over(transport).await.unwrap();
/// # client.create_stream(StreamConfig {
/// #     name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default()
/// # }).await.unwrap();
/// # client.publish("orders.new", "an order").await.unwrap();
/// let billing = client
///     .create_consumer("ORDERS", ConsumerConfig {
///         durable_name: Some("billing".into()),
///         ack_policy: AckPolicy::Explicit,
///         ..ConsumerConfig::default()
///     })
///     .await?;
/// for delivery in billing.fetch(10).no_wait().await? {
///     println!("{}: {:?}", delivery.subject(), delivery.payload());
///     delivery.ack().await?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Consumer {
    handle: Arc<Handle>,
    config: Arc<ConsumerConfig>,
}

/// Held by all that may still use the consumer's stream; tells its task when the last is gone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Keeps the connection.
    client: Client,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Consumer {
    pub(super) fn start(client: Client, info: ConsumerInfo) -> Self {
        let shared =
            Arc::new(Shared::new(Arc::clone(&client.inner.link), info.stream_name, info.name));
        tokio::spawn(task::run(Arc::clone(&shared)));
        Self { handle: Arc::new(Handle { shared, client }), config: Arc::new(info.config) }
    }

    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.handle.shared.stream()
    }

    /// The consumer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.handle.shared.name()
    }

    /// The configuration, as it was when the consumer was opened.
    #[must_use]
    pub fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    /// How it stands now.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn info(&self) -> Result<ConsumerInfo, RequestError> {
        self.handle.client.consumer_info(self.stream(), self.name()).await
    }

    /// Asks for up to `batch` messages: awaiting gives those that came. See [`Fetch`] for what else
    /// can be asked.
    #[must_use = "nothing is asked for until it is awaited"]
    pub fn fetch(&self, batch: u64) -> Fetch {
        Fetch::new(Arc::clone(&self.handle), batch)
    }

    /// All messages, as a stream that keeps itself filled.
    #[must_use]
    pub fn messages(&self) -> Messages {
        self.messages_with(Credit::default())
    }

    /// All messages, with so much in memory or on its way at a time.
    #[must_use]
    pub fn messages_with(&self, credit: Credit) -> Messages {
        let limits = self.handle.client.welcome().map(|welcome| welcome.limits).unwrap_or_default();
        Messages::start(&self.handle, credit, limits.max_frame as u64)
    }
}

/// One attempt of a consumer to hand a message to the application. Copies no bytes.
#[derive(Clone, Debug)]
pub struct Delivery {
    delivered: Delivered,
    handle: Arc<Handle>,
}

impl Delivery {
    /// Where the message was published.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.delivered.record.subject()
    }

    /// The headers as (key, value).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers::iter(self.delivered.record.headers())
    }

    /// The first header with this key.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<&str> {
        headers::get(self.delivered.record.headers(), key)
    }

    /// The body; empty if the consumer delivers headers only.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.delivered.record.payload_bytes()
    }

    /// The message's sequence in its stream.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.delivered.record.seq
    }

    /// The number of this delivery among all of the consumer, from 1.
    #[must_use]
    pub fn consumer_seq(&self) -> u64 {
        self.delivered.consumer_seq
    }

    /// How often the message was delivered, this time included.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.delivered.attempts
    }

    /// Messages that the consumer has still to deliver after this one.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.delivered.pending
    }

    /// When the message was stored.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp(self.delivered.record.time)
    }

    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.handle.shared.stream()
    }

    /// The consumer's name.
    #[must_use]
    pub fn consumer(&self) -> &str {
        self.handle.shared.name()
    }

    /// The message alone, which keeps nothing of the consumer alive.
    #[must_use]
    pub fn into_message(self) -> StreamMessage {
        StreamMessage::new(self.delivered.record)
    }

    /// Done with it. Returns when the acknowledgement is on its way, together with its neighbours;
    /// if it is lost with the connection, the message is delivered again.
    ///
    /// # Errors
    /// [`AckError`] if it cannot be sent any more.
    pub async fn ack(&self) -> Result<(), AckError> {
        self.settle(AckKind::Ack).await
    }

    /// Done with it, and waits until the server has made that durable: the message will not come
    /// again.
    ///
    /// # Errors
    /// [`AckError`] if the server refuses it, or it cannot be sent any more.
    pub async fn ack_confirmed(&self) -> Result<(), AckError> {
        self.handle.shared.ack_confirmed(self.seq()).await
    }

    /// Could not handle it: deliver it again after `delay`.
    ///
    /// # Errors
    /// [`AckError`] if it cannot be sent any more.
    pub async fn nak(&self, delay: Duration) -> Result<(), AckError> {
        self.settle(AckKind::Nak { delay }).await
    }

    /// Still at work: the time to acknowledge starts anew.
    ///
    /// # Errors
    /// [`AckError`] if it cannot be sent any more.
    pub async fn in_progress(&self) -> Result<(), AckError> {
        self.settle(AckKind::InProgress).await
    }

    /// Never deliver it again: it becomes a dead letter with this reason.
    ///
    /// # Errors
    /// [`AckError`] if it cannot be sent any more.
    pub async fn terminate(&self, reason: impl Into<String>) -> Result<(), AckError> {
        self.settle(AckKind::Terminate { reason: reason.into() }).await
    }

    async fn settle(&self, kind: AckKind) -> Result<(), AckError> {
        self.handle.shared.ack(kind, self.seq()).await
    }
}
