//! Creating a consumer: finding where it begins and counting what it has to deliver. Both may need
//! the disk; the consumer exists once they are done.

use std::sync::Arc;

use claudebus_storage::log::{Filter, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::api::ApiResponse;
use crate::model::consumer::{ConsumerConfig, DeliverPolicy};
use crate::model::error::ApiError;
use crate::model::event::ConsumerPath;
use crate::model::request::{SessionId, Token};
use crate::model::time::Timestamp;

use super::Broker;
use super::advisories::Change;
use super::consumer::{Consumer, Start};
use super::jobs::{Progress, Task};
use super::member::Member;
use super::state::{self, KeptConsumer};

/// Records of one read.
const READ_RECORDS: usize = 4096;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// A consumer that is being created, or counts anew after a restart or a change of its filters.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) answer: Option<(SessionId, Token)>,
    pub(super) name: Arc<str>,
    config: ConsumerConfig,
    created: Timestamp,
    filter: Filter,
    phase: Phase,
    /// Whether the consumer exists already.
    recount: bool,
}

#[derive(Debug)]
enum Phase {
    /// Looks for the first record of at least this time.
    Seek { since: u64, cursor: u64 },
    /// Counts records from `start`; those below `cursor` are counted.
    Count { start: u64, cursor: u64, counted: u64 },
}

impl Opening {
    /// What is to be read next; nothing when all is counted.
    pub(super) fn next_read(&self, stream: StreamId, last_seq: u64) -> Option<ReadRequest> {
        let (from, since, max_records) = match self.phase {
            Phase::Seek { since, cursor } => (cursor, since, 1),
            Phase::Count { cursor, .. } => (cursor, 0, READ_RECORDS),
        };
        let to = last_seq;
        let request = ReadRequest { stream, from, to, since, max_records, max_bytes: READ_BYTES };
        (from <= to).then_some(request)
    }

    /// Takes what was read.
    pub(super) fn advance(&mut self, records: &[Record], next: u64) -> Progress {
        match &mut self.phase {
            Phase::Seek { cursor, .. } => match records.first() {
                Some(record) => {
                    let start = record.seq;
                    self.phase = Phase::Count { start, cursor: start, counted: 0 };
                }
                None => *cursor = next,
            },
            Phase::Count { cursor, counted, .. } => {
                *counted += records.len() as u64;
                *cursor = next;
            }
        }
        Progress::More
    }

    /// Goes on behind damage.
    pub(super) fn pass_over(&mut self, last: u64) {
        match &mut self.phase {
            Phase::Seek { cursor, .. } | Phase::Count { cursor, .. } => *cursor = last + 1,
        }
    }

    /// A record of the stream is gone.
    pub(super) fn removed(&mut self, seq: u64, subject: &str) {
        if let Phase::Count { start, cursor, counted } = &mut self.phase
            && (*start..*cursor).contains(&seq)
            && self.filter.matches(subject)
        {
            *counted = counted.saturating_sub(1);
        }
    }

    /// All records up to `through` are gone.
    pub(super) fn cleared(&mut self, through: u64) {
        if let Phase::Count { cursor, counted, .. } = &mut self.phase {
            *counted = 0;
            *cursor = (*cursor).max(through + 1);
        }
    }
}

