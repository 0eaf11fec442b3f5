//! The engine with its threads on the file system.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::disk::RealDisk;
use crate::ids::StreamId;
use crate::log::{Filter, Log, LogEvent, ReadOutcome, ReadRequest, StreamOptions};
use crate::record::{NewRecord, Record};
use crate::{Engine, EngineOptions, Position};

const S: StreamId = StreamId(1);
/// No wait in these tests takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);

struct Opened {
    engine: Engine,
    news: Receiver<()>,
}

fn open(dir: &std::path::Path, options: EngineOptions) -> Opened {
    let disk = RealDisk::open(dir).unwrap();
    let (sender, news) = channel();
    let waker = Arc::new(move || {
        let _ = sender.send(());
    });
    Opened { engine: Engine::open(options, Arc::new(disk), waker).unwrap(), news }
}

fn small() -> EngineOptions {
    EngineOptions { tail_budget: 1 << 20, journal_file_size: 256 << 10, ..EngineOptions::default() }
}

impl Opened {
    fn append(&mut self, payload: &[u8], time: u64) -> u64 {
        let record = NewRecord {
            subject: "a.b",
            headers: b"",
            payload,
            time,
            expires: None,
            message_id: None,
        };
        self.engine.append(S, &record).unwrap()
    }

    /// Polls until `done` says so.
    fn until(&mut self, mut done: impl FnMut(&mut Engine, Option<LogEvent>) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let event = self.engine.poll().unwrap();
            let had_news = event.is_some();
            if done(&mut self.engine, event) {
                return;
            }
            if !had_news {
                assert!(Instant::now() < deadline, "nothing happened: {:?}", self.engine.info());
                let _ = self.news.recv_timeout(Duration::from_millis(100));
            }
        }
    }

    /// Publishes no faster than the log allows.
    fn until_durable(&mut self, position: Position) {
        self.until(|engine, _| {
            engine.durable() >= position && engine.pressure() < crate::Pressure::Full
        });
    }

    fn read_all(&mut self, to: u64) -> Vec<Record> {
        let mut records = Vec::new();
        let mut from = 1;
        let filter = Filter::all();
        while from <= to {
            let request = ReadRequest {
                stream: S,
                from,
                to,
                since: 0,
                max_records: 1_000,
                max_bytes: 1 << 20,
            };
            match self.engine.read(&request, &filter, &mut records) {
                ReadOutcome::Ready { next } => from = next,
                ReadOutcome::Waiting(id) => self.until(|_, event| match event {
                    Some(LogEvent::Read(answered, batch)) if answered == id => {
                        let batch = batch.unwrap();
                        records.extend(batch.records);
                        from = batch.next;
                        true
                    }
                    _ => false,
                }),
            }
        }
        records
    }
}

#[test]
fn what_was_durable_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), small());
    log.engine.create_stream(S, StreamOptions::default());
    let mut position = Position(0);
    for n in 0..2_000_u64 {
        log.append(format!("payload {n}").as_bytes(), n);
        if n % 10 == 0 {
            position = log.engine.commit();
        }
    }
    log.until_durable(position);
    drop(log);
    let mut log = open(dir.path(), small());
    let records = log.read_all(1_991);
    assert_eq!(records.len(), 1_991);
    assert_eq!(records[1_990].payload(), b"payload 1990");
    log.engine.close().unwrap();
}

fn bytes_below(dir: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        // Files come and go while workers run.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() };
    }
    bytes
}

/// Payloads that do not shrink.
fn noise(seed: u64) -> Vec<u8> {
    let mut chance = super::operations::Chance(seed);
    (0..125).flat_map(|_| chance.next().to_le_bytes()).collect()
}

#[test]
fn sealed_records_are_read_back_and_their_space_returns() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let mut log = open(&root, small());
    log.engine.create_stream(S, StreamOptions::default());
    for n in 0..10_000_u64 {
        log.append(&noise(n), n);
        if n % 100 == 0 {
            let position = log.engine.commit();
            log.until_durable(position);
        }
    }
    log.engine.commit();
    log.until(|engine, _| engine.info().checkpoints >= 5 && engine.info().segments > 0);
    let records = log.read_all(10_000);
    assert_eq!(records.len(), 10_000);
    assert!(records.iter().all(|record| record.payload() == noise(record.seq - 1)));
    assert!(bytes_below(&root.join("segments")) > 5_000_000);
    log.engine.close().unwrap();
    assert!(root.join("index").exists());
    let mut log = open(&root, small());
    assert!(log.engine.recovery_report().was_clean);
    assert_eq!(log.read_all(10_000).len(), 10_000);
    log.engine.clear(S);
    log.engine.commit();
    log.until(|engine, _| {
        engine.commit();
        bytes_below(&root.join("segments")) < 100_000
    });
    // Journal, spares and ballast stay, and do not grow.
    let limit = 40 * (256 << 10);
    assert!(bytes_below(&root.join("journal")) < limit, "{}", bytes_below(&root.join("journal")));
    log.engine.close().unwrap();
}

#[test]
fn deleting_from_the_front_frees_segments_while_publishing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), small());
    log.engine.create_stream(S, StreamOptions::default());
    for n in 0..20_000_u64 {
        let seq = log.append(&noise(n), n);
        if seq > 500 {
            let id = log.engine.subject(S, "a.b").unwrap().id;
            assert!(log.engine.delete(S, seq - 500, id, 1_033));
        }
        if n % 100 == 0 {
            let position = log.engine.commit();
            log.until_durable(position);
        }
    }
    log.engine.commit();
    let info = log.engine.info();
    // 500 live records; a few tail budgets of dead ones wait for the next checkpoints.
    assert!(info.segment_bytes < 8 << 20, "{info:?}");
    assert_eq!(log.read_all(20_000).len(), 500);
    log.engine.close().unwrap();
}
