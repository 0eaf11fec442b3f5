//! Schedules: messages that are published when they are due, once or again and again.
//!
//! A schedule is a stored message with a header that says when; another says where to. When it is
//! due next is kept in the log's state. What it publishes and the schedule's next time, or its end,
//! are one group: each time is published once, whatever happens between. A time that passed while
//! no broker ran is made up for once at the start.

use std::time::Duration;

use claudebus_storage::log::{Filter, ReadError};
use claudebus_storage::{Log, Pressure, Record, StreamId};

use crate::model::api::{ApiResponse, LIST_PAGE, ScheduleListOptions, ScheduledMessage};
use crate::model::error::ApiError;
use crate::model::headers::{Block, iter, names};
use crate::model::request::{SessionId, Token};
use crate::model::schedule::{PREFIX, STREAM, Schedule};
use crate::model::stream::{DeadLetters, Discard, Retention, StreamConfig};
use crate::model::subject::is_publishable;
use crate::model::time::Timestamp;

use super::jobs::{Progress, Task};
use super::restore::{RestoreError, not_understood};
use super::state::{self, KeptSchedule};
use super::stream::Chore;
use super::stream::asked::{Asked, Rollup};
use super::stream::timetable::Entry;
use super::stream::ttl::Ttl;
use super::{Broker, Deadline};

/// Longest wait without a look at the wall clock, which may be set meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Shortest wait, so that clocks which disagree by a little don't make a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// How long until what could not be published is tried again, in nanoseconds.
const RETRY: u64 = 5_000_000_000;

/// Headers of a schedule that what it publishes does not have.
fn is_of_schedule(key: &str) -> bool {
    [names::SCHEDULE, names::MESSAGE_ID, names::TTL, names::ROLLUP].contains(&key)
        || key.starts_with("Nats-Schedule-")
        || key.starts_with("Nats-Expected-")
}

/// The stream of schedules that publish to any stream.
pub(super) fn schedules_config() -> StreamConfig {
    StreamConfig {
        name: STREAM.to_owned(),
        subjects: vec![format!("{PREFIX}>")],
        description: Some("Messages to be published later".to_owned()),
        discard: Discard::New,
        max_msgs_per_subject: 1,
        duplicate_window: Duration::from_secs(120),
        allow_direct: true,
        allow_msg_ttl: true,
        allow_msg_schedules: true,
        allow_rollup_hdrs: true,
        dead_letters: DeadLetters { enabled: false, ..DeadLetters::default() },
        ..StreamConfig::default()
    }
}

impl<L: Log> Broker<L> {
    /// Checks what a message asks for as a schedule, or of one. Nothing if it is none.
    pub(super) fn plan(
        &mut self,
        id: StreamId,
        subject: &str,
        asked: &Asked<'_>,
    ) -> Result<Option<Entry>, ApiError> {
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        let allowed = stream.config.allow_msg_schedules;
        let Some(text) = asked.schedule.pattern else {
            if allowed {
                asked.schedule.check_end(subject)?;
            }
            return Ok(None);
        };
        if !allowed {
            return Err(ApiError::schedules_disabled());
        }
        let schedule = Schedule::parse(text, asked.schedule.time_zone).map_err(|why| {
            if why.is_about_zone() {
                ApiError::schedule_time_zone_invalid(why)
            } else {
                ApiError::schedule_pattern_invalid(why)
            }
        })?;
        let due = schedule
            .first(self.now.wall)
            .ok_or_else(|| ApiError::schedule_pattern_invalid("it is never due"))?;
        if asked.schedule.source.is_some() {
            return Err(ApiError::schedule_source_invalid());
        }
        // A target of which the last message alone is wanted has its stream's limit for that.
        if asked.rollup == Some(Rollup::All) || asked.schedule.rollup.is_some() {
            return Err(ApiError::schedule_rollup_invalid());
        }
        let most = self.limits.max_schedules;
        if stream.timetable.len() >= most && stream.timetable.of_subject(subject).is_none() {
            return Err(ApiError::too_many_schedules(most));
        }
        let target = asked.schedule.target.unwrap_or_default();
        if target == subject || !is_publishable(target) {
            return Err(ApiError::schedule_target_invalid(
                "it is another subject than the schedule's own, without wildcards",
            ));
        }
        let to = self.target_of(id, subject, target)?;
        if let Some(ttl) = asked.schedule.ttl {
            Ttl::parse(ttl).ok_or_else(ApiError::schedule_ttl_invalid)?;
            if self.catalog.get(to).is_some_and(|to| !to.config.allow_msg_ttl) {
                return Err(ApiError::ttl_disabled());
            }
        }
        let kept = KeptSchedule {
            subject: subject.to_owned(),
            schedule: text.to_owned(),
            time_zone: asked.schedule.time_zone.map(str::to_owned),
            target: target.to_owned(),
            ttl: asked.schedule.ttl.map(str::to_owned),
            due,
        };
        Ok(Some(Entry::new(kept, schedule)))
    }