impl<L: Log> Broker<L> {
    /// Creates a consumer whose configuration is complete, and answers when it is there.
    pub(super) fn open_consumer(
        &mut self,
        id: StreamId,
        name: Arc<str>,
        config: ConsumerConfig,
        answer: (SessionId, Token),
    ) {
        let held = self.log.stream(id).unwrap_or_default();
        let filter = Filter::any_of(config.filters());
        let since = config.opt_start_time.map_or(0, |time| time.0);
        let policy = config.deliver_policy;
        let mut opening = Opening {
            answer: Some(answer),
            name,
            created: Timestamp(self.now.wall),
            filter: filter.clone(),
            phase: Phase::Seek { since, cursor: held.first_seq },
            recount: false,
            config,
        };
        let after = held.last_seq + 1;
        let start = match policy {
            DeliverPolicy::ByStartTime => {
                self.start_job(id, Task::Open(Box::new(opening)), filter);
                return;
            }
            DeliverPolicy::LastPerSubject => {
                let mut listed = Vec::new();
                self.log.subjects(id, &filter, &mut |_, subject| listed.push(subject.last));
                listed.sort_unstable();
                let num_pending = listed.len() as u64;
                let start =
                    Start { cursor: after, listed, stream_last: held.last_seq, num_pending };
                self.add_consumer(id, opening, start);
                return;
            }
            DeliverPolicy::All => held.first_seq,
            DeliverPolicy::New => after,
            DeliverPolicy::ByStartSequence => opening.config.opt_start_seq.max(held.first_seq),
            DeliverPolicy::Last => {
                let mut last = None;
                self.log.subjects(id, &filter, &mut |_, s| last = last.max(Some(s.last)));
                last.unwrap_or(after)
            }
        };
        match self.count_from(id, &filter, start) {
            Some(num_pending) => {
                let start = Start {
                    cursor: start,
                    listed: Vec::new(),
                    stream_last: held.last_seq,
                    num_pending,
                };
                self.add_consumer(id, opening, start);
            }
            None => {
                opening.phase = Phase::Count { start, cursor: start, counted: 0 };
                self.start_job(id, Task::Open(Box::new(opening)), filter);
            }
        }
    }

    /// How many records from `from` on the filter wants, if the log knows at once.
    fn count_from(&self, id: StreamId, filter: &Filter, from: u64) -> Option<u64> {
        let last = self.log.stream(id)?.last_seq;
        if from > last {
            return Some(0);
        }
        self.log.count(id, filter, from, last)
    }

