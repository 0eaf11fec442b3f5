//! The SDK against a real server, over QUIC and over memory.

use std::time::Duration;

use claudebus::client::{
    AckPolicy, Client, ClientBuilder, ConnectError, ConnectionEvent, ConsumeError, Consumer,
    ConsumerConfig, Credit, DeadOptions, Message, MessageGetOptions, PublishError, PurgeOptions,
    RequestError, SendError, StreamConfig, WindowLimits,
};
use claudebus::model::limits::Limits;
use claudebus::server::{RunningServer, Server};

/// Longer than anything here takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);

fn builder(server: &RunningServer) -> ClientBuilder {
    let address = server.quic_address().expect("it listens");
    Client::builder()
        .url(format!("quic://{address}"))
        .fingerprint(server.fingerprint().expect("it has a certificate").to_string())
}

async fn start() -> (RunningServer, Client) {
    let server = Server::builder().quic_on_free_port().start().await.expect("the server starts");
    let client = builder(&server).connect().await.expect("the client connects");
    (server, client)
}

async fn orders(client: &Client) {
    let config = StreamConfig {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        ..StreamConfig::default()
    };
    client.create_stream(config).await.unwrap();
}

fn durable(name: &str) -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    }
}

async fn billing(client: &Client) -> Consumer {
    client.create_consumer("ORDERS", durable("billing")).await.unwrap()
}

/// Waits until `holds`, asking again and again.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

async fn round_trip(client: &Client) {
    orders(client).await;
    let ack = client.publish("orders.new", "first").await.unwrap();
    assert_eq!((&*ack.stream, ack.seq, ack.duplicate), ("ORDERS", 1, false));
    let second = Message::new("orders.paid", "second").header("Trace", "8f").id("order-2");
    assert_eq!(client.publish_message(second.clone()).await.unwrap().seq, 2);
    let again = client.publish_message(second).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (2, true));

    let consumer = billing(client).await;
    let deliveries = consumer.fetch(10).no_wait().await.unwrap();
    let seen: Vec<_> = deliveries
        .iter()
        .map(|d| (d.subject(), d.payload(), d.seq(), d.consumer_seq(), d.attempts(), d.pending()))
        .collect();
    assert_eq!(
        seen,
        [("orders.new", "first".into(), 1, 1, 1, 1), ("orders.paid", "second".into(), 2, 2, 1, 0)]
    );
    assert_eq!(deliveries[1].header("Trace"), Some("8f"));
    assert_eq!(deliveries[1].headers().count(), 2);
    deliveries[0].ack().await.unwrap();
    deliveries[1].ack_confirmed().await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.ack_floor.stream_seq, info.num_ack_pending), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let (server, client) = start().await;
    orders(&client).await;
    let letters = StreamConfig {
        name: "LETTERS".into(),
        subjects: vec!["letters.>".into()],
        ..StreamConfig::default()
    };
    client.create_stream(letters).await.unwrap();
    let batch = [
        Message::new("orders.new", "4711").id("order-4711"),
        Message::new("letters.out", "thank you").header("To", "customer"),
    ];
    let ack = client.publish_atomically(batch.clone()).await.unwrap();
    assert_eq!((ack.duplicate, ack.stored.len()), (false, 2));
    assert_eq!((&*ack.stored[1].stream, ack.stored[1].seq), ("LETTERS", 1));
    assert!(client.publish_atomically(batch).await.unwrap().duplicate);
    let refused = [Message::new("orders.new", "4712"), Message::new("nowhere", "")];
    let error = client.publish_atomically(refused).await.unwrap_err().to_string();
    assert!(error.contains("message 2 of the batch: no stream matches subject"), "{error}");
    assert_eq!(client.stream_info("ORDERS").await.unwrap().state.messages, 1);
    let late = [Message::new("orders.new", ""), Message::new("letters.out", "")]
        .map(|message| message.deliver_after(Duration::from_secs(3600)));
    let ack = client.publish_atomically(late).await.unwrap();
    assert_eq!(&*ack.stored[0].stream, "CLAUDEBUS_SCHEDULES");
    assert_eq!(client.schedules(None).await.unwrap().len(), 2);
    let large = vec![Message::new("orders.new", vec![7; 900]).id("large"); 1000];
    let error = client.publish_atomically(large).await.unwrap_err();
    assert!(matches!(error, RequestError::TooLarge { .. }), "{error}");
    assert_eq!(client.stream_info("ORDERS").await.unwrap().state.messages, 1);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_message_goes_out_and_comes_back_over_quic() {
    let (_server, client) = start().await;
    round_trip(&client).await;
}

