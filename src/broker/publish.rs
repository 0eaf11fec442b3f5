//! Storing messages: the checks of a publish in JetStream's order, and what publishers are told. Consumers
//! hear of what is stored at the end of a run (see `run.rs`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claudebus_storage::{Fingerprint, Log, NewRecord, StreamId};

use crate::model::batch::{MessageBatch, MessageView};
use crate::model::error::ApiError;
use crate::model::event::{Event, Published};
use crate::model::headers;
use crate::model::request::{ProducerId, SessionId};
use crate::model::transform::Transform;

use super::Broker;
use super::counting::{Counted, Total, is_unread};
use super::producers::{Producer, Seen, Stored};
use super::puback;
use super::run::Run;
use super::staging::{Staged, batch_of};
use super::state;
use super::stream::Stream;
use super::stream::asked::{Asked, Rollup};
use super::stream::timetable::Entry;

/// What was found out about a message before it is stored: the stream takes it, or it was stored
/// before, at this sequence.
pub(super) type Checked<'m> = Result<New<'m>, u64>;

/// A message that its stream takes.
pub(super) struct New<'m> {
    pub(super) asked: Asked<'m>,
    /// It is a schedule.
    planned: Option<Entry>,
    fingerprint: Option<Fingerprint>,
    /// What is stored in its place, if it is a counter's.
    pub(super) counted: Option<Counted>,
}

impl<'m> New<'m> {
    pub(super) fn of(
        asked: Asked<'m>,
        planned: Option<Entry>,
        fingerprint: Option<Fingerprint>,
    ) -> Self {
        Self { asked, planned, fingerprint, counted: None }
    }

    pub(super) fn set_counted(&mut self, counted: Counted) {
        self.counted = Some(counted);
    }

    /// What its counter comes to.
    pub(super) fn total(&self) -> Option<&Total> {
        self.counted.as_ref().map(|counted| &counted.total)
    }

    /// Whether it has an id by which it is known again.
    pub(super) fn has_id(&self) -> bool {
        self.fingerprint.is_some()
    }
}

/// What became of a message of a NATS client that a stream captures.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It is stored, or was before; and what its counter has come to.
    Stored(Placed, Option<String>),
    /// It is of a batch.
    Staged(Staged),
}

/// Where a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) stream: StreamId,
    pub(super) seq: u64,
    pub(super) duplicate: bool,
}

impl<L: Log> Broker<L> {
    /// Stores numbered messages.
    pub(super) fn publish(
        &mut self,
        from: SessionId,
        id: ProducerId,
        first: u64,
        batch: &MessageBatch,
    ) {
        let mut producer = self.producers.take(id);
        let mut notes = Vec::new();
        let mut run: Option<Run<'_>> = None;
        let mut ranges = Vec::new();
        for (counter, message) in (first..).zip(batch.iter()) {
            let outcome = match producer.seen(counter) {
                Seen::Stored(stream, seq) => Ok(Placed { stream, seq, duplicate: true }),
                Seen::Forgotten => Err(ApiError::duplicate_too_old()),
                Seen::New => {
                    self.turn_to(&mut run, message.subject);
                    run.as_mut().map_or(Err(ApiError::no_stream_matches()), |run| {
                        if run.route.has_wildcard {
                            return Err(ApiError::invalid_subject(run.subject));
                        }
                        self.deliver_core(from, &run.route, batch, &message, true);
                        self.store(run, &message)
                    })
                }
            };
            match outcome {
                Ok(placed) => add(&mut ranges, counter, placed),
                Err(error) => {
                    self.tell_published(from, &mut ranges, &mut producer, &mut notes);
                    self.outbox.send_when_durable(from, Event::Refused { counter, error });
                }
            }
        }
        self.tell_published(from, &mut ranges, &mut producer, &mut notes);
        self.end_run(run.as_ref());
        self.keep_producer(id, producer, &notes);
    }

