//! The side of a NATS server, with NATS's own client library used as it is fastest: a window of
//! publish futures, and pull consumers that ask for batches.

mod spread;

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt as _;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::ours::MAX_ACK_PENDING;
use super::sample::{Latencies, Sample, defect, gather};
use super::steady::{
    LIVE, REPLAY, Replayed, Steady, SteadySample, publish as publish_steadily, receive,
};
use super::work::{Digests, STREAM, SUBJECTS, Share, Work};
use crate::cli::exit::{Exit, Failure};

/// What is known of a server that does not tell.
pub(super) const DEFAULT_DURABILITY: &str =
    "as that server is configured; nats-server syncs every 2 minutes by default";

/// What is said of our own server where it is asked as any NATS server would be.
pub(super) const OUR_DURABILITY: &str =
    "as it was started; without more words each ack follows an fdatasync";

/// The consumer that is measured.
const CONSUMER: &str = "bench";

/// How long the last acknowledgements may take.
const SETTLE: Duration = Duration::from_secs(60);

type PullConsumer = consumer::Consumer<consumer::pull::Config>;

pub(super) struct Nats {
    url: String,
    durability: String,
    client: async_nats::Client,
    jetstream: jetstream::Context,
}

impl Nats {
    pub(super) async fn connect(url: &str, durability: &str) -> Result<Self, Failure> {
        let client = connect(url).await?;
        let jetstream = jetstream::new(client.clone());
        Ok(Self { url: url.to_owned(), durability: durability.to_owned(), client, jetstream })
    }

    pub(super) fn name(&self) -> String {
        let version = self.client.server_info().version;
        match version.split_once("+claudebus.") {
            Some((_, ours)) => format!("claudebus {ours} over NATS"),
            None => format!("nats-server {version}"),
        }
    }

    pub(super) fn durability(&self) -> String {
        self.durability.clone()
    }

