//! The API: streams, messages, lists.

use super::*;
use crate::model::api::{ListOptions, MessageGetOptions, StreamInfoOptions};
use crate::model::time::Timestamp;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    bench
}

fn get(bench: &mut Bench, options: MessageGetOptions) -> Result<u64, u32> {
    let request = ApiRequest::MessageGet { stream: "S".into(), options, direct: false };
    match bench.api(request) {
        Ok(ApiResponse::Message { message }) => Ok(message.seq),
        Err(error) => Err(error.err_code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_found_in_memory_and_on_disk() {
    for slow in [false, true] {
        let mut bench = bench();
        bench.publish(1, 1, &["s.a", "s.b", "s.a"]);
        bench.pass(Duration::from_secs(1));
        bench.publish(1, 4, &["s.b"]);
        bench.broker.log_mut().slow_reads(slow);
        let default = MessageGetOptions::default;
        let subject = |text: &str| Some(text.to_owned());
        let mut get = |options| get(&mut bench, options);
        assert_eq!(get(MessageGetOptions { seq: 2, ..default() }), Ok(2));
        assert_eq!(get(MessageGetOptions { seq: 9, ..default() }), Err(10037));
        assert_eq!(get(default()), Err(10003));
        assert_eq!(get(MessageGetOptions { last_by_subj: subject("s.a"), ..default() }), Ok(3));
        assert_eq!(get(MessageGetOptions { last_by_subj: subject("s.*"), ..default() }), Ok(4));
        assert_eq!(
            get(MessageGetOptions { last_by_subj: subject("s.x"), ..default() }),
            Err(10037)
        );
        let next = |seq| MessageGetOptions { seq, next_by_subj: subject("s.b"), ..default() };
        assert_eq!((get(next(0)), get(next(3)), get(next(5))), (Ok(2), Ok(4), Err(10037)));
        let time = Timestamp(START + 2_000_000_000);
        assert_eq!(get(MessageGetOptions { start_time: Some(time), ..default() }), Ok(4));
    }
}

#[test]
fn direct_gets_need_permission() {
    let mut bench = bench();
    bench.publish(1, 1, &["s.a"]);
    let request = ApiRequest::MessageGet {
        stream: "S".into(),
        options: MessageGetOptions { seq: 1, ..MessageGetOptions::default() },
        direct: true,
    };
    assert_eq!(bench.api(request.clone()).unwrap_err().code, 503);
    let mut config = bench.info("S").config;
    config.allow_direct = true;
    bench.api(ApiRequest::StreamUpdate(Box::new(config))).unwrap();
    assert!(
        matches!(bench.api(request), Ok(ApiResponse::Direct { record, .. }) if record.seq == 1)
    );
}

#[test]
fn messages_are_deleted_once() {
    for slow in [false, true] {
        let mut bench = bench();
        bench.publish(1, 1, &["s.a", "s.b", "s.a"]);
        bench.broker.log_mut().slow_reads(slow);
        let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 2, no_erase: false };
        assert_eq!(bench.api(delete.clone()), Ok(ApiResponse::Deleted { success: true }));
        assert_eq!(bench.api(delete).unwrap_err().err_code, 10043);
        let request = ApiRequest::StreamInfo {
            stream: "S".into(),
            options: StreamInfoOptions {
                deleted_details: true,
                subjects_filter: "s.*".into(),
                offset: 0,
            },
        };
        let Ok(ApiResponse::Stream { info, .. }) = bench.api(request) else { panic!("no info") };
        assert_eq!((info.state.deleted, info.state.num_deleted), (vec![2], 1));
        assert_eq!(info.state.subjects.into_iter().collect::<Vec<_>>(), [("s.a".to_owned(), 2)]);
        assert_eq!(info.state.first_ts, Timestamp(now(bench.at).wall));
    }
    let mut bench = Bench::new();
    bench.create(StreamConfig { deny_delete: true, ..named("S", &["s.>"]) }).unwrap();
    bench.publish(1, 1, &["s.a"]);
    let delete = ApiRequest::MessageDelete { stream: "S".into(), seq: 1, no_erase: true };
    assert_eq!(bench.api(delete).unwrap_err().err_code, 10057);
}

#[test]
fn an_update_that_removes_the_first_message_tells_the_time_of_the_next() {
    for slow in [false, true] {
        let mut bench = bench();
        bench.publish(1, 1, &["s.a", "s.a"]);
        bench.broker.log_mut().slow_reads(slow);
        let config = StreamConfig { max_msgs: 1, ..named("S", &["s.>"]) };
        let Ok(ApiResponse::Stream { info, .. }) =
            bench.api(ApiRequest::StreamUpdate(Box::new(config)))
        else {
            panic!("no info")
        };
        let first = (info.state.first_seq, info.state.first_ts);
        assert_eq!(first, (2, Timestamp(now(bench.at).wall)));
    }
}

#[test]
fn creating_again_is_fine_with_the_same_configuration() {
    let mut bench = bench();
    assert_eq!(bench.create(named("S", &["s.>"])).unwrap().state.messages, 0);
    assert_eq!(bench.create(named("S", &["t.>"])).unwrap_err().err_code, 10058);
    assert_eq!(bench.create(named("T", &["s.a"])).unwrap_err().err_code, 10065);
    let update = ApiRequest::StreamUpdate(Box::new(named("U", &["u"])));
    assert_eq!(bench.api(update).unwrap_err().err_code, 10059);
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    bench.create(named("T", &["s.a"])).unwrap();
    assert_eq!(bench.request("s.a", &[], "")["stream"], "T");
}

#[test]
fn as_many_streams_and_consumers_as_allowed_and_one_more() {
    let limits = Limits { max_streams: 2, max_consumers: 1, ..Limits::default() };
    let mut bench = Bench::with(BrokerOptions { limits, ..BrokerOptions::default() });
    bench.create(named("A", &["a"])).unwrap();
    bench.create(named("B", &["b"])).unwrap();
    assert_eq!(bench.create(named("C", &["c"])).unwrap_err().err_code, 10023);
    bench.consumer("A", durable("one")).unwrap();
    assert_eq!(bench.consumer("A", durable("two")).unwrap_err().err_code, 10026);
    bench.consumer("A", durable("one")).unwrap();
}

#[test]
fn lists_come_in_pages_by_name() {
    for slow in [false, true] {
        let mut bench = Bench::new();
        for n in 0..300 {
            bench.create(named(&format!("S{n:03}"), &[&format!("s.{n}")])).unwrap();
        }
        bench.request("s.7", &[], "");
        let mut bench = bench.restarted(BrokerOptions::default());
        bench.broker.log_mut().slow_reads(slow);
        let list = |offset| ListOptions { offset, subject: None };
        let Ok(ApiResponse::StreamList { total: 300, limit: 256, streams, .. }) =
            bench.api(ApiRequest::StreamList(list(0)))
        else {
            panic!("no list")
        };
        assert_eq!((streams.len(), streams[7].state.first_ts.0 > 0), (256, true));
        let Ok(ApiResponse::StreamList { streams, .. }) =
            bench.api(ApiRequest::StreamList(list(256)))
        else {
            panic!("no list")
        };
        assert_eq!((streams.len(), streams[0].config.name.as_str()), (44, "S256"));
        let of = ListOptions { offset: 0, subject: Some("*.12".into()) };
        let Ok(ApiResponse::StreamNames { streams, .. }) = bench.api(ApiRequest::StreamNames(of))
        else {
            panic!("no names")
        };
        assert_eq!(streams, ["S012"]);
    }
}

#[test]
fn the_account_counts_earlier_requests() {
    let mut bench = Bench::new();
    for total in 0..2 {
        let Ok(ApiResponse::Json(body)) = bench.api(ApiRequest::AccountInfo) else {
            panic!("no account")
        };
        assert_eq!(body["api"]["total"], total);
    }
}

#[test]
fn the_first_sequence_can_be_chosen() {
    let mut bench = Bench::new();
    let config = StreamConfig { first_seq: 1000, ..named("S", &["s.>"]) };
    bench.create(config).unwrap();
    assert_eq!(bench.request("s.a", &[], "")["seq"], 1000);
}

#[test]
fn a_stream_comes_back_after_a_restart_and_its_number_is_not_used_again() {
    let mut bench = bench();
    bench.publish(1, 1, &["s.a"]);
    let before = bench.info("S");
    let first = bench.broker.catalog.id_of("S").unwrap();
    let mut bench = bench.restarted(BrokerOptions { seed: 7, ..BrokerOptions::default() });
    assert_eq!(bench.info("S"), before);
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.create(named("S", &["s.>"])).unwrap();
    assert!(bench.broker.catalog.id_of("S").unwrap() > first);
    assert_eq!(bench.info("S").state.messages, 0);
}

#[test]
fn the_same_calls_give_the_same_events() {
    let run = || {
        let mut bench = bench();
        bench
            .consumer("S", ConsumerConfig { durable_name: None, name: None, ..durable("") })
            .unwrap();
        for (session, token) in [(A, 1), (A, 2), (B, 1)] {
            let queue = Some("q".to_owned());
            let request = Request::Subscribe { token: Token(token), subject: "s.>".into(), queue };
            bench.handle(session, request);
        }
        bench.publish(1, 1, &["s.a"; 50]);
        bench.pass(Duration::from_secs(6));
        let options = ListOptions::default();
        let list = bench.api(ApiRequest::ConsumerList { stream: "S".into(), options });
        format!("{:?} {list:?} {:?}", bench.events, bench.broker.log())
    };
    assert_eq!(run(), run());
}
