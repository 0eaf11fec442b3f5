//! Any series of steps, against what was ever published.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<&'static str>),
    Delete(u64),
    Purge,
    Slow(bool),
    Crowded(bool),
    Turn,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let subject = prop::sample::select(vec!["o.1", "o.2", "o.3"]);
    prop_oneof![
        6 => prop::collection::vec(subject, 1..6).prop_map(Step::Publish),
        2 => (1_u64..40).prop_map(Step::Delete),
        1 => Just(Step::Purge),
        2 => any::<bool>().prop_map(Step::Slow),
        1 => any::<bool>().prop_map(Step::Crowded),
        2 => Just(Step::Turn),
        2 => Just(Step::Restart),
    ]
}

/// What copies have, by the subjects of all that was ever published: each at its place, unless it went
/// before it was copied.
fn judge(bench: &Bench, published: &[&'static str]) {
    let now: Vec<u64> = bench.seqs("O");
    let mirrored = subjects(bench, "M");
    for (seq, subject) in &mirrored {
        assert_eq!(published[usize::try_from(*seq).unwrap() - 1], subject);
    }
    let places: Vec<u64> = mirrored.iter().map(|(seq, _)| *seq).collect();
    assert!(places.is_sorted_by(|a, b| a < b));
    assert!(now.iter().all(|seq| places.contains(seq)), "{now:?} in {places:?}");
    let copied: Vec<u64> = held(bench, "S")
        .iter()
        .map(|(_, _, subject, headers, _)| {
            let words = headers.lines().find_map(|line| line.strip_prefix("Nats-Stream-Source: "));
            let seq: u64 = words.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!((published[usize::try_from(seq).unwrap() - 1], &**subject), ("o.1", "p.1"));
            seq
        })
        .collect();
    assert!(copied.is_sorted_by(|a, b| a < b), "each once: {copied:?}");
    let id = bench.broker.catalog.id_of("O").unwrap();
    let wanted = bench.broker.log.records(id).filter(|record| record.subject() == "o.1");
    for record in wanted {
        assert!(copied.contains(&record.seq), "{} in {copied:?}", record.seq);
    }
}

proptest! {
    #[test]
    fn copies_are_whole_and_each_message_is_copied_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = origin(&[]);
        bench.create(mirror("M", of("O"))).unwrap();
        bench.create(sourced("S", &[mapped("O", "o.1", "p.1")])).unwrap();
        let mut published = Vec::new();
        for step in steps {
            match step {
                Step::Publish(subjects) => {
                    bench.handle(A, Request::Send { batch: batch(&subjects), echo: true });
                    published.extend(subjects);
                }
                Step::Delete(seq) => {
                    let request = ApiRequest::MessageDelete { stream: "O".into(), seq, no_erase: true };
                    bench.handle(A, Request::Api { token: Token(1), request });
                }
                Step::Purge => {
                    let options = PurgeOptions::default();
                    let request = ApiRequest::StreamPurge { stream: "O".into(), options };
                    bench.handle(A, Request::Api { token: Token(1), request });
                }
                Step::Slow(slow) => bench.broker.log_mut().slow_reads(slow),
                Step::Crowded(crowded) => {
                    let pressure = if crowded { Pressure::High } else { Pressure::Normal };
                    bench.broker.log_mut().set_pressure(pressure);
                }
                Step::Turn => bench.pass(Duration::from_millis(100)),
                Step::Restart => {
                    let _ = bench.broker.commit();
                    bench = bench.restarted(BrokerOptions::default());
                }
            }
        }
        bench.broker.log_mut().set_pressure(Pressure::Normal);
        for _ in 0..20 {
            bench.pass(Duration::from_secs(1));
        }
        judge(&bench, &published);
    }
}
