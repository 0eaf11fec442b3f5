//! Dead letters: messages that a consumer gave up, kept in `DLQ_<stream>` until someone looks.
//!
//! The dead letter and the settling of the message at its source are one group: a message is in
//! exactly one of both places. A late acknowledgement wins until then.

use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::log::{Filter, FilterMemo, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, NewRecord, Pressure, Record, StreamId};

use crate::model::api::{ApiRequest, ApiResponse, DeadLetter, DeadOptions, LIST_PAGE};
use crate::model::error::ApiError;
use crate::model::event::ConsumerPath;
use crate::model::headers::{Block, get, names};
use crate::model::request::{SessionId, Token};
use crate::model::stream::{DeadLetters, Discard, StreamConfig};
use crate::model::subject::matches;
use crate::model::time::Timestamp;

use super::api::stored_message;
use super::consumer::{DeadReason, Dying};
use super::jobs::{Progress, Task};
use super::reading::one;
use super::stream::Stream;
use super::stream::ttl::Ttl;
use super::{Awaiting, Broker, Deadline};

/// How long a message waits before a full dead-letter stream is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// What the names of dead-letter streams begin with.
const PREFIX: &str = "DLQ_";
/// Names that are tried for a dead-letter stream.
const NAMES: u32 = 9;
/// Headers about a death, which a second death replaces and a return to life removes.
const DEATH: [&str; 8] = [
    names::DEAD_REASON,
    names::DEAD_STREAM,
    names::DEAD_CONSUMER,
    names::DEAD_SUBJECT,
    names::DEAD_SEQUENCE,
    names::DEAD_ATTEMPTS,
    names::DEAD_FIRST,
    names::DEAD_LAST,
];

/// What the dead-letter stream of `stream` may be named: `DLQ_<stream>`, or that with a number where
/// somebody made a stream of that name for other messages.
fn dead_streams(stream: &str) -> impl Iterator<Item = String> {
    (1..=NAMES).map(move |number| match number {
        1 => format!("{PREFIX}{stream}"),
        _ => format!("{PREFIX}{stream}_{number}"),
    })
}

/// Whether a stream of that name captures what consumers of `stream` give up.
fn is_dead_stream_of(target: &Stream, stream: &str) -> bool {
    let letter = format!("$DLQ.{stream}.consumer");
    target.config.subjects.iter().any(|own| matches(own, &letter))
}

/// Whether burying can go on with the next message.
enum Burial {
    Done,
    /// The record is being read.
    Reading,
    /// The dead letters are full.
    Full,
}

impl<L: Log> Broker<L> {
    /// Takes care of all messages that consumers gave up in this turn.
    pub(super) fn bury_the_dead(&mut self) {
        for (id, name) in std::mem::take(&mut self.mourning) {
            self.bury_all_of(id, &name);
        }
    }

    fn bury_all_of(&mut self, id: StreamId, name: &Arc<str>) {
        loop {
            let found = self.catalog.get_mut(id).and_then(|stream| {
                let (_, member) = stream.member_mut(name)?;
                if member.burying.is_some() {
                    return None;
                }
                let Some(dying) = member.consumer.next_dying() else {
                    // Late acknowledgements may have settled what waited for room.
                    member.dead_letters_full = false;
                    return None;
                };
                Some((dying, Arc::clone(member.consumer.path())))
            });
            let Some((dying, path)) = found else { return };
            match self.bury(id, name, &path, &dying) {
                Burial::Done => {}
                Burial::Reading => return,
                Burial::Full => {
                    self.postpone_burial(id, name, dying.seq);
                    return;
                }
            }
        }
    }

