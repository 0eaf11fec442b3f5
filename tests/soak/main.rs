//! Much of everything for a long time: does the broker's memory, its files, its disk or its latency
//! grow?
//!
//! ```text
//! SOAK_MINUTES=20 cargo test --release --test soak -- --nocapture
//! ```
//!
//! Everything stored is bounded by limits, so that after a quarter of the time nothing may grow any more. The
//! straight line through the samples of the rest says by how much it does. Runs of less than ten minutes
//! are too short for that: they print the lines and hold only to what must be true at any time. Also
//! read: `SOAK_RATE` (messages a second), `SOAK_DIR`. Without `SOAK_MINUTES` it only says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout)]

mod churn;
mod load;
#[path = "../process/mod.rs"]
mod process;
mod samples;
mod slope;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claudebus::client::Client;

use process::{Launch, Waited};
use samples::{Sample, Sampler};
use slope::Line;

/// What goes wrong stops the test.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long each sample stands for.
const SAMPLE: Duration = Duration::from_secs(5);
/// Shorter runs do not tell a slope from noise.
const JUDGED: f64 = 10.0;
/// Operations a minute at least: 200 million in 20.
const OPERATIONS: f64 = 10e6;

/// What is measured of a sample.
type Measure = fn(&Sample) -> f64;

/// What may grow, and by which part of itself an hour. The noise of a quarter of an hour is a few percent
/// an hour; a leak of one byte a message would be 250 MB an hour, more than the broker's memory. Resident memory
/// also holds what is remembered of up to 100,000 clients that have gone, of which there come 40,000 an hour,
/// sled's lists of what its file holds, and what the allocator keeps between all these.
const LIMITS: &[(&str, f64, Measure)] = &[
    ("resident memory", 0.4, |sample| sample.resident),
    ("open files", 0.15, |sample| sample.files),
    ("disk used but for the index", 0.15, |sample| sample.disk),
    ("publish p99", 1.0, |sample| sample.p99),
];

/// What the index may take up at any time, in megabytes. It holds nothing that is not in the segments.
const INDEX_MOST: f64 = 128.0;

/// What all tasks share.
#[derive(Debug)]
pub struct World {
    /// The broker under test.
    pub launch: Launch,
    over: AtomicBool,
    operations: AtomicU64,
    /// Messages a second that the main publisher sends.
    pub rate: u64,
}

impl World {
    /// A connection to the broker.
    pub async fn connect(&self) -> Result<Client> {
        let builder = Client::builder().url(self.launch.url()).ca_file(self.launch.ca_file());
        Ok(builder.connect().await?)
    }

    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Counts a publish, a delivery, an acknowledgement, or a request.
    pub fn did(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }
}

fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn nothing_grows() {
    let minutes = number("SOAK_MINUTES", 0.0);
    if minutes <= 0.0 {
        println!("soak: not asked for; SOAK_MINUTES=20 cargo test --release --test soak");
        return;
    }
    let place = std::env::var_os("SOAK_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let dir = tempfile::tempdir_in(place).unwrap();
    let launch = Launch::new(&dir.path().join("data")).unwrap();
    let mut broker = launch.start().unwrap();
    let ready = broker.wait_ready(Duration::from_secs(30)).unwrap();
    assert_eq!(ready, Waited::Ready, "{}", log(&launch));
    let world = Arc::new(World {
        launch,
        over: AtomicBool::new(false),
        operations: AtomicU64::new(0),
        rate: number("SOAK_RATE", 72_000.0) as u64,
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let time = Duration::from_secs_f64(minutes * 60.0);
    let samples = match runtime.block_on(run(&world, broker.id(), time)) {
        Ok(samples) => samples,
        Err(error) => panic!("{error}\n{}", log(&world.launch)),
    };
    assert_eq!(broker.ended().unwrap(), None, "{}", log(&world.launch));
    let operations = world.operations.load(Ordering::Relaxed);
    println!("{operations} operations in {minutes} minutes");
    let grown = judge(&samples, time);
    let index = samples.iter().map(|sample| sample.index).fold(0.0, f64::max);
    println!("index: {index:.1} MB at most (limit {INDEX_MOST:.0} MB)");
    assert!(index <= INDEX_MOST, "the index takes up {index} MB");
    assert!(operations as f64 >= OPERATIONS * minutes, "too few operations: {operations}");
    assert!(minutes < JUDGED || grown.is_empty(), "{grown:?}");
}

fn log(launch: &Launch) -> String {
    std::fs::read_to_string(launch.log_file()).unwrap_or_default()
}

/// Runs everything for so long. Returns the samples.
async fn run(world: &Arc<World>, pid: u32, time: Duration) -> Result<Vec<Sample>> {
    load::prepare(world).await?;
    let began = Instant::now();
    let mut tasks = load::start(world);
    churn::start(world, &mut tasks);
    let mut sampler = Sampler::start(world, pid).await?;
    let mut samples = Vec::new();
    while began.elapsed() < time {
        tokio::select! {
            sample = sampler.take(SAMPLE) => {
                let sample = sample?;
                println!("{sample}");
                samples.push(sample);
            }
            Some(ended) = tasks.join_next() => return Err(ended?.err().unwrap_or("a task ended".into())),
        }
    }
    world.over.store(true, Ordering::Relaxed);
    while let Some(ended) = tokio::time::timeout(Duration::from_secs(60), tasks.join_next()).await?
    {
        ended??;
    }
    Ok(samples)
}

/// Prints the lines through the samples, and returns what grows too much.
fn judge(samples: &[Sample], time: Duration) -> Vec<&'static str> {
    let hours = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
    let late: Vec<&Sample> = samples.iter().filter(|sample| sample.at * 4 >= time).collect();
    let mut grown = Vec::new();
    for (what, limit, of) in LIMITS {
        let points: Vec<(f64, f64)> =
            late.iter().map(|sample| (hours(sample), of(sample))).collect();
        let line = Line::through(&points);
        let part = line.growth();
        println!(
            "{what}: {:.2} on average, {:+.2} an hour, {:+.1} % (limit {:+.0} %)",
            line.mean,
            line.slope,
            part * 100.0,
            limit * 100.0
        );
        if part > *limit {
            grown.push(*what);
        }
    }
    grown
}
