//! `claudebus bench`: measures a server, alone or beside a NATS server, in one run on one machine.
//!
//! Both sides do the same work with their own client libraries: the same bytes from the same seed,
//! streams without limits, everything in flight bounded. Sides alternate over several rounds and
//! medians are compared, so that a busy machine harms both alike. What the numbers rest on, above
//! all the durability of each side, is printed with them.

mod bare;
mod connections;
mod filters;
mod growth;
mod limits;
mod nats;
mod ours;
mod own;
mod payload;
mod recovery;
mod redis;
mod report;
mod sample;
mod spread;
mod steady;
mod table;
mod usage;
mod work;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::Global;
use super::exit::Failure;
use super::output::Output;
use crate::config::text;
use nats::Nats;
use ours::Ours;
use payload::Content;
use redis::Redis;
use report::{Group, Report};
use sample::Sample;
use steady::{Steady, SteadySample};
use work::Work;

/// `claudebus bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    claudebus bench publish --size 128 --count 1000000\n  \
    claudebus bench publish --size 128,1024 --against nats://localhost:4333 --rounds 5\n  \
    claudebus bench consume --count 500000 --no-ack --verify\n  \
    claudebus bench latency --count 2000 --output json\n  \
    claudebus bench mixed --rate 10000 --duration 60s --replay 30s")]
pub(super) struct Bench {
    /// What to measure.
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// What can be measured of two servers.
    #[command(flatten)]
    Sides(Kind),
    /// What idle NATS connections cost, and one message to many subscribers
    Connections(connections::Connections),
    /// What filters cost, and many consumers of disjoint parts, on a server of its own
    Filters(filters::Filters),
    /// How cost grows with sizes, streams, consumers, subjects and stored bytes
    Growth(growth::Growth),
    /// What this machine allows, beside what a server makes of it
    Limits(limits::Limits),
    /// How soon a server is back after `kill -9`
    Recovery(recovery::Recovery),
}

#[derive(Clone, Debug, Subcommand)]
enum Kind {
    /// Publish with many messages in flight, each one acknowledged
    Publish(Common),
    /// Receive from a durable pull consumer and acknowledge each message
    Consume {
        #[command(flatten)]
        common: Common,
        /// Receive without acknowledging
        #[arg(long)]
        no_ack: bool,
    },
    /// Publish one message at a time, each waiting for its acknowledgement
    Latency(Common),
    /// Publish at a steady rate, and consume and acknowledge the same messages: latencies of both
    Mixed {
        #[command(flatten)]
        common: Common,
        /// Messages a second
        #[arg(long, value_name = "MESSAGES", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        rate: u32,
        /// Publish at full speed for so long first, and read all of that again meanwhile
        #[arg(long, value_name = "DURATION", value_parser = text::positive_duration)]
        replay: Option<Duration>,
        /// Empty the page cache before that is read again, which needs root on this machine
        #[arg(long, requires = "replay")]
        cold: bool,
    },
}

/// Options of all measurements.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Bytes of each payload; several sizes are measured one after the other
    #[arg(long, value_name = "BYTES", default_value = "128", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    size: Vec<u32>,
    /// What payloads consist of
    #[arg(long, value_enum, default_value_t)]
    content: Content,
    /// Messages per round: 500,000, or 2,000 one at a time, or 100,000 at a steady rate, unless given
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Work for so long instead of on a number of messages; consuming is fed by publishing for half
    /// as long again, and ends when all is consumed
    #[arg(long, value_name = "DURATION", conflicts_with = "count", value_parser = text::positive_duration)]
    duration: Option<Duration>,
    /// Clients at the same time, each with a connection of its own
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Rounds per side; medians are shown
    #[arg(short, long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Do the same work on this server, in turns: nats://… or, for publish and latency, redis://…
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    against: Option<String>,
    /// Talk to our own server as any NATS client would, at this address of its NATS listener: with
    /// --against, both sides are measured through the same client
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    over_nats: Option<String>,
    /// What that server does before it acknowledges; it does not tell by itself
    #[arg(long, value_name = "TEXT", requires = "against")]
    against_durability: Option<String>,
    /// Messages in flight per client on the other side, and fetched at a time
    #[arg(long, value_name = "MESSAGES", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    window: u32,
    /// Read everything back and compare it
    #[arg(long)]
    verify: bool,
    /// Where the random payloads begin
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Threads that the clients share
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

impl Kind {
    fn common(&self) -> &Common {
        match self {
            Self::Publish(common)
            | Self::Latency(common)
            | Self::Consume { common, .. }
            | Self::Mixed { common, .. } => common,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Consume { no_ack: false, .. } => "consume",
            Self::Consume { no_ack: true, .. } => "consume without acks",
            Self::Latency(_) => "latency",
            Self::Mixed { .. } => "mixed",
        }
    }

    fn default_count(&self) -> u64 {
        match self {
            Self::Publish(_) | Self::Consume { .. } => 500_000,
            Self::Latency(_) => 2_000,
            Self::Mixed { .. } => 100_000,
        }
    }

