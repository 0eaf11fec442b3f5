//! Dead letters: messages that a consumer gave up, kept in `DLQ_<stream>` until someone looks.
//!
//! The dead letter and the settling of the message at its source are one group: a message is in
//! exactly one of both places. A late acknowledgement wins until then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome};
use claudebus_storage::{Log, NewRecord, Pressure, Record, StreamId};

use crate::model::event::ConsumerPath;
use crate::model::headers::{Block, names};
use crate::model::stream::{DeadLetters, Discard, StreamConfig};
use crate::model::subject::matches;
use crate::model::time::Timestamp;

use super::consumer::{DeadReason, Dying};
use super::reading::one;
use super::sessions::ConsumerKey;
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
pub(super) const DEATH: [&str; 8] = [
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
    /// Returns the consumers that were looked after: what was settled of them must be in this group.
    pub(super) fn bury_the_dead(&mut self) -> BTreeSet<ConsumerKey> {
        let mourning = std::mem::take(&mut self.mourning);
        for (id, name) in &mourning {
            self.bury_all_of(*id, name);
        }
        mourning
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
        match self.log.read(&one(id, dying.seq), &Filter::all(), &mut records) {
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
        self.stir(id, name);
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
            let subjects = &stream.config.subjects;
            stream.config.dead_letters.enabled
                && (subjects.is_empty() || !subjects.iter().all(is_dead))
        })
    }

    /// The dead-letter stream of the stream of this name, if it is there.
    pub(super) fn find_dead_stream(&self, stream: &str) -> Option<&Stream> {
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
        let mapped = self.map_subject(Some(id), subject);
        let subject = mapped.as_deref().unwrap_or(subject);
        let record = NewRecord { subject, headers, payload, time, expires, message_id: None };
        let before = self.last_of_subject(id, subject);
        let Ok(seq) = self.log.append(id, &record) else { return false };
        if expires.is_some() {
            self.schedule_expiry(id);
        }
        self.end_schedule(id, subject);
        self.note_appended(id);
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.last_message_id.clear();
        }
        self.tell_appended(id, subject, 1);
        self.keep_subject_limit(id, subject);
        self.republish(id, &record, seq, before);
        true
    }
}
