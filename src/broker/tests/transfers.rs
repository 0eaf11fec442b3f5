//! Snapshots and restores of streams.

use bytes::Bytes;

use super::*;
use crate::access::{Grant, PublishRules, SubscribeRules, Target};
use crate::model::answer::AnswerKind;
use crate::model::api::{MessageGetOptions, SnapshotOptions};
use crate::model::archive::{self, ArchivedConsumer};
use crate::model::s2;
use crate::model::stream::MAX_FIRST_SEQ;
use claudebus_storage::log::Pressure;

/// A little later: what waits for its turn has it.
const SOON: Duration = Duration::from_nanos(2);
/// Longer than a client may be silent.
const LONG: Duration = Duration::from_secs(61);

/// Stream `S` with a hole and an end that was deleted, and a consumer that has worked.
fn worked() -> Bench {
    let mut bench = stream(&["s.a", "s.b", "s.a", "s.b", "s.a"]);
    for seq in [2, 5] {
        let request = ApiRequest::MessageDelete { stream: "S".into(), seq, no_erase: true };
        bench.api(request).unwrap();
    }
    bench.consumer("S", durable("c")).unwrap();
    assert_eq!(bench.pull("S", "c", 2).len(), 2);
    bench.handle(
        A,
        Request::Ack(Ack {
            stream: "S".into(),
            consumer: "c".into(),
            sequences: vec![(1, 1)],
            kind: AckKind::Ack,
            confirm: None,
            subject: String::new(),
        }),
    );
    bench.turn();
    bench
}

impl Bench {
    /// Asks as a NATS client does; returns the messages that come to an inbox.
    fn ask_nats(&mut self, kind: AnswerKind, request: ApiRequest) -> Vec<CoreMessage> {
        self.handle(A, subscribe(88, "_INBOX.y"));
        let (reply, subject) = ("_INBOX.y".to_owned(), "asked".to_owned());
        let events = self.run(A, Request::ApiTo { reply, subject, kind, request: Ok(request) });
        let own = |(token, message)| (token == Token(88)).then_some(message);
        messages(&events, A).into_iter().filter_map(own).collect()
    }

    fn begin_snapshot(&mut self, options: &SnapshotOptions) {
        self.handle(B, subscribe(5, "snap"));
        let deliver_subject = "snap".to_owned();
        let options = SnapshotOptions { deliver_subject, ..options.clone() };
        let kind = AnswerKind::of("STREAM.SNAPSHOT.S").unwrap();
        let request = ApiRequest::StreamSnapshot { stream: "S".into(), options };
        assert_eq!(self.ask_nats(kind, request).len(), 1);
    }

    /// The parts of a snapshot that come now.
    fn parts(&mut self, after: Duration) -> Vec<CoreMessage> {
        self.events.clear();
        self.pass(after);
        let events = std::mem::take(&mut self.events);
        messages(&events, B).into_iter().map(|(_, message)| message).collect()
    }

    fn snapshot(&mut self) -> Vec<u8> {
        self.begin_snapshot(&SnapshotOptions::default());
        let parts = self.parts(SOON);
        let end = parts.last().expect("an end");
        assert!(end.payload.is_empty() && end.headers.starts_with(b"NATS/1.0 204\r\n"), "{end:?}");
        parts.iter().flat_map(|part| part.payload.to_vec()).collect()
    }

    /// Begins a restore; returns its name.
    fn begin_restore(&mut self) -> String {
        let request = ApiRequest::StreamRestore(Box::new(named("S", &["s.>"])));
        let Ok(ApiResponse::Restore { deliver_subject }) = self.api(request) else {
            panic!("it does not begin")
        };
        deliver_subject.rsplit('.').next().unwrap().to_owned()
    }

    fn restore_part(&mut self, name: &str, part: &[u8]) -> Vec<CoreMessage> {
        let kind = if part.is_empty() { AnswerKind::RESTORED } else { AnswerKind::DIRECT };
        let payload = Bytes::copy_from_slice(part);
        self.ask_nats(kind, ApiRequest::RestoreChunk { name: name.to_owned(), payload })
    }

    /// Restores; returns the answer.
    fn restore(&mut self, archive: &[u8]) -> serde_json::Value {
        let name = self.begin_restore();
        for part in archive.chunks(50) {
            let answers = self.restore_part(&name, part);
            assert!(
                matches!(&answers[..], [one] if one.payload.is_empty() && one.headers.is_empty())
            );
        }
        let answers = self.restore_part(&name, b"");
        serde_json::from_slice(&answers[0].payload).unwrap()
    }

    fn delete_s(&mut self) {
        self.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    }

