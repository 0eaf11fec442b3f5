//! What holds while a crowd of consumers is paced.

use std::collections::BTreeMap;

use super::*;

/// Enough for more to wait than a turn serves.
const CROWD: usize = 200;
const OTHER: SessionId = SessionId(9);

/// A broker under load: each millisecond every consumer of a crowd gets a message, which is durable in the
/// next.
struct Crowd {
    bench: Bench,
    subjects: Vec<String>,
    published: u64,
}

fn name(number: usize) -> String {
    format!("c{number}")
}

impl Crowd {
    /// All but the first have a pull that stays.
    fn new(config: &ConsumerConfig) -> Self {
        let mut bench = Bench::new();
        bench.create(named("S", &["s.>"])).unwrap();
        for number in 0..CROWD {
            let (name, filter_subject) = (Some(name(number)), Some(format!("s.{number}")));
            let durable_name = name.clone();
            let config = ConsumerConfig { name, durable_name, filter_subject, ..config.clone() };
            bench.consumer("S", config).unwrap();
        }
        bench.handle(OTHER, Request::Opened { connection: ConnectionId(9) });
        let subjects = (0..CROWD).map(|number| format!("s.{number}")).collect();
        let mut crowd = Self { bench, subjects, published: 0 };
        (1..CROWD).for_each(|number| crowd.pull(A, number, false));
        crowd
    }

    fn pull(&mut self, from: SessionId, number: usize, no_wait: bool) {
        let pull = Pull { batch: 9_999, expires: None, ..pull("S", &name(number), number as u64) };
        self.bench.handle(from, Request::Pull(Pull { no_wait, renewable: !no_wait, ..pull }));
    }

    /// Publishes, has one turn, and returns its events, all of which are sent on at once.
    fn pass_a_millisecond(&mut self) -> Vec<(SessionId, Event)> {
        let bench = &mut self.bench;
        bench.at += Duration::from_millis(1);
        let subjects: Vec<&str> = self.subjects.iter().map(String::as_str).collect();
        let (producer, first) = (ProducerId(1), self.published + 1);
        bench.handle(A, Request::Publish { producer, first, batch: batch(&subjects) });
        self.published += CROWD as u64;
        bench.broker.handle_timeout(now(bench.at));
        bench.broker.commit();
        bench.broker.handle_log(now(bench.at)).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| bench.broker.poll_event()).collect();
        for (session, event) in &events {
            if let Event::Deliver { deliveries, .. } = event {
                let bytes = deliveries.iter().map(Delivery::charge).sum();
                bench.handle(*session, Request::Sent { bytes });
            }
        }
        events
    }
}

#[test]
fn a_pull_that_does_not_wait_ends_with_what_is_there() {
    let mut crowd = Crowd::new(&ConsumerConfig { max_ack_pending: -1, ..durable("") });
    for _ in 0..300 {
        crowd.pass_a_millisecond();
    }
    assert!(crowd.bench.broker.turns.is_pacing());
    crowd.pull(OTHER, 0, true);
    let (mut got, mut turns) = (0, 0);
    let is_over = |(to, event): &(SessionId, Event)| {
        *to == OTHER && matches!(event, Event::PullStatus { .. })
    };
    loop {
        let events = crowd.pass_a_millisecond();
        turns += 1;
        for (to, event) in &events {
            if let (OTHER, Event::Deliver { deliveries, .. }) = (*to, event) {
                got += deliveries.len();
            }
        }
        if events.iter().any(is_over) {
            break;
        }
        assert!(turns <= 100, "it goes on after {got} messages and two circles");
    }
    assert!(got >= 300, "{got} of what was there");
}

#[test]
fn the_only_attempt_is_noted_before_it_leaves() {
    let config = ConsumerConfig { ack_policy: AckPolicy::None, max_deliver: 1, ..durable("") };
    let mut crowd = Crowd::new(&config);
    let mut left = BTreeMap::new();
    for _ in 0..200 {
        for (_, event) in crowd.pass_a_millisecond() {
            if let Event::Deliver { consumer, deliveries, .. } = event
                && let Some(last) = deliveries.last()
            {
                left.insert(consumer.consumer.clone(), last.record.seq);
            }
        }
    }
    assert!(crowd.bench.broker.turns.is_pacing());
    assert_eq!(left.len(), CROWD - 1);
    let mut again = crowd.bench.restarted(BrokerOptions::default());
    for (name, last) in left {
        let next = again.pull("S", &name, 1).first().map(|delivery| delivery.record.seq);
        assert!(
            next.is_none_or(|next| next > last),
            "{name} got {last}, and {next:?} after a crash"
        );
    }
}
