//! Two directories that hold the same files: everything is written to both, and read from the first.
//!
//! A file counts as there if either side has it; a removal is asked of both. What to do when the two
//! sides differ is not decided here but where the formats are known, in [`copies`](crate::copies).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Disk, DiskFile};
use crate::copies::replace;

/// See the module's text.
pub struct TwinDisk {
    sides: [Arc<dyn Disk>; 2],
    syncers: Arc<Syncers>,
}

impl TwinDisk {
    /// Both directories as one. They must hold the same files, as [`copies::pair`](crate::copies::pair)
    /// sees to.
    #[must_use]
    pub fn new(first: Arc<dyn Disk>, second: Arc<dyn Disk>) -> Self {
        Self { sides: [first, second], syncers: Arc::default() }
    }

    fn file(
        &self,
        first: Arc<dyn DiskFile>,
        second: OnceLock<Arc<dyn DiskFile>>,
        path: &str,
    ) -> Arc<dyn DiskFile> {
        let [_, other] = &self.sides;
        let (other, path) = (Arc::clone(other), path.to_owned());
        Arc::new(TwinFile { first, second, other, path, syncers: Arc::clone(&self.syncers) })
    }

    /// Asks both sides; one may lack the file. Says which side has it if the other does not.
    fn both(&self, act: impl Fn(&dyn Disk) -> io::Result<()>) -> io::Result<Option<usize>> {
        let [first, second] = &self.sides;
        match (act(first.as_ref()), act(second.as_ref())) {
            (Ok(()), Ok(())) => Ok(None),
            (Ok(()), Err(error)) if is_missing(&error) => Ok(Some(0)),
            (Err(error), Ok(())) if is_missing(&error) => Ok(Some(1)),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

impl Disk for TwinDisk {
    fn root(&self) -> Option<&Path> {
        let [first, _] = &self.sides;
        first.root()
    }

    fn copies(&self) -> &[Arc<dyn Disk>] {
        &self.sides
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let [first, second] = &self.sides;
        let one = first.create(path)?;
        match second.create(path) {
            Ok(other) => Ok(self.file(one, OnceLock::from(other), path)),
            Err(error) => {
                // Neither has it then, or the one that had it before.
                let _ = first.remove(path);
                Err(error)
            }
        }
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let [first, second] = &self.sides;
        match first.open(path) {
            Ok(one) => Ok(self.file(one, OnceLock::new(), path)),
            Err(error) if is_missing(&error) => {
                let file = second.open(path)?;
                Ok(Arc::new(LoneFile { file, path: path.to_owned() }))
            }
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let Some(has) = self.both(|disk| disk.rename(from, to))? else { return Ok(()) };
        let [first, second] = &self.sides;
        let (source, target) = if has == 0 { (first, second) } else { (second, first) };
        // A directory is no file of the log, and is not copied.
        if source.open(to).is_ok() {
            tracing::warn!(
                file = from,
                "one of both copies of a file was missing; it is made again"
            );
            replace(source.as_ref(), target.as_ref(), to)?;
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.both(|disk| disk.remove(path)).map(|_| ())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.sides.iter().try_for_each(|disk| disk.create_dir(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let names = std::cell::RefCell::new(BTreeSet::new());
        self.both(|disk| {
            names.borrow_mut().extend(disk.list(path)?);
            Ok(())
        })?;
        Ok(names.into_inner().into_iter().collect())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.both(|disk| disk.sync_dir(path)).map(|_| ())
    }
}

/// A file on both sides. Reading needs the first alone.
struct TwinFile {
    first: Arc<dyn DiskFile>,
    /// Opened when it is first written to: sealed files need one handle, not two.
    second: OnceLock<Arc<dyn DiskFile>>,
    other: Arc<dyn Disk>,
    path: String,
    syncers: Arc<Syncers>,
}

impl TwinFile {
    fn second(&self) -> io::Result<&Arc<dyn DiskFile>> {
        if let Some(file) = self.second.get() {
            return Ok(file);
        }
        let file = self.other.open(&self.path)?;
        Ok(self.second.get_or_init(|| file))
    }
}

impl DiskFile for TwinFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.first.read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.first.will_read(offset, len);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let second = self.second()?;
        self.first.write_at(bytes, offset)?;
        second.write_at(bytes, offset)
    }

    /// Both sides at a time: it takes as long as the slower one.
    fn sync(&self) -> io::Result<()> {
        self.syncers.sync(self.first.as_ref(), self.second()?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let second = self.second()?;
        self.first.set_len(len)?;
        second.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let second = self.second()?;
        self.first.allocate(len)?;
        second.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.first.len()
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that syncs the copy of a file ended")
}

/// Threads that sync the second side's files, as many as ever synced at a time: the journal does not
/// wait for a segment's sync. They end with the disk.
#[derive(Default)]
struct Syncers {
    idle: Mutex<Vec<Syncer>>,
}

impl Syncers {
    fn lock(&self) -> MutexGuard<'_, Vec<Syncer>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs both files at a time, or one after the other if no thread can be had for that.
    fn sync(&self, first: &dyn DiskFile, second: &Arc<dyn DiskFile>) -> io::Result<()> {
        let idle = self.lock().pop();
        let Some(syncer) = idle.or_else(|| Syncer::start().ok()) else {
            return first.sync().and_then(|()| second.sync());
        };
        syncer.ask.send(Arc::clone(second)).map_err(|_| gone())?;
        let first = first.sync();
        let second = syncer.answers.recv().map_err(|_| gone())?;
        self.lock().push(syncer);
        first.and(second)
    }
}

/// One of these threads.
struct Syncer {
    ask: Sender<Arc<dyn DiskFile>>,
    answers: Receiver<io::Result<()>>,
}

impl Syncer {
    fn start() -> io::Result<Self> {
        let (ask, asked) = channel::<Arc<dyn DiskFile>>();
        let (answer, answers) = channel();
        std::thread::Builder::new().name("copy-sync".to_owned()).spawn(move || {
            while let Ok(file) = asked.recv() {
                let synced = file.sync();
                // The file may be removed as soon as this is heard.
                drop(file);
                if answer.send(synced).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask, answers })
    }
}

/// A file of which only the second side has a copy. What is written must be on both, so this is
/// only read, until the first side has a copy again.
struct LoneFile {
    file: Arc<dyn DiskFile>,
    path: String,
}

impl LoneFile {
    fn refuse(&self) -> io::Error {
        let path = &self.path;
        io::Error::other(format!("{path}: one of its two copies is missing; it cannot be written"))
    }
}

impl DiskFile for LoneFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.file.will_read(offset, len);
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(self.refuse())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(self.refuse())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(self.refuse())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::disk::SimulatedDisk;

    fn twins() -> (SimulatedDisk, SimulatedDisk, TwinDisk) {
        let (one, other) = (SimulatedDisk::new(), SimulatedDisk::new());
        let disk = TwinDisk::new(Arc::new(one.clone()), Arc::new(other.clone()));
        (one, other, disk)
    }

    #[test]
    fn what_was_synced_is_on_both_sides_after_a_crash() {
        for seed in 0..50 {
            let (one, other, disk) = twins();
            disk.create_dir("d").unwrap();
            let file = disk.create("d/a").unwrap();
            file.write_at(&[1; 1500], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir("d").unwrap();
            file.write_at(&[2; 1500], 1500).unwrap();
            one.crash(seed);
            other.crash(seed + 1);
            for side in [&one, &other] {
                assert_eq!(side.contents("d/a").unwrap()[..1500], [1; 1500]);
            }
        }
    }

    #[test]
    fn threads_are_kept_for_the_next_file() {
        let (_, _, disk) = twins();
        for number in 0..20 {
            let file = disk.create(&format!("a{number}")).unwrap();
            file.sync().unwrap();
            file.sync().unwrap();
        }
        assert_eq!(disk.syncers.lock().len(), 1);
    }

    #[test]
    fn a_failure_on_either_side_is_told() {
        for fails in 0..2 {
            let (one, other, disk) = twins();
            let file = disk.create("a").unwrap();
            let side = [&one, &other][fails];
            side.fail_after(2);
            file.write_at(b"x", 0).unwrap();
            assert!(file.sync().is_err());
            side.fail_after(1);
            assert!(file.write_at(b"y", 0).is_err());
            side.fail_after(1);
            assert!(disk.create("b").is_err());
            assert!(one.contents("b").is_none() && other.contents("b").is_none());
        }
    }

    #[test]
    fn a_file_that_one_side_lacks_is_there_and_is_copied_when_it_is_renamed() {
        for lacks in 0..2 {
            let (one, other, disk) = twins();
            disk.create("a").unwrap().write_at(b"text", 0).unwrap();
            let side = [&one, &other][lacks];
            side.remove("a").unwrap();
            assert_eq!(disk.list("").unwrap(), ["a"]);
            let file = disk.open("a").unwrap();
            let mut text = [0; 4];
            file.read_at(&mut text, 0).unwrap();
            assert_eq!(&text, b"text");
            assert!(file.write_at(b"more", 0).is_err(), "never on one side alone");
            disk.rename("a", "b").unwrap();
            assert_eq!(side.contents("b").unwrap(), b"text");
            disk.open("b").unwrap().write_at(b"more", 0).unwrap();
            disk.remove("b").unwrap();
            assert!(disk.open("b").is_err() && disk.rename("b", "c").is_err());
        }
    }
}
