//! Operations on a stream and a consumer against a naive model: what is stored, what is refused, what
//! is delivered next and what is left are what a list says.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::Arbitrary;
use claudebus::broker::{Broker, BrokerOptions};
use claudebus::model::api::{
    ApiRequest, ApiResponse, ConsumerAction, PurgeOptions, StreamInfoOptions,
};
use claudebus::model::batch::MessageBatch;
use claudebus::model::consumer::{AckPolicy, ConsumerConfig, ConsumerInfo};
use claudebus::model::event::Event;
use claudebus::model::headers::Block;
use claudebus::model::request::{
    Ack, AckKind, ConnectionId, ProducerId, Pull, ReplyTo, Request, SessionId, Token,
};
use claudebus::model::stream::{Discard, StreamConfig};
use claudebus::model::time::Now;
use claudebus_storage::MemoryLog;
use libfuzzer_sys::fuzz_target;

const ME: SessionId = SessionId(1);
const SUBJECTS: [&str; 3] = ["s.a", "s.b", "s.c"];
const WALL: u64 = 1_700_000_000_000_000_000;
/// Longer than the consumer waits for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(31);
/// Every so many deliveries the oldest goes first, where the urgent do.
const OLDEST_EVERY: u64 = 8;
const MOST_STEPS: usize = 60;

#[derive(Arbitrary, Debug)]
struct Rules {
    max_msgs: Option<u8>,
    per_subject: Option<u8>,
    refuses: bool,
    by_subject: bool,
    by_priority: bool,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Publish { subject: u8, priority: u8, rollup: bool },
    Again,
    Delete(u8),
    Purge { subject: Option<u8>, keep: u8 },
    Pull(u8),
    Ack(u8),
    Refuse(u8),
    Restart,
}

/// A message of the model.
#[derive(Clone, Copy)]
struct Message {
    seq: u64,
    subject: usize,
    priority: u8,
}

/// The stream and its consumer as lists.
#[derive(Default)]
struct Model {
    held: Vec<Message>,
    last: u64,
    /// Delivered and not acknowledged.
    pending: Vec<Message>,
    /// Those of them that come again at once.
    again: VecDeque<u64>,
    /// Never delivered.
    waiting: Vec<Message>,
    deliveries: u64,
}

impl Model {
    fn remove(&mut self, goes: impl Fn(&Message) -> bool) {
        for list in [&mut self.held, &mut self.pending, &mut self.waiting] {
            list.retain(|message| !goes(message));
        }
        let is_pending = |seq: &u64| self.pending.iter().any(|message| message.seq == *seq);
        self.again.retain(is_pending);
    }

    fn publish(&mut self, rules: &Rules, subject: usize, priority: u8, rollup: bool) -> u64 {
        let most = rules.max_msgs.map(|most| usize::from(most).max(1));
        let of_subject = rules.per_subject.map(|most| usize::from(most).max(1));
        let same = self.held.iter().filter(|held| held.subject == subject).count();
        let replaces = of_subject.is_some_and(|most| same >= most);
        if rules.refuses && !replaces && most.is_some_and(|most| self.held.len() >= most) {
            return 0;
        }
        self.last += 1;
        let seq = self.last;
        if rollup {
            self.remove(|held| held.subject == subject);
        }
        let message = Message { seq, subject, priority };
        self.held.push(message);
        self.waiting.push(message);
        if replaces && !rollup {
            let oldest = self.held.iter().find(|held| held.subject == subject).map(|h| h.seq);
            self.remove(|held| Some(held.seq) == oldest);
        }
        if most.is_some_and(|most| self.held.len() > most) {
            let oldest = self.held.first().map(|held| held.seq);
            self.remove(|held| Some(held.seq) == oldest);
        }
        seq
    }

    /// What is delivered next, of what was never delivered.
    fn next(&self, rules: &Rules) -> Option<usize> {
        let is_free = |at: &usize| {
            let message = self.waiting[*at];
            let same = |other: &Message| other.subject == message.subject;
            !rules.by_subject
                || !(self.pending.iter().any(same) || self.waiting[..*at].iter().any(same))
        };
        let mut free = (0..self.waiting.len()).filter(is_free);
        if rules.by_priority && !(self.deliveries + 1).is_multiple_of(OLDEST_EVERY) {
            return free.max_by_key(|at| (self.waiting[*at].priority, usize::MAX - at));
        }
        free.next()
    }

