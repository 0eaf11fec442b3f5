//! The native protocol over real QUIC and over memory.

use std::time::Duration;

use bytes::Bytes;
use claudebus::client::transport::Transport;
use claudebus::model::limits::Limits;
use claudebus::model::request::{AckKind, ProducerId};
use claudebus::server::{RunningServer, Server, ServerBuilder, ServerLimits, StartError};
use claudebus::wire::native::{
    ALPN, ClientFrame, ErrorCode, MessagesWriter, Output, PullFrame, ServerFrame, StoredRange,
};

use crate::raw::{Control, Frames, LIMIT, connect, connect_to, hello};

async fn start(builder: ServerBuilder) -> (RunningServer, Transport) {
    let server = builder.quic_on_free_port().start().await.expect("the server starts");
    let transport = Transport::Quic(connect(&server).await);
    (server, transport)
}

async fn make_stream(control: &mut Control) {
    control.request("STREAM.CREATE.ORDERS", r#"{"subjects":["orders.>"]}"#).await.unwrap();
    let config = r#"{"config":{"durable_name":"bill","ack_policy":"explicit"}}"#;
    control.request("CONSUMER.CREATE.ORDERS.bill", config).await.unwrap();
}

async fn open_publisher(transport: &Transport, producer: u128) -> Frames {
    let mut publisher = Frames::open(transport).await;
    publisher.send(&ClientFrame::OpenPublisher { producer: ProducerId(producer) }).await;
    assert_eq!(publisher.next().await, ServerFrame::PublisherReady);
    publisher
}

async fn open_consumer(transport: &Transport) -> Frames {
    let mut consumer = Frames::open(transport).await;
    let open = ClientFrame::OpenConsumer { stream: "ORDERS".into(), consumer: "bill".into() };
    consumer.send(&open).await;
    assert_eq!(consumer.next().await, ServerFrame::ConsumerReady);
    consumer
}

fn pull(token: u64, batch: u64) -> ClientFrame {
    let expires = Some(Duration::from_secs(30));
    ClientFrame::Pull(PullFrame { token, batch, expires, ..PullFrame::default() })
}

/// Payloads and sequences of so many messages.
async fn take(consumer: &mut Frames, count: usize) -> Vec<(u64, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let ServerFrame::Deliver { deliveries, .. } = consumer.next().await else {
            panic!("not DELIVER");
        };
        taken.extend(deliveries.iter().map(|delivery| {
            let payload = String::from_utf8(delivery.record.payload().to_vec()).unwrap();
            (delivery.record.seq, payload)
        }));
    }
    taken
}

async fn whole_exchange(transport: &Transport) {
    let mut control = Control::greet(transport).await;
    make_stream(&mut control).await;

    let mut publisher = open_publisher(transport, 7).await;
    publisher.publish(1, &[("orders.new", "one"), ("orders.new", "two")]).await;
    publisher.publish(3, &[("elsewhere", "lost")]).await;
    let name = ServerFrame::StreamName { alias: 0, name: "ORDERS".into() };
    assert_eq!(publisher.next().await, name);
    let stored = StoredRange { count: 2, alias: 0, seq: 1, duplicate: false };
    let published = |range| ServerFrame::Published { first: 1, ranges: vec![range] };
    assert_eq!(publisher.next().await, published(stored));
    let ServerFrame::RefusedMessage { counter: 3, error } = publisher.next().await else {
        panic!("not refused");
    };
    assert_eq!(error.err_code, 10055);
    publisher.publish(1, &[("orders.new", "one"), ("orders.new", "two")]).await;
    let again = StoredRange { duplicate: true, ..stored };
    assert_eq!(publisher.next().await, published(again));

    let mut consumer = open_consumer(transport).await;
    consumer.send(&pull(1, 2)).await;
    assert_eq!(take(&mut consumer, 2).await, [(1, "one".into()), (2, "two".into())]);
    let ack = ClientFrame::Ack { kind: AckKind::Ack, sequences: vec![(1, 2)], confirm: Some(9) };
    consumer.send(&ack).await;
    assert_eq!(consumer.next().await, ServerFrame::AckConfirmed { token: 9, error: None });
    let info = control.request("CONSUMER.INFO.ORDERS.bill", "").await.unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["ack_floor"]["stream_seq"], 2, "{info}");

    let missing = control.request("STREAM.INFO.NONE", "").await.unwrap_err();
    assert!(missing.contains("10059"), "{missing}");
}

