//! Messages that are published later: never before their time, once for each time, not lost by a crash,
//! and not at all once their end was confirmed.

use std::collections::BTreeMap;

use claudebus::model::api::ApiResponse;
use claudebus::model::api::{ApiRequest, StreamInfoOptions};
use claudebus::model::headers::{Block, get, names};
use claudebus::model::stream::{DeadLetters, Discard, Retention};
use claudebus::model::time::Timestamp;

use crate::book::{Book, Id, Sent, StreamBook};
use crate::clients::Simulation;
use crate::workload::{LEAVES, Name, new_stream, streams};
use crate::world::{End, Halt, Sabotage, World};

/// Where the stream of schedules is among the others.
pub const SCHEDULES: usize = 6;
/// Streams that schedules publish to: what comes there is seen before it goes.
const TARGETS: [usize; 3] = [2, 2, 4];
/// Schedules that there are at a time, at most.
const SUBJECTS: u64 = 6;
const SECOND: u64 = 1_000_000_000;
/// The time that a broker may take: it looks at the wall clock once in a minute.
const SLACK: u64 = 75 * SECOND;

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(u64),
    After(u64),
    Every(u64),
    /// At each multiple of so many seconds of the minute.
    Cron(u64),
}

impl When {
    fn text(self) -> String {
        match self {
            Self::At(time) => format!("@at {}", Timestamp(time)),
            Self::After(wait) => format!("@after {}s", wait / SECOND),
            Self::Every(wait) => format!("@every {}s", wait / SECOND),
            Self::Cron(seconds) => format!("*/{seconds} * * * * *"),
        }
    }

    fn is_once(self) -> bool {
        matches!(self, Self::At(_) | Self::After(_))
    }
}

/// Something that a schedule published.
#[derive(Clone, Copy, Debug)]
struct Fired {
    id: Id,
    /// When it is published again, as it says.
    next: Option<u64>,
    /// When it was stored, if that is known.
    time: Option<u64>,
}

/// A message that is published later.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: usize,
    pub subject: String,
    pub when: When,
    /// The target's epoch when it was sent.
    target_epoch: u64,
    /// When it must be published first, at the latest; unknown until it is acknowledged.
    due_by: Option<u64>,
    /// Somebody asked for its end.
    may_be_ended: bool,
    /// Its end was confirmed: the target's epoch and last sequence then.
    ended: Option<(u64, u64)>,
    fired: BTreeMap<(u64, u64), Fired>,
}

impl Plan {
    /// The earliest that it is due.
    fn due(&self, sent: &Sent) -> u64 {
        match self.when {
            When::At(time) => time,
            When::After(wait) | When::Every(wait) => sent.wall + wait,
            When::Cron(_) => sent.wall,
        }
    }

    /// Whether its message may be gone.
    pub fn may_be_over(&self, sent: &Sent, latest_wall: u64) -> bool {
        self.may_be_ended || (self.when.is_once() && latest_wall >= self.due(sent))
    }

    /// Checks a message that it published against those before and after it.
    fn check(&self, at: (u64, u64), new: Fired, due: u64) -> Result<(), String> {
        if self.when.is_once() && (new.next.is_some() || !self.fired.is_empty()) {
            return Err("once, and is published again".to_owned());
        }
        if !self.when.is_once() && new.next.is_none() {
            return Err("again and again, and ends".to_owned());
        }
        if let (When::Cron(seconds), Some(next)) = (self.when, new.next)
            && next % (seconds * SECOND) != 0
        {
            return Err(format!("at multiples of {seconds} s, and comes again at {next}"));
        }
        if self.ended.is_some_and(|ended| at > ended) {
            return Err("ended, and is published".to_owned());
        }
        let epoch = at.0;
        let before = self.fired.range((epoch, 0)..at).next_back().map(|(_, fired)| *fired);
        let after = self.fired.range(at..(epoch + 1, 0)).next().map(|(_, fired)| *fired);
        let due = before.map_or(Some(due), |before| before.next);
        let is_early = |time: Option<u64>, due: Option<u64>| {
            time.zip(due).is_some_and(|(time, due)| time < due)
        };
        if is_early(new.time, due) || after.is_some_and(|after| is_early(after.time, new.next)) {
            return Err(format!("due at {due:?}, and is published at {:?}", new.time));
        }
        if before.is_some_and(|before| before.next >= new.next && new.next.is_some()) {
            return Err(format!("published twice for the time before {:?}", new.next));
        }
        Ok(())
    }
}

