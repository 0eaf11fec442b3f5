//! Groups that were dropped and may have been acknowledged: their sequences are not given out again, however
//! far the starts come that find them.

use std::sync::Arc;

use super::operations::{self, options};
use super::recovery::{S, append, find, open, seqs, ten_groups};
use crate::disk::{Disk, SimulatedDisk, TwinDisk};
use crate::ids::StreamId;
use crate::log::{Log, StreamOptions};
use crate::verify::{self, Finding};
use crate::{Engine, InlineWorkers};

/// What the last of ten groups holds.
const TENTH: [u8; 50] = [109; 50];

fn last_journal_file(disk: &SimulatedDisk) -> String {
    let mut files: Vec<_> = disk.paths();
    files.retain(|path| path.contains("journal/0"));
    files.into_iter().max().expect("a journal file")
}

/// Changes bytes of the last journal file.
fn change(disk: &SimulatedDisk, change: impl FnOnce(&mut Vec<u8>)) {
    let path = last_journal_file(disk);
    let mut bytes = disk.contents(&path).unwrap();
    change(&mut bytes);
    disk.damage(&path, bytes);
}

/// The group of `payload`, the last one, rots, and nothing says that it was synced.
fn doubt(disk: &SimulatedDisk, payload: &[u8]) {
    change(disk, |bytes| {
        let last = find(bytes, payload);
        let mark = last + bytes[last..].windows(4).position(|w| w == b"CBGR").unwrap();
        bytes[mark..].fill(0);
        bytes[last + 7] ^= 4;
    });
}

/// Only the header of the last file came to the disk.
fn lose_groups(disk: &SimulatedDisk) {
    change(disk, |bytes| bytes[4096..].fill(0));
}

/// Stores a message, durably.
fn store(engine: &mut Engine, payload: &[u8]) -> u64 {
    let seq = append(engine, payload);
    engine.commit();
    engine.run_background();
    seq
}

/// Nothing is left out, and nothing was found.
fn assert_no_doubt(engine: &Engine) {
    let report = engine.recovery_report();
    assert!(report.in_doubt.is_none() && report.losses.ranges.is_empty(), "{report:?}");
}

/// What is found by looking at the files alone.
fn findings(disk: &SimulatedDisk) -> Vec<Finding> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut findings = Vec::new();
    verify::verify(&disk, &mut |finding| findings.push(finding)).unwrap();
    findings
}

