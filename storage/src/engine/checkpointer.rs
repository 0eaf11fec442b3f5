//! Writes checkpoints: segments, message ids, changed state, and then the manifest that makes them count.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pacer::Pacer;
use super::stats::WorkCounters;
use crate::crash::CrashPoints;
use crate::disk::{Disk, is_out_of_handles, is_out_of_space};
use crate::ids::StreamId;
use crate::ids_file;
use crate::journal::shared::JournalShared;
use crate::log::Compression;
use crate::manifest::{self, IdFile, ListedSegment, Manifest};
use crate::prefetch::{AHEAD, prefetch};
use crate::segment::{SegmentId, SegmentMeta, SegmentWriter};
use crate::state::entries::Entries;
use crate::state::file::{StateFile, StateWriter};
use crate::state::merge::MergeError;
use crate::state::{self, Action, Key, encode_segment};
use crate::stream::Gone;
use crate::tail::{Place, SharedChunks};
use crate::window::Remembered;

/// The directory of segments.
pub(super) const SEGMENTS: &str = "segments";
/// More id files than this are joined into one.
const ID_FILES: usize = 8;
/// More deltas than this are merged into the base, whatever their size.
const DELTAS: usize = 16;
/// Deltas smaller than this part of the tail budget are not merged for their size: 1 MiB.
const DELTA_PART: u64 = 64;

/// Records that are asked for their length to know how much a stream has.
const SAMPLE: usize = 64;

/// Records of one stream to be sealed.
pub(super) struct TailPart {
    pub(super) stream: StreamId,
    pub(super) compression: Compression,
    pub(super) places: Vec<Place>,
    pub(super) first_seq: u64,
    pub(super) gone: Gone,
}

impl TailPart {
    fn is_live(&self, seq: u64) -> bool {
        seq >= self.first_seq && !self.gone.contains(seq)
    }

    /// Whether its records have so many bytes. Some of them say whether it is worth asking all.
    fn has_bytes(&self, bytes: usize, chunks: &SharedChunks) -> bool {
        let sum = |step| -> usize {
            let some = self.places.iter().step_by(step);
            some.map(|place| chunks.entry_len(place)).sum()
        };
        let step = self.places.len().div_ceil(SAMPLE).max(1);
        sum(step).saturating_mul(step) >= bytes && (step == 1 || sum(1) >= bytes)
    }
}

/// What a checkpoint writes.
#[derive(Default)]
pub(super) struct CheckpointJob {
    /// The last group whose effects are in it.
    pub(super) through: u64,
    pub(super) chunks: SharedChunks,
    /// Ascending by stream.
    pub(super) tails: Vec<TailPart>,
    pub(super) entries: Entries,
    pub(super) ids: Vec<(StreamId, Remembered)>,
    /// Ids whose time is past are left out, in nanoseconds since the Unix epoch.
    pub(super) clock: u64,
    pub(super) added: Vec<Arc<SegmentMeta>>,
    pub(super) removed: Vec<SegmentId>,
    pub(super) rewrite: Vec<SegmentId>,
    pub(super) scrub_through: u64,
    /// A stream with an eighth of this many bytes gets a segment of its own.
    pub(super) tail_budget: usize,
}

/// A checkpoint that counts.
#[derive(Debug)]
pub(super) struct CheckpointDone {
    pub(super) generation: u64,
    pub(super) segments: Vec<Arc<SegmentMeta>>,
    /// Segments that no manifest lists any more.
    pub(super) unlisted: Vec<SegmentId>,
}

/// The worker that writes checkpoints, one after the other.
pub(super) struct Checkpointer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: Arc<JournalShared>,
    pub(super) crash: CrashPoints,
    pub(super) pacer: Pacer,
    pub(super) next_segment: Arc<AtomicU64>,
    /// The newest manifest, and the one before it.
    pub(super) current: Manifest,
    pub(super) previous: Option<Manifest>,
    /// No manifest had this generation or a higher one.
    pub(super) next_generation: u64,
    pub(super) next_file: u64,
    /// What a checkpoint that failed had been given, and the next one must write.
    pub(super) carried: CheckpointJob,
    pub(super) counters: Arc<WorkCounters>,
    /// Files of the checkpoint being written.
    pub(super) begun: Vec<String>,
}

impl Checkpointer {
    /// Writes a checkpoint. If there is no room or no file may be opened, everything is as before, and the next job writes
    /// what this one should have. Any other error ends the engine: after a failed sync the
    /// kernel may have dropped what was written, and a disk that fails will fail again.
    pub(super) fn run(&mut self, job: CheckpointJob) -> Result<CheckpointDone, String> {
        let job = self.with_carried(job);
        match self.try_run(&job) {
            Ok(done) => Ok(done),
            Err(error) => {
                for path in std::mem::take(&mut self.begun) {
                    // What stays is swept at the next start.
                    let _ = self.disk.remove(&path);
                }
                let (tails, chunks) = (Vec::new(), SharedChunks::default());
                self.carried = CheckpointJob { tails, chunks, ..job };
                if is_out_of_space(&error) {
                    self.journal.is_space_wanted.store(true, Ordering::Release);
                    self.journal.files_changed();
                } else if !is_out_of_handles(&error) {
                    self.journal.fail(format!("cannot write a checkpoint: {error}"));
                }
                Err(error.to_string())
            }
        }
    }