/// The stream of schedules.
pub fn stream() -> StreamBook {
    let mut stream = new_stream("CLAUDEBUS_SCHEDULES", "$SCHEDULE", Retention::Limits);
    stream.config.discard = Discard::New;
    stream.config.max_msgs_per_subject = 1;
    stream.config.allow_msg_schedules = true;
    stream.config.dead_letters = DeadLetters { enabled: false, ..DeadLetters::default() };
    stream
}

impl Book {
    /// Whether another schedule took the place of this one, or may have. What was not answered is
    /// sent again after a crash in another order, so where they are stored alone says who comes after whom.
    fn is_replaced(&self, id: Id) -> bool {
        let sent = &self.sent[&id];
        let mut others = self.plans.keys().filter(|other| **other != id);
        others.any(|other| {
            let other = &self.sent[other];
            other.subject == sent.subject
                && other.epoch == sent.epoch
                && !other.is_refused
                && other.seq.is_none_or(|at| sent.seq.is_none_or(|own| at > own))
        })
    }
}

impl Simulation {
    /// Publishes a message that is to be published later.
    pub fn publish_later(&mut self) {
        let target = *self.world.chance.pick(&TARGETS);
        if !self.book.streams[SCHEDULES].exists || !self.book.streams[target].exists {
            return;
        }
        let wall = self.world.now().wall;
        let when = match self.world.chance.below(5) {
            0 => When::At(wall + self.world.chance.below(60) * SECOND - 5 * SECOND),
            1 | 2 => When::After(self.world.chance.below(60) * SECOND),
            3 => When::Every((20 + self.world.chance.below(40)) * SECOND),
            _ => When::Cron(*self.world.chance.pick(&[20, 30])),
        };
        let subject = format!("$SCHEDULE.s{}", self.world.chance.below(SUBJECTS));
        let leaf = if self.world.chance.one_in(2) { "timed" } else { LEAVES[1] };
        let name = if self.world.chance.one_in(2) { Name::Id } else { Name::Producer(1) };
        self.plan(target, leaf, when, name, subject);
    }

    /// Notes a message that is to be published later, and sends it.
    fn plan(&mut self, target: usize, leaf: &str, when: When, name: Name, subject: String) {
        let prefix = self.book.streams[target].prefix;
        let plan = Plan {
            target,
            subject: format!("{prefix}.{leaf}"),
            when,
            target_epoch: self.book.streams[target].epoch,
            due_by: None,
            may_be_ended: false,
            ended: None,
            fired: BTreeMap::new(),
        };
        let id = self.compose(SCHEDULES, name, subject);
        let told = match (self.world.sabotage, when) {
            (Sabotage::HastySchedules, When::After(wait)) => When::After(wait / 2),
            (Sabotage::HastySchedules, When::Every(wait)) => When::Every(wait / 2),
            _ => when,
        };
        let sent = self.book.sent.get_mut(&id).expect("it was composed");
        let mut block = Block::from_existing(&sent.headers);
        block.add(names::SCHEDULE, &told.text());
        block.add(names::SCHEDULE_TARGET, &plan.subject);
        sent.headers = block.finish();
        // It takes the place of the one before.
        sent.is_rollup = true;
        self.book.streams[SCHEDULES].rollups.push(id);
        self.book.plans.insert(id, plan);
        self.send(id);
    }

    /// Notes that the schedules of a subject may be over.
    fn end_plans(&mut self, subject: &str) {
        for (id, plan) in &mut self.book.plans {
            plan.may_be_ended |= self.book.sent[id].subject == subject;
        }
    }

