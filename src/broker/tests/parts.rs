//! Many consumers that each want a part of a stream: each gets just its own, near or far behind.

use super::*;

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
        assert!(!bench.broker.catalog.get(id).unwrap().has_interest("s.0"));
    }
}
