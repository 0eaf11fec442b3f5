//! Pulls, records that were read, and deliveries.

use std::time::Duration;

use claudebus_storage::{ReadId, Record};

use crate::model::consumer::{AckPolicy, SequencePair};
use crate::model::event::{Delivery, PullStatus};
use crate::model::request::{Pull, ReplyTo, SessionId, Token};
use crate::model::time::{Now, Timestamp};

use super::groups::Load;
use super::holding::Traits;
use super::pending::{Entry, State};
use super::pulls::{PullLimits, Size};
use super::{Consumer, Meta};

/// Bytes that a consumer with a limited rate may deliver at once after a rest: the largest message that
/// the real server takes by default, as it allows.
const BURST: u64 = 1 << 20;

/// Where deliveries go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Whose pull they satisfy.
    pub(crate) session: SessionId,
    /// What the pull named.
    pub(crate) reply: ReplyTo,
    /// Whether they must not leave before the journal holds that it did: attempts after the first,
    /// and the only attempt allowed.
    pub(crate) wait_durable: bool,
}

/// How long a row may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLimit {
    /// Bytes, counted by [`Delivery::charge`].
    pub(crate) bytes: usize,
    /// The highest sequence.
    pub(crate) last: u64,
}

/// What the length of the subjects depends on that NATS clients acknowledge with:
/// `$JS.ACK.<stream>.<consumer>.<attempts>.<stream seq>.<consumer seq>.<time>.<pending>`.
#[derive(Clone, Copy, Debug)]
struct Replies {
    names: usize,
    last_consumer_seq: u64,
    pending: u64,
}

impl Replies {
    /// Of the `nth` message that is delivered for the first time from now on.
    fn first(self, record: &Record, nth: u64) -> u64 {
        self.length(record, 1, nth, self.pending.saturating_sub(nth + 1))
    }

    /// Of a message that is delivered again.
    fn again(self, record: &Record, attempts: u64) -> u64 {
        self.length(record, attempts, 0, self.pending)
    }

    fn length(self, record: &Record, attempts: u64, nth: u64, pending: u64) -> u64 {
        let digits = |number: u64| u64::from(number.checked_ilog10().unwrap_or(0)) + 1;
        let consumer_seq = self.last_consumer_seq + nth + 1;
        let numbers = [attempts, record.seq, consumer_seq, record.time, pending];
        let fixed = "$JS.ACK.".len() + self.names + ".".len() * 6;
        fixed as u64 + numbers.into_iter().map(digits).sum::<u64>()
    }
}

impl Consumer {
    /// A pull request arrives.
    pub(crate) fn pull(&mut self, now: Now, session: SessionId, pull: Pull) {
        self.last_activity = now.monotonic;
        let config = &self.config;
        let limits = PullLimits {
            max_waiting: u64::try_from(config.max_waiting).unwrap_or(0),
            max_batch: u64::try_from(config.max_batch).unwrap_or(0),
            max_bytes: u64::try_from(config.max_bytes).unwrap_or(0),
            max_expires: config.max_expires,
        };
        let available = self.num_pending + self.redeliver.len() as u64 + self.fetched.len() as u64;
        let told = self.pulls.add(now, session, pull, limits, available);
        self.statuses.extend(told);
    }

    /// A waiting pull may take more.
    pub(crate) fn raise(&mut self, now: Now, session: SessionId, token: Token, more: (u64, u64)) {
        self.last_activity = now.monotonic;
        self.pulls.raise(session, token, more.0, more.1);
    }

    /// A waiting pull is withdrawn.
    pub(crate) fn cancel(&mut self, session: SessionId, token: Token) {
        self.pulls.cancel(session, token);
    }

    /// A session is over.
    pub(crate) fn session_closed(&mut self, now: Now, session: SessionId) {
        self.last_activity = now.monotonic;
        self.pulls.session_closed(session);
    }

    /// Drops pulls whose reply subject has no listener.
    pub(crate) fn drop_unheard_pulls(&mut self, listens: impl Fn(&str) -> bool) {
        self.pulls.retain_listening(listens);
    }

    /// Whether it delivers to a subject, by its configuration or for a pull that waits.
    pub(crate) fn sends_to(&self, subject: &str) -> bool {
        self.config.deliver_subject.as_deref() == Some(subject) || self.pulls.sends_to(subject)
    }

