//! A segment file open for reading: units by place, verified, through the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::block::{Block, BlockEntry};
use super::cache::{BlockCache, Kept, Key};
use super::layout::{self, Trailer, Wrong};
use super::table::{self, Pages, Pointer};
use super::{SegmentError, SegmentId, SegmentMeta, seed};
use crate::disk::{Disk, DiskFile};
use crate::ids::StreamId;

/// What reading cost. Only what was fetched from files counts, not what was in the cache.
#[derive(Debug, Default)]
pub struct ReadStats {
    /// Blocks of records.
    pub blocks_read: AtomicU64,
    /// Bytes of blocks and tables.
    pub bytes_read: AtomicU64,
}

/// An open file and how to read units of it.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) id: SegmentId,
    pub(crate) path: String,
    pub(crate) trailer: Trailer,
    file: Arc<dyn DiskFile>,
    cache: Arc<BlockCache>,
}

impl File {
    /// Opens the file of `id` and reads its trailer, nothing else.
    pub(crate) fn open(
        disk: &dyn Disk,
        id: SegmentId,
        cache: Arc<BlockCache>,
    ) -> Result<Self, SegmentError> {
        let path = id.path();
        let io = |error: std::io::Error| SegmentError::io(&path, &error);
        let file = disk.open(&path).map_err(io)?;
        let length = file.len().map_err(io)?;
        let damaged = |what| SegmentError::damaged(&path, 0, what);
        let start = length
            .checked_sub(layout::TRAILER as u64)
            .ok_or_else(|| damaged("the file is shorter than its trailer"))?;
        let mut bytes = [0; layout::TRAILER];
        file.read_at(&mut bytes, start).map_err(io)?;
        let trailer = Trailer::decode(&bytes).map_err(|wrong| refuse(&path, start, wrong))?;
        if trailer.length != length || trailer.segment != id {
            return Err(SegmentError::damaged(&path, start, "the trailer is of another file"));
        }
        Ok(Self { id, path, trailer, file, cache })
    }

    /// Opens the file that `meta` describes although its trailer is damaged. It has no directory then.
    pub(crate) fn open_without_trailer(
        disk: &dyn Disk,
        meta: &SegmentMeta,
        cache: Arc<BlockCache>,
    ) -> Result<Self, SegmentError> {
        let path = meta.id.path();
        let io = |error: std::io::Error| SegmentError::io(&path, &error);
        let file = disk.open(&path).map_err(io)?;
        if file.len().map_err(io)? != meta.length {
            return Err(SegmentError::damaged(
                &path,
                0,
                "its length is not what the manifest says",
            ));
        }
        let trailer = Trailer {
            segment: meta.id,
            directory: Pointer { offset: 0, length: 0 },
            streams: 0,
            digest: meta.digest,
            length: meta.length,
        };
        Ok(Self { id: meta.id, path, trailer, file, cache })
    }

    pub(crate) fn error(&self, offset: u64, what: &'static str) -> SegmentError {
        SegmentError::damaged(&self.path, offset, what)
    }

    /// The bytes at `offset`, unverified.
    pub(crate) fn bytes(
        &self,
        offset: u64,
        length: usize,
        stats: &ReadStats,
    ) -> Result<Vec<u8>, SegmentError> {
        // Checked before memory is taken, as the place may come from an index that is wrong.
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > self.trailer.length) {
            return Err(self.error(offset, "a unit ends after the file"));
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, offset);
        read.map_err(|error| SegmentError::io(&self.path, &error))?;
        stats.bytes_read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The block at `place`, which must be `stream`'s and what `place` says.
    pub(crate) fn block(
        &self,
        stream: StreamId,
        place: &BlockEntry,
        stats: &ReadStats,
    ) -> Result<Arc<Block>, SegmentError> {
        let key = Key::Unit(self.id, place.offset);
        let block = match self.cache.get(&key) {
            Some(Kept::Block(block)) => block,
            _ => {
                let bytes = self.bytes(place.offset, place.length as usize, stats)?;
                stats.blocks_read.fetch_add(1, Ordering::Relaxed);
                let block = Block::decode(bytes, seed(self.id, place.offset));
                let block = Arc::new(block.map_err(|what| self.error(place.offset, what))?);
                self.cache.put(&key, &Kept::Block(Arc::clone(&block)));
                block
            }
        };
        if !block.is(stream, place) {
            return Err(self.error(place.offset, "a block is not what its table says"));
        }
        Ok(block)
    }

    /// The block at `place` will be read soon.
    pub(crate) fn will_read(&self, place: &BlockEntry) {
        self.file.will_read(place.offset, u64::from(place.length));
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// Its tables, read on account of `stats`.
    pub(crate) fn tables<'a>(&'a self, stats: &'a ReadStats) -> Tables<'a> {
        Tables { file: self, stats }
    }
}

/// As an error that names the file.
pub(crate) fn refuse(path: &str, offset: u64, wrong: Wrong) -> SegmentError {
    match wrong {
        Wrong::Newer(major) => SegmentError::Newer { file: path.to_owned(), major },
        Wrong::Damaged(what) => SegmentError::damaged(path, offset, what),
    }
}

/// The pages of a file's tables.
pub(crate) struct Tables<'a> {
    pub(crate) file: &'a File,
    pub(crate) stats: &'a ReadStats,
}

impl Pages for Tables<'_> {
    fn page(&self, pointer: Pointer) -> Result<Bytes, SegmentError> {
        let key = Key::Unit(self.file.id, pointer.offset);
        if let Some(Kept::Page(page)) = self.file.cache.get(&key)
            && page.len() == pointer.length as usize
        {
            return Ok(page);
        }
        let bytes = self.file.bytes(pointer.offset, pointer.length as usize, self.stats)?;
        table::check_page(&bytes, seed(self.file.id, pointer.offset))
            .map_err(|what| self.damaged(pointer.offset, what))?;
        let page = Bytes::from(bytes);
        self.file.cache.put(&key, &Kept::Page(page.clone()));
        Ok(page)
    }

    fn damaged(&self, offset: u64, what: &'static str) -> SegmentError {
        self.file.error(offset, what)
    }
}
