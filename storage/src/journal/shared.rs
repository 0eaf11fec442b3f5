//! What the thread that owns the engine and the journal's thread share: groups on their way, how far
//! the disk has come, and counters.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;

/// A write and a sync that take no longer are fast, in microseconds: ten times what they take on a good
/// disk, and nothing that a client would notice.
const FAST: u64 = 1_000;
/// So many fast ones in a row make a fast disk. A disk in trouble is slow more often than once in that many.
const FAST_WRITES: u64 = 64;

/// Called when there is news for the engine's owner, from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A closed group on its way to the disk.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) number: u64,
    /// The file it must go to: its checksums carry that file's salt.
    pub(crate) file: u64,
    pub(crate) salt: u64,
    pub(crate) entries: u32,
    pub(crate) digest: u64,
    /// The entries, one piece after the other.
    pub(crate) body: Bytes,
    /// More pieces, when the group outgrew one buffer.
    pub(crate) more: Vec<Bytes>,
}

impl Group {
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.body).chain(&self.more)
    }

    pub(crate) fn body_len(&self) -> usize {
        self.pieces().map(Bytes::len).sum()
    }
}

/// Counters of the journal since start-up.
#[derive(Debug, Default)]
pub(crate) struct JournalCounters {
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) recycled: AtomicU64,
    pub(crate) marks: AtomicU64,
    pub(crate) sync_micros: AtomicU64,
    /// 99th percentile of the last syncs, in microseconds.
    pub(crate) sync_p99_micros: AtomicU64,
}

/// A journal file that may still be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActiveFile {
    pub(crate) number: u64,
    pub(crate) first_group: u64,
}

/// Which files there are.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    /// Ascending; the last one is written to.
    pub(crate) active: VecDeque<ActiveFile>,
    /// Paths of files ready to be used, filled and synced.
    pub(crate) spares: VecDeque<String>,
    pub(crate) next_spare: u64,
    /// Files whose groups are all at or below this may be used again.
    pub(crate) recycle_through: u64,
    /// Erased bytes may stand in groups up to this one: such files are overwritten before reuse.
    pub(crate) scrub_through: u64,
    /// The spares of this moment may hold erased bytes and must be overwritten.
    pub(crate) scrub_spares: bool,
    /// Spares that are being overwritten, and are none until that is done.
    pub(crate) unscrubbed: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Queue {
    groups: Vec<Group>,
    is_closed: bool,
}

