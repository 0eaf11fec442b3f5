//! Messages that are published later: once, again and again, across restarts, and not any more.

use super::*;

use crate::model::api::{PurgeOptions, ScheduleListOptions, ScheduledMessage};
use crate::model::headers::get;
use crate::model::stream::{Discard, Retention};
use crate::model::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

fn bench() -> Bench {
    let mut bench = Bench::new();
    let config = named("S", &["s.>", "later.>"]);
    bench
        .create(StreamConfig { allow_msg_schedules: true, allow_msg_ttl: true, ..config })
        .unwrap();
    bench.create(named("OTHER", &["other.>"])).unwrap();
    bench
}

fn code(answer: &serde_json::Value) -> u64 {
    answer["error"]["err_code"].as_u64().unwrap_or(0)
}

impl Bench {
    fn schedule(&mut self, subject: &str, when: &str, target: &str) -> serde_json::Value {
        self.request(subject, &[("Nats-Schedule", when), ("Nats-Schedule-Target", target)], "body")
    }

    fn schedules(&mut self) -> Vec<ScheduledMessage> {
        let options = ScheduleListOptions::default();
        match self.api(ApiRequest::ScheduleList { stream: None, options }) {
            Ok(ApiResponse::Schedules { total, schedules, .. }) => {
                assert_eq!(total, schedules.len());
                schedules
            }
            other => panic!("{other:?}"),
        }
    }

    /// The subjects a stream holds, in order.
    fn held(&self, stream: &str) -> Vec<String> {
        let id = self.broker.catalog.id_of(stream).unwrap();
        self.broker.log.records(id).map(|record| record.subject().to_owned()).collect()
    }
}

#[test]
fn once_and_then_the_schedule_is_gone() {
    let mut bench = bench();
    assert_eq!(bench.schedule("later.1", "@after 1m", "s.a")["seq"], 1);
    let at = Timestamp(now(bench.at + 2 * MINUTE).wall).to_string();
    assert_eq!(bench.schedule("later.2", &format!("@at {at}"), "s.b")["seq"], 2);
    let listed = bench.schedules();
    assert_eq!((&*listed[0].subject, &*listed[0].target, listed[0].seq), ("later.1", "s.a", 1));
    assert_eq!(listed[1].next.to_string(), at);
    bench.pass(MINUTE - Duration::from_millis(1));
    assert_eq!(bench.held("S"), ["later.1", "later.2"]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.held("S"), ["later.2", "s.a"]);
    bench.pass(MINUTE);
    assert_eq!(bench.held("S"), ["s.a", "s.b"]);
    assert!(bench.schedules().is_empty());
    let id = bench.broker.catalog.id_of("S").unwrap();
    let record = bench.broker.log.records(id).next().unwrap().clone();
    assert_eq!(record.payload(), b"body");
    assert_eq!(get(record.headers(), "Nats-Scheduler"), Some("later.1"));
    assert_eq!(get(record.headers(), "Nats-Schedule-Next"), Some("purge"));
    assert_eq!(get(record.headers(), "Nats-Schedule"), None);
    assert!(bench.broker.log.states(state::SCHEDULES).is_empty());
}

