//! What the operator and the program choose about an engine.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::crash::CrashPoints;
use crate::journal::Durability;

/// Who does the work that needs a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// Threads of the engine's own.
    #[default]
    Threads,
    /// The caller, in [`Engine::run_background`](super::Engine::run_background): the same work in
    /// an order that only the caller decides, for simulation.
    Inline,
}

/// Which workers take part in one round of [`Workers::Inline`]. Those left out are slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one switch for each worker")]
pub struct InlineWorkers {
    /// Writes and syncs groups.
    pub journal: bool,
    /// Fills journal files.
    pub filler: bool,
    /// Writes segments, state and manifests.
    pub checkpoints: bool,
    /// Merges segments and removes files.
    pub maintenance: bool,
    /// Reads records from segments.
    pub reads: bool,
}

impl InlineWorkers {
    /// Nobody is slow.
    pub const ALL: Self =
        Self { journal: true, filler: true, checkpoints: true, maintenance: true, reads: true };
}

/// Who writes a lone group: a small one, with nothing before it on its way to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoneWriter {
    /// The owner while the disk is fast, which is measured, and else the journal's worker. With
    /// [`Workers::Inline`] nothing is measured, and it is the journal's worker.
    #[default]
    Measured,
    /// The owner, for simulation.
    Owner,
    /// The journal's worker.
    Journal,
}

/// How files that are written once are read again, so that damage is found before they are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// From the beginning of one pass over all files to that of the next.
    pub interval: Duration,
    /// Bytes read in a second, at most.
    pub rate: u64,
    /// How long nothing is read after a start: clients come first.
    pub delay: Duration,
}

impl Default for ScrubOptions {
    /// Once a week: rot is slow. 4 MiB a second: a disk does not notice, and a week is enough for 2 TiB.
    /// After a minute: by then clients are connected again.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(7 * 24 * 3600),
            rate: 4 << 20,
            delay: Duration::from_secs(60),
        }
    }
}

/// Limits and choices. Start from [`EngineOptions::default`].
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes of records in memory, not yet in segments, while the disk keeps pace: a checkpoint
    /// begins at half of this. Publishing slows at 1.5 times and stops at 2 times this. 64 MiB: a
    /// checkpoint then writes for a fraction of a second.
    pub tail_budget: usize,
    /// Size that journal files are filled to, in bytes. 32 MiB: rotation costs a fraction of a
    /// percent, and an idle broker takes little room.
    pub journal_file_size: u64,
    /// Bytes of journal since the last checkpoint that start one even if the tail is small, so
    /// that recovery stays short. 256 MiB.
    pub journal_limit: u64,
    /// Memory for message ids, in bytes. 256 MiB: about six million ids.
    pub message_id_budget: usize,
    /// When a group counts as durable.
    pub durability: Durability,
    /// Threads or the caller.
    pub workers: Workers,
    /// Who writes groups that others need not wait for. Only if each group is synced.
    pub lone_writer: LoneWriter,
    /// Threads that read segments. 2: one slow read does not hold up the others.
    pub readers: usize,
    /// Whether to keep the index of segments in sled. Without it, as on a simulated disk, segments are
    /// read by their own tables.
    pub index: bool,
    /// When files are read again in the background, if they are. Not with [`Workers::Inline`].
    pub scrub: Option<ScrubOptions>,
    /// Distinguishes what this run writes from what lay in reused files; must differ from run to
    /// run on the same data. The default is random.
    pub seed: u64,
    /// Places where tests may end the process.
    pub crash_points: CrashPoints,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            tail_budget: 64 << 20,
            journal_file_size: 32 << 20,
            journal_limit: 256 << 20,
            message_id_budget: 256 << 20,
            durability: Durability::default(),
            workers: Workers::default(),
            lone_writer: LoneWriter::default(),
            readers: 2,
            index: true,
            scrub: Some(ScrubOptions::default()),
            seed: RandomState::new().hash_one("claudebus journal salt"),
            crash_points: CrashPoints::default(),
        }
    }
}
