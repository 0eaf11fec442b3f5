//! Atomic batches that come message by message, from NATS clients.

use super::*;

use crate::model::limits::Limits;
use serde_json::json;

fn atomic(name: &str, subjects: &[&str]) -> StreamConfig {
    StreamConfig { allow_atomic: true, ..named(name, subjects) }
}

fn bench(limits: Limits) -> Bench {
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(atomic("S", &["s.>"])).unwrap();
    bench
}

impl Bench {
    /// Publishes a message of a batch. The code of the error, if there is one.
    fn staged(&mut self, batch: &str, number: u64, commit: Option<&str>) -> Result<u64, u64> {
        let number = number.to_string();
        let mut headers = vec![("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", &*number)];
        headers.extend(commit.map(|commit| ("Nats-Batch-Commit", commit)));
        let answer = self.request("s.1", &headers, "x");
        match answer["error"]["err_code"].as_u64() {
            Some(code) => Err(code),
            None => Ok(answer["count"].as_u64().unwrap_or(0)),
        }
    }
}

#[test]
fn a_batch_is_stored_in_one_group_when_its_last_message_comes() {
    let mut bench = bench(Limits::default());
    bench.consumer("S", durable("c")).unwrap();
    let before = bench.broker.commit();
    assert_eq!((bench.staged("u", 1, None), bench.staged("u", 2, None)), (Ok(0), Ok(0)));
    assert_eq!(bench.broker.commit(), before, "what waits is nowhere");
    assert_eq!(bench.consumer_info("S", "c").num_pending, 0);
    assert_eq!(bench.staged("u", 3, Some("1")), Ok(3));
    assert_eq!(bench.broker.commit().0, before.0 + 1);
    assert_eq!(bench.pull("S", "c", 5).len(), 3);
}

#[test]
fn a_restart_forgets_what_was_not_committed_and_nothing_else() {
    let mut bench = bench(Limits::default());
    bench.staged("a", 1, None).unwrap();
    bench.staged("a", 2, Some("1")).unwrap();
    bench.staged("b", 1, None).unwrap();
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.seqs("S"), [1, 2]);
    assert_eq!(bench.staged("b", 2, Some("1")), Err(10176));
    assert_eq!(bench.seqs("S"), [1, 2]);
}

#[test]
fn a_batch_is_given_up_when_its_next_message_is_late() {
    let mut bench = bench(Limits::default());
    let almost = Limits::default().batch_timeout - Duration::from_millis(1);
    bench.staged("u", 1, None).unwrap();
    bench.pass(almost);
    bench.staged("u", 2, None).unwrap();
    bench.pass(almost);
    bench.staged("u", 3, None).unwrap();
    bench.handle(B, subscribe(1, "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.S"));
    bench.events.clear();
    bench.pass(Limits::default().batch_timeout);
    let (_, advisory) = messages(&bench.events, B).pop().expect("an advisory");
    let advisory: serde_json::Value = serde_json::from_slice(&advisory.payload).unwrap();
    assert_eq!((&advisory["batch"], &advisory["reason"]), (&json!("u"), &json!("timeout")));
    assert_eq!(bench.staged("u", 4, Some("1")), Err(10176));
    assert!(bench.seqs("S").is_empty());
}

#[test]
fn batches_that_wait_are_bounded_in_number() {
    let limits = Limits { max_stream_batches: 2, max_batches: 3, ..Limits::default() };
    let mut bench = bench(limits);
    bench.create(atomic("T", &["t"])).unwrap();
    for batch in ["a", "b"] {
        assert_eq!(bench.staged(batch, 1, None), Ok(0));
    }
    assert_eq!(bench.staged("c", 1, None), Err(10210));
    let mut other = |batch| {
        let headers = [("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", "1")];
        bench.request("t", &headers, "x")["error"]["err_code"].as_u64()
    };
    assert_eq!((other("a"), other("b")), (None, Some(10210)));
    assert_eq!(bench.staged("a", 2, Some("1")), Ok(2));
    assert_eq!(bench.staged("c", 1, None), Ok(0));
}