    /// Notes that a schedule was acknowledged.
    pub fn planned(&mut self, id: Id) {
        let latest = self.world.latest_wall;
        if let Some(plan) = self.book.plans.get_mut(&id) {
            plan.due_by.get_or_insert(match plan.when {
                When::At(time) => time.max(latest),
                When::After(wait) | When::Every(wait) => latest + wait,
                When::Cron(_) => latest + 60 * SECOND,
            });
        }
    }

    /// Ends a schedule, and notes after what it must not publish any more.
    pub fn cancel_schedule(&mut self) -> Result<(), Halt> {
        let is_open = |id: Id, plan: &Plan| {
            plan.due_by.is_some() && !plan.may_be_ended && !self.book.is_replaced(id)
        };
        let plans = self.book.plans.iter();
        let open: Vec<Id> =
            plans.filter(|(id, plan)| is_open(**id, plan)).map(|(id, _)| *id).collect();
        if open.is_empty() || !self.book.streams[SCHEDULES].exists {
            return Ok(());
        }
        let id = *self.world.chance.pick(&open);
        let subject = self.book.sent[&id].subject.clone();
        let stream = self.book.streams[SCHEDULES].name.clone();
        if self.world.sabotage == Sabotage::LostSchedules {
            return self.ask(ApiRequest::ScheduleDelete { stream, subject }).map(|_| ());
        }
        self.end_plans(&subject);
        let is_ok = self.world.sabotage == Sabotage::ForgottenCancels
            || self.ask(ApiRequest::ScheduleDelete { stream, subject })?.is_ok();
        let target = self.book.plans[&id].target;
        let name = self.book.streams[target].name.clone();
        let options = StreamInfoOptions::default();
        let info = self.ask(ApiRequest::StreamInfo { stream: name, options })?;
        if let Ok(ApiResponse::Stream { info, .. }) = info
            && is_ok
            && let Some(plan) = self.book.plans.get_mut(&id)
        {
            plan.ended = Some((self.book.streams[target].epoch, info.state.last_seq));
            self.world.seen.cancelled += 1;
        }
        Ok(())
    }

