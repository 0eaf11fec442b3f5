//! The machine that the broker runs on: its disk, its clocks, its power. Everything that would be
//! chance on a real one is drawn from the seed.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use claudebus::broker::{Broker, BrokerOptions};
use claudebus::model::event::Event;
use claudebus::model::request::{Request, SessionId};
use claudebus::model::time::Now;
use claudebus_storage::{
    Durability, Engine, EngineOptions, EngineStats, InlineWorkers, Log, LoneWriter, Pressure,
    StreamId, Workers,
};

use crate::chance::Chance;
use crate::disks::Disks;
use crate::trace::Trace;

/// When the wall clock stands at the start: some day of 2023.
const START: u64 = 1_700_000_000_000_000_000;

/// Why a step did not end.
#[derive(Debug)]
pub enum Halt {
    /// The broker is not running any more. It is to be started again.
    Down,
    /// The broker broke a promise.
    Violation(String),
}

/// What is broken on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// What counts as durable was written, but not synced.
    EarlyAcks,
    /// The disk says that it synced, and sometimes did not.
    LyingDisk,
    /// Acknowledgements are confirmed and not handed to the broker.
    ForgottenAcks,
    /// Some messages are handed to the broker twice, as if by two producers.
    DoubledPublish,
    /// Consumers are created without their order by key.
    UnorderedKeys,
    /// Consumers are created without their order by priority.
    IgnoredPriorities,
    /// Consumers are created without the speed of their replay.
    HastyReplay,
    /// Pauses are confirmed and not handed to the broker.
    ForgottenPauses,
    /// The two halves of a batch are handed over one after the other.
    HalvedBatches,
    /// Schedules wait half as long as they should.
    HastySchedules,
    /// The end of a schedule is confirmed and not handed to the broker.
    ForgottenCancels,
    /// Schedules that were acknowledged are ended without being asked.
    LostSchedules,
    /// What should have two copies has one.
    LoneCopies,
}

/// How the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power fails: what was not synced is lost, or torn.
    PowerLoss,
    /// The process is killed: what was written stays.
    Kill,
    /// It is asked to stop, and does.
    Stop,
}

/// What the runs went through, to see that the faults happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub power_losses: u64,
    pub kills: u64,
    pub stops: u64,
    pub failures: u64,
    pub interrupted_starts: u64,
    pub checkpoints: u64,
    pub merges: u64,
    pub recycled: u64,
    pub rotations: u64,
    pub lone_writes: u64,
    pub reads: u64,
    pub published: u64,
    pub delivered: u64,
    pub confirmed: u64,
    pub letters: u64,
    pub batches: u64,
    pub fired: u64,
    pub cancelled: u64,
    pub pauses: u64,
    pub rotten: u64,
    pub copied: u64,
    /// Ranges of sequences that starts left out for doubt.
    pub left_out: u64,
}

impl Seen {
    /// Adds what another run went through.
    pub fn add(&mut self, other: &Self) {
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.stops += other.stops;
        self.failures += other.failures;
        self.interrupted_starts += other.interrupted_starts;
        self.checkpoints += other.checkpoints;
        self.merges += other.merges;
        self.recycled += other.recycled;
        self.rotations += other.rotations;
        self.lone_writes += other.lone_writes;
        self.reads += other.reads;
        self.published += other.published;
        self.delivered += other.delivered;
        self.confirmed += other.confirmed;
        self.letters += other.letters;
        self.batches += other.batches;
        self.fired += other.fired;
        self.cancelled += other.cancelled;
        self.pauses += other.pauses;
        self.rotten += other.rotten;
        self.copied += other.copied;
        self.left_out += other.left_out;
    }

    /// Stops if the runs did not go through all that can go wrong.
    pub fn assert_everything_happened(&self) {
        let all = [
            self.power_losses,
            self.kills,
            self.stops,
            self.failures,
            self.interrupted_starts,
            self.checkpoints,
            self.merges,
            self.recycled,
            self.rotations,
            self.lone_writes,
            self.reads,
            self.published,
            self.delivered,
            self.confirmed,
            self.letters,
            self.batches,
            self.fired,
            self.cancelled,
            self.pauses,
            self.rotten,
            self.copied,
            self.left_out,
        ];
        assert!(all.iter().all(|count| *count > 0), "{self:?}");
    }

