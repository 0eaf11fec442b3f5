//! A broker over the real engine, driven by hand: one thread, no clock, a disk in memory.

use std::sync::Arc;
use std::time::Duration;

use claudebus::broker::{Broker, BrokerOptions, RestoreError};
use claudebus::model::api::{ApiRequest, ApiResponse, ConsumerAction};
use claudebus::model::batch::MessageBatch;
use claudebus::model::consumer::{AckPolicy, ConsumerConfig};
use claudebus::model::error::ApiError;
use claudebus::model::event::{Delivery, Event, Gap, Published};
use claudebus::model::request::{
    Ack, AckKind, ConnectionId, ProducerId, Pull, ReplyTo, Request, SessionId, Token,
};
use claudebus::model::time::Now;
use claudebus_storage::disk::Disk;
use claudebus_storage::engine::{Engine, EngineOptions, OpenError, RecoveryReport, Workers};

/// Nothing expires, and nothing times out.
pub const NOW: Now = Now { monotonic: Duration::from_secs(1), wall: 1_700_000_000_000_000_000 };
const SESSION: SessionId = SessionId(1);
/// Turns without an event after which nothing more is expected.
const QUIET: usize = 6;
/// Turns after which something is stuck.
const STUCK: usize = 5_000;

/// Why a directory cannot be used. Both say why.
#[derive(Debug)]
pub enum Refusal {
    Log(OpenError),
    Broker(RestoreError),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => write!(f, "{error}"),
            Self::Broker(error) => write!(f, "{error}"),
        }
    }
}

pub struct Bench {
    broker: Broker<Engine>,
    next_token: u64,
    next_counter: u64,
    producer: u128,
}

/// What a consumer got.
#[derive(Debug, Default)]
pub struct Received {
    pub deliveries: Vec<Delivery>,
    pub gaps: Vec<Gap>,
}

pub fn options(seed: u64) -> EngineOptions {
    EngineOptions {
        tail_budget: 24 << 10,
        journal_file_size: 16 << 10,
        journal_limit: 48 << 10,
        workers: Workers::Inline,
        seed,
        ..EngineOptions::default()
    }
}

impl Bench {
    pub fn open(disk: Arc<dyn Disk>, seed: u64, index: bool) -> Result<Self, Refusal> {
        Self::open_with(disk, EngineOptions { index, ..options(seed) })
    }

    /// With room for so much that no checkpoint is due.
    pub fn open_roomy(disk: Arc<dyn Disk>, seed: u64, index: bool) -> Result<Self, Refusal> {
        let room = EngineOptions { tail_budget: 8 << 20, journal_limit: 8 << 20, ..options(seed) };
        Self::open_with(disk, EngineOptions { index, ..room })
    }

    fn open_with(disk: Arc<dyn Disk>, options: EngineOptions) -> Result<Self, Refusal> {
        let seed = options.seed;
        let engine = Engine::open(options, disk, Arc::new(|| {})).map_err(Refusal::Log)?;
        let options = BrokerOptions { seed, ..BrokerOptions::default() };
        let broker = Broker::open(engine, options, NOW).map_err(Refusal::Broker)?;
        let producer = u128::from(seed) + 1;
        let mut bench = Self { broker, next_token: 1, next_counter: 1, producer };
        bench.broker.handle(NOW, SESSION, Request::Opened { connection: ConnectionId(1) });
        Ok(bench)
    }

    pub fn report(&self) -> &RecoveryReport {
        self.broker.log().recovery_report()
    }

    /// Stops cleanly.
    pub fn close(self) {
        self.broker.into_log().close().expect("a clean stop");
    }

    fn turn(&mut self) -> Vec<Event> {
        self.broker.commit();
        self.broker.log_mut().run_background();
        self.broker.handle_log(NOW).expect("the disk works");
        if self.broker.poll_timeout().is_some_and(|due| due <= NOW.monotonic) {
            self.broker.handle_timeout(NOW);
        }
        let mut events = Vec::new();
        while let Some((_, event)) = self.broker.poll_event() {
            if let Event::Deliver { deliveries, .. } = &event {
                let bytes = deliveries.iter().map(Delivery::charge).sum();
                self.broker.handle(NOW, SESSION, Request::Sent { bytes });
            }
            events.push(event);
        }
        events
    }

