//! Publishing and retention against a naive model: a list of (sequence, subject, time).

use proptest::prelude::*;

use super::*;
use crate::model::api::PurgeOptions;
use crate::model::stream::Discard;
use crate::model::subject::matches;

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<&'static str>),
    RollUp(&'static str),
    Delete(u64),
    Purge(&'static str, u64),
    Pass(u64),
    Restart,
}

#[derive(Clone, Debug)]
struct Rules {
    max_msgs: Option<usize>,
    per_subject: Option<usize>,
    max_age: Option<u64>,
    new: bool,
}

#[derive(Debug, Default)]
struct Model {
    held: Vec<(u64, &'static str, u64)>,
    last: u64,
}

impl Model {
    fn publish(
        &mut self,
        rules: &Rules,
        subject: &'static str,
        time: u64,
        rollup: bool,
    ) -> Option<u64> {
        let same = self.held.iter().filter(|(_, s, _)| *s == subject).count();
        let replaces = rules.per_subject.is_some_and(|most| same >= most);
        if rules.new && !replaces && rules.max_msgs.is_some_and(|most| self.held.len() >= most) {
            return None;
        }
        self.last += 1;
        if rollup {
            self.held.retain(|(_, s, _)| *s != subject);
        }
        self.held.push((self.last, subject, time));
        if replaces && !rollup {
            let oldest = self.held.iter().position(|(_, s, _)| *s == subject).unwrap();
            self.held.remove(oldest);
        }
        if rules.max_msgs.is_some_and(|most| self.held.len() > most) {
            self.held.remove(0);
        }
        Some(self.last)
    }

    fn expire(&mut self, rules: &Rules, now: u64) {
        if let Some(age) = rules.max_age {
            self.held.retain(|(_, _, time)| time + age > now);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let subject = prop::sample::select(vec!["s.a", "s.b", "s.c"]);
    let step = prop_oneof![
        4 => prop::collection::vec(subject.clone(), 1..6).prop_map(Step::Publish),
        1 => subject.prop_map(Step::RollUp),
        1 => (1..20_u64).prop_map(Step::Delete),
        1 => (prop::sample::select(vec!["s.a", "s.*", "s.x"]), 0..3_u64)
            .prop_map(|(filter, keep)| Step::Purge(filter, keep)),
        1 => (1..8_u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

fn rules() -> impl Strategy<Value = Rules> {
    let most = || prop::option::of(1..6_usize);
    (most(), most(), prop::option::of(2..15_u64), any::<bool>()).prop_map(
        |(max_msgs, per_subject, max_age, new)| Rules { max_msgs, per_subject, max_age, new },
    )
}

fn signed(value: Option<usize>) -> i64 {
    value.map_or(-1, |value| i64::try_from(value).unwrap())
}

/// Publishes and returns the sequences given to the messages that were stored.
fn published(bench: &mut Bench, first: u64, subjects: &[&str]) -> Vec<u64> {
    bench
        .publish(1, first, subjects)
        .into_iter()
        .flat_map(|event| match event {
            Event::Published { ranges, .. } => ranges,
            Event::Refused { .. } => Vec::new(),
            other => panic!("{other:?}"),
        })
        .flat_map(|range| {
            assert!(!range.duplicate);
            range.seq..range.seq + range.count
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn streams_hold_what_the_model_holds(rules in rules(), steps in steps(), slow: bool) {
        let mut bench = Bench::new();
        bench.create(StreamConfig {
            max_msgs: signed(rules.max_msgs),
            max_msgs_per_subject: signed(rules.per_subject),
            max_age: Duration::from_secs(rules.max_age.unwrap_or(0)),
            discard: if rules.new { Discard::New } else { Discard::Old },
            allow_rollup_hdrs: true,
            ..named("S", &["s.>"])
        }).unwrap();
        bench.consumer("S", ConsumerConfig { ack_policy: AckPolicy::None, ..durable("c") }).unwrap();
        let mut model = Model::default();
        let mut counter = 1;
        for step in steps {
            // With records on disk a refusal for lack of room may come from one that is just
            // going; that is tested by itself.
            bench.broker.log_mut().slow_reads(slow && !rules.new);
            match step {
                Step::Publish(subjects) => {
                    let expected: Vec<u64> = subjects
                        .iter()
                        .filter_map(|s| model.publish(&rules, s, bench.at.as_secs(), false))
                        .collect();
                    prop_assert_eq!(published(&mut bench, counter, &subjects), expected);
                    counter += subjects.len() as u64;
                }
                Step::RollUp(subject) => {
                    let stored = model.publish(&rules, subject, bench.at.as_secs(), true);
                    let answer = bench.request(subject, &[("Nats-Rollup", "sub")], "");
                    prop_assert_eq!(answer["seq"].as_u64(), stored.or(Some(0)));
                }
                Step::Delete(seq) => {
                    let request =
                        ApiRequest::MessageDelete { stream: "S".into(), seq, no_erase: true };
                    let there = model.held.iter().any(|(s, _, _)| *s == seq);
                    prop_assert_eq!(bench.api(request).is_ok(), there);
                    model.held.retain(|(s, _, _)| *s != seq);
                }
                Step::Purge(filter, keep) => {
                    let options =
                        PurgeOptions { filter: Some(filter.into()), seq: 0, keep };
                    bench.api(ApiRequest::StreamPurge { stream: "S".into(), options }).unwrap();
                    let meant = |s: &str| matches(filter, s);
                    let count = model.held.iter().filter(|(_, s, _)| meant(s)).count() as u64;
                    let mut left = count.saturating_sub(keep);
                    model.held.retain(|(_, s, _)| {
                        let goes = meant(s) && left > 0;
                        left -= u64::from(goes);
                        !goes
                    });
                }
                Step::Pass(seconds) => {
                    bench.pass(Duration::from_secs(seconds));
                    bench.pass(Duration::from_millis(2));
                    bench.at -= Duration::from_millis(2);
                    model.expire(&rules, bench.at.as_secs());
                }
                Step::Restart => bench = bench.restarted(BrokerOptions::default()),
            }
            let held: Vec<u64> = model.held.iter().map(|(seq, _, _)| *seq).collect();
            prop_assert_eq!(&bench.seqs("S"), &held);
            let state = bench.info("S").state;
            prop_assert_eq!((state.messages, state.last_seq), (held.len() as u64, model.last));
            let pending = bench.consumer_info("S", "c").num_pending;
            prop_assert_eq!(pending, held.len() as u64);
        }
        let got: Vec<u64> =
            bench.pull("S", "c", 1000).iter().map(|delivery| delivery.record.seq).collect();
        prop_assert_eq!(got, bench.seqs("S"));
    }
}