    fn bury(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        path: &ConsumerPath,
        dying: &Dying,
    ) -> Burial {
        if !self.keeps_dead_letters(id) || !self.log.contains(id, dying.seq) {
            self.settle_dead(id, name, path, dying, false);
            return Burial::Done;
        }
        if let DeadReason::Unreadable(_) = dying.reason {
            return self.bury_record(id, name, path, dying, None);
        }
        let mut records = Vec::new();
        match self.log.read(&one(id, dying.seq), &mut FilterMemo::default(), &mut records) {
            ReadOutcome::Ready { .. } => self.bury_record(id, name, path, dying, records.first()),
            ReadOutcome::Waiting(read) => {
                self.reads.insert(read, Awaiting::Burial(id, Arc::clone(name), dying.seq));
                if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name))
                {
                    member.burying = Some(dying.seq);
                }
                Burial::Reading
            }
        }
    }

    /// The record of a message that was given up was read.
    pub(super) fn burial_read(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        seq: u64,
        result: Result<ReadBatch, ReadError>,
    ) {
        let found = self.catalog.get_mut(id).and_then(|stream| {
            let (_, member) = stream.member_mut(name)?;
            (member.burying.take() == Some(seq)).then_some(())?;
            let dying = member.consumer.next_dying().filter(|dying| dying.seq == seq)?;
            Some((dying, Arc::clone(member.consumer.path())))
        });
        self.mourning.insert((id, Arc::clone(name)));
        // A late acknowledgement may have come first.
        let Some((mut dying, path)) = found else { return };
        let burial = match result {
            Ok(batch) => self.bury_record(id, name, &path, &dying, batch.records.first()),
            Err(error) => {
                dying.reason = DeadReason::Unreadable(error.to_string());
                self.bury_record(id, name, &path, &dying, None)
            }
        };
        if let Burial::Full = burial {
            self.mourning.remove(&(id, Arc::clone(name)));
            self.postpone_burial(id, name, seq);
        }
    }

    /// Appends the dead letter, a pointer if there is no record, and settles the message.
    fn bury_record(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        path: &ConsumerPath,
        dying: &Dying,
        record: Option<&Record>,
    ) -> Burial {
        if !self.append_dead(id, path, dying, record) {
            return Burial::Full;
        }
        self.settle_dead(id, name, path, dying, true);
        Burial::Done
    }

    /// Appends a dead letter. Returns whether there was room.
    fn append_dead(
        &mut self,
        id: StreamId,
        path: &ConsumerPath,
        dying: &Dying,
        record: Option<&Record>,
    ) -> bool {
        let Some(target) = self.dead_stream_of(id) else { return false };
        let subject = format!("$DLQ.{}.{}", path.stream, path.consumer);
        let headers = self.dead_headers(path, dying, record);
        let payload = record.map(Record::payload_bytes).unwrap_or_default();
        let room = self.catalog.get(target).is_some_and(|stream| {
            let size = stream.storage().size(subject.len(), headers.len(), payload.len());
            self.check_room(stream, &subject, size).is_ok()
        });
        room && self.log.pressure() < Pressure::Full
            && self.append_own(target, &subject, &headers, &payload, None)
    }

    /// Leaves a pointer to a damaged part of a stream that a consumer passes over, if dead letters
    /// are kept and have room.
    pub(super) fn bury_damage(&mut self, id: StreamId, name: &Arc<str>, first: u64, why: &str) {
        if !self.keeps_dead_letters(id) {
            return;
        }
        let Some(stream) = self.catalog.get(id) else { return };
        let path = ConsumerPath { stream: stream.name.to_string(), consumer: name.to_string() };
        let now = Timestamp(self.now.wall);
        let reason = DeadReason::Unreadable(why.to_owned());
        let (seq, attempts, consumer_seq) = (first, 0, 0);
        let dying = Dying { seq, attempts, first: now, last: now, consumer_seq, reason };
        if !self.append_dead(id, &path, &dying, None) {
            tracing::error!(stream = %path.stream, consumer = %name, first,
                "no dead letter could be left for a damaged part of the stream: they are full");
        }
    }

    fn dead_headers(&self, path: &ConsumerPath, dying: &Dying, record: Option<&Record>) -> Vec<u8> {
        let mut block = Block::from_existing(record.map_or(b"".as_slice(), Record::headers));
        for name in DEATH {
            block.remove(name);
        }
        block
            .add(names::DEAD_REASON, &dying.reason.to_string())
            .add(names::DEAD_STREAM, &path.stream)
            .add(names::DEAD_CONSUMER, &path.consumer)
            .add(names::DEAD_SUBJECT, record.map_or("", Record::subject))
            .add(names::DEAD_SEQUENCE, &dying.seq.to_string())
            .add(names::DEAD_ATTEMPTS, &dying.attempts.to_string())
            .add(names::DEAD_FIRST, &dying.first.to_string())
            .add(names::DEAD_LAST, &Timestamp(self.now.wall).to_string());
        block.finish()
    }

    /// Settles a message that was given up. It is deleted where its retention says so: when it was
    /// moved to the dead letters, or the application itself gave it up.
    fn settle_dead(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        path: &ConsumerPath,
        dying: &Dying,
        moved: bool,
    ) {
        let found = self.catalog.get_mut(id).and_then(|s| s.member_mut(name));
        let Some((_, member)) = found else { return };
        member.dead_letters_full = false;
        let settled = member.consumer.bury(dying.seq);
        self.stirred.insert((id, Arc::clone(name)));
        if moved || matches!(dying.reason, DeadReason::Terminated(_)) {
            self.discard_settled(id, settled.as_slice());
        }
        self.advise_given_up(path, dying);
    }

    fn postpone_burial(&mut self, id: StreamId, name: &Arc<str>, seq: u64) {
        let found = self.catalog.get_mut(id).and_then(|s| s.member_mut(name));
        let Some((_, member)) = found else { return };
        if !member.dead_letters_full {
            tracing::warn!(stream = %member.consumer.path().stream, consumer = %name,
                "the dead-letter stream is full; messages that were given up stay pending until \
                 it has room");
        }
        member.dead_letters_full = true;
        member.consumer.postpone(seq);
        let retry = self.now.monotonic + RETRY;
        self.schedule.set(Deadline::Burial(id, Arc::clone(name)), Some(retry));
    }

    /// Whether a stream's dead letters are kept: if its configuration says so, and it holds no dead
    /// letters itself.
    fn keeps_dead_letters(&self, id: StreamId) -> bool {
        self.catalog.get(id).is_some_and(|stream| {
            let is_dead = |subject: &String| subject.starts_with("$DLQ.");
            stream.config.dead_letters.enabled && !stream.config.subjects.iter().all(is_dead)
        })
    }

    /// The dead-letter stream of the stream of this name, if it is there.
    fn find_dead_stream(&self, stream: &str) -> Option<&Stream> {
        dead_streams(stream)
            .filter_map(|name| self.catalog.find(&name))
            .find(|target| is_dead_stream_of(target, stream))
    }

    /// The dead-letter stream of a stream, made if it is not there.
    fn dead_stream_of(&mut self, id: StreamId) -> Option<StreamId> {
        let stream = self.catalog.get(id)?;
        if let Some(target) = self.find_dead_stream(&stream.name) {
            return Some(target.id);
        }
        let name = dead_streams(&stream.name).find(|name| self.catalog.id_of(name).is_none())?;
        let DeadLetters { max_msgs, max_bytes, max_age, .. } = stream.config.dead_letters;
        let config = StreamConfig {
            subjects: vec![format!("$DLQ.{}.>", stream.name)],
            description: Some(format!("Messages that consumers of {} gave up", stream.name)),
            name,
            storage: stream.config.storage,
            max_msgs,
            max_bytes,
            max_age,
            discard: Discard::New,
            duplicate_window: Duration::from_secs(120),
            allow_direct: true,
            dead_letters: DeadLetters { enabled: false, ..DeadLetters::default() },
            ..StreamConfig::default()
        };
        self.add_stream(config, false).ok()
    }

    /// Appends a record without the checks of a publish. Returns whether it was.
    pub(super) fn append_own(
        &mut self,
        id: StreamId,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
        ttl: Option<Ttl>,
    ) -> bool {
        let time = self.log.stream(id).map_or(0, |held| held.last_time).max(self.now.wall);
        let expires = ttl.map(|ttl| ttl.expires(time));
        let record = NewRecord { subject, headers, payload, time, expires, message_id: None };
        if self.log.append(id, &record).is_err() {
            return false;
        }
        if expires.is_some() {
            self.schedule_expiry(id);
        }
        self.end_schedule(id, subject);
        self.appended.insert(id);
        self.grown.insert(id);
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.last_message_id.clear();
        }
        self.tell_appended(id, subject, 1);
        self.keep_subject_limit(id, subject);
        true
    }
}

