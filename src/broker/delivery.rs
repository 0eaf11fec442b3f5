//! Between consumers, the log and sessions: reading what consumers want, handing out what they
//! deliver.

use std::sync::Arc;

use claudebus_storage::log::ReadRequest;
use claudebus_storage::record::StorageKind;
use claudebus_storage::{Log, Record, StreamId, SubjectId};

use crate::model::consumer::{AckPolicy, Idle};
use crate::model::event::{Delivery, Event};
use crate::model::request::{ReplyTo, SessionId, Token};

use super::consumer::{Rest, RowLimit, Settled, Want, Way};
use super::member::Member;
use super::reading::meta_of;
use super::router::{Route, SubscriptionId};
use super::sessions::{ConsumerKey, SERVER, Sessions};
use super::state;
use super::turns::Turn;
use super::{Broker, Deadline};

/// Deliveries of one consumer in one turn, so that others have theirs.
const TURN_DELIVERIES: usize = 8192;

/// A row of messages is no longer than this part of what a session may hold: its room is looked at
/// before each row. 64: rows of 16 KiB, some seventy small messages.
const ROW_PART: usize = 64;

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
    /// The deliveries of one step. Its memory is the broker's.
    row: Vec<Delivery>,
    /// Deliveries that need no acknowledgement, where the stream keeps messages for those.
    settled: Vec<Settled>,
    /// Who listens to a reply subject, looked up once for a row of deliveries to it.
    address: Option<(String, Route)>,
    chosen: Vec<SubscriptionId>,
    /// The number of a subject, looked up once for a row of records of it.
    subject: Option<(Record, SubjectId)>,
}

impl Mail {
    /// Adds deliveries to the last parcel if they go the same way, otherwise to a new one.
    fn add(
        &mut self,
        to: (SessionId, Token),
        waits: bool,
        row: impl IntoIterator<Item = Delivery>,
    ) {
        if let Some(last) = self.parcels.last_mut()
            && (last.session, last.token, last.waits) == (to.0, to.1, waits)
        {
            last.deliveries.extend(row);
        } else {
            let deliveries = row.into_iter().collect();
            self.parcels.push(Parcel { session: to.0, token: to.1, deliveries, waits });
        }
    }
}

/// Characters of the name that a pinned client has: as many as nats-server's, and no more to be guessed.
const PIN_LENGTH: usize = 22;

/// What holds for a stream during one turn of a consumer.
struct Terms {
    storage: StorageKind,
    /// Whether settled messages are deleted.
    deletes: bool,
    durable_seq: u64,
    last_seq: u64,
}

impl<L: Log> Broker<L> {
    /// Delivers for the consumers whose turn it is.
    pub(super) fn deliver_all(&mut self) {
        for Turn { stream: id, place, .. } in self.turns.take(self.now.monotonic) {
            let taken = self.catalog.get_mut(id).and_then(|s| s.consumers.begin_turn(place));
            let Some((name, mut member)) = taken else { continue };
            let listeners = self.hear_of_gaps(id, &member);
            // A sign of life tells how far deliveries had come when it was due.
            let due = member.take_statuses();
            let mail = self.deliver(id, &name, &mut member);
            self.tell_gaps(id, &mut member, &listeners);
            let statuses = member.take_statuses();
            let pins = member.consumer.take_pin_changes();
            self.keep_progress(&mut member);
            let deadline = member.consumer.poll_timeout(self.now);
            self.schedule.set(Deadline::Consumer(id, Arc::clone(&name)), deadline);
            let question = self.question_of_flow(&mut member);
            let path = Arc::clone(member.consumer.path());
            let key = (id, Arc::clone(&name));
            if let Some(stream) = self.catalog.get_mut(id) {
                stream.consumers.put_back(place, member);
            }
            due.into_iter().for_each(|status| self.tell_status(status));
            pins.iter().for_each(|change| self.advise_pin(&path, change));
            let Mail { parcels, settled, row, .. } = mail;
            self.row = row;
            for parcel in parcels {
                let Parcel { session, token, deliveries, waits } = parcel;
                self.sessions.takes_from(session, None, &key);
                let event = Event::Deliver { token, consumer: Arc::clone(&path), deliveries };
                if waits {
                    self.outbox.send_when_durable(session, event);
                } else {
                    self.outbox.send_in_order(session, event);
                }
            }
            question.into_iter().for_each(|question| self.ask_listeners(question));
            statuses.into_iter().for_each(|status| self.tell_status(status));
            self.discard_settled(id, &settled);
        }
    }

