//! Failing disks, damaged checkpoints, and bytes that must be gone.

use std::sync::Arc;

use super::operations::{Chance, Run, all_of, open, options, read_all};
use crate::disk::{Disk, SimulatedDisk};
use crate::ids::{Fingerprint, StreamId};
use crate::log::{Filter, Log, StreamOptions, WindowFull};
use crate::record::{NewRecord, StorageKind};
use crate::{Engine, EngineOptions, OpenError, Pressure};

const S: StreamId = StreamId(1);

fn record<'a>(subject: &'a str, payload: &'a [u8]) -> NewRecord<'a> {
    NewRecord { subject, headers: b"", payload, time: 5, expires: None, message_id: None }
}

/// Commits and lets the workers go on until nothing is left to do.
fn settle(engine: &mut Engine) {
    engine.commit();
    for _ in 0..6 {
        engine.run_background();
        while engine.poll().unwrap().is_some() {}
    }
}

/// Makes a checkpoint by filling the tail with another stream's records, and deletes those.
fn checkpoint(engine: &mut Engine) {
    let before = engine.info().checkpoints;
    let other = StreamId(99);
    if engine.stream(other).is_none() {
        engine.create_stream(other, StreamOptions::default());
    }
    for _ in 0..20 {
        engine.append(other, &record("other", &[1; 1_000])).unwrap();
    }
    engine.clear(other);
    settle(engine);
    assert!(engine.info().checkpoints > before);
}

fn seqs(engine: &mut Engine) -> Vec<u64> {
    let records = read_all(engine, all_of(S, 1_000), &Filter::all());
    records.iter().map(|record| record.seq).collect()
}

/// One change of the disk fails, once, at every place in turn. Either the journal has failed and the log
/// says so for ever, or it goes on as if nothing had been.
#[test]
fn one_failure_anywhere_is_survived_or_fatal() {
    let (survived, fatal) = fail_everywhere(SimulatedDisk::fail_after);
    assert!(survived > 5 && fatal > 100, "{survived} {fatal}");
    // Only the journal itself cannot do without room.
    let (survived, fatal) = fail_everywhere(SimulatedDisk::run_out_after);
    assert!(survived > 40 && fatal > 40, "{survived} {fatal}");
}

/// How often the log survived, and how often it ended.
fn fail_everywhere(fail_after: impl Fn(&SimulatedDisk, u64)) -> (u64, u64) {
    let (mut survived, mut fatal) = (0, 0);
    for n in 1..240 {
        let disk = SimulatedDisk::new();
        let mut run = Run::new(7, false);
        let mut engine = open(&disk, n);
        fail_after(&disk, n);
        let mut is_dead = false;
        for _ in 0..900 {
            run.step(&mut engine);
            if run.draw.chance.one_in(5) {
                run.commit(&mut engine);
                engine.run_background();
            }
            while !is_dead {
                match engine.poll() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => is_dead = true,
                }
            }
            if is_dead {
                break;
            }
        }
        let durable = engine.durable().0;
        if is_dead {
            fatal += 1;
            assert!(engine.poll().is_err());
        } else {
            survived += 1;
            run.commit(&mut engine);
            settle(&mut engine);
            run.compare(&mut engine);
        }
        drop(engine);
        disk.crash(n);
        let mut engine = open(&disk, 2);
        let report = engine.recovery_report().clone();
        assert!(report.damage.is_empty() && report.last_group >= durable, "{n}: {report:?}");
        run.rewind(&mut engine);
        run.compare(&mut engine);
    }
    (survived, fatal)
}

/// A log with some sealed records, several checkpoints old.
fn with_checkpoints(disk: &SimulatedDisk) -> Vec<u64> {
    let mut engine = open(disk, 1);
    engine.create_stream(S, StreamOptions::default());
    for _ in 0..3 {
        for n in 0..10 {
            engine.append(S, &record("a", &[n; 40])).unwrap();
        }
        engine.put(b"key", b"value");
        checkpoint(&mut engine);
    }
    engine.append(S, &record("a", b"in the journal only")).unwrap();
    settle(&mut engine);
    seqs(&mut engine)
}

