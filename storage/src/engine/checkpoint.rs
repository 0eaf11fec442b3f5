//! Checkpoints as the owner of the engine sees them: when to begin one, what to hand over, and what
//! changes in memory when it is done.
//!
//! A checkpoint takes place at a group boundary. The owner hands over shared buffers and copies of
//! what changed; it serialises nothing large and waits for nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::background::Maintenance;
use super::checkpointer::{CheckpointDone, CheckpointJob, TailPart};
use super::segments::SegmentFile;
use crate::ids::StreamId;
use crate::keyed::KeyedChange;
use crate::log::SubjectSummary;
use crate::segment::{SegmentId, SegmentMeta};
use crate::state::entries::Entries;
use crate::state::{Action, Key, StreamValue, encode_gone, encode_keyed, encode_subject};
use crate::stream::Stream;

/// How far the engine is with its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// One was handed over: everything in chunks before this is being written.
    pub(super) in_flight: Option<u64>,
    /// The last one failed; the filler says when to try again.
    pub(super) is_paused: bool,
    /// One is wanted although nothing is full.
    pub(super) is_wanted: bool,
    /// Segments that a merge made, and those it replaced, since the last checkpoint.
    pub(super) added: Vec<Arc<SegmentMeta>>,
    pub(super) removed: Vec<SegmentId>,
    /// Checkpoints done.
    pub(super) generation: u64,
    /// The last group with an erase whose bytes may still lie in journal files.
    pub(super) scrub_through: u64,
    /// When the last one began, by the records' clock in nanoseconds since the Unix epoch.
    pub(super) began: u64,
    /// It began soon after the one before: publishers press.
    pub(super) is_pressed: bool,
    /// Calls until dead files are looked for again.
    pub(super) calls_to_space: u32,
}

/// What happened since start-up, as far as the owner counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) checkpoints: u64,
    pub(super) failed_checkpoints: u64,
    pub(super) merges: u64,
    pub(super) failed_merges: u64,
    pub(super) abandoned_merges: u64,
    pub(super) reads: u64,
    pub(super) failed_reads: u64,
}

/// A checkpoint begins when the tail holds this part of its budget: what comes while it is written
/// finds room in the other part, and memory that it frees is used again before more is taken.
const BEGIN_PART: usize = 2;
/// Checkpoints that begin within this time after each other, in nanoseconds, show that publishers press.
const SOON: u64 = 1_000_000_000;
/// Key and value of a subject in the state, usually at most.
const SUBJECT_BYTES: usize = 96;
/// Dead files are looked for once in this many calls.
const SPACE_EVERY: u32 = 256;

impl Engine {
    /// Begins a checkpoint if one is due. The open group must be empty.
    pub(super) fn checkpoint_if_due(&mut self) {
        if self.progress.in_flight.is_some() || !self.group.is_empty() {
            return;
        }
        if self.progress.is_paused && self.journal.is_retry_wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.is_checkpoint_due() {
            self.begin_checkpoint();
        }
    }

    fn is_checkpoint_due(&mut self) -> bool {
        if self.progress.is_wanted
            || !self.contents.erased.is_empty()
            || self.contents.tail_bytes() >= self.options.tail_budget / BEGIN_PART
            || self.journal_bytes >= self.options.journal_limit
            || (self.is_disk_full() && self.holds_stale_journal())
        {
            return true;
        }
        if self.progress.calls_to_space > 0 {
            self.progress.calls_to_space -= 1;
            return false;
        }
        self.progress.calls_to_space = SPACE_EVERY;
        // When there is no room, any file that a checkpoint lets go of is worth one.
        let worthwhile = if self.is_disk_full() {
            self.contents.recount();
            1
        } else {
            self.options.tail_budget as u64
        };
        self.contents.segments.dead_bytes() >= worthwhile
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.journal.is_disk_full.load(Ordering::Relaxed)
    }

