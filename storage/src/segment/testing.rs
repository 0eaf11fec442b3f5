//! What the tests of segments share: a directory as a disk, and records.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{BlockCache, Segment, SegmentId, SegmentMeta, SegmentWriter};
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskFile};
use crate::ids::StreamId;
use crate::log::Compression;
use crate::record::{NewRecord, Record};

/// Offsets and lengths.
pub(crate) type Places = Arc<Mutex<Vec<(u64, u64)>>>;

/// A temporary directory.
pub(crate) struct Directory {
    root: tempfile::TempDir,
    disk: RealDisk,
    /// What was announced of files that were opened.
    pub(crate) announced: Places,
}

/// A file that notes what is announced.
struct Noting(Arc<dyn DiskFile>, Places);

impl DiskFile for Noting {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.1.lock().unwrap().push((offset, len));
        self.0.will_read(offset, len);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl Directory {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(root.path()).unwrap();
        disk.create_dir("segments").unwrap();
        Self { root, disk, announced: Places::default() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
}

impl Disk for Directory {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Noting(self.disk.open(path)?, Arc::clone(&self.announced))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}

pub(crate) fn record(seq: u64, subject: &str, payload: &[u8]) -> Record {
    let new = NewRecord {
        subject,
        headers: b"",
        payload,
        time: 1_700_000_000_000_000_000 + seq * 1000,
        expires: None,
        message_id: None,
    };
    Record::copy_of(seq, &new)
}

/// Writes a segment of these records, which stand in order.
pub(crate) fn write(
    disk: &dyn Disk,
    id: u64,
    compression: Compression,
    records: &[(StreamId, Record)],
) -> Arc<SegmentMeta> {
    let mut pace = |_| Ok(());
    let mut writer = SegmentWriter::create(disk, SegmentId(id), &mut pace).unwrap();
    for (stream, record) in records {
        writer.add(*stream, compression, record).unwrap();
    }
    Arc::new(writer.finish().unwrap())
}

/// Opens a segment with a cache of its own, of `cache` bytes.
pub(crate) fn open(disk: &dyn Disk, meta: &Arc<SegmentMeta>, cache: usize) -> Segment {
    Segment::open(disk, meta, &Arc::new(BlockCache::new(cache))).unwrap()
}
