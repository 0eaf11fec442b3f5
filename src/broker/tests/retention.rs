//! What streams keep: limits at the limit and one past, age, TTL, rollup, purge, work queues and
//! interest.

use super::*;
use claudebus_storage::Pressure;

use crate::model::api::PurgeOptions;
use crate::model::stream::{Discard, Retention, Storage};

fn stream(change: impl FnOnce(&mut StreamConfig)) -> Bench {
    let mut bench = Bench::new();
    let mut config = named("S", &["s.>"]);
    change(&mut config);
    bench.create(config).unwrap();
    bench
}

fn code(answer: &serde_json::Value) -> u64 {
    answer["error"]["err_code"].as_u64().unwrap_or(0)
}

const SIZE: i64 = 22 + 3 + 4 + 8; // "s.a" with a body of four bytes

#[test]
fn the_oldest_goes_past_max_msgs_and_max_bytes() {
    let mut bench = stream(|c| c.max_msgs = 2);
    bench.publish(1, 1, &["s.a", "s.a"]);
    assert_eq!(bench.seqs("S"), [1, 2]);
    bench.publish(1, 3, &["s.a", "s.b", "s.a"]);
    assert_eq!(bench.seqs("S"), [4, 5]);
    let mut bench = stream(|c| c.max_bytes = 2 * SIZE);
    bench.publish(1, 1, &["s.a", "s.a"]);
    assert_eq!(bench.seqs("S"), [1, 2]);
    bench.publish(1, 3, &["s.a"]);
    assert_eq!(bench.seqs("S"), [2, 3]);
}

#[test]
fn a_full_stream_refuses_new_messages() {
    let mut bench = stream(|c| {
        c.max_msgs = 2;
        c.discard = Discard::New;
    });
    assert_eq!(bench.request("s.a", &[], "body")["seq"], 1);
    assert_eq!(bench.request("s.a", &[], "body")["seq"], 2);
    let refused = bench.request("s.a", &[], "body");
    assert_eq!(refused["error"]["description"], "maximum messages exceeded");
    assert_eq!((code(&refused), refused["error"]["code"].as_u64()), (10077, Some(503)));
    let mut bench = stream(|c| {
        c.max_bytes = 2 * SIZE;
        c.discard = Discard::New;
    });
    assert_eq!(bench.request("s.a", &[], "body")["seq"], 1);
    assert_eq!(bench.request("s.a", &[], "body")["seq"], 2);
    assert_eq!(bench.request("s.a", &[], "")["error"]["description"], "maximum bytes exceeded");
}

#[test]
fn a_full_disk_refuses_what_adds_records_and_nothing_else() {
    let mut bench = stream(|_| {});
    bench.consumer("S", ConsumerConfig { max_deliver: 1, ..durable("c") }).unwrap();
    let memory = |c| StreamConfig { storage: Storage::Memory, ..c };
    bench.create(memory(named("M", &["m.>"]))).unwrap();
    assert_eq!(bench.request("s.a", &[("Nats-Msg-Id", "1")], "")["seq"], 1);
    assert_eq!(bench.request("s.b", &[], "")["seq"], 2);
    bench.broker.log_mut().set_pressure(Pressure::NoSpace);
    assert_eq!(code(&bench.request("s.a", &[], "")), 10047);
    assert_eq!(code(&bench.request("s.a", &[("Nats-Msg-Id", "2")], "")), 10047);
    assert_eq!(bench.request("s.a", &[("Nats-Msg-Id", "1")], "")["duplicate"], true);
    assert_eq!(bench.request("m.a", &[], "")["seq"], 1);
    let refused = bench.publish(1, 1, &["s.a", "m.a"]);
    let [Event::Refused { counter: 1, error }, Event::Published { ranges, .. }] = &*refused else {
        panic!("{refused:?}")
    };
    assert_eq!(ranges[0].first, 2);
    assert_eq!(error.err_code, 10047);
    // A message that is given up stays pending until its dead letter has room.
    assert_eq!(bench.pull("S", "c", 2).len(), 2);
    bench.ack("S", "c", (1, 1), AckKind::Ack);
    bench.ack("S", "c", (2, 2), AckKind::Nak { delay: Duration::ZERO });
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 1);
    assert!(bench.broker.catalog.id_of("DLQ_S").is_none_or(|_| bench.seqs("DLQ_S").is_empty()));
    let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 1, no_erase: true };
    bench.api(delete).unwrap();
    bench.broker.log_mut().set_pressure(Pressure::Normal);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 0);
    assert_eq!(bench.seqs("DLQ_S"), [1]);
    assert_eq!(bench.request("s.a", &[], "")["seq"], 3);
}

