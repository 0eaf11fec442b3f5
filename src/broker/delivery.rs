//! Between consumers, the log and sessions: reading what consumers want, handing out what they
//! deliver.

use std::borrow::Cow;
use std::sync::Arc;

use claudebus_storage::log::{Filter, FilterMemo, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, ReadId, Record, StreamId, SubjectId};

use crate::model::consumer::{AckPolicy, Idle};
use crate::model::event::{Delivery, Event};
use crate::model::request::{Pull, ReplyTo, SessionId, Token};

use super::consumer::{Consumer, DeadReason, Meta, Sent, Settled, StatusFor, Want};
use super::sessions::SERVER;
use super::state;
use super::stream::Stream;
use super::{Awaiting, Broker, Deadline};

/// Deliveries of one consumer in one turn, so that others have theirs.
const TURN_DELIVERIES: usize = 8192;

/// Messages of the server's own pull for a push consumer: more than ever come, small enough to add.
const PUSH_BATCH: u64 = 1 << 56;

/// A consumer of a stream, and what its reads need.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) consumer: Consumer,
    memo: FilterMemo,
    /// A redelivery that waits for its record to be read.
    rereading: Option<u64>,
    /// The record that was read for a redelivery; `None` inside if it was not there.
    reread: Option<(u64, Option<Record>)>,
    /// The sequence whose record is read to become a dead letter.
    pub(super) burying: Option<u64>,
    /// Whether the server's own pull waits, for a push consumer.
    pushing: bool,
    /// How many subscriptions had ended when its pulls were last checked for listeners.
    checked: u64,
    /// The key of its progress in the log's state.
    key: Vec<u8>,
    /// Why it delivered nothing more when it was last asked.
    pub(super) idle: Idle,
    /// Whether the dead letters could not take a message of it.
    pub(super) dead_letters_full: bool,
}

impl Member {
    pub(super) fn new(stream: StreamId, consumer: Consumer) -> Self {
        let filter = Filter::any_of(consumer.config().filters());
        let key = state::consumer_key(state::CONSUMERS, stream, &consumer.path().consumer);
        Self {
            consumer,
            memo: FilterMemo::new(filter),
            rereading: None,
            reread: None,
            burying: None,
            pushing: false,
            checked: 0,
            key,
            idle: Idle::NoPullWaiting,
            dead_letters_full: false,
        }
    }

    /// Which subjects it wants.
    pub(super) fn filter(&self) -> &Filter {
        self.memo.filter()
    }

    /// After its configuration changed.
    pub(super) fn refresh(&mut self) {
        self.memo = FilterMemo::new(Filter::any_of(self.consumer.config().filters()));
        self.rereading = None;
        self.reread = None;
        self.pushing = false;
    }

    /// The key of its progress.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Stream {
    /// A consumer by name.
    pub(super) fn member_mut(&mut self, name: &str) -> Option<(Arc<str>, &mut Member)> {
        let name = Arc::clone(self.consumers.get_key_value(name)?.0);
        let member = self.consumers.get_mut(&name)?;
        Some((name, member))
    }
}

/// Deliveries to one session on their way into one event.
struct Parcel {
    session: SessionId,
    token: Token,
    deliveries: Vec<Delivery>,
    /// Whether it must not leave before everything decided so far is durable.
    waits: bool,
}

/// What one turn of one consumer sends.
#[derive(Default)]
struct Mail {
    parcels: Vec<Parcel>,
    delivered: usize,
    /// Deliveries that need no acknowledgement, where the stream keeps messages for those.
    settled: Vec<Settled>,
}

impl<L: Log> Broker<L> {
    /// A pull request arrives.
    pub(super) fn pull(&mut self, from: SessionId, mut pull: Pull) {
        let longest = self.limits.max_pull_expires;
        pull.expires = match pull.expires {
            Some(wait) => Some(wait.min(longest)),
            None if pull.no_wait || pull.renewable => None,
            None => Some(longest),
        };
        let now = self.now;
        let found = self
            .catalog
            .id_of(&pull.stream)
            .and_then(|id| Some((id, self.catalog.get_mut(id)?.member_mut(&pull.consumer)?)));
        let Some((id, (name, member))) = found else {
            self.refuse_pull(from, &pull);
            return;
        };
        if member.consumer.config().deliver_subject.is_some() {
            let mut status = Consumer::no_such_consumer(&pull);
            status.code = 409;
            status.text = Cow::Borrowed("Consumer is push based");
            self.tell_status((from, pull.reply, status));
            return;
        }
        let token = match &pull.reply {
            ReplyTo::Session(token) => Some(*token),
            ReplyTo::Subject(_) => None,
        };
        member.consumer.pull(now, from, pull);
        let key = (id, name);
        self.sessions.takes_from(from, token, &key);
        self.stirred.insert(key);
    }

