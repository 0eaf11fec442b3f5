//! Scripted sessions: frames and events in, requests and frames out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use bytes::Bytes;
use claudebus_storage::{NewRecord, Record, StreamId};

use super::*;
use crate::model::api::{ApiRequest, ApiResponse};
use crate::model::event::{ConsumerPath, Delivery, MAX_NAMED_STREAMS, Published, PullStatus};
use crate::model::request::{AckKind, ConnectionId, ProducerId, ReplyTo, Token};
use crate::wire::native::{Decoder, ErrorCode, MessagesWriter, PullFrame};

/// A session and what came out of it.
struct Script {
    session: Session,
    requests: Vec<Request>,
    out: Output,
}

impl Script {
    fn new(session: Session) -> Self {
        Self { session, requests: Vec::new(), out: Output::new() }
    }

    fn further() -> Self {
        Self::new(Session::further(Arc::new(Limits::default()), ConnectionId(1)))
    }

    fn controlled() -> Self {
        let mut script = Self::new(Session::first(Arc::new(Limits::default()), ConnectionId(1)));
        let hello = script.receive(&ClientFrame::Hello(Hello::default())).unwrap();
        assert_eq!(hello, Some(Hello::default()));
        script.session.welcome(Welcome::default(), &mut script.requests, &mut script.out);
        assert!(matches!(script.frames()[..], [ServerFrame::Welcome(_)]));
        assert!(matches!(script.take()[..], [Request::Opened { .. }]));
        script
    }

    fn receive(&mut self, frame: &ClientFrame) -> Result<Option<Hello>, Ending> {
        let mut out = Output::new();
        frame.encode(&mut out);
        let frame = decoded(&mut out).remove(0);
        self.session.receive(frame, &mut self.requests, &mut self.out)
    }

    fn event(&mut self, event: Event) -> Result<(), Ending> {
        self.session.event(event, &mut self.out)
    }

    fn frames(&mut self) -> Vec<ServerFrame> {
        decoded(&mut self.out).into_iter().map(|f| ServerFrame::decode(f).unwrap()).collect()
    }

    fn take(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }
}