fn newest(disk: &SimulatedDisk, dir: &str) -> String {
    disk.paths().into_iter().rfind(|path| path.starts_with(dir)).unwrap()
}

#[test]
fn a_damaged_newest_checkpoint_is_got_over() {
    for dir in ["manifest/", "state/"] {
        let disk = SimulatedDisk::new();
        let expected = with_checkpoints(&disk);
        let path = newest(&disk, dir);
        let mut bytes = disk.contents(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        disk.damage(&path, bytes);
        let mut engine = open(&disk, 2);
        let report = engine.recovery_report().clone();
        assert!(report.fell_back, "{report:?}");
        assert!(report.damage.is_empty(), "{report:?}");
        assert_eq!(seqs(&mut engine), expected);
        assert_eq!(engine.states(b"")[0].1.base, b"value");
        assert!(disk.paths().iter().any(|path| path.starts_with("lost+found/manifest-")));
        checkpoint(&mut engine);
        engine.close().unwrap();
        assert_eq!(seqs(&mut open(&disk, 3)), expected);
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = SimulatedDisk::new();
    with_checkpoints(&disk);
    let old = disk.paths().into_iter().find(|path| path.starts_with("segments/")).unwrap();
    disk.remove(&old).unwrap();
    let error = Engine::open(options(2), Arc::new(disk), Arc::new(|| {})).err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&old), "{error}");
}

#[test]
fn damage_in_a_segment_is_an_error_to_its_reader_only() {
    let disk = SimulatedDisk::new();
    let expected = with_checkpoints(&disk);
    for path in disk.paths().into_iter().filter(|path| path.starts_with("segments/")) {
        let mut bytes = disk.contents(&path).unwrap();
        bytes[100] ^= 1;
        disk.damage(&path, bytes);
    }
    let mut engine = open(&disk, 2);
    let mut found = Vec::new();
    let outcome = engine.read(&all_of(S, 1_000), &crate::log::Filter::all(), &mut found);
    assert!(matches!(outcome, crate::log::ReadOutcome::Waiting(_)));
    engine.run_background();
    let crate::LogEvent::Read(_, Err(error)) = engine.poll().unwrap().unwrap() else {
        panic!("damage is an error");
    };
    let crate::log::ReadError::Damaged { stream, first, last, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((stream, first), (S, 1));
    assert!(last < *expected.last().unwrap());
    assert_eq!(engine.info().failed_reads, 1);
    // What is in the tail can be read as before.
    let request = crate::log::ReadRequest { from: 31, ..all_of(S, 1_000) };
    assert_eq!(read_all(&mut engine, request, &Filter::all()).len(), 1);
}

#[test]
fn erased_bytes_are_nowhere_on_the_disk() {
    for is_sealed in [true, false] {
        let secret = b"a secret that must go";
        let disk = SimulatedDisk::new();
        let mut engine = open(&disk, 1);
        // Stored as it is, so that the bytes can be looked for.
        let plain =
            StreamOptions { compression: crate::log::Compression::Off, ..Default::default() };
        engine.create_stream(S, plain);
        engine.append(S, &record("a", b"kept")).unwrap();
        let seq = engine.append(S, &record("a", secret)).unwrap();
        engine.append(S, &record("a", b"kept too")).unwrap();
        settle(&mut engine);
        if is_sealed {
            checkpoint(&mut engine);
        }
        let holds_secret = |path: &String| {
            let bytes = disk.contents(path).unwrap();
            bytes.windows(secret.len()).any(|window| window == secret)
        };
        assert!(disk.paths().iter().any(holds_secret));
        let id = engine.subject(S, "a").unwrap().id;
        let size = StorageKind::File.size(1, 0, secret.len());
        assert!(engine.erase(S, seq, id, size));
        for _ in 0..8 {
            checkpoint(&mut engine);
        }
        settle(&mut engine);
        let left: Vec<String> = disk.paths().into_iter().filter(holds_secret).collect();
        assert!(left.is_empty(), "sealed {is_sealed}: {left:?}");
        assert_eq!(seqs(&mut engine), [1, 3]);
    }
}

#[test]
fn space_comes_back_when_records_go() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    for n in 0..200_u64 {
        // Random bytes do not shrink.
        let payload: Vec<u8> = (0..500).map(|i| (n * 31 + i * i * 7 + i) as u8).collect();
        engine.append(S, &record("a", &payload)).unwrap();
        settle(&mut engine);
    }
    let full = engine.info();
    assert!(full.segments > 0 && full.segment_bytes > 10_000, "{full:?}");
    engine.clear(S);
    for _ in 0..4 {
        checkpoint(&mut engine);
    }
    let empty = engine.info();
    assert!(empty.segment_bytes < 3_000 && empty.dead_bytes < 3_000, "{empty:?}");
    let on_disk = disk.paths().iter().filter(|path| path.starts_with("segments/")).count();
    assert!(on_disk <= 2, "{:?}", disk.paths());
    let journal = disk.paths().iter().filter(|path| path.starts_with("journal/")).count();
    assert!(journal <= 16, "{journal} journal files");
}

