//! The seam between the engine and the operating system: files as the journal, segments, state and
//! manifest use them.
//!
//! [`RealDisk`] is the file system. The simulated disk forgets what was not synced,
//! tears writes and fails on request, from a seed. Paths are relative to the data directory and use `/`.
//!
//! What a caller may rely on after a crash is only what POSIX promises: bytes written to a file
//! survive once [`DiskFile::sync`] returned, and a file's name (its creation, renaming or removal)
//! survives once [`Disk::sync_dir`] of its directory returned.

mod advice;
pub(crate) mod overlay;
pub(crate) mod paced;
pub mod real;
pub mod simulated;
pub mod twin;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::{RealDisk, RealDiskError, file_limit, raise_file_limit};
pub use simulated::{SimulatedCounts, SimulatedDisk};
pub use twin::TwinDisk;

/// Whether an operation failed for want of room, which may come back.
#[must_use]
pub fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an operation failed because too many files are open, in the process or on the machine.
#[must_use]
pub fn is_out_of_handles(error: &io::Error) -> bool {
    // ENFILE and EMFILE on every Unix; they have no kind of their own.
    matches!(real::os_code(error), Some(23 | 24))
}

/// Whether an operation failed for a reason that passes, and that says nothing of the file it was about.
/// What a device cannot read any more is not among these: another copy of the file makes it good.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, TimedOut, WouldBlock};
    is_out_of_handles(error)
        || matches!(error.kind(), Interrupted | OutOfMemory | TimedOut | WouldBlock)
}

/// A directory tree that belongs to one engine.
pub trait Disk: Send + Sync + 'static {
    /// The directory as the operating system knows it, for what keeps files of its own there. `None`
    /// if there is no such directory.
    fn root(&self) -> Option<&Path> {
        None
    }

    /// The disks that each hold a copy of every file; none if there is one copy of each.
    fn copies(&self) -> &[Arc<dyn Disk>] {
        &[]
    }

    /// Creates a file that must not exist yet.
    ///
    /// # Errors
    /// What the operating system says.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file or directory, replacing a file at the target.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Creates a directory and its parents; one that exists is fine.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, in no particular order. `""` is the root.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
}

/// Puts a small file in the place of what stands at `path`, as a whole or not at all. Without `is_durable`
/// a crash may undo it.
pub(crate) fn put_file(
    disk: &dyn Disk,
    path: &str,
    bytes: &[u8],
    is_durable: bool,
) -> io::Result<()> {
    let next = format!("{path}.next");
    match disk.remove(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&next)?;
    file.write_at(bytes, 0)?;
    if is_durable {
        file.sync()?;
    }
    disk.rename(&next, path)?;
    if is_durable {
        disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
    }
    Ok(())
}

/// An open file. Reads and writes name their offset, so one handle serves many threads.
pub trait DiskFile: Send + Sync {
    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Says that these bytes will be read soon, so that the system may fetch them meanwhile.
    fn will_read(&self, _offset: u64, _len: u64) {}

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the operating system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes written bytes and the file's length durable (`fdatasync`).
    ///
    /// # Errors
    /// What the operating system says. The file must not be used for writing after an error.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file with zeros.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes up room for a file of `len` bytes, so that writing to it cannot meet a full disk. What
    /// is new reads as zeros; it is not durable before the next [`DiskFile::sync`].
    ///
    /// # Errors
    /// What the operating system says; see [`is_out_of_space`].
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it is empty.
    ///
    /// # Errors
    /// What the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
