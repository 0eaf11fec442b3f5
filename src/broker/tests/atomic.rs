//! Atomic batches: all messages or none, of any streams.

use super::*;

use crate::model::api::{BatchMessage, BatchPlace};
use crate::model::stream::Discard;
use claudebus_storage::Pressure;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.create(named("A", &["a.>"])).unwrap();
    let full = StreamConfig { max_msgs: 2, discard: Discard::New, ..named("B", &["b.>"]) };
    bench.create(full).unwrap();
    bench
}

fn message(subject: &str, headers: &[(&str, &str)]) -> BatchMessage {
    let mut block = Block::default();
    for (key, value) in headers {
        block.add(key, value);
    }
    let headers = if headers.is_empty() { Vec::new() } else { block.finish() };
    BatchMessage { subject: subject.into(), headers, payload: b"x".to_vec() }
}

impl Bench {
    /// Where the messages are, and whether they were there before.
    fn batch(&mut self, messages: &[BatchMessage]) -> Result<(Vec<(String, u64)>, bool), ApiError> {
        match self.api(ApiRequest::PublishBatch { messages: messages.to_vec() })? {
            ApiResponse::Batch { duplicate, stored } => {
                let place = |BatchPlace { stream, seq }| (stream, seq);
                Ok((stored.into_iter().map(place).collect(), duplicate))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn all_are_stored_in_one_group() {
    let mut bench = bench();
    bench.consumer("A", durable("c")).unwrap();
    let before = bench.broker.commit();
    let batch = [message("a.1", &[]), message("b.1", &[("K", "v")]), message("a.2", &[])];
    let (stored, duplicate) = bench.batch(&batch).unwrap();
    let places = [("A".to_owned(), 1), ("B".to_owned(), 1), ("A".to_owned(), 2)];
    assert_eq!((&*stored, duplicate), (&places[..], false));
    assert_eq!(bench.broker.commit().0, before.0 + 1);
    assert_eq!(bench.pull("A", "c", 5).len(), 2);
}

#[test]
fn one_that_is_refused_refuses_all() {
    let mut bench = bench();
    let wrong: [(BatchMessage, u32); 8] = [
        (message("nowhere", &[]), 10055),
        (message("a.*", &[]), 20001),
        (message("a.2", &[("Nats-Expected-Last-Sequence", "7")]), 10071),
        (message("a.2", &[("Nats-TTL", "5s")]), 10166),
        (message("a.2", &[("Nats-Msg-Id", "1")]), 10003),
        (message("a.2", &[("Nats-Msg-Id", ""), ("Nats-Msg-Id", "1")]), 10003),
        (message("a.2", &[("Nats-Schedule", "@daily")]), 10188),
        (BatchMessage { headers: b"no block".to_vec(), ..message("a.2", &[]) }, 10003),
    ];
    for (wrong, code) in wrong {
        let error = bench.batch(&[message("a.1", &[]), wrong]).unwrap_err();
        assert_eq!(error.err_code, code, "{error}");
        assert!(error.description.starts_with("message 2 of the batch"), "{error}");
    }
    // Together they have no room, though each alone has.
    let full = [message("a.1", &[]), message("b.1", &[]), message("b.2", &[]), message("b.3", &[])];
    assert_eq!(bench.batch(&full).unwrap_err().err_code, 10077);
    assert_eq!(bench.batch(&[]).unwrap_err().err_code, 10003);
    assert!(bench.seqs("A").is_empty() && bench.seqs("B").is_empty());
    assert!(bench.batch(&full[..3]).is_ok());
}

#[test]
fn the_first_ones_id_is_the_batchs() {
    let mut bench = bench();
    let batch = [message("a.1", &[("Nats-Msg-Id", "7")]), message("b.1", &[])];
    assert!(!bench.batch(&batch).unwrap().1);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.batch(&batch).unwrap(), (vec![("A".to_owned(), 1)], true));
    assert_eq!((bench.seqs("A"), bench.seqs("B")), (vec![1], vec![1]));
}

#[test]
fn full_storage_takes_none() {
    let mut bench = bench();
    bench.broker.log_mut().set_pressure(Pressure::Full);
    assert_eq!(bench.batch(&[message("a.1", &[])]).unwrap_err(), ApiError::storage_exceeded());
    assert!(bench.seqs("A").is_empty());
}

#[test]
fn as_many_as_allowed_and_one_more() {
    let limits = Limits { max_atomic_messages: 2, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(named("A", &["a.>"])).unwrap();
    let batch = [message("a.1", &[]), message("a.1", &[]), message("a.1", &[])];
    assert_eq!(bench.batch(&batch).unwrap_err().err_code, 10199);
    assert_eq!(bench.batch(&batch[..2]).unwrap().0.len(), 2);
}

#[test]
fn what_a_batch_leads_to_being_published_takes_no_room_from_it() {
    for (max_msgs, held) in [(2, vec![1, 2]), (3, vec![1, 2, 3])] {
        let mut bench = Bench::new();
        let republish = crate::model::stream::Republish {
            src: ">".into(),
            dest: "b.>".into(),
            headers_only: false,
        };
        bench.create(StreamConfig { republish: Some(republish), ..named("A", &["a.>"]) }).unwrap();
        let full = StreamConfig { max_msgs, discard: Discard::New, ..named("B", &["b.>"]) };
        bench.create(full).unwrap();
        let batch = [message("a.1", &[]), message("b.1", &[]), message("b.2", &[])];
        let places = [("A".to_owned(), 1), ("B".to_owned(), 1), ("B".to_owned(), 2)];
        assert_eq!(bench.batch(&batch).unwrap().0, places);
        assert_eq!(bench.seqs("B"), held);
    }
}
