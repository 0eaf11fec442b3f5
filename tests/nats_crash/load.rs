//! async-nats at work: publishers, and a consumer whose acknowledgements are confirmed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::book::Book;

/// Publishes of one client that await their acknowledgements.
const IN_FLIGHT: usize = 64;
/// Publishing clients.
const PUBLISHERS: u64 = 2;
/// How long an answer is waited for; after a crash it never comes.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the clients may take to end.
const END: Duration = Duration::from_secs(60);

const STREAM: &str = "CRASH";

/// The clients at work.
pub struct Clients(JoinSet<()>);

impl Clients {
    /// Waits until all have stopped.
    pub async fn finish(mut self) {
        let all = async { while self.0.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
        tokio::time::timeout(END, all).await.expect("the clients stop");
    }
}

async fn connect(url: &str) -> async_nats::Client {
    let options = ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(10))
        .request_timeout(Some(PATIENCE));
    options.connect(url).await.expect("it connects")
}

/// Makes the stream and the consumer, and starts clients.
pub async fn start(url: &str, book: &Arc<Book>) -> Clients {
    let context = jetstream::new(connect(url).await);
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["crash.>".into()],
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.expect("the stream is made");
    let config = pull::Config {
        durable_name: Some("worker".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(1),
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.expect("the consumer is made");
    let mut clients = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        clients.spawn(publish(connect(url).await, publisher, Arc::clone(book)));
    }
    clients.spawn(consume(connect(url).await, Arc::clone(book)));
    Clients(clients)
}

async fn publish(client: async_nats::Client, publisher: u64, book: Arc<Book>) {
    let mut context = jetstream::new(client);
    context.set_timeout(PATIENCE);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut number = publisher;
    while !book.over.load(Ordering::Relaxed) {
        let permit = Arc::clone(&room).acquire_owned().await.expect("it stays open");
        let name = format!("r{number}");
        number += PUBLISHERS;
        let message = PublishMessage::build().payload(name.clone().into()).message_id(&name);
        // A publish that fails was not acknowledged, whatever became of it.
        let Ok(ack) = context.send_publish("crash.rust", message).await else { continue };
        let book = Arc::clone(&book);
        tokio::spawn(async move {
            if let Ok(Ok(ack)) = tokio::time::timeout(PATIENCE, async move { ack.await }).await {
                book.acknowledged(ack.sequence, &name);
            }
            drop(permit);
        });
    }
}

async fn consume(client: async_nats::Client, book: Arc<Book>) {
    let mut context = jetstream::new(client);
    context.set_timeout(PATIENCE);
    while !book.over.load(Ordering::Relaxed) {
        let found = context.get_consumer_from_stream::<pull::Config, _, _>("worker", STREAM).await;
        let Ok(consumer) = found else { continue };
        let fetched = consumer.fetch().max_messages(20).expires(PATIENCE).messages().await;
        let Ok(mut messages) = fetched else { continue };
        while let Ok(Some(Ok(message))) = tokio::time::timeout(2 * PATIENCE, messages.next()).await
        {
            let seq = message.info().expect("a delivery says what it is").stream_sequence;
            let name = String::from_utf8(message.payload.to_vec()).expect("a name");
            book.delivered(seq, &name);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, message.double_ack()).await {
                book.confirm(seq);
            }
        }
    }
}

/// Reads all that the stream holds, and compares it. Returns how many messages that is.
pub async fn read_all(url: &str, book: &Book) -> usize {
    let context = jetstream::new(connect(url).await);
    let mut stream = context.get_stream(STREAM).await.expect("the stream is there");
    let total = stream.info().await.expect("it is there").state.messages;
    let consumer =
        stream.create_consumer(pull::OrderedConfig::default()).await.expect("the consumer is made");
    let mut messages = consumer.messages().await.expect("it delivers");
    let mut held = HashMap::new();
    while (held.len() as u64) < total {
        let next = tokio::time::timeout(END, messages.next()).await.expect("all is delivered");
        let message = next.expect("there is more").expect("it can be read");
        let seq = message.info().expect("a delivery says what it is").stream_sequence;
        held.insert(seq, String::from_utf8(message.payload.to_vec()).expect("a name"));
    }
    book.compare(&held);
    held.len()
}