/// What is done with dead letters.
#[derive(Debug)]
enum Deed {
    List(Vec<DeadLetter>),
    Requeue { target: StreamId },
    Drop,
}

/// A job on dead letters: goes through `DLQ_<stream>` and does its deed to those that are meant.
#[derive(Debug)]
pub(super) struct Exhumation {
    pub(super) answer: (SessionId, Token),
    options: DeadOptions,
    deed: Deed,
    cursor: u64,
    until: u64,
    left: u64,
    settled: u64,
    total: u64,
    failure: Option<ApiError>,
}

impl Exhumation {
    /// What is to be read next.
    pub(super) fn next_read(&self, stream: StreamId) -> Option<ReadRequest> {
        let some = self.cursor <= self.until && self.left > 0 && self.failure.is_none();
        let read = ReadRequest {
            to: self.until,
            max_records: LIST_PAGE,
            max_bytes: 1 << 20,
            ..one(stream, self.cursor)
        };
        some.then_some(read)
    }

    /// Goes on behind damage.
    pub(super) fn pass_over(&mut self, last: u64) {
        self.cursor = last + 1;
    }

    /// The answer when all is done.
    pub(super) fn result(self) -> Result<ApiResponse, ApiError> {
        // What was requeued before the target was full is told; the rest is still there to list.
        if let Some(error) = self.failure.filter(|_| self.settled == 0) {
            return Err(error);
        }
        Ok(match self.deed {
            Deed::List(letters) => ApiResponse::DeadLetters {
                total: usize::try_from(self.total).unwrap_or(usize::MAX),
                letters,
            },
            Deed::Requeue { .. } | Deed::Drop => ApiResponse::Settled { settled: self.settled },
        })
    }

