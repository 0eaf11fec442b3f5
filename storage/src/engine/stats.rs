//! What an engine tells operators about itself: sizes and counters, for metrics, `info` and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Engine;
use crate::journal::Durability;
use crate::log::ScrubStats;

/// Sizes now, and counts since start-up. Sizes in bytes unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// When a group counts as durable.
    pub durability: Durability,
    /// Streams.
    pub streams: u64,
    /// Distinct subjects in all streams.
    pub subjects: u64,
    /// Memory of subject tables.
    pub subject_memory: u64,
    /// Memory of records not yet in segments.
    pub tail_bytes: u64,
    /// Records not yet in segments.
    pub tail_records: u64,
    /// Keys of keyed state.
    pub states: u64,
    /// Keyed state.
    pub state_bytes: u64,
    /// Message ids remembered.
    pub message_ids: u64,
    /// Memory charged for them.
    pub message_id_bytes: u64,
    /// Segments that count.
    pub segments: u64,
    /// Their files.
    pub segment_bytes: u64,
    /// Files whose records are all deleted, or that only an older checkpoint needs.
    pub dead_bytes: u64,
    /// Decoded blocks kept in memory.
    pub cache_bytes: u64,
    /// Journal files that hold groups still needed.
    pub journal_files: u64,
    /// Journal files ready for use.
    pub spare_files: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes written to the journal.
    pub journal_bytes: u64,
    /// Syncs of the journal.
    pub syncs: u64,
    /// Time spent in them, in microseconds.
    pub sync_micros: u64,
    /// 99th percentile of the latest syncs, in microseconds.
    pub sync_p99_micros: u64,
    /// Marks that closed the last group when nothing followed.
    pub marks: u64,
    /// Journal files begun.
    pub rotations: u64,
    /// Journal files made spare again.
    pub recycled: u64,
    /// Number of the last checkpoint; grows for ever.
    pub generation: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Checkpoints that failed and were tried again.
    pub failed_checkpoints: u64,
    /// Times all state files were merged into one.
    pub base_rewrites: u64,
    /// Merges of segments.
    pub merges: u64,
    /// Merges that failed.
    pub failed_merges: u64,
    /// Merges given up because most of their records were deleted meanwhile.
    pub abandoned_merges: u64,
    /// Segment files removed.
    pub segments_removed: u64,
    /// Reads that needed segments.
    pub reads: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Blocks read from segments.
    pub blocks_read: u64,
    /// Bytes read from segments.
    pub bytes_read: u64,
    /// Whether the disk is full, so that publishing is held back.
    pub is_disk_full: bool,
    /// Reading files again, to find damage before they are needed.
    pub scrub: ScrubStats,
}

/// Counters that workers keep.
#[derive(Debug, Default)]
pub(super) struct WorkCounters {
    pub(super) base_rewrites: AtomicU64,
    pub(super) segments_removed: AtomicU64,
    /// Copies of files that were made again.
    pub(super) repaired: AtomicU64,
    pub(super) scrub_bytes: AtomicU64,
    pub(super) scrub_passes: AtomicU64,
    pub(super) scrub_damaged: AtomicU64,
    /// In seconds since the Unix epoch.
    pub(super) scrub_last: AtomicU64,
}

impl WorkCounters {
    pub(super) fn scrub(&self) -> ScrubStats {
        ScrubStats {
            bytes: value(&self.scrub_bytes),
            passes: value(&self.scrub_passes),
            damaged: value(&self.scrub_damaged),
            repaired: value(&self.repaired),
            last: value(&self.scrub_last),
        }
    }
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Engine {
    /// Sizes and counters. Visits every stream and segment: for once a second, not for every message.
    #[must_use]
    pub fn info(&self) -> EngineStats {
        let contents = &self.contents;
        let streams = || contents.streams.values();
        let (states, state_bytes) = contents.keyed.size();
        let journal = &self.journal.counters;
        let (journal_files, spare_files) = {
            let files = self.journal.files();
            (files.active.len() as u64, files.spares.len() as u64)
        };
        EngineStats {
            durability: self.options.durability,
            streams: contents.streams.len() as u64,
            subjects: streams().map(|stream| stream.subjects.len() as u64).sum(),
            subject_memory: streams().map(|stream| stream.subjects.memory() as u64).sum(),
            tail_bytes: contents.tail_bytes() as u64,
            tail_records: contents.tail_records as u64,
            states: states as u64,
            state_bytes: state_bytes as u64,
            message_ids: contents.window.len() as u64,
            message_id_bytes: contents.window.bytes() as u64,
            segments: contents.segments.held.len() as u64,
            segment_bytes: contents.segments.bytes(),
            dead_bytes: contents.segments.dead_bytes(),
            cache_bytes: self.archive.cache.bytes() as u64,
            journal_files,
            spare_files,
            groups: value(&journal.groups),
            journal_bytes: value(&journal.bytes),
            syncs: value(&journal.syncs),
            sync_micros: value(&journal.sync_micros),
            sync_p99_micros: value(&journal.sync_p99_micros),
            marks: value(&journal.marks),
            rotations: value(&journal.rotations),
            recycled: value(&journal.recycled),
            generation: self.progress.generation,
            checkpoints: self.counters.checkpoints,
            failed_checkpoints: self.counters.failed_checkpoints,
            base_rewrites: value(&self.archive.counters.base_rewrites),
            merges: self.counters.merges,
            failed_merges: self.counters.failed_merges,
            abandoned_merges: self.counters.abandoned_merges,
            segments_removed: value(&self.archive.counters.segments_removed),
            reads: self.counters.reads,
            failed_reads: self.counters.failed_reads,
            blocks_read: value(&self.background.read_stats.blocks_read),
            bytes_read: value(&self.background.read_stats.bytes_read),
            is_disk_full: self.journal.is_disk_full.load(Ordering::Relaxed),
            scrub: self.archive.counters.scrub(),
        }
    }
}
