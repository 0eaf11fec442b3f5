//! Publishing to streams: one message at a time, or pipelined.
//!
//! A publisher has a QUIC stream of its own. Messages are encoded into the frame being filled; its
//! task writes that frame as soon as the last one is on its way, so that batches form by themselves
//! under load and nothing waits without. What is not acknowledged is kept and, after a lost
//! connection, sent again under the same numbers, which the server stores once.

mod task;
mod window;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Client;
use super::error::PublishError;
use super::link::Link;
use super::message::Message;
use crate::model::request::ProducerId;
use crate::wire::native::WireLimits;
use task::Shared;
pub use window::WindowLimits;

/// A message is stored, durably: it survives power loss from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The stream that stored it.
    pub stream: Arc<str>,
    /// Its sequence there. Zero if it had been stored long ago under the same id or number, and the
    /// server no longer knows.
    pub seq: u64,
    /// Whether it had been stored before, under the same message id or by a frame sent twice.
    pub duplicate: bool,
}

/// Publishes messages one after the other without waiting for each acknowledgement. Messages of one
/// publisher are stored in the order they were published. Clones are the same publisher.
///
/// When the last clone is dropped, what was published is still delivered.
///
/// ```
/// # #[cfg(feature = "server")]
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let server = claudebus::server::Server::builder().start().await.unwrap();
/// # let transport = server.connect();
/// # let client =
/// #     claudebus::client::Client::builder().connect_over(transport).await.unwrap();
/// # client.create_stream(claudebus::client::StreamConfig {
/// #     name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default()
/// # }).await.unwrap();
/// let publisher = client.publisher();
/// for number in 0..1000 {
///     publisher.publish("orders.new", format!("order {number}")).await?;
/// }
/// publisher.flush().await?; // All are stored now, or one was refused.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Publisher {
    handle: Arc<Handle>,
    /// Keeps the connection; none for the publisher that the client itself holds.
    _client: Option<Client>,
}

/// Held by all clones of a publisher; tells its task when the last is gone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Publisher {
    pub(super) fn start(link: &Arc<Link>, window: WindowLimits, client: Option<Client>) -> Self {
        let producer = ProducerId(rand::random());
        let limits = link.current().map_or_else(WireLimits::default, |up| up.welcome.limits);
        let shared = Arc::new(Shared::new(Arc::clone(link), producer, window, limits));
        tokio::spawn(task::run(Arc::clone(&shared)));
        Self { handle: Arc::new(Handle { shared }), _client: client }
    }

    /// Publishes a message. Waits only while the window is full; the ticket tells what became of it.
    /// A dropped ticket does not take the message back; [`Self::flush`] reports its failure.
    ///
    /// # Errors
    /// [`PublishError`] if the message cannot be sent at all: a wrong subject, too large, or the
    /// client is closed.
    pub async fn publish(
        &self,
        subject: impl AsRef<str>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Ticket, PublishError> {
        self.push(subject.as_ref(), &[], payload.as_ref()).await
    }

    /// Publishes a message with headers, as [`Self::publish`] does.
    ///
    /// # Errors
    /// As [`Self::publish`], and a header that cannot be one.
    pub async fn publish_message(&self, message: Message) -> Result<Ticket, PublishError> {
        if let Some(key) = message.wrong_header {
            return Err(PublishError::Header(key));
        }
        let (subject, headers, payload) = message.into_parts();
        self.push(&subject, &headers, &payload).await
    }

    async fn push(
        &self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> Result<Ticket, PublishError> {
        let shared = &self.handle.shared;
        let counter = match shared.try_push(subject, headers, payload)? {
            Some(counter) => counter,
            None => shared.push_when_room(subject, headers, payload).await?,
        };
        Ok(Ticket { shared: Arc::clone(shared), counter, told: false })
    }

    /// Waits until everything published so far is acknowledged or refused.
    ///
    /// # Errors
    /// The first failure since the last flush of a message whose ticket was dropped; failures that
    /// a ticket tells are told there.
    pub async fn flush(&self) -> Result<(), PublishError> {
        self.handle.shared.flush().await
    }
}

/// What becomes of a published message: await it. It stays pending over lost connections until the
/// server has answered or the client is closed.
#[derive(Debug)]
#[must_use = "await it to know that the message is stored, or flush the publisher"]
pub struct Ticket {
    shared: Arc<Shared>,
    counter: u64,
    told: bool,
}

impl Future for Ticket {
    type Output = Result<Ack, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.get_mut();
        if ticket.told {
            // Polled after it was done, which futures need not allow.
            return Poll::Pending;
        }
        let result = std::task::ready!(ticket.shared.poll(ticket.counter, cx.waker()));
        ticket.told = true;
        Poll::Ready(result)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.told {
            self.shared.abandon_ticket(self.counter);
        }
    }
}
