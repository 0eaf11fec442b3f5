//! A disk in memory that keeps only what POSIX promises, so that crash safety can be tested from a seed.
//!
//! Bytes written but not synced survive a crash sector by sector at random; names created, renamed
//! or removed but not synced with their directory survive as a random prefix. It can fail a chosen
//! operation, or lose power at one. Directories themselves are durable at once. It has no clock and
//! no randomness of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// What a device writes as a whole, in bytes.
const SECTOR: usize = 512;
/// What Unix systems say when a process has too many files open (EMFILE).
const OUT_OF_HANDLES: i32 = 24;

/// Operations so far, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedCounts {
    /// Calls of [`DiskFile::write_at`] and [`DiskFile::set_len`].
    pub writes: u64,
    /// Calls of [`DiskFile::sync`].
    pub syncs: u64,
    /// Calls of [`Disk::sync_dir`].
    pub dir_syncs: u64,
    /// Files created, renamed and removed.
    pub names: u64,
    /// Calls of [`DiskFile::read_at`].
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

#[derive(Debug, Default)]
struct Contents {
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<String>,
    counts: SimulatedCounts,
    /// Raised by every crash: handles from before it are dead.
    life: u64,
    /// The change, counted by [`SimulatedCounts::changes`], at which power is lost.
    power_off_at: Option<u64>,
    /// The change that fails once, and how.
    fail_at: Option<(u64, io::ErrorKind)>,
    /// Bytes of all files together, at most.
    capacity: Option<u64>,
    /// How many more handles are given out before so many are refused.
    handles: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Inode {
    current: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { path: String, file: u64 },
    Rename { from: String, to: String },
    Remove { path: String },
}

/// The same small generator for every choice of a crash (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
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

impl Contents {
    /// Decides whether the change that was just counted happens.
    fn change(&mut self) -> io::Result<()> {
        let now = self.counts.changes();
        if self.power_off_at.is_some_and(|at| now >= at) {
            return Err(io::Error::other("simulated loss of power"));
        }
        match self.fail_at {
            Some((at, kind)) if at == now => Err(io::Error::new(kind, "simulated failure")),
            _ => Ok(()),
        }
    }

    fn size(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(Inode::len).sum()
    }

    /// Whether `file` may become `len` bytes long.
    fn check_room(&self, file: u64, len: u64) -> io::Result<()> {
        let old = self.files.get(&file).map_or(0, Inode::len);
        match self.capacity {
            Some(capacity) if len > old && self.size() + len - old > capacity => Err(
                io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"),
            ),
            _ => Ok(()),
        }
    }

