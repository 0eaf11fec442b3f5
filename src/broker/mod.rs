//! The broker: every decision about streams, consumers and subscriptions, as a state machine.
//!
//! It is driven from outside: requests and the time go in, events come out, and a [`Log`] remembers.
//! It has no clock, no socket and no thread, and draws randomness from a seeded generator, so
//! that the same calls give the same events.
//!
//! One *turn* of its driver is: any number of [`Broker::handle`], [`Broker::handle_log`] and
//! [`Broker::handle_timeout`], then [`Broker::commit`], then [`Broker::poll_event`] until there is
//! none. What a turn decided is one group of the journal.

mod admission;
mod advisories;
mod answering;
mod api;
mod atomic;
mod catalog;
pub(crate) mod consumer;
mod copying;
mod core;
mod counting;
mod dead_letters;
mod delivery;
mod direct;
mod exhuming;
mod expiry;
mod fingerprint;
mod flow;
mod gaps;
mod info;
mod jobs;
mod listened;
mod listening;
mod member;
mod opening;
mod origins;
mod outbox;
mod pacing;
mod producers;
mod puback;
mod publish;
mod pulling;
mod reading;
mod restore;
mod retention;
mod router;
mod run;
mod schedule;
mod scheduling;
mod sessions;
mod settling;
mod staging;
mod state;
mod stream;
mod streams;
mod subject_tree;
#[cfg(test)]
mod tests;
mod transfer;
mod turns;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::log::{ReadBatch, ReadError};
use claudebus_storage::{Log, LogEvent, LogFailure, Position, ReadId, StreamId};
use rand::rngs::StdRng;

use crate::model::answer::ServerNames;
use crate::model::error::ApiError;
use crate::model::event::{Delivery, Event};
use crate::model::limits::Limits;
use crate::model::request::{Request, SessionId, Token};
use crate::model::stream::StreamConfig;
use crate::model::time::Now;

use answering::Askers;
use api::{Parked, ParkedId};
use catalog::Catalog;
use copying::Copies;
use counting::Counting;
use direct::Direct;
use fingerprint::Key;
use jobs::{Job, JobId};
use listened::Listened;
use outbox::Outbox;
use producers::Producers;
use router::Router;
use schedule::Schedule;
use sessions::Sessions;
use staging::{BatchKey, Staging};
use transfer::Transfers;
use turns::Turns;

pub use restore::RestoreError;
pub use state::stream_names;

/// What a broker is told at its start.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// What is bounded.
    pub limits: Limits,
    /// Streams that are made at first use: by a message to one of their subjects, or by naming
    /// them. A client's create of the name defines them instead.
    pub default_streams: Vec<StreamConfig>,
    /// The server's name, for answers that show it.
    pub server_name: String,
    /// The domain of its streams (NATS), if they have one.
    pub domain: Option<String>,
    /// Where randomness comes from: the choice among queue group members, names of ephemeral
    /// consumers, and the secret of a new data directory.
    pub seed: u64,
}

/// Who waits for a read.
#[derive(Clone, Debug)]
enum Awaiting {
    /// A consumer, for new records.
    Records(StreamId, Arc<str>),
    /// A consumer, for a record to deliver again.
    Redelivery(StreamId, Arc<str>, u64),
    /// A consumer, for a record that becomes a dead letter.
    Burial(StreamId, Arc<str>, u64),
    /// A job.
    Job(JobId),
    /// A parked request, for the time of a stream's first record.
    FirstTime(ParkedId, StreamId),
    /// A parked request, for the message it asks for.
    Message(ParkedId),
    /// A request for several messages.
    Direct(Token),
    /// A snapshot of this name.
    Snapshot(String),
    /// A counter, for its last message.
    Counter(StreamId, Box<str>),
    /// The last record's message id, after a restart.
    LastId(StreamId),
}