    /// Refuses options that would mean nothing.
    fn check(&self) -> Result<(), Failure> {
        let common = self.common();
        let smallest = common.content.smallest();
        if common.size.iter().any(|size| (*size as usize) < smallest) {
            let wrong = format_args!("--content json needs --size {smallest} or more");
            return Err(Failure::usage(wrong));
        }
        if matches!(self, Self::Mixed { .. }) && (common.verify || common.clients != 1) {
            return Err(Failure::usage(
                "`bench mixed` has one publisher whose messages hold the time; leave out --verify \
                 and --clients",
            ));
        }
        Ok(())
    }

    fn work(&self, size: u32) -> Work {
        let common = self.common();
        Work {
            size: size as usize,
            content: common.content,
            count: common.count.unwrap_or_else(|| self.default_count()),
            duration: common.duration,
            clients: common.clients.into(),
            seed: common.seed,
            window: common.window as usize,
        }
    }
}

/// One of the two servers.
enum Side {
    Ours(Ours),
    Nats(Box<Nats>),
    Redis(Redis),
}

impl Side {
    /// The other server.
    async fn connect(kind: &Kind, url: &str) -> Result<Self, Failure> {
        let common = kind.common();
        let durability = common.against_durability.as_deref();
        if url.starts_with("redis://") {
            if !matches!(kind, Kind::Publish(_) | Kind::Latency(_)) || common.verify {
                return Err(only_publishes());
            }
            let durability = durability.unwrap_or(redis::DURABILITY);
            return Ok(Self::Redis(Redis::connect(url, durability).await?));
        }
        let nats = Nats::connect(url, durability.unwrap_or(nats::DEFAULT_DURABILITY)).await?;
        Ok(Self::Nats(Box::new(nats)))
    }

    fn name(&self) -> String {
        match self {
            Self::Ours(ours) => ours.name(),
            Self::Nats(nats) => nats.name(),
            Self::Redis(redis) => redis.name(),
        }
    }

    fn durability(&self) -> String {
        match self {
            Self::Ours(ours) => ours.durability(),
            Self::Nats(nats) => nats.durability(),
            Self::Redis(redis) => redis.durability(),
        }
    }

    /// Makes an empty stream without limits.
    async fn prepare(&self) -> Result<(), Failure> {
        match self {
            Self::Ours(ours) => ours.prepare().await,
            Self::Nats(nats) => nats.prepare().await,
            Self::Redis(redis) => redis.clean_up().await,
        }
    }

    async fn publish(&self, work: &Work) -> Result<Sample, Failure> {
        match self {
            Self::Ours(ours) => ours.publish(work).await,
            Self::Nats(nats) => nats.publish(work).await,
            Self::Redis(redis) => redis.publish(work).await,
        }
    }

    async fn latency(&self, work: &Work) -> Result<Sample, Failure> {
        match self {
            Self::Ours(ours) => ours.latency(work).await,
            Self::Nats(nats) => nats.latency(work).await,
            Self::Redis(redis) => redis.latency(work).await,
        }
    }

    async fn consume(&self, work: &Work, stored: u64, ack: bool) -> Result<Sample, Failure> {
        match self {
            Self::Ours(ours) => ours.consume(work, stored, ack).await,
            Self::Nats(nats) => nats.consume(work, stored, ack).await,
            Self::Redis(_) => Err(only_publishes()),
        }
    }

    async fn steady(&self, work: &Work, steady: Steady) -> Result<SteadySample, Failure> {
        match self {
            Self::Ours(ours) => ours.steady(work, steady).await,
            Self::Nats(nats) => nats.steady(work, steady).await,
            Self::Redis(_) => Err(only_publishes()),
        }
    }

    /// Reads everything back and compares it with what was published.
    async fn verify(&self, work: &Work, published: &[u64]) -> Result<(), Failure> {
        let digests = match self {
            Self::Ours(ours) => ours.digests(work, published).await?,
            Self::Nats(nats) => nats.digests(work, published).await?,
            Self::Redis(_) => return Err(only_publishes()),
        };
        work.check(&self.name(), published, &digests)
    }

    async fn clean_up(&self) -> Result<(), Failure> {
        match self {
            Self::Ours(ours) => ours.clean_up().await,
            Self::Nats(nats) => nats.clean_up().await,
            Self::Redis(redis) => redis.clean_up().await,
        }
    }
}

fn only_publishes() -> Failure {
    Failure::usage(
        "`--against redis://…` compares `bench publish` and `bench latency`, without --verify",
    )
}

