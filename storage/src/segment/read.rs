//! Reading records from a segment: only the blocks that can hold what is wanted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::block::{Block, BlockEntry};
use super::cache::{BlockCache, Kept, Key};
use super::file::File;
pub use super::file::ReadStats;
use super::layout::StreamEntry;
use super::locate::BlockLocator;
use super::salvage::{self, Salvaged};
use super::subjects::{BlockSet, SubjectEntry};
use super::table::{self, Cursor, Pages};
use super::{BLOCK_BYTES_MAX, SegmentError, SegmentMeta, StreamRange};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::log::{Filter, ReadError, ReadRequest};
use crate::record::Record;
use crate::subject;

/// A segment open for reading, from any number of threads. Holds one file handle and what the
/// manifest says; everything else is read when it is needed and kept in the shared [`BlockCache`].
pub struct Segment {
    meta: Arc<SegmentMeta>,
    file: File,
    locator: Option<Arc<dyn BlockLocator>>,
    /// Its blocks, found without its tables.
    salvaged: OnceLock<Salvaged>,
    /// Something in it was met that is damaged and that reading does without.
    is_flawed: AtomicBool,
}

impl Segment {
    /// Opens the segment that `meta` describes. Reads its trailer only.
    ///
    /// # Errors
    /// [`SegmentError`] if it cannot be read, is damaged, is newer than this program, or is not the
    /// file that `meta` describes.
    pub fn open(
        disk: &dyn Disk,
        meta: &Arc<SegmentMeta>,
        cache: &Arc<BlockCache>,
    ) -> Result<Self, SegmentError> {
        let (file, is_flawed) = match File::open(disk, meta.id, Arc::clone(cache)) {
            Err(error @ SegmentError::Damaged { .. }) => {
                let file = File::open_without_trailer(disk, meta, Arc::clone(cache));
                (file.map_err(|_| error)?, true)
            }
            file => (file?, false),
        };
        if file.trailer.length != meta.length || file.trailer.digest != meta.digest {
            return Err(file.error(0, "the manifest describes another file of this name"));
        }
        let (meta, is_flawed) = (Arc::clone(meta), AtomicBool::new(is_flawed));
        Ok(Self { meta, file, locator: None, salvaged: OnceLock::new(), is_flawed })
    }

    /// Whether something damaged was met that costs time and no record.
    pub(crate) fn is_flawed(&self) -> bool {
        self.is_flawed.load(Ordering::Relaxed)
    }

    /// Asks `locator` before the segment's own tables.
    #[must_use]
    pub fn with_locator(mut self, locator: Arc<dyn BlockLocator>) -> Self {
        self.locator = Some(locator);
        self
    }

    /// What the manifest says of it.
    #[must_use]
    pub fn meta(&self) -> &Arc<SegmentMeta> {
        &self.meta
    }

    /// Adds to `out` the records that `request` and `filter` want and that are not deleted. The
    /// limits of the request count what this call adds. Returns the first sequence that was not
    /// examined: `request.from` if the segment holds nothing of the stream, and at most one past
    /// the stream's last sequence here.
    ///
    /// # Errors
    /// [`ReadError`], which names what cannot be read. If records were added before it was met, they
    /// are the answer, and the next read from the returned sequence meets it again.
    pub fn read(
        &self,
        request: &ReadRequest,
        filter: &Filter,
        is_deleted: &dyn Fn(u64) -> bool,
        out: &mut Vec<Record>,
        stats: &ReadStats,
    ) -> Result<u64, ReadError> {
        let stream = request.stream;
        let Some(range) = self.meta.stream(stream).copied() else {
            return Ok(request.from);
        };
        let end = range.last_seq.min(request.to).saturating_add(1).max(request.from);
        let lost = |error: SegmentError| error.into_read(stream, range.first_seq, range.last_seq);
        let wanted = match filter.is_all() {
            true => None,
            // Without the table every block is looked into, which loses nothing.
            false => self
                .blocks_for(&range, filter, stats)
                .inspect_err(|error| {
                    tracing::error!(%error, "a subject table cannot be used");
                    self.is_flawed.store(true, Ordering::Relaxed);
                })
                .ok(),
        };
        let mut taking = Taking { request, filter, is_deleted, out, bytes: 0, count: 0 };
        let mut at = request.from;
        let mut ahead = Ahead { from: at, until: end, blocks: VecDeque::new() };
        while at < end && taking.has_room() {
            if let Some(wanted) = &wanted {
                self.announce(stream, wanted, at, &mut ahead, stats);
            }
            let next = self.step(&mut taking, at, wanted.as_deref(), stats);
            match next {
                Ok(Some(next)) => at = next,
                Ok(None) => return Ok(end),
                Err(_) if taking.count > 0 => return Ok(at),
                Err((error, None)) => return Err(lost(error)),
                Err((error, Some(block))) => {
                    return Err(error.into_read(stream, block.first_seq, block.last_seq));
                }
            }
        }
        Ok(at.min(end))
    }

