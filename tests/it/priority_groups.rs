//! Priority groups, as async-nats uses them: pinned clients and their standbys, and overflow.

use std::time::Duration;

use async_nats::jetstream::consumer::{PriorityPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, ErrorCode, Message, stream};
use claudebus::server::{RunningServer, Server};
use futures_util::StreamExt;

/// Longer than anything here takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);
/// How long each pull of a stream of messages waits, so that the next one follows well before anybody
/// is taken for silent.
const EXPIRES: Duration = Duration::from_millis(300);
/// How long a pinned client may be silent.
const SILENT: Duration = Duration::from_secs(3);

async fn start(policy: PriorityPolicy) -> (RunningServer, jetstream::Context, stream::Stream) {
    let server =
        Server::builder().quic_on_free_port().nats(([127, 0, 0, 1], 0).into()).start().await;
    let server = server.expect("the server starts");
    let address = server.nats_address().expect("it listens");
    let client = async_nats::connect(format!("nats://{address}")).await.expect("it connects");
    let context = jetstream::new(client);
    let config = stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["events".into()],
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.expect("the stream is made");
    let priority_timeout =
        if policy == PriorityPolicy::PinnedClient { SILENT } else { Duration::ZERO };
    let config = pull::Config {
        durable_name: Some("shared".into()),
        priority_policy: policy,
        priority_groups: vec!["A".into()],
        priority_timeout,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.expect("the consumer is made");
    (server, context, stream)
}

async fn publish(context: &jetstream::Context, count: usize) {
    for _ in 0..count {
        let ack = context.publish("events", "data".into()).await.unwrap();
        tokio::time::timeout(LIMIT, async move { ack.await }).await.expect("in time").unwrap();
    }
}

async fn messages_of(stream: &stream::Stream) -> pull::Stream {
    let consumer: PullConsumer = stream.get_consumer("shared").await.unwrap();
    consumer.stream().group("A").expires(EXPIRES).messages().await.unwrap()
}

/// Takes and acknowledges so many messages.
async fn take(messages: &mut pull::Stream, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = tokio::time::timeout(LIMIT, messages.next()).await;
        let message = next.expect("a message in time").expect("the stream goes on").unwrap();
        message.double_ack().await.unwrap();
        taken.push(message);
    }
    taken
}

fn pin_of(message: &Message) -> String {
    let headers = message.headers.as_ref().expect("it says who is pinned");
    headers.get_last("Nats-Pin-Id").expect("it says who is pinned").to_string()
}

async fn pinned(stream: &stream::Stream) -> Option<String> {
    let mut consumer: PullConsumer = stream.get_consumer("shared").await.unwrap();
    consumer.info().await.unwrap().priority_groups[0].pinned_client_id.clone()
}

#[tokio::test]
async fn a_pinned_client_keeps_its_pin_while_it_pulls_and_a_standby_gets_nothing() {
    let (_server, context, stream) = start(PriorityPolicy::PinnedClient).await;
    let mut first = messages_of(&stream).await;
    publish(&context, 1).await;
    let pin = pin_of(&take(&mut first, 1).await[0]);
    assert_eq!(pinned(&stream).await.as_deref(), Some(pin.as_str()));
    let mut standby = messages_of(&stream).await;
    // Both go on pulling for longer than a pinned client may be silent.
    let idle = async { tokio::join!(first.next(), standby.next()) };
    let heard = tokio::time::timeout(SILENT + SILENT / 3, idle).await;
    assert!(heard.is_err(), "nothing was published: {heard:?}");
    publish(&context, 10).await;
    let standing_by = async { panic!("the standby got {:?}", standby.next().await) };
    let taken = tokio::select! {
        taken = take(&mut first, 10) => taken,
        () = standing_by => Vec::new(),
    };
    assert!(taken.iter().all(|message| pin_of(message) == pin));
}

#[tokio::test]
async fn a_standby_takes_over_when_the_pinned_client_is_gone() {
    let (_server, context, stream) = start(PriorityPolicy::PinnedClient).await;
    let mut first = messages_of(&stream).await;
    publish(&context, 1).await;
    let pin = pin_of(&take(&mut first, 1).await[0]);
    let mut standby = messages_of(&stream).await;
    drop(first);
    publish(&context, 10).await;
    let taken = take(&mut standby, 10).await;
    assert!(taken.iter().all(|message| pin_of(message) != pin));
}

#[tokio::test]
async fn a_standby_takes_over_at_once_when_the_pin_is_taken_away() {
    let (_server, context, stream) = start(PriorityPolicy::PinnedClient).await;
    let mut first = messages_of(&stream).await;
    publish(&context, 1).await;
    let pin = pin_of(&take(&mut first, 1).await[0]);
    stream.unpin_consumer("shared", "A").await.unwrap();
    assert_eq!(pinned(&stream).await, None);
    publish(&context, 1).await;
    let next = take(&mut first, 1).await;
    assert_ne!(pin_of(&next[0]), pin, "it learns that it was unpinned, and pulls as another");
}

#[tokio::test]
async fn unpinning_what_is_not_there_says_so() {
    let (_server, _context, stream) = start(PriorityPolicy::PinnedClient).await;
    let error = stream.unpin_consumer("missing", "A").await.unwrap_err();
    let ConsumerErrorKind::JetStream(error) = error.kind() else { panic!("{error:?}") };
    assert_eq!(error.error_code(), ErrorCode::CONSUMER_NOT_FOUND);
    let error = stream.unpin_consumer("shared", "B").await.unwrap_err();
    let ConsumerErrorKind::JetStream(error) = error.kind() else { panic!("{error:?}") };
    assert_eq!(error.error_code(), ErrorCode(10160));
}

#[tokio::test]
async fn a_client_that_helps_out_gets_messages_only_while_many_are_pending() {
    let (_server, context, stream) = start(PriorityPolicy::Overflow).await;
    let consumer: PullConsumer = stream.get_consumer("shared").await.unwrap();
    publish(&context, 5).await;
    let fetch = consumer.fetch().group("A").min_pending(4).max_messages(5);
    let helped = fetch.messages().await.unwrap().count().await;
    assert_eq!(helped, 2, "with five and four pending, and not with three");
    let rest = consumer.fetch().group("A").max_messages(5).messages().await.unwrap();
    assert_eq!(rest.count().await, 3);
}