    fn add_engine(&mut self, stats: &EngineStats) {
        self.checkpoints += stats.checkpoints;
        self.merges += stats.merges;
        self.recycled += stats.recycled;
        self.rotations += stats.rotations;
        self.reads += stats.reads;
    }
}

/// The machine.
pub struct World {
    pub chance: Chance,
    pub trace: Trace,
    pub seen: Seen,
    pub sabotage: Sabotage,
    pub life: u64,
    /// The latest that the wall clock ever showed.
    pub latest_wall: u64,
    disks: Disks,
    /// Sequences that starts left out, as they may have been given out before: nothing may ever get one.
    left_out: Vec<(StreamId, RangeInclusive<u64>)>,
    broker: Option<Broker<Engine>>,
    monotonic: Duration,
    wall: u64,
    seed: u64,
    /// Whether all background work is done in each turn.
    pub is_calm: bool,
}

impl World {
    /// A machine with an empty disk, switched off.
    pub fn new(seed: u64, sabotage: Sabotage, verbose: bool) -> Self {
        let mut chance = Chance::new(seed);
        let disks = Disks::new(&mut chance, sabotage);
        Self {
            chance,
            trace: Trace::new(verbose),
            seen: Seen::default(),
            sabotage,
            life: 0,
            latest_wall: START,
            disks,
            left_out: Vec::new(),
            broker: None,
            monotonic: Duration::ZERO,
            wall: START,
            seed,
            is_calm: false,
        }
    }

    fn options(&mut self) -> EngineOptions {
        let early = self.sabotage == Sabotage::EarlyAcks;
        EngineOptions {
            tail_budget: 16 << 10,
            journal_file_size: 16 << 10,
            journal_limit: 64 << 10,
            workers: Workers::Inline,
            index: false,
            durability: if early { Durability::Os } else { Durability::Sync },
            seed: self.chance.next(),
            lone_writer: if self.chance.one_in(2) {
                LoneWriter::Owner
            } else {
                LoneWriter::Journal
            },
            ..EngineOptions::default()
        }
    }

    /// Starts the broker. Power may fail meanwhile.
    pub fn start(&mut self) -> Result<(), Halt> {
        self.life += 1;
        self.monotonic = Duration::from_secs(1);
        let options = self.options();
        let disk = self.disks.open(self.sabotage, options.seed);
        let opened = disk.and_then(|disk| {
            Engine::open(options, disk, Arc::new(|| {})).map_err(|error| error.to_string())
        });
        if self.disks.has_lost_power() {
            self.seen.interrupted_starts += 1;
            return Err(Halt::Down);
        }
        let engine = opened
            .map_err(|error| Halt::Violation(format!("the log does not open again: {error}")))?;
        let report = engine.recovery_report();
        self.trace.say(format_args!("life {}: {} groups", self.life, report.groups_replayed));
        if !report.damage.is_empty() {
            let damage = format!("a crash is taken for damage: {:?}", report.damage);
            return Err(Halt::Violation(damage));
        }
        let doubtful = report.losses.ranges.iter().filter(|lost| !lost.is_certain);
        let known = self.left_out.len();
        self.left_out.extend(doubtful.map(|lost| (lost.stream, lost.first..=lost.last)));
        self.seen.left_out += (self.left_out.len() - known) as u64;
        let options = BrokerOptions { seed: self.seed, ..BrokerOptions::default() };
        let broker = Broker::open(engine, options, self.now())
            .map_err(|error| Halt::Violation(format!("the broker does not open: {error}")))?;
        self.broker = Some(broker);
        Ok(())
    }

