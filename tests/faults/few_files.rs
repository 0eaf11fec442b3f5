//! A broker that may open few files, and strangers who use them up.

use std::net::TcpStream;

use crate::process::Launch;
use crate::{connect, log, payload, start};

/// Files it may open: its own and a few more.
const FILES: u32 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_use_up_the_files_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("claudebus.yaml");
    std::fs::write(&config, "server:\n  tail_budget: 1MiB\n").unwrap();
    let launch = Launch::new(&dir.path().join("data")).unwrap();
    let mut launch = launch.with(&["--config", config.to_str().unwrap()]);
    let limited = format!("ulimit -n {FILES} && exec \"$@\"");
    launch.wrapper = ["sh", "-c", &limited, "sh"].map(str::to_owned).to_vec();
    let mut broker = start(&launch);
    let client = connect(&launch).await;
    let strangers: Vec<_> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", launch.http)).unwrap()).collect();
    // Enough for checkpoints and new journal files.
    for n in 1..=600 {
        let ack = client.publish("s.a", payload(n, 8_000)).await;
        assert_eq!(ack.unwrap_or_else(|error| panic!("{error}\n{}", log(&launch))).seq, n);
    }
    assert!(broker.ended().unwrap().is_none(), "{}", log(&launch));
    assert!(log(&launch).contains("few files may be open"), "{}", log(&launch));
    drop(strangers);
}
