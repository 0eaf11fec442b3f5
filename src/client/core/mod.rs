//! Messages that are sent without being stored: subscriptions, requests and answers.

mod subscription;
mod task;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::Client;
use super::error::SendError;
use super::link::Link;
use super::message::Message;
use crate::model::event::CoreMessage as Received;
use crate::model::headers;
use crate::model::subject::{is_pattern, is_publishable};
use subscription::SubscriptionReceiver;
use task::Shared;

/// Status that answers a request nobody hears.
const NO_RESPONDERS: &[u8] = b"NATS/1.0 503";

/// The stream for messages of a client. Begun when it is first needed.
#[derive(Debug)]
pub(super) struct Core {
    shared: Arc<Shared>,
}

impl Core {
    pub(super) fn start(link: &Arc<Link>) -> Self {
        let shared = Arc::new(Shared::new(Arc::clone(link)));
        tokio::spawn(task::run(Arc::clone(&shared)));
        Self { shared }
    }
}

/// A message that a subscription received.
#[derive(Clone, Debug)]
pub struct CoreMessage {
    message: Received,
    shared: Arc<Shared>,
}

impl CoreMessage {
    /// Where it was sent.
    #[must_use]
    pub fn subject(&self) -> &str {
        // The codec has checked that it is text.
        std::str::from_utf8(&self.message.subject).unwrap_or_default()
    }

    /// Where an answer is expected, if one is.
    #[must_use]
    pub fn reply(&self) -> Option<&str> {
        std::str::from_utf8(&self.message.reply).ok().filter(|reply| !reply.is_empty())
    }

    /// The headers as (key, value).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers::iter(&self.message.headers)
    }

    /// The first header with this key.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<&str> {
        headers::get(&self.message.headers, key)
    }

    /// The body. Copies nothing.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.message.payload.clone()
    }

    /// Sends an answer to who asked.
    ///
    /// # Errors
    /// [`SendError::NoReply`] if the message was not sent as a request, or why sending failed.
    pub async fn respond(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let reply = self.reply().ok_or_else(|| SendError::NoReply(self.subject().to_owned()))?;
        send(&self.shared, Message::new(reply, payload), "").await
    }
}

async fn send(shared: &Shared, message: Message, reply: &str) -> Result<(), SendError> {
    if let Some(key) = message.wrong_header {
        return Err(SendError::Header(key));
    }
    if !is_publishable(&message.subject) {
        return Err(SendError::Subject(message.subject));
    }
    let (subject, headers, payload) = message.into_parts();
    shared.send(&subject, reply, &headers, &payload).await
}

/// Messages of a subject, from when it was made. Dropping it ends the subscription.
///
/// ```
/// # #[cfg(feature = "server")]
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let server = claudebus::server::Server::builder().start().await.unwrap();
/// # let transport = server.connect();
/// # let client =
/// #     claudebus::client::Client::builder().connect_over(transport).await.unwrap();
/// let mut lookups = client.subscribe("lookup.*").await?;
/// tokio::spawn(async move {
///     while let Some(request) = lookups.next().await {
///         request.respond("found").await.ok();
///     }
/// });
/// let answer = client.request("lookup.7", "?", std::time::Duration::from_secs(5)).await?;
/// assert_eq!(answer.payload(), "found");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Subscription {
    receiver: SubscriptionReceiver,
    /// Keeps the connection.
    _client: Client,
}

impl Subscription {
    /// The subject that was subscribed to.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.receiver.subject()
    }

    /// Messages dropped so far because this was not read fast enough.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.receiver.dropped()
    }

    /// The next message; none once the client is closed.
    pub async fn next(&mut self) -> Option<CoreMessage> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Subscription {
    type Item = CoreMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<CoreMessage>> {
        let receiver = &mut self.get_mut().receiver;
        let message = std::task::ready!(receiver.poll_receive(cx));
        Poll::Ready(
            message.map(|message| CoreMessage { message, shared: Arc::clone(receiver.shared()) }),
        )
    }
}

impl Client {
    /// Subscribes to messages of a subject, with `*` for one token and `>` for the rest. Returns when
    /// the subscription is in force. Nothing is stored: what is sent while the connection is lost
    /// is missed.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn subscribe(&self, subject: impl Into<String>) -> Result<Subscription, SendError> {
        self.subscribe_as(subject.into(), None).await
    }

    /// Subscribes as a member of a queue group: each message goes to one member.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn queue_subscribe(
        &self,
        subject: impl Into<String>,
        queue: impl Into<String>,
    ) -> Result<Subscription, SendError> {
        self.subscribe_as(subject.into(), Some(queue.into())).await
    }

    async fn subscribe_as(
        &self,
        subject: String,
        queue: Option<String>,
    ) -> Result<Subscription, SendError> {
        if !is_pattern(&subject) {
            return Err(SendError::Subject(subject));
        }
        if let Some(queue) = queue.as_ref().filter(|queue| !is_pattern(queue)) {
            return Err(SendError::Subject(queue.clone()));
        }
        let shared = &self.core().shared;
        let receiver = SubscriptionReceiver::start(shared, subject, queue)?;
        shared.barrier().await?;
        Ok(Subscription { receiver, _client: self.clone() })
    }

    /// Sends a message to whoever is subscribed, and to streams that capture the subject, without
    /// waiting for anything. [`Self::publish`] tells whether it was stored.
    ///
    /// # Errors
    /// [`SendError`] if it cannot be sent at all.
    pub async fn send(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        self.send_message(Message::new(subject, payload)).await
    }

    /// Sends a message with headers, as [`Self::send`] does.
    ///
    /// # Errors
    /// [`SendError`] if it cannot be sent at all.
    pub async fn send_message(&self, message: Message) -> Result<(), SendError> {
        send(&self.core().shared, message, "").await
    }

    /// Waits until the server has taken all that was sent before.
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub async fn flush(&self) -> Result<(), SendError> {
        self.core().shared.barrier().await
    }

    /// Sends a request and waits for the first answer.
    ///
    /// # Errors
    /// [`SendError::NoResponders`] if nobody listens, [`SendError::Timeout`], or why sending failed.
    pub async fn request(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<CoreMessage, SendError> {
        self.request_message(Message::new(subject, payload), timeout).await
    }

    /// Sends a request with headers, as [`Self::request`] does.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_message(
        &self,
        message: Message,
        timeout: Duration,
    ) -> Result<CoreMessage, SendError> {
        let shared = &self.core().shared;
        let subject = message.subject.clone();
        let exchange = async {
            let asked = shared.ask()?;
            // The inbox must be in force before the question is asked; one stream keeps the order.
            send(shared, message, asked.reply()).await?;
            asked.answer().await
        };
        let message = match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(SendError::Timeout { subject, after: timeout }),
        };
        if message.headers.starts_with(NO_RESPONDERS) {
            return Err(SendError::NoResponders(subject));
        }
        Ok(CoreMessage { message, shared: Arc::clone(shared) })
    }
}
