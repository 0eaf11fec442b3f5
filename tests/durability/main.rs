//! Watches the real broker's system calls: nothing that depends on a write may leave before the
//! write and a sync of the same file after it are over.
//!
//! Clients ask for one thing at a time and note the time of each answer; strace notes the time of
//! each call. The same check must fail with `--durability os`, where acknowledgements don't wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

mod check;
#[path = "../process/mod.rs"]
mod process;
mod strace;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use claudebus::client::{AckPolicy, Client, ConsumerConfig, Delivery, Messages, StreamConfig};

use check::{Promise, violations};
use process::{Launch, Waited};

/// Messages of a run; of each fifth a consumer is given up, the others are acknowledged.
const MESSAGES: u64 = 100;
/// Longest time for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether to go on: strace must be there, at least where tests run for others.
fn has_strace() -> bool {
    let there = std::process::Command::new("strace").arg("-V").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "strace is not installed; CI must have it");
    if !there {
        eprintln!("SKIPPED: strace is not installed, so nothing was checked; install it");
    }
    there
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Runs a broker under strace, and a client that asks for one thing after the other. Returns what
/// strace wrote and what the client was told.
fn run(durability: &str) -> (String, Vec<Promise>) {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut launch =
        Launch::new(&dir.path().join("data")).unwrap().with(&["--durability", durability]);
    // -D: the broker stays our child, strace becomes a grandchild.
    let calls = "trace=write,pwrite64,writev,pwritev,pwritev2,fdatasync,fsync";
    launch.wrapper =
        ["strace", "-D", "-f", "-ttt", "-T", "-y", "-x", "-s", "4096", "-e", calls, "-o"]
            .map(str::to_owned)
            .to_vec();
    launch.wrapper.push(trace.to_str().unwrap().to_owned());
    let mut broker = launch.start().unwrap();
    assert_eq!(broker.wait_ready(PATIENCE).unwrap(), Waited::Ready, "{}", log(&launch));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let promises = runtime.block_on(async {
        tokio::time::timeout(8 * PATIENCE, ask(&launch)).await.expect("the client is done in time")
    });
    broker.kill().unwrap();
    (finished(&trace, broker.id()), promises)
}

fn log(launch: &Launch) -> String {
    std::fs::read_to_string(launch.log_file()).unwrap_or_default()
}

/// The trace, once strace has written the end of the process.
fn finished(trace: &Path, id: u32) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(trace).unwrap();
        let over = |line: &str| line.starts_with(&id.to_string()) && line.contains("+++");
        if text.lines().rev().take(50).any(over) {
            return text;
        }
        assert!(Instant::now() < end, "strace did not see the end of the broker");
        std::thread::yield_now();
    }
}

/// Publishes, acknowledges and gives up in lock-step.
async fn ask(launch: &Launch) -> Vec<Promise> {
    let builder = Client::builder().url(launch.url()).ca_file(launch.ca_file());
    let client = builder.connect().await.unwrap();
    let config = StreamConfig {
        name: "PROOF".to_owned(),
        subjects: vec!["proof.>".to_owned()],
        ..StreamConfig::default()
    };
    client.create_stream(config).await.unwrap();
    let mut consumer = open(&client, "PROOF").await;
    let mut letters: Option<Messages> = None;
    let mut promises = Vec::new();
    for n in 0..MESSAGES {
        let marker = format!("marker-{n:04}-{:016x}", rand::random::<u64>()).into_bytes();
        let asked = now();
        client.publish(format!("proof.{n}"), &marker).await.unwrap();
        promises.push(promise(format!("publish {n}"), Some(&marker), asked));
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.payload(), marker);
        if n % 5 == 0 {
            let asked = now();
            delivery.nak(Duration::ZERO).await.unwrap();
            let again = receive(&mut consumer).await;
            assert_eq!((again.seq(), again.attempts()), (delivery.seq(), 2));
            promises.push(promise(format!("second attempt {n}"), None, asked));
            let asked = now();
            again.nak(Duration::ZERO).await.unwrap();
            let letter = receive_letter(&client, &mut letters).await;
            assert_eq!(letter.payload(), marker);
            promises.push(promise(format!("dead letter {n}"), Some(&marker), asked));
        } else {
            let asked = now();
            delivery.ack_confirmed().await.unwrap();
            promises.push(promise(format!("confirmed ack {n}"), None, asked));
        }
    }
    promises
}

/// What was asked at `asked` is answered now.
fn promise(what: String, marker: Option<&[u8]>, asked: f64) -> Promise {
    Promise { what, marker: marker.map(<[u8]>::to_vec), asked, told: now() }
}

async fn open(client: &Client, stream: &str) -> Messages {
    let config = ConsumerConfig {
        durable_name: Some("reader".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_deliver: 2,
        ..ConsumerConfig::default()
    };
    client.create_consumer(stream, config).await.unwrap().messages()
}

async fn receive(messages: &mut Messages) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, messages.next()).await;
    next.expect("a message comes in time").expect("messages go on").unwrap()
}

/// The next dead letter. Its stream comes into being with the first.
async fn receive_letter(client: &Client, letters: &mut Option<Messages>) -> Delivery {
    if letters.is_none() {
        let end = Instant::now() + PATIENCE;
        while client.stream_info("DLQ_PROOF").await.is_err() {
            assert!(Instant::now() < end, "the dead-letter stream does not come into being");
        }
        *letters = Some(open(client, "DLQ_PROOF").await);
    }
    let letter = receive(letters.as_mut().unwrap()).await;
    letter.ack().await.unwrap();
    letter
}

#[test]
fn nothing_is_promised_before_the_disk_has_it() {
    if !has_strace() {
        return;
    }
    let (trace, promises) = run("sync");
    let calls = strace::parse(&trace);
    let wrong = violations(&calls, &promises);
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
    let syncs = calls.iter().filter(|call| call.name.contains("sync")).count();
    println!("{} promises, each after its write and its sync; {syncs} syncs", promises.len());
}

#[test]
fn the_check_fails_where_the_disk_is_not_waited_for() {
    if !has_strace() {
        return;
    }
    let (trace, promises) = run("os");
    let wrong = violations(&strace::parse(&trace), &promises);
    assert!(
        wrong.len() > promises.len() / 2,
        "only {} of {} promises were given early",
        wrong.len(),
        promises.len()
    );
}
