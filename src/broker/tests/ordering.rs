//! Order by key and by priority: who comes when, and what survives a restart.

use super::*;

use crate::model::consumer::Idle;
use crate::model::request::AckKind::{Ack as Done, Nak, Terminate};

fn by_subject() -> ConsumerConfig {
    ConsumerConfig { order_by: Some("subject".into()), ..durable("c") }
}

/// A stream with these messages and one consumer.
fn bench(subjects: &[&str], config: ConsumerConfig) -> Bench {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.publish(1, 1, subjects);
    bench.consumer("S", config).unwrap();
    bench
}

fn seqs(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.record.seq).collect()
}

impl Bench {
    /// What comes at once; the pull is over then.
    fn take(&mut self, count: u64) -> Vec<u64> {
        let taken = seqs(&self.pull("S", "c", count));
        self.pass(Duration::from_millis(2));
        taken
    }

    fn end(&mut self, seq: u64, kind: AckKind) {
        self.ack("S", "c", (seq, seq), kind);
    }
}

#[test]
fn one_message_of_a_subject_is_in_flight() {
    let mut bench = bench(&["s.a", "s.a", "s.b", "s.a", "s.b", "s.c"], by_subject());
    assert_eq!(bench.take(10), [1, 3, 6]);
    assert!(bench.take(10).is_empty());
    let info = bench.consumer_info("S", "c");
    assert_eq!(
        (info.num_pending, info.num_ack_pending, info.idle),
        (3, 3, Some(Idle::KeysInFlight))
    );
    bench.end(3, Done);
    assert_eq!(bench.take(10), [5]);
    bench.end(1, Nak { delay: Duration::ZERO });
    assert_eq!(bench.take(10), [1], "the key stays taken until the message is settled");
    bench.end(1, Terminate { reason: String::new() });
    assert_eq!(bench.take(10), [2]);
    bench.end(2, Done);
    assert_eq!(bench.take(10), [4]);
    for seq in [4, 5, 6] {
        bench.end(seq, Done);
    }
    let info = bench.consumer_info("S", "c");
    assert_eq!((info.num_pending, info.num_ack_pending, info.ack_floor.stream_seq), (0, 0, 6));
}

#[test]
fn a_message_that_dies_frees_its_key() {
    let mut config = ConsumerConfig { max_deliver: 1, ..by_subject() };
    config.ack_wait = Duration::from_secs(1);
    let mut bench = bench(&["s.a", "s.a"], config);
    assert_eq!(bench.take(10), [1]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.take(10), [2]);
    assert_eq!(bench.info("DLQ_S").state.messages, 1);
}

#[test]
fn the_key_may_be_a_header() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    for (subject, key) in [("s.a", "x"), ("s.b", "x"), ("s.a", "y"), ("s.c", "")] {
        let headers = [("Customer", key)];
        bench.request(subject, if key.is_empty() { &[] } else { &headers }, "");
    }
    let config = ConsumerConfig { order_by: Some("Customer".into()), ..durable("c") };
    bench.consumer("S", config).unwrap();
    assert_eq!(bench.take(10), [1, 3, 4]);
    bench.end(1, Done);
    assert_eq!(bench.take(10), [2]);
}

#[test]
fn what_was_held_back_comes_after_a_restart_and_in_order() {
    let mut bench = bench(&["s.a", "s.a", "s.b", "s.a", "s.b"], by_subject());
    assert_eq!(bench.take(10), [1, 3]);
    bench.end(3, Done);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.consumer_info("S", "c").num_pending, 3);
    assert_eq!(bench.take(10), [5], "1 is still in flight, and 2 and 4 behind it");
    bench.end(1, Done);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.take(10), [2]);
    bench.publish(1, 6, &["s.a", "s.d"]);
    assert_eq!(bench.take(10), [7]);
    bench.end(2, Done);
    assert_eq!(bench.take(10), [4]);
    bench.end(4, Done);
    assert_eq!(bench.take(10), [6]);
}

#[test]
fn messages_held_back_may_go_and_are_not_confirmed() {
    let mut bench = bench(&["s.a", "s.a", "s.b", "s.a"], by_subject());
    assert_eq!(bench.take(10), [1, 3]);
    let confirm = |bench: &mut Bench, seq| {
        let ack = Ack {
            stream: "S".into(),
            consumer: "c".into(),
            sequences: vec![(seq, seq)],
            kind: Done,
            confirm: Some(ReplyTo::Session(Token(5))),
            subject: String::new(),
        };
        let events = bench.run(A, Request::Ack(ack));
        matches!(&*events, [(_, Event::AckConfirmed { result: Ok(()), .. })])
    };
    assert!(!confirm(&mut bench, 2), "it was never delivered");
    assert!(confirm(&mut bench, 3), "though one before it was not");
    let request = ApiRequest::MessageDelete { stream: "S".into(), seq: 2, no_erase: true };
    bench.api(request).unwrap();
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
    bench.end(1, Done);
    assert_eq!(bench.take(10), [4]);
}