    /// Writes what was settled of a consumer to the log's state, if its turn has not done so.
    pub(super) fn keep_settled(&mut self, (id, name): &ConsumerKey) {
        let taken = self.catalog.get_mut(*id).and_then(|s| s.consumers.take(name));
        let Some((place, mut member)) = taken else { return };
        self.keep_progress(&mut member);
        if let Some(stream) = self.catalog.get_mut(*id) {
            stream.consumers.put_back(place, member);
        }
    }

    /// Writes what changed in a consumer to the log's state.
    pub(super) fn keep_progress(&mut self, member: &mut Member) {
        if member.flowing && member.consumer.may_note_later() {
            return;
        }
        if let Some(notes) = member.consumer.take_notes() {
            let (base, noted) = self.log.note(member.key(), &notes);
            if noted > base.max(state::MAX_NOTES) {
                self.log.put(member.key(), &member.consumer.base());
            }
        }
    }

    fn terms_of(&self, id: StreamId) -> Option<Terms> {
        let stream = self.catalog.get(id)?;
        Some(Terms {
            storage: stream.storage(),
            deletes: stream.deletes_settled(),
            durable_seq: stream.durable_seq,
            last_seq: self.log.stream(id)?.last_seq,
        })
    }

    /// Delivers what a consumer has for its pulls.
    fn deliver(&mut self, id: StreamId, name: &Arc<str>, member: &mut Member) -> Mail {
        let mut mail = Mail { row: std::mem::take(&mut self.row), ..Mail::default() };
        if let Some(terms) = self.terms_of(id) {
            self.deliver_until_idle(id, name, member, &terms, &mut mail);
        }
        mail
    }

    fn deliver_until_idle(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        member: &mut Member,
        terms: &Terms,
        mail: &mut Mail,
    ) {
        self.update_pulls(member);
        if member.consumer.wants_pin() {
            member.consumer.supply_pin(&self.draw_name(PIN_LENGTH));
        }
        let push = member.is_pushing().then(|| self.push_route(member));
        while mail.delivered < TURN_DELIVERIES {
            let pushes = !member.is_stalled()
                && push.as_ref().is_some_and(|route| self.listeners_have_room(route));
            let limit = self.limits.max_session_deliveries;
            let want = member.consumer.want(
                self.now,
                terms.last_seq,
                &who_has_room(&self.sessions, pushes, limit),
            );
            let way = match want {
                Want::Nothing(rest) => {
                    member.flowing = rest == Rest::Going;
                    return;
                }
                Want::Read { from, to, records, bytes } => {
                    let (max_records, max_bytes) = (records, bytes);
                    let stream = id;
                    let read = ReadRequest { stream, from, to, since: 0, max_records, max_bytes };
                    self.read_for(name, member, &read);
                    continue;
                }
                Want::Gather { seqs, bytes } => {
                    self.gather_for(id, name, member, (&seqs, bytes));
                    continue;
                }
                Want::Redeliver { seq } => match self.find_again(id, name, member, seq) {
                    None => {
                        member.flowing = true;
                        return;
                    }
                    Some(None) => {
                        member.consumer.lost(seq);
                        continue;
                    }
                    Some(Some(record))
                        if member.consumer.is_held(seq)
                            && !member.filter().matches(record.subject()) =>
                    {
                        // The filters changed while it was held back.
                        member.consumer.lost(seq);
                        continue;
                    }
                    Some(Some(record)) => self.redeliver(id, member, terms, mail, pushes, record),
                },
                Want::Deliver => match self.end_of_row(member, terms, mail) {
                    Some(last) => self.deliver_row(id, member, terms, mail, pushes, last),
                    None => {
                        member.flowing = true;
                        break;
                    }
                },
            };
            if let Some(way) = way {
                if let Some(flow) = &mut member.flow {
                    flow.sent(mail.row.iter().map(|d| Delivery::pull_bytes(&d.record)).sum());
                }
                self.hand_over(member, mail, way, terms.durable_seq);
            }
        }
        self.stir(id, name);
    }

    /// The highest sequence that may be delivered now of what was read; `None` if that waits for another turn.
    ///
    /// While consumers gather their messages, those that are not durable yet stay for the next turn, unless there
    /// is nothing else: they would have to leave later, as a second row that costs as much as the first. A pull
    /// that does not wait gets all there is now, and ends.
    fn end_of_row(&self, member: &Member, terms: &Terms, mail: &Mail) -> Option<u64> {
        match member.consumer.next_fetched().filter(|_| self.turns.is_pacing()) {
            Some(seq) if seq <= terms.durable_seq => Some(terms.durable_seq),
            Some(_) if mail.delivered > 0 && !member.consumer.has_no_wait() => None,
            _ => Some(u64::MAX),
        }
    }