#[test]
fn ids_outlive_their_records_and_crashes() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    let id = Fingerprint(77);
    let with_id = NewRecord { message_id: Some((id, 1_000)), ..record("a", b"x") };
    let seq = engine.append(S, &with_id).unwrap();
    engine.clear(S);
    settle(&mut engine);
    checkpoint(&mut engine);
    checkpoint(&mut engine);
    for life in 2..5 {
        drop(engine);
        disk.crash(life);
        engine = open(&disk, life);
        assert_eq!(engine.recall(S, id, 999), Some(seq));
        assert_eq!(engine.recall(S, id, 1_000), None);
        checkpoint(&mut engine);
    }
}

#[test]
fn a_full_window_refuses_and_opens_again() {
    let disk = SimulatedDisk::new();
    let options = EngineOptions { message_id_budget: 440, ..options(1) };
    let mut engine = Engine::open(options, Arc::new(disk), Arc::new(|| {})).unwrap();
    engine.create_stream(S, StreamOptions::default());
    let with_id = |n: u128, time: u64| NewRecord {
        message_id: Some((Fingerprint(n), 100)),
        time,
        ..record("a", b"x")
    };
    for n in 0..10 {
        engine.append(S, &with_id(n, 1)).unwrap();
    }
    assert_eq!(engine.append(S, &with_id(10, 99)), Err(WindowFull));
    assert!(engine.has_room_for_ids(99, 0) && !engine.has_room_for_ids(99, 1));
    assert_eq!(engine.stream(S).unwrap().last_seq, 10, "nothing was appended");
    assert!(engine.has_room_for_ids(100, 10) && !engine.has_room_for_ids(100, 11));
    assert_eq!(engine.append(S, &with_id(10, 100)), Ok(11));
}

#[test]
fn pressure_rises_with_the_tail_and_falls_with_a_checkpoint() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    engine.create_stream(S, StreamOptions::default());
    let mut seen = vec![engine.pressure()];
    for _ in 0..40 {
        engine.append(S, &record("a", &[1; 1_000])).unwrap();
        engine.commit();
        if seen.last() != Some(&engine.pressure()) {
            seen.push(engine.pressure());
        }
    }
    assert_eq!(seen, [Pressure::Normal, Pressure::High, Pressure::Full]);
    settle(&mut engine);
    settle(&mut engine);
    assert_eq!(engine.pressure(), Pressure::Normal);
    assert_eq!(seqs(&mut engine).len(), 40);
}