    pub(super) async fn prepare(&self) -> Result<(), Failure> {
        self.clean_up().await?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECTS.to_owned()],
            max_messages: -1,
            max_bytes: -1,
            storage: stream::StorageType::File,
            num_replicas: 1,
            ..Default::default()
        };
        self.jetstream.create_stream(config).await.map_err(failed)?;
        Ok(())
    }

    pub(super) async fn clean_up(&self) -> Result<(), Failure> {
        // A stream that is not there needs no deletion; other errors show when it is made.
        let _ = self.jetstream.delete_stream(STREAM).await;
        Ok(())
    }

    async fn contexts(&self, work: &Work) -> Result<Vec<jetstream::Context>, Failure> {
        let mut contexts = Vec::new();
        for number in 0..work.clients {
            let client = match number {
                0 => self.client.clone(),
                _ => connect(&self.url).await?,
            };
            let builder = jetstream::context::ContextBuilder::new()
                .timeout(SETTLE)
                .max_ack_inflight(work.window + 1);
            contexts.push(builder.build(client));
        }
        Ok(contexts)
    }

    pub(super) async fn publish(&self, work: &Work) -> Result<Sample, Failure> {
        let barrier = Arc::new(Barrier::new(work.clients + 1));
        let mut tasks = JoinSet::new();
        for (number, context) in self.contexts(work).await?.into_iter().enumerate() {
            let (share, barrier) = (work.share(number), Arc::clone(&barrier));
            let window = work.window;
            tasks.spawn(async move {
                barrier.wait().await;
                Ok::<_, Failure>((number, publish(&context, share, window).await?))
            });
        }
        barrier.wait().await;
        let began = Instant::now();
        let per_client = gather(tasks).await?;
        Ok(Sample::new(per_client, work.size, began.elapsed()))
    }

    pub(super) async fn latency(&self, work: &Work) -> Result<Sample, Failure> {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for (number, context) in self.contexts(work).await?.into_iter().enumerate() {
            let mut share = work.share(number);
            tasks.spawn(async move {
                let mut latencies = Latencies::new()?;
                share.begin();
                while let Some(payload) = share.next() {
                    let sent = Instant::now();
                    let ack = context.publish(share.subject.clone(), payload).await;
                    ack.map_err(failed)?.await.map_err(failed)?;
                    latencies.add(sent.elapsed());
                }
                Ok::<_, Failure>((number, (share.done(), latencies)))
            });
        }
        let clients = gather(tasks).await?;
        Sample::of_latencies(clients, work.size, began.elapsed())
    }

    async fn consumer(
        &self,
        context: &jetstream::Context,
        ack: bool,
    ) -> Result<PullConsumer, Failure> {
        let config = consumer::pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: if ack { consumer::AckPolicy::Explicit } else { consumer::AckPolicy::None },
            max_ack_pending: if ack { MAX_ACK_PENDING } else { 0 },
            ..Default::default()
        };
        context.create_consumer_on_stream(config, STREAM).await.map_err(failed)
    }

    /// Consumes what is stored, `stored` messages, or as many of them as the time allows.
    pub(super) async fn consume(
        &self,
        work: &Work,
        stored: u64,
        ack: bool,
    ) -> Result<Sample, Failure> {
        let mut tasks = JoinSet::new();
        let mut consumers = Vec::new();
        for context in self.contexts(work).await? {
            consumers.push(self.consumer(&context, ack).await?);
        }
        let began = Instant::now();
        let intake = work.intake(stored);
        for consumer in &consumers {
            let (consumer, intake) = (consumer.clone(), Arc::clone(&intake));
            let batch = work.window;
            tasks.spawn(async move {
                let stream = consumer.stream().max_messages_per_batch(batch);
                let mut messages = stream.messages().await.map_err(failed)?;
                while let Some(message) = messages.next().await {
                    let message = message.map_err(failed)?;
                    if ack {
                        message.ack().await.map_err(failed)?;
                    }
                    if !intake.add() {
                        // Whoever waits for all acknowledgements ends this task.
                        std::future::pending::<()>().await;
                    }
                }
                Ok::<_, Failure>(())
            });
        }
        tokio::select! {
            () = intake.enough() => {}
            Some(ended) = tasks.join_next() => {
                ended.map_err(defect)??;
                return Err(failed("the consumer ended too early"));
            }
        }
        let received = intake.received();
        if let (true, Some(consumer)) = (ack, consumers.first_mut()) {
            settled(consumer, received).await?;
        }
        let elapsed = began.elapsed();
        tasks.shutdown().await;
        let deleted = self.jetstream.delete_consumer_from_stream(CONSUMER, STREAM).await;
        deleted.map_err(failed)?;
        Ok(Sample::new(vec![received], work.size, elapsed))
    }

    /// Publishes at a steady rate and consumes the same messages.
    pub(super) async fn steady(
        &self,
        work: &Work,
        steady: Steady,
    ) -> Result<SteadySample, Failure> {
        let three = Work { clients: 3, ..work.clone() };
        let contexts = self.contexts(&three).await?;
        let [publishing, consuming, replaying] = contexts.as_slice() else {
            return Err(failed("three connections were asked for"));
        };
        let live = consumer::pull::Config {
            durable_name: Some(LIVE.to_owned()),
            deliver_policy: consumer::DeliverPolicy::New,
            max_ack_pending: MAX_ACK_PENDING,
            ..Default::default()
        };
        let live = consuming.create_consumer_on_stream(live, STREAM).await.map_err(failed)?;
        let stream = live.stream().max_messages_per_batch(work.window);
        let mut messages = stream.messages().await.map_err(failed)?;
        let replayed = Replayed::default();
        let replaying = replay(replaying.clone(), work.window, replayed.clone());
        let replay = steady.replay.then(|| tokio::spawn(replaying));
        let subject = async_nats::Subject::from(work.share(0).subject);
        let began = Instant::now();
        let (published, delivered) = tokio::try_join!(
            publish_steadily(work, steady, began, |payload| async {
                let ack = publishing.publish(subject.clone(), payload).await.map_err(failed)?;
                Ok(async move { ack.into_future().await.map(drop).map_err(failed) })
            }),
            receive(work, steady, began, async || {
                let message = messages.next().await.ok_or_else(|| failed("the consumer ended"))?;
                let message = message.map_err(failed)?;
                message.ack().await.map_err(failed)?;
                Ok(message.message.payload)
            }),
        )?;
        if let Some(replay) = &replay {
            replay.abort();
        }
        let replayed = replay.is_some().then(|| replayed.sample(work, began));
        Ok(SteadySample { published, delivered, replayed })
    }

    pub(super) async fn digests(&self, work: &Work, published: &[u64]) -> Result<Digests, Failure> {
        let consumer = self.consumer(&self.jetstream, false).await?;
        let stream = consumer.stream().max_messages_per_batch(work.window);
        let mut messages = stream.messages().await.map_err(failed)?;
        let mut digests = Digests::default();
        for _ in 0..published.iter().sum::<u64>() {
            let next = tokio::time::timeout(SETTLE, messages.next()).await;
            let Ok(Some(message)) = next else { break };
            let message = message.map_err(failed)?;
            digests.add(&message.subject, &message.payload);
        }
        drop(messages);
        let deleted = self.jetstream.delete_consumer_from_stream(CONSUMER, STREAM).await;
        deleted.map_err(failed)?;
        Ok(digests)
    }
}

