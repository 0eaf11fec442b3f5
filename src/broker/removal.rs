//! Jobs that read and delete: limits, expiry, purges. A job goes on in bounded steps; when what it
//! needs is on disk it waits for the read, and the broker goes on with other work.

use std::collections::VecDeque;
use std::time::Duration;

use claudebus_storage::log::{Filter, FilterMemo, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, NewRecord, Record, StreamId};

use crate::model::api::ApiResponse;
use crate::model::error::ApiError;
use crate::model::headers::{Block, get, names};
use crate::model::request::{SessionId, Token};
use crate::model::time::Now;

use super::dead_letters::Exhumation;
use super::opening::Opening;
use super::stream::{Chore, ttl};
use super::{Awaiting, Broker, Deadline};

/// Records of one read of a job: about as many as a block of a segment file holds.
const STEP_RECORDS: u64 = 1024;
/// Bytes of one read of a job.
const STEP_BYTES: usize = 1 << 20;
/// Reads of one job in one turn, so that nobody else waits long.
const STEPS: usize = 16;

/// Names a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobId(pub(super) u64);

/// A job on one stream.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) stream: StreamId,
    pub(super) task: Task,
    pub(super) memo: FilterMemo,
}

/// What a job does.
#[derive(Debug)]
pub(super) enum Task {
    /// One of the kinds of which a stream has one at a time.
    Chore(Chore),
    /// Deletes the first `left` matching records from `cursor` and below `below`.
    Purge { cursor: u64, below: u64, left: u64, purged: u64, answer: Option<(SessionId, Token)> },
    /// Deletes one record for a client.
    Delete { seq: u64, erase: bool, answer: Option<(SessionId, Token)> },
    /// Deletes settled records whose subject and size are not known.
    Discard { seqs: VecDeque<u64> },
    /// Deletes what no consumer wants any more, from `cursor` to `until`.
    Disinterest { cursor: u64, until: u64 },
    /// Creates a consumer.
    Open(Box<Opening>),
    /// Lists, requeues or drops dead letters.
    Exhume(Box<Exhumation>),
}

/// Whether a job goes on.
pub(super) enum Progress {
    More,
    Done,
}