    /// Tells the system which blocks come next, so that it fetches several at a time.
    fn announce(
        &self,
        stream: StreamId,
        wanted: &BlockSet,
        at: u64,
        ahead: &mut Ahead,
        stats: &ReadStats,
    ) {
        while ahead.blocks.front().is_some_and(|last| *last < at) {
            ahead.blocks.pop_front();
        }
        while ahead.blocks.len() < AHEAD {
            let next = wanted.at_or_after(ahead.from.max(at));
            let Some(seq) = next.filter(|seq| *seq < ahead.until) else { return };
            let known = self.locator.as_ref().and_then(|l| l.block(self.meta.id, stream, seq));
            // What cannot be found now is met again when it is read.
            let place = known.or_else(|| self.place(stream, seq, stats).ok().flatten());
            let Some(place) = place else { return };
            ahead.from = place.last_seq.saturating_add(1);
            ahead.blocks.push_back(place.last_seq);
            self.file.will_read(&place);
        }
    }

    /// Takes what is wanted from the first block at or after `at`, or leaps to where it may be.
    /// Returns where to go on, or `None` if nothing more is wanted; errors with the block, if known.
    fn step(
        &self,
        taking: &mut Taking<'_>,
        at: u64,
        wanted: Option<&BlockSet>,
        stats: &ReadStats,
    ) -> Result<Option<u64>, (SegmentError, Option<BlockEntry>)> {
        let stream = taking.request.stream;
        if wanted.is_some_and(|wanted| at > wanted.last) {
            return Ok(None);
        }
        let known = self.locator.as_ref().and_then(|l| l.block(self.meta.id, stream, at));
        let place = match known {
            Some(place) => Some(place),
            None => self.place(stream, at, stats).map_err(|error| (error, None))?,
        };
        let Some(place) = place else { return Ok(None) };
        if place.first_seq > taking.request.to {
            return Ok(None);
        }
        if let Some(wanted) = wanted {
            match wanted.at_or_after(place.first_seq) {
                None => return Ok(None),
                Some(first) if first != place.first_seq => return Ok(Some(first)),
                Some(_) => {}
            }
        }
        if taking.wants_nothing_of(&place, at) {
            return Ok(Some(place.last_seq.saturating_add(1)));
        }
        let block = match self.file.block(stream, &place, stats) {
            // The index may be wrong; the table decides.
            Err(_) if known.is_some() => self.block_by_table(stream, at, stats)?,
            other => other.map_err(|error| (error, Some(place)))?,
        };
        let damaged = || (self.file.error(place.offset, "a subject is no text"), Some(place));
        taking.take(&block, at).map(Some).ok_or_else(damaged)
    }

    fn block_by_table(
        &self,
        stream: StreamId,
        at: u64,
        stats: &ReadStats,
    ) -> Result<Arc<Block>, (SegmentError, Option<BlockEntry>)> {
        let place = self.place(stream, at, stats).map_err(|error| (error, None))?;
        let place = place.ok_or_else(|| (self.file.error(0, "a block is not there"), None))?;
        self.file.block(stream, &place, stats).map_err(|error| (error, Some(place)))
    }