    fn pull(&mut self, rules: &Rules, count: u64) -> Vec<u64> {
        let mut got = Vec::new();
        while (got.len() as u64) < count {
            if let Some(seq) = self.again.pop_front() {
                got.push(seq);
            } else if let Some(at) = self.next(rules) {
                let message = self.waiting.remove(at);
                self.pending.push(message);
                got.push(message.seq);
            } else {
                break;
            }
            self.deliveries += 1;
        }
        got
    }
}

/// The broker, driven by hand.
struct Bench {
    broker: Broker<MemoryLog>,
    at: Duration,
    token: u64,
}

impl Bench {
    fn open(log: MemoryLog, at: Duration) -> Self {
        let broker = Broker::open(log, BrokerOptions::default(), now(at)).expect("it opens");
        let mut bench = Self { broker, at, token: 0 };
        bench.run(Request::Opened { connection: ConnectionId(1) });
        bench
    }

    fn run(&mut self, request: Request) -> Vec<Event> {
        self.broker.handle(now(self.at), ME, request);
        self.turn()
    }

    fn turn(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..8 {
            self.broker.commit();
            self.broker.handle_log(now(self.at)).expect("memory does not fail");
            while let Some((_, event)) = self.broker.poll_event() {
                events.push(event);
            }
            if self.broker.poll_timeout().is_some_and(|due| due <= self.at) {
                self.broker.handle_timeout(now(self.at));
            }
        }
        events
    }

    fn api(&mut self, request: ApiRequest) -> Option<ApiResponse> {
        self.token += 1;
        let token = Token(self.token);
        let events = self.run(Request::Api { token, request });
        let mut answers = events.into_iter().filter_map(|event| match event {
            Event::Answer { token: of, result } if of == token => Some(result.ok()),
            _ => None,
        });
        answers.next().expect("a request is answered")
    }

    fn pull(&mut self, batch: u64) -> Vec<u64> {
        self.token += 1;
        let pull = Pull {
            reply: ReplyTo::Session(Token(self.token)),
            stream: "S".to_owned(),
            consumer: "c".to_owned(),
            batch,
            max_bytes: 0,
            expires: None,
            no_wait: true,
            heartbeat: None,
            renewable: false,
            group: None,
        };
        let mut got = Vec::new();
        for event in self.run(Request::Pull(pull)) {
            if let Event::Deliver { deliveries, .. } = event {
                let bytes = deliveries.iter().map(|delivery| delivery.charge()).sum();
                self.broker.handle(now(self.at), ME, Request::Sent { bytes });
                got.extend(deliveries.iter().map(|delivery| delivery.record.seq));
            }
        }
        got
    }

    fn settle(&mut self, seq: u64, kind: AckKind) {
        let (stream, consumer) = ("S".to_owned(), "c".to_owned());
        let (sequences, subject) = (vec![(seq, seq)], String::new());
        let ack = Ack { stream, consumer, sequences, kind, confirm: None, subject };
        self.run(Request::Ack(ack));
    }

    fn info(&mut self) -> ConsumerInfo {
        let (stream, consumer) = ("S".to_owned(), "c".to_owned());
        match self.api(ApiRequest::ConsumerInfo { stream, consumer }) {
            Some(ApiResponse::Consumer(info)) => *info,
            other => panic!("{other:?}"),
        }
    }
}

fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: WALL + u64::try_from(at.as_nanos()).expect("it is short") }
}

fn limit(value: Option<u8>) -> i64 {
    value.map_or(-1, |value| i64::from(value).max(1))
}

fn begin(rules: &Rules) -> Bench {
    let mut bench = Bench::open(MemoryLog::new(), Duration::from_secs(1));
    let stream = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        max_msgs: limit(rules.max_msgs),
        max_msgs_per_subject: limit(rules.per_subject),
        discard: if rules.refuses { Discard::New } else { Discard::Old },
        allow_rollup_hdrs: true,
        ..StreamConfig::default()
    };
    bench.api(ApiRequest::StreamCreate(Box::new(stream))).expect("a stream");
    let consumer = ConsumerConfig {
        name: Some("c".to_owned()),
        durable_name: Some("c".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: -1,
        order_by: rules.by_subject.then(|| "subject".to_owned()),
        by_priority: rules.by_priority,
        ..ConsumerConfig::default()
    };
    let (config, action) = (Box::new(consumer), ConsumerAction::Create);
    bench
        .api(ApiRequest::ConsumerCreate { stream: "S".to_owned(), config, action })
        .expect("a consumer");
    bench
}

