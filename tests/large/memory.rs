//! Memory: of a broker with nothing to do, and of one whose consumer never reads.

use std::error::Error;
use std::path::Path;

use claudebus::client::{AckPolicy, Client, ConsumerConfig, StreamConfig};
use tokio::runtime::Runtime;

use crate::Row;
use crate::load::Load;
use crate::options::Options;
use crate::process::{Broker, Launch, Waited};
use crate::restart::PATIENCE;

/// A field of `/proc/<pid>/status`, in megabytes of a million bytes.
fn megabytes(broker: &Broker, field: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes: f64 =
        line.and_then(|l| l.split_whitespace().next()).ok_or("no such field")?.parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// Starts a broker and waits until it is ready.
pub fn start(launch: &Launch) -> Result<Broker, Box<dyn Error>> {
    let mut broker = launch.start()?;
    match broker.wait_ready(PATIENCE)? {
        Waited::Ready => Ok(broker),
        other => {
            let log = std::fs::read_to_string(launch.log_file()).unwrap_or_default();
            Err(format!("the broker is not ready: {other:?}\n{log}").into())
        }
    }
}

/// An empty broker, some time after its start.
pub fn empty(
    options: &Options,
    _runtime: &Runtime,
    dir: &Path,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let launch = Launch::new(&dir.join("data"))?;
    let mut broker = start(&launch)?;
    println!("an empty broker, for {:?}", options.idle);
    if let Some(status) = broker.wait_end(options.idle)? {
        return Err(format!("the empty broker ended: {status}").into());
    }
    let value = megabytes(&broker, "VmRSS")?;
    let what = format!("empty broker after {:?}, resident", options.idle);
    Ok(vec![Row { what, value, limit: Some(40.0), unit: "MB" }])
}

/// A backlog in front of a consumer that asks for everything and reads nothing.
pub fn slow_reader(
    options: &Options,
    runtime: &Runtime,
    dir: &Path,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let launch = Launch::new(&dir.join("data"))?;
    let broker = start(&launch)?;
    println!("a consumer that never reads, {} bytes before it", options.backlog);
    runtime.block_on(async {
        let client = connect(&launch).await?;
        client.create_stream(stream()).await?;
        let config = ConsumerConfig {
            durable_name: Some("asleep".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..ConsumerConfig::default()
        };
        let asleep = connect(&launch).await?;
        let consumer = asleep.create_consumer("LARGE", config).await?;
        let unread = consumer.messages();
        Load::new(1000).fill(&client, 0, options.backlog).await?;
        drop(unread);
        Ok::<_, Box<dyn Error>>(())
    })?;
    let value = megabytes(&broker, "VmHWM")?;
    let what = "consumer that never reads, peak resident".to_owned();
    Ok(vec![Row { what, value, limit: Some(256.0 * 1.048_576), unit: "MB" }])
}

/// The stream that everything goes to.
pub fn stream() -> StreamConfig {
    StreamConfig {
        name: "LARGE".to_owned(),
        subjects: vec!["large.>".to_owned()],
        ..StreamConfig::default()
    }
}

/// A connection to the broker.
pub async fn connect(launch: &Launch) -> Result<Client, Box<dyn Error>> {
    Ok(Client::builder().url(launch.url()).ca_file(launch.ca_file()).connect().await?)
}
