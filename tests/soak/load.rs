//! The main traffic: messages published at a steady rate, delivered and acknowledged; and consumers
//! that are far too slow for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use claudebus::client::{AckPolicy, Client, Consumer, ConsumerConfig, StreamConfig};
use tokio::task::JoinSet;

use crate::{Result, World};

/// Subjects of the messages.
const SUBJECTS: u64 = 10_000;
/// Consumers that take ten messages a second.
const SLOW: usize = 3;
/// The publisher sends so often in a second.
const TICKS: u64 = 100;
/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the stream, which holds some seconds of messages.
pub async fn prepare(world: &World) -> Result<()> {
    let client = world.connect().await?;
    let config = StreamConfig {
        name: "SOAK".into(),
        subjects: vec!["soak.>".into()],
        max_bytes: 256_000_000,
        ..StreamConfig::default()
    };
    client.create_stream(config).await?;
    client.create_consumer("SOAK", consumer("main", 65_536)).await?;
    Ok(())
}

fn consumer(name: &str, max_ack_pending: i64) -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(300),
        max_ack_pending,
        ..ConsumerConfig::default()
    }
}

/// Starts it.
pub fn start(world: &Arc<World>) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    tasks.spawn(flow(Arc::clone(world)));
    for number in 0..SLOW {
        tasks.spawn(slow(Arc::clone(world), number));
    }
    tasks
}

/// Publishes and receives, and compares both in the end.
async fn flow(world: Arc<World>) -> Result<()> {
    let (publishing, receiving) = (world.connect().await?, world.connect().await?);
    let consumer = receiving.consumer("SOAK", "main").await?;
    let receiving = tokio::spawn(receive(Arc::clone(&world), consumer));
    let published = publish(&world, &publishing).await?;
    let last = tokio::time::timeout(PATIENCE, receiving).await???;
    if last != published {
        return Err(
            format!("{published} messages were published, the last received is {last}").into()
        );
    }
    Ok(())
}

async fn publish(world: &World, client: &Client) -> Result<u64> {
    let publisher = client.publisher();
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / TICKS));
    let payload = [0x5a; 100];
    let (mut published, mut said) = (0, Instant::now());
    while world.goes_on() {
        tick.tick().await;
        for _ in 0..world.rate / TICKS {
            let subject = format!("soak.{}", published % SUBJECTS);
            // Failures are told by the flush.
            drop(publisher.publish(subject, payload).await?);
            published += 1;
        }
        world.did(world.rate / TICKS);
        if said.elapsed() > Duration::from_secs(1) {
            publisher.flush().await?;
            said = Instant::now();
        }
    }
    // Tells the receiver that this is all.
    drop(publisher.publish("soak.end", "end").await?);
    publisher.flush().await?;
    Ok(published + 1)
}

/// Receives everything in order. Returns the last sequence.
async fn receive(world: Arc<World>, consumer: Consumer) -> Result<u64> {
    let mut messages = consumer.messages();
    let mut last = 0;
    while let Some(delivery) = messages.next().await {
        let delivery = delivery?;
        delivery.ack().await?;
        if delivery.seq() != last + 1 {
            return Err(format!("message {} came after {last}", delivery.seq()).into());
        }
        last = delivery.seq();
        if last % 1000 == 0 {
            world.did(2000);
        }
        if delivery.subject() == "soak.end" {
            return Ok(last);
        }
    }
    Err("the consumer ended".into())
}

/// A consumer that falls behind until messages are gone before it has seen them.
async fn slow(world: Arc<World>, number: usize) -> Result<()> {
    let client = world.connect().await?;
    let consumer = client.create_consumer("SOAK", consumer(&format!("slow-{number}"), 100)).await?;
    while world.goes_on() {
        for delivery in consumer.fetch(10).no_wait().await? {
            delivery.ack().await?;
            world.did(2);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
