//! Acknowledgements, and time running out for them.

use std::time::Duration;

use crate::model::consumer::{AckPolicy, SequencePair};
use crate::model::request::AckKind;
use crate::model::time::{Now, Timestamp};

use super::pending::{Entry, State};
use super::{Consumer, DeadReason, Delivered, Dying, GivenUp, Settled};

impl Consumer {
    /// Applies acknowledgements of inclusive ranges of stream sequences. Those that are not
    /// pending are ignored, as a second acknowledgement is. Returns what was settled.
    pub(crate) fn ack(
        &mut self,
        now: Now,
        ranges: &[(u64, u64)],
        kind: &AckKind,
        settled: &mut Vec<Settled>,
    ) {
        self.last_activity = now.monotonic;
        let before = settled.len();
        self.ack_ranges(now, ranges, kind, settled);
        if settled.len() > before || matches!(kind, AckKind::Terminate { .. }) {
            self.last_ack = Some(Timestamp(now.wall));
        }
    }

    fn ack_ranges(
        &mut self,
        now: Now,
        ranges: &[(u64, u64)],
        kind: &AckKind,
        settled: &mut Vec<Settled>,
    ) {
        if self.config.ack_policy == AckPolicy::All && *kind == AckKind::Ack {
            if let Some(last) = ranges.iter().map(|(_, last)| *last).max() {
                self.ack_through(last, settled);
            }
            return;
        }
        for (first, last) in ranges {
            let last = (*last).min(self.delivered.stream_seq);
            // A hostile range must not cost more than there is pending.
            if last.saturating_sub(*first) > 2 * self.pending.len() as u64 {
                let within: Vec<u64> = self
                    .pending
                    .iter()
                    .map(|entry| entry.seq)
                    .filter(|seq| (*first..=last).contains(seq))
                    .collect();
                for seq in within {
                    self.ack_one(now, seq, kind, settled);
                }
            } else {
                for seq in *first..=last {
                    self.ack_one(now, seq, kind, settled);
                }
            }
        }
    }

    /// The pending deliveries within ranges of stream sequences.
    pub(crate) fn deliveries_of(&self, ranges: &[(u64, u64)]) -> Vec<Delivered> {
        let mut found = Vec::new();
        for (first, last) in ranges {
            let numbers = |entry: &Entry| Delivered {
                seq: entry.seq,
                consumer_seq: entry.consumer_seq,
                attempts: entry.attempts,
                last: Timestamp(entry.last),
            };
            if first == last {
                // Nearly all ranges are of one message, which need not be searched for.
                found.extend(self.pending.get(*first).map(numbers));
            } else {
                let within = |entry: &&Entry| (*first..=*last).contains(&entry.seq);
                found.extend(self.pending.iter().filter(within).map(numbers));
            }
        }
        found
    }

    fn ack_one(&mut self, now: Now, seq: u64, kind: &AckKind, settled: &mut Vec<Settled>) {
        match kind {
            AckKind::Ack => settled.extend(self.settle(seq)),
            AckKind::Nak { delay } => self.refuse(now, seq, *delay),
            AckKind::InProgress => self.extend(now, seq),
            AckKind::Terminate { reason } => {
                self.give_up(seq, DeadReason::Terminated(reason.clone()));
            }
        }
    }

    fn ack_through(&mut self, last: u64, settled: &mut Vec<Settled>) {
        self.given_up = None;
        while let Some(seq) = self.pending.first().map(|entry| entry.seq).filter(|s| *s <= last) {
            settled.extend(self.settle(seq));
        }
    }

    /// Settles one pending message: it will not be delivered again. The part that replay repeats.
    pub(super) fn settle(&mut self, seq: u64) -> Option<Settled> {
        let entry = self.pending.remove(seq)?;
        self.notes.settled(seq);
        if let Some(holding) = &mut self.holding {
            holding.settled(seq);
        }
        match self.pending.first() {
            None => self.floor = self.delivered_first(),
            Some(first) if entry.consumer_seq == self.floor.consumer_seq + 1 => {
                let next = SequencePair {
                    consumer_seq: first.consumer_seq.saturating_sub(1),
                    stream_seq: first.seq.saturating_sub(1),
                    last_active: None,
                };
                let own = SequencePair {
                    consumer_seq: entry.consumer_seq,
                    stream_seq: seq,
                    last_active: None,
                };
                self.floor = if first.seq > seq { next } else { own };
            }
            Some(_) => {}
        }
        let reaches = |given_up: &GivenUp| entry.consumer_seq == given_up.floor.consumer_seq + 1;
        if self.pending.len() == 0 || self.given_up.as_ref().is_some_and(reaches) {
            self.given_up = None;
        }
        Some(Settled { seq, meta: entry.meta })
    }

    /// With nothing pending, everything delivered is acknowledged.
    fn delivered_first(&self) -> SequencePair {
        SequencePair { consumer_seq: self.last_consumer_seq, ..self.delivered }
    }