#[test]
fn a_message_that_went_while_it_was_held_back_is_gone_after_a_restart() {
    let mut bench = bench(&["s.a", "s.a", "s.b", "s.a"], by_subject());
    assert_eq!(bench.take(10), [1, 3]);
    let request = ApiRequest::MessageDelete { stream: "S".into(), seq: 2, no_erase: true };
    bench.api(request).unwrap();
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
}

#[test]
fn no_more_are_held_back_than_allowed() {
    let mut bench = bench(&[], ConsumerConfig { max_ack_pending: -1, ..by_subject() });
    let most = consumer::MAX_HELD as u64;
    for first in (0..most + 2).step_by(1024) {
        let count = usize::try_from((most + 2 - first).min(1024)).unwrap();
        bench.publish(1, first + 1, &vec!["s.a"; count]);
    }
    bench.publish(1, most + 3, &["s.b"]);
    // The first of s.a is in flight, one more than may be held back waits unread, and so does s.b.
    assert_eq!(bench.take(10), [1]);
    assert!(bench.take(10).is_empty());
    bench.end(1, Done);
    assert_eq!(bench.take(10), [2]);
    bench.end(2, Done);
    assert_eq!(bench.take(10), [3, most + 3]);
}

#[test]
fn contradictions_are_refused() {
    let mut bench = bench(&[], durable("plain"));
    let wrong = [
        ConsumerConfig { order_by: Some("two words".into()), ..by_subject() },
        ConsumerConfig { ack_policy: AckPolicy::All, ..by_subject() },
        ConsumerConfig { ack_policy: AckPolicy::None, by_priority: true, ..durable("c") },
    ];
    for config in wrong {
        assert!(bench.consumer("S", config.clone()).is_err(), "{config:?}");
    }
    bench.consumer("S", by_subject()).unwrap();
    assert!(bench.consumer("S", durable("c")).is_err(), "it may not change");
}

fn urgent(bench: &mut Bench, priorities: &[u8]) {
    for priority in priorities {
        let text = priority.to_string();
        bench.request("s.a", &[("Claudebus-Priority", &text)], "");
    }
}

#[test]
fn the_most_urgent_come_first_and_nobody_starves() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", ConsumerConfig { by_priority: true, ..durable("c") }).unwrap();
    bench.publish(1, 1, &["s.a"]);
    urgent(&mut bench, &[9, 1, 9]);
    assert_eq!(bench.take(3), [2, 4, 3]);
    urgent(&mut bench, &[5; 8]);
    assert_eq!(bench.take(4), [5, 6, 7, 8]);
    assert_eq!(bench.take(2), [1, 9], "the eighth delivery is the oldest");
    let mut bench = bench.restarted(BrokerOptions::default());
    urgent(&mut bench, &[7]);
    assert_eq!(bench.take(9), [13, 10, 11, 12]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 0);
}

#[test]
fn urgent_messages_of_a_key_keep_their_order() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", ConsumerConfig { by_priority: true, ..by_subject() }).unwrap();
    bench.publish(1, 1, &["s.a"]);
    urgent(&mut bench, &[9]);
    bench.publish(1, 2, &["s.b"]);
    assert_eq!(bench.take(9), [1, 3]);
    bench.end(1, Done);
    assert_eq!(bench.take(9), [2]);
}

#[test]
fn urgent_messages_beyond_the_window_wait_for_it() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", ConsumerConfig { by_priority: true, ..durable("c") }).unwrap();
    bench.publish(1, 1, &["s.a"; 1024]);
    urgent(&mut bench, &[9]);
    assert_eq!(bench.take(2), [1, 1025], "when one is gone the window reaches it");
}

#[test]
fn work_queues_and_purges_keep_count() {
    let mut bench = Bench::new();
    let retention = crate::model::stream::Retention::WorkQueue;
    bench.create(StreamConfig { retention, ..named("S", &["s.>"]) }).unwrap();
    bench.consumer("S", by_subject()).unwrap();
    bench.publish(1, 1, &["s.a", "s.a", "s.b"]);
    assert_eq!(bench.take(10), [1, 3]);
    bench.end(1, Done);
    assert_eq!(bench.seqs("S"), [2, 3]);
    let options = crate::model::api::PurgeOptions::default();
    bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap();
    assert_eq!(bench.consumer_info("S", "c").num_pending, 0);
    bench.publish(1, 4, &["s.a", "s.b"]);
    assert_eq!(bench.take(10), [4, 5]);
}