    /// When each record of the stream expires by itself, with its sequence, in order of time.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn expiries(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<Vec<(u64, u64)>, ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(Vec::new());
        };
        let lost = |error: SegmentError| error.into_read(stream, range.first_seq, range.last_seq);
        let mut found = Vec::new();
        let entry = self.entry(stream, stats).map_err(lost)?;
        let tables = self.file.tables(stats);
        let mut cursor = Cursor::seek(&tables, entry.expiry_table, &[]).map_err(lost)?;
        while let Some((key, _)) = cursor.next().map_err(lost)? {
            let key: [u8; 16] = key
                .try_into()
                .map_err(|_| lost(self.file.error(entry.expiry_table.offset, "no expiry")))?;
            let key = u128::from_be_bytes(key);
            found.push(((key >> 64) as u64, key as u64));
        }
        Ok(found)
    }

    /// The same from the records themselves, for when the table is damaged. Those that cannot be read
    /// are left out.
    #[must_use]
    pub fn expiries_of_records(&self, stream: StreamId, stats: &ReadStats) -> Vec<(u64, u64)> {
        let Some(range) = self.meta.stream(stream) else { return Vec::new() };
        let mut found = Vec::new();
        let mut from = range.first_seq;
        while from <= range.last_seq {
            let (max_records, max_bytes) = (usize::MAX, BLOCK_BYTES_MAX);
            let to = range.last_seq;
            let request = ReadRequest { stream, from, to, since: 0, max_records, max_bytes };
            let mut records = Vec::new();
            let next = self.read(&request, &Filter::all(), &|_| false, &mut records, stats);
            from = match next {
                Ok(next) => next.max(from + 1),
                Err(ReadError::Damaged { last, .. }) => last.max(from) + 1,
                Err(_) => break,
            };
            let expiring = |record: &Record| Some((record.expires?, record.seq));
            found.extend(records.iter().filter_map(expiring));
        }
        found.sort_unstable();
        found
    }

    /// How many records of the stream the filter wants, deleted ones included, if `from..=to`
    /// covers all of the stream in this segment; else `None`.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn count(
        &self,
        stream: StreamId,
        filter: &Filter,
        from: u64,
        to: u64,
        stats: &ReadStats,
    ) -> Result<Option<u64>, ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(Some(0));
        };
        if from > range.first_seq || to < range.last_seq {
            return Ok(None);
        }
        if filter.is_all() {
            return Ok(Some(range.count));
        }
        let mut count = 0;
        self.subjects(stream, filter, stats, &mut |_, entry| count += entry.count)?;
        Ok(Some(count))
    }

    /// Calls `visit` once for each subject of the stream that the filter wants, deleted records
    /// counted.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn subjects(
        &self,
        stream: StreamId,
        filter: &Filter,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, SubjectEntry),
    ) -> Result<(), ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(());
        };
        self.each_subject(range, filter, stats, &mut |text, value| {
            visit(text, SubjectEntry::decode(value, range.first_seq)?);
            Some(())
        })
        .map_err(|error| error.into_read(stream, range.first_seq, range.last_seq))
    }

    /// Records and distinct subjects of the stream.
    pub(crate) fn density(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<(u64, u64), SegmentError> {
        self.entry(stream, stats).map(|entry| (entry.range.count, entry.subjects))
    }

    /// Calls `visit` with each subject of the stream and its value in the subject table, until it
    /// returns `None`.
    pub(crate) fn subject_values(
        &self,
        stream: StreamId,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, &[u8]) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let Some(range) = self.meta.stream(stream) else { return Ok(()) };
        self.each_subject(range, &Filter::all(), stats, visit)
    }

    /// The blocks of the stream, in order.
    ///
    /// # Errors
    /// [`SegmentError`] if the table cannot be read.
    pub fn blocks(
        &self,
        stream: StreamId,
        stats: &ReadStats,
        visit: &mut dyn FnMut(BlockEntry),
    ) -> Result<(), SegmentError> {
        self.each_block(stream, stats, &mut |place| {
            visit(place);
            Ok(())
        })
    }

    /// [`blocks`](Self::blocks) for a visitor that may fail.
    pub(crate) fn each_block(
        &self,
        stream: StreamId,
        stats: &ReadStats,
        visit: &mut dyn FnMut(BlockEntry) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        if self.meta.stream(stream).is_none() {
            return Ok(());
        }
        let entry = self.entry(stream, stats)?;
        let tables = self.file.tables(stats);
        let mut cursor = Cursor::seek(&tables, entry.block_table, &[])?;
        while let Some((key, value)) = cursor.next()? {
            let damaged = || self.file.error(entry.block_table.offset, "no place of a block");
            visit(block_entry(key, value).ok_or_else(damaged)?)?;
        }
        Ok(())
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What the directory says of the stream.
    pub(crate) fn entry(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<StreamEntry, SegmentError> {
        let root = self.file.trailer.directory;
        let key = stream.0.to_be_bytes();
        let value = table::get(&self.file.tables(stats), root, &key)?;
        let entry = value.and_then(|value| StreamEntry::decode(&key, &value));
        entry.ok_or_else(|| self.file.error(root.offset, "the directory lacks a stream"))
    }

    /// The blocks of a stream, found without the tables, if none is missing.
    ///
    /// # Errors
    /// If the file cannot be read, which may be otherwise the next time.
    pub(crate) fn salvaged(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<Option<&[BlockEntry]>, SegmentError> {
        let all = if let Some(all) = self.salvaged.get() {
            all
        } else {
            self.is_flawed.store(true, Ordering::Relaxed);
            tracing::error!(
                file = %self.file.path,
                "a table of the segment is damaged; its blocks are looked for one by one"
            );
            let found = salvage::blocks(&self.file, stats)?;
            self.salvaged.get_or_init(|| found)
        };
        let found = || {
            let (blocks, range) = (all.get(&stream)?, self.meta.stream(stream)?);
            let count: u64 = blocks.iter().map(|block| u64::from(block.count)).sum();
            (count == range.count).then_some(blocks.as_slice())
        };
        Ok(found())
    }

    /// The stream's first block that ends at or after `seq`.
    fn place(
        &self,
        stream: StreamId,
        seq: u64,
        stats: &ReadStats,
    ) -> Result<Option<BlockEntry>, SegmentError> {
        match self.place_in_table(stream, seq, stats) {
            Err(error @ SegmentError::Damaged { .. }) => {
                let blocks = self.salvaged(stream, stats)?.ok_or(error)?;
                Ok(blocks.get(blocks.partition_point(|block| block.last_seq < seq)).copied())
            }
            place => place,
        }
    }

    fn place_in_table(
        &self,
        stream: StreamId,
        seq: u64,
        stats: &ReadStats,
    ) -> Result<Option<BlockEntry>, SegmentError> {
        let entry = self.entry(stream, stats)?;
        let tables = self.file.tables(stats);
        let mut cursor = Cursor::seek(&tables, entry.block_table, &seq.to_be_bytes())?;
        let Some((key, value)) = cursor.next()? else {
            return Ok(None);
        };
        let damaged = || self.file.error(entry.block_table.offset, "no place of a block");
        block_entry(key, value).map(Some).ok_or_else(damaged)
    }

    /// The blocks that hold subjects the filter wants.
    fn blocks_for(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
    ) -> Result<Arc<BlockSet>, SegmentError> {
        let key = Key::Filter(self.meta.id, range.stream, filter.clone());
        if let Some(Kept::Blocks(blocks)) = self.file.cache().get(&key) {
            return Ok(blocks);
        }
        let mut blocks = BlockSet::default();
        self.each_subject(range, filter, stats, &mut |_, value| {
            blocks.add(value, range.first_seq)
        })?;
        blocks.close();
        let blocks = Arc::new(blocks);
        self.file.cache().put(&key, &Kept::Blocks(Arc::clone(&blocks)));
        Ok(blocks)
    }

    /// Calls `visit` once with each wanted subject and its value, which it refuses with `None` if it
    /// contradicts itself.
    fn each_subject(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, &[u8]) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let root = self.entry(range.stream, stats)?.subject_table;
        let tables = self.file.tables(stats);
        let damaged = || self.file.error(root.offset, "a subject's entry contradicts itself");
        let all: [Box<str>; 1] = [Box::from(">")];
        let patterns = filter.patterns().unwrap_or(&all);
        for (number, pattern) in patterns.iter().enumerate() {
            // A subject belongs to the first pattern that matches it.
            let earlier = patterns.get(..number).unwrap_or_default();
            let taken = |text: &str| earlier.iter().any(|other| subject::matches(other, text));
            if !subject::has_wildcard(pattern) {
                if !taken(pattern)
                    && let Some(value) = self.subject_value(&tables, root, range.stream, pattern)?
                {
                    visit(pattern, &value).ok_or_else(damaged)?;
                }
                continue;
            }
            let prefix = literal_prefix(pattern).as_bytes();
            let mut cursor = Cursor::seek(&tables, root, prefix)?;
            while let Some((key, value)) = cursor.next()? {
                if !key.starts_with(prefix) {
                    break;
                }
                let text = std::str::from_utf8(key).map_err(|_| damaged())?;
                if (filter.is_all() || subject::matches(pattern, text)) && !taken(text) {
                    visit(text, value).ok_or_else(damaged)?;
                }
            }
        }
        Ok(())
    }

    fn subject_value(
        &self,
        tables: &dyn Pages,
        root: table::Pointer,
        stream: StreamId,
        subject: &str,
    ) -> Result<Option<Vec<u8>>, SegmentError> {
        let known = self.locator.as_ref().and_then(|l| l.subject(self.meta.id, stream, subject));
        if known.is_some() {
            return Ok(known);
        }
        Ok(table::get(tables, root, subject.as_bytes())?.map(Vec::from))
    }
}

fn block_entry(key: &[u8], value: &[u8]) -> Option<BlockEntry> {
    BlockEntry::decode(u64::from_be_bytes(key.try_into().ok()?), value)
}

/// What stands before the first wildcard token.
fn literal_prefix(pattern: &str) -> &str {
    let mut end = 0;
    for token in pattern.split_inclusive('.') {
        if matches!(token, "*" | "*." | ">") {
            break;
        }
        end += token.len();
    }
    pattern.get(..end).unwrap_or_default()
}

/// A block is asked for deleted sequences one by one only if it spans no more than this, so that a
/// wide gap in the sequences costs nothing.
const ASKED_MAX: u64 = 64 * 1024;

/// Wanted blocks that the system is told of before they are read. 16: a megabyte, with which a disk is
/// busy while a block is decoded.
pub(super) const AHEAD: usize = 16;

/// Blocks that the system was told of.
struct Ahead {
    /// From which sequence on it was not.
    from: u64,
    /// Where the read ends.
    until: u64,
    /// Their last sequences.
    blocks: VecDeque<u64>,
}

/// Records that are less than this part of their block are copied out of it, so that a reader of a
/// few records among many does not hold all of them in memory.
const SPARSE: usize = 8;

/// A read on its way: what it wants and what it has.
struct Taking<'a> {
    request: &'a ReadRequest,
    filter: &'a Filter,
    is_deleted: &'a dyn Fn(u64) -> bool,
    out: &'a mut Vec<Record>,
    bytes: usize,
    count: usize,
}

