//! What the clients do: drawn step by step from the seed.

use std::time::Duration;

use claudebus::model::api::{
    ApiRequest, ApiResponse, ConsumerAction, DeadOptions, PurgeOptions, StreamInfoOptions,
};
use claudebus::model::batch::MessageBatch;
use claudebus::model::consumer::{AckPolicy, ConsumerConfig};
use claudebus::model::headers::{Block, names};
use claudebus::model::request::{Ack, AckKind, ProducerId, Pull, ReplyTo, Request};
use claudebus::model::stream::{Discard, Retention, StreamConfig};

use crate::book::{ConsumerBook, Id, Purge, Sent, StreamBook, matches};
use crate::clients::{Asked, SESSIONS, Simulation};
use crate::world::{Halt, Sabotage};

/// Producers that number their messages.
const PRODUCERS: u64 = 3;
/// Last parts of subjects.
const LEAVES: [&str; 4] = ["a", "b", "a.x", "c"];
/// The time that a consumer has to acknowledge.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Whether a confirmed termination must survive a crash. It does not yet: a terminated message whose
/// bytes lie in a segment is read before it becomes a dead letter; the broker confirms at once, and a
/// crash before the read is answered brings the message back. With true, seeds 24,
/// 44, 53, 92 and 95 find it.
const TERMINATIONS_LAST: bool = false;
/// The age limit of the stream that has one.
const MAX_AGE: Duration = Duration::from_secs(300);

