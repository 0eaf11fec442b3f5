//! What a consumer wants next: to read, to deliver, or nothing. [`Consumer::feed`],
//! [`Consumer::deliver`] and [`Consumer::redeliver`] take what comes of it.

use crate::model::consumer::AckPolicy;
use crate::model::request::SessionId;
use crate::model::time::Now;

use super::Consumer;

/// Records read ahead at once. Enough to fill a frame; few enough that a consumer with little room
/// does not hold memory.
const READ_RECORDS: u64 = 1024;
/// Bytes read ahead at once.
const READ_BYTES: usize = 256 << 10;

/// With so many records at hand, no more places are read before they are delivered; nor behind a record
/// that is larger than [`GATHERED_SIZE`], or behind [`READ_BYTES`] of them at a time.
const GATHERED: u64 = 64;
/// Bytes of a record that is worth gathering.
const GATHERED_SIZE: usize = 4 << 10;

/// What a consumer wants now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The record `seq`, to deliver it again, or for the first time after it was held back: give it to [`Consumer::redeliver`], or call
    /// [`Consumer::lost`] if it is not there.
    Redeliver {
        /// Its sequence.
        seq: u64,
    },
    /// New records that the filters want: give them to [`Consumer::feed`].
    Read {
        /// The lowest sequence.
        from: u64,
        /// The highest sequence.
        to: u64,
        /// At most so many.
        records: usize,
        /// Not many more bytes than this.
        bytes: usize,
    },
    /// New records at these sequences, which the filters want, as far as they are in memory: give them to
    /// [`Consumer::feed`], with the last sequence that was looked at. If not even the first is in memory,
    /// read that as for [`Want::Read`].
    Gather {
        /// Ascending.
        seqs: Vec<u64>,
        /// Not many more bytes than this.
        bytes: usize,
    },
    /// Deliver what was read: call [`Consumer::deliver`].
    Deliver,
    /// Nothing at this moment.
    Nothing(Rest),
}

/// Whether a consumer that wants nothing goes on by itself. [`Consumer::why_idle`] says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It does: the disk is read, or a session is sending.
    Going,
    /// Its pulls are used up.
    NoRoom,
    /// There is nothing that it may deliver.
    Nothing,
}

impl Consumer {
    /// What the consumer wants now. `open` tells which sessions can take deliveries;
    /// `stream_last` is the stream's last sequence. Call again after each step until it is
    /// [`Want::Nothing`].
    pub(crate) fn want(
        &mut self,
        now: Now,
        stream_last: u64,
        open: &dyn Fn(SessionId) -> bool,
    ) -> Want {
        if self.pulls.is_empty() {
            return Want::Nothing(Rest::NoRoom);
        }
        let want = self.wish(now, stream_last, open);
        if want == Want::Nothing(Rest::Nothing) {
            self.pulls.nothing_now(&mut self.statuses);
        }
        want
    }

    fn wish(&mut self, now: Now, stream_last: u64, open: &dyn Fn(SessionId) -> bool) -> Want {
        if self.is_paused(now) {
            return Want::Nothing(Rest::Nothing);
        }
        // With something at hand it is enough that one pull can take it.
        let at_hand = !self.fetched.is_empty() || !self.redeliver.is_empty();
        let again = self.next_redelivery();
        let load = self.load(again.is_some());
        let room = self.pulls.room(if at_hand { 1 } else { READ_RECORDS }, open, load);
        if room.messages == 0 {
            return Want::Nothing(match (room.closed, room.stands_by) {
                (true, _) => Rest::Going,
                (false, true) => Rest::Nothing,
                (false, false) => Rest::NoRoom,
            });
        }
        if self.pace_wait(now).is_some() {
            return Want::Nothing(Rest::Nothing);
        }
        if let Some(seq) = again {
            return Want::Redeliver { seq };
        }
        let allowed = self.allowed();
        if allowed == 0 {
            return Want::Nothing(Rest::Nothing);
        }
        if self.holding.is_some() {
            return self.wish_in_order(now, stream_last);
        }
        let open_room = |most| self.pulls.room(most, open, load).messages.min(allowed);
        if let Some(read) = self.wish_to_read_ahead(stream_last, open_room) {
            return read;
        }
        if let Some(read) = self.wish_to_gather(stream_last, open_room) {
            return read;
        }
        if let Some(record) = self.fetched.front() {
            let (seq, time) = (record.seq, record.time);
            return match self.replay_wait(now, seq, time) {
                Some(_) => Want::Nothing(Rest::Nothing),
                None => Want::Deliver,
            };
        }
        if self.reading.is_some() {
            return Want::Nothing(Rest::Going);
        }
        self.wish_to_read(stream_last, room.messages.min(allowed))
    }

