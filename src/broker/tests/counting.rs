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
    assert!(matches!(&events[..], [(_, Event::Published { seq: 2, .. })]), "{events:?}");
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
