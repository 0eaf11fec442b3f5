//! Segment files as the engine holds them: opened when they are first read, removed when the last
//! reader has let go of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hashbrown::HashMap;

use super::background::Maintenance;
use super::mailbox::Mailbox;
use super::stats::WorkCounters;
use crate::disk::{Disk, file_limit};
use crate::ids::StreamId;
use crate::index::Index;
use crate::log::ReadError;
use crate::segment::{BlockCache, BlockLocator, Segment, SegmentError, SegmentId, SegmentMeta};
use crate::stream::{SealedRange, Stream};

/// Segment files held open at once: well below the usual limit of 1,024 files for a process, and a
/// quarter of a lower one.
const OPEN_FILES: usize = 256;

/// A file to be removed, and whether its bytes must be overwritten first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trash {
    pub(super) path: String,
    pub(super) scrub: bool,
}

/// What segments need to be opened, and where they go in the end.
pub(super) struct Archive {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cache: Arc<BlockCache>,
    pub(super) index: Option<Arc<Index>>,
    /// Work on segments, removing them included.
    pub(super) maintenance: Mailbox<Maintenance>,
    pub(super) counters: Arc<WorkCounters>,
    open: Mutex<VecDeque<Weak<SegmentFile>>>,
    most_open: usize,
}

impl Archive {
    pub(super) fn new(disk: Arc<dyn Disk>, index: Option<Arc<Index>>) -> Self {
        Self {
            disk,
            cache: Arc::new(BlockCache::default()),
            index,
            maintenance: Mailbox::default(),
            counters: Arc::default(),
            open: Mutex::default(),
            most_open: OPEN_FILES.min(file_limit() / 4).max(1),
        }
    }
}

const LISTED: u8 = 0;
const DOOMED: u8 = 1;
const DOOMED_AND_SCRUBBED: u8 = 2;

