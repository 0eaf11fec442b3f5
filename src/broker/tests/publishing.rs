//! Publishing: answers, checks, counters, and that nothing leaves early.

use super::*;
use crate::model::api::ListOptions;
use crate::model::stream::Retention;

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

/// What is told to be stored: the first counter, how many, the first sequence, and whether they were before.
fn told(events: &[Event]) -> Vec<(u64, u64, u64, bool)> {
    let of = |event: &Event| match event {
        Event::Published { ranges, .. } => ranges.clone(),
        _ => Vec::new(),
    };
    events.iter().flat_map(of).map(|r| (r.first, r.count, r.seq, r.duplicate)).collect()
}

#[test]
fn a_batch_is_one_range_and_a_gap_begins_another() {
    let mut bench = stream(|_| {});
    let events = bench.publish(1, 10, &["s.a", "s.a", "s.b", "t", "s.c"]);
    let Event::Published { named, ranges } = &events[0] else { panic!("{events:?}") };
    let [(stream, name)] = &named[..] else { panic!("{named:?}") };
    assert_eq!((&**name, ranges[0].stream), ("S", *stream));
    assert_eq!(told(&events), [(10, 3, 1, false), (14, 1, 4, false)]);
    let Event::Refused { counter: 13, error } = &events[1] else { panic!("{events:?}") };
    assert_eq!(error.err_code, 10055);
    assert!(matches!(&events[2], Event::Published { named, .. } if named.is_empty()));
    assert_eq!(bench.info("S").state.messages, 4);
}

#[test]
fn counters_sent_again_are_answered_and_not_stored_again() {
    let mut bench = stream(|_| {});
    bench.publish(1, 1, &["s.a", "s.a"]);
    let events = bench.publish(1, 1, &["s.a", "s.a", "s.a"]);
    assert_eq!(told(&events), [(1, 2, 1, true), (3, 1, 3, false)]);
    let events = bench.publish(2, 1, &["s.a"]);
    assert_eq!(told(&events), [(1, 1, 4, false)]);
    let mut again = bench.restarted(BrokerOptions::default());
    let events = again.publish(1, 2, &["s.a", "s.a", "s.a"]);
    assert_eq!(told(&events), [(2, 2, 2, true), (4, 1, 5, false)]);
}

/// A hundred thousand producers are remembered, long after their clients have gone.
#[test]
fn a_producer_that_published_much_in_turn_leaves_little_behind() {
    let mut bench = stream(|_| {});
    for counter in 1..=1000 {
        bench.publish(1, counter, &["s.a"]);
    }
    let [(_, kept)] = &bench.broker.log().states(state::PRODUCERS)[..] else { panic!("one") };
    let bytes = kept.base.len() + kept.notes.len();
    assert!(bytes <= 300, "{bytes} bytes");
    let mut again = bench.restarted(BrokerOptions::default());
    let events = again.publish(1, 1000, &["s.a", "s.a"]);
    assert_eq!(told(&events), [(1000, 1, 1000, true), (1001, 1, 1001, false)]);
}