    /// The stream that a schedule publishes to: its own, or any if its subject says so.
    fn target_of(
        &mut self,
        own: StreamId,
        subject: &str,
        target: &str,
    ) -> Result<StreamId, ApiError> {
        if self.router.stream_of(target) == Some(own) {
            return Ok(own);
        }
        if !subject.starts_with(PREFIX) {
            return Err(ApiError::schedule_target_invalid(format_args!(
                "the schedule's stream does not capture it; schedules below {PREFIX} may publish \
                 to other streams"
            )));
        }
        if self.router.stream_of(target).is_none() {
            self.make_default_for(target);
        }
        self.router.stream_of(target).ok_or_else(|| {
            ApiError::schedule_target_invalid(format_args!("no stream captures \"{target}\""))
        })
    }

    /// A message was stored: it may be a schedule, and it ends the one before it on its subject.
    pub(super) fn note_schedule(
        &mut self,
        id: StreamId,
        subject: &str,
        seq: u64,
        asked: &Asked<'_>,
        planned: Option<Entry>,
    ) {
        if self.catalog.get(id).is_none_or(|stream| !stream.config.allow_msg_schedules) {
            return;
        }
        self.end_schedule(id, subject);
        if let Some(entry) = planned {
            self.keep_schedule(id, seq, entry);
        } else if let Some(ended) = asked.schedule.ends() {
            // Without such a schedule there is nothing to end, as in JetStream.
            let _ = self.delete_schedule(id, ended, None);
        }
    }

