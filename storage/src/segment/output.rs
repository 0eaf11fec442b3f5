//! The file being written: buffered, digested, written and synced in small steps.

use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::{SYNC_BYTES, SegmentId, seed};
use crate::disk::{Disk, DiskFile};

/// Called after each sync with the number of bytes it covered. May sleep, to leave the disk to the
/// journal. An error abandons the file.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// Buffers what is appended, and writes and syncs it every [`SYNC_BYTES`].
pub(crate) struct Output<'a> {
    segment: SegmentId,
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
    digest: Xxh3Default,
    pace: Pace<'a>,
}

impl<'a> Output<'a> {
    pub(crate) fn create(disk: &dyn Disk, segment: SegmentId, pace: Pace<'a>) -> io::Result<Self> {
        Ok(Self {
            segment,
            file: disk.create(&segment.path())?,
            buffer: Vec::with_capacity(SYNC_BYTES + SYNC_BYTES / 4),
            written: 0,
            digest: Xxh3Default::new(),
            pace,
        })
    }

    /// Where the next byte will stand in the file, and the seed of a checksum there.
    pub(crate) fn place(&self) -> (u64, u64) {
        let offset = self.written + self.buffer.len() as u64;
        (offset, seed(self.segment, offset))
    }

    /// To append to. Call [`spill`](Self::spill) afterwards.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Writes what fills whole steps.
    pub(crate) fn spill(&mut self) -> io::Result<()> {
        while self.buffer.len() >= SYNC_BYTES {
            self.step(SYNC_BYTES)?;
        }
        Ok(())
    }

    /// The digest of all bytes so far.
    pub(crate) fn digest(&mut self) -> io::Result<u64> {
        while !self.buffer.is_empty() {
            self.step(SYNC_BYTES)?;
        }
        Ok(self.digest.digest())
    }

    /// Writes the last bytes, which no digest covers. Returns the pace for another file.
    pub(crate) fn finish(mut self, trailer: &[u8]) -> io::Result<Pace<'a>> {
        self.buffer.extend_from_slice(trailer);
        self.digest()?;
        Ok(self.pace)
    }

    fn step(&mut self, most: usize) -> io::Result<()> {
        let length = most.min(self.buffer.len());
        let bytes = self.buffer.get(..length).unwrap_or_default();
        self.file.write_at(bytes, self.written)?;
        self.digest.update(bytes);
        self.file.sync()?;
        self.buffer.drain(..length);
        self.written += length as u64;
        (self.pace)(length as u64)
    }
}