impl<L: Log> Broker<L> {
    /// Starts a job and lets it do its first steps.
    pub(super) fn start_job(&mut self, stream: StreamId, task: Task, filter: Filter) {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, Job { stream, task, memo: FilterMemo::new(filter) });
        self.run_job(id);
    }

    /// Starts a chore unless it is at work.
    pub(super) fn start_chore(&mut self, stream: StreamId, chore: Chore) {
        if let Some(held) = self.catalog.get_mut(stream)
            && held.busy.insert(chore)
        {
            self.start_job(stream, Task::Chore(chore), Filter::all());
        }
    }

    /// Lets a job go on until it is done, waits, or has had its share of the turn.
    pub(super) fn run_job(&mut self, id: JobId) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        for _ in 0..STEPS {
            let Some(request) = self.next_read(&mut job) else {
                self.finish_job(job);
                return;
            };
            let mut records = Vec::new();
            let next = match self.log.read(&request, &mut job.memo, &mut records) {
                ReadOutcome::Ready { next } => next,
                ReadOutcome::Waiting(read) => {
                    self.reads.insert(read, Awaiting::Job(id));
                    self.jobs.insert(id, job);
                    return;
                }
            };
            if let Progress::Done = self.advance(&mut job, &records, next) {
                self.finish_job(job);
                return;
            }
        }
        self.jobs.insert(id, job);
        self.ready_jobs.insert(id);
    }

    /// A job's read is answered.
    pub(super) fn job_read(&mut self, id: JobId, result: Result<ReadBatch, ReadError>) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        let progress = match result {
            Ok(batch) => self.advance(&mut job, &batch.records, batch.next),
            Err(error) => self.pass_over(&mut job, &error),
        };
        match progress {
            Progress::Done => self.finish_job(job),
            Progress::More => {
                self.jobs.insert(id, job);
                self.run_job(id);
            }
        }
    }

    /// What the job reads next; nothing when it is done.
    fn next_read(&mut self, job: &mut Job) -> Option<ReadRequest> {
        let held = self.log.stream(job.stream)?;
        let request = |from, to, records: u64| ReadRequest {
            stream: job.stream,
            from,
            to,
            since: 0,
            max_records: usize::try_from(records.clamp(1, STEP_RECORDS)).unwrap_or(1),
            max_bytes: STEP_BYTES,
        };
        match &mut job.task {
            Task::Chore(Chore::Trim) => {
                let excess = self.excess(job.stream)?;
                Some(request(held.first_seq, held.last_seq, excess))
            }
            Task::Chore(Chore::Overflow) => {
                let (subject, summary, excess) = self.next_overflow(job.stream)?;
                job.memo = FilterMemo::new(Filter::any_of([&*subject]));
                Some(request(summary.first, summary.last, excess))
            }
            Task::Chore(Chore::Age) => {
                let stream = self.catalog.get(job.stream)?;
                let from = held.first_seq.max(stream.age_cursor);
                let some = !stream.config.max_age.is_zero() && from <= held.last_seq;
                some.then(|| request(from, held.last_seq, STEP_RECORDS))
            }
            Task::Chore(Chore::Expire) => {
                let (expires, seq) = self.log.next_expiry(job.stream)?;
                (expires <= self.horizon.wall).then(|| request(seq, seq, 1))
            }
            Task::Purge { cursor, below, left, .. } => {
                let from = (*cursor).max(held.first_seq);
                (*left > 0 && from < *below).then(|| request(from, *below - 1, *left))
            }
            Task::Delete { seq, .. } => {
                self.log.contains(job.stream, *seq).then(|| request(*seq, *seq, 1))
            }
            Task::Discard { seqs } => {
                while seqs.front().is_some_and(|seq| !self.log.contains(job.stream, *seq)) {
                    seqs.pop_front();
                }
                seqs.front().map(|seq| request(*seq, *seq, 1))
            }
            Task::Disinterest { cursor, until } => {
                let from = (*cursor).max(held.first_seq);
                (from <= *until).then(|| request(from, *until, STEP_RECORDS))
            }
            Task::Open(opening) => opening.next_read(job.stream, held.last_seq),
            Task::Exhume(exhumation) => exhumation.next_read(job.stream),
        }
    }

    /// Takes what was read.
    fn advance(&mut self, job: &mut Job, records: &[Record], next: u64) -> Progress {
        let id = job.stream;
        match &mut job.task {
            Task::Chore(Chore::Trim) => {
                for record in records {
                    if self.excess(id).is_none() {
                        return Progress::Done;
                    }
                    self.remove_record(id, record, false);
                }
            }
            Task::Chore(Chore::Overflow) => {
                let excess = self.next_overflow(id).map_or(0, |(_, _, excess)| excess);
                for record in records.iter().take(usize::try_from(excess).unwrap_or(0)) {
                    self.remove_record(id, record, false);
                }
                if records.is_empty() {
                    // What the log counted is not there to be read: damaged, and reported.
                    return Progress::Done;
                }
            }
            Task::Chore(Chore::Age) => return self.age(id, records, next),
            Task::Chore(Chore::Expire) => {
                if records.is_empty() {
                    return Progress::Done;
                }
                self.expire_records(id, records);
            }
            Task::Purge { cursor, left, purged, .. } => {
                for record in records.iter().take(usize::try_from(*left).unwrap_or(usize::MAX)) {
                    if self.remove_record(id, record, false) {
                        *left -= 1;
                        *purged += 1;
                    }
                }
                *cursor = next;
            }
            Task::Delete { seq, erase, answer } => {
                let record = records.iter().find(|record| record.seq == *seq);
                let deleted = record.is_some_and(|record| self.remove_record(id, record, *erase));
                if deleted && let Some(answer) = answer.take() {
                    self.answer_api(answer, Ok(ApiResponse::Deleted { success: true }));
                }
                return Progress::Done;
            }
            Task::Discard { seqs } => {
                if let Some(record) = records.first()
                    && !self.is_wanted(id, record.seq, record.subject())
                {
                    self.remove_record(id, record, false);
                }
                seqs.pop_front();
            }
            Task::Disinterest { cursor, .. } => {
                for record in records {
                    if !self.is_wanted(id, record.seq, record.subject()) {
                        self.remove_record(id, record, false);
                    }
                }
                *cursor = next;
            }
            Task::Open(opening) => return opening.advance(records, next),
            Task::Exhume(exhumation) => return self.exhume(id, exhumation, records, next),
        }
        Progress::More
    }

    /// A job met damage: it goes on behind it where it can.
    fn pass_over(&mut self, job: &mut Job, error: &ReadError) -> Progress {
        let ReadError::Damaged { last, .. } = error else { return Progress::Done };
        match &mut job.task {
            Task::Purge { cursor, .. } | Task::Disinterest { cursor, .. } => *cursor = last + 1,
            Task::Chore(Chore::Age) => {
                if let Some(stream) = self.catalog.get_mut(job.stream) {
                    stream.age_cursor = last + 1;
                }
            }
            Task::Discard { seqs } => {
                seqs.pop_front();
            }
            Task::Delete { answer, .. } => {
                if let Some(answer) = answer.take() {
                    self.answer_api(answer, Err(ApiError::damaged(error)));
                }
                return Progress::Done;
            }
            Task::Open(opening) => opening.pass_over(*last),
            Task::Exhume(exhumation) => exhumation.pass_over(*last),
            Task::Chore(_) => return Progress::Done,
        }
        Progress::More
    }

    fn finish_job(&mut self, job: Job) {
        match job.task {
            Task::Chore(chore) => {
                if let Some(stream) = self.catalog.get_mut(job.stream) {
                    stream.busy.remove(&chore);
                }
                if matches!(chore, Chore::Age | Chore::Expire) {
                    self.schedule_expiry(job.stream);
                }
            }
            Task::Purge { purged, answer: Some(answer), .. } => {
                self.answer_api(answer, Ok(ApiResponse::Purged { success: true, purged }));
            }
            // It went before this job came to it.
            Task::Delete { seq, answer: Some(answer), .. } => {
                self.answer_api(answer, Err(ApiError::sequence_not_found(seq)));
            }
            Task::Open(opening) => self.finish_opening(job.stream, *opening),
            Task::Exhume(exhumation) => {
                let answer = exhumation.answer;
                self.answer_api(answer, exhumation.result());
            }
            _ => {}
        }
    }

    /// Ends the jobs of a stream that is deleted.
    pub(super) fn end_jobs_of(&mut self, stream: StreamId) {
        let ids: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.stream == stream).map(|(id, _)| *id).collect();
        for id in ids {
            self.ready_jobs.remove(&id);
            let answer = match self.jobs.remove(&id).map(|job| job.task) {
                Some(Task::Purge { answer, .. }) => answer,
                Some(Task::Delete { answer, .. }) => answer,
                Some(Task::Open(opening)) => opening.answer,
                Some(Task::Exhume(exhumation)) => Some(exhumation.answer),
                _ => None,
            };
            if let Some(answer) = answer {
                self.answer_api(answer, Err(ApiError::stream_not_found()));
            }
        }
    }

    /// Deletes a record and tells the stream's consumers. Returns whether it was there.
    pub(super) fn remove_record(&mut self, id: StreamId, record: &Record, erase: bool) -> bool {
        let Some(size) = self.catalog.get(id).map(|stream| record.size(stream.storage())) else {
            return false;
        };
        let Some(summary) = self.log.subject(id, record.subject()) else { return false };
        let deleted = if erase {
            self.log.erase(id, record.seq, summary.id, size)
        } else {
            self.log.delete(id, record.seq, summary.id, size)
        };
        if deleted {
            self.tell_removed(id, record.seq, record.subject());
        }
        deleted
    }

    /// Tells consumers that a record is gone.
    pub(super) fn tell_removed(&mut self, id: StreamId, seq: u64, subject: &str) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        for (name, member) in &mut stream.consumers {
            if member.filter().matches(subject) {
                if member.consumer.is_pending(seq) {
                    self.stirred.insert((id, name.clone()));
                }
                member.consumer.removed(seq);
            }
        }
        for job in self.jobs.values_mut().filter(|job| job.stream == id) {
            if let Task::Open(opening) = &mut job.task {
                opening.removed(seq, subject);
            }
        }
    }

    /// Deletes earlier messages that the message at `seq` replaces.
    pub(super) fn roll_up(&mut self, id: StreamId, subject: Option<&str>, seq: u64) {
        let filter = subject.map_or_else(Filter::all, |subject| Filter::any_of([subject]));
        let cursor = subject
            .and_then(|subject| self.log.subject(id, subject))
            .map_or(0, |summary| summary.first);
        let task = Task::Purge { cursor, below: seq, left: u64::MAX, purged: 0, answer: None };
        self.start_job(id, task, filter);
    }

    /// By how much a stream exceeds its limits: a number of records to delete before looking again.
    fn excess(&self, id: StreamId) -> Option<u64> {
        let stream = self.catalog.get(id)?;
        let held = self.log.stream(id)?;
        let messages = stream.max_msgs().map_or(0, |most| held.messages.saturating_sub(most));
        let bytes = stream.max_bytes().map_or(0, |most| held.bytes.saturating_sub(most));
        let average = held.bytes.checked_div(held.messages).unwrap_or(1).max(1);
        let excess = messages.max(bytes.div_ceil(average));
        (excess > 0 && held.messages > 0).then_some(excess)
    }

    /// A subject with too many messages, what the stream holds of it, and how many are too many.
    fn next_overflow(
        &mut self,
        id: StreamId,
    ) -> Option<(Box<str>, claudebus_storage::log::SubjectSummary, u64)> {
        loop {
            let stream = self.catalog.get_mut(id)?;
            let subject = stream.overflowing.first()?;
            let most = stream.max_per_subject().unwrap_or(u64::MAX);
            if let Some(summary) = self.log.subject(id, subject)
                && summary.count > most
            {
                return Some((subject.clone(), summary, summary.count - most));
            }
            stream.overflowing.pop_first();
        }
    }

    /// After messages of `subject` were added: keeps the stream's limits.
    pub(super) fn keep_limits(&mut self, id: StreamId, subject: &str) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let overflows = stream.max_per_subject().is_some_and(|most| {
            self.log.subject(id, subject).is_some_and(|summary| summary.count > most)
        });
        if overflows {
            stream.overflowing.insert(Box::from(subject));
        }
        let ages = !stream.config.max_age.is_zero() && stream.expiry_at.is_none();
        if overflows {
            self.start_chore(id, Chore::Overflow);
        }
        if self.excess(id).is_some() {
            self.start_chore(id, Chore::Trim);
        }
        if ages {
            self.schedule_expiry(id);
        }
    }

    /// Keeps all limits of a stream, whose configuration may have changed.
    pub(super) fn keep_all_limits(&mut self, id: StreamId) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        if let Some(most) = stream.max_per_subject() {
            let overflowing = &mut stream.overflowing;
            self.log.subjects(id, &Filter::all(), &mut |subject, summary| {
                if summary.count > most {
                    overflowing.insert(Box::from(subject));
                }
            });
            self.start_chore(id, Chore::Overflow);
        }
        if self.excess(id).is_some() {
            self.start_chore(id, Chore::Trim);
        }
        self.start_chore(id, Chore::Age);
        self.schedule_expiry(id);
    }
}