/// Nothing says of the last group that it was synced: no mark was written. Yet it was.
#[test]
fn the_last_group_is_not_given_out_again_when_it_rots() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    doubt(&disk, &TENTH);
    for seed in 2..4 {
        let mut engine = open(&disk, seed);
        let report = engine.recovery_report().clone();
        assert_eq!(seqs(&mut engine), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(report.damage.is_empty() && report.was_torn, "{report:?}");
        assert_eq!(report.in_doubt.as_ref().unwrap().groups, (10, 10));
        let [told] = &report.losses.ranges[..] else { panic!("{report:?}") };
        assert_eq!((told.stream, told.first, told.last, told.is_certain), (S, 10, 10, false));
    }
    assert_eq!(store(&mut open(&disk, 4), b"next"), 11);
    let mut engine = open(&disk, 5);
    assert_eq!(seqs(&mut engine), [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
    assert_no_doubt(&engine);
}

/// A start leaves sequences out and begins a file, of which the power's next failure leaves the header: the header
/// says where the file before it ends, and nothing says any more what stood behind that.
#[test]
fn what_is_in_doubt_stays_so_until_that_is_noted() {
    for is_torn in [false, true] {
        let disk = SimulatedDisk::new();
        ten_groups(&disk);
        doubt(&disk, &TENTH);
        for seed in 2..6 {
            let mut engine = open(&disk, seed);
            let [told] = &engine.recovery_report().losses.ranges[..] else { panic!("{seed}") };
            assert_eq!((told.first, told.last, told.is_certain), (10, 10, false), "{seed}");
            // What was kept of the bytes may not have come to the disk either.
            let kept = disk.paths().into_iter().find(|path| path.starts_with("lost+found/"));
            let kept = kept.unwrap();
            find(&disk.contents(&kept).unwrap(), &[109; 42]);
            disk.damage(&kept, Vec::new());
            assert_eq!(store(&mut engine, b"next"), 11, "{seed}");
            drop(engine);
            change(&disk, |bytes| {
                let from = if is_torn { find(bytes, b"next") } else { 4096 };
                bytes[from..].fill(0);
            });
            let found = findings(&disk);
            let doubts = found.iter().filter(|finding| finding.what.contains("acknowledged"));
            assert_eq!(doubts.count(), 1, "{seed}");
        }
        assert_eq!(store(&mut open(&disk, 6), b"next"), 11);
        let mut engine = open(&disk, 7);
        assert_eq!(seqs(&mut engine), [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
        assert_no_doubt(&engine);
    }
}

/// The same for a file of which nothing can be read.
#[test]
fn a_file_without_a_header_counts_until_that_is_noted() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    change(&disk, |bytes| {
        bytes[..4096].fill(1);
        bytes.truncate(find(bytes, &TENTH) + 50);
    });
    let is_lost =
        |disk: &SimulatedDisk| disk.paths().iter().any(|path| path.starts_with("lost+found/"));
    let mut missing = 0;
    for seed in 2..5 {
        let mut engine = operations::open(&disk, seed);
        missing = engine.losses().missing;
        assert!(missing >= 10, "{seed}");
        engine.create_stream(S, StreamOptions::default());
        engine.skip(S, missing);
        engine.commit();
        engine.run_background();
        drop(engine);
        if seed < 4 {
            lose_groups(&disk);
        }
        assert!(!is_lost(&disk), "{seed}");
    }
    let mut engine = operations::open(&disk, 5);
    assert_eq!(engine.losses().missing, 0);
    assert_eq!(append(&mut engine, b"next"), missing + 1);
    assert!(is_lost(&disk));
}

/// Nor does setting it aside by hand take away what it costs.
#[test]
fn a_file_without_a_header_that_counts_is_copied_and_not_moved() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    change(&disk, |bytes| bytes[..4096].fill(1));
    verify::quarantine(&disk, &findings(&disk), true).unwrap();
    assert!(operations::open(&disk, 2).losses().missing >= 10);
}

/// Bits of the group that notes a doubt rot: its header or trailer, without which it counts all the same, or its
/// entries, when a checkpoint holds them.
#[test]
fn what_was_noted_is_in_doubt_no_more() {
    for part in ["CBGR", "CBGT", "next"] {
        let disk = SimulatedDisk::new();
        ten_groups(&disk);
        doubt(&disk, &TENTH);
        let mut engine = open(&disk, 2);
        store(&mut engine, b"next");
        if part == "next" {
            engine.close().unwrap();
        } else {
            // Whatever was not there then lost nothing.
            engine.create_stream(StreamId(7), StreamOptions::default());
            engine.commit();
            engine.run_background();
            drop(engine);
        }
        change(&disk, |bytes| {
            let at = 4096 + find(&bytes[4096..], part.as_bytes());
            bytes[if part == "next" { at } else { at + 9 }] ^= 1;
        });
        assert_no_doubt(&operations::open(&disk, 4));
    }
}

#[test]
fn what_a_checkpoint_holds_is_in_no_doubt() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    open(&disk, 2).close().unwrap();
    doubt(&disk, &TENTH);
    let mut engine = open(&disk, 4);
    assert_no_doubt(&engine);
    assert_eq!(seqs(&mut engine).len(), 10);
}

/// A checkpoint holds all that is good in a file, and the next one has its header: that alone does not say what
/// stands behind.
#[test]
fn a_file_is_not_used_again_before_its_doubt_is_noted() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(S, StreamOptions::default());
    for n in 0..9_u8 {
        store(&mut engine, &[n + 100; 50]);
    }
    engine.close().unwrap();
    // The checkpoint before the last one holds as much.
    open(&disk, 4).close().unwrap();
    store(&mut open(&disk, 6), &TENTH);
    doubt(&disk, &TENTH);
    let nothing = InlineWorkers {
        journal: false,
        filler: false,
        checkpoints: false,
        maintenance: false,
        reads: false,
    };
    let mut engine = open(&disk, 8);
    assert_eq!(append(&mut engine, b"next"), 11);
    engine.commit();
    engine.run_some_background(InlineWorkers { journal: true, ..nothing });
    drop(engine);
    lose_groups(&disk);
    let mut engine = open(&disk, 10);
    assert_eq!(engine.recovery_report().losses.ranges.len(), 1);
    engine.run_some_background(InlineWorkers { filler: true, ..nothing });
    drop(engine);
    assert_eq!(append(&mut open(&disk, 12), b"next"), 11);
}