#[test]
fn again_and_again_and_once_for_what_passed_while_nobody_ran() {
    let mut bench = bench();
    bench.request(
        "later.1",
        &[
            ("Nats-Schedule", "@every 1m"),
            ("Nats-Schedule-Target", "s.a"),
            ("Nats-Schedule-TTL", "30s"),
            ("Own", "kept"),
            ("Nats-Msg-Id", "7"),
        ],
        "",
    );
    bench.pass(MINUTE);
    let id = bench.broker.catalog.id_of("S").unwrap();
    let record = bench.broker.log.records(id).last().unwrap().clone();
    let next = Timestamp(now(bench.at + MINUTE).wall).to_string();
    assert_eq!(get(record.headers(), "Nats-Schedule-Next"), Some(&*next));
    assert_eq!(get(record.headers(), "Nats-TTL"), Some("30s"));
    assert_eq!(get(record.headers(), "Own"), Some("kept"));
    assert_eq!(get(record.headers(), "Nats-Msg-Id"), None);
    bench.pass(MINUTE / 2);
    assert_eq!(bench.held("S"), ["later.1"], "what was published lives half a minute");
    // Ten and a half minutes pass without a broker: ten times are made up for by one message.
    bench.at += MINUTE * 21 / 2;
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.held("S"), ["later.1", "s.a"]);
    assert_eq!(bench.schedules()[0].next.0, now(Duration::from_secs(1) + MINUTE * 13).wall);
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.held("S"), ["later.1", "s.a"], "not twice for the same time");
}

#[test]
fn what_it_publishes_and_its_next_time_are_one_group() {
    let mut bench = bench();
    bench.schedule("later.1", "@every 1m", "s.a");
    let before = bench.broker.commit();
    bench.at += MINUTE;
    bench.broker.handle_timeout(now(bench.at));
    assert_eq!(bench.held("S"), ["later.1", "s.a"]);
    let due = now(bench.at + MINUTE).wall;
    let kept = bench.broker.log.states(state::SCHEDULES).pop().unwrap().1;
    assert_eq!(serde_json::from_slice::<state::KeptSchedule>(&kept.base).unwrap().due, due);
    // Both were done before the group was closed, and there is one.
    assert_eq!(bench.broker.log.durable(), before);
    assert_eq!(bench.broker.commit().0, before.0 + 1);
}

#[test]
fn cron_goes_by_the_zone() {
    let mut bench = bench();
    let schedule = [
        ("Nats-Schedule", "0 8 * * 1-5"),
        ("Nats-Schedule-Time-Zone", "Europe/Berlin"),
        ("Nats-Schedule-Target", "s.a"),
    ];
    bench.request("later.1", &schedule, "");
    // The clock begins on Tuesday, 14 November 2023, at 22:13 UTC.
    let next = bench.schedules()[0].next;
    assert_eq!(next.to_string(), "2023-11-15T07:00:00Z");
    bench.pass(Duration::from_nanos(next.0 - now(bench.at).wall));
    assert_eq!(bench.held("S"), ["later.1", "s.a"]);
    assert_eq!(bench.schedules()[0].next.to_string(), "2023-11-16T07:00:00Z");
}

#[test]
fn a_schedule_ends_in_many_ways() {
    let ends: [fn(&mut Bench); 7] = [
        |bench| _ = bench.request("later.1", &[], "no schedule"),
        |bench| {
            let (stream, subject) = ("S".into(), "later.1".into());
            bench.api(ApiRequest::ScheduleDelete { stream, subject }).unwrap();
        },
        |bench| {
            let request = ApiRequest::MessageDelete { stream: "S".into(), seq: 1, no_erase: true };
            bench.api(request).unwrap();
        },
        |bench| {
            let options = PurgeOptions { filter: Some("later.>".into()), ..Default::default() };
            bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap();
        },
        |bench| {
            let options = PurgeOptions::default();
            bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap();
        },
        |bench| {
            let headers = [("Nats-Schedule-Next", "purge"), ("Nats-Scheduler", "later.1")];
            assert_eq!(bench.request("s.end", &headers, "")["seq"], 2);
            assert_eq!(bench.held("S"), ["s.end"]);
        },
        |bench| {
            bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
            bench.create(named("S", &["s.>"])).unwrap();
        },
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let mut bench = bench();
        bench.schedule("later.1", "@every 1m", "s.a");
        end(&mut bench);
        assert!(bench.schedules().is_empty(), "way {at}");
        assert!(bench.broker.log.states(state::SCHEDULES).is_empty(), "way {at}");
        bench.pass(2 * MINUTE);
        assert!(!bench.held("S").contains(&"s.a".to_owned()), "way {at}");
    }
    let mut bench = bench();
    bench.schedule("later.1", "@every 1m", "s.a");
    bench.schedule("later.1", "@after 5m", "s.b");
    assert_eq!(bench.held("S"), ["later.1"], "a new one replaces it");
    bench.pass(5 * MINUTE);
    assert_eq!(bench.held("S"), ["s.b"]);
    let (stream, subject) = ("S".into(), "later.1".into());
    let gone = bench.api(ApiRequest::ScheduleDelete { stream, subject }).unwrap_err();
    assert_eq!(gone.err_code, 20013);
}