    /// How many more deliveries may await acknowledgement.
    pub(super) fn allowed(&self) -> u64 {
        match u64::try_from(self.config.max_ack_pending) {
            Ok(most) if most > 0 && self.config.ack_policy != AckPolicy::None => {
                most.saturating_sub(self.pending.len() as u64)
            }
            _ => u64::MAX,
        }
    }

    /// What a consumer wants that orders messages by key or by priority.
    fn wish_in_order(&mut self, now: Now, stream_last: u64) -> Want {
        let turn = self.last_consumer_seq + 1;
        while let Some(holding) = &self.holding
            && holding.has_room()
            && let Some(record) = self.fetched.front()
            && self.replay_wait(now, record.seq, record.time).is_none()
        {
            let (seq, traits) = (record.seq, holding.traits(record));
            if !holding.is_by_priority() && holding.is_free(traits.key) {
                return Want::Deliver;
            }
            let record = self.fetched.pop_front();
            self.note_held(seq, traits, record.as_ref());
        }
        let Some(holding) = &self.holding else { return Want::Nothing(Rest::Going) };
        let (has_room, next) = (holding.has_room(), holding.next(turn));
        let more = self.wish_to_read(stream_last, READ_RECORDS);
        let reads = has_room && self.fetched.is_empty() && self.reading.is_none();
        match (more, next) {
            (read @ Want::Read { .. }, _) if reads => read,
            (_, Some(seq)) => Want::Redeliver { seq },
            _ if self.reading.is_some() => Want::Nothing(Rest::Going),
            // What is read waits for its time or for a key, and nothing more is read until then.
            (Want::Read { .. }, None) => Want::Nothing(Rest::Nothing),
            (more, None) => more,
        }
    }

    /// While records come from the disk, the next ones are read when half of what may be at hand is
    /// delivered, so that neither the disk nor the consumer waits for the other.
    fn wish_to_read_ahead(&self, stream_last: u64, open_room: impl Fn(u64) -> u64) -> Option<Want> {
        let at_hand = self.fetched.len() as u64;
        let is_due = self.reads_disk && self.reading.is_none() && at_hand < READ_RECORDS;
        let is_more = self.listed.is_empty() && self.cursor <= stream_last;
        if at_hand == 0 || !is_due || !is_more || self.num_pending <= at_hand {
            return None;
        }
        let room = open_room(at_hand + READ_RECORDS).saturating_sub(at_hand);
        let read = self.wish_to_read(stream_last, room);
        (room > 0 && matches!(read, Want::Read { .. })).then_some(read)
    }

    /// Where its messages lie far apart, and it knows where, several places are read before it delivers:
    /// a row costs little more than one message.
    fn wish_to_gather(&self, stream_last: u64, open_room: impl Fn(u64) -> u64) -> Option<Want> {
        let at_hand = self.fetched.len() as u64;
        let is_due = (1..GATHERED).contains(&at_hand) && self.num_pending > at_hand;
        let needs_disk = self.reads_disk || self.reading.is_some() || self.puts_off_failure;
        let is_small =
            self.fetched.back().is_some_and(|record| record.data().len() <= GATHERED_SIZE);
        if !is_due || needs_disk || !is_small || !self.listed.is_empty() || self.damage.is_some() {
            return None;
        }
        let place = self.sightings.next_seen(self.cursor, stream_last)?;
        let room = open_room(at_hand + READ_RECORDS).saturating_sub(at_hand);
        if room == 0 {
            return None;
        }
        let most = usize::try_from(room.min(GATHERED - at_hand)).unwrap_or(1);
        let seqs = self.sightings.known(self.cursor, most);
        Some(if seqs.is_empty() {
            read(place, room)
        } else {
            Want::Gather { seqs, bytes: READ_BYTES }
        })
    }

    fn wish_to_read(&self, stream_last: u64, records: u64) -> Want {
        if self.damage.is_some() {
            return Want::Nothing(Rest::Nothing);
        }
        if let Some(seq) = self.listed.front() {
            return read((*seq, *seq), 1);
        }
        if self.cursor > stream_last || self.num_pending <= self.num_held() as u64 {
            return Want::Nothing(Rest::Nothing);
        }
        // The disk is read in large pieces, in which its own index finds what is wanted.
        let place = match self.reads_disk {
            true => Some((self.cursor, stream_last)),
            false => self.sightings.next(self.cursor, stream_last),
        };
        place.map_or(Want::Nothing(Rest::Nothing), |place| read(place, records))
    }
}

/// A read of so many records, or fewer, in a range of sequences.
fn read((from, to): (u64, u64), records: u64) -> Want {
    let records = usize::try_from(records.min(READ_RECORDS)).unwrap_or(1);
    Want::Read { from, to, records, bytes: READ_BYTES }
}
