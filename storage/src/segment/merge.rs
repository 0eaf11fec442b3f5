//! Merging: several segments become better ones. Streams are sorted apart, small files are joined,
//! dead records are left behind.
//!
//! Which segments to merge, and when, is the caller's choice, as is listing the result in the
//! manifest. The inputs are only read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::cache::BlockCache;
use super::output::Pace;
use super::read::{ReadStats, Segment};
use super::write::SegmentWriter;
use super::{SegmentError, SegmentId, SegmentMeta};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::log::Compression;

/// Where files of a merge end.
#[derive(Clone, Copy, Debug)]
pub struct MergeLimits {
    /// A stream with at least this many raw bytes in the inputs gets files of its own, so that it
    /// can be trimmed and dropped by whole files.
    pub own_file_bytes: u64,
    /// A file is ended once it has this many bytes. Bounds what one rewriting costs and how much
    /// space it needs beside the inputs.
    pub file_bytes: u64,
    /// A file is ended once one stream has this many distinct subjects in it. Bounds the memory of
    /// the merge, which is about 60 bytes and the text for each.
    pub subjects: usize,
}

impl Default for MergeLimits {
    fn default() -> Self {
        Self { own_file_bytes: 16 << 20, file_bytes: 1 << 30, subjects: 1 << 20 }
    }
}

/// Reads need the pages along one path of a table, no more.
const CACHE_BYTES: usize = 256 * 1024;

/// Where the files come from and go to.
pub struct Merge<'a> {
    /// Where inputs are read and outputs are written.
    pub disk: &'a dyn Disk,
    /// Names for new files.
    pub next_id: &'a mut dyn FnMut() -> SegmentId,
    /// Whether the record with this sequence lives on.
    pub keep: &'a dyn Fn(StreamId, u64) -> bool,
    /// How the blocks of a stream are to be compressed.
    pub compression: &'a dyn Fn(StreamId) -> Compression,
    /// Where files end.
    pub limits: MergeLimits,
}

/// Writes all records of `inputs` that `keep` wants into new segments, and returns them. Large
/// streams come first, each in files of its own; the others share files. The new files' bytes are
/// durable, their names are once the caller has synced the directory. Memory is bounded by a block,
/// a MiB of output and the tables of one stream.
///
/// # Errors
/// [`SegmentError`], also if an input is damaged: a merge never drops what it cannot read. The files
/// begun are removed then, as far as possible.
pub fn merge(
    merge: Merge<'_>,
    inputs: &[Arc<SegmentMeta>],
    pace: Pace<'_>,
) -> Result<Vec<SegmentMeta>, SegmentError> {
    let Merge { disk, next_id, keep, compression, limits } = merge;
    let cache = Arc::new(BlockCache::new(CACHE_BYTES));
    let mut segments = Vec::with_capacity(inputs.len());
    for meta in inputs {
        segments.push(Segment::open(disk, meta, &cache)?);
    }
    let mut files = Files {
        disk,
        next_id,
        limits,
        begun: Vec::new(),
        done: Vec::new(),
        state: State::Idle(pace),
    };
    let result = copy_all(&segments, keep, compression, &mut files);
    match result.and_then(|()| files.end()) {
        Ok(()) => Ok(files.done),
        Err(error) => {
            for id in files.begun {
                if let Err(left) = disk.remove(&id.path()) {
                    tracing::warn!(file = id.path(), error = %left, "an abandoned file stays");
                }
            }
            Err(error)
        }
    }
}

fn copy_all(
    segments: &[Segment],
    keep: &dyn Fn(StreamId, u64) -> bool,
    compression: &dyn Fn(StreamId) -> Compression,
    files: &mut Files<'_>,
) -> Result<(), SegmentError> {
    let mut streams: BTreeMap<StreamId, Vec<(u64, &Segment)>> = BTreeMap::new();
    for segment in segments {
        for range in &segment.meta().streams {
            streams.entry(range.stream).or_default().push((range.first_seq, segment));
        }
    }
    let bytes = |stream: StreamId, pieces: &[(u64, &Segment)]| -> u64 {
        let ranges = pieces.iter().filter_map(|(_, segment)| segment.meta().stream(stream));
        ranges.map(|range| range.bytes).sum()
    };
    for own in [true, false] {
        for (stream, pieces) in &mut streams {
            if (bytes(*stream, pieces) >= files.limits.own_file_bytes) != own {
                continue;
            }
            pieces.sort_unstable_by_key(|(first, _)| *first);
            let mut last = 0;
            for (_, segment) in pieces {
                last = copy(segment, *stream, last, keep, compression(*stream), files)?;
            }
            if own {
                files.end()?;
            }
        }
    }
    Ok(())
}