    fn body_of(&mut self, seq: u64) -> Option<String> {
        let options = MessageGetOptions { seq, ..MessageGetOptions::default() };
        let request = ApiRequest::MessageGet { stream: "S".into(), options, direct: false };
        match self.api(request) {
            Ok(ApiResponse::Message { message }) => Some(message.subject + &message.data),
            _ => None,
        }
    }
}

/// An archive of a stream with so many messages and a last sequence, and of further entries.
fn archive_of(state: (u64, u64), put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut raw = Vec::new();
    archive::begin(&mut raw);
    let state = format!(r#"{{"messages":{},"last_seq":{}}}"#, state.0, state.1);
    archive::put_file(archive::STATE, START, state.as_bytes(), &mut raw);
    put(&mut raw);
    archive::end(&mut raw);
    let mut packed = Vec::new();
    s2::begin(&mut packed);
    s2::put(&raw, &mut packed);
    packed
}

fn put_message(seq: u64, body: &[u8], raw: &mut Vec<u8>) {
    archive::put("s.a", START, seq, b"", body, raw);
}

fn put_consumer(name: &str, consumer: &ArchivedConsumer, raw: &mut Vec<u8>) {
    let body = serde_json::to_vec(consumer).unwrap();
    archive::put_file(&format!("{}{name}", archive::CONSUMERS), START, &body, raw);
}

#[test]
fn a_stream_comes_back_from_its_snapshot_and_stays() {
    let mut bench = worked();
    let bodies: Vec<_> = (1..=5).map(|seq| bench.body_of(seq)).collect();
    let (state, consumer) = (bench.info("S").state, bench.consumer_info("S", "c"));
    let archive = bench.snapshot();
    bench.delete_s();
    let answer = bench.restore(&archive);
    assert_eq!(answer["state"]["messages"], 3, "{answer}");
    let mut again = bench.restarted(BrokerOptions::default());
    for bench in [&mut bench, &mut again] {
        let info = bench.info("S").state;
        assert_eq!((info.first_seq, info.last_seq), (1, 5));
        assert_eq!((info.messages, info.bytes), (state.messages, state.bytes));
        assert_eq!(bodies, (1..=5).map(|seq| bench.body_of(seq)).collect::<Vec<_>>());
        let restored = bench.consumer_info("S", "c");
        assert_eq!(restored.ack_floor.stream_seq, consumer.ack_floor.stream_seq);
        assert_eq!((restored.num_ack_pending, restored.num_pending), (1, 1));
        assert_eq!(bench.pull("S", "c", 1)[0].record.seq, 4);
    }
    assert_eq!(again.publish(9, 1, &["s.a"]).len(), 1);
    assert_eq!(again.info("S").state.last_seq, 6);
}

#[test]
fn a_restore_that_is_not_finished_leaves_nothing() {
    let mut bench = worked();
    let archive = bench.snapshot();
    bench.delete_s();
    let name = bench.begin_restore();
    assert_eq!(bench.restore_part(&name, &archive[..archive.len() / 2]).len(), 1);
    let id = StreamId(bench.broker.catalog.next_id - 1);
    assert!(bench.broker.log.stream(id).is_some());
    let missing = |bench: &mut Bench| {
        let options = Default::default();
        bench.api(ApiRequest::StreamInfo { stream: "S".into(), options }).unwrap_err().err_code
    };
    assert_eq!(missing(&mut bench), 10059, "it is not there before all has come");
    let mut again = bench.restarted(BrokerOptions::default());
    assert_eq!(missing(&mut again), 10059);
    assert!(again.broker.log.stream(id).is_none(), "its messages went");
    bench.pass(LONG);
    assert!(bench.broker.log.stream(id).is_none(), "its client has been silent");
    assert!(bench.broker.log.states(state::RESTORES).is_empty());
    let nobody = bench.restore_part(&name, b"more");
    assert!(nobody[0].headers.starts_with(b"NATS/1.0 503"), "{nobody:?}");
}

#[test]
fn what_is_damaged_is_refused_at_the_end() {
    let mut bench = worked();
    let archive = bench.snapshot();
    bench.delete_s();
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 1;
    for wrong in [b"garbage".to_vec(), archive[..archive.len() - 1].to_vec(), flipped, Vec::new()] {
        let answer = bench.restore(&wrong);
        assert_eq!(answer["error"]["err_code"], 10062, "{answer}");
        assert!(bench.broker.log.states(state::RESTORES).is_empty());
    }
    assert_eq!(bench.restore(&archive)["state"]["messages"], 3, "and the whole one comes back");
}

#[test]
fn a_stream_that_is_there_is_not_restored_over() {
    let mut bench = worked();
    let archive = bench.snapshot();
    let request = || ApiRequest::StreamRestore(Box::new(named("S", &["s.>"])));
    assert_eq!(bench.api(request()).unwrap_err().err_code, 10130);
    bench.delete_s();
    let name = bench.begin_restore();
    bench.restore_part(&name, &archive);
    bench.create(named("S", &["s.>"])).unwrap();
    let answers = bench.restore_part(&name, b"");
    let answer: serde_json::Value = serde_json::from_slice(&answers[0].payload).unwrap();
    assert_eq!(answer["error"]["err_code"], 10130, "it came to be meanwhile");
    assert_eq!(bench.info("S").state.messages, 0);
}

#[test]
fn a_snapshot_waits_for_its_client_and_not_for_ever() {
    let mut bench = stream(&[]);
    for number in 0..40_u64 {
        // Digits that do not repeat, so that packing does not make one chunk of them.
        let body: String =
            (0..20).map(|n| (number * 7919 + n * 104_729 + n * n * n).to_string()).collect();
        bench.request("s.a", &[], &body);
    }
    let options = SnapshotOptions { chunk_size: 1024, window_size: 2048, ..Default::default() };
    bench.begin_snapshot(&options);
    let parts = bench.parts(SOON);
    assert_eq!(parts.len(), 2, "as many as the window holds");
    assert!(parts.iter().all(|part| part.payload.len() == 1024));
    let subject = String::from_utf8(parts[0].reply.to_vec()).unwrap();
    assert!(subject.starts_with("$JS.SNAPSHOT.ACK.S."), "{subject}");
    bench.handle(B, Request::SnapshotAck { subject: subject.clone() });
    assert_eq!(bench.parts(SOON).len(), 1);
    bench.handle(B, Request::SnapshotAck { subject });
    assert!(bench.parts(SOON).is_empty(), "once is once");
    let end = bench.parts(LONG);
    assert!(end[0].headers.starts_with(b"NATS/1.0 408 No Flow Response"), "{end:?}");
    assert!(bench.broker.transfers.snapshots_are_over());
    bench.begin_snapshot(&options);
    bench.handle(B, Request::Unsubscribe { token: Token(5), max: None });
    assert!(bench.parts(SOON).is_empty());
    assert!(bench.broker.transfers.snapshots_are_over(), "nobody listens");
}

#[test]
fn what_is_restored_stays_far_from_where_sequences_end() {
    let too_far = |number: u64| {
        let mut delivered = ArchivedConsumer { config: durable("c"), ..Default::default() };
        delivered.state.delivered.consumer_seq = number;
        let mut again = ArchivedConsumer { config: durable("c"), ..Default::default() };
        again.state.delivered.stream_seq = 1;
        again.state.delivered.consumer_seq = 1;
        again.state.pending.insert(1, Default::default());
        again.state.redelivered.insert(1, number);
        let with = |consumer: ArchivedConsumer| {
            archive_of((1, 1), |raw| {
                put_message(1, b"body", raw);
                put_consumer("c", &consumer, raw);
            })
        };
        let message = archive_of((1, 1), |raw| put_message(number, b"", raw));
        [message, archive_of((0, number), |_| {}), with(delivered), with(again)]
    };
    let mut bench = Bench::new();
    for number in [MAX_FIRST_SEQ + 1, u64::MAX - 1, u64::MAX] {
        for (which, archive) in too_far(number).iter().enumerate() {
            let answer = bench.restore(archive);
            assert_eq!(answer["error"]["err_code"], 10062, "{which} {number} {answer}");
        }
    }
    let [_, last, delivered, again] = too_far(MAX_FIRST_SEQ);
    for archive in [last, delivered, again] {
        assert_eq!(bench.restore(&archive)["error"], serde_json::Value::Null);
        assert_eq!(bench.publish(1, 1, &["s.a"]).len(), 1);
        if bench.info("S").state.consumer_count > 0 {
            bench.pass(LONG);
            assert!(!bench.pull("S", "c", 2).is_empty());
        }
        bench.delete_s();
    }
}

#[test]
fn a_part_that_holds_much_takes_several_turns() {
    let (count, body) = (64, vec![0; 256 << 10]);
    let archive = archive_of((count, count), |raw| {
        (1..=count).for_each(|seq| put_message(seq, &body, raw));
    });
    assert!(archive.len() < 1 << 20, "it fits one part");
    let mut bench = Bench::new();
    let name = bench.begin_restore();
    assert!(bench.restore_part(&name, &archive).is_empty(), "not all of it in one turn");
    let id = StreamId(bench.broker.catalog.next_id - 1);
    let held = |bench: &Bench| bench.broker.log.stream(id).unwrap().messages;
    let first = held(&bench);
    assert!((1..count).contains(&first), "{first}");
    bench.broker.log.set_pressure(Pressure::High);
    bench.pass(Duration::from_secs(1));
    assert_eq!(held(&bench), first, "the log is busy");
    bench.broker.log.set_pressure(Pressure::Normal);
    bench.events.clear();
    bench.pass(Duration::from_secs(1));
    bench.pass(SOON);
    assert_eq!(held(&bench), count);
    assert_eq!(messages(&bench.events, A).len(), 1, "it is confirmed");
    let answers = bench.restore_part(&name, b"");
    let answer: serde_json::Value = serde_json::from_slice(&answers[0].payload).unwrap();
    assert_eq!(answer["state"]["messages"], count, "{answer}");
    bench.delete_s();
    let name = bench.begin_restore();
    assert!(bench.restore_part(&name, &archive).is_empty());
    let answers = bench.restore_part(&name, b"");
    let end = answers.last().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&end.payload).unwrap();
    assert_eq!(answer["error"]["err_code"], 10062, "the end came too early: {answer}");
}