/// What has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Deadline {
    /// Records of a stream expire, by age or by themselves.
    Expiry(StreamId),
    /// A consumer has something to do.
    Consumer(StreamId, Arc<str>),
    /// Schedules of a stream are due.
    Scheduled(StreamId),
    /// The dead letters may have room again for a consumer's.
    Burial(StreamId, Arc<str>),
    /// A stream may go on copying.
    Copying(StreamId),
    /// A snapshot or restore of this name may go on, or has waited for too long.
    Transfer(String),
    /// The next message of an atomic batch is late.
    Batch(BatchKey),
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Broker<L: Log> {
    log: L,
    limits: Limits,
    defaults: Vec<StreamConfig>,
    names: ServerNames,
    now: Now,
    rng: StdRng,
    id_key: Key,
    catalog: Catalog,
    router: Router,
    /// Where a consumer's turn puts its deliveries, empty in between. Kept for its memory.
    row: Vec<Delivery>,
    sessions: Sessions,
    producers: Producers,
    outbox: Outbox,
    schedule: Schedule<Deadline>,
    /// Consumers that may have something to deliver.
    turns: Turns,
    /// Which consumers deliver to which subjects.
    listened: Listened,
    /// Consumers with messages that were given up.
    mourning: BTreeSet<(StreamId, Arc<str>)>,
    /// Streams that were appended to since the last commit, each once.
    appended: Vec<StreamId>,
    /// Streams that may hold more than their limits allow, each once.
    grown: Vec<StreamId>,
    /// Last sequences that become durable with a position.
    marks: VecDeque<(Position, StreamId, u64)>,
    reads: HashMap<ReadId, Awaiting>,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that can go on without waiting for a read.
    ready_jobs: BTreeSet<JobId>,
    parked: BTreeMap<ParkedId, Parked>,
    next_job: u64,
    next_parked: u64,
    askers: Askers,
    /// Atomic batches that are not committed yet.
    staging: Staging,
    /// What counters have come to.
    counting: Counting,
    /// Requests for several messages that are being answered.
    directs: BTreeMap<Token, Direct>,
    /// Snapshots and restores.
    transfers: Transfers,
    /// Which streams copy from which.
    copies: Copies,
    /// Through how many streams that republish the message has come that is being stored.
    hops: u32,
    /// What the storing of a batch has led to being announced, while it is going on.
    withheld: Option<Vec<core::Announcement>>,
    horizon: expiry::Horizon,
    /// API requests answered so far, and those of them with an error.
    api_total: u64,
    api_errors: u64,
    damage: gaps::DamageCounts,
}

impl<L: Log> Broker<L> {
    /// Handles one request of a session.
    pub fn handle(&mut self, now: Now, from: SessionId, request: Request) {
        self.set_now(now);
        match request {
            Request::Opened { connection } => self.sessions.open(from, connection),
            Request::Closed => self.close_session(from),
            Request::Publish { producer, first, batch } => {
                self.publish(from, producer, first, &batch);
            }
            Request::Send { batch, echo } => self.send(from, &batch, echo),
            Request::Overhear { batch, echo } => self.overhear(from, &batch, echo),
            Request::Subscribe { token, subject, queue } => {
                if self.router.count(from) >= self.limits.max_subscriptions {
                    let reason = ApiError::insufficient_resources();
                    self.outbox.send_in_order(from, Event::Close { reason });
                    return;
                }
                self.router.subscribe(from, token, &subject, queue);
                if let Some(grant) = self.sessions.grant(from) {
                    self.router.restrict(from, token, &grant);
                }
                self.subscription_began(&subject);
            }
            Request::Unsubscribe { token, max } => {
                if self.router.unsubscribe(from, token, max) {
                    self.outbox.send_in_order(from, Event::Unsubscribed { token });
                }
            }
            Request::Pull(pull) => self.pull(from, pull),
            Request::Raise { token, more, more_bytes } => self.raise(from, token, more, more_bytes),
            Request::Cancel { token } => self.cancel(from, token),
            Request::Sent { bytes } => {
                self.sessions.sent(from, bytes);
                self.stir_pulls_of(from);
            }
            Request::Ack(ack) => self.ack(from, ack),
            Request::Api { token, request } => self.api(from, token, request),
            Request::ApiTo { reply, subject, kind, request } => {
                self.api_to(from, (reply, subject), kind, request);
            }
            Request::Tell { subject, headers, payload } => {
                self.answer_subject(subject.into(), headers, payload);
            }
            Request::SnapshotAck { subject } => self.snapshot_acked(&subject),
            Request::FlowAnswer { subject } => self.flow_answered(&subject),
            Request::Unheard { subject, reply } => self.unheard(from, &subject, &reply),
            Request::NoResponders { tell } => self.sessions.tell_unheard(from, tell),
            Request::Grant(grant) => self.sessions.set_grant(from, grant),
            Request::Barrier { token } => {
                self.outbox.send_at_once(from, Event::Barrier { token });
            }
        }
    }

