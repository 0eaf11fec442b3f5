//! Reading records from a segment: only the blocks that can hold what is wanted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::block::{Block, BlockEntry};
use super::cache::BlockCache;
pub use super::file::ReadStats;
use super::file::{File, Tables};
use super::layout::StreamEntry;
use super::locate::BlockLocator;
use super::salvage::{self, Salvaged};
use super::subjects::BlockSet;
use super::table::{self, Cursor};
use super::take::Taking;
use super::{SegmentError, SegmentMeta};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::log::{Filter, ReadError, ReadRequest};
use crate::record::Record;

/// A segment open for reading, from any number of threads. Holds one file handle and what the
/// manifest says; everything else is read when it is needed and kept in the shared [`BlockCache`].
pub struct Segment {
    pub(super) meta: Arc<SegmentMeta>,
    pub(super) file: File,
    pub(super) locator: Option<Arc<dyn BlockLocator>>,
    /// Its blocks, found without its tables.
    salvaged: OnceLock<Salvaged>,
    /// Something in it was met that is damaged and that reading does without.
    pub(super) is_flawed: AtomicBool,
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
                // A row without a gap is read as one is without a filter: the system sees it by itself.
                .ok()
                .filter(|wanted| !wanted.is_all_of(&range)),
        };
        let mut taking = Taking { request, filter, is_deleted, out, bytes: 0, count: 0 };
        let mut at = request.from;
        let tables = self.file.tables(stats);
        let mut ahead = Ahead::new((at, end), request.max_records, &tables);
        while at < end && taking.has_room() {
            if let Some(wanted) = &wanted {
                self.announce(stream, wanted, at, &mut ahead, stats);
            }
            // A read may begin inside of a block, but goes on at the first record of one.
            let expected = ahead.blocks.front().filter(|_| at > request.from).copied();
            let next = self.step(&mut taking, at, expected, wanted.as_deref(), stats);
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
        ahead: &mut Ahead<'_>,
        stats: &ReadStats,
    ) {
        while ahead.blocks.front().is_some_and(|block| block.last_seq < at) {
            ahead.blocks.pop_front();
        }
        if ahead.blocks.len() > ahead.most / 2 {
            // Told of many at once, the system is woken less often.
            return;
        }
        while ahead.blocks.len() < ahead.most {
            let next = wanted.at_or_after(ahead.from.max(at));
            let Some(seq) = next.filter(|seq| *seq < ahead.until) else { return };
            let found = self.next_place(stream, seq, ahead, stats);
            // What cannot be found now is met again when it is read.
            let place = found.or_else(|| self.place(stream, seq, stats).ok().flatten());
            let Some(place) = place else { return };
            ahead.from = place.last_seq.saturating_add(1);
            self.file.will_read(&place);
            ahead.blocks.push_back(place);
        }
    }

    /// The block at or after `seq`, by the table: block after block, that is less to look at than the index.
    fn next_place(
        &self,
        stream: StreamId,
        seq: u64,
        ahead: &mut Ahead<'_>,
        stats: &ReadStats,
    ) -> Option<BlockEntry> {
        let key = seq.to_be_bytes();
        let mut cursor = match ahead.cursor.take() {
            Some(cursor) => cursor,
            None => {
                let table = self.entry(stream, stats).ok()?.block_table;
                Cursor::seek(ahead.tables, table, &key).ok()?
            }
        };
        let found = cursor.skip_to(&key).ok()?;
        let place = found.and_then(|(key, value)| block_entry(key, value));
        ahead.cursor = Some(cursor);
        place
    }

    /// Takes what is wanted from the first block at or after `at`, or leaps to where it may be.
    /// Returns where to go on, or `None` if nothing more is wanted; errors with the block, if known.
    /// `expected` is the next wanted block, if that is known.
    fn step(
        &self,
        taking: &mut Taking<'_>,
        at: u64,
        expected: Option<BlockEntry>,
        wanted: Option<&BlockSet>,
        stats: &ReadStats,
    ) -> Result<Option<u64>, (SegmentError, Option<BlockEntry>)> {
        let stream = taking.request.stream;
        if wanted.is_some_and(|wanted| at > wanted.last) {
            return Ok(None);
        }
        let located = || self.locator.as_ref().and_then(|l| l.block(self.meta.id, stream, at));
        let known = expected.or_else(located);
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
        let damaged = |what| (self.file.error(place.offset, what), Some(place));
        taking.take(&block, at).map(Some).map_err(damaged)
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
}

fn block_entry(key: &[u8], value: &[u8]) -> Option<BlockEntry> {
    BlockEntry::decode(u64::from_be_bytes(key.try_into().ok()?), value)
}

/// Wanted blocks that the system is told of before they are read. 192: three megabytes; between that and half
/// of it, a disk has enough to choose from while blocks are decoded.
pub(super) const AHEAD: usize = 192;

/// Blocks that the system was told of.
struct Ahead<'a> {
    /// From which sequence on it was not.
    from: u64,
    /// Where the read ends.
    until: u64,
    /// How many it is told of at most.
    most: usize,
    /// Where they lie.
    blocks: VecDeque<BlockEntry>,
    tables: &'a Tables<'a>,
    /// Behind the last of them in the table of blocks.
    cursor: Option<Cursor<'a, Tables<'a>>>,
}

impl<'a> Ahead<'a> {
    /// For a read of so many records in a range: each block holds one of them, mostly.
    fn new((from, until): (u64, u64), records: usize, tables: &'a Tables<'a>) -> Self {
        Self {
            from,
            until,
            most: AHEAD.min(records),
            blocks: VecDeque::new(),
            tables,
            cursor: None,
        }
    }
}
