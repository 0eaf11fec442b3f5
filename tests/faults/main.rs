//! Disks that fail under the real broker: one that is full, one that is slow, and calls that return
//! an error.
//!
//! What a lost power supply leaves is the simulated disk's part; what `kill -9` leaves is the crash
//! test's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

mod failing_calls;
mod few_files;
mod full_disk;
#[path = "../process/mod.rs"]
mod process;
mod restart;
mod slow_disk;

use std::time::{Duration, Instant};

use claudebus::client::{Client, StreamConfig};

use process::{Broker, Launch, Waited};

/// Longest time for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether calls can be made to fail or to wait: strace must be there, at least where tests run for
/// others.
fn has_strace() -> bool {
    let there = std::process::Command::new("strace").arg("-V").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "strace is not installed; CI must have it");
    if !there {
        eprintln!("SKIPPED: strace is not installed, so no call could be made to fail");
    }
    there
}

/// Starts a broker that must become ready.
fn start(launch: &Launch) -> Broker {
    let mut broker = launch.start().unwrap();
    assert_eq!(broker.wait_ready(PATIENCE).unwrap(), Waited::Ready, "{}", log(launch));
    broker
}

fn log(launch: &Launch) -> String {
    std::fs::read_to_string(launch.log_file()).unwrap_or_default()
}

/// A client that has a stream `S` of `s.>`.
async fn connect(launch: &Launch) -> Client {
    let builder = Client::builder().url(launch.url()).ca_file(launch.ca_file());
    let client = builder.connect().await.unwrap();
    let config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        ..StreamConfig::default()
    };
    client.create_stream(config).await.unwrap();
    client
}

/// A payload of `len` bytes that no compression makes smaller, and that tells its number.
fn payload(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = n.to_le_bytes().to_vec();
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Waits until `is` holds, up to [`PATIENCE`].
async fn wait_until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
