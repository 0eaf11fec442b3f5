//! Which message a consumer may deliver next: one of a key at a time, the most urgent first, at the
//! speed of the originals, none while it is paused.
//!
//! What a client has seen decides: a message that lies below one that was delivered was looked at, so
//! that it must have been chosen if it was its turn.

use std::collections::BTreeSet;
use std::time::Duration;

use claudebus::model::consumer::{ConsumerConfig, ReplayPolicy};
use claudebus::model::event::Delivery;

use crate::book::{Book, Id};
use crate::clients::Simulation;
use crate::world::{Halt, Sabotage};

/// Every so many deliveries the oldest message goes first.
const OLDEST_EVERY: u64 = 8;
/// Deliveries one by one, while nothing else happens, after which everything was looked at: each lets
/// one more read be done.
const WARM: u64 = 8;
/// Deliveries one by one altogether.
const SINGLES: usize = 20;

/// What a consumer promises about the order of its deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub by_subject: bool,
    pub by_priority: bool,
    /// The speed of replay in percent of the original's; 0 for as fast as they are wanted.
    pub replay: u64,
}

impl Order {
    /// Whether messages may pass each other.
    pub fn holds_back(self) -> bool {
        self.by_subject || self.by_priority
    }

    /// Asks for it, unless that is what is broken.
    pub fn ask(self, config: &mut ConsumerConfig, sabotage: Sabotage) {
        if self.by_subject && sabotage != Sabotage::UnorderedKeys {
            config.order_by = Some("subject".to_owned());
        }
        config.by_priority = self.by_priority && sabotage != Sabotage::IgnoredPriorities;
        if self.replay > 0 && sabotage != Sabotage::HastyReplay {
            config.replay_policy = ReplayPolicy::Original;
            config.replay_percent = self.replay;
        }
    }
}

/// What a consumer has delivered since the last start.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    pub delivered: BTreeSet<u64>,
    /// What came for the first time after the client had said in this life that it is done, by a delivery
    /// of an earlier one: the broker may not have known of that delivery, and may count it as in flight.
    pub done_early: BTreeSet<u64>,
    /// The highest that was delivered for the first time: those below were looked at.
    highest: u64,
    /// How many were delivered for the first time.
    firsts: u64,
    /// The last one's time in the stream, and the moment before which it was not decided.
    last: Option<(u64, Duration)>,
    /// Up to here the originals' speed is kept.
    replay_until: u64,
}

impl Turns {
    /// Nothing yet. Replay keeps the originals' speed up to `replay_until`.
    pub fn new(replay_until: u64) -> Self {
        Self { replay_until, ..Self::default() }
    }
}

impl Book {
    /// Whether an earlier message of the subject may have been in flight in this life at `moment`.
    fn may_wait(&self, stream: usize, consumer: usize, seq: u64, moment: (u64, Duration)) -> bool {
        let book = &self.streams[stream];
        let of = &book.consumers[consumer];
        let subject = |id: &Id| self.sent.get(id).map(|sent| &sent.subject);
        let own = book.by_seq.get(&seq).and_then(subject);
        let (life, asked_at) = moment;
        // What was said in an earlier life and not confirmed may be lost: it is in flight again. What is said now of
        // a delivery of an earlier life is refused if the broker does not know of that.
        let is_known =
            |seq: &u64| of.turns.delivered.contains(seq) && !of.turns.done_early.contains(seq);
        let is_done = |seq: &u64| match of.done.get(seq) {
            Some((done_in, Some(at))) if *done_in == life => {
                *at <= asked_at && (is_known(seq) || of.confirmed.contains(seq))
            }
            Some((_, Some(_))) => of.confirmed.contains(seq),
            _ => false,
        };
        let was_over = |seq: &u64| book.gone.contains_key(seq) || is_done(seq);
        let mut earlier = book.by_seq.range(..seq).filter(|(_, id)| subject(id) == own);
        earlier.any(|(seq, _)| !was_over(seq))
    }

    /// An earlier message of the subject that is neither done nor gone.
    fn waits_for(&self, stream: usize, consumer: usize, seq: u64, latest: u64) -> Option<u64> {
        let book = &self.streams[stream];
        let of = &book.consumers[consumer];
        let subject = |id: &Id| self.sent.get(id).map(|sent| &sent.subject);
        let own = book.by_seq.get(&seq).and_then(subject)?;
        let is_open = |earlier: u64| {
            let is_dead = book.letters.values().any(|l| l.stream_seq == earlier)
                || book.buried.iter().any(|(_, at)| *at == earlier);
            !of.done.contains_key(&earlier)
                && !is_dead
                && self.excuse(stream, earlier, latest).is_none()
        };
        let mut earlier = book.by_seq.range(..seq).filter(|(_, id)| subject(id) == Some(own));
        earlier.find(|(seq, _)| is_open(**seq)).map(|(seq, _)| *seq)
    }
}

