//! What opening a log may say: why it cannot be opened, what was found, what was put aside.

use std::io;

use crate::disk::Disk;
use crate::log::Losses;

/// Where bytes go that cannot be explained.
pub(crate) const LOST: &str = "lost+found";

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file was written by a newer version. Nothing was changed.
    #[error(
        "{file} has format {found}, and this version knows formats up to {known}; \
         start the version that wrote it"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its major version.
        found: u16,
        /// The newest major version this program reads.
        known: u16,
    },
    /// A file that must be there is not.
    #[error(
        "{file} is missing: groups {first} to {last} of the journal are lost with it; restore the \
         file, or restore the data directory from a backup"
    )]
    Missing {
        /// The file, or the place where it should be.
        file: String,
        /// First group that is missing.
        first: u64,
        /// Last group that is missing.
        last: u64,
    },
    /// No checkpoint can be used.
    #[error(
        "{file} cannot be used, nor can the checkpoint before it: {reason}; restore the data \
         directory from a backup"
    )]
    Damaged {
        /// The manifest of the newest checkpoint.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// What opening a log found. For logs, metrics and `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Groups applied from the journal.
    pub groups_replayed: u64,
    /// The last group that was found; everything after it was never acknowledged.
    pub last_group: u64,
    /// Durable groups that cannot be read completely: first, last, file and byte range.
    pub damage: Vec<DamageReport>,
    /// What that costs: streams and sequences.
    pub losses: Losses,
    /// Groups at the end that were dropped although they may have been acknowledged.
    pub in_doubt: Option<DamageReport>,
    /// Whether groups that were never acknowledged were found and dropped.
    pub was_torn: bool,
    /// Entries of a kind that this version does not know, in groups that were applied.
    pub unknown_entries: u64,
    /// Whether the last stop was a clean one.
    pub was_clean: bool,
    /// The checkpoint that was loaded; 0 for none.
    pub generation: u64,
    /// Whether a newer checkpoint was found that could not be used.
    pub fell_back: bool,
    /// Copies of files that were damaged or missing and were made again from the other ones.
    pub repaired: u64,
}

/// Damage found in a journal file. The bytes are kept in `lost+found/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageReport {
    /// First and last group concerned.
    pub groups: (u64, u64),
    /// The file.
    pub file: String,
    /// First byte, and the one after the last.
    pub bytes: (u64, u64),
}

/// Moves a file that cannot be explained out of the way.
pub(super) fn lose(disk: &dyn Disk, path: &str) -> Result<(), OpenError> {
    let moved = set_aside(disk, path);
    moved.map(|_| ()).map_err(OpenError::io(format!("move {path} to {LOST}")))
}

/// Moves a file or directory to a name in `lost+found` that nothing has, and returns that.
pub(crate) fn set_aside(disk: &dyn Disk, path: &str) -> io::Result<String> {
    let taken = disk.list(LOST)?;
    let name = path.replace('/', "-");
    let others = (2_u64..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(others);
    let name = names.find(|name| !taken.contains(name)).unwrap_or(name);
    let to = format!("{LOST}/{name}");
    disk.rename(path, &to)?;
    disk.sync_dir(LOST)?;
    disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
    Ok(to)
}