fn decoded(out: &mut Output) -> Vec<Frame> {
    let mut decoder = Decoder::new(4 << 20);
    decoder.buffer().extend_from_slice(&out.take().concat());
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

fn publish(first: u64, count: usize) -> ClientFrame {
    let mut writer = MessagesWriter::new();
    for _ in 0..count {
        writer.push("a.b", "", b"", b"hello");
    }
    let mut out = Output::new();
    writer.numbered(first).encode(&mut out);
    ClientFrame::decode(decoded(&mut out).remove(0)).unwrap()
}

fn broken(result: Result<Option<Hello>, Ending>) -> ErrorCode {
    match result {
        Err(Ending::Broken(error)) => error.code(),
        other => panic!("not broken: {other:?}"),
    }
}

fn delivery(seq: u64, payload: usize) -> Delivery {
    let payload = vec![b'x'; payload];
    let record = NewRecord {
        subject: "a.b",
        headers: b"",
        payload: &payload,
        time: 5,
        expires: None,
        message_id: None,
    };
    let record = Record::copy_of(seq, &record);
    Delivery { record, consumer_seq: seq, attempts: 1, pending: 0, headers_only: false, pin: None }
}

#[test]
fn the_first_stream_begins_with_hello_and_no_other_frame() {
    let mut script = Script::new(Session::first(Arc::new(Limits::default()), ConnectionId(1)));
    assert!(!script.session.is_open());
    assert_eq!(broken(script.receive(&ClientFrame::OpenMessages)), ErrorCode::Unexpected);
    let mut script = Script::controlled();
    assert!(script.session.is_open());
    assert_eq!(broken(script.receive(&ClientFrame::OpenMessages)), ErrorCode::Unexpected);
    let mut script = Script::further();
    assert_eq!(broken(script.receive(&publish(1, 1))), ErrorCode::Unexpected);
}

#[test]
fn requests_are_answered_under_their_number() {
    let mut script = Script::controlled();
    let request = |operation: &str| ClientFrame::Request {
        id: 7,
        operation: operation.to_owned(),
        body: Bytes::new(),
    };
    script.receive(&request("STREAM.INFO.ORDERS")).unwrap();
    let [Request::Api { token: Token(7), request: ApiRequest::StreamInfo { stream, .. } }] =
        &script.take()[..]
    else {
        panic!("not STREAM.INFO");
    };
    assert_eq!(stream, "ORDERS");
    let result = Ok(ApiResponse::Deleted { success: true });
    script.event(Event::Answer { token: Token(7), result }).unwrap();
    let result = Err(ApiError::stream_not_found());
    script.event(Event::Answer { token: Token(8), result }).unwrap();
    script.receive(&request("STREAM.INFOS.ORDERS")).unwrap();
    let frames = script.frames();
    let body = Bytes::from_static(br#"{"success":true}"#);
    assert_eq!(frames[0], ServerFrame::Response { id: 7, ok: true, more: false, body });
    assert!(matches!(&frames[1], ServerFrame::Response { id: 8, ok: false, body, .. }
        if body.windows(5).any(|w| w == b"10059")));
    assert!(matches!(&frames[2], ServerFrame::Response { id: 7, ok: false, body, .. }
        if body.windows(11).any(|w| w == b"STREAM.INFO")));
}

#[test]
fn a_long_answer_comes_in_parts() {
    let mut script = Script::controlled();
    let value = serde_json::Value::String("x".repeat(600 << 10));
    let result = Ok(ApiResponse::Json(value.clone()));
    script.event(Event::Answer { token: Token(1), result }).unwrap();
    let mut joined = Vec::new();
    let mut ends = Vec::new();
    for frame in script.frames() {
        let ServerFrame::Response { ok: true, more, body, .. } = frame else { panic!() };
        joined.extend_from_slice(&body);
        ends.push(!more);
    }
    assert_eq!(ends, [false, false, true]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&joined).unwrap(), value);
}

fn published(first: u64, stream: StreamId, name: Option<&str>) -> Event {
    let named = name.into_iter().map(|name| (stream, name.into())).collect();
    let range = Published { first, count: 2, stream, seq: first, duplicate: false };
    Event::Published { named, ranges: vec![range] }
}

#[test]
fn names_that_a_session_forgets_are_told_again() {
    let mut script = Script::further();
    script.receive(&ClientFrame::OpenPublisher { producer: ProducerId(9) }).unwrap();
    for stream in 1..=MAX_NAMED_STREAMS as u64 {
        script.event(published(2 * stream, StreamId(stream), Some("S"))).unwrap();
    }
    script.frames();
    script.event(published(1, StreamId(1), None)).unwrap();
    script.event(published(3, StreamId(0), Some("T"))).unwrap();
    script.event(published(5, StreamId(1), Some("S"))).unwrap();
    let aliases: Vec<_> = script
        .frames()
        .into_iter()
        .map(|frame| match frame {
            ServerFrame::StreamName { alias, name } => (alias, name),
            ServerFrame::Published { ranges, .. } => (ranges[0].alias, String::new()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(0, ""), (0, "T"), (0, ""), (1, "S"), (1, "")];
    assert_eq!(aliases, expected.map(|(alias, name)| (alias, name.to_owned())));
}

#[test]
fn a_publisher_gets_ranges_and_each_stream_is_named_once() {
    let mut script = Script::further();
    script.receive(&ClientFrame::OpenPublisher { producer: ProducerId(9) }).unwrap();
    script.receive(&publish(1, 3)).unwrap();
    let requests = script.take();
    assert!(matches!(requests[0], Request::Opened { connection: ConnectionId(1) }));
    assert!(matches!(&requests[1], Request::Publish { producer: ProducerId(9), first: 1, batch }
        if batch.len() == 3));
    for (first, stream, name) in [(1, 7, Some("S")), (3, 7, None), (4, 9, Some("T"))] {
        script.event(published(first, StreamId(stream), name)).unwrap();
    }
    script.event(Event::Refused { counter: 6, error: ApiError::message_too_large() }).unwrap();
    let names: Vec<_> = script.frames().iter().map(ServerFrame::name).collect();
    assert_eq!(
        names,
        [
            "PUBLISHER_READY",
            "STREAM_NAME",
            "PUBLISHED",
            "PUBLISHED",
            "STREAM_NAME",
            "PUBLISHED",
            "REFUSED_MESSAGE"
        ]
    );
}

#[test]
fn a_batch_at_the_limit_passes_and_one_more_does_not() {
    let limits = Limits { max_batch_messages: 2, ..Limits::default() };
    let mut script = Script::new(Session::further(Arc::new(limits), ConnectionId(1)));
    script.receive(&ClientFrame::OpenPublisher { producer: ProducerId(9) }).unwrap();
    script.receive(&publish(1, 2)).unwrap();
    assert_eq!(broken(script.receive(&publish(3, 3))), ErrorCode::Malformed);
    assert_eq!(broken(script.receive(&publish(0, 1))), ErrorCode::Malformed);
}

#[test]
fn a_consumers_stream_is_ready_when_the_consumer_exists() {
    let mut script = Script::further();
    let open = ClientFrame::OpenConsumer { stream: "S".into(), consumer: "c".into() };
    script.receive(&open).unwrap();
    let pull = PullFrame { token: 0, batch: 5, renewable: true, ..PullFrame::default() };
    script.receive(&ClientFrame::Pull(pull)).unwrap();
    let requests = script.take();
    assert!(matches!(requests[0], Request::Opened { connection: ConnectionId(1) }));
    assert!(matches!(&requests[1], Request::Api { request: ApiRequest::ConsumerInfo { .. }, .. }));
    assert!(matches!(&requests[2], Request::Pull(pull)
        if pull.renewable && pull.stream == "S" && pull.consumer == "c"));
    let result = Ok(ApiResponse::Deleted { success: true });
    script.event(Event::Answer { token: Token(0), result }).unwrap();
    assert_eq!(script.frames(), [ServerFrame::ConsumerReady]);

    let mut script = Script::further();
    script.receive(&open).unwrap();
    let error = ApiError::consumer_not_found();
    let ending = script.event(Event::Answer { token: Token(0), result: Err(error.clone()) });
    assert_eq!(ending, Err(Ending::Refused(error.clone())));
    assert_eq!(script.frames(), [ServerFrame::Refused(error)]);
}

#[test]
fn deliveries_are_split_into_frames_and_given_back_when_sent() {
    let mut script = Script::further();
    let open = ClientFrame::OpenConsumer { stream: "S".into(), consumer: "c".into() };
    script.receive(&open).unwrap();
    let deliveries: Vec<_> = (1..=10).map(|seq| delivery(seq, 20_000)).collect();
    let charge: usize = deliveries.iter().map(Delivery::charge).sum();
    let consumer = Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() });
    script
        .event(Event::Deliver { token: Token(3), consumer, deliveries: deliveries.clone() })
        .unwrap();
    let mut seen = Vec::new();
    for frame in script.frames() {
        let ServerFrame::Deliver { token: 3, deliveries } = frame else { panic!() };
        assert!(deliveries.len() <= 3);
        seen.extend(deliveries);
    }
    assert_eq!(seen, deliveries);
    assert_eq!(script.session.take_delivered(), charge);
    assert_eq!(script.session.take_delivered(), 0);
}

/// A push consumer's deliveries are messages to those who subscribed to where it delivers.
#[test]
fn pushed_deliveries_are_messages_and_given_back() {
    let mut script = Script::further();
    script.receive(&ClientFrame::OpenMessages).unwrap();
    script.frames();
    let whole = delivery(1, 100);
    let head = Delivery { headers_only: true, ..delivery(2, 100) };
    let charge = whole.charge() + head.charge();
    let consumer = Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() });
    let deliveries = vec![whole, head];
    script.event(Event::Deliver { token: Token(7), consumer, deliveries }).unwrap();
    let mut payloads = Vec::new();
    for frame in script.frames() {
        let ServerFrame::Message { token: 7, message } = frame else { panic!() };
        assert_eq!(message.subject, "a.b");
        payloads.push((message.payload.len(), message.headers.is_empty()));
    }
    assert_eq!(payloads, [(100, true), (0, false)]);
    assert_eq!(script.session.take_delivered(), charge);
}