    /// Turns until nothing happens any more.
    pub fn settle(&mut self) -> Vec<Event> {
        let (mut events, mut quiet) = (Vec::new(), 0);
        for _ in 0..STUCK {
            let new = self.turn();
            quiet = if new.is_empty() { quiet + 1 } else { 0 };
            events.extend(new);
            if quiet == QUIET {
                return events;
            }
        }
        panic!("events never end");
    }

    pub fn api(&mut self, request: ApiRequest) -> Result<ApiResponse, ApiError> {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.broker.handle(NOW, SESSION, Request::Api { token, request });
        for _ in 0..STUCK {
            for event in self.turn() {
                if let Event::Answer { token: answered, result } = event
                    && answered == token
                {
                    return result;
                }
            }
        }
        panic!("a request was never answered");
    }

    /// Publishes messages and returns their sequences; an error is in the place of a refused one.
    pub fn publish(&mut self, batch: MessageBatch) -> Vec<Result<u64, ApiError>> {
        let (first, count) = (self.next_counter, batch.len() as u64);
        self.next_counter += count;
        let producer = ProducerId(self.producer);
        self.broker.handle(NOW, SESSION, Request::Publish { producer, first, batch });
        let mut answers: Vec<Option<Result<u64, ApiError>>> = vec![None; count as usize];
        for event in self.settle() {
            match event {
                Event::Published { ranges, .. } => {
                    for Published { first: from, count, seq, duplicate, .. } in ranges {
                        assert!(!duplicate);
                        for n in 0..count {
                            answers[(from + n - first) as usize] = Some(Ok(seq + n));
                        }
                    }
                }
                Event::Refused { counter, error } => {
                    answers[(counter - first) as usize] = Some(Err(error));
                }
                _ => {}
            }
        }
        answers.into_iter().map(|answer| answer.expect("every message is answered")).collect()
    }

    pub fn consumer(&mut self, stream: &str, config: ConsumerConfig) -> Result<(), ApiError> {
        let (stream, config) = (stream.to_owned(), Box::new(config));
        let action = ConsumerAction::CreateOrUpdate;
        self.api(ApiRequest::ConsumerCreate { stream, config, action }).map(|_| ())
    }

    /// Everything that a consumer has for a pull.
    pub fn receive(&mut self, stream: &str, consumer: &str, batch: u64) -> Received {
        let token = Token(self.next_token);
        self.next_token += 1;
        let pull = Pull {
            reply: ReplyTo::Session(token),
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            batch,
            max_bytes: 0,
            expires: None,
            no_wait: false,
            heartbeat: None,
            renewable: true,
            group: None,
        };
        self.broker.handle(NOW, SESSION, Request::Pull(pull));
        let mut received = Received::default();
        for event in self.settle() {
            match event {
                Event::Deliver { token: to, deliveries, .. } if to == token => {
                    received.deliveries.extend(deliveries);
                }
                Event::Gap { token: to, gap } if to == token => received.gaps.push((*gap).clone()),
                _ => {}
            }
        }
        self.broker.handle(NOW, SESSION, Request::Cancel { token });
        received
    }

    pub fn ack(&mut self, stream: &str, consumer: &str, through: u64) {
        let ack = Ack {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            sequences: vec![(1, through)],
            kind: AckKind::Ack,
            confirm: None,
            subject: String::new(),
        };
        self.broker.handle(NOW, SESSION, Request::Ack(ack));
        self.settle();
    }
}

/// A consumer of everything, or of one subject.
pub fn everything(name: &str, filter: Option<&str>) -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::None,
        filter_subject: filter.map(str::to_owned),
        ..ConsumerConfig::default()
    }
}
