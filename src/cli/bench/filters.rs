//! `bench filters`: what filters cost, and many consumers that each take a part, also beside another server.
//!
//! It runs on servers of its own: one whose tail holds everything, one that is restarted with a cold
//! cache. Figures are printed beside what they should reach; nothing fails if they do not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::nats::{self, Nats};
use super::own::OwnServer;
use super::sample::median;
use super::spread::{Amount, Part, Spread, Sums, Taking};
use super::table::{Cell, Table};
use crate::cli::args::Global;
use crate::cli::exit::Failure;
use crate::client::Client;
use crate::config::text;

/// One group of so many is what a filter takes: one message in a thousand.
const GROUPS: u64 = 1000;
/// Connections that many consumers share.
const CONNECTIONS: usize = 10;
/// A tail that holds more than the journal does, in bytes.
const LARGE_TAIL: &str = "4GiB";
/// Journal after which a checkpoint moves messages to files however large the tail may be, in bytes,
/// less some room.
const JOURNAL: u64 = 240 << 20;
/// Bytes of a message in the journal beside its payload, at most.
const OVERHEAD: u64 = 128;
/// Longest time for one reading from the disk.
const COLD: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// A filter that matches everything, beside none
    Everything,
    /// One message in a thousand, from memory
    Tail,
    /// One message in a thousand, from files after a restart
    Disk,
    /// Many consumers of disjoint parts, and many streams, beside one
    Many,
}

/// `claudebus bench filters`.
#[derive(Clone, Debug, Args)]
pub(super) struct Filters {
    /// What to measure; everything if not given
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Messages that are stored and filtered
    #[arg(short = 'n', long, default_value = "2000000", value_parser = clap::value_parser!(u64).range(GROUPS..))]
    count: u64,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// Subjects that the messages are spread over
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(GROUPS..))]
    subjects: u64,
    /// Rounds of each measurement; medians are shown
    #[arg(short, long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long messages are published to many consumers
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = text::positive_duration)]
    duration: Duration,
    /// Streams, and consumers, of the measurement with many
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    many: u64,
    /// Messages that are published to one stream or consumer, before the next one's turn
    #[arg(long, value_name = "MESSAGES", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    row: u64,
    /// Do the same as with many streams and consumers on this server, in turns: nats://…
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    against: Option<String>,
    /// Folder below which data is kept while measuring; the one for temporary files if not given
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

type Rows = Vec<[Cell; 5]>;