#[test]
fn the_message_of_an_ended_schedule_goes_also_after_a_restart() {
    let mut bench = bench();
    bench.schedule("later.1", "@every 1m", "s.a");
    bench.broker.log_mut().slow_reads(true);
    let (stream, subject) = ("S".into(), "later.1".into());
    let request = ApiRequest::ScheduleDelete { stream, subject };
    bench.handle(A, Request::Api { token: Token(1), request });
    // The process ends before the disk has said where the message lies.
    bench.broker.commit();
    assert_eq!(bench.held("S"), ["later.1"]);
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.turn();
    assert!(bench.held("S").is_empty());
}

#[test]
fn a_schedule_that_was_not_read_is_not_blamed() {
    let mut bench = bench();
    bench.schedule("later.1", "@after 1m", "s.a");
    let id = bench.broker.catalog.id_of("S").unwrap();
    bench.broker.log_mut().damage(id, 1, 1);
    bench.broker.log_mut().slow_reads(true);
    bench.at += MINUTE;
    bench.broker.handle_timeout(now(bench.at));
    // While the disk is read another schedule is due before the one that is damaged.
    let at = Timestamp(now(bench.at - MINUTE).wall).to_string();
    bench.schedule("later.2", &format!("@at {at}"), "s.b");
    bench.pass(MINUTE);
    assert!(bench.held("S").contains(&"s.b".to_owned()), "{:?}", bench.held("S"));
    let listed = bench.schedules();
    assert_eq!((listed.len(), &*listed[0].subject), (1, "later.1"));
    assert!(listed[0].problem.is_some(), "{listed:?}");
}

#[test]
fn what_the_server_publishes_ends_a_schedule_too() {
    let mut bench = bench();
    bench.schedule("later.1", "@every 1h", "s.a");
    bench.schedule("later.2", "@after 1m", "later.1");
    bench.pass(MINUTE);
    assert!(bench.schedules().is_empty(), "{:?}", bench.schedules());
}

#[test]
fn below_its_prefix_a_schedule_publishes_to_any_stream() {
    let mut bench = bench();
    let answer = bench.schedule("$SCHEDULE.1", "@after 1m", "other.a");
    assert_eq!((&answer["stream"], &answer["seq"]), (&"CLAUDEBUS_SCHEDULES".into(), &1.into()));
    assert_eq!(code(&bench.schedule("$SCHEDULE.2", "@after 1m", "nobody.a")), 10190);
    bench.pass(MINUTE);
    assert_eq!(bench.held("OTHER"), ["other.a"]);
    assert!(bench.held("CLAUDEBUS_SCHEDULES").is_empty());
}

#[test]
fn a_full_target_is_tried_again_and_told() {
    let mut bench = bench();
    let full = StreamConfig { max_msgs: 1, discard: Discard::New, ..named("FULL", &["full"]) };
    bench.create(full).unwrap();
    bench.request("full", &[], "");
    bench.schedule("$SCHEDULE.1", "@after 1m", "full");
    bench.pass(MINUTE);
    assert!(bench.schedules()[0].problem.as_ref().unwrap().contains("maximum messages"));
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.seqs("FULL"), [1]);
    let options = PurgeOptions::default();
    bench.api(ApiRequest::StreamPurge { stream: "FULL".into(), options }).unwrap();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.seqs("FULL"), [2]);
    assert!(bench.schedules().is_empty());
}

