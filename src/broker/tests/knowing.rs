//! What consumers say is left for them, against a count of what the log holds, between any two requests.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::api::PurgeOptions;
use crate::model::stream::Retention;
use crate::model::time::Timestamp;

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<&'static str>),
    RollUp(&'static str),
    Ask(ApiRequest),
    Pull(usize, u64),
    Ack(usize, u64, AckKind),
    Look(usize),
    Commit,
    SlowReads(bool),
    SlowDisk(bool),
    Restart,
}

const SUBJECTS: &[&str] = &["s.a", "s.b", "s.c", "s.d"];
const FILTERS: &[&str] = &["s.a", "s.b", "s.c", "s.>"];

fn name(who: usize) -> String {
    format!("c{who}")
}

fn config(who: usize, filter: &str, ack_policy: AckPolicy) -> ConsumerConfig {
    ConsumerConfig { ack_policy, filter_subject: Some(filter.into()), ..durable(&name(who)) }
}

fn asked(ack_policy: AckPolicy) -> impl Strategy<Value = ApiRequest> {
    let stream = || "S".to_owned();
    let who = || 0..FILTERS.len();
    let purged = (prop::option::of(select(FILTERS)), 0..3_u64, 0..30_u64);
    prop_oneof![
        2 => (1..60_u64).prop_map(move |seq| {
            ApiRequest::MessageDelete { stream: stream(), seq, no_erase: true }
        }),
        1 => purged.prop_map(move |(filter, keep, seq)| {
            let seq = if keep > 0 { 0 } else { seq };
            let options = PurgeOptions { filter: filter.map(Into::into), seq, keep };
            ApiRequest::StreamPurge { stream: stream(), options }
        }),
        2 => (who(), select(FILTERS)).prop_map(move |(who, filter)| {
            let config = Box::new(config(who, filter, ack_policy));
            let action = ConsumerAction::CreateOrUpdate;
            ApiRequest::ConsumerCreate { stream: stream(), config, action }
        }),
        1 => who().prop_map(move |who| {
            ApiRequest::ConsumerDelete { stream: stream(), consumer: name(who) }
        }),
        1 => (who(), prop::option::of(1..40_u64)).prop_map(move |(who, seq)| {
            ApiRequest::ConsumerReset { stream: stream(), consumer: name(who), seq }
        }),
        1 => (who(), any::<bool>()).prop_map(move |(who, pause)| {
            let until = pause.then_some(Timestamp(u64::MAX / 2));
            ApiRequest::ConsumerPause { stream: stream(), consumer: name(who), until }
        }),
    ]
}

fn steps(ack_policy: AckPolicy) -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..FILTERS.len();
    let kind = select(vec![AckKind::Ack, AckKind::Nak { delay: Duration::ZERO }]);
    let step = prop_oneof![
        24 => prop::collection::vec(select(SUBJECTS), 1..4).prop_map(Step::Publish),
        1 => select(SUBJECTS).prop_map(Step::RollUp),
        8 => asked(ack_policy).prop_map(Step::Ask),
        6 => (who(), 1..6_u64).prop_map(|(who, count)| Step::Pull(who, count)),
        2 => (who(), 1..60_u64, kind).prop_map(|(who, seq, kind)| Step::Ack(who, seq, kind)),
        2 => who().prop_map(Step::Look),
        3 => Just(Step::Commit),
        1 => any::<bool>().prop_map(Step::SlowReads),
        1 => any::<bool>().prop_map(Step::SlowDisk),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..90)
}

/// What is left for a consumer, counted anew; none if there is no such consumer.
fn left(bench: &Bench, name: &str) -> Option<u64> {
    let id = bench.broker.catalog.id_of("S")?;
    let member = bench.broker.catalog.get(id)?.consumers.get(name)?;
    let is_left = |record: &&claudebus_storage::Record| {
        record.seq >= member.consumer.cursor() && member.filter().matches(record.subject())
    };
    let more = bench.broker.log.records(id).filter(is_left).count() as u64;
    Some(member.consumer.num_before_cursor() + more)
}

