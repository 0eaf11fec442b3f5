//! How fast one core writes and reads segment files, without a disk: by compression and payload.
//!
//! `cargo bench --bench segment`
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use claudebus_storage::disk::{Disk, DiskFile};
use claudebus_storage::log::{Compression, Filter, ReadRequest};
use claudebus_storage::segment::{
    BlockCache, ReadStats, Segment, SegmentId, SegmentMeta, SegmentWriter,
};
use claudebus_storage::{Record, StreamId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

mod workload;
use workload::{Payload, STREAM};

/// Files in memory, so that only the processor is measured.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Arc<Bytes>>>);

#[derive(Default)]
struct Bytes(Mutex<Vec<u8>>);

impl Disk for Memory {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(Bytes::default());
        self.0.lock().unwrap().insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.0.lock().unwrap();
        Ok(Arc::clone(files.get(path).ok_or(io::ErrorKind::NotFound)?) as Arc<dyn DiskFile>)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(path);
        Ok(())
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = offset as usize;
        let found = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

fn write(disk: &Memory, records: &[Record], compression: Compression) -> SegmentMeta {
    let mut pace = |_| Ok(());
    let mut writer = SegmentWriter::create(disk, SegmentId(1), &mut pace).unwrap();
    for record in records {
        writer.add(STREAM, compression, record).unwrap();
    }
    writer.finish().unwrap()
}

fn everything(stream: StreamId) -> ReadRequest {
    ReadRequest {
        stream,
        from: 1,
        to: u64::MAX,
        since: 0,
        max_records: 1000,
        max_bytes: usize::MAX,
    }
}

fn read_all(segment: &Segment, filter: &Filter) -> usize {
    let (stats, mut out, mut found) = (ReadStats::default(), Vec::new(), 0);
    let mut request = everything(STREAM);
    let last = segment.meta().streams[0].last_seq;
    while request.from <= last {
        request.from = segment.read(&request, filter, &|_| false, &mut out, &stats).unwrap();
        found += out.len();
        out.clear();
    }
    found
}

const CODECS: [(&str, Compression); 3] =
    [("off", Compression::Off), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];

fn segments(criterion: &mut Criterion) {
    let payloads = [
        ("json", Payload::Json, 30_000),
        ("random-128", Payload::Random(128), 120_000),
        ("random-4096", Payload::Random(4096), 5_000),
    ];
    for (payload, kind, count) in payloads {
        let records = workload::records(kind, count);
        let bytes = workload::bytes(&records);
        let mut group = criterion.benchmark_group(format!("segment/{payload}"));
        group.throughput(Throughput::Bytes(bytes)).sample_size(10);
        for (codec, compression) in CODECS {
            group.bench_function(BenchmarkId::new("write", codec), |bencher| {
                bencher.iter(|| write(&Memory::default(), &records, compression));
            });
            let disk = Memory::default();
            let meta = Arc::new(write(&disk, &records, compression));
            let segment =
                Segment::open(&disk, &meta, &Arc::new(BlockCache::new(256 << 10))).unwrap();
            group.bench_function(BenchmarkId::new("read", codec), |bencher| {
                bencher.iter(|| assert_eq!(read_all(&segment, &Filter::all()), records.len()));
            });
        }
        group.finish();
    }
}

/// One subject among a million, cold: how long until the record is there.
fn look_up(criterion: &mut Criterion) {
    let count = 1_000_000u64;
    let disk = Memory::default();
    let mut pace = |_| Ok(());
    let mut writer = SegmentWriter::create(&disk, SegmentId(1), &mut pace).unwrap();
    for seq in 1..=count {
        let new = claudebus_storage::NewRecord {
            subject: &format!("device.{:07}", seq.wrapping_mul(7_368_787) % count),
            headers: b"",
            payload: b"{\"celsius\":21.5}",
            time: seq,
            expires: None,
            message_id: None,
        };
        writer.add(STREAM, Compression::Lz4, &Record::copy_of(seq, &new)).unwrap();
    }
    let meta = Arc::new(writer.finish().unwrap());
    let mut numbers = workload::Numbers::new(7);
    let mut group = criterion.benchmark_group("segment/look-up");
    group.bench_function("one of a million subjects, nothing cached", |bencher| {
        let segment = Segment::open(&disk, &meta, &Arc::new(BlockCache::new(0))).unwrap();
        bencher.iter(|| {
            let subject = format!("device.{:07}", numbers.next() % count);
            let filter = Filter::any_of([subject.as_str()]);
            let (stats, mut out) = (ReadStats::default(), Vec::new());
            segment.read(&everything(STREAM), &filter, &|_| false, &mut out, &stats).unwrap();
            assert_eq!(out.len(), 1);
        });
    });
    group.finish();
}

criterion_group!(benches, segments, look_up);
criterion_main!(benches);
