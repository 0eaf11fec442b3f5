//! All messages of a consumer as a stream that keeps itself filled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::pull::{Item, PullOptions, PullReceiver};
use super::{Delivery, Handle};
use crate::client::error::ConsumeError;
use crate::model::event::{Delivery as Delivered, Gap};

/// What a [`Messages`] stream may have in memory or on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Messages. 16,384 by default: at three million a second it lasts for 5 ms, longer than a
    /// server that shares its processor with the client may have to wait for its turn. (With a
    /// quarter of it a third of the speed was lost that way.) Smaller shares work more evenly among
    /// those who read from the same consumer.
    pub messages: u64,
    /// Bytes of subjects, headers and payloads. 4 MiB by default; never less than the largest
    /// message.
    pub bytes: u64,
}

impl Default for Credit {
    fn default() -> Self {
        Self { messages: 16384, bytes: 4 << 20 }
    }
}

/// How much of a credit has been used up since it was raised.
#[derive(Debug)]
struct Used {
    credit: Credit,
    messages: u64,
    bytes: u64,
}

impl Used {
    /// Counts a message that was handed out; gives what to raise once half of the credit is used.
    fn take(&mut self, bytes: u64) -> Option<(u64, u64)> {
        self.messages += 1;
        self.bytes += bytes;
        if self.messages * 2 < self.credit.messages && self.bytes * 2 < self.credit.bytes {
            return None;
        }
        Some((std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes)))
    }
}

/// What comes from a consumer.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Delivery(Delivery),
    /// Messages that do not come: the server's disk lost them.
    Gap(Arc<Gap>),
}

/// The messages of a consumer, for ever. It asks for more by itself as they are taken, goes on
/// after a lost connection, and ends only with an error or with the client. What it holds when it is
/// dropped is given back to the consumer.
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
/// # let consumer = client.create_consumer("ORDERS", ConsumerConfig {
/// #     durable_name: Some("billing".into()), ack_policy: AckPolicy::Explicit,
/// #     ..Default::default()
/// # }).await.unwrap();
/// let mut messages = consumer.messages();
/// while let Some(delivery) = messages.next().await {
///     let delivery = delivery?;
///     println!("{}", delivery.subject());
///     delivery.ack().await?;
/// #   break;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Messages {
    pull: PullReceiver,
    current: std::vec::IntoIter<Delivered>,
    used: Used,
    ended: bool,
}

impl Messages {
    pub(super) fn start(handle: &Arc<Handle>, credit: Credit, largest: u64) -> Self {
        let credit =
            Credit { messages: credit.messages.max(1), bytes: credit.bytes.max(2 * largest) };
        let pull = PullReceiver::start(handle, options(credit));
        Self {
            pull,
            current: Vec::new().into_iter(),
            used: Used { credit, messages: 0, bytes: 0 },
            ended: false,
        }
    }

    /// The next message or gap, in their order; none once the client is closed. [`Self::next`] leaves
    /// gaps to the client's events.
    pub async fn next_or_gap(&mut self) -> Option<Result<Received, ConsumeError>> {
        std::future::poll_fn(|cx| self.poll_received(cx)).await
    }

    /// The next message; none once the client is closed.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn hand_out(&mut self, delivered: Delivered) -> Delivery {
        if let Some((messages, bytes)) = self.used.take(Delivered::pull_bytes(&delivered.record)) {
            self.pull.raise(messages, bytes);
        }
        Delivery { delivered, handle: Arc::clone(self.pull.handle()) }
    }
}

fn options(credit: Credit) -> PullOptions {
    PullOptions {
        batch: credit.messages,
        max_bytes: credit.bytes,
        expires: None,
        no_wait: false,
        renewable: true,
        least_bytes: credit.bytes / 2,
    }
}

impl Stream for Messages {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let messages = self.get_mut();
        loop {
            match std::task::ready!(messages.poll_received(cx)) {
                Some(Ok(Received::Delivery(delivery))) => return Poll::Ready(Some(Ok(delivery))),
                Some(Ok(Received::Gap(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Messages {
    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Received, ConsumeError>>> {
        let messages = self;
        loop {
            if let Some(delivered) = messages.current.next() {
                return Poll::Ready(Some(Ok(Received::Delivery(messages.hand_out(delivered)))));
            }
            if messages.ended {
                return Poll::Ready(None);
            }
            match std::task::ready!(messages.pull.poll_receive(cx)) {
                Some(Item::Deliveries(batch)) => messages.current = batch.into_iter(),
                Some(Item::Gap(gap)) => return Poll::Ready(Some(Ok(Received::Gap(gap)))),
                // The server bounds how long a pull waits; the stream goes on.
                Some(Item::Ended(status)) if status.code == 408 => {
                    let handle = Arc::clone(messages.pull.handle());
                    messages.used = Used { messages: 0, bytes: 0, ..messages.used };
                    messages.pull = PullReceiver::start(&handle, options(messages.used.credit));
                }
                Some(Item::Ended(status)) => {
                    messages.ended = true;
                    let error = messages.pull.handle().shared.status_error(status);
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Item::Failed(ConsumeError::Closed { .. })) | None => messages.ended = true,
                Some(Item::Failed(error)) => {
                    messages.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.pull.give_back(std::mem::take(&mut self.current));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_raised_at_half_by_what_was_used() {
        let credit = Credit { messages: 10, bytes: 100 };
        let mut used = Used { credit, messages: 0, bytes: 0 };
        let raised: Vec<_> = (0..10).filter_map(|_| used.take(1)).collect();
        assert_eq!(raised, [(5, 5), (5, 5)]);
        assert_eq!(used.take(49), None);
        assert_eq!(used.take(1), Some((2, 50)));
        assert_eq!(used.take(300), Some((1, 300)), "one large message is half of everything");
    }

    #[test]
    fn a_credit_of_one_is_raised_every_time() {
        let mut used = Used { credit: Credit { messages: 1, bytes: 100 }, messages: 0, bytes: 0 };
        assert_eq!(used.take(1), Some((1, 1)));
    }
}
