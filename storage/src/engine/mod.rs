//! The log on a disk: journal, tail, segments, and the state that a checkpoint writes.
//!
//! An [`Engine`] is owned by one thread, the broker's, which waits for no disk but a fast one, for a lone
//! small group: it encodes groups and answers reads from memory; threads of the engine write, sync, fill
//! and read. It decides nothing about streams beyond what [`Log`] says.

mod background;
mod checkpoint;
mod checkpointer;
mod contents;
mod crew;
mod effects;
mod group;
mod inspect;
mod load;
mod losses;
mod mailbox;
mod maintenance;
mod marks;
mod merging;
mod options;
mod pacer;
mod read;
mod reader;
mod recovery;
mod report;
mod scrub;
mod segments;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use self::marks::{is_format_file, is_newer_format, mend_format};
pub use self::options::{EngineOptions, InlineWorkers, LoneWriter, ScrubOptions, Workers};
pub use self::report::{DamageReport, OpenError, RecoveryReport};
pub(crate) use self::report::{LOST, set_aside};
pub use self::stats::EngineStats;
pub use crate::journal::shared::Waker;

use self::background::{Background, News};
use self::checkpoint::{Counters, Progress};
use self::contents::Contents;
use self::group::OpenGroup;
use self::merging::Merging;
use self::segments::Archive;
use crate::disk::Disk;
use crate::ids::{Fingerprint, Position, StreamId, SubjectId};
use crate::journal::shared::{Group, JournalShared};
use crate::log::{
    Filter, Log, LogEvent, LogFailure, Losses, Pressure, ReadOutcome, ReadRequest, ScrubStats,
    State, StreamOptions, StreamSummary, SubjectSummary, WindowFull,
};
use crate::record::{NewRecord, Record};

/// A durable log. See the module's text.
pub struct Engine {
    options: EngineOptions,
    contents: Contents,
    group: OpenGroup,
    /// A closed group that waits until its owner has nothing else to do.
    kept: Option<Group>,
    journal: Arc<JournalShared>,
    background: Background,
    /// The last position told to the owner.
    reported: Position,
    /// Bytes of journal since the last checkpoint.
    journal_bytes: u64,
    report: RecoveryReport,
    disk: Arc<dyn Disk>,
    archive: Arc<Archive>,
    progress: Progress,
    merging: Merging,
    /// Segments that could not be merged, being damaged.
    unmergeable: BTreeSet<u64>,
    next_read: u64,
    counters: Counters,
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
        self.release_kept(false);
        self.background.run_inline();
    }

    /// The same for some of the workers, so that a simulation decides who is slow.
    pub fn run_some_background(&mut self, workers: InlineWorkers) {
        self.release_kept(false);
        self.background.run_some_inline(workers);
    }

    /// Reads all files again that are written once, as the background does at its own pace, and makes
    /// damaged copies again. Waits until it is done.
    pub fn scrub_now(&self) {
        self.background.scrub();
    }

    /// Stops cleanly: everything committed is durable and checkpointed when it returns. If the
    /// checkpoint fails, the next start replays the journal instead.
    ///
    /// # Errors
    /// [`LogFailure`] if the journal failed; what was acknowledged is safe nevertheless.
    pub fn close(mut self) -> Result<(), LogFailure> {
        self.background.hurry.store(true, Ordering::Relaxed);
        self.commit_group();
        self.release_kept(false);
        self.settle()?;
        let failures = self.counters.failed_checkpoints;
        let has_news = self.journal_bytes > 0 || !self.progress.added.is_empty();
        if has_news || !self.progress.removed.is_empty() {
            self.begin_checkpoint();
            self.settle()?;
        }
        self.background.stop();
        self.check_failure()?;
        if let Some(index) = &self.archive.index
            && let Err(error) = index.close()
        {
            tracing::warn!(%error, "the index will be built again");
        }
        if self.counters.failed_checkpoints == failures
            && let Err(error) = marks::mark_clean(self.disk.as_ref())
        {
            tracing::warn!(%error, "the clean stop could not be noted");
        }
        Ok(())
    }

    /// Waits for the checkpoint that is under way.
    fn settle(&mut self) -> Result<(), LogFailure> {
        while self.progress.in_flight.is_some() {
            self.check_failure()?;
            self.background.wait_for_news();
            // Nobody waits for reads any more.
            while self.take_news().is_some() {}
        }
        Ok(())
    }

    /// Deals with what workers tell; returns what the owner must know.
    fn take_news(&mut self) -> Option<LogEvent> {
        while let Some(news) = self.background.news.try_pop() {
            match news {
                News::Read(id, stream, result) => {
                    return Some(LogEvent::Read(id, self.recheck(stream, result)));
                }
                News::Checkpoint(Ok(done)) => self.checkpoint_done(&done),
                News::Checkpoint(Err(reason)) => self.checkpoint_failed(&reason),
                News::Merge(done) => self.merge_done(done),
            }
        }
        None
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

    fn has_room_for_ids(&mut self, now: u64, count: usize) -> bool {
        self.has_room_in_window(now, count)
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
        if let Some(stream) = self.contents.streams.get(&stream) {
            stream.subjects.for_each_wanted(filter, visit);
        }
    }

    fn read(
        &mut self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> ReadOutcome {
        self.read_records(request, filter, records)
    }

    fn read_known(
        &mut self,
        stream: StreamId,
        seqs: &[u64],
        max_bytes: usize,
        records: &mut Vec<Record>,
    ) -> usize {
        self.read_known_records(stream, seqs, max_bytes, records)
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

    fn release(&mut self, is_idle: bool) -> bool {
        self.release_kept(is_idle)
    }

    fn durable(&self) -> Position {
        Position(self.journal.durable())
    }

    fn poll(&mut self) -> Result<Option<LogEvent>, LogFailure> {
        self.release_kept(false);
        self.check_failure()?;
        let durable = self.durable();
        if durable > self.reported {
            self.reported = durable;
            return Ok(Some(LogEvent::Durable(durable)));
        }
        let event = self.take_news();
        if event.is_none() {
            self.hurry();
            self.checkpoint_if_due();
        }
        Ok(event)
    }

    fn losses(&self) -> &Losses {
        &self.report.losses
    }

    fn copies(&self) -> u64 {
        self.disk.copies().len().max(1) as u64
    }

    fn scrubbed(&self) -> ScrubStats {
        self.archive.counters.scrub()
    }

    fn pressure(&self) -> Pressure {
        let used = self.contents.tail_bytes();
        let budget = self.options.tail_budget;
        if self.is_disk_full() {
            Pressure::NoSpace
        } else if used >= budget * 2 {
            Pressure::Full
        } else if used >= budget + budget / 2 {
            Pressure::High
        } else {
            Pressure::Normal
        }
    }
}
