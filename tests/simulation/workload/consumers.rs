//! Consumers: created and deleted, asked for messages, told what became of them.

use std::time::Duration;

use claudebus::model::api::{ApiRequest, ConsumerAction};
use claudebus::model::consumer::{AckPolicy, ConsumerConfig};
use claudebus::model::request::{Ack, AckKind, Pull, ReplyTo, Request};
use claudebus::model::time::Timestamp;

use crate::clients::{Asked, SESSIONS, Simulation};
use crate::order::Turns;
use crate::world::{Halt, Sabotage};

/// The time that a consumer has to acknowledge.
const ACK_WAIT: Duration = Duration::from_secs(10);

impl Simulation {
    pub(super) fn draw_consumer(&mut self) -> Option<(usize, usize)> {
        let stream = self.draw_stream();
        let book = &self.book.streams[stream];
        let consumer = self.world.chance.index(book.consumers.len());
        (book.exists && book.consumers[consumer].exists).then_some((stream, consumer))
    }

    pub(super) fn pull(&mut self) {
        let Some((stream, consumer)) = self.draw_consumer() else { return };
        let batch = 1 + self.world.chance.below(12);
        self.pull_from(stream, consumer, batch);
    }

    /// Asks a consumer for messages.
    pub fn pull_from(&mut self, stream: usize, consumer: usize, batch: u64) {
        let book = &self.book.streams[stream];
        let (name, of) = (book.name.clone(), &book.consumers[consumer]);
        let at = self.world.now().monotonic;
        let asked = Asked::Pull { stream, epoch: book.epoch, consumer, since: of.since, at };
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
            group: None,
        };
        self.world.handle(SESSIONS[1], Request::Pull(pull));
    }

    pub(super) fn settle(&mut self) {
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
        if is_final {
            let life = self.world.life;
            of.settled.extend(seqs);
            let at = (kind == AckKind::Ack).then(|| self.world.now().monotonic);
            of.done.extend(seqs.iter().map(|seq| (*seq, (life, at))));
            of.turns.done_early.retain(|seq| !seqs.contains(seq));
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
        let subject = String::new();
        let ack = Ack { stream: name, consumer: of, sequences, kind, confirm, subject };
        self.world.handle(SESSIONS[1], Request::Ack(ack));
    }

    /// Pauses a consumer for a while, or lets it go on.
    pub(super) fn pause(&mut self) -> Result<(), Halt> {
        let Some((stream, consumer)) = self.draw_consumer() else { return Ok(()) };
        let wait = 1_000_000_000 * self.world.chance.below(40);
        let until = self.world.chance.one_in(3).then(|| self.world.now().wall + wait);
        let book = &mut self.book.streams[stream];
        let of = &mut book.consumers[consumer];
        of.paused_until = None;
        let request = ApiRequest::ConsumerPause {
            stream: book.name.clone(),
            consumer: of.name.clone(),
            until: until.map(Timestamp),
        };
        let is_ok = self.world.sabotage == Sabotage::ForgottenPauses || self.ask(request)?.is_ok();
        if is_ok && until.is_some() {
            self.world.seen.pauses += 1;
            self.book.streams[stream].consumers[consumer].paused_until = until;
        }
        Ok(())
    }

    /// A pause that was confirmed lasts, whatever happens to the broker.
    pub(super) fn check_pause(
        &self,
        stream: usize,
        consumer: usize,
        until: Option<Timestamp>,
    ) -> Result<(), Halt> {
        let book = &self.book.streams[stream];
        let of = &book.consumers[consumer];
        if of.paused_until.is_none() || of.paused_until == until.map(|until| until.0) {
            return Ok(());
        }
        let (name, expected) = (format!("{}/{}", book.name, of.name), of.paused_until);
        Err(Halt::Violation(format!("{name}: paused until {expected:?}, and says {until:?}")))
    }

    /// Deletes a consumer, creates one, or changes one.
    pub(super) fn change_consumer(&mut self) -> Result<(), Halt> {
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

    pub(super) fn delete_consumer(&mut self, stream: usize, consumer: usize) -> Result<(), Halt> {
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
        let settled = old.settled.iter().map(|seq| (old.name.clone(), *seq));
        book.buried.extend(settled);
        book.consumers[consumer] = old.fresh();
    }

    /// Creates a consumer, or sends its configuration again.
    pub fn create_consumer(&mut self, stream: usize, consumer: usize) -> Result<(), Halt> {
        let next_token = self.next_token;
        let next_id = self.book.next_id;
        let book = &mut self.book.streams[stream];
        let of = &mut book.consumers[consumer];
        if !of.exists {
            of.since = next_token;
            of.turns = Turns::new(book.by_seq.last_key_value().map_or(0, |(seq, _)| *seq));
            book.loose_below = next_id;
        }
        // A pause is not part of what is asked for.
        of.paused_until = None;
        let mut config = ConsumerConfig {
            durable_name: Some(of.name.clone()),
            name: Some(of.name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: of.max_deliver,
            filter_subject: Some(of.filter.clone()),
            max_ack_pending: if self.world.chance.one_in(3) { 5 } else { 100 },
            ..ConsumerConfig::default()
        };
        of.order.ask(&mut config, self.world.sabotage);
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
}
