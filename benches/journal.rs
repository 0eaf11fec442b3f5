//! Appending to the journal on a real disk: groups of records, each group synced.
//!
//! `cargo bench --bench journal`. What limits it is the disk's `fdatasync`; compare the time of a
//! group of one with that of a bare overwrite and sync of the same size.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use claudebus_storage::disk::real::RealDisk;
use claudebus_storage::engine::{Engine, EngineOptions, Waker};
use claudebus_storage::log::{Log, LogEvent, Pressure, StreamOptions};
use claudebus_storage::{NewRecord, Position, StreamId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const STREAM: StreamId = StreamId(1);

struct Bench {
    engine: Engine,
    news: mpsc::Receiver<()>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
        let (tell, news) = mpsc::channel();
        let waker: Waker = Arc::new(move || {
            // Whoever no longer listens needs no news.
            let _ = tell.send(());
        });
        let mut engine = Engine::open(EngineOptions::default(), disk, waker).unwrap();
        engine.create_stream(STREAM, StreamOptions::default());
        Self { engine, news, _directory: directory }
    }

    fn append(&mut self, count: u64, payload: &[u8]) -> Position {
        for time in 0..count {
            let record = NewRecord {
                subject: "orders.new",
                headers: b"",
                payload,
                time,
                expires: None,
                message_id: None,
            };
            self.engine.append(STREAM, &record).unwrap();
        }
        self.engine.commit()
    }

    /// Waits until `position` is durable and the tail has room again.
    fn settle(&mut self, position: Position) {
        loop {
            while let Some(event) = self.engine.poll().unwrap() {
                if let LogEvent::Durable(_) = event {}
            }
            if self.engine.durable() >= position && self.engine.pressure() < Pressure::Full {
                return;
            }
            let _ = self.news.recv_timeout(Duration::from_millis(1));
        }
    }
}

/// One group at a time: what a lone publisher waits for.
fn lock_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/lock-step");
    let payload = [0x5a; 128];
    for records in [1_u64, 100, 1000] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            let mut bench = Bench::new();
            bencher.iter(|| {
                let position = bench.append(records, &payload);
                bench.settle(position);
            });
        });
    }
    group.finish();
}

/// Groups of 1,000 with one in flight while the next is encoded: what the broker does under load.
fn pipelined(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/pipelined");
    let payload = [0x5a; 128];
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000", |bencher| {
        let mut bench = Bench::new();
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            let mut behind = Position(0);
            for _ in 0..rounds {
                let position = bench.append(1000, &payload);
                bench.settle(behind);
                behind = position;
            }
            bench.settle(behind);
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, lock_step, pipelined);
criterion_main!(benches);