#[test]
fn nothing_leaves_before_it_is_durable() {
    let mut bench = stream(|_| {});
    bench.consumer("S", durable("c")).unwrap();
    bench.handle(B, Request::Pull(Pull { expires: None, ..pull("S", "c", 5) }));
    bench.turn();
    bench.broker.log_mut().hold_durable(true);
    bench.handle(B, subscribe(1, "s.a"));
    assert!(bench.publish(1, 1, &["s.a"]).is_empty_but_core());
    let request = ApiRequest::StreamInfo { stream: "S".into(), options: Default::default() };
    assert!(bench.run(A, Request::Api { token: Token(9), request }).is_empty());
    bench.broker.log_mut().hold_durable(false);
    bench.turn();
    let kinds: Vec<&str> = bench
        .events
        .iter()
        .map(|(_, event)| match event {
            Event::Published { .. } => "published",
            Event::Deliver { .. } => "delivered",
            Event::Answer { .. } => "answered",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["published", "delivered", "answered"]);
}

trait OnlyCore {
    fn is_empty_but_core(&self) -> bool;
}

impl OnlyCore for Vec<Event> {
    fn is_empty_but_core(&self) -> bool {
        self.len() == 1 && matches!(self[0], Event::Message { .. })
    }
}

#[test]
fn answers_are_jetstreams() {
    let mut bench = stream(|_| {});
    assert_eq!(bench.request("s.a", &[], "x"), serde_json::json!({"stream": "S", "seq": 1}));
    let id = [("Nats-Msg-Id", "7")];
    assert_eq!(bench.request("s.a", &id, "x")["seq"], 2);
    let again = bench.request("s.a", &id, "x");
    assert_eq!(again, serde_json::json!({"stream": "S", "seq": 2, "duplicate": true}));
    let wrong = bench.request("s.a", &[("Nats-Expected-Stream", "T")], "x");
    assert_eq!(
        (code(&wrong), wrong["seq"].as_u64(), &wrong["stream"]),
        (10060, Some(0), &"S".into())
    );
}

#[test]
fn expectations() {
    let mut bench = stream(|_| {});
    assert_eq!(bench.request("s.a", &[("Nats-Expected-Last-Sequence", "0")], "")["seq"], 1);
    let wrong = bench.request("s.a", &[("Nats-Expected-Last-Sequence", "0")], "");
    assert_eq!(wrong["error"]["description"], "wrong last sequence: 1");
    let of_subject = "Nats-Expected-Last-Subject-Sequence";
    assert_eq!(bench.request("s.b", &[(of_subject, "0")], "")["seq"], 2);
    assert_eq!(code(&bench.request("s.b", &[(of_subject, "0")], "")), 10071);
    assert_eq!(bench.request("s.b", &[(of_subject, "2")], "")["seq"], 3);
    let other = [(of_subject, "1"), ("Nats-Expected-Last-Subject-Sequence-Subject", "s.a")];
    assert_eq!(bench.request("s.b", &other, "")["seq"], 4);
    assert_eq!(bench.request("s.b", &[("Nats-Msg-Id", "x")], "")["seq"], 5);
    assert_eq!(code(&bench.request("s.b", &[("Nats-Expected-Last-Msg-Id", "y")], "")), 10070);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.request("s.b", &[("Nats-Expected-Last-Msg-Id", "x")], "")["seq"], 6);
    bench.request("s.b", &[], "");
    assert_eq!(code(&bench.request("s.b", &[("Nats-Expected-Last-Msg-Id", "x")], "")), 10070);
}

#[test]
fn ids_are_duplicates_within_the_window_only() {
    let mut bench = stream(|c| c.duplicate_window = Duration::from_secs(10));
    let id = [("Nats-Msg-Id", "7")];
    bench.request("s.a", &id, "x");
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.request("s.a", &id, "x")["duplicate"], true);
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(bench.request("s.a", &id, "x")["duplicate"], true, "also after a restart");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.request("s.a", &id, "x")["seq"], 2);
}