    /// Ends all waiting pulls with a status, because the consumer or the server goes away.
    pub(crate) fn end_pulls(&mut self, code: u16, text: &'static str) {
        if self.config.deliver_subject.is_some() {
            // The server's own pull. Who listens did not ask for it.
            self.pulls.retain_listening(|_| false);
            return;
        }
        self.pulls.end_all(code, text, &mut self.statuses);
    }

    /// A status for a pull that did not even reach a consumer.
    pub(crate) fn no_such_consumer(pull: &Pull) -> PullStatus {
        PullStatus {
            code: 503,
            text: "".into(),
            pending_messages: pull.batch,
            pending_bytes: pull.max_bytes,
            last: (0, 0),
            ended: true,
            reply: None,
            stalled: None,
        }
    }

    /// Holds a message back; the part that replay repeats.
    pub(super) fn note_held(&mut self, seq: u64, traits: Traits, record: Option<&Record>) {
        let Some(holding) = &mut self.holding else { return };
        holding.hold(seq, traits, record);
        self.notes.held(seq, traits);
        if self.listed.front() == Some(&seq) {
            self.listed.pop_front();
        }
        self.cursor = self.cursor.max(if self.listed.is_empty() { seq + 1 } else { 0 });
    }

    /// The read that was wished for needs the disk.
    pub(crate) fn reading(&mut self, read: ReadId) {
        self.reading = Some(read);
        self.reads_disk = true;
        self.puts_off_failure = false;
    }

    /// The read that was wished for was answered at once.
    pub(crate) fn read_memory(&mut self) {
        self.reads_disk = false;
        self.puts_off_failure = false;
    }

    /// A read failed. If earlier records are still at hand, they come first: it is tried again
    /// after them, and this returns true.
    pub(crate) fn puts_off_failure(&mut self) -> bool {
        self.reads_disk = false;
        self.puts_off_failure = !self.fetched.is_empty();
        self.puts_off_failure
    }

    /// Whether this is the read the consumer waits for; if so it waits no longer.
    pub(crate) fn finish_reading(&mut self, read: ReadId) -> bool {
        let awaited = self.reading == Some(read);
        if awaited {
            self.reading = None;
        }
        awaited
    }

    /// Whether some pull ends as soon as nothing can be delivered.
    pub(crate) fn has_no_wait(&self) -> bool {
        self.pulls.has_no_wait()
    }

    /// The sequence of the record that is delivered next, if that is read already.
    pub(crate) fn next_fetched(&self) -> Option<u64> {
        self.fetched.front().map(|record| record.seq)
    }

    /// Takes records that were read, and the first sequence that was not examined.
    pub(crate) fn feed(&mut self, records: impl IntoIterator<Item = Record>, next: u64) {
        if let Some(front) = self.listed.front().copied() {
            // A listed sequence is read alone; if it is gone, so is its place in the list.
            self.listed.pop_front();
            self.fetched.extend(records.into_iter().filter(|record| record.seq == front));
            if self.fetched.is_empty() {
                self.num_pending = self.num_pending.saturating_sub(1);
            }
            return;
        }
        self.fetched.extend(records.into_iter().filter(|record| record.seq >= self.cursor));
        self.cursor = self.cursor.max(next);
        self.sightings.pass(self.cursor);
    }

    /// Reading cannot go on: this part of the stream is damaged. Sequences up to `last` are passed
    /// over; the reader was told.
    pub(crate) fn damaged(&mut self, last: u64, why: String) {
        if self.listed.front().is_some_and(|seq| *seq <= last) {
            self.listed.pop_front();
        } else {
            self.cursor = self.cursor.max(last.saturating_add(1));
        }
        self.damage = Some(why);
    }

    /// Who waits for messages, or did until now.
    pub(crate) fn waiting_pulls(&self) -> Vec<(SessionId, ReplyTo)> {
        let mut waiting = self.pulls.waiting();
        for (session, reply, _) in &self.statuses {
            let ended = (*session, reply.clone());
            if !waiting.contains(&ended) {
                waiting.push(ended);
            }
        }
        waiting
    }

    /// Which of the damaged sequences from `first` to `last` are passed over.
    pub(crate) fn passes(&self, first: u64, last: u64) -> (u64, u64) {
        match self.listed.front() {
            Some(seq) => (*seq, *seq),
            None => (self.cursor.max(first).min(last), last),
        }
    }

