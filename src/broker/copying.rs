//! Copying: mirrors, and streams with sources.
//!
//! A job reads what a stream has that another one copies, and appends it there. How far it is follows
//! from what was copied: a mirror has its origin's sequences, and of a source it is kept as state in the
//! group of the copy. So a crash neither loses a copy nor makes a second one. Messages that go when they
//! were handled, on a work queue or where nobody else wants them, go in that group too.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::log::ReadRequest;
use claudebus_storage::{Log, NewRecord, Pressure, Record, StreamId};
use rand::RngExt;

use crate::model::headers::{Block, get, names};
use crate::model::stream::{Retention, StreamSourceInfo};

use super::counting::{Counted, is_unread};
use super::jobs::{Progress, Task};
use super::state;
use super::stream::Stream;
use super::stream::asked::Rollup;
use super::stream::sources::Source;
use super::stream::ttl::Ttl;
use super::{Broker, Deadline};

/// How long a copy waits that cannot go on: its stream is full, or memory or the disk is.
const RETRY: Duration = Duration::from_millis(250);
/// How many times in one turn copies follow from copies. Longer chains go on in the next turn.
const CHAIN: usize = 4;

/// Who copies from whom.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Streams that copy, by the name of their origin, which need not be there.
    targets: BTreeMap<Arc<str>, BTreeSet<StreamId>>,
    /// Streams that may have something to be copied.
    fresh: BTreeSet<StreamId>,
}

impl Copies {
    /// Whether something may be copied now.
    pub(super) fn is_waiting(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// The streams that copy from the one of this name.
    fn of(&self, origin: &str) -> impl Iterator<Item = StreamId> + '_ {
        self.targets.get(origin).into_iter().flatten().copied()
    }

    fn join(&mut self, origin: &Arc<str>, target: StreamId) {
        self.targets.entry(Arc::clone(origin)).or_default().insert(target);
    }

    fn leave(&mut self, origin: &str, target: StreamId) {
        if let Some(targets) = self.targets.get_mut(origin) {
            targets.remove(&target);
            if targets.is_empty() {
                self.targets.remove(origin);
            }
        }
    }
}

/// What became of a message that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was copied, or the target has it or keeps none such.
    Copied,
    /// The target cannot have it.
    Passed,
    /// There is no room for it now.
    Wait,
}

/// A copy of a message: what is appended, and what follows from it.
struct Copy<'a> {
    record: NewRecord<'a>,
    rollup: Option<Rollup>,
}

impl<L: Log> Broker<L> {
    /// A stream was appended to, or is there: others may copy from it.
    pub(super) fn note_uncopied(&mut self, id: StreamId) {
        if self.copies.targets.is_empty() {
            return;
        }
        if let Some(stream) = self.catalog.get(id)
            && self.copies.targets.contains_key(&*stream.name)
        {
            self.copies.fresh.insert(id);
        }
    }

    /// Lets the copies go on of streams that were appended to.
    pub(super) fn copy_fresh(&mut self) {
        for _ in 0..CHAIN {
            for origin in std::mem::take(&mut self.copies.fresh) {
                let Some(name) = self.catalog.get(origin).map(|s| Arc::clone(&s.name)) else {
                    continue;
                };
                let targets: Vec<StreamId> = self.copies.of(&name).collect();
                for target in targets {
                    self.copy_from(origin, &name, target);
                }
            }
        }
    }

    fn copy_from(&mut self, origin: StreamId, name: &str, target: StreamId) {
        let Some(stream) = self.catalog.get(target).filter(|s| !s.config.sealed) else { return };
        let of_origin = stream.sources.iter().filter(|source| *source.origin == *name);
        let idle = of_origin.filter(|source| !source.is_busy);
        let keys: Vec<Arc<str>> = idle.map(|source| Arc::clone(&source.key)).collect();
        for key in keys {
            self.begin_copy(origin, target, &key);
            let source = self.catalog.get_mut(target).and_then(|stream| stream.source_mut(&key));
            let Some(source) = source else { continue };
            if self.log.stream(origin).is_some_and(|held| source.next <= held.last_seq) {
                source.is_busy = true;
                let filter = source.filter.clone();
                self.start_job(origin, Task::Copy { target, key }, filter);
            }
        }
    }