#[test]
fn ids_are_remembered_of_what_nobody_wanted() {
    let mut bench = stream(|c| c.retention = Retention::Interest);
    let id = [("Nats-Msg-Id", "7")];
    assert_eq!(bench.request("s.a", &id, "x")["seq"], 1);
    assert_eq!(bench.request("s.a", &[], "x")["seq"], 2);
    assert_eq!(bench.info("S").state.messages, 0);
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.consumer("S", durable("c")).unwrap();
    let again = bench.request("s.a", &id, "x");
    assert!(again["seq"] == 1 && again["duplicate"] == true, "{again}");
    assert_eq!(bench.request("s.a", &[("Nats-Msg-Id", "8")], "x")["seq"], 3);
    assert_eq!(bench.pull("S", "c", 9).iter().map(|d| d.record.seq).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_full_id_window_is_an_error() {
    let mut bench = stream(|_| {});
    bench.consumer("S", durable("c")).unwrap();
    bench.broker.log_mut().set_message_id_budget(1);
    assert_eq!(bench.request("s.a", &[("Nats-Msg-Id", "1")], "x")["seq"], 1);
    assert_eq!(code(&bench.request("s.a", &[("Nats-Msg-Id", "2")], "x")), 20007);
    assert_eq!(bench.request("s.a", &[], "x")["seq"], 2);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 2, "what was refused is not waited for");
}

#[test]
fn sizes_at_their_limits_and_one_past() {
    let mut bench = stream(|c| c.max_msg_size = 10);
    assert_eq!(bench.request("s.a", &[], &"x".repeat(10))["seq"], 1);
    assert_eq!(code(&bench.request("s.a", &[], &"x".repeat(11))), 10054);
    let limits = Limits { max_payload: 20, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(named("S", &["s.>"])).unwrap();
    assert_eq!(bench.request("s.a", &[], &"x".repeat(20))["seq"], 1);
    assert_eq!(code(&bench.request("s.a", &[], &"x".repeat(21))), 20002);
}

#[test]
fn as_many_subscriptions_as_allowed_and_one_more() {
    let limits = Limits { max_subscriptions: 2, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    assert!(bench.run(A, subscribe(1, "a")).is_empty());
    assert!(bench.run(A, subscribe(2, "b")).is_empty());
    assert!(matches!(bench.run(A, subscribe(3, "c"))[0], (A, Event::Close { .. })));
}

#[test]
fn core_messages_reach_their_subscribers_but_not_the_sender_without_echo() {
    let mut bench = Bench::new();
    bench.handle(A, subscribe(1, "t.*"));
    bench.handle(B, subscribe(2, "t.>"));
    let send = |echo| Request::Send { batch: MessageBatch::of_one("t.x", "", b"", b"hi"), echo };
    assert_eq!(bench.run(A, send(true)).len(), 2);
    let events = bench.run(A, send(false));
    let (token, message) = messages(&events, B).remove(0);
    assert_eq!((events.len(), token, &*message.payload), (1, Token(2), b"hi".as_slice()));
}

#[test]
fn a_message_that_nobody_gets_comes_back_as_503() {
    let mut bench = Bench::new();
    let answer = bench.request("nobody.there", &[], "x");
    assert_eq!(answer, "NATS/1.0 503\r\nNats-Subject: nobody.there\r\n\r\n");
}

#[test]
fn a_default_stream_is_made_at_first_use_and_yields_while_empty() {
    let options = BrokerOptions {
        default_streams: vec![named("EVENTS", &["events.>"])],
        ..BrokerOptions::default()
    };
    let mut bench = Bench::with(options.clone());
    let names = |bench: &mut Bench| match bench.api(ApiRequest::StreamNames(Default::default())) {
        Ok(ApiResponse::StreamNames { streams, .. }) => streams,
        other => panic!("{other:?}"),
    };
    assert!(names(&mut bench).is_empty());
    bench.consumer("EVENTS", durable("c")).unwrap();
    assert_eq!(names(&mut bench), ["EVENTS"]);
    let other = named("MINE", &["events.*"]);
    assert_eq!(bench.create(other.clone()).unwrap_err().err_code, 10065);
    let request = ApiRequest::ConsumerDelete { stream: "EVENTS".into(), consumer: "c".into() };
    bench.api(request).unwrap();
    bench.create(other).unwrap();
    assert_eq!(names(&mut bench), ["MINE"]);

    // Looking for the stream of a subject, or for a consumer, is a use as well.
    let mut bench = Bench::with(options.clone());
    let wanted = ListOptions { subject: Some("events.a".into()), ..ListOptions::default() };
    match bench.api(ApiRequest::StreamNames(wanted)) {
        Ok(ApiResponse::StreamNames { streams, .. }) => assert_eq!(streams, ["EVENTS"]),
        other => panic!("{other:?}"),
    }
    let mut bench = Bench::with(options.clone());
    let info = ApiRequest::ConsumerInfo { stream: "EVENTS".into(), consumer: "c".into() };
    assert_eq!(bench.api(info).unwrap_err().err_code, 10014);
    assert_eq!(names(&mut bench), ["EVENTS"]);

    let mut bench = Bench::with(options);
    assert_eq!(bench.request("events.x", &[], "")["stream"], "EVENTS");
    let mut own = named("EVENTS", &["events.>", "more"]);
    own.max_msgs = 5;
    let info = bench.create(own).unwrap();
    assert_eq!((info.state.messages, info.config.max_msgs), (1, 5));
    assert_eq!(bench.request("more", &[], "")["seq"], 2);
}

#[test]
fn each_turn_makes_what_it_stored_durable() {
    let mut bench = stream(|_| {});
    for counter in 1..=3 {
        bench.publish(1, counter, &["s.a"]);
        assert_eq!(bench.broker.catalog.find("S").unwrap().durable_seq, counter);
    }
}

#[test]
fn each_session_is_told_the_names_of_streams_itself() {
    let mut bench = stream(|_| {});
    let named = |bench: &mut Bench, session, first| {
        let (producer, batch) = (ProducerId(9), batch(&["s.a"]));
        let events = bench.run(session, Request::Publish { producer, first, batch });
        let [(_, Event::Published { named, .. })] = &events[..] else { panic!("{events:?}") };
        named.iter().map(|(_, name)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(&mut bench, A, 1), ["S"]);
    assert_eq!(named(&mut bench, B, 1), ["S"], "another session, with a duplicate");
    assert!(named(&mut bench, B, 2).is_empty());
    bench.run(A, Request::Closed);
    bench.run(A, Request::Opened { connection: ConnectionId(2) });
    assert_eq!(named(&mut bench, A, 3), ["S"], "the session is a new one");
}
