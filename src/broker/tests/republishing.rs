//! Streams that store messages under other subjects, and that publish what they have stored.

use super::*;
use crate::model::stream::{Republish, SubjectTransform};

fn transform(src: &str, dest: &str) -> Option<SubjectTransform> {
    Some(SubjectTransform { src: src.into(), dest: dest.into() })
}

fn republish(src: &str, dest: &str) -> Option<Republish> {
    Some(Republish { src: src.into(), dest: dest.into(), headers_only: false })
}

/// Subjects and headers of what a subscriber to `out.>` is sent.
fn heard(events: &[(SessionId, Event)]) -> Vec<(String, String, Vec<u8>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    messages(events, B)
        .into_iter()
        .map(|(_, m)| (text(&m.subject), text(&m.headers), m.payload.to_vec()))
        .collect()
}

fn send(bench: &mut Bench, subject: &str, headers: &[(&str, &str)], body: &str) {
    let mut block = Block::default();
    for (key, value) in headers {
        block.add(key, value);
    }
    let block = if headers.is_empty() { Vec::new() } else { block.finish() };
    let batch = MessageBatch::of_one(subject, "", &block, body.as_bytes());
    bench.handle(A, Request::Send { batch, echo: true });
}

fn subjects(bench: &Bench, stream: &str) -> Vec<(u64, String)> {
    let id = bench.broker.catalog.id_of(stream).unwrap();
    bench.broker.log.records(id).map(|r| (r.seq, r.subject().to_owned())).collect()
}

#[test]
fn messages_are_stored_under_what_their_subjects_become() {
    let mut bench = Bench::new();
    let config = StreamConfig {
        subject_transform: transform("in.*", "out.$1"),
        max_msgs_per_subject: 1,
        allow_rollup_hdrs: true,
        ..named("T", &["in.>"])
    };
    bench.create(config).unwrap();
    bench
        .consumer("T", ConsumerConfig { filter_subject: Some("out.b".into()), ..durable("c") })
        .unwrap();
    bench.publish(1, 1, &["in.a", "in.a", "in.b", "in.x.y"]);
    let stored = |seq, subject: &str| (seq, subject.to_owned());
    assert_eq!(
        subjects(&bench, "T"),
        [stored(2, "out.a"), stored(3, "out.b"), stored(4, "in.x.y")]
    );
    let [delivery] = &*bench.pull("T", "c", 5) else { panic!("one is wanted") };
    assert_eq!(delivery.record.subject(), "out.b");
    // What is expected of a subject is about the one it becomes.
    let expected = |seq: &'static str| [("Nats-Expected-Last-Subject-Sequence", seq)];
    assert_eq!(bench.request("in.a", &expected("2"), "")["seq"], 5);
    assert_eq!(bench.request("in.a", &expected("0"), "")["error"]["err_code"], 10071);
    assert_eq!(bench.request("in.a", &[("Nats-Rollup", "sub")], "")["seq"], 6);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.request("in.b", &[], "")["seq"], 7);
    let kept = [stored(4, "in.x.y"), stored(6, "out.a"), stored(7, "out.b")];
    assert_eq!(subjects(&bench, "T"), kept);
}

#[test]
fn a_random_number_is_drawn_for_each_message() {
    let mut bench = Bench::new();
    let subject_transform = transform("in.*", "out.{{random(2)}}");
    bench.create(StreamConfig { subject_transform, ..named("T", &["in.>"]) }).unwrap();
    bench.publish(1, 1, &["in.a"; 40]);
    let stored = subjects(&bench, "T");
    assert_eq!(stored.len(), 40);
    for number in ["out.0", "out.1"] {
        assert!(stored.iter().any(|(_, subject)| subject == number), "{number}");
    }
}