#[test]
fn acks_name_their_consumer_and_are_confirmed() {
    let mut script = Script::further();
    let open = ClientFrame::OpenConsumer { stream: "S".into(), consumer: "c".into() };
    script.receive(&open).unwrap();
    script.take();
    script
        .receive(&ClientFrame::Ack {
            kind: AckKind::Ack,
            sequences: vec![(1, 5), (7, 7)],
            confirm: Some(2),
        })
        .unwrap();
    let [Request::Ack(ack)] = &script.take()[..] else { panic!("not an ack") };
    assert_eq!((ack.stream.as_str(), ack.consumer.as_str()), ("S", "c"));
    assert_eq!(ack.sequences, [(1, 5), (7, 7)]);
    assert_eq!(ack.confirm, Some(ReplyTo::Session(Token(2))));
    script.event(Event::AckConfirmed { token: Token(2), result: Ok(()) }).unwrap();
    let status = PullStatus {
        code: 408,
        text: "Request Timeout".into(),
        pending_messages: 1,
        pending_bytes: 0,
        last: (0, 0),
        ended: true,
        reply: None,
        stalled: None,
    };
    script.event(Event::PullStatus { token: Token(1), status }).unwrap();
    let names: Vec<_> = script.frames().iter().map(ServerFrame::name).collect();
    assert_eq!(names, ["ACK_CONFIRMED", "STATUS"]);
}

