//! Spare journal files: filled with zeros and synced before they are needed, because a sync after
//! writing into such a file costs half of one into a growing file; and reused when their groups
//! are no longer needed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::shared::JournalShared;
use super::{DIR, path};
use crate::crash::CrashPoints;
use crate::disk::{Disk, DiskFile, is_out_of_handles, is_out_of_space};

/// Files kept ready: one for the next rotation, one while that is refilled.
const SPARES: usize = 2;
/// Spares kept when recycling brings more; the rest is given back.
const SPARES_KEPT: usize = 4;
/// Synced at least this often, so that the journal's own syncs stay short.
const FILL_STEP: usize = 1 << 20;
/// How long to wait before trying again when the disk is full.
const RETRY: Duration = Duration::from_millis(500);

/// Room taken up in good times and given back when the disk is full, so that a checkpoint can be
/// written: it empties journal files, and lets segments go whose records were deleted. Publishing
/// goes on only while the ballast is there and spares are, so what was accepted always finds a place.
pub(crate) const BALLAST: &str = "journal/ballast";

pub(crate) struct Filler {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<JournalShared>,
    pub(crate) file_size: u64,
    /// Size of the ballast, in bytes: at least what one checkpoint may have to write.
    pub(crate) ballast: u64,
    pub(crate) crash: CrashPoints,
}

/// The number of a spare, from its name.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("spare-")?.strip_suffix(".jnl")?;
    u64::from_str_radix(digits, 16).ok()
}

fn spare_path(number: u64) -> String {
    format!("{DIR}/spare-{number:016x}.jnl")
}