/// Copies what is kept of one stream of one segment. `last` is the last sequence before it; returns
/// the last one in it.
fn copy(
    segment: &Segment,
    stream: StreamId,
    last: u64,
    keep: &dyn Fn(StreamId, u64) -> bool,
    compression: Compression,
    files: &mut Files<'_>,
) -> Result<u64, SegmentError> {
    let Some(range) = segment.meta().stream(stream) else { return Ok(last) };
    if range.first_seq <= last {
        return Err(SegmentError::Overlap { stream, seq: range.first_seq });
    }
    let stats = ReadStats::default();
    let mut count = 0;
    segment.each_block(stream, &stats, &mut |place| {
        count += u64::from(place.count);
        // A gap counts as dead; its sequences are asked for like any others, so wide ones are read.
        let narrow = place.last_seq - place.first_seq < 4 * u64::from(place.count);
        if narrow && !(place.first_seq..=place.last_seq).any(|seq| keep(stream, seq)) {
            return Ok(());
        }
        let block = segment.file().block(stream, &place, &stats)?;
        for entry in block.entries.iter().filter(|entry| keep(stream, entry.seq)) {
            let damaged = |what| segment.file().error(place.offset, what);
            let record = block.record(entry).map_err(damaged)?;
            files.writer()?.add(stream, compression, &record).map_err(|e| files.error(&e))?;
            files.end_if_full()?;
        }
        Ok(())
    })?;
    if count != range.count {
        return Err(segment.file().error(0, "the blocks hold another number of records"));
    }
    Ok(range.last_seq)
}

/// The files being written, one at a time.
struct Files<'a> {
    disk: &'a dyn Disk,
    next_id: &'a mut dyn FnMut() -> SegmentId,
    limits: MergeLimits,
    begun: Vec<SegmentId>,
    done: Vec<SegmentMeta>,
    state: State<'a>,
}

