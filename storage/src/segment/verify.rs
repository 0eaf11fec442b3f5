//! Verifying a segment from end to end, for `claudebus verify` and for tests.
//!
//! Every byte is read and every checksum checked; then the tables are compared with what the blocks
//! really hold. Nothing is changed.

use std::fmt;
use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::block::BlockEntry;
use super::cache::BlockCache;
use super::file::{File, refuse};
use super::layout::{self, StreamEntry};
use super::read::{ReadStats, Segment};
use super::subjects::SubjectTable;
use super::table::{Cursor, Pointer};
use super::write::expiry_key;
use super::{SYNC_BYTES, SegmentError, SegmentId, SegmentMeta, StreamRange};
use crate::disk::Disk;
use crate::ids::StreamId;

/// What a verification went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks whose checksums were good.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong, and where.
    pub error: SegmentError,
    /// Where the damaged unit ends, if that is known.
    pub end: Option<u64>,
    /// Stream, first and last sequence that cannot be read because of it, if any.
    pub lost: Option<(StreamId, u64, u64)>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lost {
            Some((stream, first, last)) => {
                write!(f, "{}: sequences {first} to {last} of {stream} are lost", self.error)
            }
            None => write!(f, "{}", self.error),
        }
    }
}

impl SegmentMeta {
    /// What the file of `id` says of itself, for when no manifest does.
    ///
    /// # Errors
    /// [`SegmentError`] if it cannot be read or its directory is damaged.
    pub fn read(disk: &dyn Disk, id: SegmentId) -> Result<Self, SegmentError> {
        let file = File::open(disk, id, Arc::new(BlockCache::new(0)))?;
        let streams = directory(&file)?.iter().map(|entry| entry.range).collect();
        let trailer = &file.trailer;
        Ok(Self { id, length: trailer.length, digest: trailer.digest, streams })
    }
}

fn directory(file: &File) -> Result<Vec<StreamEntry>, SegmentError> {
    let stats = ReadStats::default();
    let tables = file.tables(&stats);
    let root = file.trailer.directory;
    let mut cursor = Cursor::seek(&tables, root, &[])?;
    let mut entries = Vec::new();
    while let Some((key, value)) = cursor.next()? {
        let entry = StreamEntry::decode(key, value);
        entries.push(entry.ok_or_else(|| file.error(root.offset, "no entry of a directory"))?);
    }
    if entries.len() != file.trailer.streams as usize {
        return Err(file.error(root.offset, "the directory has another number of streams"));
    }
    Ok(entries)
}

/// Checks all of the segment that `meta` describes, and calls `found` for each damaged place.
/// Memory: a block and the tables of one stream.
pub fn verify(disk: &dyn Disk, meta: &Arc<SegmentMeta>, found: &mut dyn FnMut(Damage)) -> Verified {
    let mut verified = Verified::default();
    let lose_all = |error: SegmentError, found: &mut dyn FnMut(Damage)| {
        for range in &meta.streams {
            found(Damage { error: error.clone(), end: None, lost: lost(range) });
        }
        if meta.streams.is_empty() {
            found(Damage { error, end: None, lost: None });
        }
    };
    let segment = match Segment::open(disk, meta, &Arc::new(BlockCache::new(0))) {
        Ok(segment) => segment,
        Err(error) => {
            lose_all(error, found);
            return verified;
        }
    };
    verified.bytes = meta.length;
    let file = segment.file();
    let stats = ReadStats::default();
    // Without its tables, a segment's blocks are found one by one.
    let lose_all = |error: SegmentError, found: &mut dyn FnMut(Damage)| {
        for range in &meta.streams {
            let is_saved = matches!(segment.salvaged(range.stream, &stats), Ok(Some(_)));
            let lost = if is_saved { None } else { lost(range) };
            found(Damage { error: error.clone(), end: None, lost });
        }
    };
    let is_named = std::cell::Cell::new(false);
    let found = &mut |damage| {
        is_named.set(true);
        found(damage);
    };
    if let Err(error) = File::open(disk, meta.id, Arc::new(BlockCache::new(0))) {
        found(Damage { error, end: Some(meta.length), lost: None });
    }
    if let Err(error) = header(file) {
        found(Damage { error, end: Some(layout::HEADER as u64), lost: None });
    }
    match directory(file) {
        Ok(entries) if entries.iter().map(|entry| &entry.range).eq(&meta.streams) => {
            for entry in &entries {
                Stream::new(&segment, entry).check(&mut verified, found);
            }
        }
        Ok(_) => {
            let offset = file.trailer.directory.offset;
            lose_all(file.error(offset, "the directory differs from the manifest"), found);
        }
        Err(error) => lose_all(error, found),
    }
    // It covers the same bytes as all other checksums, and names no place.
    if !is_named.get()
        && let Err(error) = digest(file)
    {
        found(Damage { error, end: None, lost: None });
    }
    verified
}

