//! async-nats, as it comes, against this server; and what is written in one protocol, read in the other.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy as NatsAck, pull, push};
use async_nats::jetstream::{self, kv, object_store, stream};
use claudebus::client::{Client, Message};
use claudebus::server::{RunningServer, Server};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt as _;

/// Longer than anything here takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);

async fn start() -> (RunningServer, async_nats::Client) {
    let server =
        Server::builder().quic_on_free_port().nats(([127, 0, 0, 1], 0).into()).start().await;
    let server = server.expect("the server starts");
    let address = server.nats_address().expect("it listens");
    let client = async_nats::connect(format!("nats://{address}")).await.expect("it connects");
    (server, client)
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

async fn orders(context: &jetstream::Context) -> stream::Stream {
    let config = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        allow_direct: true,
        ..stream::Config::default()
    };
    context.create_stream(config).await.expect("the stream is made")
}

async fn publish(context: &jetstream::Context, subject: &str, payload: &str) -> u64 {
    let ack = context.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap();
    in_time("the acknowledgement", async move { ack.await }).await.expect("it is stored").sequence
}

#[tokio::test]
async fn requests_find_who_answers_or_learn_that_nobody_does() {
    let (_server, client) = start().await;
    let mut asked = client.queue_subscribe("sums", "workers".into()).await.unwrap();
    let worker = client.clone();
    tokio::spawn(async move {
        while let Some(request) = asked.next().await {
            worker.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    let answer = in_time("an answer", client.request("sums", "7".into())).await.unwrap();
    assert_eq!(answer.payload, "7");
    let error = in_time("no answer", client.request("nobody", "".into())).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn messages_are_published_fetched_and_acknowledged() {
    let (_server, client) = start().await;
    let context = jetstream::new(client);
    let mut stream = orders(&context).await;
    for number in 1..=10 {
        assert_eq!(publish(&context, "orders.new", &number.to_string()).await, number);
    }
    let config = pull::Config {
        durable_name: Some("billing".into()),
        ack_policy: NatsAck::Explicit,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut batch = consumer.fetch().max_messages(10).messages().await.unwrap();
    let mut got = 0;
    while let Some(message) = in_time("a message", batch.next()).await {
        let message = message.unwrap();
        got += 1;
        assert_eq!(message.info().unwrap().stream_sequence, got);
        message.double_ack().await.unwrap();
    }
    assert_eq!(got, 10);
    let mut consumer = consumer;
    let info = consumer.info().await.unwrap();
    assert_eq!(
        (info.num_ack_pending, info.num_pending, info.ack_floor.stream_sequence),
        (0, 0, 10)
    );
    assert_eq!(stream.info().await.unwrap().state.messages, 10);
    let last = stream.direct_get_last_for_subject("orders.new").await.unwrap();
    assert_eq!((last.sequence, &last.payload[..]), (10, &b"10"[..]));
}

#[tokio::test]
async fn a_stream_of_messages_goes_on_while_more_are_published() {
    let (_server, client) = start().await;
    let context = jetstream::new(client);
    let stream = orders(&context).await;
    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    for number in 1..=500_u64 {
        context.publish("orders.new", number.to_string().into()).await.unwrap();
    }
    for number in 1..=500_u64 {
        let message = in_time("a message", messages.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, number.to_string());
        message.ack().await.unwrap();
    }
}

#[tokio::test]
async fn ordered_consumers_deliver_everything_in_order() {
    let (_server, client) = start().await;
    let inbox = client.new_inbox();
    let context = jetstream::new(client);
    let stream = orders(&context).await;
    for number in 1..=100_u64 {
        publish(&context, "orders.new", &number.to_string()).await;
    }
    let pushed = push::OrderedConfig { deliver_subject: inbox, ..push::OrderedConfig::default() };
    let mut pushed =
        stream.create_consumer(pushed).await.unwrap().messages().await.unwrap().take(100);
    let mut pulled = stream
        .create_consumer(pull::OrderedConfig::default())
        .await
        .unwrap()
        .messages()
        .await
        .unwrap()
        .take(100);
    for number in 1..=100_u64 {
        let message = in_time("a message", pushed.next()).await.unwrap().unwrap();
        assert_eq!(message.info().unwrap().stream_sequence, number);
        let message = in_time("a message", pulled.next()).await.unwrap().unwrap();
        assert_eq!(message.info().unwrap().stream_sequence, number);
    }
}

#[tokio::test]
async fn a_message_is_stored_once_and_expectations_hold() {
    let (_server, client) = start().await;
    let context = jetstream::new(client);
    let _stream = orders(&context).await;
    let message =
        |id: &str| jetstream::message::PublishMessage::build().payload("x".into()).message_id(id);
    let send = |message| async { context.send_publish("orders.new", message).await.unwrap().await };
    assert!(!send(message("1")).await.unwrap().duplicate);
    let second = send(message("1")).await.unwrap();
    assert_eq!((second.duplicate, second.sequence), (true, 1));
    let error = send(message("2").expected_last_sequence(7)).await.unwrap_err();
    assert_eq!(error.kind(), jetstream::context::PublishErrorKind::WrongLastSequence);
}

#[tokio::test]
async fn key_value_buckets() {
    let (_server, client) = start().await;
    let context = jetstream::new(client);
    let config = kv::Config { bucket: "settings".into(), history: 5, ..kv::Config::default() };
    let bucket = context.create_key_value(config).await.unwrap();
    let mut watch = bucket.watch_all().await.unwrap();
    let first = bucket.create("colour", "red".into()).await.unwrap();
    assert!(bucket.create("colour", "blue".into()).await.is_err(), "it is there");
    let second = bucket.update("colour", "green".into(), first).await.unwrap();
    assert!(bucket.update("colour", "blue".into(), first).await.is_err(), "it has changed");
    assert_eq!(bucket.get("colour").await.unwrap().unwrap(), "green");
    bucket.put("size", "9".into()).await.unwrap();
    bucket.delete("size").await.unwrap();
    assert_eq!(bucket.get("size").await.unwrap(), None);
    for expected in ["red", "green", "9", ""] {
        let entry = in_time("a change", watch.next()).await.unwrap().unwrap();
        assert_eq!(entry.value, expected);
    }
    let history: Vec<_> = bucket.history("colour").await.unwrap().try_collect().await.unwrap();
    let revisions: Vec<_> = history.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [first, second]);
    bucket.purge("colour").await.unwrap();
    let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn object_stores() {
    let (_server, client) = start().await;
    let context = jetstream::new(client);
    let config = object_store::Config { bucket: "files".into(), ..object_store::Config::default() };
    let store = context.create_object_store(config).await.unwrap();
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let info = store.put("big", &mut content.as_slice()).await.unwrap();
    assert_eq!(info.size, content.len());
    let mut read = Vec::new();
    let mut object = store.get("big").await.unwrap();
    in_time("the object", object.read_to_end(&mut read)).await.unwrap();
    assert!(read == content);
    let names: Vec<String> =
        store.list().await.unwrap().map_ok(|info| info.name).try_collect().await.unwrap();
    assert_eq!(names, ["big"]);
    store.delete("big").await.unwrap();
    assert!(store.get("big").await.is_err());
}

async fn quic(server: &RunningServer) -> Client {
    let address = server.quic_address().expect("it listens");
    let fingerprint = server.fingerprint().expect("it has a certificate").to_string();
    let builder = Client::builder().url(format!("quic://{address}")).fingerprint(fingerprint);
    builder.connect().await.expect("the client connects")
}

#[tokio::test]
async fn what_is_written_in_one_protocol_is_read_in_the_other() {
    let (server, nats) = start().await;
    let context = jetstream::new(nats);
    let stream = orders(&context).await;
    let own = quic(&server).await;
    for number in 1..=20_u64 {
        let payload = number.to_string();
        if number.is_multiple_of(2) {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Number", payload.as_str());
            let ack =
                context.publish_with_headers("orders.new", headers, payload.into()).await.unwrap();
            assert_eq!(ack.await.unwrap().sequence, number);
        } else {
            let message =
                Message::new("orders.new", payload.clone()).header("Number", payload.as_str());
            assert_eq!(own.publish_message(message).await.unwrap().seq, number);
        }
    }
    // One consumer, from which both sides take in turns.
    let config = pull::Config {
        durable_name: Some("shared".into()),
        ack_policy: NatsAck::Explicit,
        ..pull::Config::default()
    };
    let over_nats = stream.create_consumer(config).await.unwrap();
    let over_quic = own.consumer("ORDERS", "shared").await.unwrap();
    for number in (1..=20_u64).step_by(2) {
        let mut batch = over_nats.fetch().max_messages(1).messages().await.unwrap();
        let message = in_time("a message", batch.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, number.to_string());
        let headers = message.headers.as_ref().expect("it has headers");
        assert_eq!(headers.get("Number").unwrap().as_str(), number.to_string());
        message.double_ack().await.unwrap();
        let next = number + 1;
        let fetched = in_time("a message", over_quic.fetch(1).into_future()).await.unwrap();
        let delivery = &fetched[0];
        assert_eq!((delivery.seq(), &delivery.payload()[..]), (next, next.to_string().as_bytes()));
        assert_eq!(delivery.header("Number"), Some(next.to_string().as_str()));
        delivery.ack_confirmed().await.unwrap();
    }
    let info = over_quic.info().await.unwrap();
    assert_eq!((info.num_pending, info.num_ack_pending, info.ack_floor.stream_seq), (0, 0, 20));
}

#[tokio::test]
async fn core_messages_pass_from_one_protocol_to_the_other() {
    let (server, nats) = start().await;
    let own = quic(&server).await;
    let mut heard_in_nats = nats.subscribe("to.nats").await.unwrap();
    nats.flush().await.unwrap();
    let mut heard_over_quic = own.subscribe("to.quic").await.unwrap();
    own.flush().await.unwrap();
    own.send("to.nats", "one").await.unwrap();
    nats.publish("to.quic", "two".into()).await.unwrap();
    let message = in_time("a message", heard_in_nats.next()).await.unwrap();
    assert_eq!(message.payload, "one");
    let message = in_time("a message", heard_over_quic.next()).await.unwrap();
    assert_eq!(&message.payload()[..], b"two");
}