    fn is_meant(&self, record: &Record) -> bool {
        let options = &self.options;
        let header = |name| get(record.headers(), name).unwrap_or_default();
        (options.sequences.is_empty() || options.sequences.contains(&record.seq))
            && options.consumer.as_ref().is_none_or(|name| name == header(names::DEAD_CONSUMER))
            && options
                .subject
                .as_ref()
                .is_none_or(|pattern| matches(pattern, header(names::DEAD_SUBJECT)))
    }
}

impl<L: Log> Broker<L> {
    /// Starts listing, requeueing or dropping dead letters.
    pub(super) fn dead_letters(
        &mut self,
        answer: (SessionId, Token),
        request: &ApiRequest,
    ) -> Result<(), ApiError> {
        let (name, options, deed) = match request {
            ApiRequest::DeadList { stream, options } => (stream, options, Deed::List(Vec::new())),
            ApiRequest::DeadRequeue { stream, options } => {
                let target = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
                (stream, options, Deed::Requeue { target })
            }
            ApiRequest::DeadDrop { stream, options } => (stream, options, Deed::Drop),
            _ => return Err(ApiError::bad_request()),
        };
        let Some(id) = self.find_dead_stream(name).map(|letters| letters.id) else {
            return self.answer_without_letters(answer, name, options, &deed);
        };
        let held = self.log.stream(id).unwrap_or_default();
        if let Some(seq) = options.sequences.iter().find(|seq| !self.log.contains(id, **seq)) {
            return Err(ApiError::dead_letter_not_found(seq));
        }
        let most = if matches!(deed, Deed::List(_)) { LIST_PAGE as u64 } else { u64::MAX };
        let first = options.sequences.iter().min().copied().unwrap_or(0);
        let exhumation = Exhumation {
            answer,
            cursor: held.first_seq.max(options.from).max(first),
            until: options.sequences.iter().max().copied().unwrap_or(held.last_seq),
            left: if options.limit == 0 { most } else { options.limit.min(most) },
            settled: 0,
            total: held.messages,
            failure: None,
            options: options.clone(),
            deed,
        };
        self.start_job(id, Task::Exhume(Box::new(exhumation)), Filter::all());
        Ok(())
    }

