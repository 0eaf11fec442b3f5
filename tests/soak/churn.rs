//! Everything else that happens to a broker: streams and consumers come and go, messages expire, are
//! purged and published twice, clients come back, or are killed.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use claudebus::client::{AckPolicy, Client, ConsumerConfig, Message, PurgeOptions, StreamConfig};
use tokio::task::JoinSet;

use crate::{Result, World};

/// Starts it.
pub fn start(world: &Arc<World>, tasks: &mut JoinSet<Result<()>>) {
    tasks.spawn(streams(Arc::clone(world)));
    tasks.spawn(expiry(Arc::clone(world)));
    tasks.spawn(duplicates(Arc::clone(world)));
    tasks.spawn(visitors(Arc::clone(world)));
    tasks.spawn(killed(Arc::clone(world)));
}

fn stream(name: &str) -> StreamConfig {
    StreamConfig {
        name: name.to_owned(),
        subjects: vec![format!("{}.>", name.to_lowercase())],
        ..StreamConfig::default()
    }
}

fn acking() -> ConsumerConfig {
    ConsumerConfig { ack_policy: AckPolicy::Explicit, ..ConsumerConfig::default() }
}

/// A stream is made, filled, read, purged and deleted, again and again.
async fn streams(world: Arc<World>) -> Result<()> {
    let client = world.connect().await?;
    let mut number = 0_u64;
    while world.goes_on() {
        number += 1;
        let name = format!("CHURN{number}");
        client.create_stream(stream(&name)).await?;
        let publisher = client.publisher();
        for message in 0..1000 {
            let subject = format!("churn{number}.{message}");
            drop(publisher.publish(subject, format!("message {message}")).await?);
        }
        publisher.flush().await?;
        let filtered = Some(format!("churn{number}.*"));
        let config = ConsumerConfig { filter_subject: filtered, ..acking() };
        let consumer = client.create_consumer(&name, config).await?;
        let mut got = 0;
        while got < 1000 {
            for delivery in consumer.fetch(1000 - got).await? {
                delivery.ack().await?;
                got += 1;
            }
        }
        let purge = PurgeOptions { keep: 10, ..PurgeOptions::default() };
        client.purge_stream(&name, purge).await?;
        client.delete_consumer(&name, consumer.name()).await?;
        client.delete_stream(&name).await?;
        world.did(3 * 1000 + 5);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Messages that expire after five seconds, under subjects that are new each time.
async fn expiry(world: Arc<World>) -> Result<()> {
    let client = world.connect().await?;
    let max_age = Duration::from_secs(5);
    client.create_stream(StreamConfig { max_age, ..stream("AGING") }).await?;
    let publisher = client.publisher();
    let mut number = 0_u64;
    while world.goes_on() {
        for _ in 0..100 {
            drop(publisher.publish(format!("aging.{number}"), "soon gone").await?);
            number += 1;
        }
        publisher.flush().await?;
        world.did(100);
        let held = client.stream_info("AGING").await?.state.messages;
        // A second is ten times what it takes to notice, on a busy machine.
        if held > 1000 * (5 + 10) {
            return Err(format!("{held} messages of five seconds are held").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Every message is published twice under the same id.
async fn duplicates(world: Arc<World>) -> Result<()> {
    let client = world.connect().await?;
    let duplicate_window = Duration::from_secs(10);
    let config = StreamConfig { duplicate_window, max_msgs: 10_000, ..stream("TWICE") };
    client.create_stream(config).await?;
    let mut number = 0_u64;
    while world.goes_on() {
        let mut acks = JoinSet::new();
        for id in number..number + 100 {
            let client = client.clone();
            acks.spawn(async move {
                let message = || Message::new("twice.x", "once").id(format!("id-{id}"));
                let first = client.publish_message(message()).await?;
                let second = client.publish_message(message()).await?;
                Ok::<_, claudebus::client::PublishError>((first.seq, second))
            });
        }
        number += 100;
        while let Some(ack) = acks.join_next().await {
            let (first, second) = ack??;
            if !second.duplicate || second.seq != first {
                return Err(format!("message {first} was stored twice: {second:?}").into());
            }
        }
        world.did(200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Clients that connect, publish, receive, and go: properly, or without a word.
async fn visitors(world: Arc<World>) -> Result<()> {
    let first = world.connect().await?;
    let config = StreamConfig { max_msgs: 1000, ..stream("VISIT") };
    first.create_stream(config).await?;
    let mut number = 0_u64;
    while world.goes_on() {
        let client: Client = world.connect().await?;
        client.publish("visit.x", "hello").await?;
        let consumer = client.create_consumer("VISIT", acking()).await?;
        for delivery in consumer.fetch(10).no_wait().await? {
            delivery.ack().await?;
        }
        client.delete_consumer("VISIT", consumer.name()).await?;
        number += 1;
        if number.is_multiple_of(2) {
            client.close().await;
        }
        world.did(24);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Clients that are killed while they receive.
async fn killed(world: Arc<World>) -> Result<()> {
    while world.goes_on() {
        let mut child = Command::new(env!("CARGO_BIN_EXE_claudebus"))
            .args(["subscribe", "soak.>", "--stream", "SOAK", "--server", &world.launch.url()])
            .arg("--ca")
            .arg(world.launch.ca_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        child.kill()?;
        child.wait()?;
        world.did(1);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    Ok(())
}
