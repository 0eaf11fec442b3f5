//! The SDK: publish, consume, ask, and manage, over QUIC or within one process.
//!
//! A [`Client`] is one connection that makes itself again when it breaks. Everything it hands out
//! goes on by itself then: messages in flight are sent again and stored once, consumers open again,
//! subscriptions are renewed. Clones are cheap and share the connection.
//!
//! | to | use |
//! |---|---|
//! | store messages | [`Client::publish`], [`Client::publisher`], [`Client::publish_atomically`] |
//! | store messages later, or again and again | [`Message::deliver_at`] and the like, [`Client::schedules`] |
//! | receive stored messages | [`Client::consumer`], [`Consumer::fetch`], [`Consumer::messages`] |
//! | send without storing | [`Client::send`], [`Client::subscribe`], [`Client::request`] |
//! | manage | [`Client::create_stream`] and the like |
//! | watch | [`Client::events`] |
//!
//! Nothing here knows the broker or its storage; what stands on the wire is in
//! [`wire::native`](crate::wire::native).

mod address;
mod consume;
mod control;
mod core;
mod error;
mod event;
mod frames;
mod link;
pub(crate) mod local;
mod manage;
mod message;
mod options;
mod publish;
mod quic;
mod supervisor;
pub(crate) mod tls;
pub mod transport;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

pub use self::core::{CoreMessage, Subscription};
pub use address::{Address, AddressError, DEFAULT_PORT};
pub use consume::{Consumer, Credit, Delivery, Fetch, Fetched, Messages, Received};
pub use error::{AckError, ConnectError, ConsumeError, PublishError, RequestError, SendError};
pub use event::{ConnectionEvent, Events};
pub use local::{CONTEXT_VARIABLE, LocalError, LocalServer};
pub use manage::{BatchAck, DeadLetterPage, StreamMessage};
pub use message::Message;
pub use options::{ClientBuilder, ReconnectPolicy};
pub use publish::{Ack, Publisher, Ticket, WindowLimits};
pub use tls::{Fingerprint, FingerprintError, TrustError};

pub use crate::model::api::{
    BatchPlace, ConsumerAction, DeadLetter, DeadOptions, MessageGetOptions, PurgeOptions,
    ScheduledMessage, StreamInfoOptions,
};
pub use crate::model::consumer::{
    AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, Idle, ReplayPolicy,
};
pub use crate::model::error::ApiError;
pub use crate::model::event::Gap;
pub use crate::model::stream::{
    BlockCompression, DeadLetters, Discard, Retention, Storage, StreamConfig, StreamInfo,
    StreamState,
};
pub use crate::model::time::Timestamp;
pub use crate::wire::native::{Welcome, WireLimits};

use self::core::Core;
use control::{Answer, Request};
use link::Link;

/// A connection to a server, that is made again when it breaks. It is closed when the last clone
/// and everything that came from it (publishers, consumers, subscriptions) is gone.
///
/// ```
/// # #[cfg(feature = "server")]
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let server = claudebus::server::Server::builder().start().await.unwrap();
/// use claudebus::client::{Client, StreamConfig};
///
/// // Client::connect("quic://localhost:4222").await?, or within the process of a server:
/// let client = Client::builder().connect_over(server.connect()).await?;
/// client
///     .create_stream(StreamConfig {
///         name: "ORDERS".into(),
///         subjects: vec!["orders.>".into()],
///         ..StreamConfig::default()
///     })
///     .await?;
/// let ack = client.publish("orders.new", "a first order").await?;
/// assert_eq!((&*ack.stream, ack.seq), ("ORDERS", 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    requests: mpsc::Sender<Request>,
    options: ClientBuilder,
    publisher: OnceLock<Publisher>,
    core: OnceLock<Core>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.set_closing();
    }
}

impl Client {
    /// Connects to a server, `quic://host:port`. A server on this machine is believed by the
    /// certificate authority it made; for others see [`Client::builder`].
    ///
    /// # Errors
    /// [`ConnectError`] if the first connection cannot be made.
    pub async fn connect(url: impl Into<String>) -> Result<Self, ConnectError> {
        Self::builder().url(url).connect().await
    }

    /// Settings to connect with.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    fn new(link: Arc<Link>, requests: mpsc::Sender<Request>, options: ClientBuilder) -> Self {
        let inner =
            Inner { link, requests, options, publisher: OnceLock::new(), core: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Publishes a message and waits until it is stored, durably. Many tasks may do so at the same
    /// time: their messages travel together.
    ///
    /// # Errors
    /// [`PublishError`]: it is not stored, or the client was closed before that was known.
    pub async fn publish(
        &self,
        subject: impl AsRef<str>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Ack, PublishError> {
        self.shared_publisher().publish(subject, payload).await?.await
    }

    /// Publishes a message with headers, as [`Self::publish`] does.
    ///
    /// # Errors
    /// As [`Self::publish`], and headers that cannot be such.
    pub async fn publish_message(&self, message: Message) -> Result<Ack, PublishError> {
        self.shared_publisher().publish_message(message).await?.await
    }

    fn shared_publisher(&self) -> &Publisher {
        self.inner
            .publisher
            .get_or_init(|| Publisher::start(&self.inner.link, self.inner.options.window, None))
    }

    /// A publisher with a stream of its own, to publish without waiting for each message. Must be
    /// called within a tokio runtime.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::start(&self.inner.link, self.inner.options.window, Some(self.clone()))
    }

    /// What the server said of itself when the connection was made; none while there is none.
    #[must_use]
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.inner.link.current().map(|up| up.welcome)
    }

    /// Whether the connection stands at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.link.current().is_some()
    }

    /// What happens to the connection from here on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.inner.link.events())
    }

    /// Closes the client for all its clones, after what is in flight is acknowledged, or after the
    /// close timeout.
    pub async fn close(&self) {
        self.inner.link.set_closing();
        self.inner.link.closed().await;
    }

    fn core(&self) -> &Core {
        self.inner.core.get_or_init(|| Core::start(&self.inner.link))
    }

    /// Sends a request on the control stream and waits for its answer.
    async fn ask<B: Serialize + Sync>(
        &self,
        operation: String,
        body: &B,
        idempotent: bool,
    ) -> Result<(String, Answer), RequestError> {
        let body = match serde_json::to_vec(body) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                return Err(RequestError::Answer { operation, reason: error.to_string() });
            }
        };
        let (answer, answered) = oneshot::channel();
        let request = Request { operation: operation.clone(), body, idempotent, answer };
        let closed = |operation: &String| RequestError::Closed { operation: operation.clone() };
        let exchange = async {
            if self.inner.link.is_closing() {
                return Err(closed(&operation));
            }
            self.inner.requests.send(request).await.map_err(|_| closed(&operation))?;
            answered.await.map_err(|_| closed(&operation))?
        };
        let limit: Duration = self.inner.options.request_timeout;
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result.map(|answer| (operation, answer)),
            Err(_) => Err(RequestError::Timeout { operation, after: limit }),
        }
    }
}