/// Publishes under this counter; 0 if it is refused.
fn publish(
    bench: &mut Bench,
    counter: u64,
    (subject, priority, rollup): (usize, u8, bool),
) -> (u64, bool) {
    let mut block = Block::default();
    block.add("Claudebus-Priority", &priority.to_string());
    if rollup {
        block.add("Nats-Rollup", "sub");
    }
    let batch = MessageBatch::of_one(SUBJECTS[subject], "", &block.finish(), b"x");
    let request = Request::Publish { producer: ProducerId(1), first: counter, batch };
    let mut answers = bench.run(request).into_iter().filter_map(|event| match event {
        Event::Published { ranges, .. } => ranges.first().map(|range| (range.seq, range.duplicate)),
        Event::Refused { .. } => Some((0, false)),
        _ => None,
    });
    answers.next().expect("a message is answered")
}

/// A restart, after which everything comes again that awaits acknowledgement, and in any order.
fn restart(bench: &Bench, model: &mut Model) -> Bench {
    let mut bench = Bench::open(bench.broker.log().reopened(), bench.at);
    bench.at += PATIENCE;
    bench.turn();
    let mut again = Vec::new();
    for _ in 0..model.pending.len() {
        again.extend(bench.pull(1));
        model.deliveries += 1;
    }
    again.sort_unstable();
    let mut pending: Vec<u64> = model.pending.iter().map(|message| message.seq).collect();
    pending.sort_unstable();
    assert_eq!(again, pending);
    model.again.clear();
    bench
}

fuzz_target!(|input: (Rules, Vec<Step>)| {
    let (rules, steps) = input;
    let (mut bench, mut model) = (begin(&rules), Model::default());
    let mut sent = Vec::new();
    for step in steps.into_iter().take(MOST_STEPS) {
        match step {
            Step::Publish { subject, priority, rollup } => {
                let message = (usize::from(subject) % SUBJECTS.len(), priority % 10, rollup);
                let expected = model.publish(&rules, message.0, message.1, message.2);
                let counter = sent.len() as u64 + 1;
                assert_eq!(publish(&mut bench, counter, message), (expected, false));
                sent.push((message, expected));
            }
            Step::Again => {
                let Some((message, seq)) = sent.last().copied().filter(|(_, seq)| *seq > 0) else {
                    continue;
                };
                assert_eq!(publish(&mut bench, sent.len() as u64, message), (seq, true));
            }
            Step::Delete(at) => {
                let seq = u64::from(at);
                let request =
                    ApiRequest::MessageDelete { stream: "S".to_owned(), seq, no_erase: true };
                let is_there = model.held.iter().any(|held| held.seq == seq);
                assert_eq!(bench.api(request).is_some(), is_there);
                model.remove(|held| held.seq == seq);
            }
            Step::Purge { subject, keep } => {
                let subject = subject.map(|subject| usize::from(subject) % SUBJECTS.len());
                let keep = u64::from(keep % 4);
                let filter = subject.map(|subject| SUBJECTS[subject].to_owned());
                let options = PurgeOptions { filter, seq: 0, keep };
                bench
                    .api(ApiRequest::StreamPurge { stream: "S".to_owned(), options })
                    .expect("a purge");
                let meant: Vec<u64> = (model.held.iter())
                    .filter(|held| subject.is_none_or(|subject| held.subject == subject))
                    .map(|held| held.seq)
                    .collect();
                let gone = &meant[..meant.len().saturating_sub(keep as usize)];
                model.remove(|held| gone.contains(&held.seq));
            }
            Step::Pull(count) => {
                let count = 1 + u64::from(count % 8);
                assert_eq!(bench.pull(count), model.pull(&rules, count));
            }
            Step::Ack(at) if !model.pending.is_empty() => {
                let message = model.pending.remove(usize::from(at) % model.pending.len());
                model.again.retain(|seq| *seq != message.seq);
                bench.settle(message.seq, AckKind::Ack);
            }
            Step::Refuse(at) if !model.pending.is_empty() => {
                let seq = model.pending[usize::from(at) % model.pending.len()].seq;
                if !model.again.contains(&seq) {
                    model.again.push_back(seq);
                    bench.settle(seq, AckKind::Nak { delay: Duration::ZERO });
                }
            }
            Step::Ack(_) | Step::Refuse(_) => {}
            Step::Restart => bench = restart(&bench, &mut model),
        }
        let info = bench.info();
        let (left, pending) = (model.waiting.len() as u64, model.pending.len() as u64);
        assert_eq!((info.num_pending, info.num_ack_pending), (left, pending));
    }
    let options = StreamInfoOptions::default();
    match bench.api(ApiRequest::StreamInfo { stream: "S".to_owned(), options }) {
        Some(ApiResponse::Stream { info, .. }) => {
            let state = info.state;
            assert_eq!((state.messages, state.last_seq), (model.held.len() as u64, model.last));
        }
        other => panic!("{other:?}"),
    }
});