    /// Whether checkpoints would free a journal file. It takes two until no manifest needs one.
    fn holds_stale_journal(&self) -> bool {
        let files = self.journal.files();
        files.active.get(1).is_some_and(|next| next.first_group > files.recycle_through + 1)
    }

    pub(super) fn begin_checkpoint(&mut self) {
        debug_assert!(self.group.is_empty(), "a checkpoint stands between two groups");
        self.release_kept(false);
        self.progress.is_wanted = false;
        let since = self.contents.clock.saturating_sub(self.progress.began);
        self.progress.is_pressed = since < SOON;
        self.progress.began = self.contents.clock;
        let through = self.group.number - 1;
        let until = self.contents.chunks.first_after(through);
        let mut entries = Entries::default();
        let erased = self.resolve_erased();
        self.retire_dead();
        let tails = self.hand_over_streams(&mut entries, until);
        for id in std::mem::take(&mut self.contents.dropped) {
            entries.remove(&Key::Stream(id));
            entries.remove(&Key::Gone(id));
        }
        for (key, change) in self.contents.keyed.take_changes() {
            add_keyed(&mut entries, &key, &change);
        }
        let segments = &self.contents.segments;
        let rewrite = segments.held.iter().filter(|(_, held)| held.rewrite);
        let job = CheckpointJob {
            through,
            chunks: self.contents.chunks.share_before(until),
            tails,
            entries,
            ids: self.contents.window.take_unsaved(),
            clock: self.contents.clock,
            added: std::mem::take(&mut self.progress.added),
            removed: std::mem::take(&mut self.progress.removed),
            rewrite: rewrite.map(|(id, _)| SegmentId(*id)).collect(),
            scrub_through: self.scrub(erased, through),
            tail_budget: self.options.tail_budget,
        };
        self.journal_bytes = 0;
        self.progress.in_flight = Some(until);
        self.background.checkpoints.push(Box::new(job));
    }

    /// Marks the segments that hold erased records. Returns whether anything was erased.
    fn resolve_erased(&mut self) -> bool {
        let erased = std::mem::take(&mut self.contents.erased);
        for (id, seq) in &erased {
            let streams = &self.contents.streams;
            let range = streams.get(id).and_then(|stream| stream.sealed_at(*seq));
            let Some(range) = range.filter(|range| range.first <= *seq) else { continue };
            if let Some(held) = self.contents.segments.held.get_mut(&range.segment) {
                held.rewrite = true;
            }
            self.merging.note_erased(range.segment);
        }
        !erased.is_empty()
    }

    /// Asks for erased bytes to be overwritten in journal files. Returns up to which group they
    /// may still be found, or 0.
    fn scrub(&mut self, erased: bool, through: u64) -> u64 {
        let mut files = self.journal.files();
        if erased {
            files.scrub_through = through;
            files.scrub_spares = true;
            self.progress.scrub_through = through;
        }
        let oldest = files.active.front().map_or(u64::MAX, |file| file.first_group);
        if oldest > self.progress.scrub_through
            && !files.scrub_spares
            && files.unscrubbed.is_empty()
        {
            self.progress.scrub_through = 0;
        }
        self.progress.scrub_through
    }

    /// Takes segments in which nothing can be read any more out of the list.
    fn retire_dead(&mut self) {
        self.contents.recount();
        let held = self.contents.segments.held.iter();
        let dead: Vec<u64> = held.filter(|(_, held)| held.live == 0).map(|(id, _)| *id).collect();
        let mut is_merging = false;
        for id in dead {
            if self.merging.contains(id) {
                is_merging = true;
                continue;
            }
            let contents = &mut self.contents;
            contents.segments.retire(id, &mut contents.streams);
            self.progress.removed.push(SegmentId(id));
        }
        if is_merging {
            self.press_merge();
        }
    }

