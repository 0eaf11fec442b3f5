//! Tests of the broker as a whole, on the naive log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod asking;
mod atomic;
mod batches;
mod copying;
mod counting;
mod dead_letters;
mod delivering;
mod knowing;
mod model;
mod ordering;
mod pacing;
mod parts;
mod publishing;
mod remembering;
mod republishing;
mod resetting;
mod retention;
mod scheduling;
mod staging;
mod transfers;

use std::time::Duration;

use claudebus_storage::MemoryLog;

use super::*;
use crate::model::api::{ApiRequest, ApiResponse, ConsumerAction};
use crate::model::batch::MessageBatch;
use crate::model::consumer::{AckPolicy, ConsumerConfig, ConsumerInfo};
use crate::model::event::{CoreMessage, Delivery, PullStatus};
use crate::model::headers::Block;
use crate::model::request::{Ack, AckKind, ConnectionId, ProducerId, Pull, ReplyTo, Token};
use crate::model::stream::{StreamConfig, StreamInfo};

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const START: u64 = 1_700_000_000_000_000_000;

/// A broker with a clock that the test turns, and the events of the last turn.
struct Bench {
    broker: Broker<MemoryLog>,
    at: Duration,
    token: u64,
    events: Vec<(SessionId, Event)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(BrokerOptions::default())
    }

    fn with(options: BrokerOptions) -> Self {
        Self::on(MemoryLog::new(), options, Duration::from_secs(1))
    }

    fn on(log: MemoryLog, options: BrokerOptions, at: Duration) -> Self {
        let now = now(at);
        let broker = Broker::open(log, options, now).unwrap();
        let mut bench = Self { broker, at, token: 1000, events: Vec::new() };
        for session in [A, B] {
            bench.handle(session, Request::Opened { connection: ConnectionId(1) });
        }
        bench.turn();
        bench
    }

    /// The broker after a crash at this moment, everything committed being durable.
    fn restarted(&self, options: BrokerOptions) -> Self {
        Self::on(self.broker.log().reopened(), options, self.at)
    }

    fn handle(&mut self, from: SessionId, request: Request) {
        self.broker.handle(now(self.at), from, request);
    }

    /// Ends the turn; adds its events.
    fn turn(&mut self) {
        for _ in 0..100 {
            self.broker.commit();
            self.broker.handle_log(now(self.at)).unwrap();
            while let Some(event) = self.broker.poll_event() {
                self.events.push(event);
            }
            match self.broker.poll_timeout() {
                Some(at) if at <= self.at => self.broker.handle_timeout(now(self.at)),
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.at += time;
        self.broker.handle_timeout(now(self.at));
        self.turn();
    }

    /// Does one request and takes the events it led to.
    fn run(&mut self, from: SessionId, request: Request) -> Vec<(SessionId, Event)> {
        self.events.clear();
        self.handle(from, request);
        self.turn();
        std::mem::take(&mut self.events)
    }

    fn api(&mut self, request: ApiRequest) -> Result<ApiResponse, ApiError> {
        self.token += 1;
        let wanted = Token(self.token);
        let events = self.run(A, Request::Api { token: wanted, request });
        let mut answers: Vec<_> = events
            .into_iter()
            .filter_map(|(_, event)| match event {
                Event::Answer { token, result } if token == wanted => Some(result),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "one answer to one request");
        answers.pop().unwrap()
    }

    fn create(&mut self, config: StreamConfig) -> Result<StreamInfo, ApiError> {
        match self.api(ApiRequest::StreamCreate(Box::new(config)))? {
            ApiResponse::Stream { info, .. } => Ok(*info),
            other => panic!("{other:?}"),
        }
    }

    fn info(&mut self, stream: &str) -> StreamInfo {
        let options = Default::default();
        match self.api(ApiRequest::StreamInfo { stream: stream.into(), options }) {
            Ok(ApiResponse::Stream { info, .. }) => *info,
            other => panic!("{other:?}"),
        }
    }

    /// Publishes one message as a NATS client would and returns the answer's JSON.
    fn request(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> serde_json::Value {
        let mut block = Block::default();
        for (key, value) in headers {
            block.add(key, value);
        }
        let block = if headers.is_empty() { Vec::new() } else { block.finish() };
        self.handle(A, subscribe(77, "_INBOX.x"));
        let batch = MessageBatch::of_one(subject, "_INBOX.x", &block, body.as_bytes());
        let events = self.run(A, Request::Send { batch, echo: true });
        let (_, message) = messages(&events, A).pop().expect("an answer");
        if message.payload.is_empty() {
            return String::from_utf8_lossy(&message.headers).into_owned().into();
        }
        serde_json::from_slice(&message.payload).unwrap()
    }

    fn publish(&mut self, producer: u128, first: u64, subjects: &[&str]) -> Vec<Event> {
        let events = self.run(
            A,
            Request::Publish { producer: ProducerId(producer), first, batch: batch(subjects) },
        );
        events.into_iter().map(|(_, event)| event).collect()
    }

    fn consumer(&mut self, stream: &str, config: ConsumerConfig) -> Result<ConsumerInfo, ApiError> {
        let request = ApiRequest::ConsumerCreate {
            stream: stream.into(),
            config: Box::new(config),
            action: ConsumerAction::CreateOrUpdate,
        };
        match self.api(request)? {
            ApiResponse::Consumer(info) => Ok(*info),
            other => panic!("{other:?}"),
        }
    }

    fn consumer_info(&mut self, stream: &str, consumer: &str) -> ConsumerInfo {
        let request = ApiRequest::ConsumerInfo { stream: stream.into(), consumer: consumer.into() };
        match self.api(request) {
            Ok(ApiResponse::Consumer(info)) => *info,
            other => panic!("{other:?}"),
        }
    }

    /// Pulls and returns what comes at once.
    fn pull(&mut self, stream: &str, consumer: &str, count: u64) -> Vec<Delivery> {
        self.token += 1;
        let pull = Pull { batch: count, ..pull(stream, consumer, self.token) };
        let events = self.run(A, Request::Pull(pull));
        deliveries(&events)
    }

    fn ack(&mut self, stream: &str, consumer: &str, range: (u64, u64), kind: AckKind) {
        let ack = Ack {
            stream: stream.into(),
            consumer: consumer.into(),
            sequences: vec![range],
            kind,
            confirm: None,
            subject: String::new(),
        };
        self.run(A, Request::Ack(ack));
    }

    fn seqs(&self, stream: &str) -> Vec<u64> {
        let id = self.broker.catalog.id_of(stream).unwrap();
        self.broker.log.records(id).map(|record| record.seq).collect()
    }
}

fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: START + u64::try_from(at.as_nanos()).unwrap() }
}

fn batch(subjects: &[&str]) -> MessageBatch {
    let mut buffer = Vec::new();
    for subject in subjects {
        buffer.extend_from_slice(subject.as_bytes());
        buffer.extend_from_slice(b"body");
    }
    let mut batch = MessageBatch::new(buffer.into());
    let mut at = 0;
    for subject in subjects {
        batch.push(at, (at, subject.len()), 0, 0, 4).unwrap();
        at += subject.len() + 4;
    }
    batch
}

fn subscribe(token: u64, subject: &str) -> Request {
    Request::Subscribe { token: Token(token), subject: subject.into(), queue: None }
}

fn pull(stream: &str, consumer: &str, token: u64) -> Pull {
    Pull {
        reply: ReplyTo::Session(Token(token)),
        stream: stream.into(),
        consumer: consumer.into(),
        batch: 1,
        max_bytes: 0,
        expires: Some(Duration::from_millis(1)),
        no_wait: false,
        heartbeat: None,
        renewable: false,
        group: None,
    }
}

fn stream(subjects: &[&str]) -> Bench {
    let mut bench = Bench::new();
    bench.create(named("S", &["s.>"])).unwrap();
    if !subjects.is_empty() {
        bench.publish(1, 1, subjects);
    }
    bench
}

fn named(name: &str, subjects: &[&str]) -> StreamConfig {
    StreamConfig {
        name: name.into(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        ..StreamConfig::default()
    }
}

fn durable(name: &str) -> ConsumerConfig {
    ConsumerConfig {
        name: Some(name.into()),
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    }
}

fn messages(events: &[(SessionId, Event)], session: SessionId) -> Vec<(Token, CoreMessage)> {
    events
        .iter()
        .filter(|(to, _)| *to == session)
        .filter_map(|(_, event)| match event {
            Event::Message { token, message } => Some((*token, message.clone())),
            _ => None,
        })
        .collect()
}

fn deliveries(events: &[(SessionId, Event)]) -> Vec<Delivery> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Deliver { deliveries, .. } => Some(deliveries.clone()),
            _ => None,
        })
        .flatten()
        .collect()
}

fn statuses(events: &[(SessionId, Event)]) -> Vec<PullStatus> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::PullStatus { status, .. } => Some(status.clone()),
            _ => None,
        })
        .collect()
}