/// Whether every byte of the file is what the manifest says, by its digest. Memory: a step of reading.
pub(crate) fn check_digest(
    disk: &dyn Disk,
    id: SegmentId,
    length: u64,
    expected: u64,
) -> Result<(), SegmentError> {
    let file = File::open(disk, id, Arc::new(BlockCache::new(0)))?;
    if (file.trailer.length, file.trailer.digest) != (length, expected) {
        return Err(file.error(0, "the manifest describes another file of this name"));
    }
    digest(&file)
}

#[allow(clippy::unnecessary_wraps, reason = "the shape in which damage is reported")]
fn lost(range: &StreamRange) -> Option<(StreamId, u64, u64)> {
    Some((range.stream, range.first_seq, range.last_seq))
}

fn header(file: &File) -> Result<(), SegmentError> {
    let bytes = file.bytes(0, layout::HEADER, &ReadStats::default())?;
    match layout::decode_header(&bytes).map_err(|wrong| refuse(&file.path, 0, wrong))? {
        id if id == file.id => Ok(()),
        _ => Err(file.error(0, "the header is of another segment")),
    }
}

fn digest(file: &File) -> Result<(), SegmentError> {
    let stats = ReadStats::default();
    let end = file.trailer.length - layout::TRAILER as u64;
    let mut digest = Xxh3Default::new();
    let mut at = 0;
    while at < end {
        let length = (end - at).min(SYNC_BYTES as u64);
        digest.update(&file.bytes(at, length as usize, &stats)?);
        at += length;
    }
    if digest.digest() == file.trailer.digest {
        return Ok(());
    }
    Err(file.error(0, "the file's bytes do not match its digest"))
}

/// One stream of a segment being verified.
struct Stream<'a> {
    segment: &'a Segment,
    entry: &'a StreamEntry,
    stats: ReadStats,
    blocks: Vec<BlockEntry>,
    subjects: SubjectTable,
    expiries: Vec<(u64, u64)>,
    bytes: u64,
    records: u64,
}

impl<'a> Stream<'a> {
    fn new(segment: &'a Segment, entry: &'a StreamEntry) -> Self {
        Self {
            segment,
            entry,
            stats: ReadStats::default(),
            blocks: Vec::new(),
            subjects: SubjectTable::default(),
            expiries: Vec::new(),
            bytes: 0,
            records: 0,
        }
    }

    fn check(&mut self, verified: &mut Verified, found: &mut dyn FnMut(Damage)) {
        let range = &self.entry.range;
        let mut blocks = Vec::new();
        let listed =
            self.segment.blocks(range.stream, &self.stats, &mut |place| blocks.push(place));
        if let Err(error) = listed {
            let saved = self.segment.salvaged(range.stream, &self.stats);
            let lost = if matches!(saved, Ok(Some(_))) { None } else { lost(range) };
            found(Damage { error, end: None, lost });
            verified.records += if lost.is_none() { range.count } else { 0 };
            return;
        }
        let mut whole = true;
        for place in blocks {
            match self.block(place) {
                Ok(()) => verified.blocks += 1,
                Err(error) => {
                    whole = false;
                    let lost = Some((range.stream, place.first_seq, place.last_seq));
                    let end = Some(place.offset + u64::from(place.length));
                    found(Damage { error, end, lost });
                }
            }
        }
        verified.records += self.records;
        let tables = if whole { self.compare() } else { self.walk() };
        if let Err(error) = tables {
            found(Damage { error, end: None, lost: None });
        }
    }

    /// Decodes a block, whose records must be what its place says, and gathers what they are.
    fn block(&mut self, place: BlockEntry) -> Result<(), SegmentError> {
        let file = self.segment.file();
        let block = file.block(self.entry.range.stream, &place, &self.stats)?;
        let number = self.blocks.len() as u32;
        let after = self.blocks.last().map_or(0, |before| before.last_seq);
        let (mut earliest, mut latest) = (u64::MAX, 0);
        self.blocks.push(place);
        for entry in &block.entries {
            let subject = block.subject(entry);
            let touched = self.subjects.touch(subject, entry.seq, number);
            touched.map_err(|error| SegmentError::io(&file.path, &error))?;
            let record = block.record(entry);
            let record = record.map_err(|what| file.error(place.offset, what))?;
            self.expiries.extend(record.expires.map(|expires| (expires, entry.seq)));
            self.bytes += record.data().len() as u64;
            self.records += 1;
            earliest = earliest.min(entry.time);
            latest = latest.max(entry.time);
        }
        if place.first_seq <= after || (earliest, latest) != (place.first_time, place.last_time) {
            return Err(file.error(place.offset, "the block table contradicts a block"));
        }
        Ok(())
    }