/// Expiry.
impl<L: Log> Broker<L> {
    /// Something of the stream may have expired.
    pub(super) fn expire(&mut self, id: StreamId) {
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.expiry_at = None;
        }
        self.start_chore(id, Chore::Age);
        self.start_chore(id, Chore::Expire);
    }

    /// Deletes the records that are older than `max_age`; those with a TTL of `never` stay.
    fn age(&mut self, id: StreamId, records: &[Record], next: u64) -> Progress {
        let Some(stream) = self.catalog.get_mut(id) else { return Progress::Done };
        let max_age = nanos(stream.config.max_age);
        for (at, record) in records.iter().enumerate() {
            if record.expires == Some(ttl::NEVER) {
                continue;
            }
            if record.time.saturating_add(max_age) > self.horizon.wall {
                if let Some(stream) = self.catalog.get_mut(id) {
                    stream.age_cursor = record.seq;
                    stream.first_time = Some((record.seq, record.time));
                }
                return Progress::Done;
            }
            self.expire_records(id, records.get(at..=at).unwrap_or_default());
        }
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.age_cursor = next;
        }
        Progress::More
    }

    /// Deletes records that expired, and leaves markers where the stream wants them.
    fn expire_records(&mut self, id: StreamId, records: &[Record]) {
        for record in records {
            self.remove_record(id, record, false);
            let Some(stream) = self.catalog.get(id) else { return };
            let marker_ttl = stream.config.subject_delete_marker_ttl;
            let is_marker = get(record.headers(), names::MARKER_REASON).is_some();
            if !marker_ttl.is_zero()
                && !is_marker
                && self.log.subject(id, record.subject()).is_none()
            {
                self.append_marker(id, record.subject(), marker_ttl);
            }
        }
    }

    /// Stores a message that says that the last one of its subject expired.
    fn append_marker(&mut self, id: StreamId, subject: &str, marker_ttl: Duration) {
        let mut block = Block::default();
        block.add(names::MARKER_REASON, "MaxAge");
        block.add(names::TTL, &format!("{}s", marker_ttl.as_secs()));
        block.add(names::ROLLUP, "sub");
        let time = self.log.stream(id).map_or(0, |held| held.last_time).max(self.now.wall);
        let record = NewRecord {
            subject,
            headers: &block.finish(),
            payload: b"",
            time,
            expires: Some(time.saturating_add(nanos(marker_ttl))),
            message_id: None,
        };
        if self.log.append(id, &record).is_ok() {
            self.appended.insert(id);
            self.tell_appended(id, subject, 1);
        }
    }

    /// Sets the stream's next expiry deadline.
    pub(super) fn schedule_expiry(&mut self, id: StreamId) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let Some(held) = self.log.stream(id) else { return };
        let own = self.log.next_expiry(id).map(|(at, _)| at).filter(|at| *at != ttl::NEVER);
        let max_age = nanos(stream.config.max_age);
        let from = held.first_seq.max(stream.age_cursor);
        let aged = (max_age > 0 && held.messages > 0 && from <= held.last_seq).then(|| {
            // Without a known first time, the last one is the latest the first can be; the chore
            // reads the true one when it comes to that.
            let known = stream.first_time.filter(|(seq, _)| *seq == from);
            known.map_or(held.last_time, |(_, time)| time).saturating_add(max_age)
        });
        let at = own.into_iter().chain(aged).min().map(|at| {
            let wait = at.saturating_sub(self.horizon.wall);
            self.now.monotonic + Duration::from_nanos(wait).max(MIN_WAIT)
        });
        // An earlier deadline may have been set when the first time was known.
        let at = stream.expiry_at.into_iter().chain(at).min();
        stream.expiry_at = at;
        self.schedule.set(Deadline::Expiry(id), at);
    }
}

