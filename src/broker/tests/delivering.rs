//! Consumers over real streams: pulls, pushes, redelivery, restarts.

use super::*;
use crate::model::consumer::{DeliverPolicy, Idle};
use crate::model::time::Timestamp;

fn seqs(deliveries: &[Delivery]) -> Vec<(u64, u64, u64)> {
    deliveries.iter().map(|d| (d.record.seq, d.attempts, d.pending)).collect()
}

fn filtered(name: &str, filter: &str) -> ConsumerConfig {
    ConsumerConfig { filter_subject: Some(filter.into()), ..durable(name) }
}

#[test]
fn delivery_from_memory_and_from_disk_is_the_same() {
    for slow in [false, true] {
        let mut bench = stream(&["s.a", "s.b", "s.a", "s.b", "s.a"]);
        bench.broker.log_mut().slow_reads(slow);
        let info = bench.consumer("S", filtered("c", "s.a")).unwrap();
        assert_eq!(info.num_pending, 3, "the snapshot before the first delivery");
        let got = bench.pull("S", "c", 2);
        assert_eq!(seqs(&got), [(1, 1, 2), (3, 1, 1)], "slow: {slow}");
        bench.ack("S", "c", (1, 1), AckKind::Ack);
        bench.publish(1, 6, &["s.a"]);
        let info = bench.consumer_info("S", "c");
        assert_eq!((info.num_ack_pending, info.num_pending), (1, 2));
        assert_eq!((info.ack_floor.stream_seq, info.delivered.stream_seq), (2, 3));
        bench.pass(Duration::from_secs(30));
        assert_eq!(seqs(&bench.pull("S", "c", 9)), [(3, 2, 2), (5, 1, 1), (6, 1, 0)]);
    }
}

#[test]
fn deliver_policies() {
    let mut bench = stream(&["s.a", "s.b", "s.a"]);
    let time = Timestamp(now(bench.at).wall + 1);
    bench.pass(Duration::from_secs(1));
    bench.publish(1, 4, &["s.b", "s.c"]);
    let mut got = |name: &str, change: &dyn Fn(&mut ConsumerConfig)| {
        let mut config = durable(name);
        change(&mut config);
        let info = bench.consumer("S", config).unwrap();
        let got: Vec<u64> =
            bench.pull("S", name, 9).iter().map(|delivery| delivery.record.seq).collect();
        assert_eq!(info.num_pending, got.len() as u64, "{name}");
        got
    };
    assert_eq!(got("all", &|_| {}), [1, 2, 3, 4, 5]);
    assert_eq!(got("last", &|c| c.deliver_policy = DeliverPolicy::Last), [5]);
    assert_eq!(
        got("last-a", &|c| {
            c.deliver_policy = DeliverPolicy::Last;
            c.filter_subject = Some("s.a".into());
        }),
        [3]
    );
    assert!(got("new", &|c| c.deliver_policy = DeliverPolicy::New).is_empty());
    assert_eq!(
        got("seq", &|c| {
            c.deliver_policy = DeliverPolicy::ByStartSequence;
            c.opt_start_seq = 4;
        }),
        [4, 5]
    );
    assert_eq!(
        got("time", &|c| {
            c.deliver_policy = DeliverPolicy::ByStartTime;
            c.opt_start_time = Some(time);
        }),
        [4, 5]
    );
    assert_eq!(
        got("per", &|c| {
            c.deliver_policy = DeliverPolicy::LastPerSubject;
            c.filter_subject = Some(">".into());
        }),
        [3, 4, 5]
    );
}

#[test]
fn a_waiting_pull_gets_what_is_published_later_and_ends_with_its_time() {
    let mut bench = stream(&[]);
    bench.consumer("S", durable("c")).unwrap();
    let waiting = Pull { batch: 2, expires: Some(Duration::from_secs(9)), ..pull("S", "c", 5) };
    assert!(bench.run(B, Request::Pull(waiting)).is_empty());
    bench.events.clear();
    bench.publish(1, 1, &["s.a"]);
    bench.pass(Duration::from_secs(9));
    assert_eq!(statuses(&bench.events)[0].code, 408);
    assert_eq!(statuses(&bench.events)[0].pending_messages, 1);
}