    /// Delivers a row of what was read, up to the sequence `last`.
    fn deliver_row(
        &self,
        id: StreamId,
        member: &mut Member,
        terms: &Terms,
        mail: &mut Mail,
        pushes: bool,
        last: u64,
    ) -> Option<Way> {
        let Mail { row, settled, subject, .. } = mail;
        let is_settled = terms.deletes && member.consumer.ack_policy() == AckPolicy::None;
        let meta_of = |record: &Record| {
            if !terms.deletes {
                return None;
            }
            let meta = meta_of(&self.log, id, record, terms.storage, subject);
            if is_settled {
                settled.push(Settled { seq: record.seq, meta });
            }
            meta
        };
        let limit = self.limits.max_session_deliveries;
        let open = who_has_room(&self.sessions, pushes, limit);
        let limit = RowLimit { bytes: limit / ROW_PART, last };
        member.consumer.deliver(self.now, &open, limit, meta_of, row)
    }

    fn redeliver(
        &self,
        id: StreamId,
        member: &mut Member,
        terms: &Terms,
        mail: &mut Mail,
        pushes: bool,
        record: Record,
    ) -> Option<Way> {
        let Mail { row, subject, .. } = mail;
        let meta = if terms.deletes {
            meta_of(&self.log, id, &record, terms.storage, subject)
        } else {
            None
        };
        let open = who_has_room(&self.sessions, pushes, self.limits.max_session_deliveries);
        member.consumer.redeliver(self.now, &open, record, meta, row)
    }

    /// Puts the row into the parcels of who gets it.
    fn hand_over(&mut self, member: &Member, mail: &mut Mail, way: Way, durable_seq: u64) {
        let Way { session, reply, wait_durable } = way;
        let mut row = std::mem::take(&mut mail.row);
        mail.delivered += row.len();
        // What is durable does not wait for what is not.
        let durable = match wait_durable {
            true => 0,
            false => row.partition_point(|delivery| delivery.record.seq <= durable_seq),
        };
        match reply {
            ReplyTo::Session(token) => {
                self.sessions.handed(session, row.iter().map(Delivery::charge).sum());
                let to = (session, token);
                if durable > 0 {
                    mail.add(to, false, row.drain(..durable));
                }
                if !row.is_empty() {
                    mail.add(to, true, row.drain(..));
                }
            }
            ReplyTo::Subject(subject) => {
                for (at, delivery) in row.drain(..).enumerate() {
                    self.hand_to_listeners(member, mail, &subject, at >= durable, &delivery);
                }
            }
        }
        mail.row = row;
    }

    fn hand_to_listeners(
        &mut self,
        member: &Member,
        mail: &mut Mail,
        subject: &str,
        waits: bool,
        delivery: &Delivery,
    ) {
        if mail.address.as_ref().is_none_or(|(known, _)| known != subject) {
            let group = member.consumer.config().deliver_group.as_deref();
            let route = self.route_to(subject, group);
            mail.address = Some((subject.to_owned(), route));
        }
        let Some((_, route)) = &mail.address else { return };
        let mut chosen = std::mem::take(&mut mail.chosen);
        self.router.receivers(route, SERVER, true, &mut self.rng, &mut chosen);
        for id in chosen.drain(..) {
            if let Some(to) = self.router.count_delivery(id, 1) {
                self.sessions.handed(to.0, delivery.charge());
                mail.add(to, waits, [delivery.clone()]);
            }
        }
        mail.chosen = chosen;
    }
}

impl<L: Log> Broker<L> {
    /// Why a consumer delivers nothing at this moment.
    pub(super) fn why_idle(&self, id: StreamId, member: &Member) -> Idle {
        if member.dead_letters_full {
            return Idle::DeadLettersFull;
        }
        let pushes = member.is_pushing()
            && !member.is_stalled()
            && self.listeners_have_room(&self.push_route(member));
        let open = who_has_room(&self.sessions, pushes, self.limits.max_session_deliveries);
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        match (&member.damage, member.consumer.why_idle(self.now, last, &open)) {
            // It has delivered all it can, and that was not all there is.
            (Some(why), Idle::EndOfStream | Idle::FilterMatchesNothing) => {
                Idle::Damaged(why.clone())
            }
            (_, idle) => idle,
        }
    }
}

/// Which sessions can take deliveries: `pushes` says it of those that push consumers go to.
fn who_has_room(
    sessions: &Sessions,
    pushes: bool,
    limit: usize,
) -> impl Fn(SessionId) -> bool + '_ {
    move |session| if session == SERVER { pushes } else { sessions.has_room(session, limit) }
}
