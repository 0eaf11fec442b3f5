//! The side of a claudebus server, with this program's own SDK.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::sample::{Latencies, Sample, defect, gather};
use super::steady::{
    LIVE, REPLAY, Replayed, Steady, SteadySample, publish as publish_steadily, receive,
};
use super::work::{Digests, STREAM, SUBJECTS, Share, Work};
use crate::cli::args::Global;
use crate::cli::connect::connect;
use crate::cli::exit::{Exit, Failure};
use crate::client::{
    AckPolicy, Client, Consumer, ConsumerConfig, DeliverPolicy, PublishError, RequestError,
    StreamConfig,
};

/// The consumer that is measured.
const CONSUMER: &str = "bench";

/// Deliveries that may await acknowledgement: not what is measured.
pub(super) const MAX_ACK_PENDING: i64 = 65_536;

/// How long the last acknowledgements may take.
const SETTLE: Duration = Duration::from_secs(60);

pub(super) struct Ours {
    global: Global,
    client: Client,
}

impl Ours {
    pub(super) async fn connect(global: &Global) -> Result<Self, Failure> {
        Ok(Self { global: global.clone(), client: connect(global).await? })
    }

    pub(super) fn name(&self) -> String {
        let version = self.client.welcome().map(|welcome| welcome.version.clone());
        format!("claudebus {}", version.unwrap_or_default()).trim_end().to_owned()
    }

    pub(super) fn durability(&self) -> String {
        self.client.welcome().map(|welcome| explained(&welcome.durability)).unwrap_or_default()
    }

