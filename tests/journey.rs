//! One message, six stops.
//!
//! Read this first. It walks a single message through claudebus the way the server does, but by
//! hand: no socket, no thread, no clock. Each stop is a layer, and each hands the next one plain
//! data. What the server adds is only *when* these functions are called.
//!
//! wire -> session -> broker -> storage -> broker -> session and wire

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus::broker::{Broker, BrokerOptions};
use claudebus::model::api::{ApiRequest, ConsumerAction};
use claudebus::model::batch::MessageBatch;
use claudebus::model::consumer::{AckPolicy, ConsumerConfig};
use claudebus::model::event::{Event, Published};
use claudebus::model::limits::Limits;
use claudebus::model::request::{AckKind, ConnectionId, ProducerId, Request, SessionId, Token};
use claudebus::model::stream::StreamConfig;
use claudebus::model::time::Now;
use claudebus::session::native::Session;
use claudebus::wire::native::{ClientFrame, Decoder, Output, PullFrame, ServerFrame};
use claudebus_storage::Log;
use claudebus_storage::disk::simulated::SimulatedDisk;
use claudebus_storage::engine::{Engine, EngineOptions, Workers};

/// A publisher's stream and a consumer's stream. Each is a session of its own.
const PUBLISHER: SessionId = SessionId(1);
const CONSUMER: SessionId = SessionId(2);
/// Whoever set the stream and the consumer up.
const OPERATOR: SessionId = SessionId(3);

/// Time is an argument.
const NOW: Now = Now { monotonic: Duration::from_secs(1), wall: 1_700_000_000_000_000_000 };

#[test]
fn one_message_makes_six_stops() {
    let mut broker = broker_with_a_stream_and_a_consumer();
    let mut publisher = OpenStream::new(PUBLISHER, &open_publisher(), &mut broker);
    let mut consumer = OpenStream::new(CONSUMER, &open_consumer(), &mut broker);

    // The consumer asks for one message. Nothing is there yet, so the pull waits in the broker.
    consumer.receive(&pull_one(), &mut broker);
    turn(&mut broker);
    assert!(events_for(CONSUMER, &mut broker).is_empty());

    // Stop 1, wire: bytes from a client become a frame. They may arrive in any pieces.
    let bytes = publish_hello();
    let mut decoder = Decoder::new(1 << 20);
    decoder.buffer().extend_from_slice(&bytes[..5]);
    assert_eq!(decoder.next_frame().expect("so far it is fine"), None);
    decoder.buffer().extend_from_slice(&bytes[5..]);
    let frame = decoder.next_frame().expect("it is well formed").expect("it is complete");

    // Stop 2, session: the frame becomes a request. The session knows the protocol's rules, such as
    // that a publisher must open its stream first; it knows nothing of streams and subjects.
    let mut requests = Vec::new();
    publisher.session.receive(frame, &mut requests, &mut publisher.out).expect("it may publish");
    let [Request::Publish { batch, first: 1, .. }] = &requests[..] else {
        panic!("a published batch is one request: {requests:?}")
    };
    assert_eq!(batch.iter().next().expect("one message").payload, b"Hello");

    // Stop 3, broker: it decides. The message goes to the stream that captures its subject, under the
    // next sequence, and to the consumer whose pull waits.
    for request in requests {
        broker.handle(NOW, PUBLISHER, request);
    }

    // Stop 4, storage: what was decided in this turn becomes one group of the journal.
    let position = broker.commit();
    assert!(broker.log().durable() < position, "the group is on its way to the disk");

    // Nothing leaves yet: not the acknowledgement, and not the delivery either. A consumer must not
    // see what a power cut could still undo.
    assert!(all_events(&mut broker).is_empty());

    // The journal's thread writes and syncs the group. Here we are that thread.
    broker.log_mut().run_background();
    broker.handle_log(NOW).expect("the disk works");
    assert!(broker.log().durable() >= position);

    // Stop 5, broker again: what depends on the position may leave now. That the message was delivered
    // is journaled with the next group; a first delivery does not wait for that.
    broker.commit();
    let (acknowledged, delivered): (Vec<_>, Vec<_>) =
        all_events(&mut broker).into_iter().partition(|(session, _)| *session == PUBLISHER);
    let acknowledged: Vec<Event> = acknowledged.into_iter().map(|(_, event)| event).collect();
    let [Event::Published { named, ranges }] = &acknowledged[..] else {
        panic!("one acknowledgement for the batch: {acknowledged:?}")
    };
    let [(stream, name)] = &named[..] else { panic!("the stream is named: {named:?}") };
    assert_eq!(&**name, "ORDERS");
    let range = Published { first: 1, count: 1, stream: *stream, seq: 1, duplicate: false };
    assert_eq!(ranges[..], [range]);

    // Stop 6, session and wire: events become frames, and bytes on two different streams, so that a
    // consumer that does not read holds up no publisher.
    let frames = publisher.send(acknowledged);
    let Some(ServerFrame::Published { first: 1, ranges }) = frames.last() else {
        panic!("the publisher is told: {frames:?}")
    };
    assert_eq!(ranges[0].seq, 1);

    let delivered: Vec<Event> = delivered.into_iter().map(|(_, event)| event).collect();
    let frames = consumer.send(delivered);
    let Some(ServerFrame::Deliver { deliveries, .. }) = frames.last() else {
        panic!("the message is delivered: {frames:?}")
    };
    assert_eq!(deliveries[0].record.subject(), "orders.new");
    assert_eq!(deliveries[0].record.payload(), b"Hello");
    assert_eq!((deliveries[0].record.seq, deliveries[0].attempts), (1, 1));

    // The consumer acknowledges, and the message will not come again.
    consumer.receive(&ack_first(), &mut broker);
    turn(&mut broker);
    let confirmed = events_for(CONSUMER, &mut broker);
    assert!(
        matches!(confirmed[..], [Event::AckConfirmed { result: Ok(()), .. }]),
        "once it is durable, and not before: {confirmed:?}"
    );
}