    fn keep_schedule(&mut self, id: StreamId, seq: u64, entry: Entry) {
        self.log.put(&state::schedule_key(id, seq), &state::to_json(&entry.kept));
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.timetable.insert(seq, entry);
        }
        self.set_firing(id);
    }

    /// The schedule of this subject publishes nothing any more; its message stays.
    pub(super) fn end_schedule(&mut self, id: StreamId, subject: &str) {
        let seq = self.catalog.get(id).and_then(|stream| stream.timetable.of_subject(subject));
        if let Some(seq) = seq {
            self.forget_schedule(id, seq);
        }
    }

    /// The message at `seq` is gone, and with it the schedule that it may have been.
    pub(super) fn forget_schedule(&mut self, id: StreamId, seq: u64) {
        let found = self.catalog.get_mut(id).and_then(|stream| stream.timetable.remove(seq));
        if found.is_some() {
            self.log.forget(&state::schedule_key(id, seq));
        }
    }

    /// All messages of a stream are gone.
    pub(super) fn forget_schedules(&mut self, id: StreamId) {
        let seqs = self.catalog.get_mut(id).map(|stream| stream.timetable.clear());
        for seq in seqs.unwrap_or_default() {
            self.log.forget(&state::schedule_key(id, seq));
        }
        self.schedule.set(Deadline::Scheduled(id), None);
    }

    /// Deletes the message of a schedule, if the subject has one. Reading where it lies may take a
    /// while; it publishes nothing any more at once.
    pub(super) fn delete_schedule(
        &mut self,
        id: StreamId,
        subject: &str,
        answer: Option<(SessionId, Token)>,
    ) -> Result<(), ApiError> {
        let seq = self
            .catalog
            .get(id)
            .and_then(|stream| stream.timetable.of_subject(subject))
            .ok_or_else(|| ApiError::schedule_not_found(subject))?;
        self.forget_schedule(id, seq);
        let delete = Task::Delete { seq, erase: false, must_finish: true, answer };
        self.start_job(id, delete, Filter::all());
        Ok(())
    }

    /// Sets when a stream's schedules are looked at next.
    pub(super) fn set_firing(&mut self, id: StreamId) {
        let next = self.catalog.get(id).and_then(|stream| stream.timetable.next());
        let at = next.map(|due| {
            let wait = Duration::from_nanos(due.saturating_sub(self.now.wall));
            self.now.monotonic + wait.clamp(MIN_WAIT, MAX_WAIT)
        });
        self.schedule.set(Deadline::Scheduled(id), at);
    }

    /// The schedule that is due, to be read.
    pub(super) fn next_due(&self, id: StreamId) -> Option<u64> {
        self.catalog.get(id)?.timetable.due(self.now.wall)
    }

    /// Publishes what was read, if that is what is due.
    pub(super) fn fire(&mut self, id: StreamId, records: &[Record]) -> Progress {
        let Some(seq) = self.next_due(id) else { return Progress::Done };
        let Some(record) = records.iter().find(|record| record.seq == seq) else {
            if self.log.contains(id, seq) {
                // Something else became due while the disk was read; it comes with the next look.
                return Progress::Done;
            }
            tracing::error!(stream = %id, seq, "the message of a schedule is lost; it is forgotten");
            self.forget_schedule(id, seq);
            return Progress::More;
        };
        let entry = self.catalog.get(id).and_then(|stream| stream.timetable.get(seq)).cloned();
        let Some(entry) = entry else { return Progress::Done };
        let next = entry.schedule.next(entry.kept.due, self.now.wall);
        match self.publish_scheduled(id, &entry.kept, record, next) {
            Err(why) => {
                if entry.problem.is_none() {
                    tracing::warn!(stream = %id, subject = %entry.kept.subject, %why,
                        "a scheduled message cannot be published yet; it is tried again");
                }
                let again = self.again();
                if let Some(stream) = self.catalog.get_mut(id) {
                    stream.timetable.postpone(seq, again, why.to_string());
                }
            }
            Ok(()) => self.fired(id, record, next),
        }
        Progress::More
    }

    /// When what failed now is tried again, on the wall clock.
    fn again(&self) -> u64 {
        self.now.wall.saturating_add(RETRY)
    }

    /// It was published: when it is due again is kept in the same group, or it goes.
    fn fired(&mut self, id: StreamId, record: &Record, next: Option<u64>) {
        let Some(next) = next else {
            self.remove_record(id, record, false);
            return;
        };
        let kept = self.catalog.get_mut(id).and_then(|s| s.timetable.set_due(record.seq, next));
        if let Some(kept) = kept {
            self.log.put(&state::schedule_key(id, record.seq), &state::to_json(kept));
        }
    }

    /// The message of the schedule that is due cannot be read.
    pub(super) fn fire_failed(&mut self, id: StreamId, error: &ReadError) -> Progress {
        let Some(seq) = self.next_due(id) else { return Progress::Done };
        if let ReadError::Damaged { first, last, .. } = error
            && !(*first..=*last).contains(&seq)
        {
            // Something else became due while the disk was read; it comes with the next look.
            return Progress::Done;
        }
        tracing::error!(stream = %id, seq, "the message of a schedule cannot be read: {error}");
        let again = self.again();
        if let Some(stream) = self.catalog.get_mut(id) {
            match error {
                ReadError::Damaged { .. } => stream.timetable.give_up(seq, error.to_string()),
                ReadError::Io { .. } => stream.timetable.postpone(seq, again, error.to_string()),
            }
        }
        Progress::More
    }

    /// Stores what a schedule publishes, as its stream takes it.
    fn publish_scheduled(
        &mut self,
        own: StreamId,
        kept: &KeptSchedule,
        record: &Record,
        next: Option<u64>,
    ) -> Result<(), ApiError> {
        let id = self.target_of(own, &kept.subject, &kept.target)?;
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        if stream.config.sealed || self.catalog.get(own).is_some_and(|own| own.config.sealed) {
            return Err(ApiError::stream_sealed());
        }
        if self.is_out_of_space(stream) || self.log.pressure() >= Pressure::Full {
            return Err(ApiError::storage_exceeded());
        }
        let is_unwanted = stream.config.retention == Retention::Interest
            && !self.has_interest(stream, &kept.target);
        if is_unwanted {
            return Ok(());
        }
        let ttl = kept.ttl.as_deref().filter(|_| stream.config.allow_msg_ttl);
        let headers = published_headers(record, kept, ttl, next);
        if headers.len() + record.payload().len() > stream.rules.max_message {
            return Err(ApiError::message_too_large());
        }
        let size = stream.storage().size(kept.target.len(), headers.len(), record.payload().len());
        self.check_room(stream, &kept.target, size)?;
        let ttl = ttl.and_then(Ttl::parse);
        if !self.append_own(id, &kept.target, &headers, record.payload(), ttl) {
            return Err(ApiError::insufficient_resources());
        }
        Ok(())
    }

    /// Takes up the schedules that the log remembers.
    pub(super) fn restore_schedules(&mut self) -> Result<(), RestoreError> {
        for (key, kept) in self.log.states(state::SCHEDULES) {
            let (id, seq) = state::parse_schedule_key(&key)
                .ok_or_else(|| not_understood("a schedule", "its key has another form"))?;
            let what = || format!("the schedule at {seq} of {id}");
            let kept: KeptSchedule =
                serde_json::from_slice(&kept.base).map_err(|why| not_understood(what(), why))?;
            if !self.log.contains(id, seq) {
                // Of a stream in memory, or lost.
                self.log.forget(&key);
                continue;
            }
            let schedule = Schedule::parse(&kept.schedule, kept.time_zone.as_deref())
                .map_err(|why| not_understood(what(), why))?;
            if let Some(stream) = self.catalog.get_mut(id) {
                stream.timetable.insert(seq, Entry::new(kept, schedule));
            }
        }
        for id in self.catalog.ids() {
            self.set_firing(id);
        }
        Ok(())
    }

    /// Lists the schedules of a stream, or of all: by stream, those that are due first coming first.
    pub(super) fn list_schedules(
        &self,
        stream: Option<&str>,
        options: &ScheduleListOptions,
    ) -> Result<ApiResponse, ApiError> {
        let one = match stream {
            // It is made at first use, so until then it is a stream without schedules.
            Some(name) if name != STREAM && self.catalog.find(name).is_none() => {
                return Err(ApiError::stream_not_found());
            }
            Some(name) => self.catalog.find(name),
            None => None,
        };
        let streams =
            || self.catalog.iter().filter(|s| stream.is_none() || Some(s.id) == one.map(|o| o.id));
        let offset = usize::try_from(options.offset).unwrap_or(usize::MAX);
        let page = streams()
            .flat_map(|stream| stream.timetable.iter().map(move |entry| (stream, entry)))
            .skip(offset)
            .take(LIST_PAGE)
            .map(|(stream, (seq, entry))| ScheduledMessage {
                stream: stream.name.to_string(),
                seq,
                subject: entry.kept.subject.clone(),
                schedule: entry.kept.schedule.clone(),
                time_zone: entry.kept.time_zone.clone(),
                target: entry.kept.target.clone(),
                ttl: entry.kept.ttl.clone(),
                next: Timestamp(entry.kept.due),
                problem: entry.problem.clone(),
            });
        Ok(ApiResponse::Schedules {
            total: streams().map(|stream| stream.timetable.len()).sum(),
            offset,
            limit: LIST_PAGE,
            schedules: page.collect(),
        })
    }

    /// A stream's schedules may be due.
    pub(super) fn scheduled_timeout(&mut self, id: StreamId) {
        self.start_chore(id, Chore::Fire);
    }
}

/// The headers of what a schedule publishes: its own, without what made it a schedule.
fn published_headers(
    record: &Record,
    kept: &KeptSchedule,
    ttl: Option<&str>,
    next: Option<u64>,
) -> Vec<u8> {
    let mut block = Block::default();
    for (key, value) in iter(record.headers()).filter(|(key, _)| !is_of_schedule(key)) {
        block.add(key, value);
    }
    block.add(names::SCHEDULER, &kept.subject);
    let next = next.map_or_else(|| "purge".to_owned(), |next| Timestamp(next).to_string());
    block.add(names::SCHEDULE_NEXT, &next);
    if let Some(ttl) = ttl {
        block.add(names::TTL, ttl);
    }
    block.finish()
}