/// Reads everything stored, and again from the beginning, until it is aborted.
async fn replay(
    context: jetstream::Context,
    window: usize,
    replayed: Replayed,
) -> Result<(), Failure> {
    loop {
        let config = consumer::pull::Config {
            durable_name: Some(REPLAY.to_owned()),
            ack_policy: consumer::AckPolicy::None,
            ..Default::default()
        };
        let consumer = context.create_consumer_on_stream(config, STREAM).await.map_err(failed)?;
        let mut left = consumer.cached_info().num_pending;
        let stream = consumer.stream().max_messages_per_batch(window);
        let mut messages = stream.messages().await.map_err(failed)?;
        while left > 0 && messages.next().await.transpose().map_err(failed)?.is_some() {
            replayed.add();
            left -= 1;
        }
        drop(messages);
        context.delete_consumer_from_stream(REPLAY, STREAM).await.map_err(failed)?;
    }
}

async fn connect(url: &str) -> Result<async_nats::Client, Failure> {
    async_nats::connect(url).await.map_err(|error| {
        Failure::new(Exit::NotConnected, format_args!("cannot connect to {url}: {error}"))
            .hint("start that server, or leave out --against")
    })
}

async fn publish(
    context: &jetstream::Context,
    mut share: Share,
    window: usize,
) -> Result<u64, Failure> {
    let mut in_flight = VecDeque::with_capacity(window);
    let subject = async_nats::Subject::from(share.subject.clone());
    share.begin();
    while let Some(payload) = share.next() {
        if in_flight.len() == window
            && let Some(oldest) = in_flight.pop_front()
        {
            let oldest: jetstream::context::PublishAckFuture = oldest;
            oldest.into_future().await.map_err(failed)?;
        }
        in_flight.push_back(context.publish(subject.clone(), payload).await.map_err(failed)?);
    }
    for ack in in_flight {
        ack.into_future().await.map_err(failed)?;
    }
    Ok(share.done())
}

/// Waits until the server has settled so many acknowledgements.
async fn settled(consumer: &mut PullConsumer, count: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let info = consumer.info().await.map_err(failed)?;
        let delivered = info.delivered.consumer_sequence;
        if delivered.saturating_sub(info.num_ack_pending as u64) >= count {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(Exit::TimedOut, "acknowledgements did not arrive"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error)
}