/// A session with its output: what the server keeps for each QUIC stream.
struct OpenStream {
    id: SessionId,
    session: Session,
    out: Output,
}

impl OpenStream {
    fn new(id: SessionId, opening: &Bytes, broker: &mut Broker<Engine>) -> Self {
        let session = Session::further(Arc::new(Limits::default()), ConnectionId(1));
        let mut stream = Self { id, session, out: Output::new() };
        stream.receive(opening, broker);
        turn(broker);
        let answers = events_for(id, broker);
        stream.send(answers);
        stream
    }

    /// Gives bytes to the session, and what it asks to the broker.
    fn receive(&mut self, bytes: &Bytes, broker: &mut Broker<Engine>) {
        let mut decoder = Decoder::new(1 << 20);
        decoder.buffer().extend_from_slice(bytes);
        let mut requests = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("well formed") {
            self.session.receive(frame, &mut requests, &mut self.out).expect("allowed");
        }
        for request in requests {
            broker.handle(NOW, self.id, request);
        }
    }

    /// Gives events to the session, and returns the frames a client would decode.
    fn send(&mut self, events: Vec<Event>) -> Vec<ServerFrame> {
        for event in events {
            self.session.event(event, &mut self.out).expect("the session goes on");
        }
        let mut decoder = Decoder::new(1 << 20);
        for chunk in self.out.take() {
            decoder.buffer().extend_from_slice(&chunk);
        }
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("our own frames") {
            frames.push(ServerFrame::decode(frame).expect("our own frames"));
        }
        frames
    }
}

/// A broker over the real engine, on a simulated disk that this test drives.
fn broker_with_a_stream_and_a_consumer() -> Broker<Engine> {
    let options = EngineOptions { workers: Workers::Inline, ..EngineOptions::default() };
    let disk = Arc::new(SimulatedDisk::new());
    let engine = Engine::open(options, disk, Arc::new(|| {})).expect("a new log opens");
    let mut broker = Broker::open(engine, BrokerOptions::default(), NOW).expect("nothing to read");
    broker.handle(NOW, OPERATOR, Request::Opened { connection: ConnectionId(1) });
    let stream = StreamConfig {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        ..StreamConfig::default()
    };
    let consumer = ConsumerConfig {
        durable_name: Some("billing".into()),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    };
    for request in [
        ApiRequest::StreamCreate(Box::new(stream)),
        ApiRequest::ConsumerCreate {
            stream: "ORDERS".into(),
            config: Box::new(consumer),
            action: ConsumerAction::Create,
        },
    ] {
        broker.handle(NOW, OPERATOR, Request::Api { token: Token(1), request });
    }
    turn(&mut broker);
    for event in events_for(OPERATOR, &mut broker) {
        assert!(matches!(event, Event::Answer { result: Ok(_), .. }), "{event:?}");
    }
    broker
}

/// One turn of the server's loop, and the disk's work that follows from it.
fn turn(broker: &mut Broker<Engine>) {
    broker.commit();
    broker.log_mut().run_background();
    broker.handle_log(NOW).expect("the disk works");
}

fn all_events(broker: &mut Broker<Engine>) -> Vec<(SessionId, Event)> {
    std::iter::from_fn(|| broker.poll_event()).collect()
}

fn events_for(session: SessionId, broker: &mut Broker<Engine>) -> Vec<Event> {
    let events = all_events(broker).into_iter();
    events.filter(|(to, _)| *to == session).map(|(_, event)| event).collect()
}

/// What a client would send, as bytes.
fn encoded(frame: &ClientFrame) -> Bytes {
    let mut out = Output::new();
    frame.encode(&mut out);
    Bytes::from(out.take().concat())
}

fn open_publisher() -> Bytes {
    encoded(&ClientFrame::OpenPublisher { producer: ProducerId(7) })
}

fn publish_hello() -> Bytes {
    let batch = MessageBatch::of_one("orders.new", "", b"", b"Hello");
    encoded(&ClientFrame::Publish { first: 1, batch })
}

fn open_consumer() -> Bytes {
    encoded(&ClientFrame::OpenConsumer { stream: "ORDERS".into(), consumer: "billing".into() })
}

fn pull_one() -> Bytes {
    encoded(&ClientFrame::Pull(PullFrame { token: 1, batch: 1, ..PullFrame::default() }))
}

fn ack_first() -> Bytes {
    encoded(&ClientFrame::Ack { kind: AckKind::Ack, sequences: vec![(1, 1)], confirm: Some(9) })
}
