//! Streams: which there are, and how they are made, changed, deleted and found again.

use std::time::Duration;

use claudebus::model::api::{ApiRequest, ApiResponse, StreamInfoOptions};
use claudebus::model::stream::{Discard, Retention, StreamConfig};

use crate::book::{ConsumerBook, StreamBook};
use crate::clients::Simulation;
use crate::copies;
use crate::order::Order;
use crate::schedules;
use crate::world::Halt;

/// The age limit of the stream that has one.
const MAX_AGE: Duration = Duration::from_secs(300);

/// A stream that was not created yet.
pub fn new_stream(name: &str, prefix: &'static str, retention: Retention) -> StreamBook {
    let config = StreamConfig {
        name: name.to_owned(),
        subjects: vec![format!("{prefix}.>")],
        retention,
        duplicate_window: Duration::from_secs(3600),
        allow_rollup_hdrs: retention == Retention::Limits,
        ..StreamConfig::default()
    };
    StreamBook::new(config, prefix)
}

fn consumer(name: &str, filter: String, max_deliver: i64) -> ConsumerBook {
    ConsumerBook { name: name.to_owned(), filter, max_deliver, ..ConsumerBook::default() }
}

fn ordered(name: &str, filter: &str, order: Order) -> ConsumerBook {
    ConsumerBook { order, ..consumer(name, filter.to_owned(), -1) }
}

/// The streams and consumers of a run.
pub fn streams(chance: &mut crate::chance::Chance) -> Vec<StreamBook> {
    let mut limits = new_stream("LIMITS", "limits", Retention::Limits);
    limits.config.max_msgs = if chance.one_in(2) { 20 + chance.below(60) as i64 } else { -1 };
    limits.config.max_msgs_per_subject =
        if chance.one_in(2) { 1 + chance.below(15) as i64 } else { -1 };
    limits.consumers = vec![consumer("all", "limits.>".to_owned(), 3)];
    let mut full = new_stream("FULL", "full", Retention::Limits);
    full.config.max_msgs = 30;
    full.config.discard = Discard::New;
    full.consumers = vec![consumer("half", "full.a".to_owned(), -1)];
    let mut plain = new_stream("PLAIN", "plain", Retention::Limits);
    plain.consumers =
        vec![consumer("all", "plain.>".to_owned(), -1), consumer("once", "plain.a".to_owned(), 1)];
    plain.consumers.extend([
        ordered("keyed", "plain.>", Order { by_subject: true, ..Order::default() }),
        ordered("urgent", "plain.>", Order { by_priority: true, ..Order::default() }),
        ordered("replay", "plain.b", Order { replay: 500, ..Order::default() }),
    ]);
    let mut aging = new_stream("AGING", "aging", Retention::Limits);
    aging.config.max_age = MAX_AGE;
    aging.config.duplicate_window = MAX_AGE;
    aging.config.allow_msg_ttl = true;
    aging.consumers = vec![consumer("all", "aging.>".to_owned(), 2)];
    let mut work = new_stream("WORK", "work", Retention::WorkQueue);
    work.consumers = if chance.one_in(2) {
        vec![consumer("all", "work.>".to_owned(), 2)]
    } else {
        let by_subject = Order { by_subject: true, ..Order::default() };
        vec![ordered("a", "work.a", by_subject), consumer("b", "work.b".to_owned(), 3)]
    };
    let mut interest = new_stream("INTEREST", "interest", Retention::Interest);
    let order = Order { by_subject: chance.one_in(2), by_priority: chance.one_in(2), replay: 0 };
    interest.consumers =
        vec![ordered("all", "interest.>", order), consumer("half", "interest.a".to_owned(), 2)];
    vec![limits, full, plain, aging, work, interest, schedules::stream()]
}

impl Simulation {
    /// Changes a stream's limits, or now and then deletes it and makes a new one.
    pub(super) fn change_stream(&mut self) -> Result<(), Halt> {
        let stream = self.draw_stream();
        if !self.book.streams[stream].exists {
            return self.create_stream(stream);
        }
        if self.world.chance.one_in(8) {
            let name = self.book.streams[stream].name.clone();
            if stream == copies::MIRRORED {
                self.delete_mirror()?;
            }
            self.delete_stream(&format!("DLQ_{name}"))?;
            self.delete_stream(&name)?;
            self.book.streams[stream].exists = false;
            self.create_stream(stream)?;
            return self.create_copies();
        }
        if stream == 0 {
            let most = 20 + self.world.chance.below(60) as i64;
            self.book.streams[0].config.max_msgs = most;
            self.book.streams[0].tighten();
            let config = Box::new(self.book.streams[0].config.clone());
            let answer = self.ask(ApiRequest::StreamUpdate(config))?;
            if let Err(error) = answer {
                return Err(Halt::Violation(format!("a limit cannot be changed: {error}")));
            }
        }
        Ok(())
    }

    pub(super) fn delete_stream(&mut self, name: &str) -> Result<(), Halt> {
        let next_id = self.book.next_id;
        for stream in self.book.streams.iter_mut().filter(|stream| name.ends_with(&stream.name)) {
            stream.letters.values_mut().for_each(|letter| letter.may_go = true);
            let dead = stream.letters.values().map(|l| (l.consumer.clone(), l.stream_seq));
            stream.buried.extend(dead.collect::<Vec<_>>());
            stream.unseen_below = next_id;
        }
        self.ask(ApiRequest::StreamDelete { stream: name.to_owned() }).map(|_| ())
    }

    /// Creates a stream and its consumers.
    pub fn create_stream(&mut self, stream: usize) -> Result<(), Halt> {
        // The dead letters of the one before go first; they name sequences of that one.
        let name = self.book.streams[stream].name.clone();
        self.ask(ApiRequest::StreamDelete { stream: format!("DLQ_{name}") })?.ok();
        self.book.streams[stream].begin_epoch();
        let config = Box::new(self.book.streams[stream].config.clone());
        match self.ask(ApiRequest::StreamCreate(config))? {
            Ok(_) => self.book.streams[stream].exists = true,
            Err(error) => {
                let what = format!("{name}: a stream cannot be created: {error}");
                return Err(Halt::Violation(what));
            }
        }
        for consumer in 0..self.book.streams[stream].consumers.len() {
            self.create_consumer(stream, consumer)?;
        }
        Ok(())
    }

    /// Looks which streams and consumers are there after a crash.
    pub fn look_around(&mut self) -> Result<(), Halt> {
        for stream in 0..self.book.streams.len() {
            let book = &self.book.streams[stream];
            if book.epoch == 0 {
                continue;
            }
            let name = book.name.clone();
            let options = StreamInfoOptions::default();
            let info = self.ask(ApiRequest::StreamInfo { stream: name.clone(), options })?;
            let Ok(ApiResponse::Stream { info, .. }) = info else {
                self.book.streams[stream].exists = false;
                continue;
            };
            let book = &mut self.book.streams[stream];
            book.exists = true;
            book.config.max_msgs = info.config.max_msgs;
            for consumer in 0..self.book.streams[stream].consumers.len() {
                let of = &self.book.streams[stream].consumers[consumer];
                let request =
                    ApiRequest::ConsumerInfo { stream: name.clone(), consumer: of.name.clone() };
                let had = of.exists;
                let info = self.ask(request)?;
                let has = info.is_ok();
                if let Ok(ApiResponse::Consumer(info)) = &info {
                    self.check_pause(stream, consumer, info.config.pause_until)?;
                }
                if had && !has {
                    self.forget_consumer(stream, consumer);
                }
                self.book.streams[stream].consumers[consumer].exists = has;
            }
        }
        Ok(())
    }
}