/// Shared between the engine, the journal's writer and the filler.
pub(crate) struct JournalShared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// The journal's thread waits for groups and for nothing else.
    is_resting: AtomicBool,
    /// Writes in a row that were fast.
    fast: AtomicU64,
    durable: AtomicU64,
    /// Someone waits for `durable` to rise.
    is_awaited: AtomicBool,
    risen: Condvar,
    waiting: Mutex<()>,
    failure: OnceLock<String>,
    files: Mutex<FileTable>,
    files_changed: Condvar,
    /// No room for ballast or for another spare: publishing should stop until there is.
    pub(crate) is_disk_full: AtomicBool,
    /// A checkpoint found no room; until one succeeds nothing else should take any.
    pub(crate) is_space_wanted: AtomicBool,
    /// A checkpoint failed and is to be tried again at the filler's next round, which may have made
    /// room.
    pub(crate) is_retry_wanted: AtomicBool,
    pub(crate) counters: JournalCounters,
    waker: Waker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JournalShared {
    pub(crate) fn new(durable: u64, waker: Waker) -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            is_resting: AtomicBool::new(false),
            fast: AtomicU64::new(0),
            durable: AtomicU64::new(durable),
            is_awaited: AtomicBool::new(false),
            risen: Condvar::new(),
            waiting: Mutex::default(),
            failure: OnceLock::new(),
            files: Mutex::default(),
            files_changed: Condvar::new(),
            is_disk_full: AtomicBool::new(false),
            is_space_wanted: AtomicBool::new(false),
            is_retry_wanted: AtomicBool::new(false),
            counters: JournalCounters::default(),
            waker,
        }
    }

    /// Sends a group on its way.
    pub(crate) fn send(&self, group: Group) {
        let mut queue = lock(&self.queue);
        let was_empty = queue.groups.is_empty();
        queue.groups.push(group);
        drop(queue);
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// No more groups will come.
    pub(crate) fn close(&self) {
        lock(&self.queue).is_closed = true;
        self.arrived.notify_all();
    }

    /// Takes all waiting groups into `taken`, which must be empty.
    pub(crate) fn take(&self, taken: &mut Vec<Group>) {
        std::mem::swap(&mut lock(&self.queue).groups, taken);
    }

    /// Waits for groups up to `patience`, and takes all. False once closed and empty. Without a limit it
    /// waits until [`end_rest`](Self::end_rest), which may have been called since
    /// [`begin_rest`](Self::begin_rest).
    pub(crate) fn wait(&self, patience: Option<Duration>, taken: &mut Vec<Group>) -> bool {
        let mut queue = lock(&self.queue);
        if queue.groups.is_empty() && !queue.is_closed {
            queue = match patience {
                Some(patience) => {
                    // It looks again by itself.
                    self.is_resting.store(false, Ordering::Relaxed);
                    self.arrived
                        .wait_timeout(queue, patience)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None if !self.is_resting.load(Ordering::Relaxed) => queue,
                None => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        std::mem::swap(&mut queue.groups, taken);
        !(taken.is_empty() && queue.is_closed)
    }

    /// The writer's thread is about to look whether there is something to do but to wait for groups.
    pub(crate) fn begin_rest(&self) {
        self.is_resting.store(true, Ordering::Relaxed);
    }

    /// Whether the writer's thread waits for groups, or is about to.
    #[cfg(test)]
    pub(crate) fn is_resting(&self) -> bool {
        self.is_resting.load(Ordering::Relaxed)
    }

    /// There is something to do for the writer's thread, if it has looked already: it looks again.
    pub(crate) fn end_rest(&self) {
        if self.is_resting.swap(false, Ordering::Relaxed) {
            // Either it waits by now, or it sees what was just said.
            drop(lock(&self.queue));
            self.arrived.notify_one();
        }
    }

    /// Whether the disk has been fast for a while: whoever waits for it now waits for no longer than a
    /// moment, in all likelihood.
    pub(crate) fn is_fast(&self) -> bool {
        self.fast.load(Ordering::Relaxed) >= FAST_WRITES
    }

    /// A write, with its sync if it had one, took so long, in microseconds.
    pub(crate) fn took(&self, micros: u64) {
        // Whoever writes holds the writer, so that nobody else counts at the same time.
        let fast = if micros > FAST { 0 } else { self.fast.load(Ordering::Relaxed) + 1 };
        self.fast.store(fast, Ordering::Relaxed);
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn publish_durable(&self, group: u64) {
        self.durable.store(group, Ordering::SeqCst);
        self.tell_waiting();
        (self.waker)();
    }

    fn tell_waiting(&self) {
        if self.is_awaited.load(Ordering::SeqCst) {
            drop(lock(&self.waiting));
            self.risen.notify_all();
        }
    }

    /// Waits until `group` is durable.
    ///
    /// # Errors
    /// If the journal fails before.
    pub(crate) fn wait_durable(&self, group: u64) -> io::Result<()> {
        let mut guard = lock(&self.waiting);
        self.is_awaited.store(true, Ordering::SeqCst);
        while self.durable.load(Ordering::SeqCst) < group {
            if self.failure().is_some() {
                return Err(io::Error::other("the journal failed"));
            }
            guard = self.risen.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.is_awaited.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn wake_owner(&self) {
        (self.waker)();
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The journal cannot go on, ever.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(%reason, "the journal failed");
        let _ = self.failure.set(reason);
        self.tell_waiting();
        (self.waker)();
    }

    pub(crate) fn files(&self) -> MutexGuard<'_, FileTable> {
        lock(&self.files)
    }

    /// Wakes the filler.
    pub(crate) fn files_changed(&self) {
        self.files_changed.notify_all();
    }

    /// Waits until `files_changed` is called, at most `patience`.
    pub(crate) fn wait_for_files(&self, patience: Duration) {
        let files = self.files();
        drop(
            self.files_changed
                .wait_timeout(files, patience)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}