#[test]
fn what_is_stored_is_published_with_where_it_is() {
    let mut bench = Bench::new();
    bench
        .create(StreamConfig { republish: republish("", "out.>"), ..named("S", &["s.>"]) })
        .unwrap();
    bench.handle(B, subscribe(9, "out.>"));
    bench.turn();
    bench.events.clear();
    bench.broker.log_mut().hold_durable(true);
    send(&mut bench, "s.a", &[], "one");
    send(&mut bench, "s.b", &[], "");
    send(&mut bench, "s.a", &[("X", "y")], "two");
    send(&mut bench, "s.a", &[("Nats-Rollup", "sub")], "refused");
    bench.turn();
    assert!(heard(&bench.events).is_empty(), "not before it is durable");
    bench.broker.log_mut().hold_durable(false);
    bench.turn();
    let time = crate::model::time::Timestamp(now(bench.at).wall);
    let headers = |own: &str, subject: &str, seq: u64, before: u64| {
        format!(
            "NATS/1.0\r\n{own}Nats-Stream: S\r\nNats-Subject: {subject}\r\nNats-Sequence: {seq}\r\n\
             Nats-Time-Stamp: {time}\r\nNats-Last-Sequence: {before}\r\n\r\n"
        )
    };
    let expected = [
        ("out.s.a".to_owned(), headers("", "s.a", 1, 0), b"one".to_vec()),
        ("out.s.b".to_owned(), headers("", "s.b", 2, 0), b"".to_vec()),
        ("out.s.a".to_owned(), headers("X: y\r\n", "s.a", 3, 1), b"two".to_vec()),
    ];
    assert_eq!(heard(&bench.events), expected);
}

#[test]
fn headers_alone_say_how_large_the_body_is_and_a_duplicate_is_not_published() {
    let mut bench = Bench::new();
    let headers_only =
        Some(Republish { headers_only: true, ..republish("s.*", "out.$1").unwrap() });
    bench.create(StreamConfig { republish: headers_only, ..named("S", &["s.>"]) }).unwrap();
    bench.handle(B, subscribe(9, "out.>"));
    bench.turn();
    bench.events.clear();
    for _ in 0..2 {
        send(&mut bench, "s.a", &[("Nats-Msg-Id", "1")], "body");
    }
    send(&mut bench, "s.a.b", &[], "another");
    bench.turn();
    let heard = heard(&bench.events);
    let [(subject, headers, payload)] = &*heard else { panic!("{heard:?}") };
    assert_eq!((subject.as_str(), payload.len()), ("out.a", 0));
    assert!(headers.ends_with("Nats-Last-Sequence: 0\r\nNats-Msg-Size: 4\r\n\r\n"), "{headers}");
}

#[test]
fn another_stream_may_store_what_is_published_and_a_circle_ends() {
    let mut bench = Bench::new();
    let to = |src: &str, dest: &str| republish(src, dest);
    let one = StreamConfig { republish: to(">", "b.>"), ..named("ONE", &["a.>"]) };
    bench.create(one).unwrap();
    bench.create(StreamConfig { republish: to(">", "a.>"), ..named("TWO", &["b.>"]) }).unwrap();
    bench.publish(1, 1, &["a.x"]);
    let (one, two) = (bench.seqs("ONE").len(), bench.seqs("TWO").len());
    assert!((2..10).contains(&(one + two)) && two >= 1, "{one} and {two}");
    let before = bench.seqs("ONE");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.seqs("ONE"), before);
}

#[test]
fn what_cannot_be_is_refused_as_nats_server_refuses_it() {
    let mut bench = Bench::new();
    let mut refused = |change: fn(&mut StreamConfig)| {
        let mut config = named("S", &["s.>"]);
        change(&mut config);
        let error = bench.create(config).unwrap_err();
        (error.code, error.err_code)
    };
    assert_eq!(refused(|c| c.republish = republish("s.>", "s.x.>")), (500, 10052));
    assert_eq!(refused(|c| c.subject_transform = transform("s..x", "a")), (400, 10155));
    assert_eq!(refused(|c| c.subject_transform = transform("s.*", "a.$2")), (400, 10156));
    let header = [("Nats-Stream-Source", "O 1 > > x y")];
    bench.create(named("S", &["s.>"])).unwrap();
    assert_eq!(bench.request("s.a", &header, "")["error"]["err_code"], 10227);
    let info = bench.create(StreamConfig { republish: republish("", "o.>"), ..named("T", &["t"]) });
    assert_eq!(info.unwrap().config.republish, republish(">", "o.>"));
}