/// What is bad begins in a group that was synced, and ends where one begins that was not.
#[test]
fn a_doubt_behind_damage_is_found_again() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(S, StreamOptions::default());
    for n in 1..=5_u8 {
        store(&mut engine, &[n + 100; 50]);
    }
    for n in 6..=8_u8 {
        append(&mut engine, &[n + 100; 50]);
        engine.commit();
    }
    for _ in 9..=48 {
        append(&mut engine, b"x");
    }
    engine.commit();
    engine.run_background();
    drop(engine);
    change(&disk, |bytes| {
        let is_group = |w: &[u8]| w == b"CBGR";
        let fifth = find(bytes, &[105; 50]);
        let from = bytes[..fifth].windows(4).rposition(is_group).unwrap();
        let eighth = find(bytes, &[108; 50]);
        let ninth = eighth + bytes[eighth..].windows(4).position(is_group).unwrap();
        let mark = bytes.windows(4).rposition(is_group).unwrap();
        bytes[mark..].fill(0);
        bytes[from..ninth].fill(0xee);
    });
    for seed in 3..6 {
        assert!(store(&mut open(&disk, seed), b"next") > 48, "{seed}");
        lose_groups(&disk);
    }
}

/// Interest streams acknowledge what nobody wants, and store nothing but that its sequence is used up.
#[test]
fn sequences_that_were_used_up_are_in_doubt_too() {
    const T: StreamId = StreamId(2);
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 2);
    engine.create_stream(S, StreamOptions::default());
    engine.create_stream(T, StreamOptions::default());
    engine.commit();
    engine.run_background();
    engine.skip(T, 20);
    store(&mut engine, &TENTH);
    drop(engine);
    doubt(&disk, &TENTH);
    assert!(open(&disk, 4).stream(T).unwrap().last_seq >= 20);
}

/// A file is read again for its doubt, also where a checkpoint holds all that is good in it: from both copies.
#[test]
fn a_doubt_is_found_again_in_either_copy() {
    for side in 0..2 {
        let (one, other) = (SimulatedDisk::new(), SimulatedDisk::new());
        let twin = TwinDisk::new(Arc::new(one.clone()), Arc::new(other.clone()));
        let twin: Arc<dyn Disk> = Arc::new(twin);
        let open = |seed| {
            let mut engine =
                Engine::open(options(seed), Arc::clone(&twin), Arc::new(|| {})).unwrap();
            for lost in engine.losses().ranges.clone() {
                engine.skip(lost.stream, lost.last);
            }
            engine
        };
        let mut engine = open(2);
        engine.create_stream(S, StreamOptions::default());
        for n in 0..9_u8 {
            store(&mut engine, &[n + 100; 50]);
        }
        engine.close().unwrap();
        store(&mut open(4), &TENTH);
        let copies = [&one, &other];
        copies.iter().for_each(|copy| doubt(copy, &TENTH));
        assert_eq!(store(&mut open(6), b"next"), 11);
        copies.iter().for_each(|copy| lose_groups(copy));
        let harmed = copies[side];
        let path = "journal/0000000000000002.jnl";
        let mut bytes = harmed.contents(path).unwrap();
        let trailer = find(&bytes, b"CBGT");
        bytes[trailer + 9] ^= 1;
        harmed.damage(path, bytes);
        assert_eq!(append(&mut open(8), b"next"), 11, "{side}");
    }
}
