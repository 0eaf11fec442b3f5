//! Jobs that read, and delete or copy: limits, expiry, purges, mirrors. A job goes on in bounded steps; when what it
//! needs is on disk it waits for the read, and the broker goes on with other work.

use std::collections::VecDeque;
use std::sync::Arc;

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::api::ApiResponse;
use crate::model::error::ApiError;
use crate::model::request::{SessionId, Token};

use super::exhuming::Exhumation;
use super::opening::Opening;
use super::stream::Chore;
use super::{Awaiting, Broker};

/// Records of one read of a job: about as many as a block of a segment file holds.
const STEP_RECORDS: u64 = 1024;
/// Bytes of one read of a job.
const STEP_BYTES: usize = 1 << 20;
/// Reads of one job in one turn, so that nobody else waits long.
const STEPS: usize = 16;
/// The same of one that copies: all that it reads is written again, and others wait for that.
const COPY_STEPS: usize = 2;

/// Names a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobId(pub(super) u64);

/// A job on one stream.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) stream: StreamId,
    pub(super) task: Task,
    pub(super) filter: Filter,
    /// Written to the log, to be finished after a restart.
    pub(super) kept: bool,
}

impl Job {
    /// Whether it deletes what a message replaced.
    pub(super) fn is_rollup(&self) -> bool {
        matches!(self.task, Task::Purge { answer: None, .. })
    }
}

/// What a job does.
#[derive(Debug)]
pub(super) enum Task {
    /// One of the kinds of which a stream has one at a time.
    Chore(Chore),
    /// Deletes the first `left` matching records from `cursor` and below `below`.
    Purge { cursor: u64, below: u64, left: u64, purged: u64, answer: Option<(SessionId, Token)> },
    /// Deletes one record; if it `must_finish`, also after a restart.
    Delete { seq: u64, erase: bool, must_finish: bool, answer: Option<(SessionId, Token)> },
    /// Deletes settled records whose subject and size are not known.
    Discard { seqs: VecDeque<u64> },
    /// Deletes what no consumer wants any more, from `cursor` to `until`.
    Disinterest { cursor: u64, until: u64 },
    /// Creates a consumer.
    Open(Box<Opening>),
    /// Lists, requeues or drops dead letters.
    Exhume(Box<Exhumation>),
    /// Copies to another stream, whose source of this key the job's stream is.
    Copy { target: StreamId, key: Arc<str> },
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
        self.jobs.insert(id, Job { stream, task, filter, kept: false });
        self.run_job(id);
        self.keep_job(id);
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
        let copies = matches!(job.task, Task::Copy { .. });
        for _ in 0..if copies { COPY_STEPS } else { STEPS } {
            let Some(request) = self.next_read(&mut job) else {
                self.finish_job(id, job);
                return;
            };
            let mut records = Vec::new();
            let next = match self.log.read(&request, &job.filter, &mut records) {
                ReadOutcome::Ready { next } => next,
                ReadOutcome::Waiting(read) => {
                    self.reads.insert(read, Awaiting::Job(id));
                    self.jobs.insert(id, job);
                    return;
                }
            };
            if let Progress::Done = self.advance(&mut job, &records, next) {
                self.finish_job(id, job);
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
            Progress::Done => self.finish_job(id, job),
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
                let (subject, from, to, excess) = self.next_overflow(job.stream)?;
                job.filter = Filter::any_of([&*subject]);
                Some(request(from, to, excess))
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
            Task::Chore(Chore::Fire) => self.next_due(job.stream).map(|seq| request(seq, seq, 1)),
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
            Task::Copy { target, key } => {
                let request = request(held.first_seq, held.last_seq, STEP_RECORDS);
                self.next_to_copy(job.stream, *target, key, &request)
            }
        }
    }

