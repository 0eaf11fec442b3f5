//! An open file.

use std::io;

use super::inode::Inode;
use super::{SimulatedCounts, SimulatedDisk};
use crate::disk::DiskFile;

#[derive(Debug)]
pub(super) struct SimulatedFile {
    pub(super) disk: SimulatedDisk,
    pub(super) file: u64,
    pub(super) life: u64,
}

impl SimulatedFile {
    fn with<T>(
        &self,
        len: u64,
        count: impl FnOnce(&mut SimulatedCounts),
        act: impl FnOnce(&mut Inode) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut contents = self.disk.lock();
        if contents.life != self.life {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        let before = contents.counts.changes();
        count(&mut contents.counts);
        if contents.counts.changes() != before {
            contents.change()?;
        }
        contents.check_power()?;
        contents.check_room(self.file, len)?;
        act(contents.files.entry(self.file).or_default())
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buffer.len();
        self.with(
            0,
            |counts| {
                counts.reads += 1;
                counts.bytes_read += len as u64;
            },
            |inode| {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let from = inode
                    .current
                    .get(start..start.saturating_add(len))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(from);
                Ok(())
            },
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(
            offset + bytes.len() as u64,
            |counts| {
                counts.writes += 1;
                counts.bytes_written += bytes.len() as u64;
            },
            |inode| {
                inode.write(bytes, usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        self.with(
            0,
            |counts| counts.syncs += 1,
            |inode| {
                inode.sync();
                Ok(())
            },
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(
            len,
            |counts| counts.writes += 1,
            |inode| {
                let old = inode.current.len();
                let new = usize::try_from(len).unwrap_or(usize::MAX);
                inode.current.resize(new, 0);
                inode.touch(old.min(new), old.max(new));
                Ok(())
            },
        )
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        self.with(0, |_| {}, |inode| Ok(inode.len()))
    }
}
