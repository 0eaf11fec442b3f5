//! What a consumer reads before it delivers.

use super::*;

#[test]
fn what_comes_from_disk_is_read_ahead() {
    let mut bench = Bench::new(ConsumerConfig { max_ack_pending: 6, ..config() }, 9);
    bench.pull(at(0), |pull| pull.batch = 9);
    let want = |bench: &mut Bench| bench.consumer.want(at(0), 9, &|_| true);
    let read = |from, records| Want::Read { from, to: 9, records, bytes: 256 << 10 };
    assert_eq!(want(&mut bench), read(1, 6));
    bench.consumer.reading(ReadId(1));
    assert_eq!(want(&mut bench), Want::Nothing(Rest::Going));
    assert!(bench.consumer.finish_reading(ReadId(1)));
    bench.consumer.feed([1, 2].map(record), 3);
    // Before these are delivered the next ones are asked for, as many as may be pending beside them.
    assert_eq!(want(&mut bench), read(3, 4));
    bench.consumer.reading(ReadId(2));
    for seq in [1, 2] {
        assert_eq!(want(&mut bench), Want::Deliver);
        assert_eq!(bench.deliver(1), [seq]);
    }
    assert_eq!(want(&mut bench), Want::Nothing(Rest::Going));
    assert!(bench.consumer.finish_reading(ReadId(2)));
    bench.consumer.feed([3].map(record), 4);
    assert_eq!(want(&mut bench), read(4, 3));
    // A failure behind what is at hand waits until that is delivered.
    bench.consumer.reading(ReadId(3));
    assert!(bench.consumer.finish_reading(ReadId(3)));
    assert!(bench.consumer.puts_off_failure());
    assert_eq!(want(&mut bench), Want::Deliver);
    assert_eq!(bench.deliver(ROW), [3]);
    assert_eq!(want(&mut bench), read(4, 3));
    assert!(!bench.consumer.puts_off_failure());
    // Memory is not read ahead: it answers at once.
    bench.consumer.read_memory();
    bench.consumer.feed([4].map(record), 5);
    assert_eq!(want(&mut bench), Want::Deliver);
}

#[test]
fn what_was_read_ahead_is_still_to_be_delivered() {
    let mut bench = Bench::new(config(), 5);
    bench.consumer.feed([1, 2, 3].map(record), 4);
    assert_eq!(bench.consumer.num_before_cursor(), 3);
    bench.pull(at(0), |pull| pull.batch = 1);
    bench.run(at(0));
    assert_eq!(bench.consumer.num_before_cursor(), 2);
}

/// A consumer that wants what was appended at these places of a stream that had nothing else, with a pull
/// for so many.
fn sparse(places: &[(u64, u64)], batch: u64) -> Bench {
    let config = ConsumerConfig { max_ack_pending: 100_000, ..config() };
    let mut bench = Bench::new(config, 0);
    for (count, last) in places {
        bench.consumer.appended(*count, *last);
        bench.last = *last;
    }
    // What was there before it began to watch is looked at first.
    bench.consumer.feed([], 100);
    bench.pull(at(0), |pull| pull.batch = batch);
    bench
}

fn want(bench: &mut Bench) -> Want {
    bench.consumer.want(at(0), bench.last, &|_| true)
}

/// A consumer that knows where its messages lie reads several places for one row, as many as its pull
/// takes.
#[test]
fn messages_far_apart_are_gathered_for_one_row() {
    let mut bench = sparse(&[(1, 100), (1, 200), (1, 300), (1, 400)], 3);
    assert!(matches!(want(&mut bench), Want::Read { from: 100, to: 100, .. }));
    bench.consumer.feed([record(100)], 101);
    let Want::Gather { seqs, bytes } = want(&mut bench) else {
        panic!("there are more, and it knows where")
    };
    assert_eq!((seqs.as_slice(), bytes), (&[200, 300][..], 256 << 10));
    bench.gather(&seqs);
    assert_eq!(want(&mut bench), Want::Deliver);
    assert_eq!(bench.deliver(ROW), [100, 200, 300]);
}

#[test]
fn what_is_gathered_has_an_end() {
    let mut bench = sparse(&[(1, 100), (50_000, 60_000)], 100_000);
    assert!(matches!(want(&mut bench), Want::Read { from: 100, to: 100, .. }));
    bench.consumer.feed([record(100)], 101);
    let next = Want::Read { from: 10_001, to: 60_000, records: 1_024, bytes: 256 << 10 };
    assert_eq!(want(&mut bench), next, "no more than any read");
    bench.consumer.feed((10_001..10_065).map(record), 10_065);
    assert_eq!(want(&mut bench), Want::Deliver, "enough for a row");
    let mut bench = sparse(&[(1, 100), (1, 200)], 9);
    want(&mut bench);
    let payload = vec![0; 5_000];
    let large = NewRecord {
        subject: "s",
        headers: b"",
        payload: &payload,
        time: 0,
        expires: None,
        message_id: None,
    };
    bench.consumer.feed([Record::copy_of(100, &large)], 101);
    assert_eq!(want(&mut bench), Want::Deliver, "one large message is enough");
}

/// A read that failed is not tried again while there is something to deliver, however long that waits.
#[test]
fn a_failed_read_waits_for_what_is_at_hand() {
    let mut bench = sparse(&[(1, 100), (1, 200)], 9);
    want(&mut bench);
    bench.consumer.feed([record(100)], 101);
    assert_eq!(want(&mut bench), Want::Gather { seqs: vec![200], bytes: 256 << 10 });
    // It was not in memory.
    bench.consumer.reading(ReadId(1));
    assert!(bench.consumer.finish_reading(ReadId(1)) && bench.consumer.puts_off_failure());
    assert_eq!(want(&mut bench), Want::Deliver);
    assert_eq!(bench.deliver(ROW), [100]);
    assert!(matches!(want(&mut bench), Want::Read { from: 200, to: 200, .. }));
}
