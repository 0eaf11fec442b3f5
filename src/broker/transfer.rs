//! Streams on their way out of the server and into it: snapshots and restores.
//!
//! What both send is an [archive](crate::model::archive) in an [S2 stream](crate::model::s2), in chunks, with
//! an empty message at the end. A snapshot goes on as its chunks are acknowledged, a restore as its chunks come;
//! each ends by itself when its client is silent.

mod restoring;
mod snapshot;

use std::collections::BTreeMap;
use std::time::Duration;

use claudebus_storage::Log;

use super::{Broker, Deadline};
pub(super) use restoring::Restoring;
pub(super) use snapshot::Snapshot;

/// Snapshots, and restores, at a time. 8: each holds some megabytes of memory.
const MAX_TRANSFERS: usize = 8;
/// How long a client may be silent. A minute: disks that clients write to stall for seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Characters of the name of one.
const NAME_LENGTH: usize = 22;

/// The snapshots and restores that are under way, by their names.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    snapshots: BTreeMap<String, Snapshot>,
    restores: BTreeMap<String, Restoring>,
}

#[cfg(test)]
impl Transfers {
    pub(super) fn snapshots_are_over(&self) -> bool {
        self.snapshots.is_empty()
    }
}

impl<L: Log> Broker<L> {
    /// A snapshot or a restore may go on, or its client has been silent for too long.
    pub(super) fn transfer_timeout(&mut self, name: &str) {
        if self.transfers.snapshots.contains_key(name) {
            self.snapshot_timeout(name);
        } else {
            self.restore_timeout(name);
        }
    }

    /// When [`transfer_timeout`](Self::transfer_timeout) is to be called.
    fn wake_transfer(&mut self, name: &str, after: Option<Duration>) {
        let at = after.map(|after| self.now.monotonic + after);
        self.schedule.set(Deadline::Transfer(name.to_owned()), at);
    }
}
