//! Much data, killed when as much as possible is not yet in segment files, started again with a
//! cold cache.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claudebus::client::{AckPolicy, Client, ConsumerConfig};
use tokio::runtime::Runtime;

use crate::Row;
use crate::load::Load;
use crate::memory::{connect, start, stream};
use crate::options::Options;
use crate::process::{Broker, Launch};

/// Longest time for anything but loading.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Consumers with messages that await acknowledgement.
const CONSUMERS: usize = 20;
/// How many messages each of them holds.
const PENDING: u64 = 10_000;
/// From the start of the process to the first acknowledgement, in seconds, at most.
const FIRST_ACK: f64 = 1.0;
/// From the start of the process to the delivery of the oldest message, in seconds, at most.
const OLDEST: f64 = 2.0;

/// Fills a broker, then kills and starts it again and again.
pub fn restarts(
    options: &Options,
    runtime: &Runtime,
    dir: &Path,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let launch = Launch::new(&dir.join("data"))?;
    let mut load = Load::new(options.subjects);
    let mut broker = start(&launch)?;
    println!("storing {} messages and {} bytes", options.messages, options.bytes);
    runtime.block_on(fill(options, &launch, &mut load))?;
    let (mut acks, mut oldest, mut unsealed) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=options.runs {
        unsealed.push(kill_when_full(&mut broker, &launch, runtime, &mut load)? as f64 / 1e6);
        let cold = drop_caches();
        broker = start(&launch)?;
        let (ack, old) = runtime.block_on(measure(&broker, &launch))?;
        let temperature = if cold { "cold" } else { "warm: /proc/sys/vm/drop_caches is closed" };
        println!("run {run}: first ack {ack:.3} s, oldest message {old:.3} s, cache {temperature}");
        acks.push(ack);
        oldest.push(old);
    }
    let row = |what: &str, value, limit, unit| Row { what: what.to_owned(), value, limit, unit };
    Ok(vec![
        row("stored", load.bytes as f64 / 1e9, None, "GB"),
        row("messages", load.messages as f64 / 1e6, None, "M"),
        row("published with checkpoints held up, median", median(unsealed), None, "MB"),
        row("first ack after kill -9, median", median(acks.clone()), Some(FIRST_ACK), "s"),
        row("first ack after kill -9, longest", most(&acks), None, "s"),
        row("oldest message after kill -9, median", median(oldest.clone()), Some(OLDEST), "s"),
        row("oldest message after kill -9, longest", most(&oldest), None, "s"),
    ])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

async fn fill(options: &Options, launch: &Launch, load: &mut Load) -> Result<(), Box<dyn Error>> {
    let client = connect(launch).await?;
    client.create_stream(stream()).await?;
    load.fill(&client, options.messages, options.bytes).await?;
    for number in 0..CONSUMERS {
        let config = ConsumerConfig {
            durable_name: Some(format!("holding-{number}")),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(24 * 3600),
            max_ack_pending: PENDING as i64,
            ..ConsumerConfig::default()
        };
        let consumer = client.create_consumer("LARGE", config).await?;
        let mut held = 0;
        while held < PENDING.min(load.messages) {
            held += consumer.fetch(PENDING - held).await?.len() as u64;
        }
    }
    client.close().await;
    Ok(())
}

/// Publishes while no checkpoint can finish, until nothing more is taken, and kills the broker then.
/// Returns how many bytes were published.
fn kill_when_full(
    broker: &mut Broker,
    launch: &Launch,
    runtime: &Runtime,
    load: &mut Load,
) -> Result<u64, Box<dyn Error>> {
    let mut holding = hold_renames(broker.id())?;
    let result = runtime.block_on(async {
        let client = connect(launch).await?;
        load.until_stalled(&client).await
    });
    // In this order: without its tracer the broker would finish the checkpoint.
    broker.send_kill()?;
    holding.kill()?;
    holding.wait()?;
    broker.kill()?;
    result
}

/// Makes every rename of the broker's checkpoints take minutes, so that none comes into force. Other
/// threads rename as ever: journal files must go on being changed.
fn hold_renames(id: u32) -> Result<Child, Box<dyn Error>> {
    let calls = "rename,renameat,renameat2";
    let id = thread(id, "checkpoint")?;
    let holding = Command::new("strace")
        .args(["-q", "-p", &id.to_string()])
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:delay_enter=600000000")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("strace, which holds up checkpoints, does not run: {error}"))?;
    let end = Instant::now() + PATIENCE;
    // It is attached when the kernel says that somebody traces the broker.
    loop {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_some_and(|tracer| tracer.trim() != "0") {
            return Ok(holding);
        }
        if Instant::now() > end {
            return Err("strace could not attach to the broker".into());
        }
        std::thread::yield_now();
    }
}

/// The thread of a process that has this name.
fn thread(id: u32, name: &str) -> Result<u32, Box<dyn Error>> {
    for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let task = task?;
        if std::fs::read_to_string(task.path().join("comm"))?.trim() == name {
            return Ok(task.file_name().to_string_lossy().parse()?);
        }
    }
    Err(format!("the broker has no thread named {name}").into())
}

/// Empties the page cache, where that is allowed.
fn drop_caches() -> bool {
    let synced = Command::new("sync").status().is_ok_and(|status| status.success());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Seconds from the start of the process to the first acknowledgement, and to the delivery of the
/// oldest message.
async fn measure(broker: &Broker, launch: &Launch) -> Result<(f64, f64), Box<dyn Error>> {
    let client = connect(launch).await?;
    client.publish("large.0", "back").await?;
    let ack = broker.started.elapsed().as_secs_f64();
    let seq = oldest(&client).await?;
    let old = broker.started.elapsed().as_secs_f64();
    client.close().await;
    if seq != 1 {
        return Err(format!("the oldest message has sequence {seq}").into());
    }
    Ok((ack, old))
}

/// The sequence of the first message that a new consumer gets.
async fn oldest(client: &Client) -> Result<u64, Box<dyn Error>> {
    let config = ConsumerConfig {
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(5),
        ..ConsumerConfig::default()
    };
    let consumer = client.create_consumer("LARGE", config).await?;
    let first = consumer.fetch(1).await?;
    Ok(first.first().ok_or("no message came")?.seq())
}