#[test]
fn messages_per_subject_make_room_for_each_other_even_with_discard_new() {
    let mut bench = stream(|c| {
        c.max_msgs_per_subject = 1;
        c.max_msgs = 2;
        c.discard = Discard::New;
    });
    bench.publish(1, 1, &["s.a", "s.b", "s.a"]);
    assert_eq!(bench.seqs("S"), [2, 3]);
    assert_eq!(code(&bench.request("s.c", &[], "body")), 10077);
    let mut bench = stream(|c| {
        c.max_msgs_per_subject = 2;
        c.discard = Discard::New;
        c.discard_new_per_subject = true;
    });
    bench.publish(1, 1, &["s.a", "s.a"]);
    let refused = bench.request("s.a", &[], "body");
    assert_eq!(refused["error"]["description"], "maximum messages per subject exceeded");
    assert_eq!(bench.request("s.b", &[], "body")["seq"], 3);
}

#[test]
fn limits_are_kept_when_the_oldest_are_on_disk() {
    let mut bench = stream(|c| {
        c.max_msgs = 3;
        c.max_msgs_per_subject = 2;
    });
    bench.broker.log_mut().slow_reads(true);
    bench.publish(1, 1, &["s.a", "s.a", "s.a", "s.b", "s.c", "s.b", "s.b"]);
    assert_eq!(bench.seqs("S"), [5, 6, 7]);
    assert!(bench.broker.jobs.is_empty());
}

#[test]
fn no_more_goes_than_must_while_replaced_messages_wait_for_the_disk() {
    let mut bench = stream(|c| {
        c.max_msgs = 2;
        c.max_msgs_per_subject = 1;
    });
    bench.broker.log_mut().slow_reads(true);
    bench.publish(1, 1, &["s.a"]);
    bench.publish(1, 2, &["s.a", "s.c", "s.c"]);
    assert_eq!(bench.seqs("S"), [2, 4]);
    let mut bench = stream(|c| {
        c.max_msgs = 2;
        c.allow_rollup_hdrs = true;
    });
    bench.broker.log_mut().slow_reads(true);
    bench.publish(1, 1, &["s.a", "s.b"]);
    bench.request("s.b", &[("Nats-Rollup", "sub")], "");
    assert_eq!(bench.seqs("S"), [1, 3]);
}

#[test]
fn old_messages_go_by_age_and_those_that_never_expire_stay() {
    let mut bench = stream(|c| {
        c.max_age = Duration::from_secs(10);
        c.allow_msg_ttl = true;
    });
    bench.request("s.a", &[("Nats-TTL", "never")], "");
    bench.request("s.a", &[], "");
    bench.pass(Duration::from_secs(5));
    bench.request("s.a", &[], "");
    bench.pass(Duration::from_millis(4990));
    assert_eq!(bench.seqs("S"), [1, 2, 3]);
    bench.pass(Duration::from_millis(20));
    assert_eq!(bench.seqs("S"), [1, 3]);
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.seqs("S"), [1]);
    assert_eq!(bench.broker.poll_timeout(), None);
    bench.request("s.a", &[], "");
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.seqs("S"), [1]);
}

#[test]
fn a_message_expires_by_itself_and_leaves_a_marker() {
    let mut bench = stream(|c| c.subject_delete_marker_ttl = Duration::from_secs(3));
    bench.request("s.a", &[("Nats-TTL", "2")], "");
    bench.request("s.b", &[("Nats-TTL", "2")], "");
    bench.request("s.b", &[], "");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.seqs("S"), [3, 4]);
    let id = bench.broker.catalog.id_of("S").unwrap();
    let marker = bench.broker.log.records(id).last().unwrap().clone();
    assert_eq!(marker.subject(), "s.a");
    assert_eq!(
        marker.headers(),
        b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 3s\r\nNats-Rollup: sub\r\n\r\n"
    );
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.seqs("S"), [3], "a marker expires without a marker");
    let mut plain = stream(|_| {});
    assert_eq!(code(&plain.request("s.a", &[("Nats-TTL", "2")], "")), 10166);
}

