//! What the broker holds from time to time: memory, open files, disk; and how long a publish takes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudebus::client::{Client, StreamConfig};

use crate::{Result, World};

/// Between two single publishes whose latency is taken.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// One look at the broker.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Resident memory, in megabytes.
    pub resident: f64,
    /// Open files and sockets.
    pub files: f64,
    /// Disk used but for the index, in megabytes.
    pub disk: f64,
    /// Disk used by the index, which sled lets grow in steps before it uses again what it has freed.
    pub index: f64,
    /// Of single publishes since the last sample, in milliseconds.
    pub p99: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6.0} s  {:>7.1} MB  {:>4} files  {:>7.1} MB on disk  {:>5.1} MB index  p99 {:.2} ms",
            self.at.as_secs_f64(),
            self.resident,
            self.files,
            self.disk,
            self.index,
            self.p99
        )
    }
}

/// Takes samples.
pub struct Sampler {
    client: Client,
    pid: u32,
    data: PathBuf,
    began: Instant,
}

impl Sampler {
    /// Connects, to publish single messages.
    pub async fn start(world: &Arc<World>, pid: u32) -> Result<Self> {
        let client = world.connect().await?;
        let config = StreamConfig {
            name: "PROBE".into(),
            subjects: vec!["probe".into()],
            max_msgs: 1000,
            ..StreamConfig::default()
        };
        client.create_stream(config).await?;
        Ok(Self { client, pid, data: world.launch.data.clone(), began: Instant::now() })
    }

    /// Publishes one by one for so long, then looks at the process.
    pub async fn take(&mut self, time: Duration) -> Result<Sample> {
        let end = Instant::now() + time;
        let mut taken = Vec::new();
        while Instant::now() < end {
            let sent = Instant::now();
            self.client.publish("probe", "a probe").await?;
            taken.push(sent.elapsed());
            tokio::time::sleep(PROBE_EVERY).await;
        }
        taken.sort_unstable();
        let p99 = taken[taken.len() * 99 / 100].as_secs_f64() * 1e3;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kibibytes: f64 = line.split_whitespace().next().ok_or("no number")?.parse()?;
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count() as f64;
        let resident = kibibytes * 1024.0 / 1e6;
        let index = used(&self.data.join("index")) / 1e6;
        let disk = used(&self.data) / 1e6 - index;
        Ok(Sample { at: self.began.elapsed(), resident, files, disk, index, p99 })
    }
}

/// Bytes that a folder takes up. What vanishes meanwhile counts for nothing.
fn used(folder: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0.0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => used(&entry.path()),
        Ok(metadata) => metadata.blocks() as f64 * 512.0,
        Err(_) => 0.0,
    };
    entries.flatten().map(of).sum()
}
