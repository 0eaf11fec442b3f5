//! Groups that the owner writes itself, beside the journal's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::operations::options;
use crate::disk::{Disk, SimulatedDisk};
use crate::journal::Durability;
use crate::log::{Log, StreamOptions};
use crate::record::NewRecord;
use crate::{Engine, EngineOptions, LoneWriter, StreamId, Workers};

const STREAM: StreamId = StreamId(1);
const NEW: NewRecord<'_> = NewRecord {
    subject: "a",
    headers: b"",
    payload: b"body",
    time: 1,
    expires: None,
    message_id: None,
};
const LIMIT: Duration = Duration::from_secs(30);

/// An engine with threads, and how often it was this thread that made groups durable: whoever does calls
/// the waker.
fn open(disk: &SimulatedDisk, durability: Durability) -> (Engine, Arc<AtomicU64>) {
    let options = EngineOptions {
        durability,
        workers: Workers::Threads,
        lone_writer: LoneWriter::Measured,
        journal_file_size: 4 << 20,
        tail_budget: 4 << 20,
        ..options(1)
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (own, owner) = (Arc::new(AtomicU64::new(0)), std::thread::current().id());
    let counted = Arc::clone(&own);
    let waker = move || {
        counted.fetch_add(u64::from(std::thread::current().id() == owner), Ordering::Relaxed);
    };
    (Engine::open(options, disk, Arc::new(waker)).unwrap(), own)
}

/// Appends so many records as one group, and waits until it is durable.
fn append(engine: &mut Engine, count: u64) {
    for _ in 0..count {
        engine.append(STREAM, &NEW).unwrap();
    }
    let position = engine.commit();
    engine.release(true);
    until(engine, |engine| engine.durable() >= position);
}

fn until(engine: &mut Engine, holds: impl Fn(&Engine) -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds(engine) {
        assert!(Instant::now() < end, "it does not happen");
        while engine.poll().unwrap().is_some() {}
        std::thread::yield_now();
    }
}

#[test]
fn lone_groups_are_written_by_their_owner_and_others_by_the_journal() {
    let interval = Durability::Interval(Duration::from_millis(1));
    for durability in [Durability::Sync, Durability::Os, interval] {
        lone_and_other_groups(durability);
    }
}

fn lone_and_other_groups(durability: Durability) {
    let disk = SimulatedDisk::new();
    let (mut engine, own) = open(&disk, durability);
    engine.create_stream(STREAM, StreamOptions::default());
    // Until it is known how fast the disk is, the journal's thread writes all.
    append(&mut engine, 1);
    assert_eq!(own.load(Ordering::Relaxed), 0);
    let end = Instant::now() + LIMIT;
    let mut count = 1;
    while own.load(Ordering::Relaxed) < 50 {
        assert!(Instant::now() < end, "the owner writes nothing");
        append(&mut engine, 2);
        count += 2;
    }
    let lone = own.load(Ordering::Relaxed);
    (0..20).for_each(|_| append(&mut engine, 50));
    assert_eq!(own.load(Ordering::Relaxed), lone);
    // What its owner keeps back is sent when it looks for news.
    engine.append(STREAM, &NEW).unwrap();
    let position = engine.commit();
    until(&mut engine, |engine| engine.durable() >= position);
    assert_eq!(own.load(Ordering::Relaxed), lone);
    let durable = engine.durable().0;
    drop(engine);
    if durability == Durability::Sync {
        disk.crash(7);
    }
    let (mut engine, _) = open(&disk, durability);
    assert_eq!(engine.recovery_report().last_group, durable);
    assert_eq!(engine.stream(STREAM).unwrap().last_seq, count + 1_000 + 1);
    [1, 50, 1, 1, 50, 50, 1].iter().for_each(|count| append(&mut engine, *count));
    engine.close().unwrap();
}

/// Whoever wrote the last group, the journal's thread says on disk that it was synced, also if it had
/// nothing to do until then.
#[test]
fn a_lone_group_is_closed_by_a_mark() {
    let interval = Durability::Interval(Duration::from_millis(2));
    for durability in [Durability::Sync, interval] {
        let (mut engine, _) = open(&SimulatedDisk::new(), durability);
        engine.create_stream(STREAM, StreamOptions::default());
        (0..100).for_each(|_| append(&mut engine, 1));
        for _ in 0..20 {
            until(&mut engine, |engine| engine.journal.is_resting());
            let marks = engine.info().marks;
            append(&mut engine, 1);
            until(&mut engine, |engine| engine.info().marks > marks);
        }
    }
}
