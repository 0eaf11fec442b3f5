//! Writes groups, syncs them, and says how far the disk has come.
//!
//! All groups that wait are written together and synced once, so that a lone publisher pays one sync
//! and thousands share one. That is the journal's thread; a group of few entries, with nothing before it on
//! its way, is written by the thread that decided it, which saves a lone publisher two changes of
//! threads. A failed write or sync ends the journal for good: the kernel may have dropped the data while
//! marking it clean, so a second sync would lie.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::format::{
    FILE_HEADER, FileHeader, GROUP_HEADER, GROUP_TRAILER, GroupHeader, GroupTrailer, padded,
};
use super::shared::{ActiveFile, Group, JournalShared};
use super::{DIR, path};
use crate::crash::CrashPoints;
use crate::disk::{Disk, DiskFile, is_out_of_handles};

/// How much is gathered before it is handed to the operating system, in bytes.
const SCRATCH: usize = 1 << 20;
/// What is written ends with a page of this size: to overwrite a part of a page, the system reads the
/// rest of it first, and that would wait for whatever else is read from the disk.
const PAGE: u64 = 4096;
/// After this long without a group, a mark says that the last one was synced.
pub(crate) const IDLE: Duration = Duration::from_millis(20);
/// The 99th percentile of sync times is taken over this many.
const LATENCIES: usize = 256;
/// How often it is taken, in syncs.
const LATENCY_EVERY: u64 = 32;
/// How long to wait for a file to be opened while too many are open, and how long between attempts.
const HANDLE_PATIENCE: Duration = Duration::from_secs(10);
const HANDLE_PAUSE: Duration = Duration::from_millis(20);

/// When a group counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it was synced to the device: survives loss of power.
    #[default]
    Sync,
    /// When it was written; synced at least this often. Loss of power may lose that much.
    Interval(Duration),
    /// When it was written; synced when the operating system likes. Loss of power may lose
    /// acknowledged data.
    Os,
}

struct OpenFile {
    file: Arc<dyn DiskFile>,
    number: u64,
    salt: u64,
    offset: u64,
}

/// Where the groups recovered from earlier files end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Predecessor {
    pub(crate) file: u64,
    pub(crate) end: u64,
}

pub(crate) struct JournalWriter {
    disk: Arc<dyn Disk>,
    shared: Arc<JournalShared>,
    durability: Durability,
    crash: CrashPoints,
    current: Option<OpenFile>,
    predecessor: Predecessor,
    written: u64,
    synced: u64,
    marked: u64,
    scratch: Vec<u8>,
    last_sync: Instant,
    latencies: Vec<u64>,
}