#[test]
fn subscriptions_are_checked_and_bounded() {
    let limits = Limits { max_subscriptions: 1, ..Limits::default() };
    let mut script = Script::new(Session::further(Arc::new(limits), ConnectionId(1)));
    script.receive(&ClientFrame::OpenMessages).unwrap();
    let subscribe = |token, subject: &str| ClientFrame::Subscribe {
        token,
        subject: subject.to_owned(),
        queue: None,
    };
    script.receive(&subscribe(1, "a.>")).unwrap();
    script.receive(&ClientFrame::Barrier { token: 4 }).unwrap();
    assert!(matches!(
        script.take()[..],
        [Request::Opened { .. }, Request::Subscribe { .. }, Request::Api { token: Token(4), .. }]
    ));
    let result = Ok(ApiResponse::Json(serde_json::Value::Null));
    script.event(Event::Answer { token: Token(4), result }).unwrap();
    assert_eq!(
        script.frames(),
        [ServerFrame::MessagesReady, ServerFrame::BarrierReached { token: 4 }]
    );
    assert!(matches!(script.receive(&subscribe(2, "b")), Err(Ending::Refused(_))));
    assert!(matches!(script.frames()[..], [ServerFrame::Refused(_)]));
    script.receive(&ClientFrame::Unsubscribe { token: 1, max: None }).unwrap();
    script.receive(&subscribe(2, "b")).unwrap();
    assert!(matches!(script.receive(&subscribe(3, "a..b")), Err(Ending::Refused(_))));
}

#[test]
fn a_closed_session_says_why() {
    let mut script = Script::further();
    script.receive(&ClientFrame::OpenMessages).unwrap();
    script.frames();
    let reason = ApiError::shutting_down();
    let ending = script.event(Event::Close { reason: reason.clone() });
    assert_eq!(ending, Err(Ending::Refused(reason.clone())));
    assert_eq!(script.frames(), [ServerFrame::Refused(reason)]);
}

#[test]
fn a_finished_stream_ends_when_all_is_answered() {
    let mut script = Script::further();
    assert_eq!(script.session.finish(&mut script.requests), Err(Ending::Done));
    let mut script = Script::controlled();
    script.session.finish(&mut script.requests).unwrap();
    let [Request::Api { token, .. }] = script.take()[..] else { panic!("no last request") };
    let result = Ok(ApiResponse::Deleted { success: true });
    assert_eq!(script.event(Event::Answer { token, result }), Err(Ending::Done));
    assert!(script.frames().is_empty());
}

#[test]
fn a_finished_stream_waits_for_a_request_that_is_answered_late() {
    let mut script = Script::controlled();
    let info = ClientFrame::Request { id: 5, operation: "INFO".into(), body: Bytes::new() };
    script.receive(&info).unwrap();
    script.session.finish(&mut script.requests).unwrap();
    let Some(Request::Api { token, .. }) = script.take().pop() else { panic!("no last request") };
    let answer = |token| Event::Answer { token, result: Err(ApiError::stream_not_found()) };
    assert_eq!(script.event(answer(token)), Ok(()));
    assert_eq!(script.event(answer(Token(5))), Err(Ending::Done));
    assert_eq!(script.frames().len(), 1);
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut script = Script::controlled();
    let request = |id| ClientFrame::Request { id, operation: "INFO".into(), body: Bytes::new() };
    for id in 0..MAX_REQUESTS_IN_FLIGHT as u64 {
        assert!(!script.session.is_busy());
        script.receive(&request(id)).unwrap();
    }
    assert!(script.session.is_busy());
    let result = Err(ApiError::stream_not_found());
    script.event(Event::Answer { token: Token(0), result }).unwrap();
    assert!(!script.session.is_busy());
}