#[test]
fn a_flow_without_acknowledgements_is_noted_when_it_pauses() {
    let mut bench = stream(&["s.a"; 6]);
    bench.consumer("S", ConsumerConfig { ack_policy: AckPolicy::None, ..durable("c") }).unwrap();
    bench.broker.log_mut().slow_reads(true);
    bench.handle(B, Request::Pull(Pull { batch: 6, ..pull("S", "c", 5) }));
    let mut delivered = 0;
    let mut noted = Vec::new();
    while delivered < 6 {
        bench.broker.commit();
        bench.broker.handle_log(now(bench.at)).unwrap();
        let mut events = Vec::new();
        while let Some(event) = bench.broker.poll_event() {
            events.push(event);
        }
        delivered += deliveries(&events).len();
        let after = bench.restarted(BrokerOptions::default()).consumer_info("S", "c");
        noted.push((delivered, after.delivered.stream_seq));
    }
    assert!(noted.contains(&(4, 0)), "{noted:?}");
    assert_eq!(noted.last(), Some(&(6, 6)));
}

#[test]
fn a_slow_session_gets_no_more_until_it_has_sent() {
    let limits = Limits { max_session_deliveries: 150, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", durable("c")).unwrap();
    bench.publish(1, 1, &["s.a"; 10]);
    // Each counts 71 bytes: with two the session is still below its limit, with three it is not.
    let request = Pull { batch: 10, expires: None, renewable: true, ..pull("S", "c", 5) };
    let got = deliveries(&bench.run(B, Request::Pull(request)));
    assert_eq!(got.len(), 3);
    assert_eq!(bench.consumer_info("S", "c").idle, Some(Idle::SlowSession));
    let bytes = got[0].charge();
    assert_eq!(deliveries(&bench.run(B, Request::Sent { bytes })).len(), 1);
}

#[test]
fn a_raised_pull_goes_on_and_a_cancelled_one_does_not() {
    let mut bench = stream(&["s.a"; 5]);
    bench.consumer("S", durable("c")).unwrap();
    let request = Pull { expires: None, renewable: true, ..pull("S", "c", 5) };
    assert_eq!(deliveries(&bench.run(B, Request::Pull(request))).len(), 1);
    let raise = Request::Raise { token: Token(5), more: 2, more_bytes: 0 };
    assert_eq!(deliveries(&bench.run(B, raise.clone())).len(), 2);
    bench.run(B, Request::Cancel { token: Token(5) });
    assert!(bench.run(B, raise).is_empty());
    assert_eq!(bench.consumer_info("S", "c").num_waiting, 0);
}

#[test]
fn the_pulls_of_a_session_end_with_it() {
    let mut bench = stream(&[]);
    bench.consumer("S", durable("c")).unwrap();
    bench.run(B, Request::Pull(Pull { expires: None, ..pull("S", "c", 5) }));
    assert_eq!(bench.consumer_info("S", "c").num_waiting, 1);
    bench.run(B, Request::Closed);
    assert_eq!(bench.consumer_info("S", "c").num_waiting, 0);
}

#[test]
fn what_is_deleted_while_a_new_consumer_counts_is_not_counted() {
    let mut bench = stream(&["s.a"; 5000]);
    bench.broker.log_mut().slow_reads(true);
    let config = Box::new(ConsumerConfig {
        deliver_policy: DeliverPolicy::ByStartSequence,
        opt_start_seq: 2,
        ..durable("c")
    });
    let action = ConsumerAction::Create;
    let request = ApiRequest::ConsumerCreate { stream: "S".into(), config, action };
    bench.handle(A, Request::Api { token: Token(1), request });
    // The count needs two reads, and this is read between them.
    let request = ApiRequest::MessageDelete { stream: "S".into(), seq: 7, no_erase: true };
    bench.run(A, Request::Api { token: Token(2), request });
    assert_eq!(bench.consumer_info("S", "c").num_pending, 4998);
}

#[test]
fn a_pull_to_an_inbox_goes_to_its_subscriber_and_ends_without_one() {
    let mut bench = stream(&["s.a"]);
    bench.consumer("S", durable("c")).unwrap();
    bench.handle(B, subscribe(7, "_INBOX.b.*"));
    let request =
        Pull { reply: ReplyTo::Subject("_INBOX.b.1".into()), batch: 2, ..pull("S", "c", 0) };
    let events = bench.run(B, Request::Pull(Pull { expires: None, ..request }));
    assert!(matches!(&events[0], (B, Event::Deliver { token: Token(7), .. })));
    bench.run(B, Request::Unsubscribe { token: Token(7), max: None });
    bench.publish(1, 2, &["s.a"]);
    let info = bench.consumer_info("S", "c");
    assert_eq!((info.num_waiting, info.num_ack_pending, info.num_pending), (0, 1, 1));
}

#[test]
fn subscriptions_concern_only_who_sends_to_what_they_match() {
    let mut bench = stream(&["s.a"]);
    bench.consumer("S", durable("pulled")).unwrap();
    let push = ConsumerConfig { deliver_subject: Some("push.here".into()), ..durable("pushed") };
    bench.consumer("S", push).unwrap();
    bench.run(B, subscribe(1, "_INBOX.b.*"));
    let reply = ReplyTo::Subject("_INBOX.b.1".into());
    bench.run(B, Request::Pull(Pull { reply, expires: None, batch: 5, ..pull("S", "pulled", 0) }));
    let stirred = |bench: &mut Bench| -> Vec<&str> {
        let id = bench.broker.catalog.id_of("S").unwrap();
        let consumers = &mut bench.broker.catalog.get_mut(id).unwrap().consumers;
        let mut names = vec!["pulled", "pushed"];
        names.retain(|name| consumers.seat_mut(name).unwrap().waits);
        names
    };
    for (pattern, expected) in
        [("a.*", &[][..]), ("push.*", &["pushed"]), (">", &["pulled", "pushed"])]
    {
        bench.handle(A, subscribe(2, pattern));
        assert_eq!(stirred(&mut bench), expected, "SUB {pattern}");
        bench.turn();
        bench.handle(A, Request::Unsubscribe { token: Token(2), max: None });
        bench.broker.hear_of_ended_subscriptions();
        assert_eq!(stirred(&mut bench), expected, "UNSUB {pattern}");
        bench.turn();
    }
    assert_eq!(bench.consumer_info("S", "pulled").num_waiting, 1);
    // One that ends by itself counts as well.
    bench.run(B, Request::Unsubscribe { token: Token(1), max: Some(2) });
    assert_eq!(bench.consumer_info("S", "pulled").num_waiting, 1);
    let batch = MessageBatch::of_one("_INBOX.b.1", "", b"", b"its second");
    bench.run(A, Request::Send { batch, echo: true });
    assert_eq!(bench.consumer_info("S", "pulled").num_waiting, 0);
}

#[test]
fn a_push_consumer_delivers_while_someone_listens() {
    let mut bench = stream(&["s.a", "s.b"]);
    let config = ConsumerConfig {
        deliver_subject: Some("push.here".into()),
        idle_heartbeat: Duration::from_secs(1),
        ..durable("c")
    };
    bench.consumer("S", config).unwrap();
    assert!(!bench.consumer_info("S", "c").push_bound);
    let onlooker = bench.run(A, subscribe(2, "push.*"));
    assert!(deliveries(&onlooker).is_empty(), "whoever looks on uses nothing up");
    assert!(!bench.consumer_info("S", "c").push_bound);
    bench.run(A, Request::Unsubscribe { token: Token(2), max: None });
    let got = deliveries(&bench.run(B, subscribe(3, "push.here")));
    assert_eq!(got.len(), 2);
    assert!(bench.consumer_info("S", "c").push_bound);
    bench.events.clear();
    bench.pass(Duration::from_secs(1));
    assert_eq!((statuses(&bench.events)[0].code, statuses(&bench.events)[0].last), (100, (2, 2)));
    bench.run(B, Request::Unsubscribe { token: Token(3), max: None });
    bench.events.clear();
    bench.publish(1, 3, &["s.c"]);
    assert!(deliveries(&bench.events).is_empty());
    assert_eq!(deliveries(&bench.run(A, subscribe(4, "push.here"))).len(), 1);
    let pull_it = bench.run(A, Request::Pull(pull("S", "c", 1)));
    assert_eq!(
        (statuses(&pull_it)[0].code, &*statuses(&pull_it)[0].text),
        (409, "Consumer is push based")
    );
}

#[test]
fn a_push_group_shares_messages() {
    let mut bench = stream(&["s.a"; 20]);
    let config = ConsumerConfig {
        deliver_subject: Some("push".into()),
        deliver_group: Some("g".into()),
        ..durable("c")
    };
    bench.consumer("S", config).unwrap();
    let member = |token| Request::Subscribe {
        token: Token(token),
        subject: "push".into(),
        queue: Some("g".into()),
    };
    bench.handle(A, subscribe(9, "push"));
    bench.handle(A, member(1));
    let events = bench.run(B, member(2));
    assert_eq!(deliveries(&events).len(), 20);
    let to_a = events
        .iter()
        .filter(|(to, event)| *to == A && matches!(event, Event::Deliver { token: Token(1), .. }));
    let to_b = events.iter().filter(|(to, _)| *to == B);
    assert!(to_a.count() > 0 && to_b.count() > 0, "both members get some");
    assert!(!events.iter().any(|(_, e)| matches!(e, Event::Deliver { token: Token(9), .. })));
}

#[test]
fn a_missing_consumer_has_no_responders() {
    let mut bench = stream(&[]);
    let events = bench.run(A, Request::Pull(pull("S", "nobody", 1)));
    assert_eq!(statuses(&events)[0].code, 503);
    bench.handle(A, subscribe(2, "_INBOX.x"));
    let reply = ReplyTo::Subject("_INBOX.x".into());
    let events = bench.run(A, Request::Pull(Pull { reply: reply.clone(), ..pull("S", "no", 1) }));
    assert!(messages(&events, A)[0].1.headers.starts_with(b"NATS/1.0 503"));
    let ack = Ack {
        stream: "S".into(),
        consumer: "no".into(),
        sequences: vec![(1, 1)],
        kind: AckKind::Ack,
        confirm: Some(ReplyTo::Session(Token(4))),
        subject: String::new(),
    };
    let events = bench.run(A, Request::Ack(ack));
    let (_, Event::AckConfirmed { token: Token(4), result: Err(error) }) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(error.err_code, 10014);
}

/// After a crash the note of a first delivery may be gone while its message is not. Confirming the
/// client's acknowledgement would promise what the next delivery breaks.
#[test]
fn what_was_not_delivered_cannot_be_confirmed() {
    let mut bench = stream(&["s.a", "s.a", "s.a"]);
    bench.consumer("S", durable("c")).unwrap();
    assert_eq!(bench.pull("S", "c", 1).len(), 1);
    let mut confirmed = |range| {
        let ack = Ack {
            stream: "S".into(),
            consumer: "c".into(),
            sequences: vec![range],
            kind: AckKind::Ack,
            confirm: Some(ReplyTo::Session(Token(4))),
            subject: String::new(),
        };
        match &bench.run(A, Request::Ack(ack))[0].1 {
            Event::AckConfirmed { result, .. } => result.clone().map_err(|error| error.err_code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(confirmed((1, 1)), Ok(()));
    assert_eq!(confirmed((1, 1)), Ok(()), "it is settled, and stays so");
    assert_eq!(confirmed((2, 2)), Err(20012));
    assert_eq!(confirmed((1, 2)), Err(20012));
    assert_eq!(bench.pull("S", "c", 5).len(), 2, "they come, as was said");
}

/// NATS clients learn nothing from a server that does not know; they acknowledge again what comes again.
#[test]
fn over_nats_only_what_awaits_acknowledgement_is_confirmed() {
    let mut bench = stream(&["s.a", "s.a"]);
    bench.consumer("S", durable("c")).unwrap();
    bench.consumer("S", ConsumerConfig { ack_policy: AckPolicy::None, ..durable("n") }).unwrap();
    bench.pull("S", "c", 1);
    bench.pull("S", "n", 1);
    bench.handle(A, subscribe(2, "_INBOX.x"));
    let mut answer = |consumer: &str, seq| {
        let ack = Ack {
            stream: "S".into(),
            consumer: consumer.into(),
            sequences: vec![(seq, seq)],
            kind: AckKind::Ack,
            confirm: Some(ReplyTo::Subject("_INBOX.x".into())),
            subject: format!("$JS.ACK.S.{consumer}.1.{seq}.1.0.0"),
        };
        let events = bench.run(A, Request::Ack(ack));
        let texts: Vec<_> = messages(&events, A).into_iter().map(|(_, m)| m.headers).collect();
        texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(answer("c", 1), [""]);
    assert!(answer("c", 2).is_empty(), "it was never delivered");
    assert!(answer("n", 1)[0].starts_with("NATS/1.0 503"), "nobody is there to acknowledge to");
}

#[test]
fn a_consumer_begins_where_it_starts_and_goes_on_behind_what_was_purged() {
    let mut bench = stream(&["s.a", "s.a", "s.a"]);
    let places = |info: &ConsumerInfo| (info.delivered.stream_seq, info.ack_floor.stream_seq);
    let new = ConsumerConfig { deliver_policy: DeliverPolicy::New, ..durable("new") };
    assert_eq!(places(&bench.consumer("S", new).unwrap()), (3, 3));
    assert_eq!(places(&bench.consumer("S", durable("all")).unwrap()), (0, 0));
    let options = Default::default();
    bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap();
    let info = bench.consumer_info("S", "all");
    assert_eq!((places(&info), info.ack_floor.consumer_seq), ((3, 3), 0));
    assert_eq!(info.ack_floor.last_active, None);
}

#[test]
fn a_name_that_the_server_made_up_is_not_in_the_configuration() {
    let mut bench = stream(&["s.a"]);
    let config = ConsumerConfig { name: None, durable_name: None, ..durable("") };
    let config = ConsumerConfig { inactive_threshold: Duration::from_secs(100), ..config };
    let info = bench.consumer("S", config.clone()).unwrap();
    assert_eq!((info.name.len(), info.config.name), (8, None));
    let mut again = bench.restarted(BrokerOptions::default());
    assert_eq!(again.consumer_info("S", &info.name).config.name, None);
    let same = ConsumerConfig { name: Some(info.name.clone()), ..config };
    assert_eq!(again.consumer("S", same).unwrap().created, info.created);
}

#[test]
fn acknowledgements_are_sampled_for_who_listens() {
    let mut bench = stream(&["s.a", "s.a"]);
    for (name, share) in [("all", "100%"), ("none", "0")] {
        let sample_freq = Some(share.to_owned());
        bench.consumer("S", ConsumerConfig { sample_freq, ..durable(name) }).unwrap();
        bench.handle(A, subscribe(9, &format!("$JS.EVENT.METRIC.CONSUMER.ACK.S.{name}")));
        bench.pull("S", name, 2);
    }
    bench.pass(Duration::from_secs(2));
    let mut sampled = |consumer: &str| {
        let ack = Ack {
            stream: "S".into(),
            consumer: consumer.into(),
            sequences: vec![(2, 2)],
            kind: AckKind::Ack,
            confirm: None,
            subject: String::new(),
        };
        messages(&bench.run(A, Request::Ack(ack)), A)
    };
    let told = sampled("all");
    assert_eq!(told.len(), 1);
    let body: serde_json::Value = serde_json::from_slice(&told[0].1.payload).unwrap();
    assert_eq!((&body["stream_seq"], &body["ack_time"]), (&2.into(), &2_000_000_000_u64.into()));
    assert_eq!(body["type"], "io.nats.jetstream.metric.v1.consumer_ack");
    assert!(sampled("all").is_empty(), "it is acknowledged already");
    assert!(sampled("none").is_empty());
}

#[test]
fn deleting_a_push_consumer_says_nothing_to_who_listens() {
    let mut bench = stream(&[]);
    bench.handle(A, subscribe(2, "d"));
    let deliver_subject = Some("d".to_owned());
    bench.consumer("S", ConsumerConfig { deliver_subject, ..durable("c") }).unwrap();
    let request = ApiRequest::ConsumerDelete { stream: "S".into(), consumer: "c".into() };
    let events = bench.run(A, Request::Api { token: Token(5), request });
    assert!(statuses(&events).is_empty(), "{events:?}");
}

#[test]
fn deleting_a_consumer_ends_its_pulls() {
    let mut bench = stream(&[]);
    bench.consumer("S", durable("c")).unwrap();
    bench.run(B, Request::Pull(Pull { expires: None, ..pull("S", "c", 5) }));
    bench.token += 1;
    let request = ApiRequest::StreamDelete { stream: "S".into() };
    let events = bench.run(A, Request::Api { token: Token(1), request });
    assert_eq!(&*statuses(&events)[0].text, "Consumer Deleted");
    assert!(
        bench.broker.log().states(b"c/").is_empty() && bench.broker.log().states(b"k/").is_empty()
    );
}

#[test]
fn unused_ephemeral_consumers_go() {
    let mut bench = stream(&[]);
    let config = ConsumerConfig { durable_name: None, name: None, ..durable("x") };
    let info = bench.consumer("S", config).unwrap();
    assert_eq!(info.name.len(), 8);
    bench.pass(Duration::from_millis(4900));
    assert_eq!(bench.info("S").state.consumer_count, 1);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.info("S").state.consumer_count, 0);
}

#[test]
fn an_unused_push_consumer_waits_for_its_listener_to_come_back() {
    let mut bench = stream(&["s.a"]);
    let config =
        ConsumerConfig { durable_name: None, deliver_subject: Some("push".into()), ..durable("c") };
    bench.consumer("S", config).unwrap();
    bench.run(A, subscribe(1, "push"));
    bench.pass(Duration::from_secs(60));
    bench.run(A, Request::Unsubscribe { token: Token(1), max: None });
    bench.pass(Duration::from_millis(4900));
    assert_eq!(bench.info("S").state.consumer_count, 1);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.info("S").state.consumer_count, 0);
}

#[test]
fn a_start_in_the_future_counts_from_there() {
    let mut bench = stream(&["s.a"]);
    let config = ConsumerConfig {
        deliver_policy: DeliverPolicy::ByStartSequence,
        opt_start_seq: 4,
        ..durable("c")
    };
    bench.consumer("S", config).unwrap();
    bench.publish(1, 2, &["s.a", "s.a", "s.a", "s.a"]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 2);
    assert_eq!(seqs(&bench.pull("S", "c", 9)), [(4, 1, 1), (5, 1, 0)]);
}

#[test]
fn progress_survives_a_restart() {
    let mut bench = stream(&["s.a", "s.b", "s.a", "s.b"]);
    bench.consumer("S", durable("c")).unwrap();
    bench.pull("S", "c", 3);
    bench.ack("S", "c", (1, 1), AckKind::Ack);
    bench.ack("S", "c", (3, 3), AckKind::Ack);
    let before = bench.consumer_info("S", "c");
    for slow in [false, true] {
        let mut log = bench.broker.log().reopened();
        log.slow_reads(slow);
        let mut again = Bench::on(log, BrokerOptions::default(), bench.at);
        let after = again.consumer_info("S", "c");
        assert_eq!(
            (after.delivered.stream_seq, after.ack_floor.stream_seq, after.ack_floor.consumer_seq),
            (before.delivered.stream_seq, before.ack_floor.stream_seq, 1)
        );
        assert_eq!((after.num_ack_pending, after.num_pending), (1, 1));
        assert_eq!(after.created, before.created);
        assert_eq!(seqs(&again.pull("S", "c", 9)), [(4, 1, 0)]);
        again.pass(Duration::from_secs(30));
        assert_eq!(again.pull("S", "c", 9)[0].attempts, 2);
    }
}

#[test]
fn a_second_attempt_waits_for_the_disk_and_a_first_does_not() {
    let mut bench = stream(&["s.a"]);
    bench.consumer("S", durable("c")).unwrap();
    bench.broker.log_mut().hold_durable(true);
    assert_eq!(bench.pull("S", "c", 1).len(), 1);
    bench.pass(Duration::from_secs(30));
    assert!(bench.pull("S", "c", 1).is_empty());
    bench.broker.log_mut().hold_durable(false);
    bench.turn();
    assert_eq!(deliveries(&bench.events)[0].attempts, 2);
}

#[test]
fn updates_keep_what_was_delivered_and_count_anew() {
    let mut bench = stream(&["s.a", "s.b", "s.a", "s.b", "s.b"]);
    bench.consumer("S", filtered("c", "s.a")).unwrap();
    bench.pull("S", "c", 1);
    for slow in [false, true] {
        bench.broker.log_mut().slow_reads(slow);
        bench.consumer("S", filtered("c", if slow { "s.a" } else { "s.b" })).unwrap();
    }
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
    bench.consumer("S", filtered("c", "s.b")).unwrap();
    bench.turn();
    assert_eq!(bench.consumer_info("S", "c").num_pending, 3);
    let error = bench
        .consumer("S", ConsumerConfig { ack_policy: AckPolicy::All, ..durable("c") })
        .unwrap_err();
    assert_eq!(error.err_code, 10012);
}

#[test]
fn a_sign_of_life_does_not_overtake_what_it_does_not_count() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench.consumer("S", durable("c")).unwrap();
    let heartbeat = Some(Duration::from_secs(1));
    let wait = Some(Duration::from_secs(60));
    let asked = Pull { batch: 9, heartbeat, expires: wait, ..pull("S", "c", 5) };
    bench.run(A, Request::Pull(asked));
    // A message comes in the turn in which the sign of life is due.
    bench.at += Duration::from_secs(1);
    bench.handle(B, Request::Publish { producer: ProducerId(9), first: 1, batch: batch(&["s.a"]) });
    bench.events.clear();
    bench.broker.handle_timeout(now(bench.at));
    bench.turn();
    let order: Vec<u64> = bench
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::PullStatus { status, .. } => Some(status.last.0),
            Event::Deliver { deliveries, .. } => Some(100 + deliveries[0].consumer_seq),
            _ => None,
        })
        .collect();
    assert_eq!(order, [0, 101]);
}

#[test]
fn the_only_attempt_is_noted_although_a_session_is_slow() {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    let config = ConsumerConfig { ack_policy: AckPolicy::None, max_deliver: 1, ..durable("c") };
    bench.consumer("S", config).unwrap();
    bench.broker.limits.max_session_deliveries = 2000;
    bench.publish(1, 1, &["s.a"; 500]);
    let last = bench.pull("S", "c", 500).last().map(|delivery| delivery.record.seq);
    let mut again = bench.restarted(BrokerOptions::default());
    let next = again.pull("S", "c", 1).first().map(|delivery| delivery.record.seq);
    assert!(last.is_some() && next > last, "{next:?} after {last:?}");
}
