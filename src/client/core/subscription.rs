//! The two ends of a subscription: where its messages wait, and where they are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::task::{Shared, subscribe, unsubscribe};
use crate::client::error::SendError;
use crate::client::event::ConnectionEvent;
use crate::model::event::CoreMessage as Received;

/// Messages that wait in one subscription before more are dropped. 65,536: half a second of a busy
/// subject.
const SUBSCRIPTION_MESSAGES: usize = 65_536;

/// Bytes that wait in one subscription before more are dropped. 64 MiB: as NATS gives a slow client.
const SUBSCRIPTION_BYTES: usize = 64 << 20;

/// A subscription, as the task knows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: Arc<str>,
    pub(super) queue: Option<String>,
    pub(super) sender: mpsc::Sender<Received>,
    pub(super) counts: Arc<Counts>,
}

/// What a subscription holds, shared by both of its ends.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: AtomicUsize,
    pub(super) dropped: AtomicU64,
}

impl Entry {
    /// Hands out a message. Tells if the subscription is too slow for it.
    pub(super) fn receive(&self, message: Received) -> Option<ConnectionEvent> {
        let size = size_of(&message);
        let held = self.counts.bytes.fetch_add(size, Ordering::Relaxed) + size;
        if held <= SUBSCRIPTION_BYTES && self.sender.try_send(message).is_ok() {
            return None;
        }
        self.counts.bytes.fetch_sub(size, Ordering::Relaxed);
        let dropped = self.counts.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        // Said at 1, 2, 4, 8 and so on, not for each.
        dropped
            .is_power_of_two()
            .then(|| ConnectionEvent::SlowSubscriber { subject: self.subject.to_string(), dropped })
    }
}

/// Bytes that a waiting message is charged.
fn size_of(message: &Received) -> usize {
    message.subject.len()
        + message.reply.len()
        + message.headers.len()
        + message.payload.len()
        + std::mem::size_of::<Received>()
}

/// The receiving end of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub(super) struct SubscriptionReceiver {
    shared: Arc<Shared>,
    token: u64,
    subject: Arc<str>,
    receiver: mpsc::Receiver<Received>,
    counts: Arc<Counts>,
}

impl SubscriptionReceiver {
    pub(super) fn start(
        shared: &Arc<Shared>,
        subject: String,
        queue: Option<String>,
    ) -> Result<Self, SendError> {
        let (sender, receiver) = mpsc::channel(SUBSCRIPTION_MESSAGES);
        let subject: Arc<str> = subject.into();
        let counts = Arc::new(Counts::default());
        let entry =
            Entry { subject: Arc::clone(&subject), queue, sender, counts: Arc::clone(&counts) };
        let token = subscribe(shared, entry)?;
        Ok(Self { shared: Arc::clone(shared), token, subject, receiver, counts })
    }

    #[cfg(test)]
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        let message = std::task::ready!(self.receiver.poll_recv(cx));
        if let Some(message) = &message {
            self.counts.bytes.fetch_sub(size_of(message), Ordering::Relaxed);
        }
        Poll::Ready(message)
    }
}

impl Drop for SubscriptionReceiver {
    fn drop(&mut self) {
        unsubscribe(&self.shared, self.token);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::client::link::Link;

    fn message(subject: &str) -> Received {
        Received { subject: subject.to_owned().into(), ..Received::default() }
    }

    #[tokio::test]
    async fn a_full_subscription_drops_and_counts() {
        let shared = Arc::new(Shared::new(Link::new()));
        let mut subscription = SubscriptionReceiver::start(&shared, "a".to_owned(), None).unwrap();
        let token = subscription.token;
        for _ in 0..SUBSCRIPTION_MESSAGES {
            assert_eq!(shared.receive(token, message("a")), None);
        }
        let told = shared.receive(token, message("a"));
        assert_eq!(told, Some(ConnectionEvent::SlowSubscriber { subject: "a".into(), dropped: 1 }));
        let first = std::future::poll_fn(|cx| subscription.poll_receive(cx)).await;
        assert_eq!(first, Some(message("a")));
        assert_eq!(shared.receive(token, message("a")), None);
        assert_eq!(subscription.dropped(), 1);
    }
}
