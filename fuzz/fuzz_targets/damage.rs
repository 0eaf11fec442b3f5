//! The data directory after anything may have happened to one of its files: opening, reading and
//! verifying answer with data or an error, never with a panic, and never with other bytes than
//! were stored.
#![no_main]

use std::sync::{Arc, LazyLock};

use claudebus_fuzz::options;
use claudebus_storage::disk::Disk;
use claudebus_storage::disk::simulated::SimulatedDisk;
use claudebus_storage::engine::Engine;
use claudebus_storage::log::{Filter, LogEvent, ReadOutcome, ReadRequest, StreamOptions};
use claudebus_storage::{Log, NewRecord, Record, StreamId, verify};
use libfuzzer_sys::fuzz_target;

const STREAM: StreamId = StreamId(1);
const RECORDS: u64 = 300;

/// Every file of a directory that was in use, by path.
static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let disk = Arc::new(SimulatedDisk::new());
    fill(&disk);
    let paths = disk.paths().into_iter();
    paths.filter_map(|path| disk.contents(&path).map(|bytes| (path, bytes))).collect()
});

/// A disk with these files.
fn disk_of(files: &[(String, Vec<u8>)]) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new();
    for (path, bytes) in files {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        disk.create_dir(dir).expect("a disk without faults");
        disk.create(path).expect("a disk without faults");
        disk.damage(path, bytes.clone());
    }
    Arc::new(disk)
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(12)
}

fn fill(disk: &Arc<SimulatedDisk>) {
    let mut engine =
        Engine::open(options(), Arc::clone(disk) as Arc<dyn Disk>, Arc::new(|| {})).expect("new");
    engine.create_stream(STREAM, StreamOptions::default());
    for seq in 1..=RECORDS {
        let payload = payload(seq);
        let record = NewRecord {
            subject: if seq % 3 == 0 { "a.b" } else { "a.c" },
            headers: b"",
            payload: &payload,
            time: seq,
            expires: None,
            message_id: None,
        };
        engine.append(STREAM, &record).expect("there is no id");
        engine.put(b"key", &payload);
        if seq % 10 == 0 {
            engine.commit();
            engine.run_background();
            while engine.poll().expect("a disk without faults").is_some() {}
        }
    }
}

/// Reads all there is; whatever comes must be what was stored.
fn read_all(engine: &mut Engine) {
    let mut from = 1;
    while from <= RECORDS {
        let request = ReadRequest {
            stream: STREAM,
            from,
            to: RECORDS,
            since: 0,
            max_records: 64,
            max_bytes: 1 << 20,
        };
        let mut records: Vec<Record> = Vec::new();
        let filter = Filter::all();
        let next = match engine.read(&request, &filter, &mut records) {
            ReadOutcome::Ready { next } => next,
            ReadOutcome::Waiting(_) => {
                engine.run_background();
                let mut next = from + 1;
                while let Ok(Some(event)) = engine.poll() {
                    if let LogEvent::Read(_, Ok(batch)) = event {
                        next = batch.next;
                        records = batch.records;
                    }
                }
                next
            }
        };
        for record in records {
            assert_eq!(record.payload(), payload(record.seq), "wrong bytes were read");
        }
        from = next.max(from + 1);
    }
}

fuzz_target!(|input: (u8, u32, u8, &[u8])| {
    let (file, at, keep, bytes) = input;
    let disk = disk_of(&FILES);
    let (path, original) = &FILES[usize::from(file) % FILES.len()];
    let mut damaged = original.clone();
    let at = at as usize % damaged.len().max(1);
    for (place, byte) in damaged.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
    // Sometimes the file is cut as well.
    if keep < 32 {
        damaged.truncate(at + usize::from(keep));
    }
    disk.damage(path, damaged);
    let mut findings = Vec::new();
    let below: Arc<dyn Disk> = disk.clone();
    let _ = verify::verify(&below, &mut |finding| findings.push(finding));
    if let Ok(mut engine) = Engine::open(options(), disk, Arc::new(|| {})) {
        read_all(&mut engine);
    }
});