    /// Collects what changed in streams, and the tails to be written.
    fn hand_over_streams(&mut self, entries: &mut Entries, until: u64) -> Vec<TailPart> {
        let mut tails = Vec::new();
        let mut ids: Vec<StreamId> = self.contents.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(stream) = self.contents.streams.get_mut(&id) else { continue };
            add_stream(entries, id, stream);
            let places = stream.tail.places_before(until);
            if !places.is_empty() {
                tails.push(TailPart {
                    stream: id,
                    compression: stream.options.compression,
                    places,
                    first_seq: stream.first_seq,
                    gone: stream.gone.clone(),
                });
            }
        }
        tails
    }

    /// The checkpoint was written and its manifest is in place.
    pub(super) fn checkpoint_done(&mut self, done: &CheckpointDone) {
        let until = self.progress.in_flight.take().unwrap_or_default();
        self.progress.generation = done.generation;
        self.progress.is_paused = false;
        self.progress.calls_to_space = 0;
        let contents = &mut self.contents;
        for meta in &done.segments {
            let file = SegmentFile::new(Arc::clone(meta), &self.archive);
            contents.segments.add(file, done.generation, &mut contents.streams);
        }
        for stream in contents.streams.values_mut() {
            let before = stream.tail.len();
            stream.tail.release_before(until);
            contents.tail_records -= before - stream.tail.len();
        }
        contents.chunks.release_before(until);
        contents.segments.unlisted(&done.unlisted);
        contents.window.expire(contents.clock);
        // Erased bytes should not wait for the usual moment: one more manifest, and the file that
        // holds them is on no list.
        self.progress.is_wanted |= contents.segments.retired.values().any(|(_, scrub)| *scrub);
        self.merge_if_worthwhile();
        self.background.maintain(Maintenance::Index(self.listed_files()));
        self.counters.checkpoints += 1;
    }

    pub(super) fn checkpoint_failed(&mut self, reason: &str) {
        tracing::error!(%reason, "a checkpoint failed; it will be tried again");
        self.progress.in_flight = None;
        self.progress.is_paused = true;
        self.journal.is_retry_wanted.store(true, Ordering::Relaxed);
        self.progress.is_wanted = true;
        self.counters.failed_checkpoints += 1;
    }

    pub(super) fn listed_files(&self) -> Vec<Arc<SegmentFile>> {
        self.contents.segments.held.values().map(|held| Arc::clone(&held.file)).collect()
    }

    /// Whether unsealed records press, so that background writes should not pause.
    pub(super) fn hurry(&self) {
        let pressing = self.contents.tail_bytes() > self.options.tail_budget * 3 / 2;
        self.background.hurry.store(pressing, Ordering::Relaxed);
    }
}

fn add_stream(entries: &mut Entries, id: StreamId, stream: &mut Stream) {
    if std::mem::take(&mut stream.is_dirty) {
        let value = StreamValue::of(stream);
        entries.add(&Key::Stream(id), Action::Put, |out| value.encode(out));
    }
    if stream.is_volatile() {
        stream.subjects.forget_changes();
        return;
    }
    if std::mem::take(&mut stream.gone_is_dirty) {
        entries.add(&Key::Gone(id), Action::Put, |out| encode_gone(&stream.gone, out));
    }
    entries.reserve(stream.subjects.changes(), SUBJECT_BYTES);
    let epoch = stream.epoch;
    stream.subjects.take_changes(|text, summary: Option<SubjectSummary>| {
        let key = Key::Subject(id, epoch, text);
        match summary {
            Some(summary) => {
                entries.add(&key, Action::Put, |out| encode_subject(&summary, out));
            }
            None => entries.remove(&key),
        }
    });
}

fn add_keyed(entries: &mut Entries, key: &[u8], change: &KeyedChange) {
    let key = Key::Keyed(key);
    match change {
        KeyedChange::Put { base, notes } => {
            entries.add(&key, Action::Put, |out| encode_keyed(base, notes, out));
        }
        KeyedChange::Noted(notes) => {
            entries.add(&key, Action::Append, |out| out.extend_from_slice(notes));
        }
        KeyedChange::Forgotten => entries.remove(&key),
    }
}
