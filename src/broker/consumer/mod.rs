//! A consumer: what it has delivered, what awaits acknowledgement, who waits for messages.
//!
//! A state machine. It is told of pulls, records, acknowledgements and the time, and tells what it
//! wants to read, whom it delivers to, and which messages it has given up. It never reads the log
//! and never touches a stream: the broker does that between the calls. Semantics are JetStream's.
//!
//! Everything that must survive is returned by [`Consumer::take_notes`] as the change is made, and
//! rebuilt by [`Consumer::restore`]: both go through the same functions.

mod acks;
mod archive;
mod delivery;
mod groups;
mod holding;
mod idle;
mod notes;
mod pending;
mod pulls;
mod sightings;
mod timers;
mod wanting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::{ReadId, Record, SubjectId};

use crate::model::consumer::{
    AckPolicy, ConsumerConfig, DeliverPolicy, PriorityGroupState, ReplayPolicy, SequencePair,
};
use crate::model::event::{ConsumerPath, Delivery, PullStatus};
use crate::model::request::{ReplyTo, SessionId};
use crate::model::time::{Now, Timestamp};

use holding::Holding;
use notes::Notes;
use pending::Pending;
use pulls::Pulls;
use sightings::Sightings;
use timers::Timers;

pub(crate) use delivery::{RowLimit, Way};
pub(crate) use groups::PinChange;
#[cfg(test)]
pub(in crate::broker) use holding::MAX_HELD;
pub(crate) use wanting::{Rest, Want};

/// Deliveries that need not be noted while they flow: what a consumer without acknowledgements may see
/// again after a crash.
const UNNOTED: u64 = 16_384;

/// A message that a consumer no longer holds: what the stream needs to delete it, if its retention
/// says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// Its subject and size, unless the delivery was before the last restart.
    pub(crate) meta: Option<Meta>,
}

/// What deleting a message needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Its subject.
    pub(crate) subject: SubjectId,
    /// Its size as the stream counts it, in bytes.
    pub(crate) size: u64,
}

/// A delivery that awaits acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The message's sequence in the stream.
    pub(crate) seq: u64,
    /// Sequence of the first delivery among the consumer's.
    pub(crate) consumer_seq: u64,
    /// How often it was delivered.
    pub(crate) attempts: u64,
    /// When it was last delivered.
    pub(crate) last: Timestamp,
}

/// A message that was given up: its last permitted attempt failed. It stays pending, and a late
/// acknowledgement still counts, until [`Consumer::bury`] settles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dying {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// How often it was delivered.
    pub(crate) attempts: u64,
    /// When it was first delivered.
    pub(crate) first: Timestamp,
    /// When it was last delivered.
    pub(crate) last: Timestamp,
    /// Sequence of the first delivery among the consumer's.
    pub(crate) consumer_seq: u64,
    /// Why.
    pub(crate) reason: DeadReason,
}

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    /// The last attempt was not acknowledged in time.
    NotAcknowledged,
    /// The last attempt was refused.
    Refused,
    /// The application terminated it, with these words.
    Terminated(String),
    /// Its bytes cannot be read.
    Unreadable(String),
}

impl std::fmt::Display for DeadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAcknowledged => f.write_str("the last attempt was not acknowledged in time"),
            Self::Refused => f.write_str("the last attempt was refused"),
            Self::Terminated(words) if words.is_empty() => f.write_str("terminated"),
            Self::Terminated(words) => write!(f, "terminated: {words}"),
            Self::Unreadable(why) => write!(f, "unreadable: {why}"),
        }
    }
}

/// A status for a waiting pull, with whom it goes to.
pub(crate) type StatusFor = (SessionId, ReplyTo, PullStatus);