#[tokio::test]
async fn publish_consume_and_acknowledge_over_quic() {
    let (server, transport) = start(Server::builder()).await;
    whole_exchange(&transport).await;
    server.shutdown().await.expect("a clean stop");
}

#[tokio::test]
async fn publish_consume_and_acknowledge_within_the_process() {
    let server = Server::builder().start().await.expect("the server starts");
    whole_exchange(&server.connect()).await;
    server.shutdown().await.expect("a clean stop");
}

#[tokio::test]
async fn a_finished_stream_is_answered_to_its_end() {
    let (_server, transport) = start(Server::builder()).await;
    let mut control = Control::greet(&transport).await;
    make_stream(&mut control).await;
    let mut publisher = open_publisher(&transport, 7).await;
    for first in 0..100 {
        publisher.publish(first + 1, &[("orders.new", "x")]).await;
    }
    publisher.finish().await;
    let mut answered = 0;
    while let Some(frame) = publisher.try_next().await {
        if let ServerFrame::Published { ranges, .. } = frame {
            answered += ranges.iter().map(|range| range.count).sum::<u64>();
        }
    }
    assert_eq!(answered, 100);
}

#[tokio::test]
async fn subscribers_get_what_is_sent_after_the_barrier() {
    let (_server, transport) = start(Server::builder()).await;
    let _control = Control::greet(&transport).await;
    let mut one = Frames::open(&transport).await;
    one.send(&ClientFrame::OpenMessages).await;
    let subscribe = ClientFrame::Subscribe { token: 4, subject: "greet.>".into(), queue: None };
    one.send(&subscribe).await;
    one.send(&ClientFrame::Barrier { token: 1 }).await;
    assert_eq!(one.next().await, ServerFrame::MessagesReady);
    assert_eq!(one.next().await, ServerFrame::BarrierReached { token: 1 });
    let mut other = Frames::open(&transport).await;
    other.send(&ClientFrame::OpenMessages).await;
    let mut writer = MessagesWriter::new();
    writer.push("greet.all", "inbox", b"", b"hi");
    let mut out = Output::new();
    writer.encode_send(false, &mut out);
    other.send_output(&mut out).await;
    let ServerFrame::Message { token: 4, message } = one.next().await else {
        panic!("not MESSAGE");
    };
    assert_eq!((&message.subject[..], &message.reply[..]), (&b"greet.all"[..], &b"inbox"[..]));
    assert_eq!(&message.payload[..], b"hi");
}

#[tokio::test]
async fn a_stream_of_an_unknown_consumer_is_refused_and_others_go_on() {
    let (_server, transport) = start(Server::builder()).await;
    let mut control = Control::greet(&transport).await;
    let mut consumer = Frames::open(&transport).await;
    let open = ClientFrame::OpenConsumer { stream: "ORDERS".into(), consumer: "bill".into() };
    consumer.send(&open).await;
    let ServerFrame::Refused(error) = consumer.next().await else { panic!("not REFUSED") };
    assert_eq!(error.err_code, 10059);
    assert_eq!(consumer.try_next().await, None);
    control.request("STREAM.NAMES", "").await.unwrap();
}

