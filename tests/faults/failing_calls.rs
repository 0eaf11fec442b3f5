//! System calls of the broker that return an error, the n-th of each kind in each thread.
//!
//! The broker may end, with its own exit code and a word about why, or go on where nothing depended
//! on the call. What it acknowledged is there afterwards in both cases. `FAULT_CALLS=100` tries every
//! n up to that; without it a few are tried.

use std::time::{Duration, Instant};

use claudebus::client::{Client, ReconnectPolicy, StreamConfig};

use crate::process::{Launch, Waited};
use crate::{PATIENCE, has_strace, log, payload};

/// Exit codes that say what happened: the disk failed; the server could not start.
const JOURNAL_FAILED: i32 = 74;
const FAILED: i32 = 1;
/// The exit code of a configuration that cannot be read.
const CONFIGURATION: i32 = 78;
/// Messages of one run: enough for checkpoints and new journal files.
const MESSAGES: u64 = 1_200;
const PAYLOAD: usize = 4_000;
/// So many are on their way at a time, that there are many groups.
const ROW: u64 = 8;

/// What one run came to.
struct Outcome {
    /// The broker ended by itself.
    ended: Option<i32>,
    /// Messages up to this number were acknowledged.
    acknowledged: u64,
}

/// Publishes until all is acknowledged or the broker is gone. Returns up to where it came.
async fn publish(launch: &Launch) -> u64 {
    let builder = Client::builder()
        .url(launch.url())
        .ca_file(launch.ca_file())
        .reconnect(ReconnectPolicy { attempts: Some(1), ..ReconnectPolicy::default() })
        .request_timeout(Duration::from_secs(5));
    let Ok(client) = builder.connect().await else { return 0 };
    let config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        ..StreamConfig::default()
    };
    if client.create_stream(config).await.is_err() {
        return 0;
    }
    let publisher = client.publisher();
    let mut acknowledged = 0;
    while acknowledged < MESSAGES {
        let mut tickets = Vec::new();
        for n in acknowledged + 1..=acknowledged + ROW {
            match publisher.publish("s.a", payload(n, PAYLOAD)).await {
                Ok(ticket) => tickets.push(ticket),
                Err(_) => return acknowledged,
            }
        }
        for ticket in tickets {
            match ticket.await {
                Ok(ack) => acknowledged = ack.seq,
                Err(_) => return acknowledged,
            }
        }
    }
    acknowledged
}

/// Runs the broker with the n-th call of `calls` failing, and publishes.
async fn run(launch: &mut Launch, calls: &str, n: u32, error: &str) -> Outcome {
    let inject = format!("inject={calls}:error={error}:when={n}");
    let filter = format!("trace={calls}");
    launch.wrapper = ["strace", "-D", "-f", "-o", "/dev/null", "-e", &filter, "-e", &inject]
        .map(str::to_owned)
        .to_vec();
    let mut broker = launch.start().unwrap();
    let waited = broker.wait_ready(PATIENCE).unwrap();
    let acknowledged = if waited == Waited::Ready { publish(launch).await } else { 0 };
    // Nothing but its own decision ends it; one that still answers has decided to go on.
    let ended = if acknowledged < MESSAGES {
        let status = broker.wait_end(PATIENCE).unwrap();
        Some(status.unwrap_or_else(|| panic!("{calls} {n}: it hangs\n{}", log(launch))))
    } else {
        broker.ended().unwrap()
    };
    if ended.is_none() {
        broker.send_kill().unwrap();
        let end = Instant::now() + PATIENCE;
        while broker.ended().unwrap().is_none() {
            assert!(Instant::now() < end, "{calls} {n}: it does not die");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    launch.wrapper.clear();
    Outcome { ended: ended.map(|status| status.code().unwrap_or(-1)), acknowledged }
}

/// Everything acknowledged is there, once and unchanged.
async fn check(launch: &Launch, acknowledged: u64, what: &str) {
    let mut broker = crate::start(launch);
    let client = crate::connect(launch).await;
    for seq in 1..=acknowledged {
        let message = client.get_message("S", seq).await;
        let message = message.unwrap_or_else(|error| panic!("{what}, sequence {seq}: {error}"));
        assert_eq!(message.payload(), payload(seq, PAYLOAD), "{what}, sequence {seq}");
    }
    broker.kill().unwrap();
}

/// Tries the n-th call of these failing, for each n that is asked for.
async fn each_fails(calls: &str, error: &str) {
    if !has_strace() {
        return;
    }
    let numbers: Vec<u32> = match std::env::var("FAULT_CALLS") {
        Ok(most) => (1..=most.parse().unwrap()).collect(),
        Err(_) => vec![3, 20, 70],
    };
    let (mut ended, mut survived) = (0, 0);
    for n in numbers {
        let what = format!("{calls} number {n} failing with {error}");
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("claudebus.yaml");
        std::fs::write(&config, "server:\n  tail_budget: 1MiB\n").unwrap();
        let launch = Launch::new(&dir.path().join("data")).unwrap();
        let mut launch = launch.with(&["--config", config.to_str().unwrap()]);
        let outcome = run(&mut launch, calls, n, error).await;
        println!("{what}: {:?} after {}", outcome.ended, outcome.acknowledged);
        match outcome.ended {
            None => survived += 1,
            // The first failing opens are those of the program's loader, which has a code of its own,
            // and of the configuration.
            Some(127 | CONFIGURATION) if calls == "openat" => {
                ended += 1;
                assert_eq!(outcome.acknowledged, 0, "{what}: it had begun");
            }
            Some(JOURNAL_FAILED | FAILED) => {
                ended += 1;
                assert!(!log(&launch).is_empty(), "{what}: it said nothing");
            }
            Some(code) => panic!("{what}: exit code {code}\n{}", log(&launch)),
        }
        check(&launch, outcome.acknowledged, &what).await;
    }
    println!("{calls}, {error}: {ended} ended the broker, {survived} did no harm");
    assert!(ended > 0, "{calls}: no call failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_broker_or_does_no_harm() {
    each_fails("fdatasync,fsync", "EIO").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_the_broker_or_does_no_harm() {
    each_fails("pwrite64", "EIO").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_room_ends_the_broker_or_does_no_harm() {
    each_fails("pwrite64", "ENOSPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renaming_that_fails_ends_the_broker_or_does_no_harm() {
    each_fails("rename,renameat,renameat2", "EIO").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_fails_ends_the_broker_or_does_no_harm() {
    each_fails("openat", "EMFILE").await;
}
