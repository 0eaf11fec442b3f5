//! What happens to a client's connection, for those who want to know.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast;

use crate::model::event::Gap;

/// Events that wait for a slow observer before the oldest are dropped. 64: connections change a few
/// times a minute at most.
pub(super) const EVENT_BACKLOG: usize = 64;

/// Something happened to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The first connection stands.
    Connected {
        /// The server.
        address: String,
    },
    /// The connection is lost. What is in flight stays so, and is sent again later.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// An attempt to connect again failed.
    AttemptFailed {
        /// Number of the attempt since the connection was lost, from 1.
        attempt: u32,
        /// Why.
        reason: String,
        /// When the next follows.
        retry_in: Duration,
    },
    /// The connection stands again.
    Reconnected {
        /// The server.
        address: String,
        /// Attempts it took.
        attempts: u32,
    },
    /// A subscription's buffer was full, and messages for it are being dropped.
    SlowSubscriber {
        /// Its subject.
        subject: String,
        /// Messages dropped so far.
        dropped: u64,
    },
    /// A consumer passed over messages that the server's disk lost.
    Gap(Gap),
    /// The client is closed for good.
    Closed {
        /// Why.
        reason: String,
    },
}

impl std::fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected { address } => write!(f, "connected to {address}"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
            Self::AttemptFailed { attempt, reason, retry_in } => {
                write!(f, "attempt {attempt} to reconnect failed: {reason}; next in {retry_in:?}")
            }
            Self::Reconnected { address, attempts } => {
                write!(f, "connected to {address} again, after {attempts} attempts")
            }
            Self::SlowSubscriber { subject, dropped } => {
                write!(f, "subscription {subject} is too slow: {dropped} messages dropped")
            }
            Self::Gap(gap) => write!(f, "{gap}"),
            Self::Closed { reason } => write!(f, "closed: {reason}"),
        }
    }
}

/// The events of one client, from when this was made. Ends when the client is closed.
#[derive(Debug)]
pub struct Events {
    receiver: Option<broadcast::Receiver<ConnectionEvent>>,
    next: Option<NextEvent>,
}

type Received = (Option<ConnectionEvent>, broadcast::Receiver<ConnectionEvent>);

/// Waiting for the next event; owns the receiver meanwhile.
struct NextEvent(Pin<Box<dyn Future<Output = Received> + Send + Sync>>);

impl std::fmt::Debug for NextEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NextEvent")
    }
}

impl Events {
    pub(super) fn new(receiver: broadcast::Receiver<ConnectionEvent>) -> Self {
        Self { receiver: Some(receiver), next: None }
    }

    /// The next event; none once the client is closed. Events that this observer was too slow for
    /// are left out.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

async fn receive(mut receiver: broadcast::Receiver<ConnectionEvent>) -> Received {
    loop {
        match receiver.recv().await {
            Ok(event) => return (Some(event), receiver),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return (None, receiver),
        }
    }
}

impl Stream for Events {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        if let Some(receiver) = self.receiver.take() {
            self.next = Some(NextEvent(Box::pin(receive(receiver))));
        }
        let Some(next) = self.next.as_mut() else { return Poll::Ready(None) };
        let (event, receiver) = std::task::ready!(next.0.as_mut().poll(cx));
        self.next = None;
        if event.is_some() {
            self.receiver = Some(receiver);
        }
        Poll::Ready(event)
    }
}