    pub(super) async fn prepare(&self) -> Result<(), Failure> {
        self.clean_up().await?;
        let config = StreamConfig {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECTS.to_owned()],
            ..StreamConfig::default()
        };
        self.client.create_stream(config).await?;
        Ok(())
    }

    pub(super) async fn clean_up(&self) -> Result<(), Failure> {
        match self.client.delete_stream(STREAM).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// One client for each share; the first shares the connection that is there.
    async fn clients(&self, work: &Work) -> Result<Vec<Client>, Failure> {
        let mut clients = vec![self.client.clone()];
        while clients.len() < work.clients {
            clients.push(connect(&self.global).await?);
        }
        Ok(clients)
    }

    pub(super) async fn publish(&self, work: &Work) -> Result<Sample, Failure> {
        let clients = self.clients(work).await?;
        let barrier = Arc::new(Barrier::new(work.clients + 1));
        let mut tasks = JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            let (share, barrier) = (work.share(number), Arc::clone(&barrier));
            tasks.spawn(async move {
                barrier.wait().await;
                Ok::<_, PublishError>((number, publish(&client, share).await?))
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
        for (number, client) in self.clients(work).await?.into_iter().enumerate() {
            let mut share = work.share(number);
            tasks.spawn(async move {
                let mut latencies = Latencies::new()?;
                share.begin();
                while let Some(payload) = share.next() {
                    let sent = Instant::now();
                    client.publish(&share.subject, payload).await?;
                    latencies.add(sent.elapsed());
                }
                Ok::<_, Failure>((number, (share.done(), latencies)))
            });
        }
        let clients = gather(tasks).await?;
        Sample::of_latencies(clients, work.size, began.elapsed())
    }

    async fn consumer(&self, client: &Client, ack: bool) -> Result<Consumer, RequestError> {
        let config = ConsumerConfig {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: if ack { AckPolicy::Explicit } else { AckPolicy::None },
            max_ack_pending: if ack { MAX_ACK_PENDING } else { 0 },
            ..ConsumerConfig::default()
        };
        client.create_consumer(STREAM, config).await
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
        for client in self.clients(work).await? {
            consumers.push(self.consumer(&client, ack).await?);
        }
        let began = Instant::now();
        let intake = work.intake(stored);
        for consumer in &consumers {
            let (consumer, intake) = (consumer.clone(), Arc::clone(&intake));
            tasks.spawn(async move {
                let mut messages = consumer.messages();
                while let Some(delivery) = messages.next().await {
                    let delivery = delivery.map_err(failed)?;
                    if ack {
                        delivery.ack().await.map_err(failed)?;
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
                return Err(Failure::new(Exit::Failed, "the consumer ended too early"));
            }
        }
        let received = intake.received();
        if let (true, Some(consumer)) = (ack, consumers.first()) {
            settled(consumer, received).await?;
        }
        let elapsed = began.elapsed();
        tasks.shutdown().await;
        self.client.delete_consumer(STREAM, CONSUMER).await?;
        Ok(Sample::new(vec![received], work.size, elapsed))
    }

    /// Publishes at a steady rate and consumes the same messages.
    pub(super) async fn steady(
        &self,
        work: &Work,
        steady: Steady,
    ) -> Result<SteadySample, Failure> {
        let [publishing, consuming, replaying] = [
            connect(&self.global).await?,
            connect(&self.global).await?,
            connect(&self.global).await?,
        ];
        let live = ConsumerConfig {
            durable_name: Some(LIVE.to_owned()),
            deliver_policy: DeliverPolicy::New,
            max_ack_pending: MAX_ACK_PENDING,
            ..ConsumerConfig::default()
        };
        let mut messages = consuming.create_consumer(STREAM, live).await?.messages();
        let replayed = Replayed::default();
        let replay = steady.replay.then(|| tokio::spawn(replay(replaying, replayed.clone())));
        let publisher = publishing.publisher();
        let subject = work.share(0).subject;
        let began = Instant::now();
        let (published, delivered) = tokio::try_join!(
            publish_steadily(work, steady, began, |payload| async {
                let ticket = publisher.publish(&subject, payload).await?;
                Ok(async move { ticket.await.map(drop).map_err(Failure::from) })
            }),
            receive(work, steady, began, async || {
                let delivery = messages.next().await.ok_or_else(|| failed("the consumer ended"))?;
                let delivery = delivery.map_err(failed)?;
                delivery.ack().await.map_err(failed)?;
                Ok(delivery.payload())
            }),
        )?;
        if let Some(replay) = &replay {
            replay.abort();
        }
        let replayed = replay.is_some().then(|| replayed.sample(work, began));
        Ok(SteadySample { published, delivered, replayed })
    }

    pub(super) async fn digests(&self, work: &Work, published: &[u64]) -> Result<Digests, Failure> {
        let consumer = self.consumer(&self.client, false).await?;
        let mut digests = Digests::default();
        let mut messages = consumer.messages();
        for _ in 0..published.iter().sum::<u64>() {
            let next = tokio::time::timeout(SETTLE, messages.next()).await;
            let Ok(Some(delivery)) = next else { break };
            let delivery = delivery.map_err(failed)?;
            digests.add(delivery.subject(), &delivery.payload());
        }
        drop(messages);
        self.client.delete_consumer(STREAM, CONSUMER).await?;
        tracing::debug!(size = work.size, "read back");
        Ok(digests)
    }
}

/// Reads everything stored, and again from the beginning, until it is aborted.
async fn replay(client: Client, replayed: Replayed) -> Result<(), Failure> {
    loop {
        let config = ConsumerConfig {
            durable_name: Some(REPLAY.to_owned()),
            ack_policy: AckPolicy::None,
            ..ConsumerConfig::default()
        };
        let consumer = client.create_consumer(STREAM, config).await?;
        let mut left = consumer.info().await?.num_pending;
        let mut messages = consumer.messages();
        while left > 0 && messages.next().await.transpose().map_err(failed)?.is_some() {
            replayed.add();
            left -= 1;
        }
        drop(messages);
        client.delete_consumer(STREAM, REPLAY).await?;
    }
}

async fn publish(client: &Client, mut share: Share) -> Result<u64, PublishError> {
    let publisher = client.publisher();
    share.begin();
    while let Some(payload) = share.next() {
        // Failures are told by the flush.
        drop(publisher.publish(&share.subject, payload).await?);
    }
    publisher.flush().await?;
    Ok(share.done())
}

/// Waits until the server has settled so many acknowledgements, as on the other side.
async fn settled(consumer: &Consumer, count: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let info = consumer.info().await?;
        if info.delivered.consumer_seq.saturating_sub(info.num_ack_pending as u64) >= count {
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

/// The server's word for its durability, and what it means.
fn explained(durability: &str) -> String {
    match durability {
        "sync" => "sync: each ack follows an fdatasync".to_owned(),
        other => format!("{other}: acks do not wait for the disk"),
    }
}