impl Simulation {
    /// Judges a delivery by what its consumer promises about the order. `asked_at` is when the pull
    /// was sent that brought it.
    pub fn judge_turn(
        &mut self,
        stream: usize,
        consumer: usize,
        delivery: &Delivery,
        asked_at: Duration,
    ) -> Result<(), String> {
        let book = &self.book.streams[stream];
        let of = &book.consumers[consumer];
        let seq = delivery.record.seq;
        let name = format!("{}/{}", book.name, of.name);
        if let Some(until) = of.paused_until
            && self.world.latest_wall < until
        {
            return Err(format!("{name}: {seq} was delivered while it is paused until {until}"));
        }
        if delivery.attempts == 1 {
            if of.order.by_subject
                && let Some(earlier) =
                    self.book.waits_for(stream, consumer, seq, self.world.latest_wall)
            {
                return Err(format!("{name}: {seq} came while {earlier} of its key is in flight"));
            }
            if of.order.by_priority
                && let Some(other) = self.overtaken(stream, consumer, delivery, asked_at)
            {
                return Err(format!("{name}: it was the turn of {other}, and {seq} came"));
            }
            self.judge_speed(stream, consumer, delivery, asked_at)?;
        }
        let of = &mut self.book.streams[stream].consumers[consumer];
        of.turns.delivered.insert(seq);
        if delivery.attempts == 1 {
            of.turns.highest = of.turns.highest.max(seq);
            of.turns.firsts += 1;
        }
        // What it said in an earlier life was lost, or this would not come again.
        let done_in = of.done.get(&seq).map(|(life, _)| *life);
        if done_in.is_some_and(|life| life < self.world.life) {
            of.done.remove(&seq);
        } else if done_in.is_some() && delivery.attempts == 1 {
            of.turns.done_early.insert(seq);
        }
        Ok(())
    }

    /// Takes messages one by one from consumers that choose by priority: soon all are known, and the
    /// most urgent of all must come.
    pub fn judge_priorities(&mut self) -> Result<(), Halt> {
        for stream in 0..self.book.streams.len() {
            for consumer in 0..self.book.streams[stream].consumers.len() {
                let book = &self.book.streams[stream];
                let of = &book.consumers[consumer];
                if book.exists && of.exists && of.order.by_priority {
                    self.take_singly(stream, consumer)?;
                }
            }
        }
        Ok(())
    }

    fn take_singly(&mut self, stream: usize, consumer: usize) -> Result<(), Halt> {
        let turns = |book: &Book| book.streams[stream].consumers[consumer].turns.clone();
        let before = turns(&self.book);
        for _ in 0..SINGLES {
            self.pull_from(stream, consumer, 1);
            for _ in 0..3 {
                self.turn()?;
            }
            if turns(&self.book).firsts >= before.firsts + WARM {
                self.book.streams[stream].consumers[consumer].turns.highest = u64::MAX;
            }
        }
        let of = &mut self.book.streams[stream].consumers[consumer];
        of.turns.highest = before.highest;
        Ok(())
    }

    /// A message whose turn it was rather than that of the one that came.
    fn overtaken(
        &self,
        stream: usize,
        consumer: usize,
        delivery: &Delivery,
        asked_at: Duration,
    ) -> Option<u64> {
        // It was decided after that, and maybe long before it was heard.
        let asked = (self.world.life, asked_at);
        let book = &self.book.streams[stream];
        let of = &book.consumers[consumer];
        let latest = self.world.latest_wall;
        let seq = delivery.record.seq;
        let priority = |seq: u64| {
            let sent = book.by_seq.get(&seq).and_then(|id| self.book.sent.get(id));
            sent.map_or(0, |sent| sent.priority)
        };
        let is_oldests_turn = delivery.consumer_seq.is_multiple_of(OLDEST_EVERY);
        let comes_before = |other: u64| {
            if is_oldests_turn {
                return other < seq;
            }
            let (other_priority, own) = (priority(other), priority(seq));
            other_priority > own || (other_priority == own && other < seq)
        };
        let was_its_turn = |other: u64, id: &Id| {
            let Some(sent) = self.book.sent.get(id) else { return false };
            // One of an earlier life may have been delivered without anybody hearing of it.
            sent.acked_in == self.world.life
                && sent.is_acked
                && crate::book::matches(&of.filter, &sent.subject)
                && !of.delivered.contains(&other)
                && comes_before(other)
                && self.book.excuse(stream, other, latest).is_none()
                && !(of.order.by_subject && self.book.may_wait(stream, consumer, other, asked))
        };
        let mut seen = book.by_seq.range(..of.turns.highest);
        seen.find(|(other, id)| **other != seq && was_its_turn(**other, id)).map(|(seq, _)| *seq)
    }

    fn judge_speed(
        &mut self,
        stream: usize,
        consumer: usize,
        delivery: &Delivery,
        asked_at: Duration,
    ) -> Result<(), String> {
        let now = self.world.now().monotonic;
        let book = &mut self.book.streams[stream];
        let of = &mut book.consumers[consumer];
        let (seq, time) = (delivery.record.seq, delivery.record.time);
        let Some(percent) = Some(of.order.replay).filter(|percent| *percent > 0) else {
            return Ok(());
        };
        let mut earliest = asked_at;
        if let Some((last, moment)) = of.turns.last {
            earliest = earliest.max(moment);
            if seq <= of.turns.replay_until {
                let gap = u128::from(time.saturating_sub(last)) * 100 / u128::from(percent);
                let due = moment + Duration::from_nanos(u64::try_from(gap).unwrap_or(u64::MAX));
                if now < due {
                    let early = due - now;
                    let name = format!("{}/{}", book.name, of.name);
                    return Err(format!("{name}: {seq} came {early:?} before its time"));
                }
                earliest = earliest.max(due);
            }
        }
        of.turns.last = Some((time, earliest));
        Ok(())
    }
}
