//! The machine that the broker runs on: its disk, its clocks, its power. Everything that would be
//! chance on a real one is drawn from the seed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudebus::broker::{Broker, BrokerOptions};
use claudebus::model::event::Event;
use claudebus::model::request::{Request, SessionId};
use claudebus::model::time::Now;
use claudebus_storage::{
    Disk, DiskFile, Durability, Engine, EngineOptions, EngineStats, InlineWorkers, SimulatedDisk,
    Workers,
};

use crate::chance::Chance;
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

/// A disk whose files sometimes do not sync.
struct LyingDisk {
    disk: SimulatedDisk,
    lies: Arc<AtomicBool>,
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    lies: Arc<AtomicBool>,
}

impl LyingDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LyingFile { file, lies: Arc::clone(&self.lies) })
    }
}

impl Disk for LyingDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.lies.load(Ordering::Relaxed) { Ok(()) } else { self.file.sync() }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
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
    pub reads: u64,
    pub published: u64,
    pub delivered: u64,
    pub confirmed: u64,
    pub letters: u64,
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
        self.reads += other.reads;
        self.published += other.published;
        self.delivered += other.delivered;
        self.confirmed += other.confirmed;
        self.letters += other.letters;
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
            self.reads,
            self.published,
            self.delivered,
            self.confirmed,
            self.letters,
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
    disk: SimulatedDisk,
    lies: Arc<AtomicBool>,
    broker: Option<Broker<Engine>>,
    monotonic: Duration,
    wall: u64,
    seed: u64,
    /// The change of the disk at which power fails.
    power_off_at: Option<u64>,
    /// Whether all background work is done in each turn.
    pub is_calm: bool,
}

impl World {
    /// A machine with an empty disk, switched off.
    pub fn new(seed: u64, sabotage: Sabotage, verbose: bool) -> Self {
        Self {
            chance: Chance::new(seed),
            trace: Trace::new(verbose),
            seen: Seen::default(),
            sabotage,
            life: 0,
            latest_wall: START,
            disk: SimulatedDisk::new(),
            lies: Arc::default(),
            broker: None,
            monotonic: Duration::ZERO,
            wall: START,
            seed,
            power_off_at: None,
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
            ..EngineOptions::default()
        }
    }

    /// Starts the broker. Power may fail meanwhile.
    pub fn start(&mut self) -> Result<(), Halt> {
        self.life += 1;
        self.monotonic = Duration::from_secs(1);
        let options = self.options();
        let disk: Arc<dyn Disk> = if self.sabotage == Sabotage::LyingDisk {
            Arc::new(LyingDisk { disk: self.disk.clone(), lies: Arc::clone(&self.lies) })
        } else {
            Arc::new(self.disk.clone())
        };
        let opened = Engine::open(options, disk, Arc::new(|| {}));
        if self.has_lost_power() {
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
            if end == End::Stop && !self.has_lost_power() {
                broker.shut_down(self.now());
                broker.commit();
                if broker.into_log().close().is_err() && !self.has_lost_power() {
                    self.seen.failures += 1;
                }
            }
        }
        if self.has_lost_power() {
            end = End::PowerLoss;
        }
        self.trace.say(format_args!("end of life {}: {end:?}", self.life));
        match end {
            End::PowerLoss => {
                self.disk.crash(self.chance.next());
                self.seen.power_losses += 1;
            }
            End::Kill => self.seen.kills += 1,
            End::Stop => self.seen.stops += 1,
        }
        self.disarm();
        // Time passes until someone starts it again; the wall clock may be set meanwhile.
        self.set_wall();
        Ok(())
    }

    /// Lets the power fail at a change of the disk within the next `within`.
    pub fn arm_power_loss(&mut self, within: u64) {
        let n = 1 + self.chance.below(within);
        self.power_off_at = Some(self.disk.counts().changes() + n);
        self.disk.power_off_after(n);
    }

    /// Lets a change of the disk within the next `within` fail.
    pub fn arm_failure(&mut self, within: u64) {
        let n = 1 + self.chance.below(within);
        if self.chance.one_in(3) { self.disk.run_out_after(n) } else { self.disk.fail_after(n) }
    }

    /// No fault happens any more.
    pub fn disarm(&mut self) {
        if self.power_off_at.take().is_some() {
            self.disk.power_off_after(u64::MAX / 2);
        }
        self.disk.fail_after(u64::MAX / 2);
    }

    fn has_lost_power(&self) -> bool {
        self.power_off_at.is_some_and(|at| self.disk.counts().changes() >= at)
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

    /// Hands a request to the broker.
    pub fn handle(&mut self, from: SessionId, request: Request) {
        let now = self.now();
        if let Some(broker) = &mut self.broker {
            broker.handle(now, from, request);
        }
    }

    /// One turn of the broker, and some work of the engine's workers.
    pub fn turn(&mut self) -> Result<Vec<(SessionId, Event)>, Halt> {
        if self.has_lost_power() {
            return Err(Halt::Down);
        }
        let time = Duration::from_micros(self.chance.below(20_000));
        self.pass(time);
        let workers = self.draw_workers();
        self.lies.store(self.chance.one_in(3), Ordering::Relaxed);
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
