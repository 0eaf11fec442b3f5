//! What is on the disk, and whether an operation on it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::SimulatedCounts;
use super::inode::{Chance, Inode};
use super::names::{NameChange, apply};

/// What Unix systems say when a process has too many files open (EMFILE).
const OUT_OF_HANDLES: i32 = 24;

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) files: BTreeMap<u64, Inode>,
    pub(super) next_file: u64,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    pub(super) pending_names: Vec<NameChange>,
    pub(super) dirs: BTreeSet<String>,
    pub(super) counts: SimulatedCounts,
    /// Raised by every crash: handles from before it are dead.
    pub(super) life: u64,
    /// The change, counted by [`SimulatedCounts::changes`], at which power is lost.
    pub(super) power_off_at: Option<u64>,
    /// The change that fails once, and how.
    pub(super) fail_at: Option<(u64, io::ErrorKind)>,
    /// Bytes of all files together, at most.
    pub(super) capacity: Option<u64>,
    /// How many more handles are given out before so many are refused.
    pub(super) handles: Option<(u64, u64)>,
}

impl Contents {
    /// Decides whether the change that was just counted happens.
    pub(super) fn change(&mut self) -> io::Result<()> {
        let now = self.counts.changes();
        if self.power_off_at.is_some_and(|at| now >= at) {
            return Err(io::Error::other("simulated loss of power"));
        }
        match self.fail_at {
            Some((at, kind)) if at == now => Err(io::Error::new(kind, "simulated failure")),
            _ => Ok(()),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(Inode::len).sum()
    }

    /// Whether `file` may become `len` bytes long.
    pub(super) fn check_room(&self, file: u64, len: u64) -> io::Result<()> {
        let old = self.files.get(&file).map_or(0, Inode::len);
        match self.capacity {
            Some(capacity) if len > old && self.size() + len - old > capacity => Err(
                io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"),
            ),
            _ => Ok(()),
        }
    }

    /// Decides whether a file or directory can be opened.
    pub(super) fn take_handle(&mut self) -> io::Result<()> {
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

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.power_off_at.is_some_and(|at| self.counts.changes() >= at) {
            return Err(io::Error::other("simulated loss of power"));
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, chance: &mut Chance) {
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