#[tokio::test]
async fn a_message_goes_out_and_comes_back_within_the_process() {
    let server = Server::builder().start().await.unwrap();
    let client = Client::builder().connect_over(server.connect()).await.unwrap();
    round_trip(&client).await;
}

#[tokio::test]
async fn many_messages_in_flight_keep_their_order_and_their_answers() {
    let (_server, client) = start().await;
    orders(&client).await;
    let publisher = client.publisher();
    let mut tickets = Vec::new();
    for number in 0..20_000u64 {
        tickets.push(publisher.publish("orders.new", number.to_be_bytes()).await.unwrap());
    }
    // The last ones first: answers wait for their tickets, not the other way round.
    for (number, ticket) in tickets.into_iter().enumerate().rev() {
        assert_eq!(ticket.await.unwrap().seq, number as u64 + 1);
    }
    let consumer = billing(&client).await;
    let mut messages = consumer.messages_with(Credit { messages: 100, bytes: 1 << 20 });
    for number in 0..20_000u64 {
        let delivery = messages.next().await.unwrap().unwrap();
        assert_eq!(delivery.payload(), &number.to_be_bytes()[..]);
        delivery.ack().await.unwrap();
    }
    drop(messages);
    until("settling", || async { consumer.info().await.unwrap().ack_floor.stream_seq == 20_000 })
        .await;
}

#[tokio::test]
async fn a_small_window_slows_publishing_down_and_nothing_is_lost() {
    let (server, other) = start().await;
    orders(&other).await;
    let window = WindowLimits { messages: 3, bytes: 200 };
    let client = builder(&server).publish_window(window).connect().await.unwrap();
    let publisher = client.publisher();
    for number in 0..500 {
        drop(publisher.publish("orders.new", format!("{number:0100}")).await.unwrap());
    }
    let large = publisher.publish("orders.large", vec![0; 10_000]).await.unwrap();
    assert_eq!(large.await.unwrap().seq, 501);
}

