//! Which requests subjects and bodies stand for.

use super::*;

fn strict(operation: &str, body: &str) -> Result<ApiRequest, ApiError> {
    parse(operation, body.as_bytes(), Strictness::Strict)
}

fn code(operation: &str, body: &str) -> u32 {
    strict(operation, body).expect_err(operation).err_code
}

#[test]
fn operations_become_requests() {
    assert_eq!(strict("INFO", ""), Ok(ApiRequest::AccountInfo));
    let Ok(ApiRequest::StreamCreate(config)) =
        strict("STREAM.CREATE.ORDERS", r#"{"subjects":["orders.>"],"max_age":1000000000}"#)
    else {
        panic!("not a create");
    };
    assert_eq!((config.name.as_str(), config.max_age.as_secs()), ("ORDERS", 1));
    let Ok(ApiRequest::ConsumerCreate { config, action, .. }) = strict(
        "CONSUMER.CREATE.S.c.a.>",
        r#"{"stream_name":"S","action":"create","config":{"durable_name":"c","filter_subject":"a.>","ack_policy":"explicit"}}"#,
    ) else {
        panic!("not a create");
    };
    assert_eq!(action, ConsumerAction::Create);
    assert_eq!(config.name.as_deref(), Some("c"));
    let Ok(ApiRequest::MessageGet { options, direct: true, .. }) = strict("DIRECT.GET.S.a.b", "")
    else {
        panic!("not a direct get");
    };
    assert_eq!(options.last_by_subj.as_deref(), Some("a.b"));
    assert!(matches!(
        strict("DEAD.REQUEUE.S", r#"{"sequences":[1]}"#),
        Ok(ApiRequest::DeadRequeue { .. })
    ));
}

#[test]
fn errors_come_in_jetstreams_order() {
    assert_eq!(code("STREAM.CREATE.S", "{"), 10025);
    assert_eq!(code("STREAM.CREATE.S", r#"{"name":"T"}"#), 10056);
    assert_eq!(code("STREAM.CREATE.a/b", r#"{"name":"a/b"}"#), 10128);
    assert_eq!(code("STREAM.DELETE.S", r#"{"x":1}"#), 10038);
    assert_eq!(code("STREAM.PURGE.S", r#"{"seq":1,"keep":1}"#), 10003);
    assert_eq!(code("STREAM.MSG.GET.S", ""), 10003);
    assert_eq!(code("CONSUMER.CREATE.S.c", r#"{"stream_name":"T"}"#), 10056);
    assert_eq!(code("CONSUMER.CREATE.S.c/d", "{}"), 10127);
    assert_eq!(code("CONSUMER.CREATE.S.c", r#"{"config":{"durable_name":"d"}}"#), 10017);
    assert_eq!(code("CONSUMER.CREATE.S", r#"{"config":{"durable_name":"d"}}"#), 10020);
    assert_eq!(code("CONSUMER.CREATE.S.c.a", r#"{"config":{"filter_subject":"b"}}"#), 10131);
    assert_eq!(code("CONSUMER.CREATE.S.c.a", r#"{"config":{"filter_subjects":["a"]}}"#), 10137);
    assert_eq!(code("CONSUMER.UNPIN.S.c", ""), 10025);
    assert_eq!(code("CONSUMER.UNPIN.S.c", r#"{"group":"a b"}"#), 10162);
    assert_eq!(code("CONSUMER.DURABLE.CREATE.S", "{}"), 10016);
    assert_eq!(code("CONSUMER.DURABLE.CREATE.S.c", "{}"), 10018);
}

#[test]
fn nats_clients_are_refused_what_a_nats_server_refuses() {
    let lenient = |operation: &str, body: &str| {
        parse(operation, body.as_bytes(), Strictness::Lenient).map_err(|error| error.err_code)
    };
    let create = |config: &str| {
        let body = format!(r#"{{"stream_name":"S","config":{config}}}"#);
        lenient("CONSUMER.CREATE.S.c", &body)
    };
    assert_eq!(lenient("CONSUMER.CREATE.S.c", "").err(), Some(10056));
    assert_eq!(create(r#"{"ack_wait":-1}"#).err(), Some(10183));
    assert_eq!(create(r#"{"backoff":[1,-1]}"#).err(), Some(10184));
    assert!(create(r#"{"ack_wait":1,"backoff":[1]}"#).is_ok());
    assert_eq!(lenient("CONSUMER.DELETE.S.c", r#"{"a":1}"#).err(), Some(10038));
    assert_eq!(lenient("STREAM.CREATE.S", r#"{"name":"T","max_age":-1}"#).err(), Some(10056));
    assert_eq!(lenient("STREAM.UPDATE.S", "").err(), Some(10052));
    assert_eq!(lenient("STREAM.UPDATE.S", r#"{"name":"T"}"#).err(), Some(10056));
    assert_eq!(lenient("STREAM.UPDATE.S", r#"{"name":"a/b"}"#).err(), Some(10052));
    assert!(lenient("CONSUMER.DELETE.S.c", "{}").is_ok());
    for operation in ["CONSUMER.NAMES.S", "CONSUMER.LIST.S", "CONSUMER.PAUSE.S.c"] {
        assert!(lenient(operation, "nonsense").is_ok(), "{operation}");
        assert_eq!(lenient(operation, "{nonsense").err(), Some(10025), "{operation}");
        assert_eq!(code(operation, "nonsense"), 10025);
    }
}

#[test]
fn nothing_lasts_a_negative_time() {
    let create = |fields: &str| {
        let body = format!(r#"{{"name":"S",{fields}}}"#);
        parse("STREAM.CREATE.S", body.as_bytes(), Strictness::Lenient).map_err(|e| e.err_code)
    };
    assert_eq!(create(r#""num_replicas":-1,"max_age":-1"#).err(), Some(10133));
    for field in ["max_age", "duplicate_window", "subject_delete_marker_ttl"] {
        assert_eq!(create(&format!(r#""{field}":-1"#)).err(), Some(10052), "{field}");
    }
    assert!(create(r#""max_msgs":-1,"max_age":0"#).is_ok());
}

#[test]
fn a_sequence_to_begin_with_leaves_room_for_others() {
    let purge = |seq: u64| {
        let body = format!(r#"{{"seq":{seq}}}"#);
        parse("STREAM.PURGE.S", body.as_bytes(), Strictness::Strict).map_err(|e| e.err_code)
    };
    assert!(purge(MAX_FIRST_SEQ).is_ok());
    assert_eq!(purge(MAX_FIRST_SEQ + 1).err(), Some(10110));
}

#[test]
fn unknown_words_are_errors_that_name_the_nearest() {
    let error = strict("STREAM.CREAT.S", "{}").unwrap_err();
    assert!(error.description.contains("STREAM.CREATE"), "{error}");
    let error = strict("STREAM.CREATE.S", r#"{"consumer_limits":{"max_ack":1}}"#).unwrap_err();
    assert!(error.description.contains("max_ack"), "{error}");
    let error = strict("CONSUMER.CREATE.S.c", r#"{"config":{"ack_polcy":"none"}}"#).unwrap_err();
    assert!(error.description.contains("did you mean \"ack_policy\""), "{error}");
    assert!(
        parse("STREAM.CREATE.S", br#"{"name":"S","placement":{}}"#, Strictness::Lenient).is_ok()
    );
}
