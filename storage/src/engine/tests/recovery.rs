//! What is found after damage, and what is said about it.

use std::sync::Arc;

use super::operations::{all_of, options, read_all};
use crate::disk::{Disk, SimulatedDisk};
use crate::ids::StreamId;
use crate::log::{Filter, Log, StreamOptions};
use crate::record::NewRecord;
use crate::{Engine, LogEvent, OpenError};

pub(super) const S: StreamId = StreamId(1);

/// Opens the log as its owner does, who leaves out sequences that may have been given out.
pub(super) fn open(disk: &SimulatedDisk, seed: u64) -> Engine {
    let mut engine = super::operations::open(disk, seed);
    for lost in engine.losses().ranges.clone().iter().filter(|lost| !lost.is_certain) {
        engine.skip(lost.stream, lost.last);
    }
    engine
}

pub(super) fn append(engine: &mut Engine, payload: &[u8]) -> u64 {
    let record =
        NewRecord { subject: "a", headers: b"", payload, time: 1, expires: None, message_id: None };
    engine.append(S, &record).unwrap()
}

/// Ten groups of one record each, the last one closed by a mark.
pub(super) fn ten_groups(disk: &SimulatedDisk) {
    let mut engine = open(disk, 1);
    engine.create_stream(S, StreamOptions::default());
    for n in 0..10_u8 {
        append(&mut engine, &[n + 100; 50]);
        engine.commit();
        engine.run_background();
    }
}

fn journal_file(disk: &SimulatedDisk) -> String {
    let file = disk.paths().into_iter().find(|path| path.contains("journal/0"));
    file.expect("a journal file")
}

pub(super) fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).expect("it is there")
}

pub(super) fn seqs(engine: &mut Engine) -> Vec<u64> {
    let records = read_all(engine, all_of(S, 100), &Filter::all());
    records.iter().map(|record| record.seq).collect()
}

#[test]
fn a_flipped_bit_is_reported_and_costs_one_record() {
    for n in 0..10_u8 {
        let disk = SimulatedDisk::new();
        ten_groups(&disk);
        let path = journal_file(&disk);
        let mut bytes = disk.contents(&path).unwrap();
        let at = find(&bytes, &[n + 100; 50]);
        bytes[at + 7] ^= 4;
        disk.damage(&path, bytes);
        let mut engine = open(&disk, 2);
        let report = engine.recovery_report().clone();
        assert_eq!(report.damage.len(), 1);
        assert_eq!(report.damage[0].file, path);
        let (start, end) = report.damage[0].bytes;
        assert!((start..end).contains(&(at as u64)));
        let expected: Vec<u64> = (1..=10).filter(|seq| *seq != u64::from(n) + 1).collect();
        assert_eq!(seqs(&mut engine), expected);
        assert!(disk.paths().iter().any(|path| path.starts_with("lost+found/")));
        let lost = u64::from(n) + 1;
        assert!(!engine.contains(S, lost));
        let [told] = &report.losses.ranges[..] else { panic!("{report:?}") };
        assert_eq!((told.stream, told.first, told.last), (S, lost, lost));
        assert_eq!((&told.file, told.is_certain), (&path, n < 9));
        // The next start finds the same, and what was acknowledged is never given out again.
        drop(engine);
        let mut engine = open(&disk, 3);
        assert_eq!(seqs(&mut engine), expected);
        assert_eq!(engine.recovery_report().losses, report.losses);
        assert_eq!(append(&mut engine, b"next"), 11);
        engine.commit();
        engine.run_background();
        drop(engine);
        let mut engine = open(&disk, 4);
        assert_eq!(seqs(&mut engine), [&expected[..], &[11]].concat());
    }
}

#[test]
fn a_damaged_group_header_costs_nothing() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    let path = journal_file(&disk);
    let mut bytes = disk.contents(&path).unwrap();
    let record = find(&bytes, &[104; 50]);
    let header = bytes[..record].windows(4).rposition(|w| w == b"CBGR").unwrap();
    bytes[header + 8] ^= 1;
    disk.damage(&path, bytes);
    let mut engine = open(&disk, 2);
    assert!(engine.recovery_report().damage.is_empty());
    assert_eq!(seqs(&mut engine).len(), 10);
}

#[test]
fn a_damaged_trailer_costs_nothing() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    let path = journal_file(&disk);
    let mut bytes = disk.contents(&path).unwrap();
    let record = find(&bytes, &[104; 50]);
    let trailer = record + bytes[record..].windows(4).position(|w| w == b"CBGT").unwrap();
    bytes[trailer + 9] ^= 1;
    disk.damage(&path, bytes);
    let mut engine = open(&disk, 2);
    assert!(engine.recovery_report().damage.is_empty());
    assert_eq!(seqs(&mut engine).len(), 10);
}