    /// What damage was met, once; reading goes on behind it.
    pub(crate) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// Delivers records that were read to the pull whose turn it is: as many in a row as it takes and
    /// as `limit` allows, but one at least. They are added to
    /// `row`; `meta_of` is asked once for each, in order. `None` if no pull could take any; ask
    /// [`Consumer::want`] again.
    pub(crate) fn deliver(
        &mut self,
        now: Now,
        open: &dyn Fn(SessionId) -> bool,
        limit: RowLimit,
        mut meta_of: impl FnMut(&Record) -> Option<Meta>,
        row: &mut Vec<Delivery>,
    ) -> Option<Way> {
        // A message that keeps an order or a distance is looked at by itself.
        let is_single =
            self.holding.is_some() || self.replay.is_some() || self.config.rate_limit_bps > 0;
        let most = if is_single { 1 } else { self.allowed() };
        let (replies, load) = (self.replies(), self.load(false));
        let mut bytes = 0;
        let sizes = self.fetched.iter().zip(0..most).map_while(|(record, nth)| {
            let has_room = (bytes < limit.bytes && record.seq <= limit.last) || bytes == 0;
            bytes += Delivery::charge_of(record);
            has_room.then(|| Size {
                stored: Delivery::pull_bytes(record),
                reply: replies.map_or(0, |replies| replies.first(record, nth)),
            })
        });
        let (session, reply, count) =
            self.pulls.take(now, open, load, sizes, &mut self.statuses)?;
        for _ in 0..count {
            let Some(record) = self.fetched.pop_front() else { break };
            if let Some(holding) = &self.holding {
                // It passes through, so that its key is known to be in flight.
                let traits = holding.traits(&record);
                self.note_held(record.seq, traits, None);
            }
            let meta = meta_of(&record);
            row.push(self.deliver_first(now, record, meta));
        }
        Some(Way { session, reply, wait_durable: self.config.max_deliver == 1 })
    }

    /// How long the subjects are that NATS clients acknowledge with, if a pull counts them.
    fn replies(&self) -> Option<Replies> {
        self.pulls.counts_replies().then(|| Replies {
            names: self.path.stream.len() + self.path.consumer.len(),
            last_consumer_seq: self.last_consumer_seq,
            pending: self.num_pending,
        })
    }

    /// What the thresholds of pulls are compared with when the next message is one that is delivered
    /// again, or for the first time: it counts as pending itself.
    pub(super) fn load(&self, is_again: bool) -> Load {
        Load {
            pending: self.num_pending + u64::from(is_again),
            unacknowledged: self.pending.len() as u64,
        }
    }

    /// Delivers a record for the first time.
    fn deliver_first(&mut self, now: Now, record: Record, meta: Option<Meta>) -> Delivery {
        self.num_pending = self.num_pending.saturating_sub(1);
        let consumer_seq = self.last_consumer_seq + 1;
        self.pace(now, &record);
        if let Some(replay) = &mut self.replay {
            replay.last = Some((record.time, now.monotonic));
        }
        self.note_first_delivery(now.wall, record.seq, consumer_seq, meta);
        self.notes.delivered(now.wall, record.seq, consumer_seq);
        self.wait_for_ack(now, record.seq, 1);
        self.delivery(record, consumer_seq, 1)
    }

    /// Delivers `record` again, or for the first time if it was held back, and adds it to `row`.
    /// `None` if no pull could take it.
    pub(crate) fn redeliver(
        &mut self,
        now: Now,
        open: &dyn Fn(SessionId) -> bool,
        record: Record,
        meta: Option<Meta>,
        row: &mut Vec<Delivery>,
    ) -> Option<Way> {
        let seq = record.seq;
        let before = self.pending.get(seq).map(|entry| entry.attempts);
        let reply = self.replies().map_or(0, |replies| match before {
            Some(attempts) => replies.again(&record, attempts + 1),
            None => replies.first(&record, 0),
        });
        let size = Size { stored: Delivery::pull_bytes(&record), reply };
        let (sizes, load) = (std::iter::once(size), self.load(before.is_some()));
        let (session, reply, _) = self.pulls.take(now, open, load, sizes, &mut self.statuses)?;
        if self.is_held(seq) {
            row.push(self.deliver_first(now, record, meta));
            return Some(Way { session, reply, wait_durable: self.config.max_deliver == 1 });
        }
        if self.redeliver.front() == Some(&seq) {
            self.redeliver.pop_front();
        }
        self.pace(now, &record);
        let consumer_seq = self.last_consumer_seq + 1;
        self.note_redelivery(now.wall, seq, consumer_seq);
        self.notes.delivered_again(now.wall, seq, consumer_seq);
        let attempts = self.pending.get_mut(seq).map_or(1, |entry| {
            entry.meta = meta.or(entry.meta);
            entry.attempts
        });
        self.wait_for_ack(now, seq, attempts);
        row.push(self.delivery(record, consumer_seq, attempts));
        Some(Way { session, reply, wait_durable: true })
    }

