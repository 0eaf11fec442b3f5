//! Messages spread over streams and subjects, and the consumers of disjoint parts of them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::payload::{Content, Payloads};
use super::sample::defect;
use crate::cli::exit::{Exit, Failure};
use crate::client::{
    AckPolicy, Client, Consumer, ConsumerConfig, DeliverPolicy, PublishError, StreamConfig,
};

/// Streams begin with this, and go on with a number.
const STREAM: &str = "CLAUDEBUS_BENCH_";
/// The first token of all subjects.
pub(super) const ROOT: &str = "claudebus-bench";
/// How long messages that are on their way may take.
const SETTLE: Duration = Duration::from_secs(60);
/// Messages published between two looks at the clock.
const LOOK_EVERY: u64 = 64;
/// Streams or consumers that are made at the same time.
const AT_ONCE: usize = 64;

/// How messages are spread: message n is of row r = n / `row`, and goes to stream r mod `streams`, under
/// the subject `claudebus-bench.<stream>.<group>.<subject>`, of which group and subject are counted likewise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) streams: u64,
    /// Groups of subjects; a consumer of a part takes one.
    pub(super) groups: u64,
    /// Subjects of all groups together.
    pub(super) subjects: u64,
    /// Bytes of each payload.
    pub(super) size: usize,
    /// Messages that follow each other under one subject. At least one.
    pub(super) row: u64,
}

/// How much to publish.
#[derive(Clone, Copy, Debug)]
pub(super) enum Amount {
    Messages(u64),
    Time(Duration),
}

impl Amount {
    /// Whether `done` messages since `began` are enough.
    pub(super) fn is_reached(self, done: u64, began: Instant) -> bool {
        match self {
            Self::Messages(count) => done >= count,
            Self::Time(time) => done.is_multiple_of(LOOK_EVERY) && began.elapsed() >= time,
        }
    }
}

/// A stream's name.
pub(super) fn stream_name(stream: u64) -> String {
    format!("{STREAM}{stream}")
}

/// What a stream captures.
pub(super) fn stream_subjects(stream: u64) -> String {
    format!("{ROOT}.{stream}.>")
}

/// What came of publishing and receiving at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Messages published, and as many received.
    pub(super) published: u64,
    pub(super) taken: Duration,
    /// How long it took to make streams and consumers.
    pub(super) ready: Duration,
}

impl Sums {
    /// Messages published and received a second.
    pub(super) fn rate(&self) -> f64 {
        2.0 * self.published as f64 / self.taken.as_secs_f64()
    }
}

impl Spread {
    /// One stream, one subject.
    pub(super) fn single(size: usize) -> Self {
        Self { streams: 1, groups: 1, subjects: 1, size, row: 1 }
    }

    /// Makes the streams.
    pub(super) async fn create(&self, client: &Client) -> Result<(), Failure> {
        let make = |stream: u64| StreamConfig {
            name: stream_name(stream),
            subjects: vec![stream_subjects(stream)],
            ..StreamConfig::default()
        };
        for stream in 0..self.streams {
            client.create_stream(make(stream)).await?;
        }
        Ok(())
    }

