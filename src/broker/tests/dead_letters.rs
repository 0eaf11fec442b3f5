//! Messages that consumers give up, and messages that cannot be read.

use super::*;
use crate::model::api::{DeadLetter, DeadOptions};
use crate::model::consumer::Idle;
use crate::model::headers::{get, names};

fn dying(bench: &mut Bench, change: impl FnOnce(&mut ConsumerConfig)) {
    let mut config = ConsumerConfig { max_deliver: 1, ..durable("c") };
    change(&mut config);
    bench.consumer("S", config).unwrap();
}

fn letters(bench: &mut Bench) -> Vec<DeadLetter> {
    let request = ApiRequest::DeadList { stream: "S".into(), options: DeadOptions::default() };
    match bench.api(request) {
        Ok(ApiResponse::DeadLetters { letters, .. }) => letters,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_is_given_up_becomes_a_dead_letter_and_can_come_back() {
    for slow in [false, true] {
        let mut bench = stream(&[]);
        bench.request("s.a", &[("Color", "red"), ("Nats-Msg-Id", "1")], "payload");
        bench.broker.log_mut().slow_reads(slow);
        dying(&mut bench, |_| {});
        bench.run(B, subscribe(1, "$JS.EVENT.ADVISORY.>"));
        bench.pull("S", "c", 1);
        let nak = AckKind::Nak { delay: Duration::ZERO };
        bench.ack("S", "c", (1, 1), nak);
        let found = letters(&mut bench);
        assert_eq!(found.len(), 1, "slow: {slow}");
        assert_eq!(
            (found[0].subject.as_str(), found[0].stream_seq, found[0].attempts),
            ("s.a", 1, 1)
        );
        assert_eq!((found[0].consumer.as_str(), found[0].requeued), ("c", 0));
        assert_eq!(found[0].message.subject, "$DLQ.S.c");
        assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 0);
        assert_eq!(bench.seqs("S"), [1], "a stream that keeps by limits keeps it");
        let options = DeadOptions { consumer: Some("c".into()), ..DeadOptions::default() };
        let requeue = ApiRequest::DeadRequeue { stream: "S".into(), options };
        assert_eq!(bench.api(requeue.clone()), Ok(ApiResponse::Settled { settled: 1 }));
        assert!(letters(&mut bench).is_empty());
        let again = bench.pull("S", "c", 1).pop().unwrap();
        assert_eq!((again.record.seq, again.record.subject()), (2, "s.a"));
        assert_eq!(again.record.payload(), b"payload");
        assert_eq!(get(again.record.headers(), "Color"), Some("red"));
        assert_eq!(get(again.record.headers(), names::REQUEUED), Some("1"));
        assert_eq!(get(again.record.headers(), names::DEAD_REASON), None);
        bench.pass(Duration::from_secs(30));
        assert_eq!(letters(&mut bench)[0].requeued, 1);
        let drop = ApiRequest::DeadDrop { stream: "S".into(), options: DeadOptions::default() };
        assert_eq!(bench.api(drop), Ok(ApiResponse::Settled { settled: 1 }));
        assert_eq!(bench.api(requeue), Ok(ApiResponse::Settled { settled: 0 }));
    }
}

#[test]
fn the_advisory_is_jetstreams() {
    let mut bench = stream(&["s.a", "s.b"]);
    dying(&mut bench, |_| {});
    bench.run(B, subscribe(1, "$JS.EVENT.ADVISORY.>"));
    bench.pull("S", "c", 2);
    bench.events.clear();
    bench.pass(Duration::from_secs(30));
    let (_, message) = messages(&bench.events, B).remove(0);
    assert_eq!(message.subject, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c");
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(body["type"], "io.nats.jetstream.advisory.v1.max_deliver");
    assert_eq!((body["stream_seq"].as_u64(), body["deliveries"].as_u64()), (Some(1), Some(1)));
    assert_eq!(letters(&mut bench).len(), 2);
}

#[test]
fn a_terminated_message_says_why() {
    let mut bench = stream(&["s.a"]);
    dying(&mut bench, |c| c.max_deliver = 5);
    bench.run(B, subscribe(1, "$JS.EVENT.ADVISORY.>"));
    bench.pull("S", "c", 1);
    let ack = Ack {
        stream: "S".into(),
        consumer: "c".into(),
        sequences: vec![(1, 1)],
        kind: AckKind::Terminate { reason: "no such customer".into() },
        confirm: None,
        subject: String::new(),
    };
    let events = bench.run(A, Request::Ack(ack));
    assert_eq!(messages(&events, B)[0].1.subject, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.c");
    assert_eq!(letters(&mut bench)[0].reason, "terminated: no such customer");
}

#[test]
fn a_confirmed_termination_lasts_though_its_message_was_not_read_yet() {
    for rebased in [false, true] {
        let mut bench = stream(&["s.a"]);
        dying(&mut bench, |c| c.max_deliver = 5);
        bench.pull("S", "c", 1);
        bench.broker.log_mut().slow_reads(true);
        let kind = AckKind::Terminate { reason: "no such customer".into() };
        let (stream, consumer) = ("S".into(), "c".into());
        let (sequences, subject) = (vec![(1, 1)], String::new());
        let ack = Ack { stream, consumer, sequences, kind, confirm: None, subject };
        bench.handle(A, Request::Ack(ack));
        if rebased {
            let id = bench.broker.catalog.id_of("S").unwrap();
            let (_, member) = bench.broker.catalog.get_mut(id).unwrap().member_mut("c").unwrap();
            bench.broker.log.put(member.key(), &member.consumer.base());
        }
        bench.broker.commit();
        let mut bench = bench.restarted(BrokerOptions::default());
        bench.turn();
        assert!(bench.pull("S", "c", 1).is_empty(), "rebased: {rebased}");
        assert_eq!(letters(&mut bench)[0].reason, "terminated: no such customer");
    }
}

#[test]
fn a_disk_that_cannot_be_read_just_now_costs_no_message() {
    for by_priority in [false, true] {
        let mut bench = stream(&["s.a", "s.b"]);
        let ack_wait = Duration::from_secs(60);
        bench.consumer("S", ConsumerConfig { by_priority, ack_wait, ..durable("c") }).unwrap();
        bench.pull("S", "c", 1);
        bench.pass(Duration::from_secs(60));
        bench.broker.log_mut().slow_reads(true);
        bench.broker.log_mut().fail_reads(true);
        let waiting = Pull { batch: 2, expires: None, ..pull("S", "c", 9) };
        assert!(deliveries(&bench.run(A, Request::Pull(waiting))).is_empty());
        bench.broker.log_mut().fail_reads(false);
        bench.events.clear();
        bench.pass(Duration::from_secs(1));
        let got = deliveries(&bench.events);
        assert_eq!(got.iter().map(|d| d.record.seq).collect::<Vec<_>>(), [1, 2]);
        assert!(letters(&mut bench).is_empty());
    }
}

#[test]
fn full_dead_letters_keep_messages_pending_and_a_late_ack_still_counts() {
    let mut bench = Bench::new();
    let mut config = named("S", &["s.>"]);
    config.dead_letters.max_msgs = 1;
    bench.create(config).unwrap();
    bench.publish(1, 1, &["s.a", "s.b", "s.c"]);
    dying(&mut bench, |_| {});
    bench.pull("S", "c", 3);
    bench.pass(Duration::from_secs(30));
    let info = bench.consumer_info("S", "c");
    assert_eq!((info.num_ack_pending, info.idle), (2, Some(Idle::DeadLettersFull)));
    bench.ack("S", "c", (2, 2), AckKind::Ack);
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 1);
    let drop = ApiRequest::DeadDrop { stream: "S".into(), options: DeadOptions::default() };
    bench.api(drop).unwrap();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 0);
    assert_eq!(letters(&mut bench)[0].stream_seq, 3);
}

#[test]
fn dead_letters_have_none_of_their_own_and_may_be_off() {
    let mut bench = Bench::new();
    let mut config = named("S", &["s.>"]);
    config.dead_letters.enabled = false;
    bench.create(config).unwrap();
    bench.publish(1, 1, &["s.a"]);
    dying(&mut bench, |_| {});
    bench.pull("S", "c", 1);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 0);
    assert!(bench.broker.catalog.id_of("DLQ_S").is_none());
    let mut bench = stream(&["s.a"]);
    dying(&mut bench, |_| {});
    bench.pull("S", "c", 1);
    bench.pass(Duration::from_secs(30));
    bench.consumer("DLQ_S", ConsumerConfig { max_deliver: 1, ..durable("d") }).unwrap();
    assert_eq!(bench.pull("DLQ_S", "d", 1).len(), 1);
    bench.pass(Duration::from_secs(30));
    assert!(bench.broker.catalog.id_of("DLQ_DLQ_S").is_none());
    assert_eq!(bench.consumer_info("DLQ_S", "d").num_ack_pending, 0);
}