#[tokio::test]
async fn large_messages_travel_whole() {
    let (_server, client) = start().await;
    orders(&client).await;
    let largest = client.welcome().unwrap().limits.max_payload;
    let body: Vec<u8> = (0..largest).map(|i| (i % 251) as u8).collect();
    for _ in 0..3 {
        client.publish("orders.large", &body).await.unwrap();
    }
    let error = client.publish("orders.large", vec![0; largest + 1]).await.unwrap_err();
    assert_eq!(error, PublishError::TooLarge { size: largest + 1, limit: largest });
    let consumer = billing(&client).await;
    let mut messages = consumer.messages_with(Credit { messages: 10, bytes: 1 });
    for _ in 0..3 {
        assert!(messages.next().await.unwrap().unwrap().payload() == body);
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_told_once() {
    let (_server, client) = start().await;
    orders(&client).await;
    let publisher = client.publisher();
    let refused = publisher.publish("elsewhere", "x").await.unwrap();
    let stored = publisher.publish("orders.new", "x").await.unwrap();
    let Err(PublishError::Refused(error)) = refused.await else { panic!("it was stored") };
    assert_eq!(error.code, 404);
    assert_eq!(stored.await.unwrap().seq, 1);
    publisher.flush().await.expect("the ticket has told");
    drop(publisher.publish("elsewhere", "x").await.unwrap());
    assert!(matches!(publisher.flush().await, Err(PublishError::Refused(_))));
    publisher.flush().await.expect("it was told");
    let error = client.publish("two words", "x").await.unwrap_err();
    assert_eq!(error, PublishError::Subject("two words".into()));
}

#[tokio::test]
async fn fetches_end_as_they_were_asked_to() {
    let (_server, client) = start().await;
    orders(&client).await;
    let consumer = billing(&client).await;
    assert!(consumer.fetch(5).no_wait().await.unwrap().is_empty());
    let short = Duration::from_millis(20);
    assert!(consumer.fetch(5).expires(short).await.unwrap().is_empty());
    for _ in 0..10 {
        client.publish("orders.new", vec![0; 100]).await.unwrap();
    }
    assert_eq!(consumer.fetch(3).await.unwrap().len(), 3);
    let bytes = 2 * ("orders.new".len() as u64 + 100);
    assert_eq!(consumer.fetch(5).max_bytes(bytes + 50).await.unwrap().len(), 2);
    assert_eq!(consumer.fetch(100).expires(short).await.unwrap().len(), 5);
    let waiting = tokio::spawn(consumer.fetch(1).expires(LIMIT).into_future());
    client.publish("orders.new", "late").await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap()[0].payload(), "late");
}

#[tokio::test]
async fn messages_that_nobody_saw_are_given_back() {
    let (_server, client) = start().await;
    orders(&client).await;
    for number in 0..10 {
        client.publish("orders.new", format!("{number}")).await.unwrap();
    }
    let consumer = billing(&client).await;
    let mut messages = consumer.messages();
    let first = messages.next().await.unwrap().unwrap();
    until("delivery of all", || async { consumer.info().await.unwrap().num_ack_pending == 10 })
        .await;
    drop(messages);
    first.ack().await.unwrap();
    let again = consumer.fetch(9).await.unwrap();
    assert_eq!(again.len(), 9);
    assert!(again.iter().all(|delivery| delivery.seq() > 1));
}

#[tokio::test]
async fn refused_and_given_up_messages_take_their_ways() {
    let (_server, client) = start().await;
    orders(&client).await;
    client.publish("orders.new", "bad").await.unwrap();
    let consumer = billing(&client).await;
    let first = consumer.fetch(1).await.unwrap().remove(0);
    first.in_progress().await.unwrap();
    first.nak(Duration::ZERO).await.unwrap();
    let second = consumer.fetch(1).await.unwrap().remove(0);
    assert_eq!((second.seq(), second.attempts()), (1, 2));
    second.terminate("cannot be parsed").await.unwrap();
    let all = DeadOptions::default;
    until("the death", || async {
        client.dead_letters("ORDERS", all()).await.is_ok_and(|page| page.total == 1)
    })
    .await;
    let letters = client.dead_letters("ORDERS", all()).await.unwrap().letters;
    assert!(letters[0].reason.contains("cannot be parsed"), "{}", letters[0].reason);
    assert_eq!((letters[0].consumer.as_str(), letters[0].stream_seq), ("billing", 1));
    assert_eq!(client.requeue_dead_letters("ORDERS", all()).await.unwrap(), 1);
    let third = consumer.fetch(1).await.unwrap().remove(0);
    assert_eq!(third.payload(), "bad");
    third.terminate("again").await.unwrap();
    until("the second death", || async {
        client.dead_letters("ORDERS", all()).await.is_ok_and(|page| page.total == 1)
    })
    .await;
    assert_eq!(client.drop_dead_letters("ORDERS", all()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_deleted_consumer_ends_its_messages_with_an_error() {
    let (_server, client) = start().await;
    orders(&client).await;
    let consumer = billing(&client).await;
    let mut messages = consumer.messages();
    until("the pull", || async { consumer.info().await.unwrap().num_waiting == 1 }).await;
    client.delete_consumer("ORDERS", "billing").await.unwrap();
    let error = messages.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ConsumeError::Status { code: 409, .. }), "{error}");
    assert!(messages.next().await.is_none());
    assert!(client.consumer("ORDERS", "billing").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn streams_and_messages_are_managed() {
    let (_server, client) = start().await;
    orders(&client).await;
    let mut config = client.stream_info("ORDERS").await.unwrap().config;
    config.max_msgs = 100;
    assert_eq!(client.update_stream(config).await.unwrap().config.max_msgs, 100);
    assert_eq!(client.stream_names().await.unwrap(), ["ORDERS"]);
    assert_eq!(client.list_streams().await.unwrap().len(), 1);
    for number in 1..=5 {
        client.publish("orders.new", format!("{number}")).await.unwrap();
    }
    assert_eq!(client.get_message("ORDERS", 2).await.unwrap().payload(), "2");
    let last = MessageGetOptions { last_by_subj: Some("orders.new".into()), ..Default::default() };
    assert_eq!(client.find_message("ORDERS", last).await.unwrap().seq(), 5);
    client.delete_message("ORDERS", 2).await.unwrap();
    assert!(client.get_message("ORDERS", 2).await.unwrap_err().is_not_found());
    let keep = PurgeOptions { keep: 1, ..PurgeOptions::default() };
    assert_eq!(client.purge_stream("ORDERS", keep).await.unwrap(), 3);
    assert_eq!(client.stream_info("ORDERS").await.unwrap().state.messages, 1);

    billing(&client).await;
    assert_eq!(client.consumer_names("ORDERS").await.unwrap(), ["billing"]);
    assert_eq!(client.list_consumers("ORDERS").await.unwrap()[0].name, "billing");
    let far = claudebus::client::Timestamp(u64::MAX / 4);
    client.pause_consumer("ORDERS", "billing", Some(far)).await.unwrap();
    assert!(client.consumer_info("ORDERS", "billing").await.unwrap().paused);
    client.pause_consumer("ORDERS", "billing", None).await.unwrap();
    assert!(!client.consumer_info("ORDERS", "billing").await.unwrap().paused);
    client.delete_consumer("ORDERS", "billing").await.unwrap();
    client.delete_stream("ORDERS").await.unwrap();
    assert!(client.stream_info("ORDERS").await.unwrap_err().is_not_found());
    assert!(client.server_info().await.unwrap().is_object());
}

#[tokio::test]
async fn subscriptions_get_what_is_sent_and_groups_share_it() {
    let (server, client) = start().await;
    let other = builder(&server).connect().await.unwrap();
    let mut all = client.subscribe("news.*").await.unwrap();
    let mut one = client.queue_subscribe("news.>", "readers").await.unwrap();
    let mut two = other.queue_subscribe("news.>", "readers").await.unwrap();
    for number in 0..10 {
        let message = Message::new("news.today", format!("{number}")).header("K", "v");
        other.send_message(message).await.unwrap();
    }
    other.flush().await.unwrap();
    for number in 0..10 {
        let message = all.next().await.unwrap();
        assert_eq!((message.subject(), message.header("K")), ("news.today", Some("v")));
        assert_eq!(message.payload(), format!("{number}"));
    }
    for _ in 0..10 {
        tokio::select! {
            message = one.next() => assert!(message.is_some()),
            message = two.next() => assert!(message.is_some()),
        }
    }
    assert_eq!(client.subscribe("a..b").await.unwrap_err(), SendError::Subject("a..b".into()));
}

/// A session may hold few deliveries: as they are sent, there is room for others, for pulls and for
/// subscriptions to what is pushed.
#[tokio::test]
async fn room_for_deliveries_comes_back_again_and_again() {
    let limits = Limits { max_session_deliveries: 4 << 10, ..Limits::default() };
    let server = Server::builder().limits(limits).quic_on_free_port().start().await.unwrap();
    let client = builder(&server).connect().await.unwrap();
    orders(&client).await;
    let publisher = client.publisher();
    for number in 0..1000 {
        drop(publisher.publish("orders.new", format!("{number:0100}")).await.unwrap());
    }
    publisher.flush().await.unwrap();
    let mut pulled = billing(&client).await.messages();
    let mut pushed = client.subscribe("pushed").await.unwrap();
    let push = ConsumerConfig {
        deliver_subject: Some("pushed".into()),
        ack_policy: AckPolicy::None,
        ..durable("push")
    };
    client.create_consumer("ORDERS", push).await.unwrap();
    let all = async {
        for number in 0..1000 {
            let delivery = pulled.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload(), format!("{number:0100}"));
            delivery.ack().await.unwrap();
            let message = pushed.next().await.unwrap();
            assert_eq!(message.payload(), format!("{number:0100}"));
            assert_eq!(message.subject(), "orders.new");
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("everything comes");
}

#[tokio::test]
async fn requests_are_answered_or_told_that_nobody_is_there() {
    let (server, client) = start().await;
    let service = builder(&server).connect().await.unwrap();
    let mut questions = service.subscribe("double").await.unwrap();
    let mut silent = service.subscribe("silent").await.unwrap();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let number: u64 = std::str::from_utf8(&question.payload()).unwrap().parse().unwrap();
            question.respond(format!("{}", number * 2)).await.unwrap();
        }
    });
    let asked = (0..100).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let answer = client.request("double", format!("{number}"), LIMIT).await.unwrap();
            assert_eq!(answer.payload(), format!("{}", number * 2));
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    let nobody = client.request("nobody", "?", LIMIT).await.unwrap_err();
    assert_eq!(nobody, SendError::NoResponders("nobody".into()));
    let short = Duration::from_millis(20);
    let late = client.request("silent", "?", short).await.unwrap_err();
    assert_eq!(late, SendError::Timeout { subject: "silent".into(), after: short });
    assert!(silent.next().await.unwrap().reply().is_some());
}

#[tokio::test]
async fn closing_waits_for_what_is_in_flight() {
    let (server, watcher) = start().await;
    orders(&watcher).await;
    let mut heard = watcher.subscribe("said").await.unwrap();
    let client = builder(&server).connect().await.unwrap();
    let consumer = billing(&client).await;
    client.publish("orders.new", "0").await.unwrap();
    let delivery = consumer.fetch(1).await.unwrap().remove(0);
    let publisher = client.publisher();
    for number in 1..1000 {
        drop(publisher.publish("orders.new", format!("{number}")).await.unwrap());
    }
    delivery.ack().await.unwrap();
    client.send("said", "goodbye").await.unwrap();
    client.close().await;
    assert_eq!(watcher.stream_info("ORDERS").await.unwrap().state.messages, 1000);
    let info = watcher.consumer_info("ORDERS", "billing").await.unwrap();
    assert_eq!(info.ack_floor.stream_seq, 1);
    assert_eq!(heard.next().await.unwrap().payload(), "goodbye");
    assert_eq!(client.publish("orders.new", "x").await, Err(PublishError::Closed));
    assert!(client.stream_info("ORDERS").await.is_err());
}

#[tokio::test]
async fn what_came_from_a_client_keeps_its_connection() {
    let (server, watcher) = start().await;
    orders(&watcher).await;
    let client = builder(&server).connect().await.unwrap();
    let publisher = client.publisher();
    let consumer = billing(&client).await;
    let mut heard = client.subscribe("said").await.unwrap();
    drop(client);
    let ticket = publisher.publish("orders.new", "x").await.unwrap();
    assert_eq!(ticket.await.unwrap().seq, 1);
    watcher.send("said", "y").await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload(), "y");
    drop(publisher.publish("orders.new", "z").await.unwrap());
    drop((publisher, heard));
    let deliveries = consumer.fetch(2).await.unwrap();
    drop(consumer);
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        delivery.ack().await.unwrap();
    }
    until("the last acknowledgement", || async {
        let info = watcher.consumer_info("ORDERS", "billing").await.unwrap();
        info.ack_floor.stream_seq == 2
    })
    .await;
}

#[tokio::test]
async fn strangers_are_not_let_in_and_not_believed() {
    let server = Server::builder()
        .quic_on_free_port()
        .auth_token("a long enough secret")
        .start()
        .await
        .unwrap();
    let refused = builder(&server).token("another secret").connect().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    let client = builder(&server).token("a long enough secret").connect().await.unwrap();
    let mut events = client.events();
    client.close().await;
    assert!(matches!(events.next().await, Some(ConnectionEvent::Closed { .. })));
    let stranger = builder(&server).fingerprint("00".repeat(32)).connect().await.unwrap_err();
    assert!(stranger.to_string().contains("not the pinned"), "{stranger}");
}