    /// Finds where to begin in an origin that is seen for the first time since the start, or that is
    /// another stream of that name.
    fn begin_copy(&mut self, origin: StreamId, target: StreamId, key: &str) {
        let Some(stream) = self.catalog.get_mut(target) else { return };
        let is_mirror = stream.is_mirror();
        let Some(source) = stream.source_mut(key).filter(|s| s.from != Some(origin)) else {
            return;
        };
        source.from = Some(origin);
        source.copied = 0;
        let first = self.log.stream(origin).map_or(1, |held| held.first_seq);
        let start = first.max(source.start_seq).max(1);
        source.next = start;
        if !is_mirror {
            return;
        }
        let last = self.log.stream(target).map_or(0, |held| held.last_seq);
        if last > 0 {
            source.next = last + 1;
        } else if start > 1 && source.since == 0 {
            // It begins where its origin does.
            self.log.skip(target, start - 1);
            self.note_appended(target);
        }
    }

    /// What a copy reads next; nothing when all there is was read.
    pub(super) fn next_to_copy(
        &self,
        origin: StreamId,
        target: StreamId,
        key: &str,
        request: &ReadRequest,
    ) -> Option<ReadRequest> {
        let source = self.catalog.get(target)?.source(key)?;
        let from = source.next.max(request.from);
        let some = source.from == Some(origin) && from <= request.to;
        some.then_some(ReadRequest { from, since: source.since, ..request.clone() })
    }

    /// Copies what was read.
    pub(super) fn copy_records(
        &mut self,
        origin: StreamId,
        (target, key): (StreamId, &str),
        records: &[Record],
        next: u64,
    ) -> Progress {
        let Some(before) = self.source_of(origin, target, key).map(|source| source.copied) else {
            return Progress::Done;
        };
        let leaves = self.catalog.get(origin).is_some_and(Stream::deletes_settled);
        let mut progress = Progress::More;
        for record in records {
            let outcome = self.copy_record(origin, (target, key), record);
            if outcome == Outcome::Wait {
                progress = Progress::Done;
                break;
            }
            if let Some(source) = self.catalog.get_mut(target).and_then(|s| s.source_mut(key)) {
                source.next = record.seq + 1;
                source.copied = record.seq;
            }
            if leaves
                && outcome == Outcome::Copied
                && !self.is_wanted(origin, record.seq, record.subject())
            {
                self.remove_record(origin, record, false);
            }
        }
        let Some(stream) = self.catalog.get_mut(target) else { return Progress::Done };
        let is_mirror = stream.is_mirror();
        let Some(source) = stream.source_mut(key) else { return Progress::Done };
        if let Progress::More = progress {
            source.next = source.next.max(next);
        }
        if !is_mirror && source.copied != before {
            let kept = [origin.0.to_le_bytes(), source.copied.to_le_bytes()].concat();
            self.log.put(&state::copy_key(target, key), &kept);
        }
        progress
    }

    fn source_of(&self, origin: StreamId, target: StreamId, key: &str) -> Option<&Source> {
        self.catalog.get(target)?.source(key).filter(|source| source.from == Some(origin))
    }

    /// Copies one message, unless the target does not keep it.
    fn copy_record(
        &mut self,
        origin: StreamId,
        (target, key): (StreamId, &str),
        record: &Record,
    ) -> Outcome {
        let created = self.catalog.get(origin).map_or(0, |origin| origin.created.0);
        let Some(stream) = self.catalog.get(target) else { return Outcome::Passed };
        let Some(source) = stream.source(key) else { return Outcome::Passed };
        let is_mirror = stream.is_mirror();
        let held = self.log.stream(target).unwrap_or_default();
        if is_mirror && record.seq <= held.last_seq {
            return Outcome::Passed;
        }
        if stream.config.sealed || self.log.pressure() >= Pressure::High {
            return Outcome::Wait;
        }
        let rng = &mut self.rng;
        let draw = &mut |below| rng.random_range(0..below);
        let mapped = source.map(record.subject(), draw);
        let again = stream.transform.as_ref().and_then(|own| own.apply(&mapped, draw));
        let subject = again.unwrap_or(mapped);
        let says = (!is_mirror).then(|| source.header(record.seq, record.subject(), created));
        let mut headers = copied_headers(record.headers(), says.as_deref());
        let (origin, mut payload, mut total) = (Arc::clone(&source.origin), None, None);
        if stream.config.allow_msg_counter {
            match self.count_copy(target, &subject, &origin, record, &headers) {
                Ok(Counted { total: sum, payload: body, headers: own }) => {
                    headers = own.map_or(headers, Cow::Owned);
                    (payload, total) = (Some(body), Some(sum));
                }
                Err(error) if is_unread(&error) => return Outcome::Wait,
                Err(error) => {
                    tracing::warn!(%origin, seq = record.seq, %error, "a message is not copied");
                    return Outcome::Passed;
                }
            }
        }
        let payload = payload.as_deref().unwrap_or(record.payload());
        let Some(stream) = self.catalog.get(target) else { return Outcome::Passed };
        let time = if is_mirror { record.time } else { self.now.wall }.max(held.last_time);
        let copy = self.copy_of(stream, &subject, &headers, payload, time);
        if headers.len() + payload.len() > stream.rules.max_message {
            tracing::warn!(stream = %stream.name, %origin, seq = record.seq,
                "a message is not copied: it is larger than the stream allows");
            return Outcome::Passed;
        }
        if !is_mirror
            && let Some((id, _)) = copy.record.message_id
            && self.log.recall(target, id, time).is_some()
        {
            return Outcome::Copied;
        }
        let size = stream.storage().size(subject.len(), headers.len(), payload.len());
        if self.check_room(stream, &subject, size).is_err() {
            return Outcome::Wait;
        }
        let is_wanted =
            stream.config.retention != Retention::Interest || self.has_interest(stream, &subject);
        let seq = if is_mirror { record.seq } else { held.last_seq + 1 };
        if !is_wanted {
            self.log.skip(target, seq);
            self.note_appended(target);
            return Outcome::Copied;
        }
        if seq > held.last_seq + 1 {
            self.log.skip(target, seq - 1);
        }
        let outcome = self.append_copy(target, &copy);
        if let (Outcome::Copied, Some(total)) = (&outcome, total) {
            self.counting.keep(target, &subject, seq, total);
        }
        outcome
    }