/// The state machine. See the module's text.
#[derive(Debug)]
pub(crate) struct Consumer {
    path: Arc<ConsumerPath>,
    config: ConsumerConfig,
    created: Timestamp,
    /// The lowest sequence that was not yet considered for a first delivery.
    cursor: u64,
    /// Where its next messages lie, at or after the cursor.
    sightings: Sightings,
    /// Sequences to deliver before going on at the cursor, ascending (last per subject).
    listed: VecDeque<u64>,
    /// The last first delivery.
    delivered: SequencePair,
    /// Messages held back, if it orders them by key or by priority.
    holding: Option<Box<Holding>>,
    /// Number of the last delivery, redeliveries included.
    last_consumer_seq: u64,
    floor: SequencePair,
    /// What is shown instead, while messages above the last acknowledged one were given up.
    given_up: Option<GivenUp>,
    /// When something was last acknowledged, or removed while it awaited that; since the last restart.
    last_ack: Option<Timestamp>,
    pending: Pending,
    timers: Timers,
    /// Sequences whose redelivery is due, in order of becoming so. May name settled ones.
    redeliver: VecDeque<u64>,
    dying: VecDeque<u64>,
    pulls: Pulls,
    /// Records read ahead, not yet delivered. Bounded by what [`Want::Read`] and [`Want::Gather`] asked for.
    fetched: VecDeque<Record>,
    reading: Option<ReadId>,
    /// The last read needed the disk.
    reads_disk: bool,
    /// A read failed while records were at hand: it is not tried again before they are delivered.
    puts_off_failure: bool,
    /// Messages that were never delivered and match the filters.
    num_pending: u64,
    notes: Notes,
    /// Deliveries up to this one are in notes that were taken.
    noted_through: u64,
    statuses: Vec<StatusFor>,
    last_activity: Duration,
    /// Replay at original speed: up to this sequence, and the last delivery's stream time and
    /// moment.
    replay: Option<Replay>,
    /// With a limited rate: when what was delivered will have been sent at that rate.
    paced_until: Duration,
    /// Why reading cannot go on, if it cannot.
    damage: Option<String>,
}

/// Messages that were given up are settled, but they are not acknowledged: until others are, the floor
/// is shown where it was, and they count as redelivered, as in nats-server. Forgotten by a restart.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    floor: SequencePair,
    /// How many of them were delivered more than once.
    redelivered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Replay {
    until: u64,
    last: Option<(u64, Duration)>,
}

/// Where a new consumer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first sequence it considers.
    pub(crate) cursor: u64,
    /// Sequences below the cursor to deliver first, ascending.
    pub(crate) listed: Vec<u64>,
    /// The stream's last sequence now.
    pub(crate) stream_last: u64,
    /// How many messages it has to deliver.
    pub(crate) num_pending: u64,
}

impl Consumer {
    /// A consumer that has delivered nothing. `config` has its defaults filled in. Its notes hold
    /// its first base.
    pub(crate) fn new(
        path: Arc<ConsumerPath>,
        config: ConsumerConfig,
        created: Timestamp,
        start: Start,
        now: Now,
    ) -> Self {
        let replay = (config.replay_policy == ReplayPolicy::Original)
            .then_some(Replay { until: start.stream_last, last: None });
        let before = start.listed.first().map_or(start.cursor, |first| *first).saturating_sub(1);
        let origin = SequencePair { consumer_seq: 0, stream_seq: before, last_active: None };
        let mut pulls = Pulls::default();
        pulls.groups.configure(&config);
        Self {
            path,
            holding: Holding::of(&config),
            config,
            created,
            cursor: start.cursor,
            sightings: Sightings::default(),
            listed: start.listed.into(),
            delivered: origin,
            last_consumer_seq: 0,
            floor: origin,
            given_up: None,
            last_ack: None,
            pending: Pending::default(),
            timers: Timers::default(),
            redeliver: VecDeque::new(),
            dying: VecDeque::new(),
            pulls,
            fetched: VecDeque::new(),
            reading: None,
            reads_disk: false,
            puts_off_failure: false,
            num_pending: start.num_pending,
            notes: Notes::default(),
            noted_through: 0,
            statuses: Vec::new(),
            last_activity: now.monotonic,
            replay,
            paced_until: Duration::ZERO,
            damage: None,
        }
    }