/// Measures everything.
pub(super) async fn measure(
    filters: &Filters,
    global: &Global,
    talk: &dyn Fn(String),
) -> Result<Table<5>, Failure> {
    let mut rows = Rows::new();
    let measures = match filters.only.as_slice() {
        [] => Measure::value_variants(),
        some => some,
    };
    for measure in measures {
        match measure {
            Measure::Everything => matches_everything(filters, global, talk, &mut rows).await?,
            Measure::Tail => from_the_tail(filters, global, talk, &mut rows).await?,
            Measure::Disk => {
                for times in [1, 5] {
                    from_disk(filters, global, talk, times, &mut rows).await?;
                }
            }
            Measure::Many => many(filters, global, talk, &mut rows).await?,
        }
    }
    let columns = [
        ("Measure", "measure"),
        ("Rate", "per_second"),
        ("Ratio", "ratio"),
        ("Should be", "target"),
        ("Made ready in", "ready_in_seconds"),
    ];
    Ok(Table { bench: "filters", columns, rows })
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

/// Makes streams, and stores so many messages.
async fn fill(
    server: &OwnServer,
    client: &Client,
    spread: &Spread,
    count: u64,
) -> Result<(), Failure> {
    let filling = async {
        spread.create(client).await?;
        spread.publish(client, 0, Amount::Messages(count)).await
    };
    server.during(filling).await.map(drop)
}

/// The rate at which `part`, which matches `count` messages, comes; and how long it took to make the
/// consumer.
async fn rate(
    server: &OwnServer,
    client: &Client,
    part: &Part,
    count: u64,
    most: Duration,
) -> Result<(f64, f64), Failure> {
    let reading = async {
        let began = Instant::now();
        let consumer = part.open(client).await?;
        let ready = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let mut taking = Taking::of(vec![(part.ack, consumer)]);
        let received = taking.wait(count, most).await?;
        Ok((received as f64 / began.elapsed().as_secs_f64(), ready))
    };
    server.during(reading).await
}

/// A filter that matches all there is, beside none.
async fn matches_everything(
    filters: &Filters,
    global: &Global,
    talk: &dyn Fn(String),
    rows: &mut Rows,
) -> Result<(), Failure> {
    let server = OwnServer::start(global, filters.dir.as_deref(), &[]).await?;
    let client = server.connect().await?;
    let size = filters.size as usize;
    let spread = Spread { groups: GROUPS, subjects: GROUPS, ..Spread::single(size) };
    talk(format!("publishing {} messages under {GROUPS} subjects", filters.count));
    fill(&server, &client, &spread, filters.count).await?;
    let everything = Part { filter: Some("*.*.*.*".to_owned()), ..Part::all(0) };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 1..=filters.rounds {
        for (part, rates) in [(&Part::all(0), &mut without), (&everything, &mut with)] {
            let (rate, _) = rate(&server, &client, part, filters.count, Duration::MAX / 4).await?;
            talk(format!("round {round}, filter {:?}: {rate:.0}/s", part.filter));
            rates.push(rate);
        }
    }
    let (with, without) = (median(with), median(without));
    let row = |what, rate, ratio, target: &str| {
        [text(what), Cell::Rate(rate), ratio, text(target), Cell::None]
    };
    rows.push(row("no filter", without, Cell::None, ""));
    let ratio = Cell::Ratio(without / with.max(1e-9));
    rows.push(row("a filter that matches everything", with, ratio, "at most 1.2 times slower"));
    Ok(())
}

/// One message in a thousand, from memory.
async fn from_the_tail(
    filters: &Filters,
    global: &Global,
    talk: &dyn Fn(String),
    rows: &mut Rows,
) -> Result<(), Failure> {
    let arguments = ["--tail-budget", LARGE_TAIL];
    let server = OwnServer::start(global, filters.dir.as_deref(), &arguments).await?;
    let client = server.connect().await?;
    let subjects = filters.subjects;
    let spread = Spread { groups: GROUPS, subjects, ..Spread::single(filters.size as usize) };
    let most = (JOURNAL / (u64::from(filters.size) + OVERHEAD)).max(GROUPS);
    let count = filters.count.min(most);
    let used = subjects.min(count);
    talk(format!("publishing {count} messages under {used} subjects, kept in memory"));
    fill(&server, &client, &spread, count).await?;
    let (mut rates, mut ready) = (Vec::new(), Vec::new());
    for round in 1..=filters.rounds {
        let group = u64::from(round) % GROUPS;
        let part = Part { filter: Some(Spread::filter(0, group)), ..Part::all(0) };
        let (rate, made) = rate(&server, &client, &part, count / GROUPS, COLD).await?;
        talk(format!("round {round}: {rate:.0} matches/s, consumer made in {made:.3} s"));
        rates.push(rate);
        ready.push(made);
    }
    rows.push([
        text(format!("1 in {GROUPS} of {count} in memory")),
        Cell::Rate(median(rates)),
        Cell::None,
        text("at least 100000/s"),
        Cell::Seconds(median(ready)),
    ]);
    Ok(())
}

/// One message in a thousand, from segment files after a restart.
async fn from_disk(
    filters: &Filters,
    global: &Global,
    talk: &dyn Fn(String),
    times: u64,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let mut server = OwnServer::start(global, filters.dir.as_deref(), &[]).await?;
    let count = filters.count.saturating_mul(times);
    let (size, subjects) = (filters.size as usize, filters.subjects);
    let spread = Spread { groups: GROUPS, subjects, ..Spread::single(size) };
    talk(format!("publishing {count} messages under {subjects} subjects"));
    let client = server.connect().await?;
    fill(&server, &client, &spread, count).await?;
    client.close().await;
    server.wait_idle().await;
    let (mut rates, mut ready) = (Vec::new(), Vec::new());
    let mut cold = true;
    for round in 1..=filters.rounds {
        server.kill();
        server.restart().await?;
        server.wait_idle().await;
        cold &= server.evict_data();
        let client = server.connect().await?;
        let group = u64::from(round) % GROUPS;
        let part = Part { filter: Some(Spread::filter(0, group)), ..Part::all(0) };
        let (rate, made) = rate(&server, &client, &part, count / GROUPS, COLD).await?;
        talk(format!("round {round}: {rate:.0} matches/s, consumer made in {made:.3} s"));
        rates.push(rate);
        ready.push(made);
    }
    let cache = if cold { "cold cache" } else { "warm cache" };
    rows.push([
        text(format!("1 in {GROUPS} of {count} on disk, {cache}")),
        Cell::Rate(median(rates)),
        Cell::None,
        text("at least 30000/s"),
        Cell::Seconds(median(ready)),
    ]);
    Ok(())
}

/// Publishing and delivering at the same time: one consumer, then many in one stream, then many
/// streams with one each. The sum of both is compared with that of one, with each server.
async fn many(
    filters: &Filters,
    global: &Global,
    talk: &dyn Fn(String),
    rows: &mut Rows,
) -> Result<(), Failure> {
    let other = match &filters.against {
        Some(url) => Some(Nats::connect(url, nats::DEFAULT_DURABILITY).await?),
        None => None,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let many = filters.many;
    for (what, streams, groups) in [
        ("one consumer".to_owned(), 1, 1),
        (format!("{many} consumers of disjoint parts"), 1, many),
        (format!("{many} streams with a consumer each"), many, 1),
    ] {
        let size = filters.size as usize;
        // As many subjects each time, so that they are not what is compared.
        let spread = Spread { streams, groups, subjects: many, size, row: filters.row };
        let sums = sums_of(filters, global, &spread).await?;
        talk(format!("{what}: {:.0} published and delivered/s", sums.rate()));
        ours.push((what.clone(), sums));
        if let Some(nats) = &other {
            let sums = nats.publish_and_take(&spread, CONNECTIONS, filters.duration).await?;
            let what = format!("{}: {what}", nats.name());
            talk(format!("{what}: {:.0} published and delivered/s", sums.rate()));
            theirs.push((what, sums));
        }
    }
    rows.extend(beside_one(ours, "at least 0.80"));
    rows.extend(beside_one(theirs, ""));
    Ok(())
}

/// The rows of one server, of which the first is what the others are compared with.
fn beside_one(all: Vec<(String, Sums)>, target: &str) -> Rows {
    let one = all.first().map_or(0.0, |(_, sums)| sums.rate());
    let row = |(at, (what, sums)): (usize, (String, Sums))| {
        let (ratio, target) = match at {
            0 => (Cell::None, ""),
            _ => (Cell::Ratio(sums.rate() / one.max(1e-9)), target),
        };
        let ready = Cell::Seconds(sums.ready.as_secs_f64());
        [text(what), Cell::Rate(sums.rate()), ratio, text(target), ready]
    };
    all.into_iter().enumerate().map(row).collect()
}

/// Publishing and receiving at the same time, with a server of our own.
async fn sums_of(filters: &Filters, global: &Global, spread: &Spread) -> Result<Sums, Failure> {
    let server = OwnServer::start(global, filters.dir.as_deref(), &[]).await?;
    server.during(publish_and_take(&server, spread, filters.duration)).await
}

/// Publishes for so long while consumers of all parts receive.
async fn publish_and_take(
    server: &OwnServer,
    spread: &Spread,
    duration: Duration,
) -> Result<Sums, Failure> {
    let mut clients = Vec::new();
    while clients.len() < CONNECTIONS {
        clients.push(server.connect().await?);
    }
    let publishing = server.connect().await?;
    let began = Instant::now();
    spread.create(&publishing).await?;
    let mut taking = Taking::start(&clients, spread.parts(false)).await?;
    let ready = began.elapsed();
    let began = Instant::now();
    let published = spread.publish(&publishing, 0, Amount::Time(duration)).await?;
    taking.wait_all(published).await?;
    Ok(Sums { published, taken: began.elapsed(), ready })
}
