//! The file system: one directory, held by one process at a time.
//!
//! It does no caching and no retrying, and knows nothing of what the files mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use super::advice::Advisor;
use super::{Disk, DiskFile};

/// The file whose lock says that a process uses the directory.
const LOCK: &str = "LOCK";
/// How long to wait for that lock, and how long between attempts: who asks whether the directory is in
/// use holds it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Bytes written at a time where room is taken up by writing.
const ZEROS: usize = 1 << 20;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RealDiskError {
    /// Another process uses it.
    #[error("{path} is in use by another process; stop it, or choose another data directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot use {path} as data directory: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A directory of the file system, locked until this value is dropped.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    #[cfg(target_os = "linux")]
    advisor: Arc<Advisor>,
    /// Closing the file releases the lock.
    _lock: File,
}

impl RealDisk {
    /// Creates the directory (mode 0700) durably if it is not there, and locks it.
    ///
    /// # Errors
    /// [`RealDiskError`] if another process holds it, or the operating system refuses.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, RealDiskError> {
        let root = root.as_ref().to_path_buf();
        let failed = |source| RealDiskError::Io { path: root.clone(), source };
        let new = missing(&root);
        create_private_dir(&root).map_err(failed)?;
        // The outermost first: without its name the others are worth nothing.
        new.iter().rev().try_for_each(|path| sync_name(path)).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join(LOCK))
            .map_err(failed)?;
        match take(&lock, || std::thread::sleep(LOCK_PAUSE)) {
            Ok(()) => Ok(Self {
                root,
                #[cfg(target_os = "linux")]
                advisor: Arc::default(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(RealDiskError::InUse { path: root }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Whether a process holds the directory now. It may let go, or another may take it, at any time.
    #[must_use]
    pub fn is_in_use(root: &Path) -> bool {
        // Held for a moment only, for which an open waits.
        File::open(root.join(LOCK))
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn file(&self, file: File, path: &str) -> Arc<dyn DiskFile> {
        Arc::new(RealFile {
            file: Arc::new(file),
            path: path.to_owned(),
            #[cfg(target_os = "linux")]
            advisor: Arc::clone(&self.advisor),
        })
    }
}

/// The directory and those above it that are not there, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    path.ancestors().take_while(|path| !path.exists()).map(Path::to_path_buf).collect()
}

/// Makes the name of a directory durable.
#[cfg(unix)]
fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Windows has no way to sync a directory; its file systems journal names.
#[cfg(not(unix))]
fn sync_name(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Locks the file. Somebody may only be asking whether it is locked: then it is tried again after `pause`.
fn take(lock: &File, mut pause: impl FnMut()) -> Result<(), TryLockError> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => pause(),
            result => return result,
        }
    }
}

#[cfg(unix)]
fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// How many files the process may have open at a time.
#[cfg(target_os = "linux")]
#[must_use]
pub fn file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many files the process may have open at a time, as far as it matters.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn file_limit() -> usize {
    usize::MAX
}

/// Lets the process open as many files as its user may; systems begin with fewer, for programs that
/// are no servers. Returns how many.
pub fn raise_file_limit() -> usize {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    file_limit()
}

/// An error, and which file it was about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct Named {
    path: String,
    source: io::Error,
}

/// Adds to an error which file it was about.
fn naming(path: &str) -> impl Fn(io::Error) -> io::Error + '_ {
    move |source| io::Error::new(source.kind(), Named { path: path.to_owned(), source })
}

/// The operating system's number of an error, also if a file was added to it.
pub(super) fn os_code(error: &io::Error) -> Option<i32> {
    let named = error.get_ref().and_then(|inner| inner.downcast_ref::<Named>());
    named.map_or(error, |named| &named.source).raw_os_error()
}

impl Disk for RealDisk {
    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(path))
            .map_err(naming(path))?;
        Ok(self.file(file, path))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(path))
            .map_err(naming(path))?;
        Ok(self.file(file, path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to)).map_err(naming(from))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let target = self.path(path);
        match fs::remove_file(&target) {
            // A directory that was moved to the trash goes as a whole.
            Err(_) if target.is_dir() => fs::remove_dir_all(&target).map_err(naming(path)),
            result => result.map_err(naming(path)),
        }
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        create_private_dir(&self.path(path)).map_err(naming(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(path)).map_err(naming(path))? {
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.path(path)).and_then(|dir| dir.sync_all()).map_err(naming(path))
    }

    /// Windows has no way to sync a directory; its file systems journal names.
    #[cfg(not(unix))]
    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct RealFile {
    file: Arc<File>,
    path: String,
    #[cfg(target_os = "linux")]
    advisor: Arc<Advisor>,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(&self.file, buffer, offset).map_err(naming(&self.path))
    }

    #[cfg(target_os = "linux")]
    fn will_read(&self, offset: u64, len: u64) {
        self.advisor.will_read(&self.file, offset, len);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(&self.file, bytes, offset).map_err(naming(&self.path))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(naming(&self.path))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(naming(&self.path))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        allocate(&self.file, len).map_err(naming(&self.path))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|m| m.len()).map_err(naming(&self.path))
    }
}

/// Reserves blocks without writing them, where the file system can.
#[cfg(target_os = "linux")]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, len).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => append_zeros(file, len),
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    append_zeros(file, len)
}

/// The way that works everywhere: only blocks that were written are certain.
fn append_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = file.metadata()?.len();
    while at < len {
        let step = (len - at).min(ZEROS as u64);
        write_all_at(file, zeros.get(..step as usize).unwrap_or(&zeros), at)?;
        at += step;
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        let count = file.seek_read(buffer, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let count = file.seek_write(bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path().join("data")).unwrap();
        let refused = RealDisk::open(disk.root().unwrap()).unwrap_err();
        assert!(matches!(refused, RealDiskError::InUse { .. }), "{refused}");
        let root = disk.root().unwrap().to_path_buf();
        drop(disk);
        RealDisk::open(root).unwrap();
    }

    /// To be asked whether the directory is in use is no reason to fail.
    #[test]
    fn asking_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        drop(RealDisk::open(dir.path()).unwrap());
        assert!(!RealDisk::is_in_use(dir.path()));
        let open = || File::open(dir.path().join(LOCK)).unwrap();
        let (asking, lock) = (open(), open());
        asking.try_lock_shared().unwrap();
        let mut asking = Some(asking);
        take(&lock, || drop(asking.take())).unwrap();
        assert!(asking.is_none(), "it was waited for");
    }

    #[cfg(unix)]
    #[test]
    fn the_directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path().join("data")).unwrap();
        let mode = fs::metadata(disk.root().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn files_work() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        disk.create_dir("a/b").unwrap();
        let file = disk.create("a/b/c").unwrap();
        assert!(disk.create("a/b/c").is_err());
        file.write_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut read = [0; 5];
        disk.open("a/b/c").unwrap().read_at(&mut read, 3).unwrap();
        assert_eq!(&read, b"hello");
        disk.rename("a/b/c", "a/d").unwrap();
        disk.sync_dir("a").unwrap();
        assert_eq!(disk.open("a/b/c").err().unwrap().kind(), io::ErrorKind::NotFound);
        disk.remove("a/d").unwrap();
        assert_eq!(disk.list("a").unwrap(), ["b"]);
    }
}
