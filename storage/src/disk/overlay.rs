//! A disk whose changes stay in memory: what lies below is read and never written.
//!
//! `verify` opens a log through it to see what a start would find, without changing a byte. It offers
//! no crash semantics and syncs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// What became of a path.
#[derive(Clone)]
enum Change {
    Removed,
    /// A file that is only here.
    Made(Arc<MemoryFile>),
    /// The file that lies under this path below.
    Moved(String),
}

/// See the module's text.
pub(crate) struct Overlay {
    below: Arc<dyn Disk>,
    changes: Changes,
}

type Changes = Arc<Mutex<BTreeMap<String, Change>>>;

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Disk>) -> Self {
        Self { below, changes: Arc::default() }
    }

    fn changes(&self) -> MutexGuard<'_, BTreeMap<String, Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_found(path: &str) -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, format!("{path}: there is no such file"))
    }

    /// What stands under the path now.
    fn find(&self, path: &str) -> io::Result<Change> {
        match self.changes().get(path) {
            Some(Change::Removed) => Err(Self::not_found(path)),
            Some(change) => Ok(change.clone()),
            None => self.below.open(path).map(|_| Change::Moved(path.to_owned())),
        }
    }
}

impl Disk for Overlay {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        if self.find(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path} exists")));
        }
        let file = Arc::new(MemoryFile::default());
        self.changes().insert(path.to_owned(), Change::Made(Arc::clone(&file)));
        Ok(file)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.find(path)? {
            Change::Made(file) => Ok(file),
            Change::Moved(from) => {
                let below = self.below.open(&from)?;
                let (changes, path) = (Arc::clone(&self.changes), path.to_owned());
                Ok(Arc::new(CopiedFile { below, copy: Mutex::default(), changes, path, from }))
            }
            Change::Removed => Err(Self::not_found(path)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let change = match self.find(from) {
            Ok(change) => change,
            // A directory: what is in it is of no interest any more.
            Err(_) => Change::Removed,
        };
        let mut changes = self.changes();
        changes.insert(to.to_owned(), change);
        changes.insert(from.to_owned(), Change::Removed);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.find(path)?;
        self.changes().insert(path.to_owned(), Change::Removed);
        Ok(())
    }

    fn create_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = match self.below.list(path) {
            Ok(names) => names.into_iter().collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        for (changed, change) in self.changes().iter() {
            let (dir, name) = changed.rsplit_once('/').unwrap_or(("", changed));
            if dir != path {
                continue;
            }
            match change {
                Change::Removed => names.remove(name),
                _ => names.insert(name.to_owned()),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is only in memory.
#[derive(Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryFile {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = bytes.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(written.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(target) = bytes.get_mut(start..end) {
            target.copy_from_slice(written);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        Ok(())
    }

    /// Nothing is set aside: what is never written takes no memory.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
}

/// A file below, copied into memory when it is first written to. Handles that are opened afterwards see
/// the copy, those from before do not.
struct CopiedFile {
    below: Arc<dyn DiskFile>,
    copy: Mutex<Option<Arc<MemoryFile>>>,
    changes: Changes,
    path: String,
    from: String,
}

impl CopiedFile {
    fn copied(&self) -> Option<Arc<MemoryFile>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The copy, which is made now if there is none.
    fn copy(&self) -> io::Result<Arc<MemoryFile>> {
        if let Some(copy) = self.copied() {
            return Ok(copy);
        }
        let mut bytes = vec![0; self.below.len()? as usize];
        self.below.read_at(&mut bytes, 0)?;
        let copy = Arc::new(MemoryFile { bytes: Mutex::new(bytes) });
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&copy));
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still_here = match changes.get(&self.path) {
            None => self.path == self.from,
            Some(Change::Moved(from)) => *from == self.from,
            Some(_) => false,
        };
        if is_still_here {
            changes.insert(self.path.clone(), Change::Made(Arc::clone(&copy)));
        }
        drop(changes);
        Ok(copy)
    }
}

impl DiskFile for CopiedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.copied() {
            Some(copy) => copy.read_at(buffer, offset),
            None => self.below.read_at(buffer, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.copy()?.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.copy()?.set_len(len)
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.copied().map_or_else(|| self.below.len(), |copy| copy.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn changes_stay_above() {
        let below = SimulatedDisk::new();
        below.create_dir("a").unwrap();
        for name in ["a/kept", "a/moved", "a/removed"] {
            below.create(name).unwrap().write_at(name.as_bytes(), 0).unwrap();
        }
        let before = below.counts().changes();
        let disk = Overlay::new(Arc::new(below.clone()));
        disk.rename("a/moved", "a/here").unwrap();
        disk.remove("a/removed").unwrap();
        disk.create("a/new").unwrap().write_at(b"new", 2).unwrap();
        assert_eq!(disk.list("a").unwrap(), ["here", "kept", "new"]);
        let file = disk.open("a/here").unwrap();
        file.write_at(b"X", 0).unwrap();
        let mut bytes = [0; 7];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"X/moved");
        disk.open("a/here").unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"X/moved", "for everybody from now on");
        assert!(disk.open("a/moved").is_err() && disk.create("a/kept").is_err());
        let made = disk.open("a/new").unwrap();
        assert_eq!(made.len().unwrap(), 5);
        assert!(made.read_at(&mut bytes, 0).is_err());
        assert_eq!(below.counts().changes(), before);
        assert_eq!(below.contents("a/moved").unwrap(), b"a/moved");
    }
}