    fn refuse_pull(&mut self, from: SessionId, pull: &Pull) {
        match &pull.reply {
            ReplyTo::Session(_) => {
                let status = Consumer::no_such_consumer(pull);
                self.tell_status((from, pull.reply.clone(), status));
            }
            ReplyTo::Subject(subject) => self.no_consumer(from, subject),
        }
    }

    /// Tells a NATS client that nobody answers for a consumer that is not there.
    pub(super) fn no_consumer(&mut self, from: SessionId, reply: &str) {
        let batch = crate::model::batch::MessageBatch::of_one("", reply, b"", b"");
        if let Some(message) = batch.iter().next() {
            self.no_responders(from, &batch, &message);
        }
    }

    /// A waiting pull may take more.
    pub(super) fn raise(&mut self, from: SessionId, token: Token, more: u64, more_bytes: u64) {
        let Some((id, name)) = self.sessions.consumer_of(from, token).cloned() else { return };
        let now = self.now;
        if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
            member.consumer.raise(now, from, token, (more, more_bytes));
            self.stirred.insert((id, name));
        }
    }

    /// A waiting pull is withdrawn.
    pub(super) fn cancel(&mut self, from: SessionId, token: Token) {
        let Some((id, name)) = self.sessions.consumer_of(from, token).cloned() else { return };
        self.sessions.forget_pull(from, token);
        if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
            member.consumer.cancel(from, token);
            self.stirred.insert((id, name));
        }
    }

    /// A session can take deliveries again.
    pub(super) fn stir_pulls_of(&mut self, session: SessionId) {
        self.stirred.extend(self.sessions.consumers_of(session).cloned());
    }

    /// A session is over, and its pulls with it.
    pub(super) fn close_pulls_of(&mut self, session: SessionId) {
        let now = self.now;
        for (id, name) in self.sessions.close(session) {
            if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
                member.consumer.session_closed(now, session);
                self.stirred.insert((id, name));
            }
        }
    }

    /// Pulls whose reply subject nobody listens to any more are dropped.
    pub(super) fn drop_unheard_pulls(&mut self) {
        for id in self.catalog.ids() {
            let Some(stream) = self.catalog.get(id) else { continue };
            for (name, member) in &stream.consumers {
                if member.consumer.num_waiting() > 0 {
                    self.stirred.insert((id, Arc::clone(name)));
                }
            }
        }
    }

    /// Subscriptions changed: push consumers may have found a listener.
    pub(super) fn stir_push_consumers(&mut self) {
        for id in self.catalog.ids() {
            let Some(stream) = self.catalog.get(id) else { continue };
            for (name, member) in &stream.consumers {
                if member.consumer.config().deliver_subject.is_some() {
                    self.stirred.insert((id, Arc::clone(name)));
                }
            }
        }
    }

    /// Delivers for all consumers that were stirred in this turn.
    pub(super) fn deliver_all(&mut self) {
        for (id, name) in std::mem::take(&mut self.stirred) {
            let taken = self.catalog.get_mut(id).and_then(|s| s.consumers.remove(&name));
            let Some(mut member) = taken else { continue };
            let mail = self.deliver(id, &name, &mut member);
            let statuses = member.consumer.take_statuses();
            self.keep_progress(&mut member);
            let deadline = member.consumer.poll_timeout(self.now);
            self.schedule.set(Deadline::Consumer(id, Arc::clone(&name)), deadline);
            let path = Arc::clone(member.consumer.path());
            let key = (id, Arc::clone(&name));
            if let Some(stream) = self.catalog.get_mut(id) {
                stream.consumers.insert(name, member);
            }
            for parcel in mail.parcels {
                let Parcel { session, token, deliveries, waits } = parcel;
                self.sessions.takes_from(session, None, &key);
                let event = Event::Deliver { token, consumer: Arc::clone(&path), deliveries };
                if waits {
                    self.outbox.send_when_durable(session, event);
                } else {
                    self.outbox.send_in_order(session, event);
                }
            }
            statuses.into_iter().for_each(|status| self.tell_status(status));
            self.discard_settled(id, &mail.settled);
        }
    }

    /// Writes what changed in a consumer to the log's state.
    pub(super) fn keep_progress(&mut self, member: &mut Member) {
        if let Some(notes) = member.consumer.take_notes() {
            let (base, noted) = self.log.note(&member.key, &notes);
            if noted > base.max(state::MAX_NOTES) {
                self.log.put(&member.key, &member.consumer.base());
            }
        }
    }

    fn deliver(&mut self, id: StreamId, name: &Arc<str>, member: &mut Member) -> Mail {
        let mut mail = Mail::default();
        let Some(stream) = self.catalog.get(id) else { return mail };
        let (storage, deletes, durable_seq) =
            (stream.storage(), stream.deletes_settled(), stream.durable_seq);
        self.update_pulls(member);
        let mut subject_memo: Option<(Record, SubjectId)> = None;
        loop {
            if mail.delivered >= TURN_DELIVERIES {
                self.stirred.insert((id, Arc::clone(name)));
                return mail;
            }
            let last_seq = self.log.stream(id).map_or(0, |held| held.last_seq);
            let limit = self.limits.max_session_deliveries;
            let pushes = member.pushing && self.push_has_room(member);
            let sessions = &self.sessions;
            let open = |session: SessionId| {
                if session == SERVER { pushes } else { sessions.has_room(session, limit) }
            };
            let sent = match member.consumer.want(self.now, last_seq, &open) {
                Want::Nothing(idle) => {
                    member.idle = idle;
                    return mail;
                }
                Want::Read { from, to, records, bytes } => {
                    let request = ReadRequest {
                        stream: id,
                        from,
                        to,
                        since: 0,
                        max_records: records,
                        max_bytes: bytes,
                    };
                    let mut found = Vec::new();
                    match self.log.read(&request, &mut member.memo, &mut found) {
                        ReadOutcome::Ready { next } => member.consumer.feed(found, next),
                        ReadOutcome::Waiting(read) => {
                            member.consumer.reading(read);
                            let who = Awaiting::Records(id, Arc::clone(name));
                            self.reads.insert(read, who);
                        }
                    }
                    continue;
                }
                Want::Redeliver { seq } => match self.find_again(id, name, member, seq) {
                    None => return mail,
                    Some(None) => {
                        member.consumer.lost(seq);
                        continue;
                    }
                    Some(Some(record)) => {
                        let meta = deletes
                            .then(|| meta_of(&self.log, id, &record, storage, &mut subject_memo));
                        let size = Delivery::pull_bytes(&record);
                        let sessions = &self.sessions;
                        let open = |session: SessionId| {
                            if session == SERVER {
                                pushes
                            } else {
                                sessions.has_room(session, limit)
                            }
                        };
                        member.consumer.redeliver(self.now, &open, record, size, meta.flatten())
                    }
                },
                Want::Deliver => {
                    let Some(record) = member.consumer.next_fetched() else { return mail };
                    let meta =
                        deletes.then(|| meta_of(&self.log, id, record, storage, &mut subject_memo));
                    let size = Delivery::pull_bytes(record);
                    let sent = member.consumer.deliver(self.now, &open, size, meta.flatten());
                    if let Some(sent) = &sent
                        && deletes
                        && member.consumer.ack_policy() == AckPolicy::None
                    {
                        let seq = sent.delivery.record.seq;
                        mail.settled.push(Settled { seq, meta: meta.flatten() });
                    }
                    sent
                }
            };
            if let Some(sent) = sent {
                mail.delivered += 1;
                self.hand_over(member, &mut mail, sent, durable_seq);
            }
        }
    }

    /// The record of a redelivery: `None` while it is being read, `Some(None)` if it is gone.
    fn find_again(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        member: &mut Member,
        seq: u64,
    ) -> Option<Option<Record>> {
        if let Some((found, record)) = member.reread.take()
            && found == seq
        {
            return Some(record);
        }
        if !self.log.contains(id, seq) {
            return Some(None);
        }
        if member.rereading == Some(seq) {
            return None;
        }
        let mut records = Vec::new();
        match self.log.read(&one(id, seq), &mut FilterMemo::default(), &mut records) {
            ReadOutcome::Ready { .. } => Some(records.pop()),
            ReadOutcome::Waiting(read) => {
                member.rereading = Some(seq);
                self.reads.insert(read, Awaiting::Redelivery(id, Arc::clone(name), seq));
                None
            }
        }
    }

    /// Puts a delivery into the parcel of who gets it.
    fn hand_over(&mut self, member: &Member, mail: &mut Mail, sent: Sent, durable_seq: u64) {
        let Sent { session, reply, delivery, wait_durable } = sent;
        let waits = wait_durable || delivery.record.seq > durable_seq;
        let bytes = delivery.charge();
        let mut give = |session, token, delivery| {
            if let Some(last) = mail.parcels.last_mut()
                && last.session == session
                && last.token == token
                && last.waits == waits
            {
                last.deliveries.push(delivery);
            } else {
                mail.parcels.push(Parcel { session, token, deliveries: vec![delivery], waits });
            }
        };
        match reply {
            ReplyTo::Session(token) => {
                self.sessions.handed(session, bytes);
                give(session, token, delivery);
            }
            ReplyTo::Subject(subject) => {
                let group = member.consumer.config().deliver_group.as_deref();
                for (session, token) in self.listeners(&subject, group) {
                    self.sessions.handed(session, bytes);
                    give(session, token, delivery.clone());
                }
            }
        }
    }

    /// Who gets the next message to `subject`, counted. With a group: one of its members.
    fn listeners(&mut self, subject: &str, group: Option<&str>) -> Vec<(SessionId, Token)> {
        let mut route = self.router.find(subject);
        if let Some(group) = group {
            route.plain.clear();
            route.queues.retain(|members| {
                let queue = members.first().and_then(|id| self.router.get(*id));
                queue.is_some_and(|s| s.queue.as_deref() == Some(group))
            });
        }
        let mut chosen = Vec::new();
        self.router.receivers(&route, SERVER, true, &mut self.rng, &mut chosen);
        chosen.into_iter().filter_map(|id| self.router.count_delivery(id, 1)).collect()
    }

    /// Whether the sessions that listen to a push consumer can take more.
    fn push_has_room(&self, member: &Member) -> bool {
        let Some(subject) = member.consumer.config().deliver_subject.as_deref() else {
            return false;
        };
        let route = self.router.find(subject);
        let limit = self.limits.max_session_deliveries;
        let mut ids = route.plain.iter().chain(route.queues.iter().flatten());
        ids.any(|id| self.router.get(*id).is_some_and(|s| self.sessions.has_room(s.session, limit)))
    }

    /// Before delivering: pulls without listeners go; the server pulls for a push consumer.
    fn update_pulls(&mut self, member: &mut Member) {
        let ended = self.router.ended();
        if member.checked != ended {
            member.checked = ended;
            let router = &self.router;
            member.consumer.drop_unheard_pulls(|subject| router.has_interest(subject));
            member.pushing &= member.consumer.num_waiting() > 0;
        }
        let config = member.consumer.config();
        let Some(subject) = config.deliver_subject.clone().filter(|_| !member.pushing) else {
            return;
        };
        if !self.is_listened_to(&subject, config.deliver_group.as_deref()) {
            return;
        }
        let heartbeat = (!config.idle_heartbeat.is_zero()).then_some(config.idle_heartbeat);
        let path = Arc::clone(member.consumer.path());
        let pull = Pull {
            reply: ReplyTo::Subject(subject),
            stream: path.stream.clone(),
            consumer: path.consumer.clone(),
            batch: PUSH_BATCH,
            max_bytes: 0,
            expires: None,
            no_wait: false,
            heartbeat,
            renewable: true,
        };
        member.consumer.pull(self.now, SERVER, pull);
        member.pushing = true;
    }

    fn is_listened_to(&self, subject: &str, group: Option<&str>) -> bool {
        let route = self.router.find(subject);
        match group {
            None => !route.has_no_subscriptions(),
            Some(group) => route.queues.iter().any(|members| {
                let queue = members.first().and_then(|id| self.router.get(*id));
                queue.is_some_and(|s| s.queue.as_deref() == Some(group))
            }),
        }
    }

    /// Tells a status to who waits for it.
    pub(super) fn tell_status(&mut self, (session, reply, status): StatusFor) {
        match reply {
            ReplyTo::Session(token) => {
                self.outbox.send_in_order(session, Event::PullStatus { token, status });
            }
            ReplyTo::Subject(subject) => {
                for (session, token) in self.listeners(&subject, None) {
                    let status = status.clone();
                    self.outbox.send_in_order(session, Event::PullStatus { token, status });
                }
            }
        }
    }

    /// The same, once everything decided so far is durable.
    pub(super) fn tell_status_when_durable(&mut self, (session, reply, status): StatusFor) {
        let to = match reply {
            ReplyTo::Session(token) => vec![(session, token)],
            ReplyTo::Subject(subject) => self.listeners(&subject, None),
        };
        for (session, token) in to {
            let status = status.clone();
            self.outbox.send_when_durable(session, Event::PullStatus { token, status });
        }
    }

    /// A consumer's deadline has passed.
    pub(super) fn consumer_timeout(&mut self, id: StreamId, name: &Arc<str>) {
        let now = self.now;
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        let unused = member.consumer.timeout(now);
        if unused && !self.is_bound(id, name) {
            self.remove_consumer(id, name);
            self.drop_unwanted(id);
            return;
        }
        self.mourning.insert((id, Arc::clone(name)));
        self.stirred.insert((id, Arc::clone(name)));
    }

    /// Whether a push consumer's subject has a listener.
    pub(super) fn is_bound(&self, id: StreamId, name: &str) -> bool {
        self.catalog.get(id).and_then(|s| s.consumers.get(name)).is_some_and(|member| {
            let config = member.consumer.config();
            config.deliver_subject.as_deref().is_some_and(|subject| {
                self.is_listened_to(subject, config.deliver_group.as_deref())
            })
        })
    }

    /// Records that a consumer waited for.
    pub(super) fn feed(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        read: ReadId,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        if !member.consumer.finish_reading(read) {
            return;
        }
        match result {
            Ok(batch) => member.consumer.feed(batch.records, batch.next),
            Err(ReadError::Damaged { last, file, .. }) => {
                let why = format!("sequences up to {last} are damaged in {file}");
                member.consumer.damaged(last, why);
                let _ = member.consumer.take_damage();
                tracing::error!(stream = %member.consumer.path().stream, last, file,
                    "a damaged part of a stream is passed over by a consumer; run `claudebus verify`");
            }
            Err(error) => {
                // The read is tried again with the next pull or message.
                tracing::error!(%error, "a consumer's read failed");
                return;
            }
        }
        self.stirred.insert((id, Arc::clone(name)));
    }

    /// The record of a redelivery was read.
    pub(super) fn redelivery_read(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        seq: u64,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        if member.rereading != Some(seq) {
            return;
        }
        member.rereading = None;
        match result {
            Ok(mut batch) => member.reread = Some((seq, batch.records.pop())),
            Err(error) => {
                tracing::error!(%error, "a message to be delivered again cannot be read");
                member.consumer.give_up(seq, DeadReason::Unreadable(error.to_string()));
                self.mourning.insert((id, Arc::clone(name)));
            }
        }
        self.stirred.insert((id, Arc::clone(name)));
    }
}

/// A read of one record.
pub(super) fn one(stream: StreamId, seq: u64) -> ReadRequest {
    ReadRequest { stream, from: seq, to: seq, since: 0, max_records: 1, max_bytes: usize::MAX }
}

/// What deleting a record will need; the subject's number is looked up once for a row of records
/// of the same subject.
fn meta_of<L: Log>(
    log: &L,
    stream: StreamId,
    record: &Record,
    storage: claudebus_storage::record::StorageKind,
    memo: &mut Option<(Record, SubjectId)>,
) -> Option<Meta> {
    let size = record.size(storage);
    if let Some((known, subject)) = memo
        && known.subject() == record.subject()
    {
        return Some(Meta { subject: *subject, size });
    }
    let subject = log.subject(stream, record.subject())?.id;
    *memo = Some((record.clone(), subject));
    Some(Meta { subject, size })
}