impl Taking<'_> {
    fn has_room(&self) -> bool {
        self.count < self.request.max_records
            && (self.count == 0 || self.bytes < self.request.max_bytes)
    }

    /// Whether it can be told without reading the block that nothing of it, from sequence `at`, is
    /// wanted: all too old, or all deleted.
    fn wants_nothing_of(&self, place: &BlockEntry, at: u64) -> bool {
        let (first, last) = (place.first_seq.max(at), place.last_seq);
        let asks = last - first <= ASKED_MAX;
        place.last_time < self.request.since
            || asks && (first..=last).all(|seq| (self.is_deleted)(seq))
    }

    /// Takes what is wanted of the block, from sequence `at`. Returns where to go on.
    fn take(&mut self, block: &Block, at: u64) -> Option<u64> {
        let (first, before) = (self.out.len(), self.bytes);
        let next = self.take_slices(block, at)?;
        let taken = self.bytes.saturating_sub(before);
        if taken.saturating_mul(SPARSE) <= block.memory() {
            self.out.iter_mut().skip(first).for_each(Record::unshare);
        }
        Some(next)
    }

    fn take_slices(&mut self, block: &Block, at: u64) -> Option<u64> {
        let skipped = block.entries.partition_point(|entry| entry.seq < at);
        let mut before: Option<(&[u8], bool)> = None;
        let mut next = at;
        for entry in block.entries.get(skipped..).unwrap_or_default() {
            if entry.seq > self.request.to {
                return Some(self.request.to.saturating_add(1));
            }
            if !self.has_room() {
                return Some(next);
            }
            next = entry.seq.saturating_add(1);
            if entry.time < self.request.since || (self.is_deleted)(entry.seq) {
                continue;
            }
            // Neighbours often share a subject; its text is then compared with the filter once.
            let subject = block.subject(entry);
            let wanted = match before {
                _ if self.filter.is_all() => true,
                Some((text, wanted)) if text == subject => wanted,
                _ => self.filter.matches(std::str::from_utf8(subject).ok()?),
            };
            before = Some((subject, wanted));
            if wanted {
                let record = block.record(entry)?;
                self.bytes = self.bytes.saturating_add(record.data().len());
                self.count += 1;
                self.out.push(record);
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_before_the_first_wildcard() {
        for (pattern, prefix) in [
            ("a.b.*.c", "a.b."),
            ("a.>", "a."),
            ("*", ""),
            (">", ""),
            ("a.b*.>", "a.b*."),
            ("a.b", "a.b"),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }
}