    /// Nothing of the stream ever died.
    fn answer_without_letters(
        &mut self,
        answer: (SessionId, Token),
        name: &str,
        options: &DeadOptions,
        deed: &Deed,
    ) -> Result<(), ApiError> {
        if let Some(seq) = options.sequences.first() {
            return Err(ApiError::dead_letter_not_found(seq));
        }
        if self.catalog.id_of(name).is_none() {
            return Err(ApiError::stream_not_found());
        }
        let response = match deed {
            Deed::List(_) => ApiResponse::DeadLetters { total: 0, letters: Vec::new() },
            Deed::Requeue { .. } | Deed::Drop => ApiResponse::Settled { settled: 0 },
        };
        self.answer_api(answer, Ok(response));
        Ok(())
    }

    /// Takes what a job on dead letters read.
    pub(super) fn exhume(
        &mut self,
        id: StreamId,
        exhumation: &mut Exhumation,
        records: &[Record],
        next: u64,
    ) -> Progress {
        for record in records {
            if exhumation.left == 0 {
                break;
            }
            if !exhumation.is_meant(record) {
                continue;
            }
            match &mut exhumation.deed {
                Deed::List(letters) => letters.push(dead_letter(record)),
                Deed::Drop => {
                    exhumation.settled += u64::from(self.remove_record(id, record, false));
                }
                Deed::Requeue { target } => {
                    // A pointer to what could not be read has nothing to publish: it stays.
                    if get(record.headers(), names::DEAD_SUBJECT).is_none_or(str::is_empty) {
                        continue;
                    }
                    if let Err(error) = self.requeue(*target, record) {
                        exhumation.failure = Some(error);
                        return Progress::Done;
                    }
                    exhumation.settled += u64::from(self.remove_record(id, record, false));
                }
            }
            exhumation.left -= 1;
        }
        exhumation.cursor = next;
        Progress::More
    }

    /// Publishes a dead letter to its stream again, in the group that removes the dead letter. Its
    /// message id is not looked at: it would be taken for a duplicate of itself.
    fn requeue(&mut self, target: StreamId, record: &Record) -> Result<(), ApiError> {
        let block = record.headers();
        let subject = get(block, names::DEAD_SUBJECT).unwrap_or_default().to_owned();
        let before = get(block, names::REQUEUED).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let mut headers = Block::from_existing(block);
        for name in DEATH {
            headers.remove(name);
        }
        headers.remove(names::REQUEUED).add(names::REQUEUED, &(before + 1).to_string());
        let headers = headers.finish();
        let stream = self.catalog.get(target).ok_or_else(ApiError::stream_not_found)?;
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if self.is_out_of_space(stream) {
            return Err(ApiError::storage_exceeded());
        }
        let size = stream.storage().size(subject.len(), headers.len(), record.payload().len());
        self.check_room(stream, &subject, size)?;
        if !self.append_own(target, &subject, &headers, record.payload(), None) {
            return Err(ApiError::insufficient_resources());
        }
        Ok(())
    }
}

/// A dead letter as lists show it.
fn dead_letter(record: &Record) -> DeadLetter {
    let header = |name| get(record.headers(), name).unwrap_or_default();
    let number = |name| header(name).parse().unwrap_or(0);
    DeadLetter {
        seq: record.seq,
        consumer: header(names::DEAD_CONSUMER).to_owned(),
        subject: header(names::DEAD_SUBJECT).to_owned(),
        stream_seq: number(names::DEAD_SEQUENCE),
        reason: header(names::DEAD_REASON).to_owned(),
        attempts: number(names::DEAD_ATTEMPTS),
        requeued: number(names::REQUEUED),
        first: header(names::DEAD_FIRST).parse().unwrap_or_default(),
        last: header(names::DEAD_LAST).parse().unwrap_or_default(),
        message: stored_message(record, false),
    }
}
