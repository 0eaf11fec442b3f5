//! The log on a disk: journal, tail, segments, and the state that a checkpoint writes.
//!
//! An [`Engine`] is owned by one thread, the broker's, which never waits for a disk: it encodes
//! groups and answers reads from memory; threads of the engine write, sync, fill and read. It
//! decides nothing about streams beyond what [`Log`] says.

mod background;
mod contents;
mod effects;
mod group;
mod options;
mod read;
mod recovery;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::options::{EngineOptions, Workers};
pub use self::recovery::{OpenError, RecoveryReport};
pub use crate::journal::shared::Waker;

use self::background::Background;
use self::contents::Contents;
use self::group::OpenGroup;
use crate::disk::Disk;
use crate::ids::{Fingerprint, Position, StreamId, SubjectId};
use crate::journal::shared::JournalShared;
use crate::log::{
    Filter, FilterMemo, Log, LogEvent, LogFailure, Pressure, ReadOutcome, ReadRequest, State,
    StreamOptions, StreamSummary, SubjectSummary, WindowFull,
};
use crate::record::{NewRecord, Record};

/// A durable log. See the module's text.
pub struct Engine {
    options: EngineOptions,
    contents: Contents,
    group: OpenGroup,
    journal: Arc<JournalShared>,
    background: Background,
    /// The last position told to the owner.
    reported: Position,
    /// Bytes of journal since the last checkpoint.
    journal_bytes: u64,
    report: RecoveryReport,
}

impl Engine {
    /// Opens the log in `disk`, recovering what is there. `waker` is called, from any thread,
    /// when [`Log::poll`] may have news.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed on disk if the format is not ours.
    pub fn open(
        options: EngineOptions,
        disk: Arc<dyn Disk>,
        waker: Waker,
    ) -> Result<Self, OpenError> {
        recovery::open(options, disk, waker)
    }

    /// What was found when the log was opened.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Does all work that waits for the disk. Only for [`Workers::Inline`]; with threads it does nothing.
    pub fn run_background(&mut self) {
        self.background.run_inline();
    }

    /// Stops cleanly: everything committed is durable and checkpointed when it returns.
    ///
    /// # Errors
    /// [`LogFailure`] if the journal failed; what was acknowledged is safe nevertheless.
    pub fn close(mut self) -> Result<(), LogFailure> {
        self.commit_group();
        self.background.stop();
        self.check_failure()
    }

    fn check_failure(&self) -> Result<(), LogFailure> {
        match self.journal.failure() {
            Some(reason) => Err(LogFailure { reason: reason.to_owned() }),
            None => Ok(()),
        }
    }
}

impl Log for Engine {
    fn create_stream(&mut self, id: StreamId, options: StreamOptions) {
        self.create(id, options);
    }

    fn update_stream(&mut self, id: StreamId, options: StreamOptions) {
        self.update(id, options);
    }

    fn drop_stream(&mut self, id: StreamId) {
        self.drop_one(id);
    }

    fn stream(&self, id: StreamId) -> Option<StreamSummary> {
        self.contents.streams.get(&id).map(|stream| stream.summary())
    }

    fn append(&mut self, stream: StreamId, record: &NewRecord<'_>) -> Result<u64, WindowFull> {
        self.append_one(stream, record)
    }

    fn skip(&mut self, stream: StreamId, last: u64) {
        self.skip_to(stream, last);
    }

    fn delete(&mut self, stream: StreamId, seq: u64, subject: SubjectId, size: u64) -> bool {
        self.delete_one(stream, seq, subject, size, false)
    }

    fn erase(&mut self, stream: StreamId, seq: u64, subject: SubjectId, size: u64) -> bool {
        self.delete_one(stream, seq, subject, size, true)
    }

    fn clear(&mut self, stream: StreamId) -> u64 {
        self.clear_all(stream)
    }

    fn contains(&self, stream: StreamId, seq: u64) -> bool {
        self.contents.streams.get(&stream).is_some_and(|stream| stream.contains(seq))
    }

    fn subject(&self, stream: StreamId, subject: &str) -> Option<SubjectSummary> {
        self.contents.streams.get(&stream)?.subjects.get(subject)
    }

    fn subject_text(&self, stream: StreamId, id: SubjectId) -> Option<&str> {
        self.contents.streams.get(&stream)?.subjects.text(id)
    }

    fn subjects(
        &self,
        stream: StreamId,
        filter: &Filter,
        visit: &mut dyn FnMut(&str, SubjectSummary),
    ) {
        let Some(stream) = self.contents.streams.get(&stream) else { return };
        stream.subjects.for_each(|text, summary| {
            if filter.matches(text) {
                visit(text, summary);
            }
        });
    }

    fn read(
        &mut self,
        request: &ReadRequest,
        filter: &mut FilterMemo,
        records: &mut Vec<Record>,
    ) -> ReadOutcome {
        self.read_records(request, filter, records)
    }

    fn count(&self, stream: StreamId, filter: &Filter, from: u64, to: u64) -> Option<u64> {
        let stream = self.contents.streams.get(&stream)?;
        self.count_records(stream, filter, from, to)
    }

    fn next_expiry(&self, stream: StreamId) -> Option<(u64, u64)> {
        self.contents.streams.get(&stream)?.expiries.first().copied()
    }

    fn recall(&self, stream: StreamId, id: Fingerprint, now: u64) -> Option<u64> {
        self.contents.window.recall(stream, id, now)
    }

    fn put(&mut self, key: &[u8], base: &[u8]) {
        self.put_state(key, base);
    }

    fn note(&mut self, key: &[u8], note: &[u8]) -> (usize, usize) {
        self.note_state(key, note)
    }

    fn forget(&mut self, key: &[u8]) {
        self.forget_state(key);
    }

    fn states(&self, prefix: &[u8]) -> Vec<(Vec<u8>, State)> {
        self.contents.keyed.with_prefix(prefix)
    }

    fn commit(&mut self) -> Position {
        self.commit_group()
    }

    fn durable(&self) -> Position {
        Position(self.journal.durable())
    }

    fn poll(&mut self) -> Result<Option<LogEvent>, LogFailure> {
        self.check_failure()?;
        let durable = self.durable();
        if durable > self.reported {
            self.reported = durable;
            return Ok(Some(LogEvent::Durable(durable)));
        }
        Ok(None)
    }

    fn pressure(&self) -> Pressure {
        let used = self.contents.tail_bytes();
        let budget = self.options.tail_budget;
        if used >= budget * 2 || self.journal.is_disk_full.load(Ordering::Relaxed) {
            Pressure::Full
        } else if used >= budget + budget / 2 {
            Pressure::High
        } else {
            Pressure::Normal
        }
    }
}