    /// Ends the broker.
    pub fn end(&mut self, end: End) -> Result<(), Halt> {
        let mut end = end;
        if let Some(mut broker) = self.broker.take() {
            self.seen.add_engine(&broker.log().info());
            if end == End::Stop && !self.disks.has_lost_power() {
                broker.shut_down(self.now());
                broker.commit();
                if broker.into_log().close().is_err() && !self.disks.has_lost_power() {
                    self.seen.failures += 1;
                }
            }
        }
        if self.disks.has_lost_power() {
            end = End::PowerLoss;
        }
        self.trace.say(format_args!("end of life {}: {end:?}", self.life));
        match end {
            End::PowerLoss => {
                self.disks.crash(&mut self.chance);
                self.seen.power_losses += 1;
            }
            End::Kill => self.seen.kills += 1,
            End::Stop => self.seen.stops += 1,
        }
        self.disarm();
        if let Some(what) = self.disks.rot(&mut self.chance) {
            self.seen.rotten += 1;
            self.trace.say(format_args!("rot: {what}"));
        }
        // Time passes until someone starts it again; the wall clock may be set meanwhile.
        self.set_wall();
        Ok(())
    }

    /// Whether a start left this sequence out.
    pub fn has_left_out(&self, stream: StreamId, seq: u64) -> bool {
        self.left_out.iter().any(|(of, seqs)| *of == stream && seqs.contains(&seq))
    }

    /// Lets the power fail within the next `within` changes of a disk.
    pub fn arm_power_loss(&mut self, within: u64) {
        self.disks.arm_power_loss(&mut self.chance, within);
    }

    /// Lets one of the next `within` changes of a disk fail.
    pub fn arm_failure(&mut self, within: u64) {
        self.disks.arm_failure(&mut self.chance, within);
    }

    /// No fault happens any more.
    pub fn disarm(&mut self) {
        self.disks.disarm();
    }

    /// The time.
    pub fn now(&self) -> Now {
        Now { monotonic: self.monotonic, wall: self.wall }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.monotonic += time;
        self.wall += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.latest_wall = self.latest_wall.max(self.wall);
    }

    /// Sets the wall clock forward or back by up to a minute.
    pub fn set_wall(&mut self) {
        let by = self.chance.below(60_000_000_000);
        self.wall = if self.chance.one_in(2) { self.wall + by } else { self.wall - by };
        self.latest_wall = self.latest_wall.max(self.wall);
    }

    /// Whether the broker refuses what is published now, because the disk has no room.
    pub fn lacks_room(&self) -> bool {
        self.broker.as_ref().is_some_and(|broker| broker.log().pressure() == Pressure::NoSpace)
    }

    /// Hands a request to the broker.
    pub fn handle(&mut self, from: SessionId, request: Request) {
        let now = self.now();
        if let Some(broker) = &mut self.broker {
            broker.handle(now, from, request);
        }
    }

    /// One turn of the broker, and some work of the engine's workers.
    pub fn turn(&mut self) -> Result<Vec<(SessionId, Event)>, Halt> {
        if self.disks.has_lost_power() {
            return Err(Halt::Down);
        }
        let time = Duration::from_micros(self.chance.below(20_000));
        self.pass(time);
        let (workers, is_idle) = (self.draw_workers(), self.chance.one_in(2));
        self.disks.set_lying(self.chance.one_in(3));
        let now = self.now();
        let broker = self.broker.as_mut().ok_or(Halt::Down)?;
        if broker.handle_log(now).is_err() {
            self.seen.failures += 1;
            self.trace.say(format_args!("the log failed"));
            return if broker.handle_log(now).is_err() {
                Err(Halt::Down)
            } else {
                Err(Halt::Violation("the log goes on after a failure".to_owned()))
            };
        }
        if broker.poll_timeout().is_some_and(|due| due <= now.monotonic) {
            broker.handle_timeout(now);
        }
        broker.commit();
        let mut events = Vec::new();
        while let Some(event) = broker.poll_event() {
            events.push(event);
        }
        self.seen.lone_writes += u64::from(broker.release(is_idle));
        broker.log_mut().run_some_background(workers);
        Ok(events)
    }

    fn draw_workers(&mut self) -> InlineWorkers {
        if self.is_calm {
            return InlineWorkers::ALL;
        }
        let bits = self.chance.next();
        InlineWorkers {
            journal: bits & 1 == 1,
            filler: bits & 2 == 2,
            checkpoints: bits & 12 == 12,
            maintenance: bits & 48 == 48,
            reads: bits & 192 == 192,
        }
    }
}