/// Publishes until the disk is full for good. Returns how much is held.
fn fill_disk(engine: &mut Engine) -> usize {
    let mut chance = Chance(7);
    for _ in 0..4_000 {
        if (0..20).all(|_| {
            settle(engine);
            engine.pressure() == Pressure::NoSpace
        }) {
            return seqs(engine).len();
        }
        let payload: Vec<u8> = (0..900).map(|_| chance.below(256) as u8).collect();
        engine.append(S, &record("a", &payload)).unwrap();
        settle(engine);
    }
    panic!("the disk never became full: {:?}", engine.info());
}

/// Works until publishing may go on.
fn wait_for_room(engine: &mut Engine) {
    for _ in 0..3_000 {
        engine.poll().unwrap();
        engine.run_background();
        if engine.pressure() < Pressure::Full {
            return;
        }
    }
    panic!("there is no room: {:?}", engine.info());
}

#[test]
fn a_full_disk_refuses_publishing_and_nothing_else() {
    for room in [0, 4_000, 40_000, 100_000] {
        let disk = SimulatedDisk::new();
        let mut engine = open(&disk, 1);
        engine.create_stream(S, StreamOptions::default());
        settle(&mut engine);
        disk.set_capacity(Some(disk.size() + room));
        let held = fill_disk(&mut engine);
        // State and deletions are still taken, and checkpointed.
        let checkpoints = engine.info().checkpoints;
        for seq in 1..=held as u64 / 2 {
            let summary = engine.subject(S, "a").unwrap();
            assert!(engine.delete(S, seq, summary.id, 900));
            engine.put(b"c/worker", &seq.to_le_bytes());
            settle(&mut engine);
        }
        for round in 0..3_000_u64 {
            engine.put(b"c/worker", &round.to_le_bytes().repeat(50));
            settle(&mut engine);
        }
        assert!(engine.info().checkpoints > checkpoints + 3, "{room}: {:?}", engine.info());
        // Nothing of it is lost.
        drop(engine);
        disk.crash(room);
        let mut engine = open(&disk, 2);
        assert_eq!(seqs(&mut engine).len(), held - held / 2);
        // Room that comes from elsewhere ends it.
        disk.set_capacity(None);
        wait_for_room(&mut engine);
        engine.append(S, &record("a", b"again")).unwrap();
        settle(&mut engine);
        assert_eq!(seqs(&mut engine).len(), held - held / 2 + 1);
    }
}

#[test]
fn deleting_records_makes_room_on_a_full_disk() {
    for room in [4_000, 40_000, 100_000, 300_000] {
        let disk = SimulatedDisk::new();
        let mut engine = open(&disk, 1);
        engine.create_stream(S, StreamOptions::default());
        settle(&mut engine);
        disk.set_capacity(Some(disk.size() + room));
        let full = fill_disk(&mut engine);
        engine.clear(S);
        engine.commit();
        wait_for_room(&mut engine);
        let again = fill_disk(&mut engine);
        assert!(again * 10 > full * 9, "{room}: {full}, {again}; {:?}", engine.info());
    }
}

/// Work on segments that was never done holds segments, which hold what the work waits in.
#[test]
fn an_engine_that_is_dropped_lets_go_of_its_disk() {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let mut engine = Engine::open(options(1), Arc::clone(&disk), Arc::new(|| {})).unwrap();
    engine.create_stream(S, StreamOptions::default());
    for _ in 0..20 {
        engine.append(S, &record("a", &[1; 1_000])).unwrap();
    }
    engine.commit();
    while engine.info().checkpoints == 0 {
        engine.run_background();
        // The last of these takes in the checkpoint, and asks for its segment to be indexed.
        while engine.poll().unwrap().is_some() {}
    }
    drop(engine);
    assert_eq!(Arc::strong_count(&disk), 1);
}