    /// Puts what an earlier failure left over before what is new.
    fn with_carried(&mut self, job: CheckpointJob) -> CheckpointJob {
        let mut all = std::mem::take(&mut self.carried);
        all.entries.extend(&job.entries);
        all.ids.extend(&job.ids);
        all.added.extend(job.added.iter().cloned());
        all.removed.extend(&job.removed);
        CheckpointJob {
            entries: all.entries,
            ids: all.ids,
            added: all.added,
            removed: all.removed,
            ..job
        }
    }

    fn try_run(&mut self, job: &CheckpointJob) -> io::Result<CheckpointDone> {
        let segments = self.write_segments(job)?;
        let mut next = Manifest {
            generation: self.next_generation,
            through: job.through,
            scrub_through: job.scrub_through,
            rewrite: job.rewrite.clone(),
            segments: self.list_segments(job, &segments),
            ..Manifest::default()
        };
        next.ids = self.write_ids(job)?;
        next.states = self.write_states(job, &segments)?;
        next.next_segment = self.next_segment.load(Ordering::Relaxed);
        for dir in [SEGMENTS, state::DIR, ids_file::DIR] {
            self.disk.sync_dir(dir)?;
        }
        self.journal.wait_durable(job.through)?;
        next.prepare(self.disk.as_ref(), self.crash)?;
        self.begun.clear();
        self.next_generation += 1;
        next.switch(self.disk.as_ref(), self.crash)?;
        Ok(self.switched(next, segments, &job.removed))
    }

    fn write_segments(&mut self, job: &CheckpointJob) -> io::Result<Vec<Arc<SegmentMeta>>> {
        let mut written = Vec::new();
        let mut shared = Vec::new();
        for tail in &job.tails {
            if tail.has_bytes(job.tail_budget / 8, &job.chunks) {
                written.extend(self.write_segment(&job.chunks, &[tail])?);
            } else {
                shared.push(tail);
            }
        }
        written.extend(self.write_segment(&job.chunks, &shared)?);
        Ok(written)
    }

