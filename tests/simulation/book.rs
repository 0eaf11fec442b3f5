//! The reference model: facts about what clients sent and were told, and what follows from them.
//!
//! It knows nothing of how the broker works. A message that was acknowledged or seen must be there
//! until something asked for may have removed it; what was said to be removed must not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use claudebus::model::stream::{Discard, Retention, StreamConfig};

use crate::order::{Order, Turns};
use crate::schedules::Plan;

/// A message, by the number in its payload.
pub type Id = u64;

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub stream: usize,
    pub epoch: u64,
    pub subject: String,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
    /// The earliest that the wall clock showed when it was sent.
    pub wall: u64,
    pub ttl: Option<Duration>,
    /// Producer and counter, if it has one.
    pub number: Option<(u128, u64)>,
    /// Where it is stored, as far as is known.
    pub seq: Option<u64>,
    pub is_acked: bool,
    /// The life in which it was acknowledged.
    pub acked_in: u64,
    pub is_refused: bool,
    /// How often it was sent.
    pub sendings: usize,
    /// Whether the disk had no room when it was sent once.
    pub lacked_room: bool,
    /// How often it may have been requeued.
    pub requeues: usize,
    pub is_rollup: bool,
    pub priority: u8,
    /// Whether it is known again when a client sends it again.
    pub is_repeatable: bool,
    /// The schedule that published it, if one did.
    pub fired_by: Option<Id>,
}

/// A purge that was asked for.
#[derive(Clone, Debug)]
pub struct Purge {
    pub filter: Option<String>,
    pub below: u64,
}

/// One consumer. A new one of the same name is another.
#[derive(Clone, Debug, Default)]
pub struct ConsumerBook {
    pub name: String,
    pub filter: String,
    pub exists: bool,
    pub max_deliver: i64,
    pub order: Order,
    pub turns: Turns,
    /// Until when it is paused, as was confirmed.
    pub paused_until: Option<u64>,
    /// In which life the client said of a message that it is done, and when, if it is acknowledged: a
    /// terminated one goes to the dead letters first.
    pub done: BTreeMap<u64, (u64, Option<Duration>)>,
    /// Deliveries that were not answered yet.
    pub held: Vec<u64>,
    /// Everything that was ever delivered.
    pub delivered: BTreeSet<u64>,
    /// What was confirmed to be acknowledged or terminated.
    pub confirmed: BTreeSet<u64>,
    /// What was acknowledged or terminated, confirmed or not.
    pub settled: BTreeSet<u64>,
    /// First deliveries of this life come in ascending order.
    pub last_first: u64,
    pub last_number: u64,
    /// Messages up to here were there before it.
    pub since: u64,
}

impl ConsumerBook {
    /// Another consumer of this name and kind, of which nothing is known yet.
    pub fn fresh(&self) -> Self {
        Self {
            name: self.name.clone(),
            filter: self.filter.clone(),
            max_deliver: self.max_deliver,
            order: self.order,
            ..Self::default()
        }
    }
}

/// A dead letter that was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub consumer: String,
    pub stream_seq: u64,
    pub may_go: bool,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct StreamBook {
    pub name: String,
    pub prefix: &'static str,
    pub config: StreamConfig,
    pub exists: bool,
    pub epoch: u64,
    /// What stands or stood at each sequence.
    pub by_seq: BTreeMap<u64, Id>,
    /// Who must not be there any more, and why.
    pub gone: BTreeMap<u64, &'static str>,
    /// Who must not be there once things are quiet.
    pub going: BTreeMap<u64, &'static str>,
    /// Single deletions that were asked for.
    pub deletions: BTreeSet<u64>,
    pub purges: Vec<Purge>,
    pub rollups: Vec<Id>,
    /// The tightest limits that were ever asked for; 0 for none.
    pub tightest: (i64, i64),
    /// Messages below were not kept by a consumer's interest all the time.
    pub loose_below: Id,
    pub consumers: Vec<ConsumerBook>,
    pub letters: BTreeMap<u64, Letter>,
    /// Dead letters that somebody asked to requeue or drop.
    pub exhumed: BTreeSet<u64>,
    /// Letters of messages that were requeued or dropped, by stream sequence.
    pub buried: BTreeSet<(String, u64)>,
    /// Messages below may have become dead letters that went with their stream before anybody saw them.
    pub unseen_below: Id,
    /// Consumers that were deleted in this epoch.
    pub remade: BTreeSet<String>,
}