    /// The record that was to be delivered, again or after it was held back, is not in the stream any
    /// more, or not wanted.
    pub(crate) fn lost(&mut self, seq: u64) {
        if self.release(seq) {
            self.num_pending = self.num_pending.saturating_sub(1);
        } else {
            self.settle(seq);
        }
    }

    /// The lowest due redelivery that is still pending.
    pub(super) fn next_redelivery(&mut self) -> Option<u64> {
        while let Some(seq) = self.redeliver.front().copied() {
            if self.pending.get(seq).is_some_and(|entry| entry.state == State::Due) {
                return Some(seq);
            }
            self.redeliver.pop_front();
        }
        None
    }

    /// Applies a first delivery to the state; the part that replay repeats.
    pub(super) fn note_first_delivery(
        &mut self,
        wall: u64,
        seq: u64,
        consumer_seq: u64,
        meta: Option<Meta>,
    ) {
        self.last_consumer_seq = consumer_seq;
        self.delivered = SequencePair {
            consumer_seq,
            stream_seq: seq.max(self.delivered.stream_seq),
            last_active: Some(Timestamp(wall)),
        };
        if let Some(holding) = &mut self.holding {
            holding.delivered(seq);
        }
        if self.listed.front() == Some(&seq) {
            self.listed.pop_front();
        }
        self.cursor = self.cursor.max(if self.listed.is_empty() { seq + 1 } else { 0 });
        if self.config.ack_policy == AckPolicy::None {
            self.floor = self.delivered;
            return;
        }
        self.pending.insert(Entry {
            seq,
            consumer_seq,
            attempts: 1,
            first: wall,
            last: wall,
            meta,
            state: State::Due,
        });
    }

    /// Applies a redelivery to the state; the part that replay repeats.
    pub(super) fn note_redelivery(&mut self, wall: u64, seq: u64, consumer_seq: u64) {
        self.last_consumer_seq = consumer_seq;
        self.delivered.last_active = Some(Timestamp(wall));
        self.pending.attempted(seq, wall);
    }

    fn wait_for_ack(&mut self, now: Now, seq: u64, attempts: u64) {
        let deadline = now.monotonic + self.ack_wait(attempts);
        if let Some(entry) = self.pending.get_mut(seq) {
            entry.state = State::Until(deadline);
            self.timers.set(deadline, seq);
        }
    }

    /// How long the consumer has to acknowledge attempt number `attempts`.
    pub(super) fn ack_wait(&self, attempts: u64) -> Duration {
        let backoff = &self.config.backoff;
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        backoff.get(at).or(backoff.last()).copied().unwrap_or(self.config.ack_wait)
    }

    /// How long the record must still wait to keep the gaps it was published with.
    pub(super) fn replay_wait(&self, now: Now, seq: u64, time: u64) -> Option<Duration> {
        let replay = self.replay?;
        let (last_time, last_moment) = replay.last?;
        if seq > replay.until {
            return None;
        }
        let gap = u128::from(time.saturating_sub(last_time));
        let gap = (gap * 100).checked_div(self.config.replay_percent.into()).unwrap_or(gap);
        let due = last_moment + Duration::from_nanos(u64::try_from(gap).unwrap_or(u64::MAX));
        (due > now.monotonic).then_some(due)
    }

    /// How long it takes to send so many bytes at the limited rate.
    fn at_rate(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8 * 1_000_000_000;
        let nanos = nanos.checked_div(self.config.rate_limit_bps.into()).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Counts a delivery towards the limited rate.
    fn pace(&mut self, now: Now, record: &Record) {
        if self.config.rate_limit_bps > 0 {
            let begin = self.paced_until.max(now.monotonic);
            self.paced_until = begin.saturating_add(self.at_rate(Delivery::pull_bytes(record)));
        }
    }

    /// When the limited rate allows the next delivery, if that is not yet.
    pub(super) fn pace_wait(&self, now: Now) -> Option<Duration> {
        if self.config.rate_limit_bps == 0 {
            return None;
        }
        let due = self.paced_until.saturating_sub(self.at_rate(BURST));
        (due > now.monotonic).then_some(due)
    }

    pub(super) fn is_paused(&self, now: Now) -> bool {
        self.config.pause_until.is_some_and(|until| until.0 > now.wall)
    }
}