    /// A message that says that a schedule published it. Returns which it is in the book.
    pub fn check_fired(
        &mut self,
        stream: usize,
        seq: u64,
        headers: &[u8],
        payload: &[u8],
        time: Option<u64>,
    ) -> Result<Id, String> {
        let name = self.book.streams[stream].name.clone();
        let wrong = |why: String| format!("{name}: what a schedule published at {seq} {why}");
        let text = payload.split(|byte| *byte == b'|').next().unwrap_or_default();
        let of = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Id>().ok());
        let Some((of, plan)) = of.and_then(|of| Some((of, self.book.plans.get(&of)?))) else {
            return Err(wrong("was planned by nobody".to_owned()));
        };
        let sent = &self.book.sent[&of];
        let next = get(headers, names::SCHEDULE_NEXT).unwrap_or_default();
        let next = if next == "purge" {
            None
        } else {
            Some(next.parse::<Timestamp>().map_err(|_| wrong(format!("comes at {next}")))?.0)
        };
        if sent.payload != payload
            || get(headers, names::SCHEDULER) != Some(&sent.subject)
            || stream != plan.target
        {
            return Err(wrong(format!("is not what {of} said")));
        }
        let epoch = self.book.streams[stream].epoch;
        if let Some(known) = self.book.streams[stream].by_seq.get(&seq) {
            let known = *known;
            if self.book.sent[&known].fired_by != Some(of) {
                return Err(wrong(format!("was message {known}")));
            }
            return Ok(known);
        }
        if get(headers, names::REQUEUED).is_some() {
            let mut those = plan.fired.values().filter(|fired| fired.next == next);
            let again = those.find(|fired| self.book.sent[&fired.id].requeues > 0);
            let id = again.map(|fired| fired.id).ok_or_else(|| wrong("was requeued".to_owned()))?;
            self.book.observe(stream, seq, id)?;
            return Ok(id);
        }
        let id = self.book.next_id;
        let fired = Fired { id, next, time };
        plan.check((epoch, seq), fired, plan.due(sent))
            .map_err(|why| wrong(format!("is of {of}, which is {why}")))?;
        let sent = Sent {
            stream,
            epoch,
            subject: plan.subject.clone(),
            headers: headers.to_vec(),
            wall: time.unwrap_or(sent.wall).min(sent.wall),
            ttl: None,
            number: None,
            seq: None,
            is_acked: true,
            acked_in: 0,
            is_refused: false,
            requeues: 0,
            is_rollup: false,
            is_repeatable: false,
            fired_by: Some(of),
            ..sent.clone()
        };
        self.book.next_id += 1;
        self.book.sent.insert(id, sent);
        self.book.observe(stream, seq, id)?;
        if let Some(plan) = self.book.plans.get_mut(&of) {
            plan.fired.insert((epoch, seq), fired);
        }
        self.world.seen.fired += 1;
        Ok(id)
    }

    /// What was published once is no schedule any more. It may be published while streams are read:
    /// what was seen of it before is below `until`.
    pub fn judge_fired(&self, found: &BTreeMap<u64, Id>, until: Id) -> Result<(), Halt> {
        for (seq, id) in found {
            let Some(plan) = self.book.plans.get(id) else { continue };
            if plan.when.is_once() && plan.fired.values().any(|fired| fired.id < until) {
                return Err(Halt::Violation(format!(
                    "the schedule {id} at {seq} is still there, though it was published"
                )));
            }
        }
        Ok(())
    }

    /// At the end, when everything is due that comes once, nothing is missing.
    pub fn judge_plans(&self) -> Result<(), Halt> {
        let now = self.world.now().wall;
        for (id, plan) in &self.book.plans {
            let sent = &self.book.sent[id];
            let (Some(due), false) = (plan.due_by, plan.may_be_ended) else { continue };
            let target = Sent { epoch: plan.target_epoch, ..sent.clone() };
            if due + SLACK > now
                || self.book.may_go_unseen(plan.target, &plan.subject, &target)
                || sent.epoch != self.book.streams[SCHEDULES].epoch
                || self.book.is_replaced(*id)
            {
                continue;
            }
            let last = plan.fired.values().next_back();
            let is_missing = match plan.when {
                When::At(_) | When::After(_) => last.is_none(),
                When::Every(_) | When::Cron(_) => {
                    last.is_none_or(|last| last.next.is_none_or(|next| next + SLACK < now))
                }
            };
            if is_missing {
                let when = plan.when;
                return Err(Halt::Violation(format!(
                    "the schedule {id}, {when:?}, was due by {due} and is not published by {now}"
                )));
            }
        }
        Ok(())
    }
}

#[test]
fn of_two_schedules_the_one_that_is_stored_last_stays() {
    let mut simulation = Simulation::new(World::new(1, Sabotage::None, false));
    simulation.book.streams = streams(&mut simulation.world.chance);
    simulation.world.start().unwrap();
    crate::begin(&mut simulation).unwrap();
    let (first, last) = (simulation.book.next_id, simulation.book.next_id + 1);
    let when = When::After(20 * SECOND);
    for name in [Name::Id, Name::Producer(1)] {
        simulation.plan(2, "timed", when, name, "$SCHEDULE.s0".to_owned());
    }
    // The power fails before either is stored. What has a counter is sent again first.
    simulation.world.end(End::PowerLoss).unwrap();
    simulation.world.start().unwrap();
    crate::begin(&mut simulation).unwrap();
    simulation.settle_down().unwrap();
    assert!(simulation.book.sent[&first].seq > simulation.book.sent[&last].seq);
    assert!(simulation.book.is_replaced(last) && !simulation.book.is_replaced(first));
    simulation.outlive().unwrap();
    assert_eq!(simulation.book.plans[&first].fired.len(), 1);
    assert!(simulation.book.plans[&last].fired.is_empty());
}