#[test]
fn rollup_replaces_what_came_before() {
    let mut bench = stream(|c| c.allow_rollup_hdrs = true);
    bench.publish(1, 1, &["s.a", "s.b", "s.a"]);
    assert_eq!(bench.request("s.a", &[("Nats-Rollup", "sub")], "")["seq"], 4);
    assert_eq!(bench.seqs("S"), [2, 4]);
    assert_eq!(bench.request("s.c", &[("Nats-Rollup", "ALL")], "")["seq"], 5);
    assert_eq!(bench.seqs("S"), [5]);
    let mut plain = stream(|_| {});
    assert_eq!(code(&plain.request("s.a", &[("Nats-Rollup", "sub")], "")), 10111);
}

#[test]
fn a_rollup_of_its_own_batch_is_counted_right() {
    let mut bench = stream(|c| c.allow_rollup_hdrs = true);
    bench.consumer("S", durable("c")).unwrap();
    let headers = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n";
    let mut batch = MessageBatch::new([b"s.a".as_slice(), headers].concat().into());
    batch.push(3, (0, 3), 0, 0, 0).unwrap();
    batch.push(3, (0, 3), 0, 0, 0).unwrap();
    batch.push(3, (0, 3), 0, headers.len(), 0).unwrap();
    bench.run(A, Request::Send { batch, echo: true });
    assert_eq!(bench.seqs("S"), [3]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
}

#[test]
fn purges() {
    for slow in [false, true] {
        let mut bench = stream(|_| {});
        bench.publish(1, 1, &["s.a", "s.b", "s.a", "s.b", "s.a", "s.b"]);
        bench.broker.log_mut().slow_reads(slow);
        let mut purge = |filter: Option<&str>, seq, keep| {
            let options = PurgeOptions { filter: filter.map(str::to_owned), seq, keep };
            match bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }) {
                Ok(ApiResponse::Purged { purged, .. }) => (purged, bench.seqs("S")),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(purge(Some("s.a"), 0, 2), (1, vec![2, 3, 4, 5, 6]));
        assert_eq!(purge(Some("s.b"), 4, 0), (1, vec![3, 4, 5, 6]));
        assert_eq!(purge(None, 4, 0), (1, vec![4, 5, 6]));
        assert_eq!(purge(None, 0, 2), (1, vec![5, 6]));
        assert_eq!(purge(None, 0, 0), (2, vec![]));
        let state = bench.info("S").state;
        assert_eq!((state.first_seq, state.last_seq, state.first_ts.0), (7, 6, 0));
    }
    let mut bench = stream(|_| {});
    bench.publish(1, 1, &["s.a", "s.a"]);
    bench.consumer("S", durable("c")).unwrap();
    let options = PurgeOptions { seq: 10, ..PurgeOptions::default() };
    let purged = bench.api(ApiRequest::StreamPurge { stream: "S".into(), options });
    assert_eq!(purged, Ok(ApiResponse::Purged { success: true, purged: 2 }));
    let mut bench = bench.restarted(BrokerOptions::default());
    let state = bench.info("S").state;
    assert_eq!((state.first_seq, state.last_seq), (10, 9), "it goes on where it was told to");
    bench.publish(2, 1, &["s.a"]);
    assert_eq!(bench.seqs("S"), [10]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
    let mut bench = stream(|c| c.deny_purge = true);
    let options = PurgeOptions::default();
    let error = bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap_err();
    assert_eq!(error.err_code, 10110);
}

#[test]
fn a_sealed_stream_takes_nothing() {
    let mut bench = stream(|_| {});
    bench.request("s.a", &[], "");
    let mut config = bench.info("S").config;
    config.sealed = true;
    bench.api(ApiRequest::StreamUpdate(Box::new(config))).unwrap();
    assert_eq!(code(&bench.request("s.a", &[], "")), 10109);
    let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 1, no_erase: false };
    assert_eq!(bench.api(delete).unwrap_err().err_code, 10109);
}

#[test]
fn a_change_that_waits_for_a_read_is_made_once() {
    let mut bench = stream(|_| {});
    bench.request("s.a", &[], "");
    bench.request("s.a", &[], "");
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().slow_reads(true);
    let mut config = named("S", &["s.>"]);
    config.sealed = true;
    config.max_msgs = 1;
    match bench.api(ApiRequest::StreamUpdate(Box::new(config))) {
        Ok(ApiResponse::Stream { info, did_create: false, .. }) => assert!(info.config.sealed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lower_limits_are_kept_at_once() {
    let mut bench = stream(|_| {});
    bench.publish(1, 1, &["s.a", "s.b", "s.a", "s.b", "s.a"]);
    let mut config = bench.info("S").config;
    config.max_msgs_per_subject = 1;
    bench.api(ApiRequest::StreamUpdate(Box::new(config))).unwrap();
    assert_eq!(bench.seqs("S"), [4, 5]);
}

#[test]
fn a_work_queue_deletes_what_is_acknowledged() {
    let mut bench = stream(|c| c.retention = Retention::WorkQueue);
    bench.consumer("S", durable("c")).unwrap();
    bench.publish(1, 1, &["s.a", "s.a", "s.a"]);
    assert_eq!(bench.pull("S", "c", 2).len(), 2);
    bench.ack("S", "c", (1, 1), AckKind::Ack);
    assert_eq!(bench.seqs("S"), [2, 3]);
    // After a restart the size of what was out is not known without reading.
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().slow_reads(true);
    bench.ack("S", "c", (2, 2), AckKind::Ack);
    assert_eq!(bench.seqs("S"), [3]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
    let mut other = durable("d");
    assert_eq!(bench.consumer("S", other.clone()).unwrap_err().err_code, 10099);
    other.ack_policy = AckPolicy::None;
    assert_eq!(bench.consumer("S", other).unwrap_err().err_code, 10084);
}

/// What a crash leaves when everything up to the last commit is durable, but no read was answered.
fn crashed_before_reads(bench: &mut Bench, from: SessionId, request: Request) -> Bench {
    bench.broker.log_mut().slow_reads(true);
    bench.handle(from, request);
    bench.broker.commit();
    bench.restarted(BrokerOptions::default())
}

#[test]
fn what_was_acknowledged_goes_even_if_a_crash_comes_before_its_deletion() {
    let mut bench = stream(|c| c.retention = Retention::WorkQueue);
    bench.consumer("S", durable("c")).unwrap();
    bench.publish(1, 1, &["s.a", "s.a", "s.a", "s.a"]);
    bench.pull("S", "c", 4);
    let mut bench = bench.restarted(BrokerOptions::default());
    let ack = Ack {
        stream: "S".into(),
        consumer: "c".into(),
        sequences: vec![(1, 2), (4, 4)],
        kind: AckKind::Ack,
        confirm: None,
        subject: String::new(),
    };
    let mut bench = crashed_before_reads(&mut bench, A, Request::Ack(ack));
    assert_eq!(bench.seqs("S"), [3]);
    bench.pull("S", "c", 1);
    bench.ack("S", "c", (3, 3), AckKind::Ack);
    assert_eq!(bench.seqs("S"), Vec::<u64>::new());
    assert!(bench.broker.log().states(crate::broker::state::JOBS).is_empty());
}

#[test]
fn what_a_rollup_replaced_goes_even_if_a_crash_comes_first() {
    let mut bench = stream(|c| c.allow_rollup_hdrs = true);
    bench.publish(1, 1, &["s.a", "s.b", "s.a"]);
    let mut block = Block::default();
    block.add("Nats-Rollup", "sub");
    let batch = MessageBatch::of_one("s.a", "", &block.finish(), b"");
    let mut bench = crashed_before_reads(&mut bench, A, Request::Send { batch, echo: true });
    assert_eq!(bench.seqs("S"), [2, 4]);
    // A message that came later is not replaced.
    bench.publish(1, 4, &["s.a"]);
    assert_eq!(bench.restarted(BrokerOptions::default()).seqs("S"), [2, 4, 5]);
}

#[test]
fn what_nobody_wants_goes_even_if_a_crash_comes_first() {
    let mut bench = stream(|c| c.retention = Retention::Interest);
    bench.consumer("S", durable("c")).unwrap();
    bench.publish(1, 1, &["s.a", "s.b"]);
    let delete = ApiRequest::ConsumerDelete { stream: "S".into(), consumer: "c".into() };
    let request = Request::Api { token: Token(9), request: delete };
    let bench = crashed_before_reads(&mut bench, A, request);
    assert_eq!(bench.seqs("S"), Vec::<u64>::new());
}

#[test]
fn jobs_of_a_deleted_stream_are_forgotten() {
    let mut bench = stream(|c| c.retention = Retention::Interest);
    bench.consumer("S", durable("c")).unwrap();
    bench.publish(1, 1, &["s.a"]);
    bench.broker.log_mut().slow_reads(true);
    let delete = ApiRequest::ConsumerDelete { stream: "S".into(), consumer: "c".into() };
    bench.handle(A, Request::Api { token: Token(9), request: delete });
    assert_eq!(bench.broker.log().states(crate::broker::state::JOBS).len(), 1);
    let delete = ApiRequest::StreamDelete { stream: "S".into() };
    let bench =
        crashed_before_reads(&mut bench, A, Request::Api { token: Token(10), request: delete });
    assert!(bench.broker.log().states(crate::broker::state::JOBS).is_empty());
}

#[test]
fn interest_keeps_a_message_until_all_who_want_it_are_done() {
    let mut bench = stream(|c| c.retention = Retention::Interest);
    assert_eq!(bench.request("s.a", &[], "")["seq"], 1);
    let state = bench.info("S").state;
    assert_eq!((state.messages, state.first_seq, state.last_seq), (0, 2, 1));
    bench.consumer("S", durable("c")).unwrap();
    let mut filtered = durable("d");
    filtered.filter_subject = Some("s.a".into());
    bench.consumer("S", filtered).unwrap();
    bench.publish(1, 1, &["s.a", "s.b"]);
    assert_eq!(bench.seqs("S"), [2, 3]);
    bench.pull("S", "c", 2);
    bench.ack("S", "c", (2, 3), AckKind::Ack);
    assert_eq!(bench.seqs("S"), [2]);
    bench.pull("S", "d", 1);
    bench.ack("S", "d", (2, 2), AckKind::Ack);
    assert_eq!(bench.seqs("S"), Vec::<u64>::new());
    // Without its consumer a message is of no interest.
    bench.publish(1, 3, &["s.a"]);
    bench.pull("S", "c", 1);
    bench.ack("S", "c", (4, 4), AckKind::Ack);
    assert_eq!(bench.seqs("S"), [4]);
    bench.api(ApiRequest::ConsumerDelete { stream: "S".into(), consumer: "d".into() }).unwrap();
    assert_eq!(bench.seqs("S"), Vec::<u64>::new());
}

#[test]
fn interest_without_acknowledgement_ends_with_the_delivery() {
    let mut bench = stream(|c| c.retention = Retention::Interest);
    bench.consumer("S", ConsumerConfig { ack_policy: AckPolicy::None, ..durable("c") }).unwrap();
    bench.publish(1, 1, &["s.a", "s.b"]);
    assert_eq!(bench.pull("S", "c", 1).len(), 1);
    assert_eq!(bench.seqs("S"), [2]);
}

#[test]
fn a_literal_wildcard_has_a_limit_of_its_own_and_rolls_up_what_it_matches() {
    let mut bench = stream(|c| {
        c.max_msgs_per_subject = 1;
        c.allow_rollup_hdrs = true;
    });
    let send = |bench: &mut Bench, subject: &str, headers: &[u8]| {
        let batch = MessageBatch::of_one(subject, "", headers, b"x");
        bench.run(A, Request::Send { batch, echo: true });
    };
    for subject in ["s.*", "s.a", "s.*", "s.*"] {
        send(&mut bench, subject, b"");
    }
    assert_eq!(bench.seqs("S"), [2, 4], "the limit is that of the text");
    send(&mut bench, "s.b.c", b"");
    send(&mut bench, "s.*", b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n");
    assert_eq!(bench.seqs("S"), [5, 6], "what the text matches is rolled up");
}
