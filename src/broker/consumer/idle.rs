//! Why a consumer delivers nothing at this moment.
//!
//! It is found out when somebody asks, so that it is never what was true some time ago.

use std::time::Duration;

use crate::model::consumer::Idle;
use crate::model::request::SessionId;
use crate::model::time::{Now, Timestamp};

use super::Consumer;
use super::pending::State;

impl Consumer {
    /// Why nothing is delivered now. `open` tells which sessions can take deliveries; `stream_last`
    /// is the stream's last sequence. What keeps it from delivering at all comes first, whether or
    /// not somebody pulls; then what is there to be delivered; then why there is nothing.
    pub(crate) fn why_idle(
        &self,
        now: Now,
        stream_last: u64,
        open: &dyn Fn(SessionId) -> bool,
    ) -> Idle {
        if let Some(until) = self.config.pause_until.filter(|_| self.is_paused(now)) {
            return Idle::Paused { until };
        }
        let is_due = |seq: &u64| self.pending.get(*seq).is_some_and(|e| e.state == State::Due);
        let redelivers = self.redeliver.iter().any(is_due);
        if self.allowed() == 0 && !redelivers {
            return Idle::MaxAckPending;
        }
        if let Some(until) = self.replays_at(now).filter(|_| !redelivers) {
            return Idle::Replaying { until: on_the_wall(now, until) };
        }
        if let Some(until) = self.pace_wait(now) {
            return Idle::RateLimited { until: on_the_wall(now, until) };
        }
        let holds_ready = self.holding.as_ref().is_some_and(|holding| holding.is_ready());
        let is_full = self.holding.as_ref().is_some_and(|holding| !holding.has_room());
        let is_more = !is_full && (!self.fetched.is_empty() || self.has_unread(stream_last));
        if redelivers || holds_ready || is_more {
            let room = self.pulls.room(1, open, self.load(redelivers));
            return match room.messages {
                0 if room.closed => Idle::SlowSession,
                0 if room.stands_by => Idle::Standby,
                0 => Idle::NoPullWaiting,
                _ => Idle::Reading,
            };
        }
        if self.reading.is_some() {
            return Idle::Reading;
        }
        if self.num_held() > 0 {
            return Idle::KeysInFlight;
        }
        if let Some(until) = self.backs_off_until() {
            return Idle::BackingOff { until: on_the_wall(now, until) };
        }
        if self.cursor > stream_last { Idle::EndOfStream } else { Idle::FilterMatchesNothing }
    }

    /// When the next record that was read is due, if it keeps the gaps it was published with.
    fn replays_at(&self, now: Now) -> Option<Duration> {
        let record = self.fetched.front()?;
        self.replay_wait(now, record.seq, record.time)
    }

    /// Whether there are messages that were not read yet.
    fn has_unread(&self, stream_last: u64) -> bool {
        let read = (self.fetched.len() + self.num_held()) as u64;
        !self.listed.is_empty() || (self.cursor <= stream_last && self.num_pending > read)
    }

    /// The earliest time of redeliveries that were asked for later.
    fn backs_off_until(&self) -> Option<Duration> {
        let delayed = self.pending.iter().filter_map(|entry| match entry.state {
            State::Delayed(until) => Some(until),
            _ => None,
        });
        delayed.min()
    }
}

fn on_the_wall(now: Now, until: Duration) -> Timestamp {
    let left = until.saturating_sub(now.monotonic).as_nanos();
    Timestamp(now.wall.saturating_add(u64::try_from(left).unwrap_or(u64::MAX)))
}
