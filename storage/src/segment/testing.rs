//! What the tests of segments share: a directory as a disk, and records.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{BlockCache, Segment, SegmentId, SegmentMeta, SegmentWriter};
use crate::disk::{Disk, DiskFile};
use crate::ids::StreamId;
use crate::log::Compression;
use crate::record::{NewRecord, Record};

/// A temporary directory.
pub(crate) struct Directory {
    root: tempfile::TempDir,
}

struct Plain(fs::File);

impl Directory {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("segments")).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
}

impl Disk for Directory {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file =
            fs::File::options().read(true).write(true).create_new(true).open(self.path(path))?;
        Ok(Arc::new(Plain(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Plain(fs::File::options().read(true).write(true).open(self.path(path))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.path(path))?;
        entries.map(|entry| Ok(entry?.file_name().into_string().unwrap())).collect()
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Plain {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
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