    /// Counts anew what an existing consumer has to deliver.
    pub(super) fn recount(&mut self, id: StreamId, name: &Arc<str>) {
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        let start = member.consumer.cursor();
        let before = member.consumer.num_before_cursor();
        let filter = member.filter().clone();
        let (config, created) = (member.consumer.config().clone(), member.consumer.created());
        if let Some(count) = self.count_from(id, &filter, start) {
            if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) {
                member.consumer.set_num_pending(count + before);
            }
            return;
        }
        let opening = Opening {
            answer: None,
            name: Arc::clone(name),
            config,
            created,
            filter: filter.clone(),
            phase: Phase::Count { start, cursor: start, counted: 0 },
            recount: true,
        };
        self.start_job(id, Task::Open(Box::new(opening)), filter);
    }

    /// All is counted.
    pub(super) fn finish_opening(&mut self, id: StreamId, opening: Opening) {
        let stream_last = self.log.stream(id).map_or(0, |held| held.last_seq);
        let (cursor, num_pending) = match opening.phase {
            Phase::Seek { .. } => (stream_last + 1, 0),
            Phase::Count { start, counted, .. } => (start, counted),
        };
        if !opening.recount {
            let start = Start { cursor, listed: Vec::new(), stream_last, num_pending };
            self.add_consumer(id, opening, start);
            return;
        }
        let found = self.catalog.get_mut(id).and_then(|s| s.member_mut(&opening.name));
        let Some((name, member)) = found else { return };
        if *member.filter() != opening.filter {
            return; // The filters changed again, and another count is at work.
        }
        if member.consumer.cursor() == cursor {
            let before = member.consumer.num_before_cursor();
            member.consumer.set_num_pending(num_pending + before);
            self.stir(id, &name);
        } else {
            self.recount(id, &name);
        }
    }

    fn add_consumer(&mut self, id: StreamId, opening: Opening, start: Start) {
        let Opening { answer, name, config, created, .. } = opening;
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let path =
            Arc::new(ConsumerPath { stream: stream.name.to_string(), consumer: name.to_string() });
        let consumer = Consumer::new(path, config.clone(), created, start, self.now);
        let base = consumer.base();
        let member = Member::new(id, consumer);
        self.log.put(member.key(), &base);
        stream.consumers.join(Arc::clone(&name), Box::new(member));
        self.keep_consumer(id, &name);
        self.stir(id, &name);
        if let Some(subject) = &config.deliver_subject {
            self.listened.add(subject, &(id, Arc::clone(&name)));
            self.sweep_listened();
        }
        if let Some(stream) = self.catalog.get(id).map(|stream| Arc::clone(&stream.name)) {
            self.advise_consumer(Change::Created, &stream, &name);
        }
        if let Some(answer) = answer {
            let result = self.consumer_info(id, &name).map(|i| ApiResponse::Consumer(Box::new(i)));
            self.answer_api(answer, result);
        }
    }

    /// Lets a consumer begin anew at a sequence, with those who wait for its messages.
    pub(super) fn reset_consumer(&mut self, id: StreamId, name: &Arc<str>, seq: u64) {
        let stream_last = self.log.stream(id).map_or(0, |held| held.last_seq);
        let now = self.now;
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        member.consumer.reset(seq, stream_last, now);
        member.begin_anew();
        self.log.put(member.key(), &member.consumer.base());
        self.mourning.remove(&(id, Arc::clone(name)));
        self.recount(id, name);
        self.stir(id, name);
    }

    /// Writes a consumer's configuration to the log's state.
    pub(super) fn keep_consumer(&mut self, id: StreamId, name: &str) {
        let Some(member) = self.catalog.get(id).and_then(|s| s.consumers.get(name)) else { return };
        let kept = KeptConsumer {
            config: member.consumer.config().clone(),
            created: member.consumer.created(),
        };
        let key = state::consumer_key(state::CONSUMER_CONFIGS, id, name);
        self.log.put(&key, &state::to_json(&kept));
    }

    /// Deletes a consumer. Returns whether it was there.
    pub(super) fn remove_consumer(&mut self, id: StreamId, name: &Arc<str>) -> bool {
        let removed = self.catalog.get_mut(id).and_then(|s| s.consumers.leave(name));
        let Some(mut member) = removed else { return false };
        member.consumer.end_pulls(409, "Consumer Deleted");
        for status in member.consumer.take_statuses() {
            self.tell_status_when_durable(status);
        }
        let key = (id, Arc::clone(name));
        self.mourning.remove(&key);
        self.schedule.set(super::Deadline::Consumer(id, Arc::clone(name)), None);
        self.schedule.set(super::Deadline::Burial(id, Arc::clone(name)), None);
        self.log.forget(member.key());
        self.log.forget(&state::consumer_key(state::CONSUMER_CONFIGS, id, name));
        let path = Arc::clone(member.consumer.path());
        self.advise_consumer(Change::Deleted, &path.stream, &path.consumer);
        true
    }

    /// Whether a consumer of that name is being created.
    pub(super) fn is_opening(&self, id: StreamId, name: &str) -> bool {
        self.openings(id).any(|opening| *opening.name == *name && !opening.recount)
    }

    /// How many consumers of the stream are being created.
    pub(super) fn num_opening(&self, id: StreamId) -> usize {
        self.openings(id).filter(|opening| !opening.recount).count()
    }

    fn openings(&self, id: StreamId) -> impl Iterator<Item = &Opening> {
        self.jobs.values().filter(move |job| job.stream == id).filter_map(|job| match &job.task {
            Task::Open(opening) => Some(&**opening),
            _ => None,
        })
    }

    /// Refuses a consumer of a name that is just being created.
    pub(super) fn refuse_opening(&mut self, answer: (SessionId, Token)) {
        let error =
            ApiError::consumer_create_failed("the consumer is just being created; ask again");
        self.answer_api(answer, Err(error));
    }
}