/// The code and text that the server closed the connection with.
async fn closed(connection: &quinn::Connection) -> (u64, String) {
    let closed = tokio::time::timeout(LIMIT, connection.closed()).await.expect("closed in time");
    match closed {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}

#[tokio::test]
async fn a_broken_frame_closes_the_connection_and_says_why() {
    let (server, _) = start(Server::builder()).await;
    for (bytes, code, text) in [
        (&[0x02, 0x55, 0x00][..], ErrorCode::Malformed, "0x55"),
        (&[0xff; 8], ErrorCode::TooLarge, "limit"),
        (&[0x01, 0x30], ErrorCode::Unexpected, "HELLO"),
        (&[0x03, 0x01, b'{', b'}'], ErrorCode::Malformed, "HELLO"),
    ] {
        let connection = connect(&server).await;
        let mut frames = Frames::open(&Transport::Quic(connection.clone())).await;
        frames.send_bytes(Bytes::from_static(bytes)).await;
        let (closed_with, reason) = closed(&connection).await;
        assert_eq!(closed_with, u64::from(code.number()), "{reason}");
        assert!(reason.contains(text), "{reason}");
    }
}

#[tokio::test]
async fn a_connection_without_hello_is_closed() {
    let limits =
        ServerLimits { hello_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let (server, _) = start(Server::builder().server_limits(limits)).await;
    let silent = connect(&server).await;
    assert_eq!(closed(&silent).await.0, u64::from(ErrorCode::HelloTimeout.number()));
    let halting = connect(&server).await;
    let mut frames = Frames::open(&Transport::Quic(halting.clone())).await;
    frames.send_bytes(Bytes::from_static(&[0x2d, 0x01])).await;
    assert_eq!(closed(&halting).await.0, u64::from(ErrorCode::HelloTimeout.number()));
}

#[tokio::test]
async fn only_clients_with_the_token_are_let_in() {
    let (server, transport) = start(Server::builder().auth_token("secret")).await;
    let mut frames = Frames::open(&transport).await;
    frames.send(&hello(Some("secret"))).await;
    assert!(matches!(frames.next().await, ServerFrame::Welcome(_)));
    for token in [None, Some("wrong")] {
        let connection = connect(&server).await;
        let mut frames = Frames::open(&Transport::Quic(connection.clone())).await;
        frames.send(&hello(token)).await;
        let ServerFrame::Refused(error) = frames.next().await else { panic!("let in") };
        assert_eq!(error.err_code, 20011);
        assert_eq!(closed(&connection).await.0, u64::from(ErrorCode::Refused.number()));
    }
}

#[tokio::test]
async fn other_protocols_and_authorities_are_not_connected() {
    let (server, _) = start(Server::builder()).await;
    let address = server.quic_address().unwrap();
    let own = server.authority_pem().unwrap();
    assert!(connect_to(address, own, b"h3").await.is_err());
    let (other, _) = start(Server::builder()).await;
    assert!(connect_to(address, other.authority_pem().unwrap(), ALPN).await.is_err());
}

#[tokio::test]
async fn an_unprotected_address_is_refused() {
    let any = "0.0.0.0:0".parse().unwrap();
    let error = Server::builder().quic(any).start().await.unwrap_err();
    assert!(matches!(error, StartError::Unprotected(_)), "{error}");
    assert!(error.to_string().contains("token"), "{error}");
    let server = Server::builder().quic(any).auth_token("secret").start().await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn more_streams_than_allowed_wait() {
    let limits = ServerLimits { max_streams: 2, ..ServerLimits::default() };
    let (_server, transport) = start(Server::builder().server_limits(limits)).await;
    let control = Control::greet(&transport).await;
    assert_eq!(control.welcome.limits.max_streams, 2);
    let mut second = Frames::open(&transport).await;
    let third = tokio::spawn({
        let transport = transport.clone();
        async move { Frames::open(&transport).await }
    });
    second.send(&ClientFrame::OpenMessages).await;
    assert_eq!(second.next().await, ServerFrame::MessagesReady);
    assert!(!third.is_finished());
    second.finish().await;
    assert_eq!(second.try_next().await, None);
    tokio::time::timeout(LIMIT, third).await.expect("room in time").unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_others() {
    let (_server, transport) = start(Server::builder()).await;
    let mut control = Control::greet(&transport).await;
    make_stream(&mut control).await;
    let mut publisher = open_publisher(&transport, 7).await;
    let payload = "x".repeat(100_000);
    for counter in 1..=100 {
        publisher.publish(counter, &[("orders.new", &payload)]).await;
    }
    // Ten megabytes are asked for, and nothing is read.
    let mut lazy = open_consumer(&transport).await;
    lazy.send(&pull(1, 100)).await;
    let mut answered = 0;
    while answered < 100 {
        if let ServerFrame::Published { ranges, .. } = publisher.next().await {
            answered += ranges.iter().map(|range| range.count).sum::<u64>();
        }
    }
    let told = async {
        let mut info = String::new();
        while !info.contains(r#""idle":"slow_session""#) {
            info = control.request("CONSUMER.INFO.ORDERS.bill", "").await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("the consumer says that its reader is slow");
    assert_eq!(take(&mut lazy, 100).await.len(), 100);
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_cut_off_and_others_are_not() {
    let limits = Limits { max_pending_bytes: 64 << 10, ..Limits::default() };
    let server_limits = ServerLimits { max_unsent: 64 << 10, ..ServerLimits::default() };
    let builder = Server::builder().limits(limits).server_limits(server_limits);
    let (server, transport) = start(builder).await;
    let mut control = Control::greet(&transport).await;
    let mut lazy = subscriber(&transport).await;
    let mut eager = subscriber(&transport).await;
    // Beyond all windows between here and a client that reads nothing.
    let transport = server.connect();
    let _sender_control = Control::greet(&transport).await;
    let mut sender = Frames::open(&transport).await;
    sender.send(&ClientFrame::OpenMessages).await;
    let payload = vec![0; 10_000];
    for _ in 0..1000 {
        let mut writer = MessagesWriter::new();
        writer.push("news", "", b"", &payload);
        let mut out = Output::new();
        writer.encode_send(false, &mut out);
        sender.send_output(&mut out).await;
        assert!(matches!(eager.next().await, ServerFrame::Message { .. }));
    }
    let mut read = 0;
    while lazy.try_next().await.is_some() {
        read += 1;
    }
    assert!(read < 1000, "it got all {read}");
    control.request("INFO", "").await.expect("the connection goes on");
}

/// A stream that is subscribed to `news`.
async fn subscriber(transport: &Transport) -> Frames {
    let mut frames = Frames::open(transport).await;
    frames.send(&ClientFrame::OpenMessages).await;
    let subscribe = ClientFrame::Subscribe { token: 1, subject: "news".into(), queue: None };
    frames.send(&subscribe).await;
    frames.send(&ClientFrame::Barrier { token: 1 }).await;
    while frames.next().await != (ServerFrame::BarrierReached { token: 1 }) {}
    frames
}

#[tokio::test]
async fn under_load_addresses_are_verified_and_clients_still_connect() {
    let limits = ServerLimits { retry_above: 0, ..ServerLimits::default() };
    let (_server, transport) = start(Server::builder().server_limits(limits)).await;
    Control::greet(&transport).await;
}

#[tokio::test]
async fn one_connection_more_than_allowed_is_refused() {
    let limits = ServerLimits { max_connections: 1, ..ServerLimits::default() };
    let (server, transport) = start(Server::builder().server_limits(limits)).await;
    let _control = Control::greet(&transport).await;
    let address = server.quic_address().unwrap();
    let refused = connect_to(address, server.authority_pem().unwrap(), ALPN).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
}

#[tokio::test]
async fn publishers_wait_while_storage_catches_up_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Server::builder().data_directory(dir.path().join("data")).tail_budget(256 << 10);
    let (_server, transport) = start(builder).await;
    let mut control = Control::greet(&transport).await;
    make_stream(&mut control).await;
    let mut publisher = open_publisher(&transport, 7).await;
    let payload = "x".repeat(50_000);
    for counter in 1..=200 {
        publisher.publish(counter, &[("orders.new", &payload)]).await;
    }
    publisher.finish().await;
    let mut answered = 0;
    while let Some(frame) = publisher.try_next().await {
        if let ServerFrame::Published { ranges, .. } = frame {
            answered += ranges.iter().map(|range| range.count).sum::<u64>();
        }
    }
    assert_eq!(answered, 200);
}