    fn refuse(&mut self, now: Now, seq: u64, delay: Duration) {
        let last_attempt = self.is_last_attempt(seq);
        let Some(entry) = self.pending.get_mut(seq) else { return };
        if matches!(entry.state, State::Dying(_)) {
            return;
        }
        if last_attempt {
            self.give_up(seq, DeadReason::Refused);
        } else if delay.is_zero() {
            if entry.state != State::Due {
                entry.state = State::Due;
                self.redeliver.push_back(seq);
            }
        } else {
            let until = now.monotonic.saturating_add(delay);
            entry.state = State::Delayed(until);
            self.timers.set(until, seq);
        }
    }

    fn extend(&mut self, now: Now, seq: u64) {
        let Some(attempts) = self.pending.get(seq).map(|entry| entry.attempts) else { return };
        let until = now.monotonic + self.ack_wait(attempts);
        if let Some(entry) = self.pending.get_mut(seq)
            && entry.state.deadline().is_some()
        {
            entry.state = State::Until(until);
            self.timers.set(until, seq);
        }
    }

    /// Gives a pending message up. It stays pending until it is buried.
    pub(crate) fn give_up(&mut self, seq: u64, reason: DeadReason) {
        if let Some(entry) = self.pending.get_mut(seq)
            && !matches!(entry.state, State::Dying(_))
        {
            if let DeadReason::Terminated(words) = &reason {
                self.notes.terminated(seq, words);
            }
            entry.state = State::Dying(reason);
            self.dying.push_back(seq);
        }
    }

    fn is_last_attempt(&self, seq: u64) -> bool {
        let attempts = self.pending.get(seq).map_or(0, |entry| entry.attempts);
        u64::try_from(self.config.max_deliver).is_ok_and(|most| most > 0 && attempts >= most)
    }

    /// The next message that was given up and is still pending. It stays first until it is
    /// [buried](Self::bury) or [postponed](Self::postpone).
    pub(crate) fn next_dying(&mut self) -> Option<Dying> {
        while let Some(seq) = self.dying.front().copied() {
            if let Some(entry) = self.pending.get(seq)
                && let State::Dying(reason) = &entry.state
            {
                return Some(Dying {
                    seq,
                    attempts: entry.attempts,
                    first: Timestamp(entry.first),
                    last: Timestamp(entry.last),
                    consumer_seq: entry.consumer_seq,
                    reason: reason.clone(),
                });
            }
            self.dying.pop_front();
        }
        None
    }

    /// The message is in the dead letters, or nobody wants it there: it is settled.
    pub(crate) fn bury(&mut self, seq: u64) -> Option<Settled> {
        self.dying.retain(|dying| *dying != seq);
        let entry = self.pending.get(seq)?;
        let (state, again) = (entry.state.clone(), u64::from(entry.attempts > 1));
        let before = self.given_up.unwrap_or(GivenUp { floor: self.floor, redelivered: 0 });
        let settled = self.settle(seq);
        if let State::Dying(DeadReason::NotAcknowledged | DeadReason::Refused) = state {
            self.given_up = Some(GivenUp { redelivered: before.redelivered + again, ..before });
        }
        settled
    }

    /// The dead letters cannot take the message now: it waits behind the others.
    pub(crate) fn postpone(&mut self, seq: u64) {
        if self.dying.front() == Some(&seq) {
            self.dying.rotate_left(1);
        }
    }

    /// Time has passed: pending messages fall due, pulls end, signs of life are sent. Returns
    /// whether the consumer has been unused for longer than its inactive threshold.
    pub(crate) fn timeout(&mut self, now: Now) -> bool {
        while let Some((at, seq)) = self.timers.pop_due(now.monotonic) {
            let in_force = self.pending.get(seq).is_some_and(|e| e.state.deadline() == Some(at));
            if !in_force {
                continue;
            }
            if self.is_last_attempt(seq) {
                self.give_up(seq, DeadReason::NotAcknowledged);
            } else if let Some(entry) = self.pending.get_mut(seq) {
                entry.state = State::Due;
                self.redeliver.push_back(seq);
            }
        }
        let last = (self.last_consumer_seq, self.delivered.stream_seq);
        self.pulls.timeout(now.monotonic, last, &mut self.statuses);
        if !self.pulls.is_empty() {
            self.last_activity = now.monotonic;
        }
        self.inactive_at().is_some_and(|at| at <= now.monotonic)
    }

    /// When [`Consumer::timeout`] has something to do.
    pub(crate) fn poll_timeout(&mut self, now: Now) -> Option<Duration> {
        let pending = &self.pending;
        let acks = self.timers.next(|seq, at| {
            pending.get(seq).is_some_and(|entry| entry.state.deadline() == Some(at))
        });
        let inactive = if self.pulls.is_empty() { self.inactive_at() } else { None };
        let resumed = self
            .config
            .pause_until
            .filter(|until| until.0 > now.wall)
            .map(|until| now.monotonic + Duration::from_nanos(until.0 - now.wall));
        let replay =
            self.fetched.front().and_then(|record| self.replay_wait(now, record.seq, record.time));
        let deadlines = [acks, self.pulls.next_timeout(), inactive, resumed, replay];
        deadlines.into_iter().chain([self.pace_wait(now)]).flatten().min()
    }

    fn inactive_at(&self) -> Option<Duration> {
        let threshold = self.config.inactive_threshold;
        (!threshold.is_zero()).then(|| self.last_activity + threshold)
    }
}
