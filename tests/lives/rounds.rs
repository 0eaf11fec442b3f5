//! One round after the other: start, work, kill, look.

use std::error::Error;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use claudebus::client::{Client, ReconnectPolicy};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::kills::{Kills, Kind};
use super::oracle::{Oracle, add, get};
use super::payload::next;
use super::scenario::LINES;
use super::verify::{self, Depth};
use super::work::{self, Shared};
use crate::process::{Broker, Launch, Waited};

/// Budget of the broker's memory for messages: small, so that it checkpoints all the time.
const TAIL_BUDGET: &str = "2MiB";
/// Longest time from the start of the process to the first acknowledgement.
const FIRST_ACK: Duration = Duration::from_secs(5);
/// Longest time for anything else; past it, something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections of the applications.
const CONNECTIONS: usize = 4;
/// The publisher that measures how soon the broker is back.
const PROBE: u16 = 1000;
/// Signal that ends a process which aborts: what a named place does.
const ABORTED: i32 = 6;

/// What the broker's log says of sequences that it leaves out.
const LEFT_OUT: &str = "these sequences are lost";

/// What a run says when it cannot go on.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long and how hard.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds. Each kills the broker at least twice.
    pub rounds: u64,
    /// Seed of payloads, choices and times.
    pub seed: u64,
    /// Acknowledged messages of a round, about.
    pub acks: u64,
    /// Every so many rounds everything is read back, not only samples.
    pub full_every: u64,
    /// Whether to end with the first round that violates anything, for what is left of it.
    pub stop_when_violated: bool,
    /// Whether the broker may leave sequences out that it cannot account for, if it says so: a write
    /// that was torn may have been a synced one that rotted.
    pub may_leave_out: bool,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
}

/// What the broker is doing when it is to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It was just started.
    Starting,
    /// It serves.
    Running,
}

/// What the broker dies of, and what is left of its disk.
pub trait Machine {
    /// Ends the broker at a moment drawn from `random`. Says whether that is what ended it.
    fn kill(&mut self, broker: &mut Broker, when: Moment, random: &mut u64) -> io::Result<bool>;

    /// The broker is dead, and is started again after this.
    fn died(&mut self, random: &mut u64) -> Outcome<()>;
}

/// A run in progress.
pub struct Run<M> {
    plan: Plan,
    machine: M,
    launch: Launch,
    runtime: Runtime,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    publishers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
    random: u64,
    /// Lines of the broker's log that were read.
    heard: usize,
    /// How often, and where, the broker was killed.
    pub kills: Kills,
    /// Time from the start of the process to the first acknowledgement.
    pub first_acks: Vec<Duration>,
}

impl<M: Machine> Run<M> {
    /// Prepares a run with its data directory at `data`. Starts nothing.
    pub fn new(plan: Plan, machine: M, data: &Path) -> Outcome<Self> {
        let mut launch = Launch::new(data)?.with(&["--tail-budget", TAIL_BUDGET]);
        launch.arguments.extend(plan.arguments.iter().cloned());
        Ok(Self {
            launch,
            machine,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?,
            shared: Arc::new(Shared::new(Oracle::new(plan.seed))),
            clients: Vec::new(),
            publishers: Vec::new(),
            consumers: Vec::new(),
            random: plan.seed,
            heard: 0,
            kills: Kills::default(),
            first_acks: Vec::new(),
            plan,
        })
    }

    /// The judge.
    pub fn oracle(&self) -> &Oracle {
        &self.shared.oracle
    }

    /// What the broker dies of.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Everything, in order.
    pub fn all(&mut self) -> Outcome<()> {
        let mut broker = self.first_start()?;
        for round in 1..=self.plan.rounds {
            let behind = round * self.plan.acks;
            let behind = behind.saturating_sub(get(&self.oracle().counters.acks));
            let quota = self.quota().max(behind);
            self.work_until(&mut broker, quota)?;
            self.kill_running(&mut broker)?;
            self.machine.died(&mut self.random)?;
            let place = self.killed_on_purpose()?;
            self.machine.died(&mut self.random)?;
            broker = self.start()?;
            self.first_ack(&broker)?;
            let full = round.is_multiple_of(self.plan.full_every);
            self.look(if full { Depth::Full } else { Depth::Sample(20) })?;
            let (violations, _) = self.oracle().violations();
            println!(
                "round {round:>3}: {:>9} acks, {:>3} kills, {violations} violations, {place}",
                get(&self.oracle().counters.acks),
                self.kills.total()
            );
            if violations > 0 && self.plan.stop_when_violated {
                return Ok(());
            }
        }
        self.finish(broker)
    }