impl StreamBook {
    /// A stream that was not created yet.
    pub fn new(config: StreamConfig, prefix: &'static str) -> Self {
        Self {
            name: config.name.clone(),
            prefix,
            config,
            exists: false,
            epoch: 0,
            by_seq: BTreeMap::new(),
            gone: BTreeMap::new(),
            going: BTreeMap::new(),
            deletions: BTreeSet::new(),
            purges: Vec::new(),
            rollups: Vec::new(),
            tightest: (0, 0),
            loose_below: 0,
            consumers: Vec::new(),
            letters: BTreeMap::new(),
            exhumed: BTreeSet::new(),
            buried: BTreeSet::new(),
            unseen_below: 0,
            remade: BTreeSet::new(),
        }
    }

    /// Whether a dead letter of `of` about this message may have gone unseen.
    pub fn may_have_died(&self, of: &ConsumerBook, id: Id) -> bool {
        of.max_deliver > 0 && id < self.unseen_below
    }

    /// Forgets everything: the next stream of this name is another one.
    pub fn begin_epoch(&mut self) {
        let consumers = std::mem::take(&mut self.consumers);
        *self = Self { epoch: self.epoch + 1, ..Self::new(self.config.clone(), self.prefix) };
        self.consumers = consumers.iter().map(ConsumerBook::fresh).collect();
        self.tighten();
    }

    /// Notes the limits of the configuration.
    pub fn tighten(&mut self) {
        let tighter =
            |old: i64, new: i64| if new > 0 && (old == 0 || new < old) { new } else { old };
        self.tightest = (
            tighter(self.tightest.0, self.config.max_msgs),
            tighter(self.tightest.1, self.config.max_msgs_per_subject),
        );
    }

    /// Whether settled messages are deleted.
    pub fn deletes_settled(&self) -> bool {
        self.config.retention != Retention::Limits
    }
}

/// Whether a subject is matched, by the definition of the wildcards.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (token, Some(given)) if token == given => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

/// All facts.
#[derive(Debug, Default)]
pub struct Book {
    pub sent: BTreeMap<Id, Sent>,
    pub streams: Vec<StreamBook>,
    pub next_id: Id,
    /// What was sent to be published later.
    pub plans: BTreeMap<Id, Plan>,
}

impl Book {
    /// Whether it may have been refused for want of room, nobody heard of it, and a later attempt was
    /// stored: behind what was sent after the first one.
    pub fn may_come_late(&self, sent: &Sent) -> bool {
        let may_be_full = self.streams[sent.stream].config.discard == Discard::New;
        sent.sendings > 1 && (sent.lacked_room || may_be_full)
    }

    /// Notes that `id` stands at `seq`.
    pub fn observe(&mut self, stream: usize, seq: u64, id: Id) -> Result<(), String> {
        let book = &mut self.streams[stream];
        let name = &book.name;
        if let Some(known) = book.by_seq.get(&seq)
            && *known != id
        {
            return Err(format!("{name}: sequence {seq} held message {known}, now {id}"));
        }
        let sent = self.sent.get_mut(&id).ok_or(format!("{name}: nobody sent message {id}"))?;
        if sent.is_refused && sent.requeues == 0 {
            return Err(format!("{name}: message {id} was refused, and stands at {seq}"));
        }
        if sent.stream != stream || sent.epoch != book.epoch {
            return Err(format!("{name}: message {id} of another stream stands at {seq}"));
        }
        if book.by_seq.insert(seq, id).is_none() {
            let copies = book.by_seq.values().filter(|other| **other == id).count();
            if copies > 1 + sent.requeues {
                return Err(format!("{name}: message {id} is stored {copies} times, now at {seq}"));
            }
        }
        sent.seq = Some(sent.seq.map_or(seq, |known| known.min(seq)));
        Ok(())
    }

