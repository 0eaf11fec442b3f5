//! What the broker remembers so as not to look it up again, against looking it up.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::broker::stream::Stream;
use crate::model::stream::{Discard, Retention, SubjectTransform};

const SUBJECTS: &[&str] = &["s.a", "s.b", "s.a.x", "t.a", "t.b", "u", "nobody's"];
const FILTERS: &[&str] = &["", "s.a", "s.*", "*.a", "s.a.>", "t.>", "mapped.>"];

#[derive(Clone, Debug)]
enum Step {
    /// A stream of this number is made, or changed.
    Stream(usize, Box<StreamConfig>),
    DeleteStream(usize),
    /// A consumer of this number joins a stream, or its filter is changed.
    Consumer(usize, usize, &'static str),
    DeleteConsumer(usize, usize),
    Subscribe(&'static str),
    Publish(Vec<&'static str>),
    Send(Vec<&'static str>),
    /// The turn ends. Without it, the next step is of the same one.
    Turn,
}

fn stream_name(stream: usize) -> String {
    format!("S{stream}")
}

fn a_stream() -> impl Strategy<Value = Step> {
    let subjects = select(vec![vec!["s.>"], vec!["s.*", "u"], vec!["t.>"], vec!["s.b", "t.*"]]);
    let transforms =
        select(vec![None, Some(("s.*", "mapped.{{wildcard(1)}}")), Some(("s.a", "s.b"))]);
    let retentions = select(vec![Retention::Limits, Retention::Interest, Retention::WorkQueue]);
    let limits = (0..4_i64, 0..3_i64, 0..8_i64);
    (0..3_usize, subjects, transforms, retentions, limits, any::<[bool; 3]>()).prop_map(
        |(stream, subjects, transform, retention, limits, [new, silent, batches])| {
            let of = |limit: i64| if limit == 0 { -1 } else { limit };
            let config = StreamConfig {
                subject_transform: transform
                    .map(|(src, dest)| SubjectTransform { src: src.into(), dest: dest.into() }),
                retention,
                max_msgs: of(limits.0),
                max_msgs_per_subject: of(limits.1),
                max_msg_size: if limits.2 < 5 { limits.2 } else { -1 },
                discard: if new { Discard::New } else { Discard::Old },
                no_ack: silent,
                allow_atomic: batches,
                ..named(&stream_name(stream), &subjects)
            };
            Step::Stream(stream, Box::new(config))
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    let subjects = || prop::collection::vec(select(SUBJECTS), 1..6);
    prop_oneof![
        2 => a_stream(),
        1 => (0..3_usize).prop_map(Step::DeleteStream),
        4 => (0..3_usize, 0..4_usize, select(FILTERS)).prop_map(|(s, c, f)| Step::Consumer(s, c, f)),
        2 => (0..3_usize, 0..4_usize).prop_map(|(s, c)| Step::DeleteConsumer(s, c)),
        1 => select(FILTERS).prop_map(Step::Subscribe),
        6 => subjects().prop_map(Step::Publish),
        4 => subjects().prop_map(Step::Send),
        3 => Just(Step::Turn),
    ]
}

/// Many of these are refused, which is as it should be.
fn take(bench: &mut Bench, step: Step, counter: &mut u64) {
    let request = match step {
        Step::Stream(stream, config)
            if bench.broker.catalog.find(&stream_name(stream)).is_some() =>
        {
            ApiRequest::StreamUpdate(config)
        }
        Step::Stream(_, config) => ApiRequest::StreamCreate(config),
        Step::DeleteStream(stream) => ApiRequest::StreamDelete { stream: stream_name(stream) },
        Step::Consumer(stream, consumer, filter) => {
            let filter_subject = (!filter.is_empty()).then(|| filter.to_owned());
            let config = ConsumerConfig { filter_subject, ..durable(&format!("c{consumer}")) };
            let (config, action) = (Box::new(config), ConsumerAction::CreateOrUpdate);
            ApiRequest::ConsumerCreate { stream: stream_name(stream), config, action }
        }
        Step::DeleteConsumer(stream, consumer) => {
            let (stream, consumer) = (stream_name(stream), format!("c{consumer}"));
            ApiRequest::ConsumerDelete { stream, consumer }
        }
        Step::Subscribe(filter) => {
            let subject = if filter.is_empty() { ">" } else { filter };
            return bench.handle(B, subscribe(*counter, subject));
        }
        Step::Publish(subjects) => {
            let (producer, first) = (ProducerId(1), *counter);
            *counter += subjects.len() as u64;
            return bench.handle(A, Request::Publish { producer, first, batch: batch(&subjects) });
        }
        Step::Send(subjects) => {
            return bench.handle(A, Request::Send { batch: batch(&subjects), echo: true });
        }
        Step::Turn => {
            bench.turn();
            return check_limits(bench);
        }
    };
    bench.handle(A, Request::Api { token: Token(*counter), request });
}

/// What is remembered is what would be found now.
fn check(bench: &Bench) {
    let Broker { catalog, router, appended, grown, .. } = &bench.broker;
    for stream in catalog.iter() {
        let fresh = Stream::new(stream.id, stream.config.clone(), stream.created);
        assert_eq!(stream.rules, fresh.rules, "{:?}", stream.config);
        let listed = |list: &[StreamId]| list.iter().filter(|id| **id == stream.id).count();
        assert_eq!(listed(appended), usize::from(stream.in_appended), "{}", stream.name);
        assert_eq!(listed(grown), usize::from(stream.in_grown), "{}", stream.name);
    }
    for (subject, route) in router.remembered() {
        assert_eq!(router.find(subject).stream, route.stream, "{subject}");
        let consumers = route.stream.map(|id| &catalog.get(id).unwrap().consumers);
        if let Some(consumers) = consumers.filter(|them| them.is_current(&route.wanting))
            && !consumers.is_empty()
        {
            assert_eq!(consumers.wanting(subject), route.wanting, "{subject}");
        }
    }
}

/// Once a turn has ended, every stream keeps its limits, and what it holds is durable.
fn check_limits(bench: &Bench) {
    for stream in bench.broker.catalog.iter() {
        let held = bench.broker.log.stream(stream.id).unwrap();
        assert!(stream.max_msgs().is_none_or(|most| held.messages <= most), "{}", stream.name);
        let last = bench.broker.log.records(stream.id).map(|record| record.seq).max();
        assert!(last.is_none_or(|last| last <= stream.durable_seq), "{}", stream.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn what_is_remembered_is_what_would_be_found(steps in prop::collection::vec(a_step(), 1..80)) {
        let (mut bench, mut counter) = (Bench::new(), 1);
        for step in steps {
            take(&mut bench, step, &mut counter);
            check(&bench);
        }
    }
}
