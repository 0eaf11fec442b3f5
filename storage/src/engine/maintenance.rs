//! Work on segments that nobody waits for: merging, indexing, and taking out the trash.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::background::Maintenance;
use super::checkpointer::SEGMENTS;
use super::pacer::Pacer;
use super::segments::{SegmentFile, Trash};
use super::stats::WorkCounters;
use crate::copies::{Sealed, mend};
use crate::crash::CrashPoints;
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::index::Index;
use crate::log::Compression;
use crate::manifest::ListedSegment;
use crate::segment::{Merge, MergeLimits, SegmentError, SegmentId, SegmentMeta, merge};
use crate::stream::Gone;

/// Overwriting is done in steps of this many bytes.
const STEP: usize = 1 << 20;

/// What a merge needs to know of a stream.
pub(super) struct StreamView {
    pub(super) first_seq: u64,
    pub(super) gone: Gone,
    pub(super) compression: Compression,
}

/// Segments to be merged.
pub(super) struct MergeJob {
    pub(super) inputs: Vec<Arc<SegmentFile>>,
    /// Streams that still exist, as they were when the merge began.
    pub(super) streams: BTreeMap<StreamId, StreamView>,
    pub(super) limits: MergeLimits,
    pub(super) wishes: Arc<MergeWishes>,
}

/// What the owner wants of a merge, which may change while it goes on.
#[derive(Debug, Default)]
pub(super) struct MergeWishes {
    /// Somebody waits for the result, or so many files wait that reads suffer.
    pub(super) is_urgent: AtomicBool,
    /// Nobody wants it any more: it ends without a result.
    pub(super) is_abandoned: AtomicBool,
}

/// What became of a merge.
pub(super) struct MergeDone {
    pub(super) outputs: Result<Vec<Arc<SegmentMeta>>, MergeFailure>,
}

/// Why a merge failed.
#[derive(Debug)]
pub(super) struct MergeFailure {
    reason: String,
    /// Nobody wanted it any more.
    pub(super) is_given_up: bool,
    /// Trying again will not help.
    pub(super) is_lasting: bool,
}

impl fmt::Display for MergeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The worker for all of this.
pub(super) struct Maintainer {
    pub(super) disk: Arc<dyn Disk>,
    /// Held by whoever makes copies again.
    pub(super) mending: Arc<Mutex<()>>,
    pub(super) pacer: Pacer,
    pub(super) crash: CrashPoints,
    pub(super) next_segment: Arc<AtomicU64>,
    pub(super) index: Option<Arc<Index>>,
    pub(super) is_closed: Arc<AtomicBool>,
    pub(super) counters: Arc<WorkCounters>,
}

impl Maintainer {
    /// Does what there is to do. A merge may take long: what comes meanwhile, from `next`, goes first.
    pub(super) fn run(
        &self,
        work: Maintenance,
        next: &dyn Fn() -> Option<Maintenance>,
    ) -> Option<MergeDone> {
        match work {
            Maintenance::Merge(job) => {
                return Some(MergeDone { outputs: self.merge(&job, next) });
            }
            Maintenance::Index(files) => self.update_index(&files),
            Maintenance::Trash(trash) => self.take_out(&trash),
            Maintenance::Mend(file) => {
                self.mend(&file);
            }
        }
        None
    }

    /// Makes the damaged copy of a segment again from the whole one.
    fn mend(&self, file: &SegmentFile) -> u64 {
        let SegmentMeta { id, length, digest, .. } = *file.meta;
        let sealed = Sealed::Segment(ListedSegment { id, length, digest });
        let mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = mend(self.disk.as_ref(), &sealed);
        drop(mending);
        self.counters.repaired.fetch_add(outcome.repaired, Ordering::Relaxed);
        if outcome.is_bad() {
            tracing::error!(file = %sealed.path(), "a segment cannot be made whole; run `claudebus verify` on the data directory");
        } else {
            file.vindicate();
        }
        outcome.repaired
    }