/// A segment that may be read.
pub(super) struct SegmentFile {
    pub(super) meta: Arc<SegmentMeta>,
    archive: Arc<Archive>,
    open: Mutex<Option<Arc<Segment>>>,
    fate: AtomicU8,
    /// Whether its copies are being compared, or cannot be made whole.
    is_suspect: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SegmentFile {
    pub(super) fn new(meta: Arc<SegmentMeta>, archive: &Arc<Archive>) -> Arc<Self> {
        let (archive, open) = (Arc::clone(archive), Mutex::new(None));
        let (fate, is_suspect) = (AtomicU8::new(LISTED), AtomicBool::new(false));
        Arc::new(Self { meta, archive, open, fate, is_suspect })
    }

    /// Calls `read` with the segment. If there are other copies and this one is damaged, they are read,
    /// and whichever is damaged is made again in the background. A `read` that fails must have done nothing.
    pub(super) fn read<T>(
        self: &Arc<Self>,
        stream: StreamId,
        mut read: impl FnMut(&Segment) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let lost = |error: SegmentError| {
            let range = self.meta.stream(stream);
            let (first, last) =
                range.map_or((0, u64::MAX), |range| (range.first_seq, range.last_seq));
            error.into_read(stream, first, last)
        };
        let copies = self.archive.disk.copies();
        let found = self.segment().map_err(lost);
        if copies.is_empty() {
            return found.and_then(|segment| read(&segment));
        }
        let result = match found {
            // What is found without its tables may take long.
            Ok(segment) if segment.is_flawed() => {
                self.suspect();
                return self.read_copies(lost, &mut read).or_else(|_| read(&segment));
            }
            Ok(segment) => {
                let result = read(&segment);
                if segment.is_flawed() {
                    self.suspect();
                }
                result
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.suspect();
        }
        result.or_else(|error| self.read_copies(lost, &mut read).map_err(|_| error))
    }

    /// Reads from the first copy that can be read.
    fn read_copies<T>(
        &self,
        lost: impl Fn(SegmentError) -> ReadError,
        read: &mut impl FnMut(&Segment) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let mut result = Err(ReadError::Io { file: self.meta.id.path(), reason: String::new() });
        for copy in self.archive.disk.copies() {
            let segment = Segment::open(copy.as_ref(), &self.meta, &self.archive.cache);
            result = segment.map_err(&lost).and_then(|segment| match segment.is_flawed() {
                true => Err(ReadError::Io { file: self.meta.id.path(), reason: String::new() }),
                false => read(&segment),
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Has its copies compared, once.
    fn suspect(self: &Arc<Self>) {
        if !self.is_suspect.swap(true, Ordering::Relaxed) {
            self.archive.maintenance.push(Maintenance::Mend(Arc::clone(self)));
        }
    }

    /// Its copies were compared, and are whole.
    pub(super) fn vindicate(&self) {
        // Opened before the file was replaced.
        lock(&self.open).take();
        self.is_suspect.store(false, Ordering::Relaxed);
    }

    /// The segment, opened if it is not.
    pub(super) fn segment(self: &Arc<Self>) -> Result<Arc<Segment>, SegmentError> {
        let mut place = lock(&self.open);
        if let Some(segment) = &*place {
            return Ok(Arc::clone(segment));
        }
        let archive = &self.archive;
        let mut segment = Segment::open(archive.disk.as_ref(), &self.meta, &archive.cache)?;
        if let Some(index) = &archive.index {
            segment = segment.with_locator(Arc::clone(index) as Arc<dyn BlockLocator>);
        }
        let segment = Arc::new(segment);
        *place = Some(Arc::clone(&segment));
        drop(place);
        let mut open = lock(&archive.open);
        open.push_back(Arc::downgrade(self));
        let oldest = if open.len() > archive.most_open { open.pop_front() } else { None };
        drop(open);
        if let Some(oldest) = oldest.and_then(|weak| weak.upgrade()) {
            lock(&oldest.open).take();
        }
        Ok(segment)
    }

    /// No manifest lists it any more: it is removed once nobody reads it.
    pub(super) fn doom(&self, scrub: bool) {
        let fate = if scrub { DOOMED_AND_SCRUBBED } else { DOOMED };
        self.fate.store(fate, Ordering::Release);
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        let fate = self.fate.load(Ordering::Acquire);
        if fate != LISTED {
            // The handle goes first: Windows removes no open file.
            lock(&self.open).take();
            self.archive.cache.forget(self.meta.id);
            let scrub = fate == DOOMED_AND_SCRUBBED;
            let trash = Trash { path: self.meta.id.path(), scrub };
            self.archive.maintenance.push(Maintenance::Trash(trash));
        }
    }
}

/// A segment and how much of it still counts.
pub(super) struct Held {
    pub(super) file: Arc<SegmentFile>,
    /// Records of it that can be read.
    pub(super) live: u64,
    /// Records in it.
    pub(super) count: u64,
    /// It holds erased records and must be written anew.
    pub(super) rewrite: bool,
    /// Which checkpoint first listed it; orders segments by age.
    pub(super) generation: u64,
}

/// All segments that count, and those that an older manifest still lists.
#[derive(Default)]
pub(super) struct Segments {
    pub(super) held: BTreeMap<u64, Held>,
    /// Replaced or dead; kept until no manifest lists them. With whether to overwrite them.
    pub(super) retired: HashMap<u64, (Arc<SegmentFile>, bool)>,
}

impl Segments {
    /// Takes in a segment, and tells its streams where their records lie.
    pub(super) fn add(
        &mut self,
        file: Arc<SegmentFile>,
        generation: u64,
        streams: &mut HashMap<StreamId, Box<Stream>>,
    ) {
        self.take_in(file, generation, streams, true);
    }

    /// The same for a segment that a manifest lists. What of it cannot be read any more does not
    /// count: a later merge may have joined what lies before and behind, so that the range of its
    /// file surrounds it.
    pub(super) fn add_listed(
        &mut self,
        file: Arc<SegmentFile>,
        generation: u64,
        streams: &mut HashMap<StreamId, Box<Stream>>,
    ) {
        self.take_in(file, generation, streams, false);
    }

    fn take_in(
        &mut self,
        file: Arc<SegmentFile>,
        generation: u64,
        streams: &mut HashMap<StreamId, Box<Stream>>,
        with_dead: bool,
    ) {
        let meta = Arc::clone(&file.meta);
        let (mut live, mut count) = (0, 0);
        for range in &meta.streams {
            count += range.count;
            let Some(stream) = streams.get_mut(&range.stream) else { continue };
            if range.last_seq < stream.first_seq {
                continue;
            }
            let alive = stream.count(range.first_seq, range.last_seq);
            if alive == 0 && !with_dead {
                continue;
            }
            let sealed = SealedRange {
                first: range.first_seq,
                last: range.last_seq,
                segment: meta.id.0,
                live: alive,
            };
            let at = stream.sealed.partition_point(|other| other.last < sealed.first);
            stream.sealed.insert(at, sealed);
            live += alive;
        }
        let held = Held { file, live, count, rewrite: false, generation };
        self.held.insert(meta.id.0, held);
    }

    /// A stream's records in segments no longer count.
    pub(super) fn forget(&mut self, sealed: &[SealedRange]) {
        for range in sealed {
            if let Some(held) = self.held.get_mut(&range.segment) {
                held.live -= range.live;
            }
        }
    }

    /// Counts anew what of a stream's sealed records can be read.
    pub(super) fn recount(&mut self, stream: &mut Stream) {
        let mut sealed = std::mem::take(&mut stream.sealed);
        for range in &mut sealed {
            let live = stream.count(range.first, range.last);
            if let Some(held) = self.held.get_mut(&range.segment) {
                held.live -= range.live - live;
            }
            range.live = live;
        }
        sealed.retain(|range| range.live > 0);
        stream.sealed = sealed;
    }

    /// Takes a segment out of the list; the file stays while a manifest or a reader needs it.
    pub(super) fn retire(&mut self, id: u64, streams: &mut HashMap<StreamId, Box<Stream>>) {
        let Some(held) = self.held.remove(&id) else { return };
        for range in &held.file.meta.streams {
            if let Some(stream) = streams.get_mut(&range.stream) {
                stream.sealed.retain(|sealed| sealed.segment != id);
            }
        }
        self.retired.insert(id, (held.file, held.rewrite));
    }

    /// No manifest lists these any more.
    pub(super) fn unlisted(&mut self, ids: &[SegmentId]) {
        for id in ids {
            if let Some((file, scrub)) = self.retired.remove(&id.0) {
                file.doom(scrub);
            }
        }
    }

    /// Bytes of files that count.
    pub(super) fn bytes(&self) -> u64 {
        self.held.values().map(|held| held.file.meta.length).sum()
    }

    /// Bytes of files in which nothing can be read any more, or that only an older manifest lists.
    pub(super) fn dead_bytes(&self) -> u64 {
        let dead = self.held.values().filter(|held| held.live == 0);
        let dead: u64 = dead.map(|held| held.file.meta.length).sum();
        dead + self.retired.values().map(|(file, _)| file.meta.length).sum::<u64>()
    }
}