    /// Tells what is stored and remembers its counters.
    fn tell_published(
        &mut self,
        from: SessionId,
        ranges: &mut Vec<Published>,
        producer: &mut Producer,
        notes: &mut Vec<u8>,
    ) {
        if ranges.is_empty() {
            return;
        }
        for &Published { first, count, stream, seq, duplicate } in &*ranges {
            if !duplicate {
                let stored = Stored { first, count, stream, seq };
                producer.remember(stored, self.limits.max_producer_ranges);
                notes.extend_from_slice(&stored.encode());
            }
        }
        let unnamed = self.sessions.name_streams(from, ranges.iter().map(|range| range.stream));
        // One that is gone has lost its name.
        let name_of =
            |id| self.catalog.get(id).map_or_else(|| Arc::from(""), |s| Arc::clone(&s.name));
        let named = unnamed.into_iter().map(|id| (id, name_of(id))).collect();
        let ranges = std::mem::take(ranges);
        self.outbox.send_when_durable(from, Event::Published { named, ranges });
    }

    fn keep_producer(&mut self, id: ProducerId, producer: Producer, notes: &[u8]) {
        if !notes.is_empty() {
            let key = state::producer_key(id);
            let (base, noted) = self.log.note(&key, notes);
            if noted > base.max(state::MAX_PRODUCER_NOTES) {
                self.log.put(&key, &producer.encode());
            }
        }
        if let Some(gone) = self.producers.put(id, producer, self.limits.max_producers) {
            self.log.forget(&state::producer_key(gone));
        }
    }

    /// Stores what streams capture, and hands the rest to core subscriptions and to nobody.
    pub(super) fn send(&mut self, from: SessionId, batch: &MessageBatch, echo: bool) {
        let mut run: Option<Run<'_>> = None;
        let mut answers = BytesMut::new();
        let grant = self.sessions.grant(from);
        // Whoever may not publish somewhere does not have the server do it.
        let may_answer =
            |reply: &str| grant.as_ref().is_none_or(|grant| grant.may_direct_to(reply));
        for message in batch.iter() {
            self.turn_to(&mut run, message.subject);
            let Some(run) = run.as_mut() else { continue };
            let heard = self.deliver_core(from, &run.route, batch, &message, echo);
            if let Some(id) = run.stream {
                let answers_it =
                    !message.reply.is_empty() && run.rules.answers && may_answer(message.reply);
                let waits = run.rules.counts && self.counting.is_stalled(id);
                let outcome = if waits {
                    Err(ApiError::counter_unread())
                } else {
                    self.store_or_stage(run, &message)
                };
                let is_stalled = run.rules.counts
                    && outcome.as_ref().is_err_and(is_unread)
                    && self.stall(id, &message, answers_it);
                if answers_it && !is_stalled {
                    self.answer_publish(batch, run, &message, outcome, &mut answers);
                }
            } else if !heard && !message.reply.is_empty() {
                self.unheard(from, message.subject, message.reply);
            }
        }
        self.end_run(run.as_ref());
    }

    /// Stores a message of a NATS client, or keeps it for its batch.
    pub(super) fn store_or_stage(
        &mut self,
        run: &mut Run<'_>,
        message: &MessageView<'_>,
    ) -> Result<Outcome, ApiError> {
        if run.rules.stages
            && let (Some(id), Some(batch)) = (run.stream, batch_of(message.headers))
        {
            // What the batch leads to comes behind what was published before it.
            self.end_run(Some(run));
            (run.stored, run.told, run.last_is_bare) = (0, 0, false);
            // Statuses are the server's to send, as in `store_checked`.
            let headers = headers::without_status(message.headers);
            let message = &MessageView { headers: &headers, ..*message };
            return self.stage(id, batch, message).map(Outcome::Staged);
        }
        let placed = self.store(run, message)?;
        Ok(Outcome::Stored(placed, run.total.take()))
    }

    /// JetStream's JSON answer to a publish, to the message's reply subject.
    pub(super) fn answer_publish(
        &mut self,
        batch: &MessageBatch,
        run: &Run<'_>,
        message: &MessageView<'_>,
        outcome: Result<Outcome, ApiError>,
        buffer: &mut BytesMut,
    ) {
        let Some(stream) = run.stream.and_then(|id| self.catalog.get(id)) else { return };
        let domain = self.names.domain.as_deref();
        let body = puback::body(&stream.name, domain, outcome, buffer);
        self.answer_subject(batch.slice(message.reply.as_bytes()), Bytes::new(), body);
    }

