//! Counters: what they come to, and when that is not known at once.

use super::*;

fn counters() -> Bench {
    let mut bench = Bench::new();
    let config = StreamConfig { allow_msg_counter: true, ..named("S", &["s.>"]) };
    bench.create(config).unwrap();
    bench
}

impl Bench {
    /// Lets a counter grow. What it comes to.
    fn count(&mut self, subject: &str, increment: &str) -> String {
        let answer = self.request(subject, &[("Nats-Incr", increment)], "");
        answer["val"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

#[test]
fn counters_go_on_after_a_restart() {
    let mut bench = counters();
    assert_eq!((&*bench.count("s.1", "5"), &*bench.count("s.1", "-7")), ("5", "-2"));
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!((&*bench.count("s.1", "+1"), &*bench.count("s.2", "1")), ("-1", "1"));
}

#[test]
fn a_counter_whose_last_message_is_gone_is_what_it_was_before() {
    for slow in [false, true] {
        let mut bench = counters();
        for _ in 0..3 {
            bench.count("s.1", "1");
            bench.count("s.2", "10");
        }
        bench.broker.log_mut().slow_reads(slow);
        let delete = |seq| ApiRequest::MessageDelete { stream: "S".into(), seq, no_erase: false };
        bench.api(delete(5)).unwrap();
        assert_eq!((&*bench.count("s.1", "1"), &*bench.count("s.2", "1")), ("3", "31"));
        let mut bench = bench.restarted(BrokerOptions::default());
        bench.broker.log_mut().slow_reads(slow);
        assert_eq!(bench.count("s.1", "1"), "4");
    }
}

/// A message to a counter, with an inbox.
fn growing(subject: &str, increment: &str) -> MessageBatch {
    let mut block = Block::default();
    block.add("Nats-Incr", increment);
    MessageBatch::of_one(subject, "_INBOX.x", &block.finish(), b"")
}

#[test]
fn messages_wait_in_order_while_a_counter_is_read() {
    let mut bench = counters();
    bench.count("s.1", "5");
    bench.count("s.2", "7");
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().slow_reads(true);
    bench.handle(A, subscribe(77, "_INBOX.x"));
    bench.events.clear();
    for subject in ["s.1", "s.2", "s.1", "s.3"] {
        bench.handle(A, Request::Send { batch: growing(subject, "1"), echo: true });
    }
    assert_eq!(bench.seqs("S"), [1, 2], "even the new counter waits for those before it");
    bench.turn();
    let answers = messages(&bench.events, A);
    let answers = answers.iter().map(|(_, message)| String::from_utf8_lossy(&message.payload));
    let told: Vec<String> = answers.map(std::borrow::Cow::into_owned).collect();
    let expected = [(3, 6), (4, 8), (5, 7), (6, 1)];
    let expected =
        expected.map(|(seq, val)| format!("{{\"stream\":\"S\",\"seq\":{seq},\"val\":\"{val}\"}}"));
    assert_eq!(told, expected);
}

#[test]
fn those_who_cannot_wait_are_told_to_come_again() {
    let mut bench = counters();
    bench.count("s.1", "5");
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().slow_reads(true);
    let request = |first| {
        let batch = growing("s.1", "1");
        Request::Publish { producer: ProducerId(1), first, batch }
    };
    let events = bench.run(A, request(1));
    let is_unread =
        matches!(&events[..], [(_, Event::Refused { error, .. })] if error.err_code == 10008);
    assert!(is_unread, "{events:?}");
    let events = bench.run(A, request(1));
    let is_stored =
        matches!(&events[..], [(_, Event::Published { ranges, .. })] if ranges[0].seq == 2);
    assert!(is_stored, "{events:?}");
    assert_eq!(bench.count("s.1", "1"), "7");
}

#[test]
fn what_is_no_counter_is_said_to_be_broken() {
    for slow in [false, true] {
        let mut bench = counters();
        bench.count("s.1", "5");
        let id = bench.broker.catalog.id_of("S").unwrap();
        // Nothing can publish this: it is as if another program had written it.
        let record = claudebus_storage::NewRecord {
            subject: "s.1",
            headers: b"",
            payload: b"{\"val\":5}",
            time: START,
            expires: None,
            message_id: None,
        };
        bench.broker.log_mut().append(id, &record).unwrap();
        bench.broker.log_mut().slow_reads(slow);
        let answer = bench.request("s.1", &[("Nats-Incr", "1")], "");
        assert_eq!(answer["error"]["err_code"], 10172, "{answer}");
    }
}

#[test]
fn numbered_messages_count_once() {
    let mut bench = counters();
    let mut block = Block::default();
    block.add("Nats-Incr", "2");
    let batch = MessageBatch::of_one("s.1", "", &block.finish(), b"");
    for _ in 0..2 {
        let batch = batch.clone();
        bench.run(A, Request::Publish { producer: ProducerId(1), first: 1, batch });
    }
    assert_eq!(bench.count("s.1", "1"), "3");
}

/// A broker that has forgotten what the counters `s.0`, `s.1` and `s.2` of a stream of batches have come to,
/// and must wait for what it reads.
fn forgetful() -> Bench {
    let mut bench = Bench::new();
    let config =
        StreamConfig { allow_msg_counter: true, allow_atomic: true, ..named("S", &["s.>"]) };
    bench.create(config).unwrap();
    for subject in ["s.0", "s.1", "s.2"] {
        bench.count(subject, "5");
        bench.count(subject, "5");
    }
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().slow_reads(true);
    bench
}

/// The headers of a message of a batch to a counter.
fn in_batch(number: &str, commit: Option<&'static str>) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Nats-Incr", "1".to_owned()), ("Nats-Batch-Id", "u".to_owned())];
    headers.push(("Nats-Batch-Sequence", number.to_owned()));
    headers.extend(commit.map(|commit| ("Nats-Batch-Commit", commit.to_owned())));
    headers
}

fn publish(bench: &mut Bench, subject: &str, headers: &[(&str, String)]) -> serde_json::Value {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(key, value)| (*key, &**value)).collect();
    bench.request(subject, &headers, "")
}

#[test]
fn a_batch_waits_until_each_of_its_counters_is_read() {
    for (commit, is_vague) in [("1", false), ("eob", false), ("1", true), ("eob", true)] {
        let mut bench = forgetful();
        let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 2, no_erase: false };
        bench.api(delete).unwrap();
        bench.broker.log_mut().hide_last_records(is_vague);
        for (number, subject) in [("1", "s.0"), ("2", "s.1")] {
            publish(&mut bench, subject, &in_batch(number, None));
        }
        let is_last = commit == "1";
        let mut answer = publish(&mut bench, "s.2", &in_batch("3", is_last.then_some(commit)));
        if !is_last {
            answer = publish(&mut bench, "s.2", &in_batch("4", Some(commit)));
        }
        assert_eq!(answer["count"], 3, "{answer}");
        assert_eq!((&*bench.count("s.0", "1"), &*bench.count("s.2", "1")), ("7", "12"));
    }
}

#[test]
fn the_end_of_a_batch_that_cannot_wait_may_be_sent_again() {
    for commit in ["1", "eob"] {
        let mut bench = forgetful();
        bench.broker.log_mut().slow_reads(false);
        bench.create(StreamConfig { allow_msg_counter: true, ..named("T", &["t"]) }).unwrap();
        bench.count("t", "1");
        let mut bench = bench.restarted(BrokerOptions::default());
        bench.broker.log_mut().slow_reads(true);
        publish(&mut bench, "s.0", &in_batch("1", None));
        for _ in 0..10_000 {
            bench.handle(A, Request::Send { batch: growing("t", "1"), echo: true });
        }
        let mut block = Block::default();
        for (key, value) in in_batch("2", Some(commit)) {
            block.add(key, &value);
        }
        let last = MessageBatch::of_one("s.1", "_INBOX.x", &block.finish(), b"");
        let events = bench.run(A, Request::Send { batch: last, echo: true });
        let told = messages(&events, A);
        let is_unread = |(_, message): &(Token, CoreMessage)| {
            String::from_utf8_lossy(&message.payload).contains("10008")
        };
        assert_eq!(told.iter().filter(|message| is_unread(message)).count(), 1);
        let answer = publish(&mut bench, "s.1", &in_batch("2", Some(commit)));
        assert_eq!(answer["count"], if commit == "1" { 2 } else { 1 }, "{answer}");
        assert_eq!(bench.count("s.0", "1"), "12");
    }
}

#[test]
fn a_counter_is_read_once_at_a_time() {
    let mut bench = forgetful();
    for producer in [1, 2] {
        let (producer, batch) = (ProducerId(producer), growing("s.1", "1"));
        bench.handle(A, Request::Publish { producer, first: 1, batch });
    }
    assert_eq!(bench.broker.reads.len(), 1);
}

#[test]
fn messages_that_wait_are_bounded_in_bytes() {
    let mut bench = forgetful();
    bench.handle(A, subscribe(77, "_INBOX.x"));
    bench.handle(A, Request::Send { batch: growing("s.1", "1"), echo: true });
    let large = MessageBatch::of_one("s.1", "_INBOX.x", b"", &vec![b'x'; 1 << 20]);
    for _ in 0..40 {
        bench.handle(A, Request::Send { batch: large.clone(), echo: true });
    }
    let (_, stalled) = bench.broker.counting.bytes();
    assert!((15 << 20..=16 << 20).contains(&stalled), "{stalled}");
    bench.turn();
    let told = messages(&bench.events, A);
    let unread = |(_, message): &&(Token, CoreMessage)| {
        String::from_utf8_lossy(&message.payload).contains("10008")
    };
    assert_eq!((told.len(), told.iter().filter(unread).count()), (41, 25));
    assert_eq!(bench.broker.counting.bytes().1, 0);
}

#[test]
fn what_is_remembered_of_counters_is_bounded_in_bytes() {
    let mut bench = counters();
    let long = "9".repeat(60_000);
    for number in 0..600 {
        bench.count(&format!("s.{number}"), &long);
    }
    let (known, _) = bench.broker.counting.bytes();
    assert!((1..=16 << 20).contains(&known), "{known}");
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    assert_eq!(bench.broker.counting.bytes(), (0, 0));
}

#[test]
fn who_waits_for_a_counter_hears_that_its_stream_is_deleted() {
    let mut bench = forgetful();
    bench.handle(A, subscribe(77, "_INBOX.x"));
    bench.handle(A, Request::Send { batch: growing("s.1", "1"), echo: true });
    bench.events.clear();
    let request = ApiRequest::StreamDelete { stream: "S".into() };
    bench.handle(A, Request::Api { token: Token(1), request });
    bench.turn();
    let [(_, answer)] = &*messages(&bench.events, A) else { panic!("one answer") };
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["error"]["err_code"], 10059, "{answer}");
    assert_eq!(bench.broker.counting.bytes(), (0, 0));
}

#[test]
fn a_counter_whose_subject_looks_like_a_pattern_is_not_another_one() {
    for slow in [false, true] {
        let mut bench = counters();
        for (subject, increment) in [("s.*", "5"), ("s.*", "5"), ("s.1", "100"), ("s.*", "5")] {
            bench.count(subject, increment);
        }
        let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 4, no_erase: false };
        bench.api(delete).unwrap();
        bench.broker.log_mut().slow_reads(slow);
        bench.broker.log_mut().hide_last_records(true);
        assert_eq!(bench.count("s.*", "1"), "11");
    }
}

#[test]
fn a_counter_whose_last_message_goes_while_it_is_read_is_what_it_was_before() {
    let mut bench = forgetful();
    bench.handle(A, Request::Send { batch: growing("s.2", "1"), echo: true });
    let id = bench.broker.catalog.id_of("S").unwrap();
    let summary = bench.broker.log.subject(id, "s.2").unwrap();
    bench.broker.log_mut().delete(id, summary.last, summary.id, 0);
    bench.broker.log_mut().hide_last_records(true);
    bench.turn();
    assert_eq!(bench.count("s.2", "1"), "7");
}