#[test]
fn a_stream_that_only_has_the_name_is_left_alone() {
    let mut bench = stream(&["s.a"]);
    bench.create(named("DLQ_S", &["own.>"])).unwrap();
    bench.publish(2, 1, &["own.x"]);
    dying(&mut bench, |_| {});
    bench.pull("S", "c", 1);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.consumer_info("S", "c").num_ack_pending, 0);
    assert_eq!((bench.seqs("DLQ_S"), bench.seqs("DLQ_S_2")), (vec![1], vec![1]));
    // Messages of that stream may die as well.
    bench.consumer("DLQ_S", ConsumerConfig { max_deliver: 1, ..durable("d") }).unwrap();
    assert_eq!(bench.pull("DLQ_S", "d", 1).len(), 1);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.seqs("DLQ_DLQ_S"), [1]);
    let drop = ApiRequest::DeadDrop { stream: "S".into(), options: DeadOptions::default() };
    assert_eq!(bench.api(drop), Ok(ApiResponse::Settled { settled: 1 }));
    assert_eq!((bench.seqs("DLQ_S"), bench.seqs("DLQ_S_2")), (vec![1], vec![]));
}

#[test]
fn an_unreadable_message_leaves_a_pointer() {
    let mut bench = stream(&["s.a"]);
    dying(&mut bench, |_| {});
    bench.pull("S", "c", 1);
    let id = bench.broker.catalog.id_of("S").unwrap();
    bench.broker.log_mut().damage(id, 1, 1);
    bench.pass(Duration::from_secs(30));
    let found = letters(&mut bench);
    assert!(found[0].reason.starts_with("unreadable"), "{}", found[0].reason);
    assert_eq!((found[0].stream_seq, found[0].message.data.as_str()), (1, ""));
}

