//! A disk in memory that keeps only what POSIX promises, so that crash safety can be tested from a seed.
//!
//! Bytes written but not synced survive a crash sector by sector at random; names created, renamed
//! or removed but not synced with their directory survive as a random prefix. It can fail a chosen
//! operation, or lose power at one. Directories themselves are durable at once. It has no clock and
//! no randomness of its own.

mod contents;
mod file;
mod inode;
mod names;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contents::Contents;
use inode::Chance;

/// Operations so far, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedCounts {
    /// Calls of [`DiskFile::write_at`](crate::disk::DiskFile::write_at) and [`DiskFile::set_len`](crate::disk::DiskFile::set_len).
    pub writes: u64,
    /// Calls of [`DiskFile::sync`](crate::disk::DiskFile::sync).
    pub syncs: u64,
    /// Calls of [`Disk::sync_dir`](crate::disk::Disk::sync_dir).
    pub dir_syncs: u64,
    /// Files created, renamed and removed.
    pub names: u64,
    /// Calls of [`DiskFile::read_at`](crate::disk::DiskFile::read_at).
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl SimulatedCounts {
    /// Everything that changes the disk or makes a change durable.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.writes + self.syncs + self.dir_syncs + self.names
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    shared: Arc<Mutex<Contents>>,
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses power: what was not synced survives only as `seed` decides. Open handles are dead
    /// afterwards, and faults that were set are forgotten.
    pub fn crash(&self, seed: u64) {
        self.lock().crash(&mut Chance(seed));
    }

    /// Loses power at the `n`-th change from now (1 is the next): it and everything after it
    /// fails until [`crash`](Self::crash).
    pub fn power_off_after(&self, n: u64) {
        let mut contents = self.lock();
        contents.power_off_at = Some(contents.counts.changes() + n);
    }

    /// Fails the `n`-th change from now (1 is the next), once.
    pub fn fail_after(&self, n: u64) {
        self.fail_with(n, io::ErrorKind::Other);
    }

    /// Fails the `n`-th change from now (1 is the next), once, for want of space.
    pub fn run_out_after(&self, n: u64) {
        self.fail_with(n, io::ErrorKind::StorageFull);
    }

    fn fail_with(&self, n: u64, kind: io::ErrorKind) {
        let mut contents = self.lock();
        contents.fail_at = Some((contents.counts.changes() + n, kind));
    }

    /// From now on files may not grow beyond this many bytes together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// After `after` more files and directories were opened, the next `count` cannot be, as if too many
    /// were open.
    pub fn refuse_handles(&self, after: u64, count: u64) {
        self.lock().handles = Some((after, count));
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().size()
    }

    /// Operations so far.
    #[must_use]
    pub fn counts(&self) -> SimulatedCounts {
        self.lock().counts
    }

    /// The bytes of a file, for tests that damage them.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let contents = self.lock();
        let file = contents.names.get(path)?;
        contents.files.get(file).map(|inode| inode.current.clone())
    }

    /// Replaces the bytes of a file, durably: what rot, or an operator with an editor, does.
    pub fn damage(&self, path: &str, bytes: Vec<u8>) {
        let mut contents = self.lock();
        let Some(file) = contents.names.get(path).copied() else { return };
        if let Some(inode) = contents.files.get_mut(&file) {
            inode.synced.clone_from(&bytes);
            inode.current = bytes;
            inode.dirty.clear();
        }
    }

    /// Every path, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }
}
