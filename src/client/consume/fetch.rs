//! One batch of messages, asked for by hand.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pull::{Item, PullOptions, PullReceiver};
use super::{Delivery, Handle};
use crate::client::error::ConsumeError;
use crate::model::event::{Gap, PullStatus};

/// How long a fetch waits for messages unless told otherwise.
const DEFAULT_EXPIRES: Duration = Duration::from_secs(5);

/// The server ends a fetch that has expired; so much later the client does, in case the server
/// cannot. 2 s: longer than any answer takes.
const GRACE: Duration = Duration::from_secs(2);

/// A fetch that is being put together; await it to have the messages.
///
/// It ends with the first of: as many messages as asked for, as many bytes, no more time, or,
/// with [`Self::no_wait`], nothing left. Messages in hand when the future is dropped come again
/// after the consumer's ack wait.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for until it is awaited"]
pub struct Fetch {
    handle: Arc<Handle>,
    batch: u64,
    max_bytes: u64,
    expires: Duration,
    no_wait: bool,
}

/// What a fetch brought.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The messages.
    pub deliveries: Vec<Delivery>,
    /// Messages between or behind them that are lost.
    pub gaps: Vec<Arc<Gap>>,
}

impl Fetch {
    pub(super) fn new(handle: Arc<Handle>, batch: u64) -> Self {
        Self { handle, batch, max_bytes: 0, expires: DEFAULT_EXPIRES, no_wait: false }
    }

    /// At most so many bytes of subjects, headers and payloads.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Waits at most so long. 5 s by default.
    pub fn expires(mut self, wait: Duration) -> Self {
        self.expires = wait;
        self
    }

    /// Takes what is there now, without waiting for more.
    pub fn no_wait(mut self) -> Self {
        self.no_wait = true;
        self
    }

    /// Fetches, and tells of messages that do not come because the server's disk lost them. Without
    /// this, only the client's events tell of them.
    ///
    /// # Errors
    /// As awaiting the fetch itself.
    pub async fn with_gaps(self) -> Result<Fetched, ConsumeError> {
        let mut gaps = Vec::new();
        let deliveries = self.run(&mut gaps).await?;
        Ok(Fetched { deliveries, gaps })
    }

    async fn run(self, gaps: &mut Vec<Arc<Gap>>) -> Result<Vec<Delivery>, ConsumeError> {
        let mut deliveries = Vec::new();
        if self.batch == 0 {
            return Ok(deliveries);
        }
        let mut pull = PullReceiver::start(
            &self.handle,
            PullOptions {
                batch: self.batch,
                max_bytes: self.max_bytes,
                expires: (!self.no_wait).then_some(self.expires),
                no_wait: self.no_wait,
                renewable: false,
                least_bytes: 0,
            },
        );
        let deadline = Instant::now() + self.expires + GRACE;
        loop {
            let item = match tokio::time::timeout_at(deadline, pull.receive()).await {
                Ok(item) => item,
                Err(_) => return Ok(deliveries),
            };
            match item {
                Some(Item::Deliveries(batch)) => {
                    deliveries.extend(
                        batch.into_iter().map(|delivered| Delivery {
                            delivered,
                            handle: Arc::clone(&self.handle),
                        }),
                    );
                    if deliveries.len() as u64 >= self.batch {
                        return Ok(deliveries);
                    }
                }
                Some(Item::Gap(gap)) => gaps.push(gap),
                Some(Item::Ended(status)) => return self.ended(deliveries, status),
                Some(Item::Failed(error)) if deliveries.is_empty() => return Err(error),
                Some(Item::Failed(_)) | None => return Ok(deliveries),
            }
        }
    }

    fn ended(
        &self,
        deliveries: Vec<Delivery>,
        status: PullStatus,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        // 404 and 408 say that there is no more; whatever else there is to say can wait until
        // the messages in hand are handled.
        if !deliveries.is_empty() || matches!(status.code, 404 | 408) {
            return Ok(deliveries);
        }
        Err(self.handle.shared.status_error(status))
    }
}

impl IntoFuture for Fetch {
    type Output = Result<Vec<Delivery>, ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.run(&mut Vec::new()).await })
    }
}
