//! A data directory on a file system of 48 MiB.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use claudebus::client::{
    AckPolicy, Client, ConsumerConfig, PublishError, PurgeOptions, StreamConfig,
};

use crate::process::Launch;
use crate::{connect, payload, start, wait_until};

/// Size of the file system. The broker's files that hold no messages take 12 MiB of it.
const DISK: &str = "size=48m";
/// The error code of a publish that finds no room.
const NO_ROOM: u64 = 10047;
const PAYLOAD: usize = 4_000;
/// The disk is full for good when this many publishes in a row are refused, over this time: the
/// broker looks for room every half second.
const REFUSALS: u32 = 20;
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// A small file system in memory, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Nothing, with a word about it, if this user may not mount.
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mount = ["mount", "-t", "tmpfs", "-o", DISK, "claudebus-test"];
        for prefix in [&[][..], &["sudo", "-n"]] {
            let words: Vec<&str> = prefix.iter().chain(&mount).copied().collect();
            let done = Command::new(words[0]).args(&words[1..]).arg(path).output();
            if done.is_ok_and(|output| output.status.success()) {
                return Some(Self { path: path.to_path_buf() });
            }
        }
        eprintln!("SKIPPED: this user may not mount a file system, so no disk could be filled");
        None
    }

    /// Takes what is free, as some other program would, and returns its file.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("of-somebody-else");
        let mut file = std::fs::File::create(&path).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let plain = Command::new("umount").arg(&self.path).status();
        if !plain.is_ok_and(|status| status.success()) {
            let _ = Command::new("sudo").args(["-n", "umount"]).arg(&self.path).status();
        }
    }
}

/// Publishes messages numbered from 1 until one is refused for want of room, time and again: a
/// checkpoint may find some more. Returns the number that was refused.
async fn fill(client: &Client) -> u64 {
    let (mut next, mut refusals) = (1, 0);
    while refusals < REFUSALS {
        match client.publish("s.a", payload(next, PAYLOAD)).await {
            Ok(_) => (next, refusals) = (next + 1, 0),
            Err(PublishError::Refused(error)) => {
                assert_eq!(u64::from(error.err_code), NO_ROOM, "{error}");
                refusals += 1;
                tokio::time::sleep(REFUSED_FOR / REFUSALS).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    next
}

/// The status line of the health check.
fn health(launch: &Launch) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", launch.http)).unwrap();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Every stored message is the one of its number.
async fn check(client: &Client, first: u64, last: u64) {
    for seq in first..=last {
        let message = client.get_message("S", seq).await.unwrap();
        assert_eq!(message.payload(), payload(seq, PAYLOAD), "sequence {seq}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_messages_and_takes_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk")) else { return };
    let config = dir.path().join("claudebus.yaml");
    std::fs::write(&config, "server:\n  tail_budget: 2MiB\n").unwrap();
    // Only the data is on the full disk: what the broker printed and the file that says it is ready
    // lie beside the link.
    let (data, there) = (dir.path().join("data"), disk.path.join("data"));
    std::fs::create_dir(&there).unwrap();
    std::os::unix::fs::symlink(&there, &data).unwrap();
    let launch = Launch::new(&data).unwrap();
    let launch = launch.with(&["--config", config.to_str().unwrap()]);
    let mut broker = start(&launch);
    let client = connect(&launch).await;
    let consumer = ConsumerConfig {
        durable_name: Some("reader".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    };
    let consumer = client.create_consumer("S", consumer).await.unwrap();

    let refused = fill(&client).await;
    assert!(refused > 1_000, "only {refused} messages found room");
    // A checkpoint may have found some more room just now.
    wait_until("it says so", async || health(&launch).contains("the disk is full")).await;
    // What another program takes makes it no worse.
    let theirs = disk.fill();
    let mut messages = consumer.messages();
    for seq in 1..refused.min(2_000) {
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!((message.seq(), &*message.payload()), (seq, &*payload(seq, PAYLOAD)));
        message.ack_confirmed().await.unwrap();
    }
    client.delete_message("S", 1).await.unwrap();
    let config =
        StreamConfig { name: "T".into(), subjects: vec!["t".into()], ..Default::default() };
    client.create_stream(config).await.unwrap();

    // Nothing is lost if it ends now, and it begins on the full disk.
    assert!(broker.kill().unwrap());
    let mut broker = start(&launch);
    let client = connect(&launch).await;
    check(&client, 2, refused - 1).await;
    let again = client.publish("s.a", "one more").await;
    assert!(matches!(again, Err(PublishError::Refused(_))), "{again:?}");

    // Room comes back when messages go.
    std::fs::remove_file(theirs).unwrap();
    let keep = PurgeOptions { keep: 10, ..PurgeOptions::default() };
    client.purge_stream("S", keep).await.unwrap();
    wait_until("room came back", async || {
        client.publish("s.b", payload(refused, PAYLOAD)).await.is_ok()
    })
    .await;
    check(&client, refused - 10, refused).await;
    // While segments go, checkpoints may find the disk full once more.
    wait_until("it is well", async || health(&launch).starts_with("HTTP/1.1 200")).await;
    broker.kill().unwrap();
}