    /// Writes one file; nothing if no record is left.
    fn write_segment(
        &mut self,
        chunks: &SharedChunks,
        tails: &[&TailPart],
    ) -> io::Result<Option<Arc<SegmentMeta>>> {
        let is_any = |tail: &&TailPart| tail.places.iter().any(|place| tail.is_live(place.seq));
        if !tails.iter().any(is_any) {
            return Ok(None);
        }
        let id = SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed));
        self.begun.push(id.path());
        let crash = self.crash;
        crash.at("segment.write.before");
        let mut pace = self.pacer.pace();
        let mut writer = SegmentWriter::create(self.disk.as_ref(), id, &mut pace)?;
        for tail in tails {
            for places in tail.places.chunks(AHEAD) {
                prefetch(places.iter().map(|place| chunks.head(place)));
                prefetch(places.iter().map(|place| chunks.entry(place)));
                for place in places.iter().filter(|place| tail.is_live(place.seq)) {
                    let record = chunks.record(place).ok_or_else(|| {
                        io::Error::other(format!("{} lost sequence {}", tail.stream, place.seq))
                    })?;
                    writer.add(tail.stream, tail.compression, &record)?;
                }
            }
        }
        let meta = writer.finish()?;
        crash.at("segment.write.after");
        Ok(Some(Arc::new(meta)))
    }

    fn list_segments(
        &self,
        job: &CheckpointJob,
        written: &[Arc<SegmentMeta>],
    ) -> Vec<ListedSegment> {
        let mut listed = self.current.segments.clone();
        listed.extend(job.added.iter().chain(written).map(|meta| ListedSegment {
            id: meta.id,
            length: meta.length,
            digest: meta.digest,
        }));
        listed.retain(|segment| !job.removed.contains(&segment.id));
        listed.sort_unstable();
        listed
    }

    fn write_ids(&mut self, job: &CheckpointJob) -> io::Result<Vec<IdFile>> {
        let mut files: Vec<IdFile> =
            self.current.ids.iter().filter(|file| file.until > job.clock).copied().collect();
        let mut ids = Vec::new();
        if files.len() >= ID_FILES {
            let mut unreadable = Vec::new();
            for file in files.drain(..) {
                match ids_file::read(self.disk.as_ref(), &file) {
                    Ok(found) => ids.extend(found),
                    Err(error) => {
                        tracing::error!(%error, "message ids cannot be read; the file is kept");
                        unreadable.push(file);
                    }
                }
            }
            files = unreadable;
        }
        ids.extend(&job.ids);
        ids.retain(|(_, entry)| entry.until > job.clock);
        if !ids.is_empty() {
            let id = self.take_file_id();
            self.begun.push(ids_file::path(id));
            let mut pace = self.pacer.pace();
            files.push(ids_file::write(self.disk.as_ref(), id, &ids, &mut pace)?);
        }
        Ok(files)
    }

    fn take_file_id(&mut self) -> u64 {
        let id = self.next_file;
        self.next_file += 1;
        id
    }

    fn write_states(
        &mut self,
        job: &CheckpointJob,
        written: &[Arc<SegmentMeta>],
    ) -> io::Result<Vec<StateFile>> {
        let mut entries = Entries::default();
        for meta in job.added.iter().chain(written) {
            entries.add(&Key::Segment(meta.id), Action::Put, |out| encode_segment(meta, out));
        }
        for id in &job.removed {
            entries.remove(&Key::Segment(*id));
        }
        let mut files = self.current.states.clone();
        if !entries.is_empty() || !job.entries.is_empty() {
            let id = self.take_file_id();
            self.begun.push(state::file::path(id));
            let mut pace = self.pacer.pace();
            let mut writer = StateWriter::create(self.disk.as_ref(), id, &mut pace)?;
            // Segments sort after everything else.
            job.entries.each_folded(|entry| writer.add(&entry))?;
            entries.each_folded(|entry| writer.add(&entry))?;
            files.push(writer.finish()?);
        }
        if is_merge_due(&files, job.tail_budget as u64 / DELTA_PART) {
            let id = self.take_file_id();
            self.begun.push(state::file::path(id));
            let mut pace = self.pacer.pace();
            match state::merge::merge(self.disk.as_ref(), &files, id, &mut pace) {
                Ok(base) => {
                    // What this checkpoint wrote and merged at once is on no list.
                    for file in files.iter().filter(|file| !self.current.states.contains(file)) {
                        self.let_go(&file.path());
                    }
                    files = vec![base];
                    self.counters.base_rewrites.fetch_add(1, Ordering::Relaxed);
                }
                // The older checkpoint's journal may still make up for it at the next start.
                Err(MergeError::Read(error)) => {
                    tracing::error!(%error, "state files cannot be merged; they grow in number");
                    let _ = self.disk.remove(&state::file::path(id));
                }
                // The files that were to be merged say the same; a checkpoint must not fail for it.
                Err(MergeError::Write(error)) if is_out_of_space(&error) => {
                    tracing::warn!(%error, "no room to merge state files; they grow in number");
                    self.disk.remove(&state::file::path(id))?;
                }
                Err(MergeError::Write(error)) => return Err(error),
            }
        }
        Ok(files)
    }

    /// The new manifest is in place: what nothing lists any more can go.
    fn switched(
        &mut self,
        next: Manifest,
        segments: Vec<Arc<SegmentMeta>>,
        removed: &[SegmentId],
    ) -> CheckpointDone {
        let oldest = self.previous.replace(std::mem::replace(&mut self.current, next));
        let previous_through = self.previous.as_ref().map_or(0, |previous| previous.through);
        self.journal.files().recycle_through = previous_through;
        self.journal.is_space_wanted.store(false, Ordering::Release);
        self.journal.files_changed();
        let mut unlisted = removed.to_vec();
        if let Some(oldest) = oldest {
            unlisted.extend(oldest.segments.iter().map(|segment| segment.id));
            self.remove_unlisted(&oldest);
        }
        unlisted.retain(|id| !self.is_listed(*id));
        CheckpointDone { generation: self.current.generation, segments, unlisted }
    }

    fn kept(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    fn is_listed(&self, id: SegmentId) -> bool {
        let listed = |m: &Manifest| m.segments.binary_search_by_key(&id, |s| s.id).is_ok();
        self.kept().any(listed)
    }

    fn remove_unlisted(&self, oldest: &Manifest) {
        // Before the first checkpoint there was nothing, and no manifest of it.
        let manifest = (oldest.generation > 0).then(|| manifest::path(oldest.generation));
        let mut paths: Vec<_> = manifest.into_iter().collect();
        let states =
            oldest.states.iter().filter(|file| !self.kept().any(|m| m.states.contains(file)));
        paths.extend(states.map(StateFile::path));
        let ids = oldest.ids.iter().filter(|file| !self.kept().any(|m| m.ids.contains(file)));
        paths.extend(ids.map(|file| ids_file::path(file.id)));
        for path in paths {
            self.let_go(&path);
        }
    }

    /// Removes a file that no manifest lists; one that stays is swept at the next start.
    fn let_go(&self, path: &str) {
        if let Err(error) = self.disk.remove(path) {
            tracing::warn!(%path, %error, "an old file could not be removed");
        }
    }
}

fn is_merge_due(files: &[StateFile], small: u64) -> bool {
    let Some((base, deltas)) = files.split_first() else { return false };
    let bytes: u64 = deltas.iter().map(|file| file.length).sum();
    deltas.len() > DELTAS || bytes > base.length.max(small)
}