    /// What is appended of a message that was copied.
    fn copy_of<'a>(
        &self,
        stream: &Stream,
        subject: &'a str,
        headers: &'a [u8],
        payload: &'a [u8],
        time: u64,
    ) -> Copy<'a> {
        let config = &stream.config;
        let window = u64::try_from(config.duplicate_window.as_nanos()).unwrap_or(u64::MAX);
        let id = get(headers, names::MESSAGE_ID).filter(|id| window > 0 && !id.is_empty());
        let message_id = id
            .filter(|_| !stream.is_mirror())
            .map(|id| (self.id_key.fingerprint(id), time.saturating_add(window)));
        // What the target does not allow means nothing there.
        let ttl = get(headers, names::TTL).filter(|_| config.allow_msg_ttl);
        let expires = ttl.and_then(Ttl::parse).map(|ttl| ttl.expires(time));
        let may_roll_up = config.allow_rollup_hdrs && !config.deny_purge && !config.sealed;
        let rollup = get(headers, names::ROLLUP).filter(|_| may_roll_up).and_then(Rollup::parse);
        Copy { record: NewRecord { subject, headers, payload, time, expires, message_id }, rollup }
    }

    fn append_copy(&mut self, target: StreamId, copy: &Copy<'_>) -> Outcome {
        let Copy { record, rollup } = copy;
        let before = self.last_of_subject(target, record.subject);
        let Ok(seq) = self.log.append(target, record) else { return Outcome::Wait };
        self.note_appended(target);
        if let Some(stream) = self.catalog.get_mut(target) {
            let id = get(record.headers, names::MESSAGE_ID).unwrap_or_default();
            stream.last_message_id.clear();
            stream.last_message_id.push_str(id);
        }
        self.tell_appended(target, record.subject, 1);
        self.keep_subject_limit(target, record.subject);
        match rollup {
            None => {}
            Some(Rollup::Subject) => self.roll_up(target, Some(record.subject), seq),
            Some(Rollup::All) => self.roll_up(target, None, seq),
        }
        if record.expires.is_some() {
            self.schedule_expiry(target);
        }
        self.republish(target, record, seq, before);
        Outcome::Copied
    }

    /// A copy passes over what of its origin is damaged, and was reported.
    pub(super) fn pass_over_uncopied(&mut self, target: StreamId, key: &str, last: u64) {
        if let Some(source) = self.catalog.get_mut(target).and_then(|s| s.source_mut(key)) {
            source.next = source.next.max(last + 1);
        }
    }

    /// A copy's job is over: all was read, or it cannot go on now.
    pub(super) fn copy_stopped(&mut self, origin: StreamId, target: StreamId, key: &str) {
        let Some(stream) = self.catalog.get_mut(target) else { return };
        let Some(source) = stream.source_mut(key) else { return };
        source.is_busy = false;
        if self.log.stream(origin).is_some_and(|held| source.next <= held.last_seq) {
            let again = self.now.monotonic + RETRY;
            self.schedule.set(Deadline::Copying(target), Some(again));
        }
    }

    /// A stream that copies may have room again, or begins.
    pub(super) fn copy_again(&mut self, target: StreamId) {
        let Some(stream) = self.catalog.get(target) else { return };
        let origins = stream.sources.iter().filter_map(|s| self.catalog.id_of(&s.origin));
        self.copies.fresh.extend(origins);
    }

    /// A stream has its sources from now on, besides those that `left`.
    pub(super) fn link_sources(&mut self, id: StreamId, left: &[Source]) {
        for source in left {
            self.copies.leave(&source.origin, id);
        }
        let sources = self.catalog.get_mut(id).map(|stream| stream.sources.iter_mut());
        for source in sources.into_iter().flatten() {
            self.copies.join(&source.origin, id);
            if source.from.is_none()
                && let Some((_, kept)) = self.log.states(&state::copy_key(id, &source.key)).first()
                && let Some((origin, copied)) = state::parse_copied(&kept.base)
            {
                (source.from, source.next, source.copied) = (Some(origin), copied + 1, copied);
            }
        }
        self.copy_again(id);
        for source in left {
            // Nobody waits for a copy of what is there any more.
            if let Some(origin) = self.catalog.id_of(&source.origin) {
                self.drop_unwanted(origin);
            }
        }
    }

    /// A stream is there: others may have waited for it, and it may copy itself.
    pub(super) fn begin_copies(&mut self, id: StreamId) {
        self.link_sources(id, &[]);
        self.note_uncopied(id);
    }

    /// A stream that copies is gone.
    pub(super) fn end_copies(&mut self, id: StreamId, sources: &[Source]) {
        self.link_sources(id, sources);
        self.schedule.set(Deadline::Copying(id), None);
        self.copies.fresh.remove(&id);
        self.forget_copied(id);
    }

    /// Forgets how far a stream's copies are.
    pub(super) fn forget_copied(&mut self, id: StreamId) {
        for (key, _) in self.log.states(&state::copy_key(id, "")) {
            self.log.forget(&key);
        }
    }

    /// Whether a consumer wants a stream's messages of a subject, or another stream copies them.
    pub(super) fn has_interest(&self, stream: &Stream, subject: &str) -> bool {
        stream.consumers.has_interest(subject)
            || self.sources_from(stream).any(|source| source.filter.matches(subject))
    }

    /// Whether another stream is still to copy a message.
    pub(super) fn is_to_be_copied(&self, stream: &Stream, seq: u64, subject: &str) -> bool {
        self.sources_from(stream).any(|source| source.wants(stream.id, seq, subject))
    }

    fn sources_from(&self, origin: &Stream) -> impl Iterator<Item = &Source> {
        let name = Arc::clone(&origin.name);
        let targets = self.copies.of(&origin.name).filter_map(|target| self.catalog.get(target));
        targets.flat_map(|target| &target.sources).filter(move |source| source.origin == name)
    }

    /// How far a stream's copies are.
    pub(super) fn source_infos(&self, stream: &Stream) -> Vec<StreamSourceInfo> {
        let configs = stream.config.mirror.iter().chain(&stream.config.sources);
        let infos = configs.zip(&stream.sources).map(|(config, source)| {
            let origin = self.catalog.id_of(&source.origin);
            let active = origin.filter(|id| source.from == Some(*id));
            let lag = active.and_then(|id| {
                let last = self.log.stream(id)?.last_seq;
                let left = (last + 1).saturating_sub(source.next);
                let count = || self.log.count(id, &source.filter, source.next, last);
                if left == 0 { Some(0) } else { Some(count().unwrap_or(left)) }
            });
            StreamSourceInfo {
                name: config.name.clone(),
                lag: lag.unwrap_or(0),
                seq: if stream.is_mirror() { 0 } else { source.copied },
                active: if active.is_some() { 0 } else { -1 },
                filter_subject: config.filter_subject.clone(),
                subject_transforms: config.subject_transforms.clone(),
            }
        });
        infos.collect()
    }
}

/// The headers of a copy: without what the publisher expected of the origin, and with where it was there
/// unless it is a mirror's.
fn copied_headers<'a>(headers: &'a [u8], says: Option<&str>) -> Cow<'a, [u8]> {
    let is_left_out = |key: &str| {
        key.starts_with(names::EXPECTED) || (says.is_some() && key == names::STREAM_SOURCE)
    };
    let keeps_all = !crate::model::headers::iter(headers).any(|(key, _)| is_left_out(key));
    if says.is_none() && keeps_all {
        return Cow::Borrowed(headers);
    }
    let mut block = Block::from_existing(headers);
    block.retain(|key| !is_left_out(key));
    if let Some(says) = says {
        block.add(names::STREAM_SOURCE, says);
    }
    Cow::Owned(block.finish())
}
