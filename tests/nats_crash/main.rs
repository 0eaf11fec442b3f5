//! Kills the real broker with `kill -9`, again and again, while async-nats and nats-py publish and
//! consume over NATS, as they come, and judges what it holds afterwards by what it had acknowledged.
//!
//! ```text
//! cargo test --release --test nats_crash                             5 rounds
//! NATS_CRASH_ROUNDS=50 cargo test --release --test nats_crash        the full run
//! ```
//!
//! The clients are never started anew: they find their way back by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]
#![allow(clippy::print_stdout, missing_docs)]

mod book;
mod load;
#[path = "../process/mod.rs"]
mod process;
mod python;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use book::Book;
use process::{Launch, Waited};

/// Longest wait for a start, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long a round's clients may take to get something acknowledged again.
const COME_BACK: Duration = Duration::from_secs(30);
/// A broker lives so long at most after its clients are back, in microseconds.
const LONGEST_LIFE: u64 = 400_000;

fn rounds() -> u32 {
    let text = std::env::var("NATS_CRASH_ROUNDS").unwrap_or_else(|_| "5".to_owned());
    text.parse().expect("NATS_CRASH_ROUNDS is a number")
}

/// The next number of a splitmix64 generator.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn nothing_acknowledged_is_lost_and_clients_go_on() {
    let home = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let launch = Launch::new(&home.path().join("data")).unwrap().with(&[
        "--nats",
        &format!("127.0.0.1:{port}"),
        "--log",
        "warn",
    ]);
    let mut broker = launch.start().unwrap();
    assert_eq!(broker.wait_ready(START).unwrap(), Waited::Ready);

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let book = Arc::new(Book::default());
    let clients = runtime.block_on(load::start(&url, &book));
    let python = python::start(&url, &book);
    let mut random = 7;
    for round in 0..rounds() {
        // Until both kinds of clients are back: then the next kill hits them at work.
        let before = (book.rust_acks(), book.python_acks(), book.confirmed());
        let began = Instant::now();
        while !book.has_gone_on(before, python.is_some()) {
            assert_eq!(broker.ended().unwrap(), None, "the broker ended by itself");
            assert!(
                began.elapsed() < COME_BACK,
                "round {round}: the clients did not come back: {before:?}, {book:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(next(&mut random) % LONGEST_LIFE));
        assert!(broker.kill().unwrap(), "it was the kill that ended it");
        broker = launch.start().unwrap();
        assert_eq!(broker.wait_ready(START).unwrap(), Waited::Ready, "round {round}");
    }
    book.over.store(true, Ordering::Relaxed);
    drop(python);
    runtime.block_on(clients.finish());
    let read = runtime.block_on(load::read_all(&url, &book));
    println!(
        "{} kills, {} + {} acknowledged publishes (async-nats, nats-py), {} confirmed acks, {read} \
         messages read back",
        rounds(),
        book.rust_acks(),
        book.python_acks(),
        book.confirmed(),
    );
    let violations = book.violations();
    assert!(violations.is_empty(), "{violations:#?}");
    assert!(book.rust_acks() > 1000, "there was load");
}