    /// Takes what was read.
    fn advance(&mut self, job: &mut Job, records: &[Record], next: u64) -> Progress {
        let id = job.stream;
        match &mut job.task {
            Task::Chore(Chore::Trim) => {
                if self.is_making_room(id) {
                    return Progress::Done;
                }
                for record in records {
                    if self.excess(id).is_none() {
                        return Progress::Done;
                    }
                    self.remove_record(id, record, false);
                }
            }
            Task::Chore(Chore::Overflow) => {
                let subject = job.filter.patterns().and_then(<[_]>::first).cloned();
                self.trim_subject(id, &subject.unwrap_or_default(), records, next);
            }
            Task::Chore(Chore::Age) => return self.age(id, records, next),
            Task::Chore(Chore::Expire) => {
                if records.is_empty() {
                    return Progress::Done;
                }
                self.expire_records(id, records);
            }
            Task::Chore(Chore::Fire) => return self.fire(id, records),
            Task::Purge { cursor, left, purged, .. } => {
                for record in records.iter().take(usize::try_from(*left).unwrap_or(usize::MAX)) {
                    if self.remove_record(id, record, false) {
                        *left -= 1;
                        *purged += 1;
                    }
                }
                *cursor = next;
            }
            Task::Delete { seq, erase, answer, .. } => {
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
            Task::Copy { target, key } => {
                return self.copy_records(id, (*target, &**key), records, next);
            }
        }
        Progress::More
    }

    /// A job met damage: it goes on behind it where it can.
    fn pass_over(&mut self, job: &mut Job, error: &ReadError) -> Progress {
        if let Task::Chore(Chore::Fire) = job.task {
            return self.fire_failed(job.stream, error);
        }
        let ReadError::Damaged { last, .. } = error else { return Progress::Done };
        match &mut job.task {
            Task::Purge { cursor, .. } | Task::Disinterest { cursor, .. } => *cursor = last + 1,
            Task::Chore(Chore::Age) => {
                if let Some(stream) = self.catalog.get_mut(job.stream) {
                    stream.age_cursor = last + 1;
                }
            }
            Task::Chore(Chore::Overflow) => {
                let subject = job.filter.patterns().and_then(<[_]>::first).cloned();
                if let Some(stream) = self.catalog.get_mut(job.stream) {
                    stream.overflow_from = (subject.unwrap_or_default(), last + 1);
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
            Task::Copy { target, key } => self.pass_over_uncopied(*target, key, *last),
            Task::Chore(_) => return Progress::Done,
        }
        Progress::More
    }

    fn finish_job(&mut self, id: JobId, job: Job) {
        self.forget_job(id, &job);
        match job.task {
            Task::Chore(chore) => {
                if let Some(stream) = self.catalog.get_mut(job.stream) {
                    stream.busy.remove(&chore);
                }
                match chore {
                    Chore::Age | Chore::Expire => self.schedule_expiry(job.stream),
                    // The stream's own limits waited for this.
                    Chore::Overflow => self.note_grown(job.stream),
                    Chore::Fire => self.set_firing(job.stream),
                    Chore::Trim => {}
                }
            }
            Task::Purge { purged, answer: Some(answer), .. } => {
                self.answer_api(answer, Ok(ApiResponse::Purged { success: true, purged }));
            }
            Task::Purge { answer: None, .. } => self.note_grown(job.stream),
            // It went before this job came to it.
            Task::Delete { seq, answer: Some(answer), .. } => {
                let error = self.nothing_to_delete(answer.0, job.stream, seq);
                self.answer_api(answer, Err(error));
            }
            Task::Open(opening) => self.finish_opening(job.stream, *opening),
            Task::Exhume(exhumation) => {
                let answer = exhumation.answer;
                self.answer_api(answer, exhumation.result());
            }
            Task::Copy { target, key } => self.copy_stopped(job.stream, target, &key),
            _ => {}
        }
    }

    /// Ends the jobs of a stream that is deleted.
    pub(super) fn end_jobs_of(&mut self, stream: StreamId) {
        let ids: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.stream == stream).map(|(id, _)| *id).collect();
        for id in ids {
            self.ready_jobs.remove(&id);
            let Some(job) = self.jobs.remove(&id) else { continue };
            self.forget_job(id, &job);
            let answer = match job.task {
                Task::Purge { answer, .. } | Task::Delete { answer, .. } => answer,
                Task::Open(opening) => opening.answer,
                Task::Exhume(exhumation) => Some(exhumation.answer),
                Task::Copy { target, key } => {
                    self.copy_stopped(stream, target, &key);
                    None
                }
                _ => None,
            };
            if let Some(answer) = answer {
                self.answer_api(answer, Err(ApiError::stream_not_found()));
            }
        }
    }
}
