//! A batch is stored and answered as its messages would be one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::stream::{Discard, Republish, Retention, SubjectTransform};

#[derive(Clone, Debug)]
struct Message {
    subject: &'static str,
    headers: Vec<(&'static str, String)>,
}

fn message() -> impl Strategy<Value = Message> {
    let one = |name: &'static str, value: String| vec![(name, value)];
    let headers = prop_oneof![
        8 => Just(Vec::new()),
        2 => (0..4_u8).prop_map(move |n| one("Nats-Msg-Id", format!("id{n}"))),
        1 => (0..12_u8).prop_map(move |n| one("Nats-Expected-Last-Sequence", n.to_string())),
        1 => (0..4_u8).prop_map(move |n| one("Nats-Expected-Last-Msg-Id", format!("id{n}"))),
        1 => (0..12_u8).prop_map(move |n| one("Nats-Expected-Last-Subject-Sequence", n.to_string())),
        1 => Just(one("Nats-Rollup", "sub".to_owned())),
        1 => Just(one("Nats-TTL", "5s".to_owned())),
        2 => (1..4_u8, any::<bool>()).prop_map(|(n, is_last)| {
            let id = ("Nats-Batch-Id", "b".to_owned());
            let last = is_last.then(|| ("Nats-Batch-Commit", "1".to_owned()));
            [id, ("Nats-Batch-Sequence", n.to_string())].into_iter().chain(last).collect()
        }),
    ];
    let subject = select(vec!["s.a", "s.a", "s.b", "t.a", "t.a", "none", "u.x"]);
    (subject, headers).prop_map(|(subject, headers)| Message { subject, headers })
}

fn batch_of(messages: &[Message], reply: &str) -> MessageBatch {
    let (mut buffer, mut parts) = (Vec::new(), Vec::new());
    for Message { subject, headers } in messages {
        let mut block = Block::default();
        for (key, value) in headers {
            block.add(key, value);
        }
        let block = if headers.is_empty() { Vec::new() } else { block.finish() };
        parts.push((buffer.len(), subject.len(), block.len()));
        for part in [subject.as_bytes(), reply.as_bytes(), &block, b"x"] {
            buffer.extend_from_slice(part);
        }
    }
    let mut batch = MessageBatch::new(buffer.into());
    for (at, subject, headers) in parts {
        batch.push(at, (at, subject), reply.len(), headers, 1).unwrap();
    }
    batch
}

/// A stream whose messages go on changed, and one that they may go to.
fn bench_with(limits: (i64, i64, Discard), change: u8) -> Bench {
    let mut bench = Bench::new();
    let (max_msgs, max_msgs_per_subject, discard) = limits;
    let config = |name: &str, subject: &str| StreamConfig {
        allow_rollup_hdrs: true,
        allow_msg_ttl: true,
        allow_atomic: true,
        max_msgs,
        max_msgs_per_subject,
        discard,
        ..named(name, &[subject])
    };
    bench.create(config("S", "s.>")).unwrap();
    let src = || "t.*".to_owned();
    let republish =
        Republish { src: src(), dest: "s.{{wildcard(1)}}".into(), ..Republish::default() };
    let subject_transform = SubjectTransform { src: src(), dest: "q.{{wildcard(1)}}".into() };
    let changed = StreamConfig {
        retention: if change == 1 { Retention::Interest } else { Retention::Limits },
        republish: (change == 2).then_some(republish),
        subject_transform: (change == 3).then_some(subject_transform),
        ..config("T", "t.>")
    };
    bench.create(changed).unwrap();
    let some = ConsumerConfig { filter_subject: Some("s.a".into()), ..durable("some") };
    bench.consumer("S", some).unwrap();
    bench.consumer("S", durable("all")).unwrap();
    bench.handle(B, subscribe(7, "_R"));
    bench.turn();
    bench.events.clear();
    bench
}

/// What publishers were told, by counter or by the answer's text.
fn told(bench: &mut Bench, names: &mut BTreeMap<StreamId, Arc<str>>) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for (_, event) in std::mem::take(&mut bench.events) {
        match event {
            Event::Published { named, ranges } => {
                names.extend(named);
                for range in ranges {
                    let of = |n| {
                        format!("{} {} {}", names[&range.stream], range.seq + n, range.duplicate)
                    };
                    all.extend((0..range.count).map(|n| (range.first + n, of(n))));
                }
            }
            Event::Refused { counter, error } => all.push((counter, format!("{error:?}"))),
            Event::Message { message, .. } => {
                all.push((0, String::from_utf8_lossy(&message.payload).into_owned()));
            }
            _ => {}
        }
    }
    all
}

/// What is stored, and what consumers have of it.
fn state(bench: &mut Bench) -> Vec<String> {
    let mut state = Vec::new();
    for name in ["S", "T"] {
        let stream = bench.broker.catalog.find(name).unwrap();
        let records = bench.broker.log.records(stream.id);
        state.extend(records.map(|r| format!("{name} {} {} {}", r.seq, r.subject(), r.time)));
        state.push(stream.last_message_id.clone());
    }
    for name in ["some", "all"] {
        state.push(bench.consumer_info("S", name).num_pending.to_string());
        let got = bench.pull("S", name, 1000);
        state.extend(got.iter().map(|delivery| format!("{name} got {}", delivery.record.seq)));
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_batch_is_its_messages(
        // Numbered or not, how many counters come again, and the messages.
        batches in prop::collection::vec(
            (any::<bool>(), 0..6_u64, prop::collection::vec(message(), 1..12)),
            1..5,
        ),
        (max_msgs, per_subject) in (select(vec![-1, 3]), select(vec![-1, 2])),
        discards_new: bool,
        change in 0..4_u8,
    ) {
        let discard = if discards_new && max_msgs > 0 { Discard::New } else { Discard::Old };
        let make = || bench_with((max_msgs, per_subject, discard), change);
        let (mut whole, mut parts) = (make(), make());
        let (mut names, mut part_names) = (BTreeMap::new(), BTreeMap::new());
        let (mut first, producer) = (1, ProducerId(1));
        for (is_numbered, again, messages) in batches {
            first = u64::max(1, u64::saturating_sub(first, again));
            if is_numbered {
                let batch = batch_of(&messages, "");
                whole.handle(A, Request::Publish { producer, first, batch });
                for message in messages.chunks(1) {
                    let batch = batch_of(message, "");
                    parts.handle(A, Request::Publish { producer, first, batch });
                    first += 1;
                }
            } else {
                whole.handle(A, Request::Send { batch: batch_of(&messages, "_R"), echo: true });
                for message in messages.chunks(1) {
                    parts.handle(A, Request::Send { batch: batch_of(message, "_R"), echo: true });
                }
            }
            whole.turn();
            parts.turn();
            prop_assert_eq!(told(&mut whole, &mut names), told(&mut parts, &mut part_names));
        }
        prop_assert_eq!(state(&mut whole), state(&mut parts));
        // After a restart the same counters are known again.
        let mut again = [&whole, &parts].map(|bench| {
            let mut bench = bench.restarted(BrokerOptions::default());
            bench.events.clear();
            let subjects: Vec<_> = (1..first).map(|_| "s.a").collect();
            bench.handle(A, Request::Publish { producer, first: 1, batch: batch(&subjects) });
            bench.turn();
            told(&mut bench, &mut BTreeMap::new())
        });
        let [whole, parts] = &mut again;
        prop_assert_eq!(whole, parts);
    }
}