#[test]
fn a_clock_that_is_set_is_noticed() {
    let mut bench = bench();
    bench.schedule("later.1", "@after 60m", "s.a");
    // The wall clock jumps an hour ahead while a minute passes.
    bench.at += MINUTE;
    let jumped = Now { monotonic: bench.at, wall: now(bench.at + 60 * MINUTE).wall };
    assert!(bench.broker.poll_timeout().unwrap() <= bench.at);
    bench.broker.handle_timeout(jumped);
    bench.broker.commit();
    assert_eq!(bench.held("S"), ["s.a"]);
}

#[test]
fn work_queues_and_interest_keep_schedules_until_they_are_done() {
    for retention in [Retention::WorkQueue, Retention::Interest] {
        let mut bench = Bench::new();
        let config = named("S", &["s.>", "later.>"]);
        bench.create(StreamConfig { retention, allow_msg_schedules: true, ..config }).unwrap();
        bench.schedule("later.1", "@after 1m", "s.a");
        bench.consumer("S", durable("c")).unwrap();
        assert_eq!(bench.pull("S", "c", 1).len(), 1);
        bench.ack("S", "c", (1, 1), AckKind::Ack);
        assert_eq!(bench.schedules().len(), 1, "{retention:?}");
        bench.pass(MINUTE);
        assert_eq!(bench.held("S"), ["s.a"], "{retention:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut bench = bench();
    let cases: [(&[(&str, &str)], u64); 9] = [
        (&[("Nats-Schedule", "@often"), ("Nats-Schedule-Target", "s.a")], 10189),
        (&[("Nats-Schedule", "@every 1m")], 10190),
        (&[("Nats-Schedule", "@every 1m"), ("Nats-Schedule-Target", "later.x")], 10190),
        (&[("Nats-Schedule", "@every 1m"), ("Nats-Schedule-Target", "other.a")], 10190),
        (
            &[
                ("Nats-Schedule", "@every 1m"),
                ("Nats-Schedule-Target", "s.a"),
                ("Nats-Schedule-TTL", "x"),
            ],
            10191,
        ),
        (
            &[
                ("Nats-Schedule", "@every 1m"),
                ("Nats-Schedule-Target", "s.a"),
                ("Nats-Rollup", "all"),
            ],
            10192,
        ),
        (
            &[
                ("Nats-Schedule", "@every 1m"),
                ("Nats-Schedule-Target", "s.a"),
                ("Nats-Schedule-Source", "s.b"),
            ],
            10203,
        ),
        (&[("Nats-Scheduler", "later.1")], 10212),
        (
            &[
                ("Nats-Schedule", "@daily"),
                ("Nats-Schedule-Target", "s.a"),
                ("Nats-Schedule-Time-Zone", "Mars/Phobos"),
            ],
            10223,
        ),
    ];
    for (headers, expected) in cases {
        assert_eq!(code(&bench.request("later.x", headers, "")), expected, "{headers:?}");
    }
    assert_eq!(code(&bench.schedule("other.x", "@every 1m", "other.a")), 10188);
    assert!(bench.seqs("S").is_empty());
}

#[test]
fn as_many_as_allowed_and_one_more() {
    let limits = Limits { max_schedules: 2, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(named("OTHER", &["other.>"])).unwrap();
    assert_eq!(bench.schedule("$SCHEDULE.1", "@every 1m", "other.a")["seq"], 1);
    assert_eq!(bench.schedule("$SCHEDULE.2", "@every 1m", "other.a")["seq"], 2);
    assert_eq!(code(&bench.schedule("$SCHEDULE.3", "@every 1m", "other.a")), 20014);
    assert_eq!(bench.schedule("$SCHEDULE.2", "@every 2m", "other.a")["seq"], 3);
}
