//! Leaves the disk to the journal: after each step that a background worker wrote and synced, it
//! waits about as long as the journal's slowest syncs take. With durability `os` nobody waits for those, and nor
//! does it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::crash::CrashPoints;
use crate::journal::shared::JournalShared;

/// The longest wait after a step of 1 MiB, so that a slow disk does not stop checkpoints.
const LONGEST: Duration = Duration::from_millis(20);

/// Work that has time rests so many times as long as it worked: it takes a tenth of one core.
const REST: u32 = 9;
/// The longest rest after a step, so that a stop does not wait for it.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Clone)]
pub(super) struct Pacer {
    pub(super) journal: Arc<JournalShared>,
    /// Unsealed records press: do not wait.
    pub(super) hurry: Arc<AtomicBool>,
    /// Never wait; for an engine without threads.
    pub(super) is_inline: bool,
    /// Somebody waits for each of the journal's syncs.
    pub(super) has_syncs: bool,
    pub(super) crash: CrashPoints,
}

impl Pacer {
    /// What to call after each step.
    pub(super) fn pace(&self) -> impl FnMut(u64) -> io::Result<()> + use<> {
        let pacer = self.clone();
        move |_bytes| {
            pacer.crash.at("background.sync");
            let rest = pacer.rest();
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
            Ok(())
        }
    }

    /// How long to leave the disk to the journal now.
    fn rest(&self) -> Duration {
        if self.is_inline || !self.has_syncs || self.hurry.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let p99 = self.journal.counters.sync_p99_micros.load(Ordering::Relaxed);
        Duration::from_micros(p99).min(LONGEST)
    }

    /// The same for work that has time: it leaves the processor to others as well.
    pub(super) fn pace_gently(&self) -> impl FnMut(u64) -> io::Result<()> + use<> {
        let mut pace = self.pace();
        let is_inline = self.is_inline;
        let mut began = Instant::now();
        move |bytes| {
            let worked = began.elapsed();
            pace(bytes)?;
            if !is_inline {
                std::thread::sleep((worked * REST).min(LONGEST_REST));
            }
            began = Instant::now();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the wait, what is written in the background is all that publishers wait for.
    #[test]
    fn the_disk_is_left_to_syncs_that_somebody_waits_for() {
        let pacer = Pacer {
            journal: Arc::new(JournalShared::new(0, Arc::new(|| {}))),
            hurry: Arc::default(),
            is_inline: false,
            has_syncs: true,
            crash: CrashPoints::default(),
        };
        assert_eq!(pacer.rest(), Duration::ZERO, "nothing was synced yet");
        pacer.journal.counters.sync_p99_micros.store(3_000, Ordering::Relaxed);
        assert_eq!(pacer.rest(), Duration::from_millis(3));
        assert_eq!(Pacer { has_syncs: false, ..pacer.clone() }.rest(), Duration::ZERO);
        assert_eq!(Pacer { is_inline: true, ..pacer.clone() }.rest(), Duration::ZERO);
        pacer.journal.counters.sync_p99_micros.store(300_000, Ordering::Relaxed);
        assert_eq!(pacer.rest(), LONGEST);
        pacer.hurry.store(true, Ordering::Relaxed);
        assert_eq!(pacer.rest(), Duration::ZERO);
    }
}
