//! Many consumers that each want a part of a stream: each gets just its own, near or far behind.

use std::collections::BTreeSet;

use super::*;
use crate::broker::turns::TURN_CONSUMERS;

/// Message `number` is about one of twenty subjects: so far apart they are not read together.
fn subjects(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|number| format!("s.{}", number % 20)).collect()
}

fn publish(bench: &mut Bench, from: u64, to: u64) {
    let subjects = subjects(from, to);
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    bench.publish(1, from, &subjects);
}

fn wanted(part: u64, from: u64, to: u64) -> Vec<u64> {
    (from..=to).filter(|number| number % 20 == part).collect()
}

fn take(bench: &mut Bench, name: &str) -> Vec<u64> {
    bench.token += 1;
    let pull = Pull { batch: 100_000, no_wait: true, ..pull("S", name, bench.token) };
    let events = bench.run(A, Request::Pull(pull));
    let got: Vec<u64> = deliveries(&events).iter().map(|delivery| delivery.record.seq).collect();
    if let (Some(first), Some(last)) = (got.first(), got.last()) {
        bench.ack("S", name, (*first, *last), AckKind::Ack);
    }
    got
}

fn part(name: &str, part: u64) -> ConsumerConfig {
    let filter = Some(format!("s.{part}"));
    ConsumerConfig { filter_subject: filter, max_ack_pending: -1, ..durable(name) }
}

#[test]
fn each_gets_its_part_however_far_it_is_behind() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    publish(&mut bench, 1, 500);
    for number in 0..10 {
        bench.consumer("S", part(&format!("c{number}"), number)).unwrap();
    }
    assert_eq!(take(&mut bench, "c3"), wanted(3, 1, 500), "what was there before");
    publish(&mut bench, 501, 600);
    assert_eq!(take(&mut bench, "c3"), wanted(3, 501, 600), "what it was told of");
    // More places than a consumer remembers; `assert_eq` would print too much.
    publish(&mut bench, 601, 20_600);
    assert!(take(&mut bench, "c3") == wanted(3, 601, 20_600), "far behind");
    assert!(take(&mut bench, "c4") == wanted(4, 1, 20_600), "from the beginning");
    let info = bench.consumer_info("S", "c5");
    assert_eq!(info.num_pending, wanted(5, 1, 20_600).len() as u64);
    publish(&mut bench, 20_601, 20_700);
    let mut bench = bench.restarted(BrokerOptions::default());
    publish(&mut bench, 20_701, 20_800);
    assert_eq!(take(&mut bench, "c3"), wanted(3, 20_601, 20_800), "after a restart");
    assert!(take(&mut bench, "c5") == wanted(5, 1, 20_800), "all after a restart");
    bench.broker.log_mut().slow_reads(true);
    publish(&mut bench, 20_801, 20_900);
    assert_eq!(take(&mut bench, "c3"), wanted(3, 20_801, 20_900), "from the disk");
    bench.broker.log_mut().slow_reads(false);
    publish(&mut bench, 20_901, 21_000);
    assert_eq!(take(&mut bench, "c3"), wanted(3, 20_901, 21_000), "from memory again");
}

#[test]
fn other_filters_find_what_the_old_ones_passed_over() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", part("c", 3)).unwrap();
    publish(&mut bench, 1, 400);
    let pulled: Vec<u64> = bench.pull("S", "c", 5).iter().map(|got| got.record.seq).collect();
    assert_eq!(pulled, [3, 23, 43, 63, 83]);
    bench.consumer("S", part("c", 4)).unwrap();
    publish(&mut bench, 401, 500);
    assert_eq!(take(&mut bench, "c"), wanted(4, 84, 500));
    bench.consumer("S", ConsumerConfig { max_ack_pending: -1, ..durable("c") }).unwrap();
    publish(&mut bench, 501, 520);
    assert_eq!(take(&mut bench, "c"), (485..=520).collect::<Vec<_>>());
}

#[test]
fn a_consumer_that_left_is_not_told() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    for number in 1..=2 {
        bench.consumer("S", part("c", 0)).unwrap();
        publish(&mut bench, number, number);
        let request = ApiRequest::ConsumerDelete { stream: "S".into(), consumer: "c".into() };
        bench.api(request).unwrap();
        let id = bench.broker.catalog.id_of("S").unwrap();
        assert!(!bench.broker.catalog.get(id).unwrap().consumers.has_interest("s.0"));
    }
}

/// The subjects of what one turn delivers, after a message that the first consumer wants.
fn next_turn(bench: &mut Bench, turn: u64) -> Vec<String> {
    let publish = Request::Publish { producer: ProducerId(2), first: turn, batch: batch(&["s.0"]) };
    bench.handle(A, publish);
    bench.broker.commit();
    bench.broker.handle_log(now(bench.at)).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| bench.broker.poll_event()).collect();
    deliveries(&events).iter().map(|delivery| delivery.record.subject().to_owned()).collect()
}

/// So many consumers, each with a subject of its own and a pull that does not end.
fn each_pulls(bench: &mut Bench, count: usize) {
    for n in 0..count {
        let (name, filter) = (format!("c{n:04}"), Some(format!("s.{n}")));
        bench.consumer("S", ConsumerConfig { filter_subject: filter, ..durable(&name) }).unwrap();
        let pull = Pull { batch: 9_999, expires: None, ..pull("S", &name, n as u64) };
        bench.run(A, Request::Pull(pull));
    }
}