fn look(bench: &mut Bench, name: &str) {
    let Some(left) = left(bench, name) else { return };
    let id = bench.broker.catalog.id_of("S").unwrap();
    assert_eq!(bench.broker.consumer_info(id, name).unwrap().num_pending, left, "{name}");
}

/// Takes a step without what would follow by itself. Whoever waits for its turn goes on waiting.
fn take(bench: &mut Bench, step: Step, published: &mut u64) {
    let (stream, producer) = ("S".to_owned(), ProducerId(1));
    bench.token += 1;
    let token = bench.token;
    let request = match step {
        Step::Publish(subjects) => {
            let first = *published + 1;
            *published += subjects.len() as u64;
            Request::Publish { producer, first, batch: batch(&subjects) }
        }
        Step::RollUp(subject) => {
            let mut block = Block::default();
            block.add("Nats-Rollup", "sub");
            let batch = MessageBatch::of_one(subject, "", &block.finish(), b"x");
            Request::Send { batch, echo: true }
        }
        Step::Ask(request) => Request::Api { token: Token(token), request },
        Step::Pull(who, batch) => {
            let expires = Some(Duration::from_secs(1000));
            Request::Pull(Pull { batch, expires, ..pull("S", &name(who), token) })
        }
        Step::Ack(who, seq, kind) => {
            let (consumer, sequences, subject) = (name(who), vec![(seq, seq)], String::new());
            Request::Ack(Ack { stream, consumer, sequences, kind, confirm: None, subject })
        }
        Step::Look(who) => return look(bench, &name(who)),
        Step::Commit => {
            bench.broker.commit();
            bench.broker.handle_log(now(bench.at)).unwrap();
            return bench.broker.handle_timeout(now(bench.at));
        }
        Step::SlowReads(slow) => return bench.broker.log_mut().slow_reads(slow),
        Step::SlowDisk(slow) => return bench.broker.log_mut().hold_durable(slow),
        Step::Restart => {
            bench.broker.log_mut().hold_durable(false);
            bench.turn();
            *bench = bench.restarted(BrokerOptions::default());
            return;
        }
    };
    bench.handle(A, request);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn consumers_know_what_is_left(
        (policy, steps) in select(vec![AckPolicy::Explicit, AckPolicy::None])
            .prop_flat_map(|policy| (Just(policy), steps(policy))),
        retention in select(vec![Retention::Limits, Retention::Interest]),
        max_msgs in select(vec![-1, 8]),
        max_msgs_per_subject in select(vec![-1, 2]),
    ) {
        let mut bench = Bench::new();
        let limits = StreamConfig { max_msgs, max_msgs_per_subject, ..named("S", &["s.>"]) };
        bench.create(StreamConfig { retention, allow_rollup_hdrs: true, ..limits }).unwrap();
        for (who, filter) in FILTERS.iter().enumerate() {
            bench.consumer("S", config(who, filter, policy)).unwrap();
        }
        // Who reads from the disk is told of what is gone when the read is done.
        let reads_slowly = steps.iter().any(|step| matches!(step, Step::SlowReads(true)));
        let mut published = 0;
        for step in steps {
            if !(reads_slowly && matches!(step, Step::Look(_))) {
                take(&mut bench, step, &mut published);
            }
        }
        bench.broker.log_mut().hold_durable(false);
        bench.turn();
        bench.broker.log_mut().slow_reads(false);
        bench.turn();
        for name in (0..FILTERS.len()).map(name) {
            look(&mut bench, &name);
            let request =
                ApiRequest::ConsumerPause { stream: "S".into(), consumer: name.clone(), until: None };
            if bench.api(request).is_ok() {
                bench.pull("S", &name, 10_000);
                prop_assert_eq!(left(&bench, &name), Some(0), "{}", name);
                prop_assert_eq!(bench.consumer_info("S", &name).num_pending, 0);
            }
        }
    }
}