    /// Why the message at `seq` may be gone, or nothing if it must be there.
    pub fn excuse(&self, stream: usize, seq: u64, latest_wall: u64) -> Option<&'static str> {
        let book = &self.streams[stream];
        let id = *book.by_seq.get(&seq)?;
        let sent = self.sent.get(&id)?;
        if book.gone.contains_key(&seq) {
            return Some("known");
        }
        if book.deletions.contains(&seq) {
            return Some("deleted");
        }
        let is_purged = |purge: &Purge| {
            seq < purge.below && purge.filter.as_ref().is_none_or(|f| matches(f, &sent.subject))
        };
        if book.purges.iter().any(is_purged) {
            return Some("purged");
        }
        let age = book.config.max_age;
        let too_old = |age: Duration| {
            latest_wall >= sent.wall.saturating_add(u64::try_from(age.as_nanos()).unwrap_or(0))
        };
        if (!age.is_zero() && too_old(age)) || sent.ttl.is_some_and(too_old) {
            return Some("expired");
        }
        if self.plans.get(&id).is_some_and(|plan| plan.may_be_over(sent, latest_wall)) {
            return Some("published or cancelled");
        }
        self.rolled_up(book, seq, sent)
            .or_else(|| self.crowded_out(book, stream, seq, sent))
            .or_else(|| self.was_settled(book, seq, id, sent))
    }

    /// Whether a message to this subject may have been stored and be gone before anybody saw where. It
    /// errs on the side of the broker.
    pub fn may_go_unseen(&self, stream: usize, subject: &str, sent: &Sent) -> bool {
        let book = &self.streams[stream];
        let is_purged = |purge: &Purge| purge.filter.as_ref().is_none_or(|f| matches(f, subject));
        let replaces = |id: &Id| self.sent.get(id).is_some_and(|by| by.subject == subject);
        sent.epoch != book.epoch
            || !book.exists
            || book.purges.iter().any(is_purged)
            || book.rollups.iter().any(replaces)
            || sent.ttl.is_some()
            || !book.config.max_age.is_zero()
            || (book.config.discard == Discard::Old && book.tightest != (0, 0))
            || book.config.retention == Retention::Interest
            || (book.deletes_settled() && book.unseen_below > 0)
    }

    fn rolled_up(&self, book: &StreamBook, seq: u64, sent: &Sent) -> Option<&'static str> {
        let by = book.rollups.iter().filter_map(|id| self.sent.get(id));
        let mut by = by.filter(|by| by.subject == sent.subject && !by.is_refused);
        by.any(|by| by.seq.is_none_or(|at| at > seq)).then_some("rolled up")
    }

    fn crowded_out(
        &self,
        book: &StreamBook,
        stream: usize,
        seq: u64,
        sent: &Sent,
    ) -> Option<&'static str> {
        let (most, most_per_subject) = book.tightest;
        if most == 0 && most_per_subject == 0 {
            return None;
        }
        let others = self.sent.values().filter(|other| {
            other.stream == stream && other.epoch == book.epoch && !other.is_refused
        });
        let (mut later, mut of_subject) = (0, 0);
        for other in others.filter(|other| other.seq.is_none()) {
            later += 1;
            of_subject += i64::from(other.subject == sent.subject);
        }
        for (_, id) in book.by_seq.range(seq + 1..) {
            later += 1;
            let same = self.sent.get(id).is_some_and(|other| other.subject == sent.subject);
            of_subject += i64::from(same);
        }
        // Requeued messages that nobody has seen at their new place.
        let requeues: usize = self.sent.values().map(|s| s.requeues).sum();
        let unseen = i64::try_from(requeues).unwrap_or(0);
        let by_count = most > 0 && later + unseen >= most;
        let by_subject = most_per_subject > 0 && of_subject + unseen >= most_per_subject;
        (by_count || by_subject).then_some("crowded out")
    }

    fn was_settled(
        &self,
        book: &StreamBook,
        seq: u64,
        id: Id,
        sent: &Sent,
    ) -> Option<&'static str> {
        if !book.deletes_settled() {
            return None;
        }
        if book.consumers.iter().any(|c| c.settled.contains(&seq)) {
            return Some("settled");
        }
        let is_dead = |letter: &Letter| letter.stream_seq == seq;
        if book.letters.values().any(is_dead) || book.buried.iter().any(|(_, at)| *at == seq) {
            return Some("dead");
        }
        if book.consumers.iter().any(|of| book.may_have_died(of, id)) {
            return Some("perhaps dead");
        }
        let wanted = book.consumers.iter().any(|c| c.exists && matches(&c.filter, &sent.subject));
        let interest = book.config.retention == Retention::Interest;
        (interest && (!wanted || id < book.loose_below)).then_some("not wanted")
    }
}
