//! Merges of records that are deleted or erased meanwhile.

use super::operations::open;
use crate::Engine;
use crate::disk::SimulatedDisk;
use crate::engine::options::InlineWorkers;
use crate::ids::StreamId;
use crate::log::{Log, StreamOptions};
use crate::record::NewRecord;

const GOING: StreamId = StreamId(1);
const STAYING: StreamId = StreamId(2);
/// Maintenance is slow.
const WITHOUT_MAINTENANCE: InlineWorkers =
    InlineWorkers { maintenance: false, ..InlineWorkers::ALL };

fn append(engine: &mut Engine, stream: StreamId, payload: &[u8]) {
    let record =
        NewRecord { subject: "a", headers: b"", payload, time: 1, expires: None, message_id: None };
    engine.append(stream, &record).unwrap();
}

fn checkpoint(engine: &mut Engine) {
    let before = engine.info().checkpoints;
    engine.commit();
    engine.begin_checkpoint();
    while engine.info().checkpoints == before {
        engine.run_some_background(WITHOUT_MAINTENANCE);
        while engine.poll().unwrap().is_some() {}
    }
}

/// A log that is about to merge segments. The first holds records of the stream that goes, the others of `others`.
fn about_to_merge(disk: &SimulatedDisk, others: StreamId) -> Engine {
    let mut engine = open(disk, 2);
    engine.create_stream(GOING, StreamOptions::default());
    engine.create_stream(STAYING, StreamOptions::default());
    append(&mut engine, GOING, b"first");
    checkpoint(&mut engine);
    while engine.merging.is_empty() {
        append(&mut engine, others, b"other");
        checkpoint(&mut engine);
    }
    engine
}

/// Deletes the stream that goes, and lets everything come to its end.
fn delete(engine: &mut Engine) {
    engine.drop_stream(GOING);
    checkpoint(engine);
    for _ in 0..3 {
        engine.run_background();
        while engine.poll().unwrap().is_some() {}
        checkpoint(engine);
    }
    engine.run_background();
}

fn segment_files(disk: &SimulatedDisk) -> usize {
    disk.paths().iter().filter(|path| path.starts_with("segments/")).count()
}

#[test]
fn a_merge_of_what_is_deleted_is_given_up() {
    let disk = SimulatedDisk::new();
    let mut engine = about_to_merge(&disk, GOING);
    delete(&mut engine);
    let info = engine.info();
    assert_eq!((info.merges, info.abandoned_merges, info.failed_merges), (0, 1, 0));
    assert!(engine.merging.is_empty());
    assert_eq!(segment_files(&disk), 0, "{:?}", disk.paths());
}

/// The dead file keeps its room until the merge is done.
#[test]
fn a_merge_of_what_mostly_stays_is_not() {
    let disk = SimulatedDisk::new();
    let mut engine = about_to_merge(&disk, STAYING);
    delete(&mut engine);
    let info = engine.info();
    assert_eq!((info.merges, info.abandoned_merges, info.failed_merges), (1, 0, 0));
}

/// A file that was half dead when the merge began is no reason to give it up.
#[test]
fn what_was_deleted_before_a_merge_does_not_count() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(GOING, StreamOptions::default());
    engine.create_stream(STAYING, StreamOptions::default());
    append(&mut engine, GOING, b"goes");
    checkpoint(&mut engine);
    for round in 0.. {
        if !engine.merging.is_empty() {
            break;
        }
        append(&mut engine, STAYING, b"stays");
        append(&mut engine, STAYING, b"goes before");
        checkpoint(&mut engine);
        let subject = engine.subject(STAYING, "a").unwrap().id;
        engine.delete(STAYING, round * 2 + 2, subject, 1);
    }
    delete(&mut engine);
    let info = engine.info();
    assert_eq!((info.merges, info.abandoned_merges, info.failed_merges), (1, 0, 0));
}

const SECRET: &[u8] = b"QJXZKVWPSECRET";

fn settle(engine: &mut Engine) {
    for _ in 0..100 {
        engine.run_background();
        while engine.poll().unwrap().is_some() {}
    }
}

/// The segments that hold the secret.
fn holding(disk: &SimulatedDisk) -> Vec<String> {
    let holds = |path: &String| {
        let bytes = disk.contents(path).unwrap();
        bytes.windows(SECRET.len()).any(|window| window == SECRET)
    };
    let paths = disk.paths().into_iter();
    paths.filter(|path| path.starts_with("segments/") && holds(path)).collect()
}

/// Erases a record while its segment is being merged, with a stream that is deleted or not; returns the segments
/// that hold its bytes in the end.
fn erased_meanwhile(deletes: bool) -> Vec<String> {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(GOING, StreamOptions::default());
    engine.create_stream(STAYING, StreamOptions::default());
    append(&mut engine, STAYING, SECRET);
    append(&mut engine, STAYING, b"other");
    checkpoint(&mut engine);
    while engine.merging.is_empty() {
        for _ in 0..4 {
            append(&mut engine, GOING, b"goes");
        }
        checkpoint(&mut engine);
    }
    assert_eq!(holding(&disk).len(), 1);
    let subject = engine.subject(STAYING, "a").unwrap().id;
    engine.erase(STAYING, 1, subject, 1);
    if deletes {
        engine.drop_stream(GOING);
    }
    checkpoint(&mut engine);
    settle(&mut engine);
    let info = engine.info();
    assert_eq!(info.abandoned_merges, u64::from(deletes));
    holding(&disk)
}

#[test]
fn what_is_erased_during_a_merge_goes() {
    assert_eq!(erased_meanwhile(false), Vec::<String>::new());
}

#[test]
fn what_is_erased_during_a_merge_that_is_given_up_goes() {
    assert_eq!(erased_meanwhile(true), Vec::<String>::new());
}

/// A segment is written anew because of one erased record, and meanwhile another one of it is erased.
#[test]
fn what_is_erased_while_another_is_overwritten_goes() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(STAYING, StreamOptions::default());
    append(&mut engine, STAYING, b"erased first");
    append(&mut engine, STAYING, SECRET);
    append(&mut engine, STAYING, b"other");
    checkpoint(&mut engine);
    let subject = engine.subject(STAYING, "a").unwrap().id;
    engine.erase(STAYING, 1, subject, 1);
    checkpoint(&mut engine);
    assert!(!engine.merging.is_empty());
    engine.erase(STAYING, 2, subject, 1);
    checkpoint(&mut engine);
    settle(&mut engine);
    assert_eq!(holding(&disk), Vec::<String>::new());
}
