//! Expiry: records that grow too old, and records that expire by themselves.

use std::time::Duration;

use claudebus_storage::{Log, NewRecord, Record, StreamId};

use crate::model::headers::{Block, get, names};
use crate::model::time::Now;

use super::jobs::Progress;
use super::stream::{Chore, ttl};
use super::{Broker, Deadline};

impl<L: Log> Broker<L> {
    /// Something of the stream may have expired.
    pub(super) fn expire(&mut self, id: StreamId) {
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.expiry_at = None;
        }
        self.start_chore(id, Chore::Age);
        self.start_chore(id, Chore::Expire);
    }

    /// Deletes the records that are older than `max_age`; those with a TTL of `never` stay.
    pub(super) fn age(&mut self, id: StreamId, records: &[Record], next: u64) -> Progress {
        let Some(stream) = self.catalog.get_mut(id) else { return Progress::Done };
        let max_age = nanos(stream.config.max_age);
        for (at, record) in records.iter().enumerate() {
            if record.expires == Some(ttl::NEVER) {
                continue;
            }
            if record.time.saturating_add(max_age) > self.horizon.wall {
                if let Some(stream) = self.catalog.get_mut(id) {
                    stream.age_cursor = record.seq;
                    stream.first_time = Some((record.seq, record.time));
                }
                return Progress::Done;
            }
            self.expire_records(id, records.get(at..=at).unwrap_or_default());
        }
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.age_cursor = next;
        }
        Progress::More
    }

    /// Deletes records that expired, and leaves markers where the stream wants them.
    pub(super) fn expire_records(&mut self, id: StreamId, records: &[Record]) {
        for record in records {
            self.remove_record(id, record, false);
            let Some(stream) = self.catalog.get(id) else { return };
            let marker_ttl = stream.config.subject_delete_marker_ttl;
            let is_marker = get(record.headers(), names::MARKER_REASON).is_some();
            if !marker_ttl.is_zero()
                && !is_marker
                && self.log.subject(id, record.subject()).is_none()
            {
                self.append_marker(id, record.subject(), marker_ttl);
            }
        }
    }

    /// Stores a message that says that the last one of its subject expired.
    fn append_marker(&mut self, id: StreamId, subject: &str, marker_ttl: Duration) {
        let mut block = Block::default();
        block.add(names::MARKER_REASON, "MaxAge");
        block.add(names::TTL, &format!("{}s", marker_ttl.as_secs()));
        block.add(names::ROLLUP, "sub");
        let time = self.log.stream(id).map_or(0, |held| held.last_time).max(self.now.wall);
        let record = NewRecord {
            subject,
            headers: &block.finish(),
            payload: b"",
            time,
            expires: Some(time.saturating_add(nanos(marker_ttl))),
            message_id: None,
        };
        if let Ok(seq) = self.log.append(id, &record) {
            self.note_appended(id);
            self.tell_appended(id, subject, 1);
            self.republish(id, &record, seq, 0);
        }
    }

    /// Sets the stream's next expiry deadline.
    pub(super) fn schedule_expiry(&mut self, id: StreamId) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let Some(held) = self.log.stream(id) else { return };
        let own = self.log.next_expiry(id).map(|(at, _)| at).filter(|at| *at != ttl::NEVER);
        let max_age = nanos(stream.config.max_age);
        let from = held.first_seq.max(stream.age_cursor);
        let aged = (max_age > 0 && held.messages > 0 && from <= held.last_seq).then(|| {
            // Without a known first time, the last one is the latest the first can be; the chore
            // reads the true one when it comes to that.
            let known = stream.first_time.filter(|(seq, _)| *seq == from);
            known.map_or(held.last_time, |(_, time)| time).saturating_add(max_age)
        });
        let at = own.into_iter().chain(aged).min().map(|at| {
            let wait = at.saturating_sub(self.horizon.wall);
            self.now.monotonic + Duration::from_nanos(wait).max(MIN_WAIT)
        });
        // An earlier deadline may have been set when the first time was known.
        let at = stream.expiry_at.into_iter().chain(at).min();
        stream.expiry_at = at;
        self.schedule.set(Deadline::Expiry(id), at);
    }
}

/// Shortest wait for an expiry, so that clocks which disagree by a little don't make a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(1);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall-clock time that expiry goes by. It follows the clock, but not faster than 60 times
/// real time: a clock that jumps ahead must not empty a stream at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    monotonic: Duration,
    pub(super) wall: u64,
}

impl Horizon {
    /// A horizon that begins at `now`.
    pub(super) fn new(now: Now) -> Self {
        Self { monotonic: now.monotonic, wall: now.wall }
    }

    /// Follows the clock.
    pub(super) fn advance(&mut self, now: Now) {
        let elapsed = now.monotonic.saturating_sub(self.monotonic);
        let farthest = self.wall.saturating_add(nanos(elapsed).saturating_mul(60));
        self.wall = now.wall.min(farthest);
        self.monotonic = self.monotonic.max(now.monotonic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_moves_at_most_sixty_times_real_time() {
        let at = |monotonic, wall| Now { monotonic: Duration::from_secs(monotonic), wall };
        let second = 1_000_000_000;
        let mut horizon = Horizon::new(at(0, 100 * second));
        horizon.advance(at(1, 101 * second));
        assert_eq!(horizon.wall, 101 * second);
        horizon.advance(at(2, 10_000 * second));
        assert_eq!(horizon.wall, 161 * second);
        horizon.advance(at(3, 50 * second));
        assert_eq!(horizon.wall, 50 * second);
    }
}