    /// Decides whether a file or directory can be opened.
    fn take_handle(&mut self) -> io::Result<()> {
        match &mut self.handles {
            Some((0, 0)) | None => Ok(()),
            Some((0, refused)) => {
                *refused -= 1;
                Err(io::Error::from_raw_os_error(OUT_OF_HANDLES))
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn check_power(&self) -> io::Result<()> {
        if self.power_off_at.is_some_and(|at| self.counts.changes() >= at) {
            return Err(io::Error::other("simulated loss of power"));
        }
        Ok(())
    }

    fn crash(&mut self, chance: &mut Chance) {
        self.life += 1;
        self.power_off_at = None;
        self.fail_at = None;
        self.handles = None;
        let survivors = chance.below(self.pending_names.len() as u64 + 1) as usize;
        for change in std::mem::take(&mut self.pending_names).into_iter().take(survivors) {
            apply(&mut self.durable_names, &change);
        }
        self.names = self.durable_names.clone();
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| linked.contains(file));
        for inode in self.files.values_mut() {
            inode.crash(chance);
        }
    }
}

impl Inode {
    fn len(&self) -> u64 {
        self.current.len() as u64
    }

    fn crash(&mut self, chance: &mut Chance) {
        let mode = chance.below(3);
        if self.current.len() != self.synced.len() && chance.below(2) == 1 {
            // The length is metadata of its own: it may survive without the bytes.
            self.synced.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let survives = match mode {
                0 => false,
                1 => true,
                _ => chance.below(2) == 1,
            };
            if survives {
                self.keep(sector);
            }
        }
        self.current.clone_from(&self.synced);
    }

    /// Copies a sector into the durable image, as far as that image reaches.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.current.len()).min(self.synced.len());
        if let (Some(to), Some(from)) =
            (self.synced.get_mut(start..end), self.current.get(start..end))
        {
            to.copy_from_slice(from);
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        if let Some(target) = self.current.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.touch(offset, end);
    }

    fn touch(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Create { path, file } => {
            names.insert(path.clone(), *file);
        }
        NameChange::Rename { from, to } => {
            for (old, new) in renamed(names, from, to) {
                if let Some(file) = names.remove(&old) {
                    names.insert(new, file);
                }
            }
        }
        NameChange::Remove { path } => {
            names.retain(|name, _| name != path && !is_inside(name, path));
        }
    }
}

/// What a renaming of `from` moves: the file, or everything in the directory.
fn renamed(names: &BTreeMap<String, u64>, from: &str, to: &str) -> Vec<(String, String)> {
    names
        .keys()
        .filter(|name| *name == from || is_inside(name, from))
        .filter_map(|name| Some((name.clone(), format!("{to}{}", name.strip_prefix(from)?))))
        .collect()
}

fn is_inside(name: &str, dir: &str) -> bool {
    name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn touches(change: &NameChange, dir: &str) -> bool {
    match change {
        NameChange::Create { path, .. } | NameChange::Remove { path } => parent(path) == dir,
        NameChange::Rename { from, to } => parent(from) == dir || parent(to) == dir,
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        contents.take_handle()?;
        if contents.names.contains_key(path) {
            let reason = format!("{path}: exists already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        let dir = parent(path);
        if !dir.is_empty() && !contents.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let file = contents.next_file;
        contents.next_file += 1;
        contents.files.insert(file, Inode::default());
        let change = NameChange::Create { path: path.to_owned(), file };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file, life: contents.life }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.lock();
        contents.check_power()?;
        contents.take_handle()?;
        let file = *contents.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file, life: contents.life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        if renamed(&contents.names, from, to).is_empty() && !contents.dirs.contains(from) {
            return Err(not_found(from));
        }
        if contents.dirs.contains(from) {
            let moved: Vec<String> = contents
                .dirs
                .iter()
                .filter(|d| *d == from || is_inside(d, from))
                .cloned()
                .collect();
            for dir in moved {
                contents.dirs.remove(&dir);
                let rest = dir.strip_prefix(from).unwrap_or_default().to_owned();
                contents.dirs.insert(format!("{to}{rest}"));
            }
        }
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned() };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        if !contents.names.contains_key(path) && !contents.dirs.contains(path) {
            return Err(not_found(path));
        }
        contents.dirs.retain(|dir| dir != path && !is_inside(dir, path));
        let change = NameChange::Remove { path: path.to_owned() };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.check_power()?;
        for (end, _) in path.match_indices('/') {
            contents.dirs.insert(path.get(..end).unwrap_or(path).to_owned());
        }
        contents.dirs.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut contents = self.lock();
        contents.check_power()?;
        contents.take_handle()?;
        if !path.is_empty() && !contents.dirs.contains(path) {
            return Err(not_found(path));
        }
        let all = contents.names.keys().chain(&contents.dirs);
        let inside = all.filter(|name| parent(name) == path && !name.is_empty());
        let names = inside.map(|name| name.rsplit_once('/').map_or(name.as_str(), |(_, n)| n));
        Ok(names.map(str::to_owned).collect())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.dir_syncs += 1;
        contents.change()?;
        contents.take_handle()?;
        let pending = std::mem::take(&mut contents.pending_names);
        let (now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|c| touches(c, path));
        for change in &now {
            apply(&mut contents.durable_names, change);
        }
        contents.pending_names = later;
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: u64,
    life: u64,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_was_synced_survives_every_crash() {
        for seed in 0..100 {
            let disk = SimulatedDisk::new();
            let file = disk.create("a").unwrap();
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[2; 1000], 2000).unwrap();
            disk.crash(seed);
            assert!(file.len().is_err(), "handles die with the power");
            let bytes = disk.contents("a").unwrap();
            assert_eq!(bytes[..2000], [1; 2000]);
        }
    }

    #[test]
    fn crashes_tear_writes_and_lose_names() {
        let mut torn = 0;
        let mut lost = 0;
        for seed in 0..100 {
            let disk = SimulatedDisk::new();
            let file = disk.create("kept").unwrap();
            file.set_len(2048).unwrap();
            file.sync().unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[7; 2048], 0).unwrap();
            disk.create("unsynced").unwrap();
            disk.crash(seed);
            let sevens = disk.contents("kept").unwrap().iter().filter(|b| **b == 7).count();
            torn += usize::from(sevens != 0 && sevens != 2048);
            lost += usize::from(disk.contents("unsynced").is_none());
        }
        assert!(torn > 5 && torn < 95, "{torn}");
        assert!(lost > 5 && lost < 95, "{lost}");
    }

    #[test]
    fn faults_come_when_asked_for() {
        let disk = SimulatedDisk::new();
        let file = disk.create("a").unwrap();
        disk.fail_after(2);
        file.write_at(b"x", 0).unwrap();
        assert!(file.sync().is_err());
        file.sync().unwrap();
        disk.power_off_after(1);
        assert!(file.sync().is_err());
        assert!(disk.open("a").is_err());
        disk.crash(0);
    }

    #[test]
    fn directories_move_with_their_files() {
        let disk = SimulatedDisk::new();
        disk.create_dir("index/sub").unwrap();
        disk.create_dir("trash").unwrap();
        disk.create("index/sub/a").unwrap();
        disk.rename("index", "trash/index").unwrap();
        assert_eq!(disk.paths(), ["trash/index/sub/a"]);
        assert_eq!(disk.list("trash/index").unwrap(), ["sub"]);
        disk.remove("trash/index").unwrap();
        assert!(disk.paths().is_empty());
    }
}