    /// Merges; where an input is damaged, once more after its copies were compared.
    fn merge(
        &self,
        job: &MergeJob,
        next: &dyn Fn() -> Option<Maintenance>,
    ) -> Result<Vec<Arc<SegmentMeta>>, MergeFailure> {
        let merged = self.try_merge(job, next);
        let is_damaged = merged.as_ref().is_err_and(|failure| failure.is_lasting);
        if is_damaged
            && !self.disk.copies().is_empty()
            && job.inputs.iter().map(|file| self.mend(file)).sum::<u64>() > 0
        {
            return self.try_merge(job, next);
        }
        merged
    }

    fn try_merge(
        &self,
        job: &MergeJob,
        next: &dyn Fn() -> Option<Maintenance>,
    ) -> Result<Vec<Arc<SegmentMeta>>, MergeFailure> {
        self.crash.at("merge.before");
        let inputs: Vec<Arc<SegmentMeta>> =
            job.inputs.iter().map(|file| Arc::clone(&file.meta)).collect();
        let keep = |stream: StreamId, seq: u64| {
            job.streams
                .get(&stream)
                .is_some_and(|view| seq >= view.first_seq && !view.gone.contains(seq))
        };
        let work = Merge {
            disk: self.disk.as_ref(),
            next_id: &mut || SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed)),
            keep: &keep,
            compression: &|stream| {
                job.streams.get(&stream).map_or(Compression::default(), |view| view.compression)
            },
            limits: job.limits,
        };
        let (mut soon, mut gently) = (self.pacer.pace(), self.pacer.pace_gently());
        let mut is_given_up = false;
        let mut pace_unless_ended = |bytes| {
            is_given_up = job.wishes.is_abandoned.load(Ordering::Relaxed);
            if is_given_up || self.is_closed.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            while let Some(other) = next() {
                // The engine begins no merge before it has heard of the one before.
                self.run(other, &|| None);
            }
            if job.wishes.is_urgent.load(Ordering::Relaxed) { soon(bytes) } else { gently(bytes) }
        };
        let merged = merge(work, &inputs, &mut pace_unless_ended).and_then(|outputs| {
            self.disk.sync_dir(SEGMENTS).map_err(|error| SegmentError::io(SEGMENTS, &error))?;
            Ok(outputs.into_iter().map(Arc::new).collect())
        });
        self.crash.at("merge.after");
        merged.map_err(|error| MergeFailure {
            is_given_up,
            is_lasting: !matches!(error, SegmentError::Io { .. }),
            reason: error.to_string(),
        })
    }

    fn update_index(&self, files: &[Arc<SegmentFile>]) {
        let Some(index) = &self.index else { return };
        self.crash.at("index.rebuild.before");
        let listed: Vec<SegmentId> = files.iter().map(|file| file.meta.id).collect();
        let by_id: BTreeMap<SegmentId, &Arc<SegmentFile>> =
            files.iter().map(|file| (file.meta.id, file)).collect();
        let open = |id: SegmentId| by_id.get(&id)?.segment().ok();
        let stop = || self.is_closed.load(Ordering::Relaxed);
        if let Err(error) = index.update(&listed, &open, &stop) {
            tracing::warn!(%error, "the index is not up to date; reads use the segments' own tables");
        }
        self.crash.at("index.rebuild.after");
    }

    /// Removes a file that nothing lists and nobody reads.
    fn take_out(&self, trash: &Trash) {
        self.crash.at("delete.before");
        let result = self.try_take_out(trash);
        if let Err(error) = result {
            // What stays is swept at the next start.
            tracing::warn!(path = %trash.path, %error, "an old segment could not be removed");
        }
        self.crash.at("delete.after");
    }

    fn try_take_out(&self, trash: &Trash) -> io::Result<()> {
        if trash.scrub {
            let file = self.disk.open(&trash.path)?;
            let (len, zeros) = (file.len()?, vec![0; STEP]);
            let mut pace = self.pacer.pace();
            let mut at = 0;
            while at < len {
                let step = (len - at).min(STEP as u64);
                file.write_at(zeros.get(..step as usize).unwrap_or_default(), at)?;
                file.sync()?;
                pace(step)?;
                at += step;
            }
        }
        self.disk.remove(&trash.path)?;
        self.counters.segments_removed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