#[test]
fn a_restored_consumer_delivers_nowhere_its_client_cannot() {
    let mut bench = Bench::new();
    let allow = |pattern: &str| Some(vec![pattern.to_owned()]);
    let grant = Grant::new(
        PublishRules { allow: allow("$JS.>"), deny: Vec::new() },
        SubscribeRules { allow: Some(vec![Target::subject("_INBOX.>")]), deny: Vec::new() },
        None,
    );
    let to = |subject: &str| {
        let config = ConsumerConfig { deliver_subject: Some(subject.into()), ..durable("c") };
        let consumer = ArchivedConsumer { config, ..Default::default() };
        archive_of((0, 0), |raw| put_consumer("c", &consumer, raw))
    };
    bench.handle(A, Request::Grant(Arc::new(grant)));
    let answer = bench.restore(&to("orders.paid"));
    assert_eq!(answer["error"]["err_code"], 10062, "{answer}");
    assert!(answer.to_string().contains("Permissions Violation"), "{answer}");
    bench.restore(&to("_INBOX.me"));
    assert_eq!(bench.info("S").state.consumer_count, 1);
    bench.delete_s();
    bench.handle(A, Request::Grant(Arc::default()));
    bench.restore(&to("orders.paid"));
    assert_eq!(bench.info("S").state.consumer_count, 1, "who may do everything may do that");
}

