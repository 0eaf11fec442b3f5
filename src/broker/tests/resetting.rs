//! Consumers that begin anew somewhere.

use super::*;

fn reset(bench: &mut Bench, seq: Option<u64>) -> Result<(ConsumerInfo, u64), ApiError> {
    let (stream, consumer) = ("S".to_owned(), "c".to_owned());
    match bench.api(ApiRequest::ConsumerReset { stream, consumer, seq })? {
        ApiResponse::ConsumerReset { info, reset_seq } => Ok((*info, reset_seq)),
        other => panic!("{other:?}"),
    }
}

fn seqs(deliveries: &[Delivery]) -> Vec<(u64, u64)> {
    deliveries.iter().map(|delivery| (delivery.record.seq, delivery.consumer_seq)).collect()
}

#[test]
fn what_is_not_acknowledged_comes_again_also_after_a_restart() {
    let mut bench = stream(&["s.1"; 5]);
    bench.consumer("S", durable("c")).unwrap();
    bench.pull("S", "c", 4);
    bench.ack("S", "c", (1, 2), AckKind::Ack);
    let (info, at) = reset(&mut bench, None).unwrap();
    assert_eq!((at, info.num_pending, info.num_ack_pending), (3, 3, 0));
    let mut bench = bench.restarted(BrokerOptions::default());
    assert_eq!(seqs(&bench.pull("S", "c", 2)), [(3, 1), (4, 2)]);
    assert_eq!(bench.consumer_info("S", "c").num_pending, 1);
}

#[test]
fn a_reset_does_not_wait_for_what_was_delivered_before() {
    let mut bench = stream(&["s.1"; 3]);
    let config = ConsumerConfig { ack_wait: Duration::from_secs(1), ..durable("c") };
    bench.consumer("S", config).unwrap();
    bench.pull("S", "c", 3);
    reset(&mut bench, Some(3)).unwrap();
    bench.pass(Duration::from_secs(2));
    assert_eq!(seqs(&bench.pull("S", "c", 3)), [(3, 1)]);
    assert_eq!(bench.consumer_info("S", "c").num_redelivered, 0);
}

#[test]
fn a_pull_that_waits_gets_what_comes_again() {
    let mut bench = stream(&["s.1"; 2]);
    bench.consumer("S", durable("c")).unwrap();
    let waiting = Pull { batch: 5, expires: Some(Duration::from_secs(9)), ..pull("S", "c", 1) };
    assert_eq!(deliveries(&bench.run(A, Request::Pull(waiting))).len(), 2);
    bench.events.clear();
    let request =
        ApiRequest::ConsumerReset { stream: "S".into(), consumer: "c".into(), seq: Some(2) };
    let events = bench.run(A, Request::Api { token: Token(9), request });
    assert_eq!(seqs(&deliveries(&events)), [(2, 1)]);
}

#[test]
fn the_last_messages_of_subjects_come_again() {
    use crate::model::consumer::DeliverPolicy;
    let mut bench = stream(&["s.1", "s.2", "s.1", "s.3"]);
    let config = ConsumerConfig {
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: Some(">".into()),
        ..durable("c")
    };
    bench.consumer("S", config).unwrap();
    assert_eq!(seqs(&bench.pull("S", "c", 2)), [(2, 1), (3, 2)]);
    bench.ack("S", "c", (2, 2), AckKind::Ack);
    let (info, at) = reset(&mut bench, None).unwrap();
    assert_eq!((at, info.num_pending), (3, 2));
    assert_eq!(seqs(&bench.pull("S", "c", 5)), [(3, 1), (4, 2)]);
    assert_eq!(reset(&mut bench, Some(1)).unwrap_err().err_code, 10204);
}