    fn draw(&mut self, below: u64) -> u64 {
        next(&mut self.random) % below.max(1)
    }

    /// Acknowledgements to wait for before a kill: half a round's, give or take a third.
    fn quota(&mut self) -> u64 {
        let half = self.plan.acks / 2;
        half * 2 / 3 + self.draw(half * 2 / 3)
    }

    fn connect(&self) -> Outcome<Client> {
        let reconnect = ReconnectPolicy {
            first: Duration::from_millis(10),
            longest: Duration::from_millis(200),
            attempts: None,
        };
        let client = Client::builder()
            .url(self.launch.url())
            .ca_file(self.launch.ca_file())
            .reconnect(reconnect)
            .idle_timeout(Duration::from_millis(1500))
            .connect_timeout(Duration::from_secs(1));
        Ok(self.runtime.block_on(client.connect())?)
    }

    fn first_start(&mut self) -> Outcome<Broker> {
        let broker = self.start()?;
        self.clients = (0..CONNECTIONS).map(|_| self.connect()).collect::<Outcome<_>>()?;
        let shared = Arc::clone(&self.shared);
        let clients = self.clients.clone();
        let (publishers, consumers) = self.runtime.block_on(async {
            for line in LINES {
                clients[0].create_stream(line.config()).await?;
            }
            let consumers = work::start_consumers(&shared, &clients).await?;
            Ok::<_, claudebus::client::RequestError>((
                work::start_publishers(&shared, &clients),
                consumers,
            ))
        })?;
        self.publishers = publishers;
        self.consumers = consumers;
        Ok(broker)
    }

    /// Starts the broker and waits until it is ready.
    fn start(&mut self) -> Outcome<Broker> {
        self.launch.crash_at = None;
        let mut broker = self.launch.start()?;
        match broker.wait_ready(PATIENCE)? {
            Waited::Ready => Ok(broker),
            Waited::Ended(status) => Err(self.unexpected(&format!("did not start: {status}"))),
            Waited::TimedOut => Err(self.unexpected("is not ready in time")),
        }
    }