/// Runs `claudebus bench`.
pub(super) fn run(args: &Bench, global: &Global, output: &mut Output) -> Result<(), Failure> {
    let threads = match &args.what {
        What::Sides(kind) => kind.common().threads,
        What::Connections(_)
        | What::Filters(_)
        | What::Growth(_)
        | What::Limits(_)
        | What::Recovery(_) => 1,
    };
    let runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.into())
            .enable_all()
            .build()?,
    };
    let talk = |line| output.talk(line);
    match &args.what {
        What::Sides(kind) => runtime.block_on(measure(kind, global, &talk))?.print(output),
        What::Connections(connections) => {
            runtime.block_on(connections::measure(connections, global, &talk))?.print(output)
        }
        What::Filters(filters) => {
            runtime.block_on(filters::measure(filters, global, &talk))?.print(output)
        }
        What::Growth(growth) => {
            runtime.block_on(growth::measure(growth, global, &talk))?.print(output)
        }
        What::Limits(limits) => {
            runtime.block_on(limits::measure(limits, global, &talk))?.print(output)
        }
        What::Recovery(recovery) => {
            runtime.block_on(recovery::measure(recovery, global, &talk))?.print(output)
        }
    }
}

async fn measure(kind: &Kind, global: &Global, talk: &dyn Fn(String)) -> Result<Report, Failure> {
    kind.check()?;
    let common = kind.common();
    let mut sides = vec![match &common.over_nats {
        Some(url) => Side::Nats(Box::new(Nats::connect(url, nats::OUR_DURABILITY).await?)),
        None => Side::Ours(Ours::connect(global).await?),
    }];
    if let Some(url) = &common.against {
        sides.push(Side::connect(kind, url).await?);
    }
    let mut groups = Vec::new();
    for size in &common.size {
        let work = kind.work(*size);
        let samples = rounds(kind, &work, &sides, talk).await;
        // The streams must not stay behind, whatever happened.
        for side in &sides {
            side.clean_up().await?;
        }
        for (side, samples) in sides.iter().zip(samples?) {
            for (measure, samples) in samples {
                groups.push(Group {
                    side: side.name(),
                    measure,
                    durability: side.durability(),
                    size: *size,
                    samples,
                });
            }
        }
    }
    Ok(Report {
        kind: kind.name(),
        rounds: common.rounds,
        clients: common.clients,
        verified: common.verify,
        groups,
    })
}

/// What was measured, by name, in all rounds of one side.
type Measured = Vec<(&'static str, Vec<Sample>)>;

fn add(measured: &mut Measured, name: &'static str, sample: Sample) {
    match measured.iter_mut().find(|(known, _)| *known == name) {
        Some((_, samples)) => samples.push(sample),
        None => measured.push((name, vec![sample])),
    }
}

/// All rounds of one size, the sides taking turns.
async fn rounds(
    kind: &Kind,
    work: &Work,
    sides: &[Side],
    talk: &dyn Fn(String),
) -> Result<Vec<Measured>, Failure> {
    let mut samples: Vec<Measured> = sides.iter().map(|_| Vec::new()).collect();
    let common = kind.common();
    let mut stored = Vec::new();
    // Consuming is faster than publishing; nobody should run out of messages before the time.
    let filling = Work { duration: work.duration.map(|time| time * 3 / 2), ..work.clone() };
    if let Kind::Consume { .. } = kind {
        for side in sides {
            talk(format!("{}: publishing messages to consume", side.name()));
            side.prepare().await?;
            let filled = side.publish(&filling).await?;
            stored.push(filled.messages);
            if common.verify {
                side.verify(&filling, &filled.per_client).await?;
            }
        }
    }
    for round in 0..common.rounds {
        for (number, (side, samples)) in sides.iter().zip(&mut samples).enumerate() {
            let stored = stored.get(number).copied().unwrap_or_default();
            for (name, sample) in one_round(kind, work, side, stored).await? {
                talk(format!(
                    "round {} of {}, {} bytes, {}, {name}: {}",
                    round + 1,
                    common.rounds,
                    work.size,
                    side.name(),
                    sample.summary()
                ));
                add(samples, name, sample);
            }
        }
    }
    Ok(samples)
}

/// One round of one side, which holds `stored` messages to be consumed.
async fn one_round(
    kind: &Kind,
    work: &Work,
    side: &Side,
    stored: u64,
) -> Result<Vec<(&'static str, Sample)>, Failure> {
    let sample = match kind {
        Kind::Consume { no_ack, .. } => side.consume(work, stored, !no_ack).await?,
        Kind::Mixed { rate, replay, cold, .. } => {
            side.prepare().await?;
            if let Some(duration) = replay {
                side.publish(&Work { duration: Some(*duration), ..work.clone() }).await?;
            }
            if *cold && !own::drop_caches() {
                let why = "the page cache cannot be emptied; leave out --cold, or do it as root";
                return Err(Failure::usage(why));
            }
            let steady = Steady { rate: *rate, replay: replay.is_some() };
            let done = side.steady(work, steady).await?;
            let mut measured = vec![("publish", done.published), ("delivery", done.delivered)];
            measured.extend(done.replayed.map(|sample| ("replay", sample)));
            return Ok(measured);
        }
        Kind::Publish(_) | Kind::Latency(_) => {
            side.prepare().await?;
            let sample = match kind {
                Kind::Latency(_) => side.latency(work).await?,
                _ => side.publish(work).await?,
            };
            if kind.common().verify {
                side.verify(work, &sample.per_client).await?;
            }
            sample
        }
    };
    Ok(vec![(kind.name(), sample)])
}