    /// The first sequence that is neither acknowledged nor, without acknowledgements, delivered.
    pub(crate) fn first_unsettled(&self) -> u64 {
        let settled = match self.config.ack_policy {
            AckPolicy::None => self.delivered.stream_seq,
            _ => self.ack_floor().stream_seq,
        };
        settled + 1
    }

    /// Begins anew at `seq`, as if nothing from there on had been delivered. Pulls go on waiting. The caller
    /// writes its new base, and counts what is pending.
    pub(crate) fn reset(&mut self, seq: u64, stream_last: u64, now: Now) {
        // Of the last messages of subjects those that are still to be acknowledged are delivered again.
        let mut listed: Vec<u64> = if self.config.deliver_policy == DeliverPolicy::LastPerSubject {
            let pending = self.pending.iter().map(|entry| entry.seq);
            pending.chain(self.listed.iter().copied()).filter(|listed| *listed >= seq).collect()
        } else {
            Vec::new()
        };
        listed.sort_unstable();
        let cursor = if listed.is_empty() { seq } else { self.cursor.max(seq) };
        let start = Start { cursor, listed, stream_last, num_pending: 0 };
        let mut fresh =
            Self::new(Arc::clone(&self.path), self.config.clone(), self.created, start, now);
        let origin = SequencePair { consumer_seq: 0, stream_seq: seq - 1, last_active: None };
        (fresh.delivered, fresh.floor) = (origin, origin);
        fresh.pulls = std::mem::take(&mut self.pulls);
        fresh.statuses = std::mem::take(&mut self.statuses);
        *self = fresh;
    }

    /// Its full name.
    pub(crate) fn path(&self) -> &Arc<ConsumerPath> {
        &self.path
    }

    /// Its configuration, defaults included.
    pub(crate) fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    /// After a restart: goes on at the speed of the originals, up to what is stored now.
    pub(crate) fn resume_replay(&mut self, stream_last: u64) {
        if self.config.replay_policy == ReplayPolicy::Original {
            self.replay = Some(Replay { until: stream_last, last: None });
        }
    }

    /// Replaces the configuration. The caller has checked that the change is allowed, and counts
    /// again what is pending if the filters changed.
    pub(crate) fn reconfigure(&mut self, config: ConsumerConfig, now: Now) {
        if !config.filters().eq(self.config.filters()) {
            // What was read ahead, and what was passed over, was chosen by the old filters.
            if self.listed.is_empty() {
                let held = self.holding.as_ref().and_then(|holding| holding.last());
                self.cursor = self.delivered.stream_seq.max(held.unwrap_or(0)) + 1;
            } else {
                self.cursor = self.fetched.front().map_or(self.cursor, |record| record.seq);
            }
            self.fetched.clear();
            self.reading = None;
            self.sightings.forget();
        }
        self.pulls.groups.configure(&config);
        self.config = config;
        self.last_activity = now.monotonic;
    }

    /// When it was created.
    pub(crate) fn created(&self) -> Timestamp {
        self.created
    }

    /// The last first delivery.
    pub(crate) fn delivered(&self) -> SequencePair {
        SequencePair { consumer_seq: self.last_consumer_seq, ..self.delivered }
    }

    /// Up to where everything is acknowledged.
    pub(crate) fn ack_floor(&self) -> SequencePair {
        let first = self.holding.as_ref().and_then(|holding| Some(holding.iter().next()?.0));
        let floor = self.given_up.map_or(self.floor, |given_up| given_up.floor);
        let stream_seq = floor.stream_seq.min(first.map_or(u64::MAX, |first| first - 1));
        SequencePair { stream_seq, last_active: self.last_ack, ..floor }
    }

