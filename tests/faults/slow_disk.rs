//! A disk on which every sync takes a quarter of a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::process::Launch;
use crate::{connect, has_strace, payload, start};

/// How much longer each sync takes.
const DELAY: Duration = Duration::from_millis(250);
/// How long publishers press.
const PRESSED: Duration = Duration::from_secs(6);
const PUBLISHERS: u64 = 8;
const PAYLOAD: usize = 16_000;
/// Most memory of the broker, in KiB: its tail of 8 MiB at most, what publishers have on their way,
/// and itself.
const MOST_KIB: u64 = 128 << 10;

/// Peak resident memory of a process, in KiB.
fn peak(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_publishers_and_takes_no_memory() {
    if !has_strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("claudebus.yaml");
    std::fs::write(&config, "server:\n  tail_budget: 4MiB\n").unwrap();
    let launch = Launch::new(&dir.path().join("data")).unwrap();
    let mut launch = launch.with(&["--config", config.to_str().unwrap()]);
    let delay = format!("inject=fdatasync:delay_enter={}", DELAY.as_micros());
    launch.wrapper =
        ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &delay]
            .map(str::to_owned)
            .to_vec();
    let mut broker = start(&launch);
    let client = connect(&launch).await;
    // No acknowledgement comes before the disk has the message.
    for n in 1..=4 {
        let began = Instant::now();
        client.publish("s.a", payload(n, 100)).await.unwrap();
        assert!(began.elapsed() >= DELAY, "acknowledged after {:?}", began.elapsed());
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for n in 0..PUBLISHERS {
        let client = connect(&launch).await;
        let is_over = Arc::clone(&is_over);
        tasks.push(tokio::spawn(async move {
            let publisher = client.publisher();
            let mut sent: u64 = 0;
            while !is_over.load(Ordering::Relaxed) {
                let next = publisher.publish("s.b", payload(n << 32 | sent, PAYLOAD));
                let Ok(ticket) = tokio::time::timeout(PRESSED, next).await else { break };
                drop(ticket.unwrap());
                sent += 1;
            }
            sent
        }));
    }
    // What is in memory is read all the while.
    let until = Instant::now() + PRESSED;
    let mut reads = 0;
    while Instant::now() < until {
        let message = client.get_message("S", 1 + reads % 4).await.unwrap();
        assert_eq!(message.payload(), payload(1 + reads % 4, 100));
        reads += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap();
    }
    let peak = peak(broker.id());
    println!("{sent} messages of {PAYLOAD} bytes sent, {reads} reads, peak {} MiB", peak >> 10);
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert!(reads > 100, "{reads} reads");
    broker.kill().unwrap();
}
