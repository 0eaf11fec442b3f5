//! The one place of the server that reads the clocks.

use std::time::{Duration, Instant, SystemTime};

use crate::model::time::Now;

/// The clocks, from the start of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.uptime(), wall: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
    }

    pub(super) fn uptime(self) -> Duration {
        self.start.elapsed()
    }
}