impl JournalWriter {
    /// A writer that goes on after group `last`. The file is opened with the first group.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<JournalShared>,
        durability: Durability,
        crash: CrashPoints,
        predecessor: Predecessor,
        last: u64,
    ) -> Self {
        Self {
            disk,
            shared,
            durability,
            crash,
            current: None,
            predecessor,
            written: last,
            synced: last,
            marked: last,
            scratch: Vec::new(),
            last_sync: Instant::now(),
            latencies: Vec::with_capacity(LATENCIES),
        }
    }

    /// Writes groups and makes them durable. Does nothing after a failure.
    pub(crate) fn write(&mut self, groups: &mut Vec<Group>) {
        if self.shared.failure().is_some() {
            groups.clear();
            return;
        }
        if let Err(error) = self.try_write(groups) {
            self.shared.fail(format!("cannot write the journal: {error}"));
        }
        groups.clear();
    }

    fn try_write(&mut self, groups: &[Group]) -> io::Result<()> {
        let Some(last) = groups.last() else { return self.sync_if_due() };
        let began = Instant::now();
        for group in groups {
            if self.current.as_ref().map(|file| file.number) != Some(group.file) {
                self.flush()?;
                self.rotate(group)?;
            }
            self.gather(group)?;
            self.written = group.number;
        }
        self.flush()?;
        let counters = &self.shared.counters;
        counters.groups.fetch_add(groups.len() as u64, Ordering::Relaxed);
        if self.durability == Durability::Sync {
            self.sync()?;
        } else {
            self.sync_if_due()?;
        }
        self.shared.took(micros(began.elapsed()));
        self.shared.publish_durable(last.number);
        Ok(())
    }

    /// Adds a group to what is written next.
    fn gather(&mut self, group: &Group) -> io::Result<()> {
        let body = group.body_len();
        let too_large = |_| io::Error::other("a group of more than 4 GiB");
        let header = GroupHeader {
            number: group.number,
            entries: group.entries,
            body: u32::try_from(body).map_err(too_large)?,
            is_mark: false,
        };
        header.encode(group.salt, &mut self.scratch);
        for piece in group.pieces() {
            self.scratch.extend_from_slice(piece);
            if self.scratch.len() >= SCRATCH {
                self.flush()?;
            }
        }
        self.scratch.resize(self.scratch.len() + padded(body) - body, 0);
        let trailer = GroupTrailer {
            number: group.number,
            entries: group.entries,
            digest: group.digest,
            durable_through: self.synced,
        };
        trailer.encode(group.salt, &mut self.scratch);
        Ok(())
    }

    /// Hands what was gathered to the operating system.
    fn flush(&mut self) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if self.scratch.is_empty() {
            return Ok(());
        }
        let written = self.scratch.len() as u64;
        let end = current.offset + written;
        // Zeros are no group; the next one overwrites them.
        let padding = end.next_multiple_of(PAGE) - end;
        self.scratch.resize(self.scratch.len() + padding as usize, 0);
        current.file.write_at(&self.scratch, current.offset)?;
        current.offset = end;
        self.shared.counters.bytes.fetch_add(written, Ordering::Relaxed);
        self.scratch.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        self.crash.at("journal.sync.before");
        let began = Instant::now();
        current.file.sync()?;
        self.crash.at("journal.sync.after");
        self.last_sync = Instant::now();
        self.synced = self.written;
        self.measured(self.last_sync - began);
        Ok(())
    }

    fn sync_if_due(&mut self) -> io::Result<()> {
        if self.synced < self.written && self.is_sync_due() { self.sync() } else { Ok(()) }
    }

    /// Whether what is written by now is to be synced.
    fn is_sync_due(&self) -> bool {
        matches!(self.durability, Durability::Interval(every) if self.last_sync.elapsed() >= every)
    }

    fn measured(&mut self, took: Duration) {
        let micros = micros(took);
        let counters = &self.shared.counters;
        let syncs = counters.syncs.fetch_add(1, Ordering::Relaxed) + 1;
        counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        if self.latencies.len() < LATENCIES {
            self.latencies.push(micros);
        } else if let Some(slot) = self.latencies.get_mut(syncs as usize % LATENCIES) {
            *slot = micros;
        }
        if syncs.is_multiple_of(LATENCY_EVERY) {
            let mut sorted = self.latencies.clone();
            let rank = sorted.len() * 99 / 100;
            let (_, p99, _) = sorted.select_nth_unstable(rank);
            counters.sync_p99_micros.store(*p99, Ordering::Relaxed);
        }
    }

    /// Begins the file that `group` belongs to. Its predecessor is synced first, so that the
    /// new file's existence proves it.
    fn rotate(&mut self, group: &Group) -> io::Result<()> {
        if self.synced < self.written {
            self.sync()?;
        }
        if let Some(old) = &self.current {
            self.predecessor = Predecessor { file: old.number, end: old.offset };
        }
        self.crash.at("journal.rotate.before");
        let target = path(group.file);
        let spare = self.shared.files().spares.pop_front();
        let file = if let Some(spare) = spare {
            self.disk.rename(&spare, &target)?;
            patiently(|| self.disk.open(&target))?
        } else {
            // No spare is ready: a growing file is slower to sync, but as safe.
            tracing::debug!(file = %target, "no spare journal file was ready");
            patiently(|| self.disk.create(&target))?
        };
        self.crash.at("journal.rotate.named");
        let header = FileHeader {
            file: group.file,
            salt: group.salt,
            predecessor: self.predecessor.file,
            predecessor_end: self.predecessor.end,
            first_group: group.number,
        };
        // With two copies, the second one's file is opened by this.
        patiently(|| file.write_at(&header.encode(), 0))?;
        file.sync()?;
        self.crash.at("journal.rotate.synced");
        patiently(|| self.disk.sync_dir(DIR))?;
        self.crash.at("journal.rotate.after");
        let active = ActiveFile { number: group.file, first_group: group.number };
        self.shared.files().active.push_back(active);
        self.shared.files_changed();
        self.shared.counters.rotations.fetch_add(1, Ordering::Relaxed);
        self.current =
            Some(OpenFile { file, number: group.file, salt: group.salt, offset: FILE_HEADER });
        Ok(())
    }

    /// Says on disk that the last group was synced, unless that stands there already.
    pub(crate) fn idle(&mut self) {
        if self.shared.failure().is_some() || self.marked == self.written {
            return;
        }
        if let Err(error) = self.try_mark() {
            self.shared.fail(format!("cannot close the last group of the journal: {error}"));
        }
    }

    fn try_mark(&mut self) -> io::Result<()> {
        match self.durability {
            Durability::Os => return Ok(()),
            Durability::Interval(_) => {
                self.sync_if_due()?;
                if self.synced < self.written {
                    return Ok(());
                }
            }
            Durability::Sync => {}
        }
        let Some(salt) = self.current.as_ref().map(|file| file.salt) else { return Ok(()) };
        let number = self.written;
        GroupHeader { number, entries: 0, body: 0, is_mark: true }.encode(salt, &mut self.scratch);
        GroupTrailer { number, entries: 0, digest: 0, durable_through: self.synced }
            .encode(salt, &mut self.scratch);
        self.flush()?;
        self.sync()?;
        self.marked = number;
        self.shared.counters.marks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Syncs what is written and closes the last group, for a clean stop.
    pub(crate) fn finish(&mut self) {
        if self.shared.failure().is_some() {
            return;
        }
        if self.synced < self.written
            && let Err(error) = self.sync()
        {
            self.shared.fail(format!("cannot sync the journal: {error}"));
        }
        self.idle();
    }

    /// Writes whatever waits; for an engine without threads.
    pub(crate) fn step(&mut self) {
        let mut groups = Vec::new();
        self.shared.take(&mut groups);
        if !groups.is_empty() {
            self.write(&mut groups);
        }
    }

    /// Writes a group that comes after all others, and syncs it if it counts as durable only then. Gives it
    /// back if that takes more than one write and such a sync: a new file, or the sync of an interval, of which
    /// it is not known how long it takes.
    pub(crate) fn write_now(&mut self, group: Group) -> Option<Group> {
        let is_open = self.current.as_ref().is_some_and(|file| file.number == group.file);
        if !is_open || self.is_sync_due() {
            return Some(group);
        }
        self.write(&mut vec![group]);
        None
    }

    /// Whether each group is synced before it counts as durable.
    fn syncs_each(&self) -> bool {
        self.durability == Durability::Sync
    }

    /// Whether there is something to do once a group was written: to close it, or to sync it in time.
    pub(crate) fn has_more_to_do(&self) -> bool {
        self.durability != Durability::Os
    }

    /// How long the journal's thread waits for groups before there is something else to do.
    fn patience(&self) -> Option<Duration> {
        match self.durability {
            Durability::Interval(every) if self.synced < self.written => Some(every.min(IDLE)),
            Durability::Sync if self.marked < self.written => {
                Some(IDLE.saturating_sub(self.last_sync.elapsed()))
            }
            Durability::Interval(_) if self.marked < self.written => Some(IDLE),
            _ => None,
        }
    }

    /// Whether no group was written for a while, by whichever thread.
    fn is_idle(&self) -> bool {
        !self.syncs_each() || self.last_sync.elapsed() >= IDLE
    }

    /// What a group takes in its file, closing mark included.
    pub(crate) fn space(body: usize) -> u64 {
        (GROUP_HEADER + padded(body) + GROUP_TRAILER + super::format::MARK) as u64
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Writes until the engine closes the journal; the body of the journal's thread.
pub(crate) fn run(writer: &Mutex<JournalWriter>) {
    let shared = Arc::clone(&lock(writer).shared);
    let mut groups = Vec::new();
    loop {
        shared.begin_rest();
        let patience = lock(writer).patience();
        if !shared.wait(patience, &mut groups) {
            break;
        }
        let mut writer = lock(writer);
        if !groups.is_empty() {
            writer.write(&mut groups);
        } else if writer.is_idle() {
            writer.idle();
        }
    }
    lock(writer).finish();
}

/// The writer, for one write or one look. Whoever panicked while it held the writer ended the server; what it
/// wrote is synced before more is said of it.
pub(crate) fn lock(writer: &Mutex<JournalWriter>) -> MutexGuard<'_, JournalWriter> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries again for a while if too many files are open: connections come and go.
fn patiently<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + HANDLE_PATIENCE;
    loop {
        match open() {
            Err(error) if is_out_of_handles(&error) && Instant::now() < end => {
                std::thread::sleep(HANDLE_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::disk::{SimulatedDisk, TwinDisk};

    /// No page is overwritten in part, which would have the system read it first; nor is more overwritten.
    #[test]
    fn what_is_written_ends_with_a_page() {
        let disk = SimulatedDisk::new();
        disk.create_dir(DIR).unwrap();
        let spare = disk.create("journal/spare").unwrap();
        spare.write_at(&[0xff; 32 << 10], 0).unwrap();
        let shared = Arc::new(JournalShared::new(0, Arc::new(|| {})));
        shared.files().spares.push_back("journal/spare".to_owned());
        let (durability, crash) = (Durability::Sync, CrashPoints::default());
        let (below, told) = (Arc::new(disk.clone()), Arc::clone(&shared));
        let mut writer =
            JournalWriter::new(below, told, durability, crash, Predecessor::default(), 0);
        for number in 1..=100 {
            let (body, more) = (Bytes::from(vec![7; 50]), Vec::new());
            let group = Group { number, file: 1, salt: 9, entries: 1, digest: 0, body, more };
            writer.write(&mut vec![group]);
            let end = FILE_HEADER + shared.counters.bytes.load(Ordering::Relaxed);
            let mut rest = vec![0; (32 << 10) - end as usize];
            disk.open(&path(1)).unwrap().read_at(&mut rest, end).unwrap();
            let zeros = rest.iter().take_while(|byte| **byte == 0).count() as u64;
            assert_eq!(zeros, end.next_multiple_of(PAGE) - end, "{number}");
        }
    }

    /// Whatever a new file needs opened is waited for, with one copy and with two.
    #[test]
    fn a_new_file_is_waited_for_while_too_many_are_open() {
        for case in 0..24 {
            let (after, has_spare, has_copy) = (case / 4, case & 1 == 1, case & 2 == 2);
            let (one, other) = (SimulatedDisk::new(), SimulatedDisk::new());
            let first: Arc<dyn Disk> = Arc::new(one.clone());
            let disk = match has_copy {
                true => Arc::new(TwinDisk::new(first, Arc::new(other.clone()))),
                false => first,
            };
            disk.create_dir(DIR).unwrap();
            let shared = Arc::new(JournalShared::new(0, Arc::new(|| {})));
            if has_spare {
                disk.create("journal/spare").unwrap();
                shared.files().spares.push_back("journal/spare".to_owned());
            }
            one.refuse_handles(after, 2);
            other.refuse_handles(after, 2);
            let mut writer = JournalWriter::new(
                disk,
                Arc::clone(&shared),
                Durability::Sync,
                CrashPoints::default(),
                Predecessor::default(),
                0,
            );
            let (body, more) = (Bytes::new(), Vec::new());
            let group = Group { number: 1, file: 1, salt: 9, entries: 0, digest: 0, body, more };
            writer.write(&mut vec![group]);
            let place = format!("{after} {has_spare} {has_copy}");
            assert_eq!((shared.failure(), shared.durable()), (None, 1), "{place}");
            assert_eq!(one.paths(), [path(1)], "{place}");
        }
    }
}