    fn unexpected(&self, what: &str) -> Box<dyn Error> {
        let log = std::fs::read_to_string(self.launch.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        let end = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("the broker {what}. It last said:\n{end}").into()
    }

    /// Publishes one message over a new connection: how soon is it acknowledged?
    fn first_ack(&mut self, broker: &Broker) -> Outcome<()> {
        let client = self.connect()?;
        let oracle = &self.shared.oracle;
        let name = oracle.sending(0, PROBE);
        let message = work::message(oracle.seed, 0, name);
        let ack = self.runtime.block_on(client.publish_message(message))?;
        let took = broker.started.elapsed();
        oracle.acked(0, name, ack.seq, ack.duplicate);
        if took > FIRST_ACK {
            oracle.violated(format_args!("the first acknowledgement took {took:?}"));
        }
        self.first_acks.push(took);
        self.runtime.block_on(client.close());
        Ok(())
    }

    /// Waits for so many more acknowledgements. Ends early, with true, if the broker does.
    fn work_until(&mut self, broker: &mut Broker, more: u64) -> Outcome<bool> {
        let goal = get(&self.oracle().counters.acks) + more;
        let began = Instant::now();
        while get(&self.oracle().counters.acks) < goal {
            if broker.ended()?.is_some() {
                return Ok(true);
            }
            if began.elapsed() > PATIENCE {
                self.oracle().violated("the applications make no progress");
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(false)
    }

    fn kill_running(&mut self, broker: &mut Broker) -> Outcome<()> {
        if self.machine.kill(broker, Moment::Running, &mut self.random)? {
            self.kills.died(Kind::Running);
            return Ok(());
        }
        Err(self.unexpected("ended by itself"))
    }

    /// Starts it once more to die of the kind that is due. Returns where it died.
    fn killed_on_purpose(&mut self) -> Outcome<String> {
        let kind = self.kills.next();
        let place = kind.draw(&mut self.random);
        self.launch.crash_at.clone_from(&place);
        let mut broker = self.launch.start()?;
        self.launch.crash_at = None;
        let Some(place) = place else {
            if !self.machine.kill(&mut broker, Moment::Starting, &mut self.random)? {
                return Err(self.unexpected("ended by itself while starting"));
            }
            let kind = if broker.was_ready() { Kind::Running } else { Kind::StartUp };
            self.kills.died(kind);
            return Ok(format!("{} after {:?}", kind.name(), broker.started.elapsed()));
        };
        if broker.wait_ready(PATIENCE)? == Waited::Ready {
            // Twice the usual work, for places that are passed seldom.
            let more = 2 * self.quota();
            self.work_until(&mut broker, more)?;
        }
        let patience = Duration::from_millis(50) + Duration::from_micros(self.draw(20_000));
        let ended = match broker.wait_end(patience)? {
            None if broker.kill()? => None,
            // It may have got there just before it was to be killed.
            None => broker.ended()?,
            ended => ended,
        };
        match ended {
            Some(status) if status.signal() == Some(ABORTED) => {
                self.kills.died_at(kind, &place);
                Ok(place)
            }
            Some(status) => Err(self.unexpected(&format!("ended by itself: {status}"))),
            None => {
                self.kills.missed += 1;
                self.kills.died(Kind::Running);
                Ok(format!("{place} was not reached"))
            }
        }
    }

    /// Takes in what the broker's log says it left out.
    fn hear(&mut self) -> Outcome<()> {
        let log = std::fs::read_to_string(self.launch.log_file())?;
        for line in log.lines().skip(self.heard).filter(|line| line.contains(LEFT_OUT)) {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
            let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
            let (Some(first), Some(last)) = (number("first="), number("last=")) else {
                return Err(format!("this says not what is left out: {line}").into());
            };
            let index = LINES.iter().position(|line| Some(line.stream) == field("stream="));
            if let Some(index) = index {
                self.oracle().book(index).leave_out(first, last);
                add(&self.oracle().counters.left_out, 1);
            }
        }
        self.heard = log.lines().count();
        Ok(())
    }

    /// Holds all applications, once everything in flight is answered, and compares.
    fn look(&mut self, depth: Depth) -> Outcome<()> {
        if self.plan.may_leave_out {
            self.hear()?;
        }
        let (shared, client) = (Arc::clone(&self.shared), self.clients[0].clone());
        let random = &mut self.random;
        self.runtime.block_on(async {
            let Ok(held) = tokio::time::timeout(PATIENCE, shared.gate.write()).await else {
                shared.oracle.violated("what was in flight is not answered in time");
                return Ok(());
            };
            let result = verify::check(&shared, &client, depth, random).await;
            drop(held);
            result
        })?;
        Ok(())
    }

    /// Ends the work, waits until all is delivered, compares everything, and again after a clean
    /// stop: what it left must not need the machine any more.
    fn finish(&mut self, broker: Broker) -> Outcome<()> {
        self.shared.publishing.store(false, Ordering::Relaxed);
        let publishers = std::mem::take(&mut self.publishers);
        let consumers = std::mem::take(&mut self.consumers);
        let (shared, client) = (Arc::clone(&self.shared), self.clients[0].clone());
        self.runtime.block_on(async {
            if tokio::time::timeout(PATIENCE, join(publishers)).await.is_err() {
                shared.oracle.violated("publishers do not end");
            }
            verify::drained(&shared, &client, 2 * PATIENCE).await
        })?;
        self.look(Depth::Full)?;
        verify::settled(&shared);
        shared.consuming.store(false, Ordering::Relaxed);
        self.runtime.block_on(async {
            if tokio::time::timeout(PATIENCE, join(consumers)).await.is_err() {
                shared.oracle.violated("consumers do not end");
            }
        });
        let broker = self.stop_cleanly(broker)?;
        self.look(Depth::Full)?;
        drop(broker);
        Ok(())
    }

    fn stop_cleanly(&mut self, mut broker: Broker) -> Outcome<Broker> {
        let kill = std::process::Command::new("kill")
            .args(["-TERM", &broker.id().to_string()])
            .status()?;
        let status = broker.wait_end(PATIENCE)?;
        if !kill.success() || !status.is_some_and(|status| status.success()) {
            self.oracle().violated(format_args!("a clean stop ended with {status:?}"));
        }
        self.machine.died(&mut self.random)?;
        self.start()
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