fn stream(name: &str, prefix: &'static str, retention: Retention) -> StreamBook {
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

/// The streams and consumers of a run.
pub fn streams(chance: &mut crate::chance::Chance) -> Vec<StreamBook> {
    let mut limits = stream("LIMITS", "limits", Retention::Limits);
    limits.config.max_msgs = if chance.one_in(2) { 20 + chance.below(60) as i64 } else { -1 };
    limits.config.max_msgs_per_subject =
        if chance.one_in(2) { 1 + chance.below(15) as i64 } else { -1 };
    limits.consumers = vec![consumer("all", "limits.>".to_owned(), 3)];
    let mut full = stream("FULL", "full", Retention::Limits);
    full.config.max_msgs = 30;
    full.config.discard = Discard::New;
    full.consumers = vec![consumer("half", "full.a".to_owned(), -1)];
    let mut plain = stream("PLAIN", "plain", Retention::Limits);
    plain.consumers =
        vec![consumer("all", "plain.>".to_owned(), -1), consumer("once", "plain.a".to_owned(), 1)];
    let mut aging = stream("AGING", "aging", Retention::Limits);
    aging.config.max_age = MAX_AGE;
    aging.config.duplicate_window = MAX_AGE;
    aging.config.allow_msg_ttl = true;
    aging.consumers = vec![consumer("all", "aging.>".to_owned(), 2)];
    let mut work = stream("WORK", "work", Retention::WorkQueue);
    work.consumers = if chance.one_in(2) {
        vec![consumer("all", "work.>".to_owned(), 2)]
    } else {
        vec![consumer("a", "work.a".to_owned(), -1), consumer("b", "work.b".to_owned(), 3)]
    };
    let mut interest = stream("INTEREST", "interest", Retention::Interest);
    interest.consumers = vec![
        consumer("all", "interest.>".to_owned(), -1),
        consumer("half", "interest.a".to_owned(), 2),
    ];
    vec![limits, full, plain, aging, work, interest]
}

impl Simulation {
    /// One step of some client.
    pub fn step(&mut self) -> Result<(), Halt> {
        match self.world.chance.below(100) {
            0..30 => self.publish(),
            30..45 => self.pull(),
            45..68 => self.settle(),
            68..71 => self.resend_one(),
            71..73 => self.purge(),
            73..76 => self.delete(),
            76..79 => self.exhume()?,
            79 => self.change_consumer()?,
            80 => self.change_stream()?,
            81..84 => {
                let time = Duration::from_millis(self.world.chance.below(8_000));
                self.world.pass(time);
            }
            84 => self.world.set_wall(),
            _ => self.turn()?,
        }
        if self.world.chance.one_in(2) { self.turn() } else { Ok(()) }
    }

    fn draw_stream(&mut self) -> usize {
        // Work queues and interest have most to lose.
        *self.world.chance.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 5])
    }

    fn compose(&mut self, stream: usize, producer: Option<u64>, subject: String) -> Id {
        let id = self.book.next_id;
        self.book.next_id += 1;
        let mut payload = format!("{id}|").into_bytes();
        let padding =
            self.world.chance.below(if self.world.chance.clone().one_in(8) { 3000 } else { 300 });
        payload.extend((0..padding).map(|n| (id.wrapping_mul(31) + n / 7) as u8));
        let mut block = Block::default();
        let mut is_bare = true;
        let book = &self.book.streams[stream];
        if producer.is_none() {
            block.add(names::MESSAGE_ID, &format!("m{id}"));
            is_bare = false;
        }
        let ttl = (book.config.allow_msg_ttl && self.world.chance.one_in(4))
            .then(|| Duration::from_secs(5 + self.world.chance.below(60)));
        if let Some(ttl) = ttl {
            block.add(names::TTL, &format!("{}s", ttl.as_secs()));
            is_bare = false;
        }
        let is_rollup = book.config.allow_rollup_hdrs && self.world.chance.one_in(25);
        if is_rollup {
            block.add(names::ROLLUP, "sub");
            is_bare = false;
            self.book.streams[stream].rollups.push(id);
        }
        let sent = Sent {
            stream,
            epoch: self.book.streams[stream].epoch,
            subject,
            headers: if is_bare { Vec::new() } else { block.finish() },
            payload,
            wall: self.world.now().wall,
            ttl,
            number: producer.map(|producer| (u128::from(producer), id)),
            seq: None,
            is_acked: false,
            is_refused: false,
            requeues: 0,
            is_rollup,
        };
        self.book.sent.insert(id, sent);
        id
    }

    fn publish(&mut self) {
        let stream = self.draw_stream();
        if !self.book.streams[stream].exists {
            return;
        }
        let prefix = self.book.streams[stream].prefix;
        let leaf = *self.world.chance.pick(&LEAVES);
        let subject = format!("{prefix}.{leaf}");
        if self.world.chance.one_in(3) {
            let id = self.compose(stream, None, subject);
            self.send(id);
            return;
        }
        let producer = 1 + self.world.chance.below(PRODUCERS);
        let count = 1 + self.world.chance.below(5);
        let ids: Vec<Id> =
            (0..count).map(|_| self.compose(stream, Some(producer), subject.clone())).collect();
        self.send_batch(u128::from(producer), &ids);
        if self.world.sabotage == Sabotage::DoubledPublish && self.world.chance.one_in(20) {
            self.send_batch(99, &ids);
        }
    }

    /// Sends messages with counters that follow each other as one batch.
    fn send_batch(&mut self, producer: u128, ids: &[Id]) {
        let mut buffer = Vec::new();
        let mut parts = Vec::new();
        for id in ids {
            let sent = &self.book.sent[id];
            parts.push((buffer.len(), sent.subject.len(), sent.headers.len(), sent.payload.len()));
            buffer.extend_from_slice(sent.subject.as_bytes());
            buffer.extend_from_slice(&sent.headers);
            buffer.extend_from_slice(&sent.payload);
            self.unanswered.insert((producer, *id), *id);
        }
        let mut batch = MessageBatch::new(buffer.into());
        for (start, subject, headers, payload) in parts {
            batch.push(start, (start, subject), 0, headers, payload).expect("the parts fit");
        }
        self.world.trace.say(format_args!("send {ids:?} of producer {producer}"));
        let producer = ProducerId(producer);
        self.world.handle(SESSIONS[0], Request::Publish { producer, first: ids[0], batch });
    }

    /// A client that is not sure sends again what was answered long ago.
    fn resend_one(&mut self) {
        if self.book.next_id == 0 {
            return;
        }
        let id = self.world.chance.below(self.book.next_id);
        let sent = &self.book.sent[&id];
        let book = &self.book.streams[sent.stream];
        // Message ids of the stream with an age limit are forgotten soon.
        let is_known = sent.number.is_some() || book.config.max_age.is_zero();
        if sent.is_acked && is_known && sent.epoch == book.epoch && book.exists {
            self.send(id);
        }
    }

    fn draw_consumer(&mut self) -> Option<(usize, usize)> {
        let stream = self.draw_stream();
        let book = &self.book.streams[stream];
        let consumer = self.world.chance.index(book.consumers.len());
        (book.exists && book.consumers[consumer].exists).then_some((stream, consumer))
    }

    fn pull(&mut self) {
        let Some((stream, consumer)) = self.draw_consumer() else { return };
        let batch = 1 + self.world.chance.below(12);
        self.pull_from(stream, consumer, batch);
    }

    /// Asks a consumer for messages.
    pub fn pull_from(&mut self, stream: usize, consumer: usize, batch: u64) {
        let book = &self.book.streams[stream];
        let (name, of) = (book.name.clone(), &book.consumers[consumer]);
        let asked = Asked::Pull { stream, epoch: book.epoch, consumer, since: of.since };
        let of = of.name.clone();
        self.world.trace.say(format_args!("pull {batch} of {name}/{of}"));
        let pull = Pull {
            reply: ReplyTo::Session(self.ask_later(asked)),
            stream: name,
            consumer: of,
            batch,
            max_bytes: 0,
            expires: Some(Duration::from_millis(1 + self.world.chance.below(2_000))),
            no_wait: self.world.chance.one_in(4),
            heartbeat: None,
            renewable: false,
        };
        self.world.handle(SESSIONS[1], Request::Pull(pull));
    }

    fn settle(&mut self) {
        let Some((stream, consumer)) = self.draw_consumer() else { return };
        let held = self.book.streams[stream].consumers[consumer].held.len();
        if held == 0 {
            return;
        }
        let mut seqs = Vec::new();
        for _ in 0..=self.world.chance.below(3).min(held as u64 - 1) {
            let held = &mut self.book.streams[stream].consumers[consumer].held;
            seqs.push(held.swap_remove(self.world.chance.index(held.len())));
        }
        let kind = match self.world.chance.below(16) {
            0 => AckKind::Nak { delay: Duration::ZERO },
            1 => AckKind::Nak { delay: Duration::from_millis(self.world.chance.below(20_000)) },
            2 => AckKind::InProgress,
            3 => AckKind::Terminate { reason: "enough".to_owned() },
            4 => return, // It is forgotten: the consumer redelivers.
            _ => AckKind::Ack,
        };
        let confirmed = self.world.chance.one_in(2);
        self.settle_with(stream, consumer, &seqs, kind, confirmed);
    }

    /// Settles deliveries.
    pub fn settle_with(
        &mut self,
        stream: usize,
        consumer: usize,
        seqs: &[u64],
        kind: AckKind,
        confirmed: bool,
    ) {
        let book = &mut self.book.streams[stream];
        let (name, epoch) = (book.name.clone(), book.epoch);
        let of = &mut book.consumers[consumer];
        let is_final = matches!(kind, AckKind::Ack | AckKind::Terminate { .. });
        let confirmed = confirmed && (kind == AckKind::Ack || TERMINATIONS_LAST);
        if is_final {
            of.settled.extend(seqs);
        } else if kind == AckKind::InProgress {
            of.held.extend(seqs);
        }
        let (since, of) = (of.since, of.name.clone());
        let asked = Asked::Settle { stream, epoch, consumer, since, seqs: seqs.to_vec() };
        let confirm = (is_final && confirmed).then(|| ReplyTo::Session(self.ask_later(asked)));
        self.world.trace.say(format_args!("{kind:?} {seqs:?} of {name}/{of}, {confirm:?}"));
        let mut sequences = seqs.iter().map(|seq| (*seq, *seq)).collect();
        if self.world.sabotage == Sabotage::ForgottenAcks && self.world.chance.one_in(10) {
            sequences = vec![(1, 0)];
        }
        let ack = Ack { stream: name, consumer: of, sequences, kind, confirm };
        self.world.handle(SESSIONS[1], Request::Ack(ack));
    }

    fn ask_about(&mut self, asked: Asked, request: ApiRequest) {
        let token = self.ask_later(asked);
        self.world.trace.say(format_args!("{} asks {request:?}", token.0));
        self.world.handle(SESSIONS[2], Request::Api { token, request });
    }

    fn purge(&mut self) {
        let stream = self.draw_stream();
        let book = &self.book.streams[stream];
        if !book.exists || self.world.chance.one_in(2) {
            return;
        }
        let filter = self.world.chance.one_in(2).then(|| format!("{}.{}", book.prefix, LEAVES[0]));
        let highest = book.by_seq.last_key_value().map_or(0, |(seq, _)| *seq);
        let below =
            if self.world.chance.one_in(2) { self.world.chance.below(highest + 2) } else { 0 };
        let purge =
            Purge { filter: filter.clone(), below: if below == 0 { u64::MAX } else { below } };
        let is_meant = |seq: u64, id: &Id| {
            seq < purge.below
                && filter.as_ref().is_none_or(|f| matches(f, &self.book.sent[id].subject))
        };
        let seqs: Vec<u64> =
            book.by_seq.iter().filter(|(seq, id)| is_meant(**seq, id)).map(|(s, _)| *s).collect();
        let asked = Asked::Purge { stream, epoch: book.epoch, seqs };
        let request = ApiRequest::StreamPurge {
            stream: book.name.clone(),
            options: PurgeOptions { filter, seq: below, keep: 0 },
        };
        self.book.streams[stream].purges.push(purge);
        self.ask_about(asked, request);
    }

    fn delete(&mut self) {
        let stream = self.draw_stream();
        let book = &mut self.book.streams[stream];
        if book.by_seq.is_empty() || !book.exists {
            return;
        }
        let seqs: Vec<u64> = book.by_seq.keys().copied().collect();
        let seq = *self.world.chance.pick(&seqs);
        book.deletions.insert(seq);
        let asked = Asked::Delete { stream, epoch: book.epoch, seq };
        let no_erase = self.world.chance.one_in(2);
        let request = ApiRequest::MessageDelete { stream: book.name.clone(), seq, no_erase };
        self.ask_about(asked, request);
    }

    /// Requeues or drops some dead letters.
    fn exhume(&mut self) -> Result<(), Halt> {
        let stream = self.draw_stream();
        self.list_letters(stream)?;
        let book = &mut self.book.streams[stream];
        let letters: Vec<u64> = book.letters.keys().copied().collect();
        if letters.is_empty() || !book.exists {
            return Ok(());
        }
        let first = self.world.chance.index(letters.len());
        let letters: Vec<u64> = letters.into_iter().skip(first).take(3).collect();
        let requeue = self.world.chance.one_in(2);
        for number in &letters {
            let Some(letter) = book.letters.get_mut(number) else { continue };
            letter.may_go = true;
            book.exhumed.insert(*number);
            book.buried.insert((letter.consumer.clone(), letter.stream_seq));
            let id = book.by_seq.get(&letter.stream_seq);
            if requeue && let Some(sent) = id.and_then(|id| self.book.sent.get_mut(id)) {
                sent.requeues += 1;
            }
        }
        let name = book.name.clone();
        let asked = Asked::Exhume { stream, epoch: book.epoch, letters: letters.clone() };
        let options = DeadOptions { sequences: letters, ..DeadOptions::default() };
        let request = if requeue {
            ApiRequest::DeadRequeue { stream: name, options }
        } else {
            ApiRequest::DeadDrop { stream: name, options }
        };
        self.ask_about(asked, request);
        Ok(())
    }

    /// Deletes a consumer, creates one, or changes one.
    fn change_consumer(&mut self) -> Result<(), Halt> {
        let stream = self.draw_stream();
        let consumer = self.world.chance.index(self.book.streams[stream].consumers.len());
        let book = &self.book.streams[stream];
        if !book.exists {
            return Ok(());
        }
        if !book.consumers[consumer].exists || self.world.chance.one_in(2) {
            return self.create_consumer(stream, consumer);
        }
        self.delete_consumer(stream, consumer)
    }

    fn delete_consumer(&mut self, stream: usize, consumer: usize) -> Result<(), Halt> {
        let next_id = self.book.next_id;
        let book = &mut self.book.streams[stream];
        book.loose_below = next_id;
        let request = ApiRequest::ConsumerDelete {
            stream: book.name.clone(),
            consumer: book.consumers[consumer].name.clone(),
        };
        if self.ask(request)?.is_ok() {
            self.forget_consumer(stream, consumer);
        }
        Ok(())
    }

    /// Notes that a consumer is gone.
    pub fn forget_consumer(&mut self, stream: usize, consumer: usize) {
        let next_id = self.book.next_id;
        let book = &mut self.book.streams[stream];
        book.loose_below = next_id;
        let old = std::mem::take(&mut book.consumers[consumer]);
        book.remade.insert(old.name.clone());
        // What it settled may be gone, whoever has its name next.
        let settled = old.settled.into_iter().map(|seq| (old.name.clone(), seq));
        book.buried.extend(settled);
        book.consumers[consumer] = ConsumerBook {
            name: old.name,
            filter: old.filter,
            max_deliver: old.max_deliver,
            ..ConsumerBook::default()
        };
    }

    /// Creates a consumer, or sends its configuration again.
    pub fn create_consumer(&mut self, stream: usize, consumer: usize) -> Result<(), Halt> {
        let next_token = self.next_token;
        let next_id = self.book.next_id;
        let book = &mut self.book.streams[stream];
        let of = &mut book.consumers[consumer];
        if !of.exists {
            of.since = next_token;
            book.loose_below = next_id;
        }
        let config = ConsumerConfig {
            durable_name: Some(of.name.clone()),
            name: Some(of.name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: of.max_deliver,
            filter_subject: Some(of.filter.clone()),
            max_ack_pending: if self.world.chance.one_in(3) { 5 } else { 100 },
            ..ConsumerConfig::default()
        };
        let request = ApiRequest::ConsumerCreate {
            stream: book.name.clone(),
            config: Box::new(config),
            action: ConsumerAction::CreateOrUpdate,
        };
        let name = book.name.clone();
        match self.ask(request)? {
            Ok(_) => {
                let next_id = self.book.next_id;
                let book = &mut self.book.streams[stream];
                if !book.consumers[consumer].exists {
                    book.loose_below = next_id;
                }
                book.consumers[consumer].exists = true;
                Ok(())
            }
            Err(error) if error.to_string().contains("being created") => Ok(()),
            Err(error) => {
                Err(Halt::Violation(format!("{name}: a consumer cannot be created: {error}")))
            }
        }
    }

    /// Changes a stream's limits, or now and then deletes it and makes a new one.
    fn change_stream(&mut self) -> Result<(), Halt> {
        let stream = self.draw_stream();
        if !self.book.streams[stream].exists {
            return self.create_stream(stream);
        }
        if self.world.chance.one_in(8) {
            let name = self.book.streams[stream].name.clone();
            self.delete_stream(&format!("DLQ_{name}"))?;
            self.delete_stream(&name)?;
            self.book.streams[stream].exists = false;
            return self.create_stream(stream);
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

    fn delete_stream(&mut self, name: &str) -> Result<(), Halt> {
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
                let has = self.ask(request)?.is_ok();
                if had && !has {
                    self.forget_consumer(stream, consumer);
                }
                self.book.streams[stream].consumers[consumer].exists = has;
            }
        }
        Ok(())
    }
}
