//! What stands in sled: its trees, their keys and values.
//!
//! | tree | key (numbers big-endian) | value |
//! |---|---|---|
//! | `blocks` | stream, first sequence, segment | last sequence, then as in a block table |
//! | `subjects` | segment, stream, subject | check, then as in a subject table |
//! | `segments` | segment | its streams, with first and last sequence |

use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::{Fault, Updated};
use crate::ids::StreamId;
use crate::segment::{BlockEntry, ReadStats, Segment, SegmentId};

/// sled's own cache. Small: the index answers what readers have not just asked, and the pages of
/// segments' tables have a cache too.
pub const SLED_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The subjects of a stream are indexed for a segment only if there are at least this many records
/// for each of them. A stream where every subject is new would otherwise cost an insert for every
/// record, at 6 us each, to save reads that the segment's own table answers in a few pages.
pub const RECORDS_PER_SUBJECT_MIN: u64 = 16;

/// How many inserts pass between two looks at whether to stop.
const STOP_EVERY: usize = 1024;

/// The open database.
pub(super) struct Trees {
    blocks: sled::Tree,
    subjects: sled::Tree,
    segments: sled::Tree,
    database: sled::Db,
}

fn join<const N: usize>(parts: [&[u8]; N]) -> Vec<u8> {
    parts.concat()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn check(key: &[u8], value: &[u8]) -> [u8; 4] {
    ((xxh3_64(key).rotate_left(1) ^ xxh3_64(value)) as u32).to_le_bytes()
}

/// One stream in the value of `segments`: stream, first and last sequence.
const STREAM_BYTES: usize = 24;

impl Trees {
    pub(super) fn open(path: &Path) -> sled::Result<Self> {
        let database = sled::Config::new()
            .path(path)
            .cache_capacity(SLED_CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        Ok(Self {
            blocks: database.open_tree("blocks")?,
            subjects: database.open_tree("subjects")?,
            segments: database.open_tree("segments")?,
            database,
        })
    }

    pub(super) fn flush(&self) -> Result<(), Fault> {
        self.database.flush()?;
        Ok(())
    }

    pub(super) fn update(
        &self,
        segments: &[SegmentId],
        open: &dyn Fn(SegmentId) -> Option<Arc<Segment>>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Updated, Fault> {
        let mut updated = Updated::default();
        let mut listed = segments.to_vec();
        listed.sort_unstable();
        let mut known = Vec::with_capacity(listed.len());
        for entry in &self.segments {
            let (key, value) = entry?;
            let id = SegmentId(number(&key, 0).ok_or(Fault::Nonsense)?);
            if listed.binary_search(&id).is_ok() {
                // The keys of the tree ascend.
                known.push(id);
                continue;
            }
            if stop() {
                return Ok(updated);
            }
            self.remove(id, &value)?;
            updated.removed += 1;
        }
        let mut left_out = None;
        for id in segments.iter().filter(|id| known.binary_search(id).is_err()) {
            let Some(segment) = open(*id) else { continue };
            match self.add(&segment, stop) {
                Ok(true) => updated.added += 1,
                Ok(false) => return Ok(updated),
                // One damaged segment must not keep the others out.
                Err(Fault::Segment(id, reason)) => left_out = Some(Fault::Segment(id, reason)),
                Err(fault) => return Err(fault),
            }
        }
        self.flush()?;
        updated.complete = true;
        left_out.map_or(Ok(updated), Err)
    }

    /// Adds what the segment's tables say; returns false if told to stop. What was inserted until
    /// then is true, and is inserted again next time.
    fn add(&self, segment: &Segment, stop: &dyn Fn() -> bool) -> Result<bool, Fault> {
        let meta = segment.meta();
        let stats = ReadStats::default();
        let mut streams = Vec::with_capacity(meta.streams.len() * STREAM_BYTES);
        for range in &meta.streams {
            if stop() || !self.add_stream(segment, range.stream, &stats, stop)? {
                return Ok(false);
            }
            for part in [range.stream.0, range.first_seq, range.last_seq] {
                streams.extend_from_slice(&part.to_be_bytes());
            }
        }
        // Last, so that it stands for all of the above.
        self.segments.insert(meta.id.0.to_be_bytes(), streams)?;
        Ok(true)
    }

    fn add_stream(
        &self,
        segment: &Segment,
        stream: StreamId,
        stats: &ReadStats,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, Fault> {
        let id = segment.meta().id;
        let mut pending = Vec::new();
        let listed = segment.blocks(stream, stats, &mut |block| pending.push(block));
        listed.map_err(|error| (id, error))?;
        for blocks in pending.chunks(STOP_EVERY) {
            if stop() {
                return Ok(false);
            }
            for block in blocks {
                let mut value = block.last_seq.to_be_bytes().to_vec();
                block.encode(&mut value);
                self.blocks.insert(block_key(stream, block.first_seq, id), value)?;
            }
        }
        let (records, subjects) = segment.density(stream, stats).map_err(|error| (id, error))?;
        if subjects.saturating_mul(RECORDS_PER_SUBJECT_MIN) > records {
            return Ok(true);
        }
        let mut result = Ok(());
        let (mut inserted, mut stopped) = (0, false);
        let visited = segment.subject_values(stream, stats, &mut |text, value| {
            inserted += 1;
            stopped = inserted % STOP_EVERY == 0 && stop();
            let key = subject_key(id, stream, text);
            let value = join([&check(&key, value), value]);
            result = self.subjects.insert(key, value).map(drop);
            (result.is_ok() && !stopped).then_some(())
        });
        result?;
        if stopped {
            return Ok(false);
        }
        visited.map(|()| true).map_err(|error| (id, error).into())
    }

    fn remove(&self, id: SegmentId, streams: &[u8]) -> Result<(), Fault> {
        for stream in streams.chunks_exact(STREAM_BYTES) {
            let part = |at| number(stream, at).ok_or(Fault::Nonsense);
            let (stream, first, last) = (StreamId(part(0)?), part(8)?, part(16)?);
            let ends = [(first, 0), (last, u64::MAX)];
            let [first, last] = ends.map(|(seq, id)| block_key(stream, seq, SegmentId(id)));
            for key in self.blocks.range(first..=last).keys() {
                let key = key?;
                if number(&key, 16) == Some(id.0) {
                    self.blocks.remove(key)?;
                }
            }
        }
        for key in self.subjects.scan_prefix(id.0.to_be_bytes()).keys() {
            self.subjects.remove(key?)?;
        }
        self.segments.remove(id.0.to_be_bytes())?;
        Ok(())
    }

    pub(super) fn block(
        &self,
        segment: SegmentId,
        stream: StreamId,
        seq: u64,
    ) -> Result<Option<BlockEntry>, Fault> {
        let after = block_key(stream, seq, SegmentId(u64::MAX));
        let Some((key, value)) = self.blocks.range(..=after).next_back().transpose()? else {
            return Ok(None);
        };
        let ours = number(&key, 0) == Some(stream.0) && number(&key, 16) == Some(segment.0);
        let last = number(&value, 0).ok_or(Fault::Nonsense)?;
        if !ours || last < seq {
            return Ok(None);
        }
        let block = BlockEntry::decode(last, value.get(8..).unwrap_or_default());
        Ok(block.filter(|block| number(&key, 8) == Some(block.first_seq)))
    }

    pub(super) fn subject(
        &self,
        segment: SegmentId,
        stream: StreamId,
        subject: &str,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let key = subject_key(segment, stream, subject);
        let Some(found) = self.subjects.get(&key)? else { return Ok(None) };
        let (sum, value) = found.split_at_checked(4).ok_or(Fault::Nonsense)?;
        Ok((sum == check(&key, value)).then(|| value.to_vec()))
    }
}

fn block_key(stream: StreamId, first_seq: u64, segment: SegmentId) -> Vec<u8> {
    join([&stream.0.to_be_bytes(), &first_seq.to_be_bytes(), &segment.0.to_be_bytes()])
}

fn subject_key(segment: SegmentId, stream: StreamId, subject: &str) -> Vec<u8> {
    join([&segment.0.to_be_bytes(), &stream.0.to_be_bytes(), subject.as_bytes()])
}