    /// Handles the passing of time. To be called at [`Broker::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.set_now(now);
        while let Some(due) = self.schedule.take_due(now.monotonic) {
            match due {
                Deadline::Expiry(stream) => self.expire(stream),
                Deadline::Consumer(stream, name) => self.consumer_timeout(stream, &name),
                Deadline::Scheduled(stream) => self.scheduled_timeout(stream),
                Deadline::Burial(stream, name) => {
                    self.mourning.insert((stream, name));
                }
                Deadline::Copying(stream) => self.copy_again(stream),
                Deadline::Transfer(name) => self.transfer_timeout(&name),
                Deadline::Batch(key) => self.batch_timeout(&key),
            }
        }
        for job in std::mem::take(&mut self.ready_jobs) {
            self.run_job(job);
        }
    }

    /// Takes the log's news: what became durable, and what was read.
    ///
    /// # Errors
    /// [`LogFailure`] if the log cannot go on; the process must stop then.
    pub fn handle_log(&mut self, now: Now) -> Result<(), LogFailure> {
        self.set_now(now);
        while let Some(event) = self.log.poll()? {
            match event {
                LogEvent::Durable(position) => self.durable(position),
                LogEvent::Read(id, result) => self.read_answered(id, result),
            }
        }
        Ok(())
    }

    /// Ends a turn: delivers what can be delivered, and closes the open group. Returns the position
    /// that everything decided so far depends on.
    pub fn commit(&mut self) -> Position {
        let settling = self.bury_the_dead();
        self.copy_fresh();
        self.keep_limits();
        self.hear_of_ended_subscriptions();
        self.deliver_all();
        // Not all have had their turn to deliver, and answers to acknowledgements wait for this group.
        settling.iter().for_each(|key| self.keep_settled(key));
        let position = self.log.commit();
        for stream in std::mem::take(&mut self.appended) {
            if let Some(stream) = self.catalog.get_mut(stream) {
                stream.in_appended = false;
            }
            if let Some(summary) = self.log.stream(stream) {
                self.marks.push_back((position, stream, summary.last_seq));
            }
        }
        let durable = self.log.durable();
        self.outbox.close_group(position, durable);
        self.mark_durable(durable);
        position
    }

    /// Has a group written that [`commit`](Self::commit) kept back: see [`Log::release`]. To be called when
    /// the events of the turn have left.
    pub fn release(&mut self, is_idle: bool) -> bool {
        self.log.release(is_idle)
    }

    /// The next event that may leave, and the session it is for.
    pub fn poll_event(&mut self) -> Option<(SessionId, Event)> {
        self.outbox.next()
    }

    /// When [`Broker::handle_timeout`] has something to do, on the monotonic clock. A moment that
    /// has passed means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let more =
            !self.ready_jobs.is_empty() || self.copies.is_waiting() || self.router.has_ended();
        if more {
            return Some(self.now.monotonic);
        }
        self.schedule.next().into_iter().chain(self.turns.next()).min()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &L {
        &self.log
    }

    /// The log, to be changed by tests and by the shell's own needs.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    /// Ends all waiting pulls, because the server stops. What was decided is still to be committed,
    /// and its events to be sent.
    pub fn shut_down(&mut self, now: Now) {
        self.set_now(now);
        self.turns.serve_all();
        for id in self.catalog.ids() {
            let Some(stream) = self.catalog.get_mut(id) else { continue };
            for (seat, member) in stream.consumers.iter_mut() {
                member.consumer.end_pulls(409, "Server Shutdown");
                self.turns.add(id, seat);
            }
        }
    }

    /// The log, to be closed.
    #[must_use]
    pub fn into_log(self) -> L {
        self.log
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
        self.horizon.advance(now);
    }

    fn close_session(&mut self, session: SessionId) {
        self.router.close(session);
        self.forget_askers(session);
        self.close_pulls_of(session);
    }

    fn durable(&mut self, position: Position) {
        self.outbox.release(position);
        self.mark_durable(position);
    }

    fn mark_durable(&mut self, position: Position) {
        while let Some((_, stream, seq)) = self.marks.pop_front_if(|(at, _, _)| *at <= position) {
            if let Some(stream) = self.catalog.get_mut(stream) {
                stream.durable_seq = seq;
            }
        }
    }

    fn read_answered(&mut self, id: ReadId, result: Result<ReadBatch, ReadError>) {
        let awaiting = self.reads.remove(&id);
        if let (Err(error @ ReadError::Damaged { stream, .. }), Some(_)) = (&result, &awaiting) {
            self.note_damaged_read(*stream, error);
        }
        match awaiting {
            None => {}
            Some(Awaiting::Records(stream, name)) => self.feed(stream, &name, id, result),
            Some(Awaiting::Redelivery(stream, name, seq)) => {
                self.redelivery_read(stream, &name, seq, result);
            }
            Some(Awaiting::Burial(stream, name, seq)) => {
                self.burial_read(stream, &name, seq, result);
            }
            Some(Awaiting::Job(job)) => self.job_read(job, result),
            Some(Awaiting::FirstTime(parked, stream)) => {
                self.first_time_read(parked, stream, result);
            }
            Some(Awaiting::Message(parked)) => self.message_read(parked, result),
            Some(Awaiting::Direct(token)) => self.direct_read(token, result),
            Some(Awaiting::Snapshot(name)) => self.snapshot_read(&name, result),
            Some(Awaiting::Counter(stream, subject)) => {
                self.counter_read(stream, &subject, id, result);
            }
            Some(Awaiting::LastId(stream)) => self.last_id_read(stream, result),
        }
    }
}