    /// Stores one message, if its stream takes it.
    pub(super) fn store(
        &mut self,
        run: &mut Run<'_>,
        message: &MessageView<'_>,
    ) -> Result<Placed, ApiError> {
        let Some(stream) = run.stream else {
            return Err(if crate::model::subject::is_publishable(run.subject) {
                ApiError::no_stream_matches()
            } else {
                ApiError::invalid_subject(run.subject)
            });
        };
        let size = message.headers.len() + message.payload.len();
        if size > self.limits.max_payload {
            return Err(ApiError::payload_too_large(self.limits.max_payload));
        }
        if !run.rules.plain || !message.headers.is_empty() {
            return self.store_checked(run, stream, message);
        }
        if size > run.rules.max_message {
            return Err(ApiError::message_too_large());
        }
        if run.no_space {
            return Err(ApiError::storage_exceeded());
        }
        let record = NewRecord {
            subject: run.subject,
            headers: b"",
            payload: message.payload,
            time: run.time(),
            expires: None,
            message_id: None,
        };
        let seq = self.log.append(stream, &record).map_err(|_| ApiError::id_window_full())?;
        run.stored += 1;
        run.last_is_bare = true;
        run.last_seq = seq;
        Ok(Placed { stream, seq, duplicate: false })
    }

    /// Stores a message that may be refused or change what the stream holds.
    fn store_checked(
        &mut self,
        run: &mut Run<'_>,
        id: StreamId,
        message: &MessageView<'_>,
    ) -> Result<Placed, ApiError> {
        if std::mem::take(&mut run.last_is_bare)
            && let Some(stream) = self.catalog.get_mut(id)
        {
            stream.last_message_id.clear();
        }
        let is_random =
            |stream: &Stream| stream.transform.as_ref().is_some_and(Transform::is_random);
        if self.catalog.get(id).is_some_and(is_random) {
            // Messages of one subject may be stored under several.
            self.end_run(Some(run));
            (run.stored, run.told) = (0, 0);
            run.mapped = self.map_subject(Some(id), run.subject);
        }
        // Statuses are the server's to send; a client that publishes one has the rest of its block kept.
        let headers = headers::without_status(message.headers);
        let message = &MessageView { headers: &headers, ..*message };
        match self.check(run, id, message)? {
            Err(seq) => Ok(Placed { stream: id, seq, duplicate: true }),
            Ok(checked) => self.place(run, id, message, checked),
        }
    }