/// The storage engine's clock goes on with the times of messages, and lets go of message ids by it.
#[test]
fn a_message_of_the_future_is_stored_as_of_now() {
    let mut bench = Bench::new();
    let archive = archive_of((2, 2), |raw| {
        archive::put("s.a", START, 1, b"", b"", raw);
        archive::put("s.a", 2 * START, 2, b"", b"", raw);
    });
    assert_eq!(bench.restore(&archive)["state"]["messages"], 2);
    let id = bench.broker.catalog.id_of("S").unwrap();
    let times: Vec<u64> = bench.broker.log.records(id).map(|record| record.time).collect();
    assert_eq!(times, [START, now(bench.at).wall]);
}

#[test]
fn an_archive_may_lack_messages_and_hold_no_others() {
    let mut bench = Bench::new();
    let archive = |said| archive_of((said, 3), |raw| put_message(2, b"", raw));
    assert_eq!(bench.restore(&archive(0))["error"]["err_code"], 10062);
    let answer = bench.restore(&archive(3));
    assert_eq!(
        (&answer["state"]["messages"], &answer["state"]["last_seq"]),
        (&1.into(), &3.into())
    );
}

#[test]
fn an_archive_holds_no_two_consumers_of_one_name() {
    let consumer = ArchivedConsumer { config: durable("c"), ..Default::default() };
    let archive = |count| {
        archive_of((0, 0), |raw| {
            (0..count).for_each(|_| put_consumer("c", &consumer, raw));
        })
    };
    let mut bench = Bench::new();
    let answer = bench.restore(&archive(2));
    assert_eq!(answer["error"]["err_code"], 10062, "{answer}");
    assert_eq!(bench.restore(&archive(1))["state"]["consumer_count"], 1);
}

#[test]
fn a_snapshot_of_a_stream_that_is_deleted_ends_with_an_error() {
    let mut bench = stream(&["s.a", "s.b"].repeat(200));
    let options = SnapshotOptions { chunk_size: 1024, window_size: 1024, ..Default::default() };
    bench.begin_snapshot(&options);
    assert_eq!(bench.parts(SOON).len(), 1);
    let request = ApiRequest::StreamDelete { stream: "S".into() };
    let events = bench.run(A, Request::Api { token: Token(9), request });
    let (_, end) = messages(&events, B).pop().expect("an end");
    assert!(end.headers.starts_with(b"NATS/1.0 500 the stream was deleted\r\n"), "{end:?}");
    assert!(bench.broker.transfers.snapshots_are_over());
}