    /// Deletes the streams.
    pub(super) async fn delete(&self, client: &Client) -> Result<(), Failure> {
        for stream in 0..self.streams {
            match client.delete_stream(&stream_name(stream)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The subject of message `number`.
    pub(super) fn subject(&self, number: u64, text: &mut String) {
        let row = number / self.row;
        let (stream, group, subject) = (row % self.streams, row % self.groups, row % self.subjects);
        text.clear();
        // Writing into memory does not fail.
        let _ = write!(text, "{ROOT}.{stream}.{group}.{subject}");
    }

    pub(super) fn payloads(&self) -> Payloads {
        Payloads::new(Content::Random, self.size, 1)
    }

    /// What matches a group of a stream.
    pub(super) fn filter(stream: u64, group: u64) -> String {
        format!("{ROOT}.{stream}.{group}.*")
    }

    /// Consumers that together take everything: one for each group of each stream.
    pub(super) fn parts(&self, ack: bool) -> Vec<Part> {
        let pairs =
            (0..self.streams).flat_map(|stream| (0..self.groups).map(move |group| (stream, group)));
        let filter = |stream, group| (self.groups > 1).then(|| Self::filter(stream, group));
        pairs.map(|(stream, group)| Part { stream, filter: filter(stream, group), ack }).collect()
    }

    /// Publishes with as many messages in flight as the client allows, and waits for all to be
    /// acknowledged. Numbers begin at `first`. Returns how many there were.
    pub(super) async fn publish(
        &self,
        client: &Client,
        first: u64,
        amount: Amount,
    ) -> Result<u64, Failure> {
        let (payloads, publisher, began) = (self.payloads(), client.publisher(), Instant::now());
        let (mut subject, mut done) = (String::new(), 0);
        while !amount.is_reached(done, began) {
            self.subject(first + done, &mut subject);
            // Failures are told by the flush.
            drop(publisher.publish(&subject, payloads.get(done)).await?);
            done += 1;
        }
        publisher.flush().await.map_err(|error: PublishError| Failure::from(error))?;
        Ok(done)
    }
}

/// A consumer to be made: of a stream, of what a filter matches, or everything.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) stream: u64,
    pub(super) filter: Option<String>,
    pub(super) ack: bool,
}

impl Part {
    /// Everything in a stream, without acknowledgements.
    pub(super) fn all(stream: u64) -> Self {
        Self { stream, filter: None, ack: false }
    }

    /// Makes the consumer; it begins with the first message.
    pub(super) async fn open(&self, client: &Client) -> Result<Consumer, Failure> {
        let config = ConsumerConfig {
            name: Some(format!("bench-{:016x}", rand::random::<u64>())),
            filter_subject: self.filter.clone(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: if self.ack { AckPolicy::Explicit } else { AckPolicy::None },
            max_ack_pending: if self.ack { super::ours::MAX_ACK_PENDING } else { 0 },
            inactive_threshold: SETTLE,
            ..ConsumerConfig::default()
        };
        Ok(client.create_consumer(&stream_name(self.stream), config).await?)
    }
}

/// Consumers at work, and how many messages they got.
pub(super) struct Taking {
    tasks: JoinSet<Result<(), Failure>>,
    received: Arc<AtomicU64>,
}

impl Taking {
    /// Opens one consumer for each part, in turns over the clients, and begins to receive.
    pub(super) async fn start(clients: &[Client], parts: Vec<Part>) -> Result<Self, Failure> {
        let mut opening = JoinSet::new();
        let mut consumers = Vec::with_capacity(parts.len());
        for (part, client) in parts.into_iter().zip(clients.iter().cycle()) {
            let client = client.clone();
            opening.spawn(async move { Ok((part.ack, part.open(&client).await?)) });
            if opening.len() >= AT_ONCE
                && let Some(opened) = opening.join_next().await
            {
                consumers.push(opened.map_err(defect)??);
            }
        }
        while let Some(opened) = opening.join_next().await {
            let opened: Result<_, Failure> = opened.map_err(defect)?;
            consumers.push(opened?);
        }
        Ok(Self::of(consumers))
    }

    /// Nobody at work yet.
    pub(super) fn none() -> Self {
        Self { tasks: JoinSet::new(), received: Arc::default() }
    }

    /// Begins to receive from consumers that are open.
    pub(super) fn of(consumers: Vec<(bool, Consumer)>) -> Self {
        let mut taking = Self::none();
        for (ack, consumer) in consumers {
            taking.add(|received| take(consumer, ack, received));
        }
        taking
    }

    /// Begins to receive with one more consumer, which counts what it gets.
    pub(super) fn add<F>(&mut self, take: impl FnOnce(Arc<AtomicU64>) -> F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.tasks.spawn(take(Arc::clone(&self.received)));
    }

    /// Messages so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many messages came, but no longer than `most`. Returns how many came.
    pub(super) async fn wait(&mut self, count: u64, most: Duration) -> Result<u64, Failure> {
        let end = Instant::now() + most;
        while self.received() < count && Instant::now() < end {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.map_err(defect)??;
                return Err(Failure::new(Exit::Failed, "a consumer ended too early"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.received())
    }

    /// Waits until all of so many messages came.
    pub(super) async fn wait_all(&mut self, count: u64) -> Result<(), Failure> {
        match self.wait(count, SETTLE).await? {
            received if received >= count => Ok(()),
            received => Err(Failure::new(
                Exit::TimedOut,
                format_args!("{received} of {count} messages came within {SETTLE:?}"),
            )),
        }
    }
}

async fn take(consumer: Consumer, ack: bool, received: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut messages = consumer.messages();
    while let Some(delivery) = messages.next().await {
        let delivery = delivery?;
        if ack {
            delivery.ack().await?;
        }
        let _: Bytes = delivery.payload();
        received.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subject::matches;

    #[test]
    fn each_message_belongs_to_one_part() {
        let spread = Spread { streams: 1, groups: 10, subjects: 100, size: 16, row: 1 };
        let mut subject = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            spread.subject(number, &mut subject);
            let of = |group: &u64| matches(&Spread::filter(0, *group), &subject);
            assert_eq!((0..10).filter(of).collect::<Vec<_>>(), [number % 10]);
            seen.insert(subject.clone());
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn messages_of_a_row_have_one_subject() {
        let spread = Spread { streams: 3, groups: 1, subjects: 3, size: 16, row: 4 };
        let mut subject = String::new();
        let streams: String = (0..14)
            .map(|number| {
                spread.subject(number, &mut subject);
                subject.split('.').nth(1).unwrap().to_owned()
            })
            .collect();
        assert_eq!(streams, "00001111222200");
    }
}