    /// Whether a stream takes a message, in JetStream's order of checks.
    pub(super) fn check<'m>(
        &mut self,
        run: &Run<'_>,
        id: StreamId,
        message: &MessageView<'m>,
    ) -> Result<Checked<'m>, ApiError> {
        let asked = Asked::parse(message.headers)?;
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if asked.is_copy {
            return Err(ApiError::stream_source_header());
        }
        if asked.is_in_batch {
            // To store it as a message of its own would break what was meant.
            return Err(ApiError::batches_disabled());
        }
        let increment = Self::check_increment(stream, &asked, message)?;
        self.check_expectations(stream, run.stored_as(), &asked)?;
        let planned = self.plan(id, run.stored_as(), &asked)?;
        let fingerprint = asked.message_id.map(|text| self.id_key.fingerprint(text));
        if let Some(fingerprint) = fingerprint
            && let Some(seq) = self.log.recall(id, fingerprint, run.time())
        {
            return Ok(Err(seq));
        }
        let mut new = New::of(asked, planned, fingerprint);
        if let Some(increment) = increment {
            self.count_up(id, run.stored_as(), message.headers, &increment, None, &mut new)?;
        }
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        self.check_rest(stream, run, &new, message)?;
        Ok(Ok(new))
    }

    /// Stores a message that was checked. Nothing is stored if its id cannot be remembered, which is
    /// all that can fail.
    pub(super) fn place(
        &mut self,
        run: &mut Run<'_>,
        id: StreamId,
        message: &MessageView<'_>,
        New { asked, planned, fingerprint, counted }: New<'_>,
    ) -> Result<Placed, ApiError> {
        let message = as_stored(message, counted.as_ref());
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        let window = u64::try_from(stream.config.duplicate_window.as_nanos()).unwrap_or(u64::MAX);
        let mapped = run.mapped.clone();
        let subject = mapped.as_deref().unwrap_or(run.subject);
        let republishes = stream.republish.is_some();
        let record = NewRecord {
            subject,
            headers: message.headers,
            payload: message.payload,
            time: run.time(),
            expires: asked.ttl.map(|ttl| ttl.expires(run.time())),
            message_id: fingerprint
                .filter(|_| window > 0)
                .map(|id| (id, run.time().saturating_add(window))),
        };
        // A schedule is wanted by the stream itself.
        let unwanted = planned.is_none()
            && stream.config.retention == crate::model::stream::Retention::Interest
            && !self.has_interest(stream, subject);
        let before = if republishes { self.last_of_subject(id, subject) } else { 0 };
        let seq = if unwanted {
            self.use_up_sequence(id, &record)?
        } else {
            let seq = self.log.append(id, &record).map_err(|_| ApiError::id_window_full())?;
            run.stored += 1;
            seq
        };
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.last_message_id.clear();
            stream.last_message_id.push_str(asked.message_id.unwrap_or_default());
        }
        if unwanted {
            if let Some(stream) = self.catalog.get_mut(id) {
                stream.last_unkept = (seq, run.time());
            }
            return Ok(Placed { stream: id, seq, duplicate: false });
        }
        if let Some(Counted { total, .. }) = &counted {
            run.total = Some(total.value.to_string());
            self.counting.keep(id, subject, seq, total.clone());
        }
        let rollup = if planned.is_some() { Some(Rollup::Subject) } else { asked.rollup };
        self.note_schedule(id, subject, seq, &asked, planned);
        if rollup.is_some() || republishes {
            // Consumers hear of a message before they hear that it is gone, or of later ones.
            self.tell_appended(id, subject, run.stored - run.told);
            run.told = run.stored;
        }
        match rollup {
            None => {}
            Some(Rollup::Subject) => self.roll_up(id, Some(subject), seq),
            Some(Rollup::All) => self.roll_up(id, None, seq),
        }
        if asked.ttl.is_some() {
            self.schedule_expiry(id);
        }
        if republishes {
            self.republish(id, &record, seq, before);
        }
        Ok(Placed { stream: id, seq, duplicate: false })
    }

    /// A message that nobody wants uses up a sequence and is not kept; its id is, as in JetStream.
    fn use_up_sequence(&mut self, id: StreamId, record: &NewRecord<'_>) -> Result<u64, ApiError> {
        if record.message_id.is_none() {
            let seq = self.log.stream(id).map_or(0, |held| held.last_seq) + 1;
            self.log.skip(id, seq);
            return Ok(seq);
        }
        // An id is remembered with a record, so there is one for a moment.
        let record = NewRecord { headers: b"", payload: b"", expires: None, ..*record };
        let seq = self.log.append(id, &record).map_err(|_| ApiError::id_window_full())?;
        let storage = self.catalog.get(id).map(Stream::storage).unwrap_or_default();
        if let Some(summary) = self.log.subject(id, record.subject) {
            self.log.delete(id, seq, summary.id, storage.size(record.subject.len(), 0, 0));
        }
        Ok(seq)
    }
}

/// A message as it is stored.
pub(super) fn as_stored<'a>(
    message: &MessageView<'a>,
    counted: Option<&'a Counted>,
) -> MessageView<'a> {
    let Some(Counted { payload, headers, .. }) = counted else { return *message };
    MessageView { headers: headers.as_deref().unwrap_or(message.headers), payload, ..*message }
}

/// Adds the message `counter`, which follows all in `ranges`, to the last range or behind it.
fn add(ranges: &mut Vec<Published>, counter: u64, placed: Placed) {
    let Placed { stream, seq, duplicate } = placed;
    match ranges.last_mut() {
        Some(last)
            if last.stream == stream
                && last.duplicate == duplicate
                && last.seq + last.count == seq =>
        {
            last.count += 1;
        }
        _ => ranges.push(Published { first: counter, count: 1, stream, seq, duplicate }),
    }
}