/// While many consumers have something to deliver, each turn serves some of them, and what came in
/// meanwhile puts nobody back.
#[test]
fn many_consumers_are_served_in_turns() {
    let (mut bench, count) = (stream(&[]), 3 * TURN_CONSUMERS);
    each_pulls(&mut bench, count);
    let subjects: Vec<String> = (0..count).map(|n| format!("s.{n}")).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    let publish = Request::Publish { producer: ProducerId(1), first: 1, batch: batch(&subjects) };
    bench.handle(A, publish);
    let mut seen = BTreeSet::new();
    for turn in 1..=3 {
        seen.extend(next_turn(&mut bench, turn));
        assert_eq!(seen.len(), turn as usize * TURN_CONSUMERS);
        assert!(
            bench.broker.poll_timeout().is_some_and(|due| due <= bench.at),
            "it goes on at once"
        );
    }
    assert_eq!(next_turn(&mut bench, 4), ["s.0", "s.0", "s.0"], "they waited in their turn");
}

/// Where many consumers have something to deliver for long, each lets some messages gather.
#[test]
fn many_consumers_at_work_send_rows() {
    let (mut bench, count) = (stream(&[]), 3 * TURN_CONSUMERS);
    each_pulls(&mut bench, count);
    let subjects: Vec<String> = (0..count).map(|n| format!("s.{n}")).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    let turn = |bench: &mut Bench, first: Option<u64>| {
        bench.at += Duration::from_millis(1);
        if let Some(first) = first {
            let batch = batch(&subjects);
            bench.handle(A, Request::Publish { producer: ProducerId(1), first, batch });
        }
        bench.broker.handle_timeout(now(bench.at));
        bench.broker.commit();
        bench.broker.handle_log(now(bench.at)).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| bench.broker.poll_event()).collect();
        let rows = |event: &(_, Event)| matches!(event.1, Event::Deliver { .. });
        let delivered = deliveries(&events);
        let bytes = delivered.iter().map(Delivery::charge).sum();
        bench.handle(A, Request::Sent { bytes });
        (events.iter().filter(|event| rows(event)).count(), delivered.len())
    };
    let (mut early, mut late) = ((0, 0), (0, 0));
    for number in 0..200 {
        let (rows, messages) = turn(&mut bench, Some(1 + number * count as u64));
        let sum = if number < 50 { &mut early } else { &mut late };
        *sum = (sum.0 + rows, sum.1 + messages);
    }
    assert!(early.1 / early.0 < 5, "{early:?}: at first they have their turn as it comes");
    // What is not durable yet comes as a second event.
    assert!(late.1 / late.0 > 15, "{late:?}: rows are what gathers in 50 ms");
    let mut left = 200 * count - early.1 - late.1;
    while left > 0 {
        let due = bench.broker.poll_timeout().expect("some wait for their turn");
        assert!(due <= bench.at + Duration::from_millis(50), "nobody waits longer");
        left -= turn(&mut bench, None).1;
    }
}

/// A consumer that many connections pull from is one that waits for a turn, and no crowd.
#[test]
fn connections_that_share_a_consumer_are_no_crowd() {
    let mut bench = stream(&[]);
    bench.consumer("S", ConsumerConfig { max_ack_pending: -1, ..durable("shared") }).unwrap();
    let sessions: Vec<SessionId> = (100..300).map(SessionId).collect();
    for session in &sessions {
        bench.handle(*session, Request::Opened { connection: ConnectionId(session.0) });
    }
    let subjects = vec!["s.a"; sessions.len()];
    for number in 0..200 {
        bench.at += Duration::from_millis(1);
        let (first, batch) = (1 + number * sessions.len() as u64, batch(&subjects));
        bench.handle(A, Request::Publish { producer: ProducerId(1), first, batch });
        for session in &sessions {
            let pull = Pull { batch: 1, expires: None, ..pull("S", "shared", number) };
            bench.handle(*session, Request::Pull(pull));
        }
        bench.broker.commit();
        bench.broker.handle_log(now(bench.at)).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| bench.broker.poll_event()).collect();
        assert_eq!(deliveries(&events).len(), sessions.len(), "after {number} ms");
        for session in &sessions {
            bench.handle(*session, Request::Sent { bytes: 1 << 20 });
        }
    }
}

/// A server that stops tells all of them at once.
#[test]
fn a_stop_ends_the_pulls_of_many_consumers() {
    let (mut bench, count) = (stream(&[]), 3 * TURN_CONSUMERS);
    for n in 0..count {
        let name = format!("c{n:04}");
        bench.consumer("S", durable(&name)).unwrap();
        bench.run(A, Request::Pull(pull("S", &name, n as u64)));
    }
    bench.broker.shut_down(now(bench.at));
    bench.broker.commit();
    bench.broker.handle_log(now(bench.at)).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| bench.broker.poll_event()).collect();
    assert_eq!(statuses(&events).len(), count);
}

#[test]
fn what_is_confirmed_is_in_the_group_however_many_consumers_wait_for_their_turn() {
    const CONSUMERS: usize = 3 * TURN_CONSUMERS;
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    for number in 0..CONSUMERS {
        bench.consumer("S", durable(&format!("c{number}"))).unwrap();
    }
    bench.publish(1, 1, &["s.a"]);
    for number in 0..CONSUMERS {
        assert_eq!(bench.pull("S", &format!("c{number}"), 1).len(), 1);
    }
    for number in 0..CONSUMERS {
        let ack = Ack {
            stream: "S".into(),
            consumer: format!("c{number}"),
            sequences: vec![(1, 1)],
            kind: AckKind::Ack,
            confirm: Some(ReplyTo::Session(Token(7))),
            subject: String::new(),
        };
        bench.handle(A, Request::Ack(ack));
    }
    bench.broker.commit();
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.pass(Duration::from_secs(31));
    for number in 0..CONSUMERS {
        assert_eq!(bench.pull("S", &format!("c{number}"), 1).len(), 0, "consumer {number}");
    }
}