    /// Deliveries that await acknowledgement.
    pub(crate) fn num_ack_pending(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Those of them that were delivered more than once, and those given up since the last one was
    /// acknowledged.
    pub(crate) fn num_redelivered(&self) -> u64 {
        self.pending.redelivered() + self.given_up.map_or(0, |given_up| given_up.redelivered)
    }

    /// Pulls that wait.
    pub(crate) fn num_waiting(&self) -> u64 {
        self.pulls.len() as u64
    }

    /// Messages still to be delivered for the first time.
    pub(crate) fn num_pending(&self) -> u64 {
        self.num_pending
    }

    /// Corrects the number of messages still to be delivered, after they were counted.
    pub(crate) fn set_num_pending(&mut self, count: u64) {
        self.num_pending = count;
    }

    /// The lowest sequence not yet considered for a first delivery.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How many messages below the cursor it has still to deliver: those that are listed, those that
    /// were read ahead, and those that are held back.
    pub(crate) fn num_before_cursor(&self) -> u64 {
        (self.listed.len() + self.fetched.len() + self.num_held()) as u64
    }

    fn num_held(&self) -> usize {
        self.holding.as_ref().map_or(0, |holding| holding.len())
    }

    /// Whether `seq` is held back.
    pub(crate) fn is_held(&self, seq: u64) -> bool {
        self.holding.as_ref().is_some_and(|holding| holding.is_held(seq))
    }

    /// A message that is held back, if it was kept and need not be read again.
    pub(crate) fn held_record(&self, seq: u64) -> Option<&Record> {
        self.holding.as_ref()?.record(seq)
    }

    /// Forgets a message that is held back, which will not be delivered. Returns whether it was
    /// held.
    fn release(&mut self, seq: u64) -> bool {
        let released = self.holding.as_mut().is_some_and(|holding| holding.release(seq));
        if released {
            self.notes.settled(seq);
        }
        released
    }

    /// The configured acknowledgement policy.
    pub(crate) fn ack_policy(&self) -> AckPolicy {
        self.config.ack_policy
    }

    /// Whether `seq` awaits acknowledgement.
    pub(crate) fn is_pending(&self, seq: u64) -> bool {
        self.pending.get(seq).is_some()
    }

    /// Whether the consumer has no more use for `seq`, given that its filters want it: delivered
    /// and settled. Interest retention asks.
    pub(crate) fn has_settled(&self, seq: u64) -> bool {
        seq < self.cursor
            && !self.is_pending(seq)
            && !self.is_held(seq)
            && self.listed.binary_search(&seq).is_err()
            && self.position_fetched(seq).is_none()
    }

    /// Where `seq` is among the records read ahead, which are in ascending order.
    fn position_fetched(&self, seq: u64) -> Option<usize> {
        self.fetched.binary_search_by_key(&seq, |record| record.seq).ok()
    }

    /// Whether all sequences from `first` to `last` were delivered, or passed over. If not, an
    /// acknowledgement of them is of a delivery whose note was lost with a crash: nothing can be
    /// confirmed then, because the message will be delivered again.
    pub(crate) fn was_delivered(&self, first: u64, last: u64) -> bool {
        let fetched = self.fetched.front().map_or(u64::MAX, |record| record.seq);
        let listed = self.listed.front().copied().unwrap_or(u64::MAX);
        last < self.cursor.min(fetched).min(listed)
            && !self.holding.as_ref().is_some_and(|holding| holding.holds_any(first, last))
    }

    /// So many records that the filters want were appended, in a row that ends at `last`. Those
    /// before a start in the future are not its business.
    pub(crate) fn appended(&mut self, count: u64, last: u64) {
        self.num_pending += count.min((last + 1).saturating_sub(self.cursor));
        self.sightings.add((last + 1).saturating_sub(count), last);
    }

    /// A record that the filters want was removed from the stream.
    pub(crate) fn removed(&mut self, now: Now, seq: u64) {
        if seq >= self.cursor {
            self.num_pending = self.num_pending.saturating_sub(1);
        } else if let Ok(at) = self.listed.binary_search(&seq) {
            self.listed.remove(at);
            self.num_pending = self.num_pending.saturating_sub(1);
        } else if self.pending.get(seq).is_some() {
            self.settle(seq);
            self.last_ack = Some(Timestamp(now.wall));
        } else if self.release(seq) {
            self.num_pending = self.num_pending.saturating_sub(1);
        } else if let Some(at) = self.position_fetched(seq) {
            self.fetched.remove(at);
            self.num_pending = self.num_pending.saturating_sub(1);
        }
    }

    /// All records of the stream up to `through` were removed at once.
    pub(crate) fn cleared(&mut self, now: Now, through: u64) {
        self.fetched.clear();
        self.listed.clear();
        self.num_pending = 0;
        self.cursor = self.cursor.max(through + 1);
        let held: Vec<u64> = self
            .holding
            .as_ref()
            .map(|holding| holding.iter().map(|(seq, _)| seq).collect())
            .unwrap_or_default();
        for seq in held {
            self.release(seq);
        }
        let gone: Vec<u64> =
            self.pending.iter().map(|entry| entry.seq).filter(|seq| *seq <= through).collect();
        for seq in gone {
            self.settle(seq);
            self.last_ack = Some(Timestamp(now.wall));
        }
        // It is as if all that was there had been delivered.
        self.delivered.stream_seq = self.delivered.stream_seq.max(through);
        if self.pending.len() == 0 {
            self.given_up = None;
            self.floor.consumer_seq = self.last_consumer_seq;
            self.floor.stream_seq = self.floor.stream_seq.max(through);
        }
    }

    /// Its priority groups, and who is pinned.
    pub(crate) fn priority_groups(&self) -> Vec<PriorityGroupState> {
        self.pulls.groups.state().into_iter().collect()
    }

    /// Whether a name for the next client to be pinned is to be given by
    /// [`supply_pin`](Self::supply_pin).
    pub(crate) fn wants_pin(&self) -> bool {
        !self.pulls.is_empty() && self.pulls.groups.wants_pin()
    }

    /// Gives a name, which nobody can guess, for the next client to be pinned.
    pub(crate) fn supply_pin(&mut self, id: &str) {
        self.pulls.groups.supply_pin(id);
    }

    /// The client of a priority group is pinned no more. Returns whether there is such a group.
    pub(crate) fn unpin(&mut self, group: &str) -> bool {
        self.pulls.groups.unpin(group)
    }

    /// Who was pinned, and who no more, since the last call.
    pub(crate) fn take_pin_changes(&mut self) -> Vec<PinChange> {
        self.pulls.groups.take_changes()
    }

    /// Statuses for pulls since the last call.
    pub(crate) fn take_statuses(&mut self) -> Vec<StatusFor> {
        std::mem::take(&mut self.statuses)
    }

    /// Changes since the last call, as bytes to be noted under the consumer's key.
    pub(crate) fn take_notes(&mut self) -> Option<Vec<u8>> {
        self.noted_through = self.last_consumer_seq;
        self.notes.take()
    }

    /// Whether its changes may stay unnoted for now. Without acknowledgements a place in the stream
    /// promises nothing, so that a flow of messages need not write to the disk each turn. Unless there is one
    /// attempt only, which is noted before it leaves.
    pub(crate) fn may_note_later(&self) -> bool {
        self.config.ack_policy == AckPolicy::None
            && self.config.max_deliver != 1
            && self.last_consumer_seq.saturating_sub(self.noted_through) < UNNOTED
    }

    /// The delivery of `record` as number `consumer_seq`.
    fn delivery(&self, record: Record, consumer_seq: u64, attempts: u64) -> Delivery {
        Delivery {
            record,
            consumer_seq,
            attempts,
            pending: self.num_pending,
            headers_only: self.config.headers_only,
            pin: self.pulls.groups.told(),
        }
    }
}

#[cfg(test)]
mod tests;