#[test]
fn batches_that_wait_are_bounded_in_bytes() {
    let size = |bench: &Bench| bench.broker.staging.bytes();
    let mut unbounded = bench(Limits::default());
    unbounded.staged("u", 1, None).unwrap();
    let one = size(&unbounded);
    let mut bench = bench(Limits { max_batch_bytes: 2 * one, ..Limits::default() });
    for number in [1, 2] {
        bench.staged("u", number, None).unwrap();
    }
    assert_eq!(size(&bench), 2 * one);
    assert_eq!(bench.staged("u", 3, None), Err(10210));
    assert_eq!(size(&bench), 0, "it was dropped");
    bench.staged("u", 1, None).unwrap();
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    assert_eq!(size(&bench), 0);
}

#[test]
fn an_advisory_that_goes_to_the_stream_of_the_batch_is_counted_once() {
    let mut bench = Bench::new();
    bench.create(atomic("S", &["s.>", "$JS.EVENT.ADVISORY.>"])).unwrap();
    bench.consumer("S", durable("c")).unwrap();
    let start = bench.info("S").state.messages;
    bench.staged("u", 1, None).unwrap();
    let mut block = Block::default();
    block.add("Nats-Batch-Id", "u").add("Nats-Batch-Sequence", "3");
    let block = block.finish();
    // A message of its own, one that ends the batch, and one more, all in a row.
    let mut buffer = b"s.1one".to_vec();
    buffer.extend_from_slice(&block);
    let mut batch = MessageBatch::new(buffer.into());
    batch.push(0, (0, 3), 0, 0, 3).unwrap();
    batch.push(6, (0, 3), 0, block.len(), 0).unwrap();
    batch.push(0, (0, 3), 0, 0, 3).unwrap();
    bench.run(A, Request::Send { batch, echo: true });
    assert_eq!(bench.info("S").state.messages, start + 3);
    assert_eq!(bench.consumer_info("S", "c").num_pending, start + 3);
}

#[test]
fn native_publishers_have_batches_of_their_own() {
    let mut bench = bench(Limits::default());
    let mut block = Block::default();
    block.add("Nats-Batch-Id", "u").add("Nats-Batch-Sequence", "1");
    let batch = MessageBatch::of_one("s.1", "", &block.finish(), b"x");
    let request = Request::Publish { producer: ProducerId(1), first: 1, batch };
    let events = bench.run(A, request);
    assert!(
        matches!(&events[..], [(_, Event::Refused { error, .. })] if error.err_code == 10174),
        "{events:?}"
    );
}

#[test]
fn a_batch_whose_ids_find_no_room_is_not_stored_in_part() {
    let mut bench = bench(Limits::default());
    bench.broker.log_mut().set_message_id_budget(2);
    let publish = |bench: &mut Bench, batch: &str, number: &str, id: &str, commit: bool| {
        let mut headers =
            vec![("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", number), ("Nats-Msg-Id", id)];
        headers.extend(commit.then_some(("Nats-Batch-Commit", "1")));
        bench.request("s.1", &headers, "x")["error"]["err_code"].as_u64()
    };
    for (number, id) in [("1", "a"), ("2", "b")] {
        assert_eq!(publish(&mut bench, "large", number, id, false), None);
    }
    assert_eq!(publish(&mut bench, "large", "3", "c", true), Some(20007));
    assert_eq!(bench.seqs("S"), [0_u64; 0]);
    assert_eq!(publish(&mut bench, "small", "1", "a", false), None);
    assert_eq!(publish(&mut bench, "small", "2", "b", true), None);
    assert_eq!(bench.seqs("S"), [1, 2]);
}

#[test]
fn a_message_of_a_batch_is_no_status() {
    let mut bench = bench(Limits::default());
    bench.consumer("S", durable("c")).unwrap();
    let block = b"NATS/1.0 503\r\nNats-Batch-Id: u\r\nNats-Batch-Sequence: 1\r\n\
        Nats-Batch-Commit: 1\r\n\r\n";
    let batch = MessageBatch::of_one("s.1", "", block, b"x");
    bench.run(A, Request::Send { batch, echo: true });
    let [delivery] = &*bench.pull("S", "c", 2) else { panic!("one is stored") };
    assert!(delivery.record.headers().starts_with(b"NATS/1.0\r\n"));
}