impl Filler {
    /// Recycles what can be and fills what is missing.
    pub(crate) fn step(&self) {
        match self.try_step() {
            Ok(()) => {
                if self.shared.is_disk_full.swap(false, Ordering::Relaxed) {
                    tracing::info!("the disk has room again; publishing goes on");
                    self.shared.wake_owner();
                }
            }
            // The journal itself goes on: in the file it has and in the spares that are left.
            Err(error) if is_out_of_space(&error) => {
                if !self.shared.is_disk_full.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        %error,
                        "the disk is full; publishing is refused until there is room for {} MiB",
                        (self.ballast + SPARES as u64 * self.file_size) >> 20
                    );
                    self.shared.wake_owner();
                }
            }
            Err(error) if is_out_of_handles(&error) => {
                tracing::warn!(%error, "too many files are open; journal files are prepared later");
            }
            Err(error) => self.shared.fail(format!("cannot prepare journal files: {error}")),
        }
        if self.shared.is_retry_wanted.swap(false, Ordering::Relaxed) {
            self.shared.wake_owner();
        }
    }

    /// Until the engine closes; the body of the filler's thread.
    pub(crate) fn run(self, is_closed: impl Fn() -> bool) {
        while !is_closed() {
            self.step();
            if is_closed() {
                break;
            }
            self.shared.wait_for_files(RETRY);
        }
    }

    fn try_step(&self) -> io::Result<()> {
        self.scrub_spares()?;
        while self.recycle_one()? {}
        if self.shared.is_space_wanted.load(Ordering::Acquire) {
            self.give_ballast()?;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "a checkpoint found no room"));
        }
        self.take_ballast()?;
        while self.shared.files().spares.len() < SPARES {
            self.add_spare(FILL_STEP)?;
            // A checkpoint may have freed files meanwhile, which is cheaper than filling more.
            while self.recycle_one()? {}
        }
        Ok(())
    }

    /// Makes one spare if there is none, so that the first groups do not go to a file that grows,
    /// which could meet a full disk.
    pub(crate) fn first_spare(&self) {
        if self.shared.files().spares.is_empty()
            && let Err(error) = self.add_spare(self.file_size as usize)
        {
            tracing::warn!(%error, "no journal file could be prepared");
        }
    }

    /// Fills a spare, syncing after every `step` bytes.
    fn add_spare(&self, step: usize) -> io::Result<()> {
        let target = self.next_spare();
        self.fill(&target, self.file_size, step)?;
        self.disk.sync_dir(DIR)?;
        self.shared.files().spares.push_back(target);
        Ok(())
    }

    /// First of all, so that a disk with room for spares but not for a checkpoint counts as full.
    fn take_ballast(&self) -> io::Result<()> {
        match self.disk.open(BALLAST) {
            Ok(file) if file.len()? == self.ballast => return Ok(()),
            Ok(_) => self.disk.remove(BALLAST)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let taken = self.disk.create(BALLAST).and_then(|file| file.allocate(self.ballast));
        if taken.is_err() {
            // All or nothing: what little there is may be what a checkpoint needs.
            self.give_ballast()?;
        }
        taken
    }

    fn give_ballast(&self) -> io::Result<()> {
        match self.disk.remove(BALLAST) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn next_spare(&self) -> String {
        let mut files = self.shared.files();
        files.next_spare += 1;
        spare_path(files.next_spare)
    }

    /// Overwrites spares that may hold erased bytes.
    fn scrub_spares(&self) -> io::Result<()> {
        {
            let files = &mut *self.shared.files();
            if std::mem::take(&mut files.scrub_spares) {
                files.unscrubbed.extend(files.spares.drain(..));
            }
        }
        loop {
            let Some(spare) = self.shared.files().unscrubbed.front().cloned() else {
                return Ok(());
            };
            self.overwrite(&spare)?;
            let files = &mut *self.shared.files();
            files.spares.extend(files.unscrubbed.pop_front());
        }
    }

    /// Takes the oldest file that is no longer needed; false if there is none. It is on a list at any
    /// time, so that after an error the next round goes on with it.
    fn recycle_one(&self) -> io::Result<bool> {
        let (old, must_scrub, spares) = {
            let files = self.shared.files();
            let through = files.recycle_through;
            // A file's last group is the one before its successor's first. What a start found in a file is noted
            // there, and not before it is durable.
            let durable = self.shared.durable();
            let is_needed = files
                .active
                .get(1)
                .is_none_or(|next| next.first_group > through + 1 || next.first_group > durable);
            let Some(old) = files.active.front().filter(|_| !is_needed) else { return Ok(false) };
            (*old, old.first_group <= files.scrub_through, files.spares.len())
        };
        let from = path(old.number);
        self.crash.at("recycle.before");
        if must_scrub {
            self.overwrite(&from)?;
        }
        let is_disk_full = self.shared.is_disk_full.load(Ordering::Relaxed);
        if spares >= if is_disk_full { SPARES } else { SPARES_KEPT } || !self.resize(&from)? {
            self.disk.remove(&from)?;
            self.shared.files().active.pop_front();
            self.disk.sync_dir(DIR)?;
            return Ok(true);
        }
        let target = self.next_spare();
        self.disk.rename(&from, &target)?;
        self.crash.at("recycle.named");
        {
            let files = &mut *self.shared.files();
            files.active.pop_front();
            // Its new name is made durable here or, if that fails, with the next one.
            files.spares.push_back(target);
        }
        self.shared.counters.recycled.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(DIR)?;
        self.crash.at("recycle.after");
        Ok(true)
    }

    /// Gives a file the length of a spare. False if there is no room for that.
    fn resize(&self, path: &str) -> io::Result<bool> {
        let file = self.disk.open(path)?;
        let len = file.len()?;
        if len > self.file_size {
            file.set_len(self.file_size)?;
        } else if len < self.file_size {
            match zeros(file.as_ref(), len, self.file_size, FILL_STEP) {
                Err(error) if is_out_of_space(&error) => return Ok(false),
                filled => filled?,
            }
        }
        Ok(true)
    }

    fn fill(&self, target: &str, len: u64, step: usize) -> io::Result<()> {
        let result = self.disk.create(target).and_then(|file| zeros(file.as_ref(), 0, len, step));
        if result.is_err() {
            // A half-filled file would only take the room that is missing.
            let _ = self.disk.remove(target);
        }
        result
    }

    fn overwrite(&self, target: &str) -> io::Result<()> {
        let file = self.disk.open(target)?;
        let len = file.len()?.max(self.file_size);
        zeros(file.as_ref(), 0, len, FILL_STEP)
    }
}

/// Overwrites a part of a file, syncing after every `step` bytes.
fn zeros(file: &dyn DiskFile, from: u64, to: u64, step: usize) -> io::Result<()> {
    let zeros = vec![0; step.min(FILL_STEP)];
    let (mut at, mut unsynced) = (from, 0);
    while at < to {
        let len = (to - at).min(zeros.len() as u64);
        file.write_at(zeros.get(..len as usize).unwrap_or(&zeros), at)?;
        at += len;
        unsynced += len;
        if unsynced >= step as u64 || at == to {
            file.sync()?;
            unsynced = 0;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::shared::ActiveFile;
    use super::*;
    use crate::disk::SimulatedDisk;

    const SECRET: &[u8] = b"erased";

    /// Four journal files, of which three are not needed, and a spare; erased bytes stand in all of these.
    fn filler(disk: &SimulatedDisk) -> Filler {
        let shared = Arc::new(JournalShared::new(40, Arc::new(|| {})));
        let below: Arc<dyn Disk> = Arc::new(disk.clone());
        below.create_dir(DIR).unwrap();
        let filler = Filler {
            disk: below,
            shared,
            file_size: 8 << 10,
            ballast: 1 << 10,
            crash: CrashPoints::default(),
        };
        let mut files = filler.shared.files();
        for number in 1..=4 {
            files.active.push_back(ActiveFile { number, first_group: number * 10 });
        }
        files.spares.push_back(filler_spare());
        (files.next_spare, files.recycle_through) = (1, 39);
        (files.scrub_through, files.scrub_spares) = (39, true);
        let spares = files.spares.clone();
        drop(files);
        for path in (1..=3).map(path).chain(spares) {
            let file = disk.create(&path).unwrap();
            file.set_len(8 << 10).unwrap();
            file.write_at(SECRET, 5_000).unwrap();
        }
        disk.create(&path(4)).unwrap();
        filler
    }

    fn filler_spare() -> String {
        spare_path(1)
    }

    /// Too many files are open at any moment: what was begun is done later.
    #[test]
    fn nothing_is_forgotten_without_handles() {
        for after in 0..40 {
            let disk = SimulatedDisk::new();
            let filler = filler(&disk);
            disk.refuse_handles(after, 1);
            filler.step();
            assert_eq!(filler.shared.failure(), None, "{after}");
            // What may be used now has been overwritten.
            let holds_secret = |path: &String| {
                let bytes = disk.contents(path).unwrap();
                bytes.windows(SECRET.len()).any(|bytes| bytes == SECRET)
            };
            assert!(!filler.shared.files().spares.iter().any(holds_secret), "{after}");
            filler.step();
            let files = filler.shared.files();
            let mut known: Vec<String> = files.spares.iter().cloned().collect();
            known.extend(files.active.iter().map(|file| path(file.number)));
            known.push(BALLAST.to_owned());
            known.sort();
            assert_eq!(disk.paths(), known, "{after}");
            assert_eq!(files.active.len(), 1, "{after}");
            assert!(!known.iter().any(holds_secret), "{after}");
            assert!(!files.scrub_spares);
        }
    }
}