#[test]
fn a_consumer_goes_on_behind_damage() {
    let mut bench = stream(&["s.a"; 4]);
    bench.consumer("S", durable("c")).unwrap();
    let id = bench.broker.catalog.id_of("S").unwrap();
    bench.broker.log_mut().damage(id, 2, 3);
    assert_eq!(bench.pull("S", "c", 9).iter().map(|d| d.record.seq).collect::<Vec<_>>(), [1, 4]);
    let info = bench.consumer_info("S", "c");
    assert_eq!(info.num_pending, 0, "what cannot be read is not to be waited for");
    let server = bench.api(ApiRequest::ServerInfo);
    let Ok(ApiResponse::Json(server)) = server else { panic!("{server:?}") };
    assert_eq!(server["damage"]["damaged_reads"], 1, "{server}");
    assert_eq!(server["damage"]["gaps_told"], 1, "{server}");
    let found = letters(&mut bench);
    assert_eq!((found.len(), found[0].stream_seq, found[0].attempts), (1, 2, 0));
    assert!(found[0].reason.contains("sequences 2 to 3 are damaged"), "{}", found[0].reason);
    bench.ack("S", "c", (1, 4), AckKind::Ack);
    bench.run(A, Request::Pull(Pull { expires: None, ..pull("S", "c", 1) }));
    let idle = bench.consumer_info("S", "c").idle;
    assert!(matches!(idle, Some(Idle::Damaged(_))), "{idle:?}");
    let options = DeadOptions::default();
    let requeue = ApiRequest::DeadRequeue { stream: "S".into(), options };
    assert_eq!(bench.api(requeue), Ok(ApiResponse::Settled { settled: 0 }));
    assert_eq!(letters(&mut bench).len(), 1, "a pointer stays");
}