    /// Compares the directory, the subject table and the expiry table with what the blocks hold.
    fn compare(&mut self) -> Result<(), SegmentError> {
        let file = self.segment.file();
        let range = &self.entry.range;
        self.expiries.sort_unstable();
        let ends = (self.blocks.first(), self.blocks.last());
        let (Some(first), Some(last)) = ends else {
            return Err(file.error(self.entry.block_table.offset, "a stream has no block"));
        };
        let real = StreamRange {
            stream: range.stream,
            first_seq: first.first_seq,
            last_seq: last.last_seq,
            count: self.records,
            bytes: self.bytes,
            first_time: self.blocks.iter().map(|block| block.first_time).min().unwrap_or_default(),
            last_time: self.blocks.iter().map(|block| block.last_time).max().unwrap_or_default(),
            next_expiry: self.expiries.first().map(|(time, _)| *time),
        };
        if real != *range || self.subjects.len() as u64 != self.entry.subjects {
            let offset = file.trailer.directory.offset;
            return Err(file.error(offset, "the directory contradicts the blocks"));
        }
        let expiries = self.expiries.iter().map(|(time, seq)| expiry_key(*time, *seq));
        let mut expected: Vec<(Vec<u8>, Vec<u8>)> =
            expiries.map(|key| (key.to_vec(), Vec::new())).collect();
        self.same(self.entry.expiry_table, &expected, "the expiry table contradicts the blocks")?;
        expected.clear();
        let gathered = self.subjects.each(&self.blocks, range.first_seq, |key, value| {
            expected.push((key.to_vec(), value.to_vec()));
            Ok(())
        });
        gathered.map_err(|error: io::Error| SegmentError::io(&file.path, &error))?;
        self.same(self.entry.subject_table, &expected, "the subject table contradicts the blocks")
    }

    fn same(
        &self,
        root: Pointer,
        expected: &[(Vec<u8>, Vec<u8>)],
        what: &'static str,
    ) -> Result<(), SegmentError> {
        let file = self.segment.file();
        let tables = file.tables(&self.stats);
        let mut cursor = Cursor::seek(&tables, root, &[])?;
        for (key, value) in expected {
            if cursor.next()? != Some((key.as_slice(), value.as_slice())) {
                return Err(file.error(root.offset, what));
            }
        }
        match cursor.next()? {
            None => Ok(()),
            Some(_) => Err(file.error(root.offset, what)),
        }
    }

    /// Reads the tables, whose content cannot be compared.
    fn walk(&self) -> Result<(), SegmentError> {
        for root in [self.entry.subject_table, self.entry.expiry_table] {
            let tables = self.segment.file().tables(&self.stats);
            let mut cursor = Cursor::seek(&tables, root, &[])?;
            while cursor.next()?.is_some() {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::log::Compression;
    use crate::segment::testing::{Directory, record, write};

    fn sample(disk: &Directory) -> Arc<SegmentMeta> {
        let mut records = Vec::new();
        for stream in 1..=2u64 {
            for seq in 1..=150u64 {
                let subject = format!("sensor.{}", seq % 9);
                records.push((StreamId(stream), record(seq, &subject, &[seq as u8; 900])));
            }
        }
        write(disk, 1, Compression::Off, &records)
    }

    fn damage(disk: &Directory, meta: &Arc<SegmentMeta>) -> Vec<Damage> {
        let mut list = Vec::new();
        verify(disk, meta, &mut |found| list.push(found));
        list
    }

    #[test]
    fn a_good_file_is_counted() {
        let disk = Directory::new();
        let meta = sample(&disk);
        let verified = verify(&disk, &meta, &mut |found| panic!("{found}"));
        assert_eq!((verified.blocks, verified.records), (18, 300));
        assert_eq!(verified.bytes, meta.length);
        assert_eq!(SegmentMeta::read(&disk, meta.id).unwrap(), *meta);
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let disk = Directory::new();
        let records: Vec<_> =
            (1..=20u64).map(|seq| (StreamId(1), record(seq, "a", b"xy"))).collect();
        let meta = write(&disk, 1, Compression::Off, &records);
        let path = disk.path(&meta.id.path());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(!damage(&disk, &meta).is_empty(), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(!damage(&disk, &meta).is_empty(), "a byte is missing");
    }

    #[test]
    fn a_damaged_block_is_named_with_its_sequences() {
        let disk = Directory::new();
        let meta = sample(&disk);
        let path = disk.path(&meta.id.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let lost: Vec<_> = damage(&disk, &meta).iter().filter_map(|found| found.lost).collect();
        assert_eq!(lost.len(), 1);
        let (stream, first, last) = lost[0];
        assert_eq!(stream, StreamId(1));
        assert!(first > 1 && last < 150, "{first} to {last}");
    }

    #[test]
    fn a_missing_file_loses_all_it_held() {
        let disk = Directory::new();
        let meta = sample(&disk);
        disk.remove(&meta.id.path()).unwrap();
        let lost: Vec<_> = damage(&disk, &meta).iter().filter_map(|found| found.lost).collect();
        assert_eq!(lost, [(StreamId(1), 1, 150), (StreamId(2), 1, 150)]);
    }
}
