//! Deleting records, and the limits that make streams delete: counts, bytes, messages per subject.

use claudebus_storage::log::Filter;
use claudebus_storage::{Log, Record, StreamId};

use super::Broker;
use super::jobs::Task;
use super::stream::Chore;
use crate::model::subject::has_wildcard;

impl<L: Log> Broker<L> {
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
        self.forget_schedule(id, seq);
        let now = self.now;
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let turns = &mut self.turns;
        stream.consumers.each_wanting(subject, |seat, member| {
            // What it notes goes with the deletion.
            if member.consumer.is_pending(seq) || member.consumer.is_held(seq) {
                turns.add(id, seat);
            }
            member.consumer.removed(now, seq);
        });
        for job in self.jobs.values_mut().filter(|job| job.stream == id) {
            if let Task::Open(opening) = &mut job.task {
                opening.removed(seq, subject);
            }
        }
    }

    /// Deletes earlier messages that the message at `seq` replaces.
    pub(super) fn roll_up(&mut self, id: StreamId, subject: Option<&str>, seq: u64) {
        let filter = subject.map_or_else(Filter::all, |subject| Filter::any_of([subject]));
        // A text with wildcards rolls up what it matches, as in JetStream.
        let cursor = subject
            .filter(|subject| !has_wildcard(subject))
            .and_then(|subject| self.log.subject(id, subject))
            .map_or(0, |summary| summary.first);
        let task = Task::Purge { cursor, below: seq, left: u64::MAX, purged: 0, answer: None };
        self.start_job(id, task, filter);
    }

    /// By how much a stream exceeds its limits: a number of records to delete before looking again.
    pub(super) fn excess(&self, id: StreamId) -> Option<u64> {
        let stream = self.catalog.get(id)?;
        let held = self.log.stream(id)?;
        let messages = stream.max_msgs().map_or(0, |most| held.messages.saturating_sub(most));
        let bytes = stream.max_bytes().map_or(0, |most| held.bytes.saturating_sub(most));
        let average = held.bytes.checked_div(held.messages).unwrap_or(1).max(1);
        let excess = messages.max(bytes.div_ceil(average));
        (excess > 0 && held.messages > 0).then_some(excess)
    }

    /// A subject with too many messages, from where to where they may be, and how many are too many.
    pub(super) fn next_overflow(&mut self, id: StreamId) -> Option<(Box<str>, u64, u64, u64)> {
        loop {
            let stream = self.catalog.get_mut(id)?;
            let subject = stream.overflowing.first()?;
            let most = stream.max_per_subject().unwrap_or(u64::MAX);
            if let Some(summary) = self.log.subject(id, subject)
                && summary.count > most
            {
                // What the log knows of the first record is a lower bound.
                let (of, from) = &stream.overflow_from;
                let from = if of == subject { summary.first.max(*from) } else { summary.first };
                if from <= summary.last {
                    return Some((subject.clone(), from, summary.last, summary.count - most));
                }
                // What the log counted is not there to be read: damaged, and reported.
            }
            stream.overflowing.pop_first();
        }
    }

    /// Takes what was read of one overflowing subject, up to `next`: the oldest that are too many go.
    pub(super) fn trim_subject(
        &mut self,
        id: StreamId,
        subject: &str,
        records: &[Record],
        next: u64,
    ) {
        let mut cursor = next;
        // One with a literal wildcard was read as a pattern, which others match.
        for record in records.iter().filter(|record| record.subject() == subject) {
            let Some(stream) = self.catalog.get(id) else { return };
            let most = stream.max_per_subject().unwrap_or(u64::MAX);
            if self.log.subject(id, subject).is_none_or(|summary| summary.count <= most) {
                cursor = record.seq;
                break;
            }
            self.remove_record(id, record, false);
        }
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.overflow_from = (Box::from(subject), cursor);
        }
    }

    /// After messages of `subject` were added: keeps the limit for one subject at once. The others
    /// are kept at the end of the turn, or before anyone looks.
    pub(super) fn keep_subject_limit(&mut self, id: StreamId, subject: &str) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let overflows = stream.max_per_subject().is_some_and(|most| {
            self.log.subject(id, subject).is_some_and(|summary| summary.count > most)
        });
        if overflows {
            stream.overflowing.insert(Box::from(subject));
            self.start_chore(id, Chore::Overflow);
        }
    }

    /// Keeps the limits of streams that may hold more than they allow.
    pub(super) fn keep_limits(&mut self) {
        for id in std::mem::take(&mut self.grown) {
            if let Some(stream) = self.catalog.get_mut(id) {
                stream.in_grown = false;
            }
            if self.excess(id).is_some() && !self.is_making_room(id) {
                self.start_chore(id, Chore::Trim);
            }
            let ages = self
                .catalog
                .get(id)
                .is_some_and(|s| !s.config.max_age.is_zero() && s.expiry_at.is_none());
            if ages {
                self.schedule_expiry(id);
            }
        }
    }

    /// Whether records of the stream are about to go because of later ones: those beyond the limit
    /// for their subject, and those that were rolled up. The stream's own limits are looked at
    /// when they are gone; otherwise more would go than must.
    pub(super) fn is_making_room(&self, id: StreamId) -> bool {
        self.catalog.get(id).is_some_and(|stream| stream.busy.contains(&Chore::Overflow))
            || self.jobs.values().any(|job| job.stream == id && job.is_rollup())
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
        self.note_grown(id);
        self.keep_limits();
        self.start_chore(id, Chore::Age);
        self.schedule_expiry(id);
    }
}