/// Shortest wait for an expiry, so that clocks which disagree by a little don't make a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(1);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall-clock time that expiry goes by. It follows the clock, but not faster than 60 times
/// real time: a clock that jumps ahead must not empty a stream at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    monotonic: Duration,
    pub(super) wall: u64,
}

impl Horizon {
    /// A horizon that begins at `now`.
    pub(super) fn new(now: Now) -> Self {
        Self { monotonic: now.monotonic, wall: now.wall }
    }

    /// Follows the clock.
    pub(super) fn advance(&mut self, now: Now) {
        let elapsed = now.monotonic.saturating_sub(self.monotonic);
        let farthest = self.wall.saturating_add(nanos(elapsed).saturating_mul(60));
        self.wall = now.wall.min(farthest);
        self.monotonic = self.monotonic.max(now.monotonic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_moves_at_most_sixty_times_real_time() {
        let at = |monotonic, wall| Now { monotonic: Duration::from_secs(monotonic), wall };
        let second = 1_000_000_000;
        let mut horizon = Horizon::new(at(0, 100 * second));
        horizon.advance(at(1, 101 * second));
        assert_eq!(horizon.wall, 101 * second);
        horizon.advance(at(2, 10_000 * second));
        assert_eq!(horizon.wall, 161 * second);
        horizon.advance(at(3, 50 * second));
        assert_eq!(horizon.wall, 50 * second);
    }
}