/// The creation of a stream is lost: its records are not, and its sequences go on.
#[test]
fn a_stream_outlives_its_creation() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    engine.commit();
    for n in 0..10_u8 {
        append(&mut engine, &[n; 50]);
        engine.commit();
    }
    engine.run_background();
    drop(engine);
    let path = journal_file(&disk);
    let mut bytes = disk.contents(&path).unwrap();
    bytes[4096 + 32 + 6] ^= 1;
    disk.damage(&path, bytes);
    let mut engine = open(&disk, 2);
    assert_eq!(engine.recovery_report().damage[0].groups, (1, 1));
    assert_eq!(engine.recovery_report().losses.ranges, []);
    assert_eq!(seqs(&mut engine).len(), 10);
}

#[test]
fn a_missing_journal_file_is_refused() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    ten_more(&disk);
    let first = journal_file(&disk);
    disk.remove(&first).unwrap();
    let error = Engine::open(options(3), Arc::new(disk), Arc::new(|| {})).err().unwrap();
    assert!(matches!(error, OpenError::Missing { first: 1, .. }), "{error}");
}

fn ten_more(disk: &SimulatedDisk) {
    let mut engine = open(disk, 2);
    for _ in 0..10 {
        append(&mut engine, b"more");
        engine.commit();
        engine.run_background();
    }
}

#[test]
fn files_rotate_and_follow_each_other() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    for _ in 0..15 {
        append(&mut engine, &[7; 1_000]);
        engine.commit();
        engine.run_background();
    }
    drop(engine);
    let files = disk.paths().iter().filter(|path| path.starts_with("journal/0")).count();
    assert!(files > 1, "{:?}", disk.paths());
    assert_eq!(seqs(&mut open(&disk, 2)).len(), 15);
}

#[test]
fn a_failed_sync_ends_the_log() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    engine.commit();
    engine.run_background();
    while engine.poll().unwrap().is_some() {}
    let durable = engine.durable();
    append(&mut engine, b"lost");
    let position = engine.commit();
    disk.fail_after(2);
    engine.run_background();
    assert!(engine.poll().is_err());
    engine.run_background();
    assert!(engine.poll().is_err(), "for ever");
    assert!(engine.durable() == durable && durable < position, "nothing is acknowledged");
    assert!(engine.close().is_err());
}

#[test]
fn one_sync_serves_all_waiting_groups() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    engine.commit();
    engine.run_background();
    let before = disk.counts().syncs;
    for _ in 0..20 {
        append(&mut engine, b"x");
        engine.commit();
    }
    engine.run_background();
    // One for the groups, one for the mark that closes the last.
    assert_eq!(disk.counts().syncs - before, 2);
    let mut told = Vec::new();
    while let Some(event) = engine.poll().unwrap() {
        told.extend(matches!(event, LogEvent::Durable(_)).then_some(()));
    }
    assert_eq!(told.len(), 1);
}

#[test]
fn a_newer_directory_is_refused_untouched() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    disk.damage("FORMAT", b"claudebus data directory, format 7\n".to_vec());
    let before = (disk.paths(), disk.counts().changes());
    let error = Engine::open(options(3), Arc::new(disk.clone()), Arc::new(|| {})).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error}");
    assert_eq!((disk.paths(), disk.counts().changes()), before);
}

/// Whichever bit of the journal flips: what is read is what was written, and what is missing was named.
#[test]
fn no_flipped_bit_goes_unnoticed_or_alters_a_record() {
    let disk = SimulatedDisk::new();
    ten_groups(&disk);
    let path = journal_file(&disk);
    let good = disk.contents(&path).unwrap();
    let end = good.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..=end).step_by(5) {
        let copy = SimulatedDisk::new();
        for name in disk.paths() {
            if let Some((dir, _)) = name.rsplit_once('/') {
                copy.create_dir(dir).unwrap();
            }
            copy.create(&name).unwrap().write_at(&disk.contents(&name).unwrap(), 0).unwrap();
        }
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        copy.damage(&path, bytes);
        let mut engine = open(&copy, 2);
        let report = engine.recovery_report().clone();
        let records = read_all(&mut engine, all_of(S, 100), &Filter::all());
        for record in &records {
            assert_eq!(record.payload(), [record.seq as u8 + 99; 50], "byte {at}");
        }
        let is_named = !report.damage.is_empty();
        assert!(is_named || records.len() == 10, "byte {at}: {report:?} {}", records.len());
        assert!(records.len() >= 9, "byte {at}");
        assert!(append(&mut engine, b"next") >= 11, "byte {at}");
    }
}