enum State<'a> {
    Idle(Pace<'a>),
    Open(Box<SegmentWriter<'a>>),
    /// A step failed; nothing more can be written.
    Failed,
}

impl<'a> Files<'a> {
    fn writer(&mut self) -> Result<&mut SegmentWriter<'a>, SegmentError> {
        if let State::Idle(_) = self.state
            && let State::Idle(pace) = std::mem::replace(&mut self.state, State::Failed)
        {
            let id = (self.next_id)();
            let writer = SegmentWriter::create(self.disk, id, pace);
            let writer = writer.map_err(|error| SegmentError::io(&id.path(), &error))?;
            self.begun.push(id);
            self.state = State::Open(Box::new(writer));
        }
        match &mut self.state {
            State::Open(writer) => Ok(writer),
            _ => Err(SegmentError::io("segments", &io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn end_if_full(&mut self) -> Result<(), SegmentError> {
        match &self.state {
            State::Open(writer)
                if writer.length() >= self.limits.file_bytes
                    || writer.subjects() >= self.limits.subjects =>
            {
                self.end()
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), SegmentError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Open(writer) => {
                let (meta, pace) = writer.complete().map_err(|error| self.error(&error))?;
                self.done.push(meta);
                self.state = State::Idle(pace);
            }
            other => self.state = other,
        }
        Ok(())
    }

    fn error(&self, error: &io::Error) -> SegmentError {
        let file = self.begun.last().map_or_else(|| "segments".to_owned(), |id| id.path());
        SegmentError::io(&file, error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::log::{Filter, ReadRequest};
    use crate::record::Record;
    use crate::segment::testing::{Directory, open, record, write};
    use proptest::prelude::*;

    const ALL: fn(StreamId, u64) -> bool = |_, _| true;

    fn run(
        disk: &Directory,
        inputs: &[Arc<SegmentMeta>],
        keep: &dyn Fn(StreamId, u64) -> bool,
        limits: MergeLimits,
    ) -> Result<Vec<Arc<SegmentMeta>>, SegmentError> {
        let mut next = 100;
        let mut next_id = || {
            next += 1;
            SegmentId(next)
        };
        let job =
            Merge { disk, next_id: &mut next_id, keep, compression: &|_| Compression::Lz4, limits };
        let done = merge(job, inputs, &mut |_| Ok(()))?;
        Ok(done.into_iter().map(Arc::new).collect())
    }

    /// All records in these segments, by stream, in order of sequence.
    fn content(
        disk: &Directory,
        metas: &[Arc<SegmentMeta>],
    ) -> BTreeMap<StreamId, BTreeMap<u64, Record>> {
        let mut found: BTreeMap<StreamId, BTreeMap<u64, Record>> = BTreeMap::new();
        for meta in metas {
            let segment = open(disk, meta, 0);
            for range in &meta.streams {
                let request = ReadRequest {
                    stream: range.stream,
                    from: 1,
                    to: u64::MAX,
                    since: 0,
                    max_records: usize::MAX,
                    max_bytes: usize::MAX,
                };
                let mut out = Vec::new();
                let stats = ReadStats::default();
                segment.read(&request, &Filter::all(), &|_| false, &mut out, &stats).unwrap();
                for record in out {
                    let before = found.entry(range.stream).or_default().insert(record.seq, record);
                    assert!(before.is_none(), "a record stands in two files");
                }
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn exactly_the_kept_records_are_there(
            // For each segment, how many records of each of three streams.
            plan in prop::collection::vec(prop::collection::vec(0u64..60, 3), 1..5),
            dead in prop::collection::btree_set((1u64..4, 1u64..200), 0..80),
            all_dead in 0u64..4,
            size in 0usize..3000,
            file_bytes in 10_000u64..200_000,
        ) {
            let disk = Directory::new();
            let mut next = [0u64; 3];
            let mut inputs = Vec::new();
            for (number, counts) in plan.iter().enumerate() {
                let mut records = Vec::new();
                for (stream, count) in counts.iter().enumerate() {
                    for _ in 0..*count {
                        // Sequence 7 of each was never used.
                        next[stream] += if next[stream] == 6 { 2 } else { 1 };
                        let seq = next[stream];
                        let subject = format!("s.{}", seq % 5);
                        records.push((StreamId(stream as u64 + 1), record(seq, &subject, &vec![seq as u8; size])));
                    }
                }
                inputs.push(write(&disk, number as u64 + 1, Compression::Zstd, &records));
            }
            let keep = |stream: StreamId, seq: u64| {
                stream.0 != all_dead && !dead.contains(&(stream.0, seq))
            };
            let mut expected = content(&disk, &inputs);
            for (stream, records) in &mut expected {
                records.retain(|seq, _| keep(*stream, *seq));
            }
            expected.retain(|_, records| !records.is_empty());
            let limits = MergeLimits { own_file_bytes: 60_000, file_bytes, subjects: 4 };
            let done = run(&disk, &inputs, &keep, limits).unwrap();
            prop_assert_eq!(content(&disk, &done), expected);
            for meta in &done {
                let mut damage = Vec::new();
                crate::segment::verify(&disk, meta, &mut |found| damage.push(found));
                prop_assert!(damage.is_empty(), "{damage:?}");
            }
        }
    }

    #[test]
    fn a_large_stream_gets_a_file_of_its_own_and_small_ones_share() {
        let disk = Directory::new();
        let mut inputs = Vec::new();
        for number in 0..4u64 {
            let mut records = Vec::new();
            for stream in 1..=3u64 {
                let (count, size) = if stream == 2 { (100, 3000) } else { (2, 10) };
                for seq in number * count + 1..=number * count + count {
                    records.push((StreamId(stream), record(seq, "a", &vec![1; size])));
                }
            }
            inputs.push(write(&disk, number + 1, Compression::Off, &records));
        }
        let limits = MergeLimits { own_file_bytes: 1 << 20, ..MergeLimits::default() };
        let done = run(&disk, &inputs, &ALL, limits).unwrap();
        let streams: Vec<Vec<u64>> = done
            .iter()
            .map(|meta| meta.streams.iter().map(|range| range.stream.0).collect())
            .collect();
        assert_eq!(streams, [vec![2], vec![1, 3]]);
        assert_eq!(done[0].streams[0].count, 400);
    }

    #[test]
    fn nothing_kept_leaves_no_file() {
        let disk = Directory::new();
        let input = write(&disk, 1, Compression::Off, &[(StreamId(1), record(1, "a", b""))]);
        assert_eq!(run(&disk, &[input], &|_, _| false, MergeLimits::default()).unwrap(), []);
        assert_eq!(disk.list("segments").unwrap().len(), 1);
    }

    #[test]
    fn a_sequence_in_two_inputs_is_refused() {
        let disk = Directory::new();
        let one = write(&disk, 1, Compression::Off, &[(StreamId(1), record(4, "a", b""))]);
        let two = write(&disk, 2, Compression::Off, &[(StreamId(1), record(4, "a", b""))]);
        let error = run(&disk, &[one, two], &ALL, MergeLimits::default()).unwrap_err();
        assert_eq!(error, SegmentError::Overlap { stream: StreamId(1), seq: 4 });
    }

    #[test]
    fn records_that_the_manifest_counts_must_be_there() {
        let disk = Directory::new();
        let input = write(&disk, 1, Compression::Off, &[(StreamId(1), record(1, "a", b""))]);
        let mut wrong = SegmentMeta::clone(&input);
        wrong.streams[0].count = 2;
        let error = run(&disk, &[Arc::new(wrong)], &ALL, MergeLimits::default()).unwrap_err();
        assert!(error.to_string().contains("another number of records"), "{error}");
    }

    #[test]
    fn a_damaged_input_is_an_error_and_leaves_no_file() {
        let disk = Directory::new();
        let records: Vec<_> =
            (1..=200).map(|seq| (StreamId(1), record(seq, "a", &[1; 1000]))).collect();
        let input = write(&disk, 1, Compression::Off, &records);
        let path = disk.path(&input.id.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[150_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = run(&disk, &[input], &ALL, MergeLimits::default()).unwrap_err();
        assert!(matches!(error, SegmentError::Damaged { .. }), "{error}");
        assert_eq!(disk.list("segments").unwrap().len(), 1);
    }
}
